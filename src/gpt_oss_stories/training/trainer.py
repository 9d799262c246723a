"""The training run, from configurations to a model file.

One step: take the rows of a batch (times accumulation, times processes), count what is to be predicted in all of them,
send them through the model in passes that fit the memory, each pass's losses divided by the counts of the whole step,
so that their gradients add up to that of one large batch; then clip, and let the optimizer move the weights.

Everything a run needs to go on is saved as one state (see `checkpoint`), before it is evaluated, so that nothing that
happens in an evaluation can lose training. The same commands resume a run or start another; a run's files are never
overwritten by another run, but moved aside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ..config import DataConfig, ModelConfig, TrainingConfig, check_run
from ..data.batches import Batch, BatchStream
from ..data.pipeline import PreparedData, load_prepared, prepare
from ..data.shards import ShardError
from ..device import choose_device
from ..errors import StoryError
from ..files import FileWriteError
from ..model.model_file import save_model
from ..model.pointwise import CompileError, compile_kernels
from ..model.transformer import StoryTransformer
from ..model.transplant import WeightSource, start_from
from ..tokenization import Vocabulary
from . import checkpoint
from .average import WeightAverage
from .checkpoint import RunState
from .clock import Stopwatch
from .display import PreparationDisplay, Speaker, duration
from .distributed import DistributedError, Processes, joined, launched_processes
from .endings import ending_together
from .evaluation import Evaluation, evaluate
from .faults import EVIDENCE_FOLDER, StepOutcome, first_line, gradients, is_out_of_memory, keep_evidence, not_finite
from .memory import BatchPlan, available_memory, check_disk, plan_batch
from .metrics import METRICS_FILE
from .parallel import share_model
from .precision import Precision, choose_precision
from .provenance import program_facts
from .recorder import PLOT_FILE, Recorder, draw_if_missed
from .resume import run_identity, starting_point
from .run_file import MODEL_FILE, RUN_FILE
from .saver import Saver
from .schedule import Schedule
from .signals import Signals
from .slices import local
from .stepper import StepGradient, Stepper, StepTooLargeError
from .trackers import require_packages

RUN_FILES = (MODEL_FILE, METRICS_FILE, RUN_FILE, PLOT_FILE.parts[0], "tensorboard", "wandb", EVIDENCE_FOLDER)
"""What a run leaves in its checkpoint folder beside states."""

SAVING_SHARE = 0.25
"""States are saved in the background if a copy of one takes no more than this share of the memory that is left."""

FAILED_EVALUATIONS = 3
"""So many evaluations that fail in a row end a run."""

EvaluationHook = Callable[[StoryTransformer, Vocabulary, int], "str | None"]
"""Called after each evaluation with the model, its vocabulary and the step; a text that it returns is shown."""


class TrainingError(StoryError):
    """A run cannot start or go on."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended."""

    checkpoint_dir: Path
    best_model: Path | None
    """The model file, None if there is none yet."""
    state: Path | None
    """The newest training state."""
    plot: Path | None
    steps: int
    tokens_seen: int
    training_seconds: float
    train_loss: float | None
    """Mean loss of the last steps in nats; None if none was taken now."""
    validation_loss: float | None
    """Loss on held-out stories in nats; None if it was not evaluated now or no story is held out."""
    validation_bits_per_byte: float | None
    best_validation_loss: float | None
    complete: bool
    """The run has come to its end (as opposed to having been interrupted)."""
    exit_code: int
    """What the command should exit with: 0, or 128 plus the number of the signal that ended it."""


def train(
    model_config: ModelConfig,
    training_config: TrainingConfig,
    data_config: DataConfig,
    *,
    console: Console | None = None,
    on_evaluation: EvaluationHook | None = None,
    initial: WeightSource | None = None,
) -> TrainingResult:
    """Train a model, or go on with a run that was interrupted.

    Args:
        model_config: the architecture; its vocabulary size is set from the data's vocabulary.
        training_config, data_config: the run and its stories.
        console: where progress is shown; standard error if not given.
        on_evaluation: tells a sample story after each evaluation.
        initial: the opened model of `training_config.init_from`, with whose weights a new run starts.

    Raises:
        StoryError: something given cannot be used, memory or disk do not suffice, or the loss is no longer a number.
    """
    began = Stopwatch()
    check_run(model_config, training_config)
    if training_config.init_from is not None and initial is None:
        raise TrainingError(f"init_from={training_config.init_from!r}: open the model and give it as `initial`")
    rank, local_rank, world_size = launched_processes()
    if rank == 0:  # the one that opens them
        require_packages(training_config)
    if world_size > 1 and training_config.sharing == "none":
        raise DistributedError(
            f"torchrun started {world_size} processes, but nothing says how they share the model: "
            "add --use-ddp, or --parallelism fsdp if it does not fit one device"
        )
    device = choose_device(training_config.device, local_rank=local_rank, processes=world_size)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before anything is put on it
    if console is None:
        console = Console(stderr=True)
    with (
        joined(rank, local_rank, world_size, device, timeout_seconds=training_config.process_timeout) as processes,
        ending_together(processes, lambda: "no step was taken now"),
    ):
        say = Speaker(console if processes.is_main else None)
        if training_config.sharing != "none" and world_size == 1:
            flag = "--use-ddp" if training_config.use_ddp else f"--parallelism {training_config.parallelism}"
            say(f"{flag} without torchrun: training in one process (torchrun --nproc-per-node=N starts N)")
        if device.type == "cpu" and world_size > 1:
            torch.set_num_threads(max(1, _cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", world_size))))
        precision = choose_precision(device, training_config.use_mixed_precision, training_config.precision)
        say(f"device {device}, {processes.world_size} process(es), {precision.describe()}")
        data = _prepare(data_config, processes, say)
        model_config = model_config.replace(vocab_size=data.vocabulary.size)
        length = training_config.train_length or model_config.block_size
        run = _Run(
            model_config,
            training_config,
            data_config,
            data,
            length,
            device,
            precision,
            processes,
            say,
            on_evaluation,
            initial,
            began,
        )
        return run.execute()


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(config: DataConfig, processes: Processes, say: Speaker) -> PreparedData:
    """Prepared stories; the main process prepares them while the others wait."""
    data: PreparedData | None = None
    if processes.is_main:
        with PreparationDisplay(say.console) as progress:
            data = prepare(config, progress)
        say(data.summary)
    processes.wait_for_main("preparing stories")
    directory = Path(processes.share(None if data is None else str(data.directory)))
    if data is not None:
        return data
    if directory.is_dir():  # the main process has verified it
        return load_prepared(directory, verify=False)
    return prepare(config.replace(process_data=False, force_reprocess=False))  # a host with a disk of its own


class _Run:
    """One run: what it consists of, and its loop."""

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainingConfig,
        data_config: DataConfig,
        data: PreparedData,
        length: int,
        device: torch.device,
        precision: Precision,
        processes: Processes,
        say: Speaker,
        on_evaluation: EvaluationHook | None,
        initial: WeightSource | None,
        began: Stopwatch,
    ) -> None:
        self.began = began
        self.config, self.data_config, self.data = config, data_config, data
        self.length, self.device, self.precision, self.processes = length, device, precision, processes
        self.say, self.on_evaluation, self.initial = say, on_evaluation, initial
        self.directory = Path(config.checkpoint_dir)
        self.schedule = Schedule.from_config(config)
        self.identity = run_identity(model_config, config, data, initial)
        plan = self._plan(model_config)
        torch.manual_seed(config.seed + processes.rank)
        self.model = self._new_model(model_config)
        if config.compile_model:
            self._compile()
        self.parallel = share_model(config.sharing, self.model, processes, device)
        self.stream = BatchStream(
            data.train,
            config.batch_size,
            length,
            seed=config.seed,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        self.say(self.stream.describe(config.gradient_accumulation_steps))
        self.byte_counts = torch.tensor(
            [len(data.vocabulary.token_bytes(token)) for token in range(data.vocabulary.size)], device=device
        )
        self.recorder = Recorder(
            model_config,
            config,
            data_config,
            length=length,
            device=device,
            precision=precision,
            processes=processes,
            say=say,
        )
        self.times = self.recorder.times
        self.stepper = Stepper(self.parallel, config, plan, precision, device, self.byte_counts, self.times)
        self.state = RunState(step=0, rows_seen=0, tokens_seen=0, training_seconds=0.0)
        self.saver: Saver
        self.saved_step: int | None = None
        """Of the newest state in this run's folder, written or being written."""
        self.first_batch = 0
        self.first_step = 0
        self.skipped_in_a_row = 0
        self.failed_evaluations = 0
        self.average = None if config.ema_decay is None else WeightAverage(self.model, config.ema_decay)
        self.evaluation: Evaluation | None = None

    # Setting up

    @property
    def _is_sliced(self) -> bool:
        return self.config.sharing == "fsdp" and self.processes.world_size > 1

    def _new_model(self, config: ModelConfig) -> StoryTransformer:
        """The whole model, the same in every process. Slices are cut from main memory: it need not fit a GPU."""
        model = StoryTransformer(config, seed=self.config.seed)
        if not self._is_sliced:
            model = model.to(self.device)
        model.compute_dtype = self.precision.dtype
        return model

    def _plan(self, model_config: ModelConfig) -> BatchPlan:
        config, processes = self.config, self.processes
        self.say(f"model {model_config.parameters().describe()}")
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", processes.world_size)) if self.device.type == "cpu" else 1
        plan = plan_batch(
            model_config,
            config,
            self.precision,
            length=self.length,
            device=self.device,
            available=available_memory(self.device),
            processes_on_device=sharing,
            processes=processes.world_size,
        )
        # Slices of the model travel in every pass, so all must make as many.
        least_rows, recompute, every_pass = processes.largest(
            [-plan.rows, float(plan.recompute), float(plan.exchange_every_pass)]
        )
        plan = dataclasses.replace(
            plan, rows=-int(least_rows), recompute=bool(recompute), exchange_every_pass=bool(every_pass)
        )
        if plan.rows < config.batch_size:
            self.say(
                f"memory: batches of {config.batch_size} rows go through the model {plan.rows} at a time "
                f"({self.length:,} tokens each), which gives the same gradient"
            )
        if plan.recompute:
            self.say("blocks are computed again in the backward pass instead of kept, to save memory")
        if plan.exchange_every_pass:
            self.say("memory: gradients travel in every pass, since whole ones that add up over passes do not fit")
        rows = config.batch_size * config.gradient_accumulation_steps * processes.world_size
        self.say(f"batch {rows} rows of {self.length:,} tokens = {rows * self.length:,} tokens for each optimizer step")
        return plan

    def _compile(self) -> None:
        try:
            compile_kernels(self.device, self.precision.dtype)
        except CompileError as error:
            self.say(f"--compile-model does not work here ({error}): going on without", "yellow")

    def _tensors(self) -> dict[str, Tensor]:
        """The live tensors of model and optimizer that make up a state."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.stepper.optimizer.state_tensors().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.tensors().items()}
        return tensors

    def _random_tensors(self) -> dict[str, Tensor]:
        states = checkpoint.random_state(self.device)
        return {f"random.{self.processes.rank}.{name}": tensor for name, tensor in states.items()}

    def _resume(self) -> None:
        """Find the state to go on from, if any, and load it."""
        found = self.processes.share(self._choose_state() if self.processes.is_main else None)
        if found is None:
            self._start_from_given_model()
            return
        path = Path(found)
        self.state = checkpoint.read_state(path, verify=False)  # the main process has, where it was chosen
        random = self._random_tensors()
        tensors = self._tensors() | random
        checkpoint.load_tensors(path, tensors, optional=lambda name: name.startswith(("random.", "average.")))
        checkpoint.restore_random_state(
            {name.rpartition(".")[2]: tensor for name, tensor in random.items()}, self.device
        )
        if self.state.scaler is not None and self.precision.scaled:
            self.stepper.scaler.load_state_dict(self.state.scaler)
        if path.parent.resolve() == self.directory.resolve():
            self.saved_step = self.state.step
        if self.processes.share(not (self.directory / MODEL_FILE).exists()):
            # In another folder, or with its model moved away: the best one from here on is kept.
            self.state = dataclasses.replace(self.state, best_validation_loss=None, evaluations_since_best=0)
        rows = self.config.batch_size * self.processes.world_size
        self.first_step = self.state.step
        self.first_batch = -(-self.state.rows_seen // rows)
        self.say(
            f"resuming from {path}: step {self.state.step:,}, {self.state.tokens_seen:,} tokens, "
            f"{duration(self.state.training_seconds)} of training"
        )
        ignored = {
            "stop_after",
            "checkpoint_dir",
            "resume",
            "device",
            "keep_states",
            "use_wandb",
            "use_tensorboard",
            "run_name",
        }
        now, then = self.config.to_dict(), self.state.training_config
        changed = [f"{key} {then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value]
        if changed := [text for text in changed if text.split()[0] not in ignored]:
            self.say(f"with changed settings: {', '.join(changed)}")
        if self.state.world_size != self.processes.world_size:
            self.say(f"saved by {self.state.world_size} process(es), going on with {self.processes.world_size}")

    def _start_from_given_model(self) -> None:
        if self.initial is None:
            return
        if self._is_sliced:
            whole = StoryTransformer(self.model.config, seed=self.config.seed)
            notes = start_from(whole, self.data.vocabulary, self.initial)
            self.parallel.take_weights(whole)
        else:
            notes = start_from(self.model, self.data.vocabulary, self.initial)
        self.say(f"starting from the weights of {self.initial.path}")
        for note in notes:
            self.say(note)

    def _choose_state(self) -> str | None:
        """The state to go on from. If there is room for what the run saves, what is in its way is moved aside."""
        start = starting_point(self.directory, self.config.resume, self.identity, RUN_FILES, self.say)
        states = [path.name for path in checkpoint.list_states(self.directory)]
        models = [MODEL_FILE] if (self.directory / MODEL_FILE).exists() else []
        check_disk(
            self.stepper.plan.estimate,
            self.config,
            steps_done=start.step,
            states_there=len(set(states).difference(start.aside)),
            models_there=len(set(models).difference(start.aside)),
        )
        start.clear_the_way(self.directory, self.say)
        return None if start.state is None else str(start.state)

    # The loop

    def execute(self) -> TrainingResult:
        """Run to the end, or to a signal."""
        if self.processes.is_main:
            self._clear_leftovers()
        self._resume()
        self._apply_what_was_learnt()
        if (
            self._is_over(self.state.training_seconds)
            and self.state.step > 0
            and self.state.evaluated_step == self.state.step
        ):
            self.say(
                f"this run is complete: {self.state.step:,} steps in {duration(self.state.training_seconds)}. "
                f"A larger {'--early-stopping' if self._stopped_early() else '--max-iters or --max-seconds'} "
                "goes on with it, --resume never starts anew."
            )
            if self.processes.is_main:
                draw_if_missed(self.directory)
            return self._result(complete=True, exit_code=0)
        stopped: int | None = None
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(Signals(self.say))
            stack.enter_context(ending_together(self.processes, self._what_remains))
            stack.enter_context(self.recorder).open(self.state)
            self.saver = stack.enter_context(self._new_saver())
            stopped = self._loop_within_memory(signals)
            self.recorder.ended(complete=stopped is None)
        if stopped is not None:
            how = f"the same command goes on from {checkpoint.state_path(self.directory, self.state.step)}"
            self.say(f"stopped at step {self.state.step:,} and saved; {how}", "yellow")
            return self._result(complete=False, exit_code=128 + stopped if stopped else 0)
        result = self._result(complete=True, exit_code=0)
        self._report_end(result)
        return result

    def _new_saver(self) -> Saver:
        """Saves in the background where the copy that this takes is no burden."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.processes.world_size))
        state = sum(local(tensor).nbytes for tensor in self.parallel.own(self._tensors()).values())
        room = available_memory(torch.device("cpu"))
        copies = here if self._is_sliced else 1  # otherwise only the main process has something to save
        fits = room is not None and SAVING_SHARE * room > state * copies
        background = not self.processes.largest([float(not fits)])[0]
        return Saver(self.directory, self.processes, keep=self.config.keep_states, background=background)

    def _clear_leftovers(self) -> None:
        """Remove what a run that was killed while it wrote a file has left beside it, and nothing of other programs."""
        written = [self.directory / name for name in (MODEL_FILE, METRICS_FILE, RUN_FILE, PLOT_FILE)]
        written += [state / checkpoint.STATE_FILE for state in checkpoint.list_states(self.directory)]
        for path in written:
            for leftover in path.parent.glob(f".{path.name}.*.part"):
                leftover.unlink(missing_ok=True)

    def _is_over(self, seconds: float) -> bool:
        limit = self.config.max_seconds
        over = self.state.step >= self.config.max_iters or (limit is not None and seconds >= limit)
        return over or self._stopped_early()

    def _stopped_early(self) -> bool:
        """So many evaluations were no better than the best one that the run is to end."""
        limit = self.config.early_stopping
        return limit is not None and self.state.evaluations_since_best >= limit

    def _apply_what_was_learnt(self) -> None:
        """What a resumed state says of the memory, and of the average of the weights."""
        state = self.state
        plan = self.stepper.plan
        self.stepper.use(
            dataclasses.replace(
                plan,
                rows=min(plan.rows, state.most_rows or plan.rows),
                recompute=plan.recompute or (state.must_recompute and self.config.activation_checkpointing != "off"),
                exchange_every_pass=plan.exchange_every_pass
                or (state.most_rows is not None and self.config.sharing == "fsdp"),
            )
        )
        if self.average is not None:
            if state.averaged_steps:
                self.average.updates = state.averaged_steps
            else:  # a new run, one that starts from a given model, or a state without an average
                self.average.restart()

    def _loop_within_memory(self, signals: Signals) -> int | None:
        """`_loop`, which ends with one line where memory runs out in a way that cannot be helped.

        Raises:
            TrainingError: memory has run out.
        """
        try:
            return self._loop(signals)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            who = f"process {self.processes.rank}: " if self.processes.world_size > 1 else ""
            raise TrainingError(
                f"{who}memory ran out after step {self.state.step:,} ({first_line(error)}); {self._what_remains()}. "
                "Lower --batch-size (and raise --gradient-accumulation-steps), or --train-length."
            ) from error

    def _loop(self, signals: Signals) -> int | None:
        """Train until the run is over.

        Returns:
            None at the end; where the run was interrupted, the number of the signal, or 0 if it was `stop_after`.
        """
        clock = Stopwatch(self.state.training_seconds)
        if self.config.early_stopping is not None and not len(self.data.validation):
            self.say("--early-stopping has no effect: no story is held out", "yellow")
        if self._due_evaluation_was_missed():
            self._evaluate_and_keep()
        elif self.recorder.sums.steps and self._is_record_due():  # the run was ended between saving and recording
            self._record(None)
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as builder:
            ahead = builder.submit(self._rows_of_step, self.state.step)
            while True:
                # All processes must agree on when to end and on the learning rate, though their clocks differ.
                elapsed, passed, received = self.processes.largest(
                    [clock.seconds(), self.began.seconds(), float(signals.received or 0)]
                )
                self.state = dataclasses.replace(self.state, training_seconds=elapsed)
                if self._is_over(elapsed):
                    break
                if received:
                    self.say(f"{signal.Signals(int(received)).name} received: saving", "yellow")
                    self._stop()
                    return int(received)
                if self.config.stop_after is not None and passed >= self.config.stop_after:
                    self.say(f"--stop-after: {duration(passed)} have passed: saving", "yellow")
                    self._stop()
                    return 0
                ahead = self._step(ahead, builder, elapsed)
                self._after_step()
        if self._stopped_early():
            count = self.state.evaluations_since_best
            self.say(f"--early-stopping: no better validation loss in {count} evaluation(s), ending", "yellow")
        self._finish()
        return None

    def _due_evaluation_was_missed(self) -> bool:
        """The run was ended between saving a state and the evaluation that was due after it."""
        step = self.state.step
        due = step > 0 and (step % self.config.eval_interval == 0 or step >= self.config.max_iters)
        return due and self.state.evaluated_step != step

    def _rows_of_step(self, step: int) -> list[Batch]:
        """This process's batches of an optimizer step, on its device."""
        accumulation = self.config.gradient_accumulation_steps
        first = self.first_batch + (step - self.first_step) * accumulation
        return [self.stream.batch(first + index).to(self.device) for index in range(accumulation)]

    def _step(self, ahead: Future[list[Batch]], builder: ThreadPoolExecutor, elapsed: float) -> Future[list[Batch]]:
        """One optimizer step; starts building the next one's batches."""
        watch = Stopwatch()
        with self.times.part("data"):
            batches = self._read(ahead)
        following = builder.submit(self._rows_of_step, self.state.step + 1)
        found = self._gradient(batches)
        factor = self.schedule.factor(self.state.step, elapsed)
        with self.times.device_part("optimizer"):
            outcome = self.stepper.update(found.losses, factor)
        if outcome.moved:
            if self.config.router_balance == "bias" and found.load.numel():
                self.parallel.balance_by_bias(found.load, self.config.router_bias_rate)
            if self.average is not None:
                self.average.update()
        elif not outcome.overflowed:
            # By the thread that plans the batches, whose plans are not to be changed by two.
            stories = builder.submit(self._stories_of_step).result() if self.processes.is_main else {}
            self._tell_of_skipped(found.losses, outcome, factor, stories)
        rows = self.config.batch_size * self.config.gradient_accumulation_steps * self.processes.world_size
        self.state = dataclasses.replace(
            self.state,
            step=self.state.step + 1,
            rows_seen=self.state.rows_seen + rows,
            tokens_seen=self.state.tokens_seen + rows * self.length,
            skipped_steps=self.state.skipped_steps + (not outcome.moved),
            averaged_steps=0 if self.average is None else self.average.updates,
        )
        self.recorder.sums.add(
            found.losses,
            found.load,
            found.counts,
            seconds=watch.seconds(),
            tokens=rows * self.length,
            grad_norm=outcome.gradient_norm if outcome.moved else None,
            factor=factor,
        )
        self.skipped_in_a_row = 0 if outcome.moved else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.config.max_skipped_steps:
            self._give_up_skipping()
        return following

    def _read(self, ahead: Future[list[Batch]]) -> list[Batch]:
        """The batches of a step.

        Raises:
            ShardError: the shard has been damaged since it was opened; what one process has learnt is saved.
        """
        try:
            return ahead.result()
        except ShardError:
            if self.processes.world_size == 1:
                self._save_if_new()
            raise

    def _save_if_new(self) -> None:
        """Save, before an end that was not planned, what no state holds yet; together."""
        if self.state.step > self.first_step and not self._is_saved():
            self._save()
        self.saver.wait()

    def _gradient(self, batches: Sequence[Batch]) -> StepGradient:
        """The gradient of the next step; what it needed to fit the memory holds for the rest of the run. Together.

        Raises:
            TrainingError: a single row does not fit; what was learnt is saved.
        """
        step = f"step {self.state.step + 1:,}"
        try:
            found, change = self.stepper.gradient(batches)
        except StepTooLargeError as error:
            self._save_if_new()
            recompute = "" if self.stepper.plan.recompute else "let blocks be recomputed (--activation-checkpointing), "
            raise TrainingError(
                f"{step}: {error} with a single row of {self.length:,} tokens in a pass; {self._what_remains()}. "
                f"Lower --train-length, choose a smaller model, {recompute}or free some memory."
            ) from error
        if change is not None:
            plan, must = self.stepper.plan, self.state.must_recompute or self.stepper.must_recompute
            self.state = dataclasses.replace(self.state, most_rows=plan.rows, must_recompute=must)
            self.say(f"{step}: {change}", "yellow")
        return found

    def _stories_of_step(self) -> dict[str, Any]:
        """Which stories all processes read in the present step."""
        accumulation = self.config.gradient_accumulation_steps
        first = self.first_batch + (self.state.step - self.first_step) * accumulation
        batches = range(first, first + accumulation)
        return {"batches": list(batches), "stories": [row for index in batches for row in self.stream.stories(index)]}

    def _tell_of_skipped(
        self, losses: Sequence[float], outcome: StepOutcome, factor: float, stories: Mapping[str, Any]
    ) -> None:
        """Say that a step was skipped, and keep what is known about it; together."""
        step, config = self.state.step + 1, self.config
        found = not_finite(gradients(self.model), self.processes)
        weights = not_finite(dict(self.model.named_parameters()), self.processes)
        if not self.processes.is_main:
            return
        facts = {
            "losses": {
                "next_token": losses[0],
                "multi_token": list(losses[1:-2]),
                "balance": losses[-2],
                "router_z": losses[-1],
            },
            "gradient_norm": outcome.gradient_norm,
            "gradients_not_finite": found,
            "weights_not_finite": weights,
            "learning_rate": config.learning_rate * factor,
            "matrix_learning_rate": config.matrix_learning_rate * factor if config.optimizer == "muon" else None,
            "loss_scale": outcome.loss_scale,
            "number_format": str(self.precision.dtype).removeprefix("torch."),
            "shard": self.data.train.path.name,
            "rows_in_batch": config.batch_size * self.processes.world_size,
            **stories,
        }
        what = f"step {step:,}: loss {losses[0]:.4g}, gradient norm {outcome.gradient_norm:.4g}: skipped"
        try:
            self.say(f"{what}, no weight was changed; see {keep_evidence(self.directory, step, facts)}", "yellow")
        except FileWriteError as error:  # the evidence is not what the run is for
            self.say(f"{what}, no weight was changed ({error})", "yellow")

    def _give_up_skipping(self) -> None:
        """End a run of which too many steps in a row were skipped; together.

        Raises:
            TrainingError: always.
        """
        steps_since = self.state.step - (self.first_step if self.saved_step is None else self.saved_step)
        if steps_since > self.skipped_in_a_row:  # otherwise nothing has been learnt that no state holds
            self._save_if_new()
        self.saver.wait()
        self._record(None)
        remedy = " or switch off --mixed-precision" if self.precision.dtype != torch.float32 else ""
        raise TrainingError(
            f"step {self.state.step:,}: loss or gradient was not finite in {self.skipped_in_a_row} steps in a row; the "
            f"weights are as they were before these. Lower --learning-rate{remedy}, and see "
            f"{self.directory / EVIDENCE_FOLDER}; {self._what_remains()}"
        )

    def _after_step(self) -> None:
        """What is due after a step: saving, then evaluating and recording."""
        config, step = self.config, self.state.step
        if step >= config.max_iters:
            return  # `_finish` does it all
        evaluating = step % config.eval_interval == 0
        if evaluating or step % config.save_interval == 0:
            self._save()
        if evaluating:
            self._evaluate_and_keep()
            self.recorder.draw_when_due(step)
        elif self._is_record_due():
            self._record(None)
        else:
            self.recorder.show_step(self.state, self.stepper.loss_scale)

    def _is_record_due(self) -> bool:
        return self.state.step % self.config.log_interval == 0 or self.state.step == 1

    def _finish(self) -> None:
        """The end of a run: save, evaluate, record, draw."""
        if not self._is_saved():
            self._save()
        self._update_saved_clock()
        if self.state.evaluated_step != self.state.step:
            self._evaluate_and_keep()
        self._save_model_if_none()
        self.recorder.draw(self.state.step)

    def _stop(self) -> None:
        """The end by a signal or by `stop_after`: save, and see that there is a model to tell stories with."""
        if not self._is_saved():
            self._save()
        self._update_saved_clock()
        if self.recorder.sums.steps:
            self._record(None, interim=True)
        self._save_model_if_none()
        self.recorder.draw(self.state.step)
        self.processes.wait()  # one that ends early, with an exit code that is not 0, lets torchrun end the others

    def _update_saved_clock(self) -> None:
        """Wait for the state of the last step; it may be from before the clock was read again."""
        self.saver.wait()
        if self.processes.is_main:
            path = checkpoint.state_path(self.directory, self.state.step)
            checkpoint.update_state(path, training_seconds=self.state.training_seconds)

    def _save_model_if_none(self) -> None:
        """Save a model where none was, so that there is one to tell stories with; together."""
        if self.processes.share(not (self.directory / MODEL_FILE).exists()):
            with self._averaged():
                self._save_model(self.parallel.whole_model(), None)

    def _what_remains(self) -> str:
        states = checkpoint.list_states(self.directory)
        return f"the last state is {states[0]}" if states else "no state was saved yet"

    def _is_saved(self) -> bool:
        return self.saved_step == self.state.step

    # Saving, evaluating, recording

    def _save(self) -> None:
        self.recorder.display.activity("saving")
        self.state = dataclasses.replace(
            self.state,
            identity=self.identity,
            training_config=self.config.to_dict(),
            data_config=self.data_config.to_dict(),
            scaler=self.stepper.scaler.state_dict() if self.precision.scaled else None,
            world_size=self.processes.world_size,
            trackers=self.recorder.trackers.identifiers(),
            sums=self.recorder.sums.to_dict(),
        )
        with self.times.part("saving"):
            self.saver.save(self.state, self.parallel.own(self._tensors()) | self._random_tensors())
        self.saved_step = self.state.step
        self.recorder.display.activity("")

    def _averaged(self) -> AbstractContextManager[None]:
        """The model with the average of its weights, if one is kept."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def _evaluate_and_keep(self) -> None:
        """Evaluate, record it, keep the model if it is the best so far, and show a sample; together.

        The state counts as evaluated only when all but the sample is on the disk: what a killed run did not get to is
        made up for when it is resumed.

        Raises:
            TrainingError: evaluations fail again and again.
        """
        self.recorder.display.activity("evaluating")
        problem: str | None = None
        self.evaluation = None
        with self._averaged():
            try:
                self.evaluation = self.evaluate()
                if self.evaluation is not None and not math.isfinite(self.evaluation.loss_nats):
                    problem, self.evaluation = f"the loss is {self.evaluation.loss_nats}", None
            except FileWriteError:
                raise
            except Exception as error:
                if self.processes.world_size > 1:  # others wait for this one in the middle of it
                    raise TrainingError(
                        f"step {self.state.step:,}: evaluation failed in process {self.processes.rank} "
                        f"({first_line(error)}); {self._what_remains()}"
                    ) from error
                problem = first_line(error)
            if problem is None:
                self._keep_evaluation(self.evaluation)
        if problem is not None:
            self._after_failed_evaluation(problem)
        self.processes.wait()
        self.recorder.display.activity("")

    def _after_failed_evaluation(self, problem: str) -> None:
        self.model.train()
        self.failed_evaluations += 1
        what = f"step {self.state.step:,}: the evaluation failed ({problem})"
        if self.failed_evaluations >= FAILED_EVALUATIONS:
            self.saver.wait()
            raise TrainingError(
                f"{what}, as did the {FAILED_EVALUATIONS - 1} before it; {self._what_remains()}. "
                "Mend what it names, or evaluate less often (--eval-interval)."
            )
        self.say(f"{what}: training goes on", "yellow")
        if self.recorder.sums.steps:
            self._record(None)

    def _keep_evaluation(self, evaluation: Evaluation | None) -> None:
        """Record an evaluation, and keep the model that it was made with if it is the best so far; together."""
        self.failed_evaluations = 0
        best = self.state.best_validation_loss
        better = evaluation is None or best is None or evaluation.loss_nats < best
        if evaluation is not None and better:
            best = evaluation.loss_nats
        if self.recorder.sums.steps or evaluation is not None:
            self._record(evaluation)
        changes: dict[str, Any] = {
            "best_validation_loss": best,
            "evaluated_step": self.state.step,
            "evaluations_since_best": 0 if better else self.state.evaluations_since_best + 1,
        }
        self.state = dataclasses.replace(self.state, **changes)
        with self.times.part("saving"):
            self.saver.wait()
        wanted = better or self.processes.share(not (self.directory / MODEL_FILE).exists())
        # Slices are put together only for what needs the whole model.
        model = self.parallel.whole_model() if wanted or self.on_evaluation is not None else None
        if not self.processes.is_main:
            return
        if wanted:
            self._save_model(model, evaluation)
        if self._is_saved():
            checkpoint.update_state(checkpoint.state_path(self.directory, self.state.step), **changes)
        if evaluation is not None:
            bits = "" if evaluation.bits_per_byte is None else f", {evaluation.bits_per_byte:.3f} bits per byte"
            mark = " (best so far)" if better else ""
            self.say(f"step {self.state.step:,}: validation loss {evaluation.loss_nats:.4f}{bits}{mark}")
        if model is not None:
            self._sample(model)

    def _sample(self, model: StoryTransformer) -> None:
        if self.on_evaluation is None:
            return
        model.eval()
        try:
            with torch.no_grad(), self.times.part("evaluation"):
                text = self.on_evaluation(model, self.data.vocabulary, self.state.step)
        except FileWriteError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the hook raises, training does not depend on it
            self.say(f"no sample story: {error if isinstance(error, StoryError) else first_line(error)}", "yellow")
            return
        finally:
            model.train()
        if text:
            self.say(text, "italic")
            self.recorder.trackers.text(self.state.step, text)

    def evaluate(self) -> Evaluation | None:
        """Loss on held-out stories, always the same ones; None without any."""
        with self.times.part("evaluation"):
            return evaluate(
                self.model,
                self.data.validation,
                self.byte_counts,
                batch_size=self.config.batch_size,
                length=self.length,
                most_batches=self.config.eval_iters * self.processes.world_size,  # of all: as many for any number
                rows_at_once=self.stepper.plan.rows,
                processes=self.processes,
            )

    def _save_model(self, model: StoryTransformer | None, evaluation: Evaluation | None) -> None:
        if model is None:
            return
        provenance: dict[str, Any] = {
            **program_facts(),
            "device": str(self.device),
            "precision": str(self.precision.dtype).removeprefix("torch."),
            "step": self.state.step,
            "tokens_seen": self.state.tokens_seen,
            "training_seconds": self.state.training_seconds,
            "weights": "of the last step"
            if self.average is None
            else f"exponential moving average of {self.average.updates:,} steps, decay {self.average.decay}",
            "train_loss_nats": self.recorder.train_loss,
            "validation_loss_nats": None if evaluation is None else evaluation.loss_nats,
            "validation_bits_per_byte": None if evaluation is None else evaluation.bits_per_byte,
            "data_fingerprint": self.data.fingerprint,
            "vocabulary_fingerprint": self.data.vocabulary.fingerprint,
            "train_stories": len(self.data.train),
            "train_tokens": len(self.data.train.tokens),
            "validation_stories": len(self.data.validation),
            "training_config": self.config.to_dict(),
            "data_config": self.data_config.to_dict(),
        }
        with self.times.part("saving"):
            save_model(self.directory / MODEL_FILE, model, self.data.vocabulary, provenance)

    def _record(self, evaluation: Evaluation | None, *, interim: bool = False) -> None:
        self.recorder.record(self.state, evaluation, self.stepper.loss_scale, interim=interim)

    def _result(self, *, complete: bool, exit_code: int) -> TrainingResult:
        model, plot, state = self.directory / MODEL_FILE, self.directory / PLOT_FILE, self.state
        return TrainingResult(
            checkpoint_dir=self.directory,
            best_model=model if model.exists() else None,
            state=None if self.saved_step is None else checkpoint.state_path(self.directory, self.saved_step),
            plot=plot if plot.exists() else None,
            steps=state.step,
            tokens_seen=state.tokens_seen,
            training_seconds=state.training_seconds,
            train_loss=self.recorder.train_loss,
            validation_loss=None if self.evaluation is None else self.evaluation.loss_nats,
            validation_bits_per_byte=None if self.evaluation is None else self.evaluation.bits_per_byte,
            best_validation_loss=state.best_validation_loss,
            complete=complete,
            exit_code=exit_code,
        )

    def _report_end(self, result: TrainingResult) -> None:
        best = (
            "" if result.best_validation_loss is None else f", best validation loss {result.best_validation_loss:.4f}"
        )
        self.say(
            f"done: {result.steps:,} steps, {result.tokens_seen:,} tokens in {duration(result.training_seconds)}{best}",
            "bold green",
        )
        self.say(f"model {result.best_model}, curves {result.plot}, metrics {self.directory / METRICS_FILE}")
