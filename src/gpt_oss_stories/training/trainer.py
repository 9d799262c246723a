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
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import DataConfig, ModelConfig, TrainingConfig, check_run
from ..data.batches import ORDER, Batch, BatchStream
from ..data.pipeline import PreparedData, prepare
from ..device import choose_device
from ..errors import StoryError
from ..files import FileWriteError
from ..model.model_file import save_model
from ..model.pointwise import CompileError, compile_kernels
from ..model.transformer import Losses, StoryTransformer
from ..model.transplant import WeightSource, start_from
from ..tokenization import Vocabulary
from . import checkpoint
from .checkpoint import RunState
from .display import PreparationDisplay, Speaker, TrainingDisplay, duration
from .distributed import DistributedError, Processes, joined, launched_processes
from .evaluation import Evaluation, evaluate
from .memory import BatchPlan, available_memory, check_disk, plan_batch
from .metrics import MetricsFile, StepRecord, peak_memory_bytes
from .optimizer import StoryOptimizer
from .plots import plot_training_curves
from .precision import Precision, choose_precision
from .provenance import program_facts
from .resume import starting_point
from .schedule import Schedule, run_share
from .signals import Signals
from .trackers import Trackers, require_packages

MODEL_FILE = "best_model.pt"
METRICS_FILE = "metrics.jsonl"
PLOT_FILE = Path("plots") / "training_curves.png"
RUN_FILES = (MODEL_FILE, METRICS_FILE, PLOT_FILE.parts[0], "tensorboard")
"""What a run leaves in its checkpoint folder beside states."""

PICTURE_SHARE = 50.0
"""Pictures are drawn again after this many times the time that drawing takes."""

SKIPS_IN_A_ROW = 25
"""So many overflowing steps after another mean that no loss scale will help."""

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
    check_run(model_config, training_config)
    if training_config.init_from is not None and initial is None:
        raise TrainingError(f"init_from={training_config.init_from!r}: open the model and give it as `initial`")
    rank, local_rank, world_size = launched_processes()
    if rank == 0:  # the one that opens them
        require_packages(training_config)
    if world_size > 1 and not training_config.use_ddp:
        raise DistributedError(f"torchrun started {world_size} processes, but use_ddp is off: add --use-ddp")
    device = choose_device(training_config.device, local_rank=local_rank, processes=world_size)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before anything is put on it
    if console is None:
        console = Console(stderr=True)
    with joined(rank, local_rank, world_size, device) as processes:
        say = Speaker(console if processes.is_main else None)
        if training_config.use_ddp and world_size == 1:
            say("--use-ddp without torchrun: training in one process (torchrun --nproc-per-node=N starts N)")
        if device.type == "cpu" and world_size > 1:
            torch.set_num_threads(max(1, _cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", world_size))))
        precision = choose_precision(device, training_config.use_mixed_precision)
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
    processes.wait()
    return prepare(config.replace(process_data=False)) if data is None else data


class _LossModule(nn.Module):
    """The model with its loss as `forward`, which is where DistributedDataParallel hooks in."""

    def __init__(self, model: StoryTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, documents: Tensor, trained: Tensor, **options: Any) -> Losses:
        return self.model.loss(tokens, documents, trained, **options)


@dataclass
class _Since:
    """Sums over the steps since the last record."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    """Sums of the next-token loss, the losses of the tokens after it, balance loss and z-loss."""
    load: Tensor | None = None
    grad_norm: float | None = None
    factor: float = 0.0


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
    ) -> None:
        self.config, self.data_config, self.data = config, data_config, data
        self.length, self.device, self.precision, self.processes = length, device, precision, processes
        self.say, self.on_evaluation, self.initial = say, on_evaluation, initial
        self.directory = Path(config.checkpoint_dir)
        self.schedule = Schedule.from_config(config)
        self.identity = {
            "model": model_config.to_dict(),
            "vocabulary": data.vocabulary.fingerprint,
            "data": data.fingerprint,
            "seed": config.seed,
            "optimizer": config.optimizer,
            "row length": length,
            "order of batches": ORDER,
        }
        if initial is not None:
            self.identity["started from"] = str(initial.path.resolve())
        self.plan = self._plan(model_config)
        torch.manual_seed(config.seed + processes.rank)
        model = StoryTransformer(model_config, seed=config.seed).to(device)
        model.compute_dtype = precision.dtype
        model.recompute_blocks = self.plan.recompute
        if config.compile_model:
            self._compile()
        self.model = model
        self.loss_module = _LossModule(model)
        self.parallel: DistributedDataParallel | None = None
        if processes.world_size > 1:
            self.parallel = DistributedDataParallel(
                self.loss_module,
                device_ids=[device] if device.type == "cuda" else None,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
            )
        half = torch.bfloat16 if precision.dtype == torch.bfloat16 else torch.float32
        self.optimizer = StoryOptimizer(model, config, matrix_dtype=half)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision.scaled)
        # GradScaler wants a torch optimizer; this one only tells it which gradients there are.
        self.scaled = torch.optim.SGD(model.parameters(), lr=0.0) if precision.scaled else None
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
        self.state = RunState(step=0, rows_seen=0, tokens_seen=0, training_seconds=0.0)
        self.state_path: Path | None = None
        self.first_batch = 0
        self.first_step = 0
        self.skipped_in_a_row = 0
        self.evaluation: Evaluation | None = None
        self.train_loss: float | None = None
        self.since = _Since()
        self.draw_not_before = 0.0

    # Setting up

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
        )
        if plan.rows < config.batch_size:
            self.say(
                f"memory: batches of {config.batch_size} rows go through the model {plan.rows} at a time "
                f"({self.length:,} tokens each), which gives the same gradient"
            )
        if plan.recompute:
            self.say("memory: blocks are computed again in the backward pass instead of kept")
        rows = config.batch_size * config.gradient_accumulation_steps * processes.world_size
        self.say(f"batch {rows} rows of {self.length:,} tokens = {rows * self.length:,} tokens for each optimizer step")
        return plan

    def _compile(self) -> None:
        try:
            compile_kernels(self.device, self.precision.dtype)
        except CompileError as error:
            self.say(f"--compile-model does not work here ({error}): going on without", "yellow")

    def _tensors(self) -> dict[str, Tensor]:
        """The live tensors that make up a state; other processes than the main one only add their random generators."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state_tensors().items()}
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
        self.state = checkpoint.read_state(path)
        random = self._random_tensors()
        tensors = self._tensors() | random
        checkpoint.load_tensors(path, tensors, optional=lambda name: name.startswith("random."))
        checkpoint.restore_random_state(
            {name.rpartition(".")[2]: tensor for name, tensor in random.items()}, self.device
        )
        if self.state.scaler is not None and self.precision.scaled:
            self.scaler.load_state_dict(self.state.scaler)
        self.state_path = path if path.parent.resolve() == self.directory.resolve() else None
        rows = self.config.batch_size * self.processes.world_size
        self.first_step = self.state.step
        self.first_batch = -(-self.state.rows_seen // rows)
        self.say(
            f"resuming from {path}: step {self.state.step:,}, {self.state.tokens_seen:,} tokens, "
            f"{duration(self.state.training_seconds)} of training"
        )
        ignored = {"checkpoint_dir", "resume", "device", "keep_states", "use_wandb", "use_tensorboard", "run_name"}
        now, then = self.config.to_dict(), self.state.training_config
        changed = [f"{key} {then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value]
        if changed := [text for text in changed if text.split()[0] not in ignored]:
            self.say(f"with changed settings: {', '.join(changed)}")
        if self.state.world_size != self.processes.world_size:
            self.say(f"saved by {self.state.world_size} process(es), going on with {self.processes.world_size}")

    def _start_from_given_model(self) -> None:
        if self.initial is None:
            return
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
            self.plan.estimate,
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
        config = self.config
        identifiers = self.state.trackers
        if (
            self._is_over(self.state.training_seconds)
            and self.state.step > 0
            and self.state.evaluated_step == self.state.step
        ):
            self.say(
                f"this run is complete: {self.state.step:,} steps in {duration(self.state.training_seconds)}. "
                "A larger --max-iters or --max-seconds goes on with it, --resume never starts anew."
            )
            if self.processes.is_main:
                self._draw_if_missed()
            return self._result(complete=True, exit_code=0)
        stopped: int | None = None
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(Signals(self.say))
            self.metrics: MetricsFile | None = None
            self.trackers = Trackers([], self.say)
            if self.processes.is_main:
                self._make_directory()
                self.metrics = MetricsFile(self.directory / METRICS_FILE, resumed_step=self.state.step)
                stack.callback(self.metrics.close)
                settings = {
                    "model": self.identity["model"],
                    "training": config.to_dict(),
                    "data": self.data_config.to_dict(),
                }
                self.trackers = Trackers.open(
                    config,
                    settings,
                    self.directory,
                    resumed_step=self.state.step,
                    identifiers=identifiers,
                    say=self.say,
                )
                stack.callback(self.trackers.close)
            self.say.display = stack.enter_context(TrainingDisplay(self.say.console, config.max_iters))
            self.display = self.say.display
            stack.callback(setattr, self.say, "display", None)
            stopped = self._loop(signals)
        if stopped is not None:
            how = f"the same command goes on from {self.state_path}"
            self.say(f"stopped at step {self.state.step:,} and saved; {how}", "yellow")
            return self._result(complete=False, exit_code=128 + stopped)
        result = self._result(complete=True, exit_code=0)
        self._report_end(result)
        return result

    def _clear_leftovers(self) -> None:
        """Remove what a run that was killed while it wrote a file has left beside it."""
        for folder in (self.directory, (self.directory / PLOT_FILE).parent, *checkpoint.list_states(self.directory)):
            for leftover in folder.glob(".*.part"):
                leftover.unlink(missing_ok=True)

    def _draw_if_missed(self) -> None:
        """Draw the curves of a run that was killed while it drew them."""
        metrics, picture = self.directory / METRICS_FILE, self.directory / PLOT_FILE
        if metrics.exists() and not (picture.exists() and picture.stat().st_mtime >= metrics.stat().st_mtime):
            plot_training_curves(metrics, picture)

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileWriteError(
                f"cannot make the folder {self.directory}: {error.strerror or error}. Choose another --checkpoint-dir."
            ) from error

    def _is_over(self, seconds: float) -> bool:
        limit = self.config.max_seconds
        return self.state.step >= self.config.max_iters or (limit is not None and seconds >= limit)

    def _loop(self, signals: Signals) -> int | None:
        """Train until the run is over; the number of the signal that ended it, if one did."""
        before, started = self.state.training_seconds, time.monotonic()
        if self._due_evaluation_was_missed():
            self._evaluate_and_keep()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as builder:
            ahead = builder.submit(self._rows_of_step, self.state.step)
            while True:
                elapsed = before + time.monotonic() - started
                # All processes must agree on when to end and on the learning rate, though their clocks differ.
                elapsed, stop = self.processes.largest([elapsed, float(signals.received or 0)])
                self.state = dataclasses.replace(self.state, training_seconds=elapsed)
                if stop and not self._is_over(elapsed):
                    self.say(f"{signal.Signals(int(stop)).name} received: saving", "yellow")
                    self._stop()
                    return int(stop)
                if self._is_over(elapsed):
                    break
                ahead = self._step(ahead, builder, elapsed)
                self._after_step()
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
        began = time.monotonic()
        batches = ahead.result()
        following = builder.submit(self._rows_of_step, self.state.step + 1)
        passes = [part for batch in batches for part in batch.split(self.plan.rows)]
        counts, share = self._step_counts(passes)
        sums, load = self._backward(passes, counts, share)
        factor = self.schedule.factor(self.state.step, elapsed)
        stepped, norm = self._update(sums, factor)
        if self.config.router_balance == "bias" and load.numel() and stepped:
            self.model.update_router_biases(load, self.config.router_bias_rate)
        rows = self.config.batch_size * self.config.gradient_accumulation_steps * self.processes.world_size
        self.state = dataclasses.replace(
            self.state,
            step=self.state.step + 1,
            rows_seen=self.state.rows_seen + rows,
            tokens_seen=self.state.tokens_seen + rows * self.length,
            skipped_steps=self.state.skipped_steps + (not stepped),
        )
        since = self.since
        since.steps += 1
        since.seconds += time.monotonic() - began
        since.tokens += rows * self.length
        since.losses = [a + b for a, b in zip(since.losses or [0.0] * len(sums), sums, strict=True)]
        since.load = load if since.load is None else since.load + load
        since.grad_norm, since.factor = norm, factor
        return following

    def _step_counts(self, passes: Sequence[Batch]) -> tuple[tuple[float, ...], list[float]]:
        """Targets of the whole step at each depth, and each pass's share of all tokens in it."""
        own = [self.model.count_targets(part.documents, part.trained) for part in passes]
        tokens = [float((part.documents >= 0).sum()) for part in passes]
        depths = len(own[0])
        totals = self.processes.total([*(float(sum(c[depth] for c in own)) for depth in range(depths)), sum(tokens)])
        return tuple(totals[:depths]), [count / max(1.0, totals[depths]) for count in tokens]

    def _backward(
        self, passes: Sequence[Batch], counts: tuple[float, ...], shares: Sequence[float]
    ) -> tuple[list[float], Tensor]:
        """Gradients of the step; its losses (next token, later ones, balance, z) and expert load, of all processes."""
        config, world_size = self.config, self.processes.world_size
        self.optimizer.zero_grad()
        sums: Tensor | None = None
        load: Tensor | None = None
        for index, (part, share) in enumerate(zip(passes, shares, strict=True)):
            last = index == len(passes) - 1
            forward: nn.Module = self.parallel or self.loss_module
            # Gradients travel between processes once a step, with the last pass.
            hold = self.parallel.no_sync() if self.parallel and not last else contextlib.nullcontext()
            with hold:
                losses: Losses = forward(
                    part.tokens,
                    part.documents,
                    part.trained,
                    balance_coef=config.router_balance_coef if config.router_balance == "loss" else 0.0,
                    z_coef=config.router_z_coef,
                    multi_token_weight=config.multi_token_loss_weight,
                    target_counts=counts,
                    aux_share=share,
                )
                # DistributedDataParallel takes the mean over processes where the sum is wanted.
                self.scaler.scale(losses.total * world_size).backward()
            values = torch.stack(
                [losses.next_token, *losses.multi_token, losses.balance * share, losses.router_z * share]
            ).detach()
            sums = values if sums is None else sums + values
            load = losses.expert_load if load is None else load + losses.expert_load
        assert sums is not None
        assert load is not None
        return self.processes.total(sums.tolist()), self.processes.total_tensor(load)

    def _update(self, losses: Sequence[float], factor: float) -> tuple[bool, float | None]:
        """Clip the gradient and move the weights; whether they moved, and the gradient's norm.

        Raises:
            TrainingError: a loss or the gradient is not finite; the weights are as they were.
        """
        if self.scaled is not None:
            self.scaler.unscale_(self.scaled)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(losses[0]) or (not math.isfinite(norm) and not self.precision.scaled):
            last = f"the last state is {self.state_path}" if self.state_path else "no state was saved yet"
            remedy = " or switch off --mixed-precision" if self.precision.dtype != torch.float32 else ""
            raise TrainingError(
                f"step {self.state.step + 1:,}: loss {losses[0]}, gradient norm {norm}; stopped before the weights "
                f"changed ({last}). Lower --learning-rate{remedy}."
            )
        if not math.isfinite(norm):
            self.scaler.update()
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= SKIPS_IN_A_ROW:
                raise TrainingError(
                    f"step {self.state.step + 1:,}: float16 gradients overflowed {SKIPS_IN_A_ROW} times in a row; "
                    "lower --learning-rate or switch off --mixed-precision"
                )
            return False, None
        self.skipped_in_a_row = 0
        if self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(
                self.model.parameters(), self.config.grad_clip, torch.tensor(norm, device=self.device)
            )
        self.optimizer.step(factor)
        if self.scaled is not None:
            self.scaler.update()
        return True, norm

    def _after_step(self) -> None:
        """What is due after a step: saving, then evaluating and recording."""
        config, step = self.config, self.state.step
        over = step >= config.max_iters
        if step % config.save_interval == 0 and not over:
            self._save()
        if over:
            return  # `_finish` does it all
        if step % config.eval_interval == 0:
            self._evaluate_and_keep()
            if time.monotonic() >= self.draw_not_before:
                self._draw()
        elif step % config.log_interval == 0 or self.since.steps == step == 1:
            self._record(None)
        else:
            self._show(self._new_record(None))

    def _finish(self) -> None:
        """The end of a run: save, evaluate, record, draw."""
        if self.state_path != checkpoint.state_path(self.directory, self.state.step):
            self._save()
        elif self.processes.is_main:  # saved right after the last step, before the clock was read again
            checkpoint.update_state(self.state_path, training_seconds=self.state.training_seconds)
        if self.state.evaluated_step != self.state.step:
            self._evaluate_and_keep()
        self._draw()

    def _stop(self) -> None:
        """The end by a signal: save, and see that there is a model to tell stories with."""
        if self.state_path != checkpoint.state_path(self.directory, self.state.step):
            self._save()
        if self.since.steps:
            self._record(None)
        if self.processes.is_main and not (self.directory / MODEL_FILE).exists():
            self._save_model(None)
        self._draw()

    # Saving, evaluating, recording

    def _save(self) -> None:
        self.display.activity("saving")
        self.state = dataclasses.replace(
            self.state,
            identity=self.identity,
            training_config=self.config.to_dict(),
            data_config=self.data_config.to_dict(),
            scaler=self.scaler.state_dict() if self.precision.scaled else None,
            world_size=self.processes.world_size,
            trackers=self.trackers.identifiers(),
        )
        tensors = self._random_tensors()
        if self.processes.is_main:
            tensors |= self._tensors()
        self.state_path = checkpoint.save_state(
            self.directory, self.state, tensors, self.processes, keep=self.config.keep_states
        )
        self.display.activity("")

    def _evaluate_and_keep(self) -> None:
        """Evaluate, record it, keep the model if it is the best so far, and show a sample.

        The state counts as evaluated only when all but the sample is on the disk: what a killed run did not get to is
        made up for when it is resumed.
        """
        self.display.activity("evaluating")
        self.evaluation = evaluation = self.evaluate()
        best = self.state.best_validation_loss
        better = evaluation is None or best is None or evaluation.loss_nats < best
        if evaluation is not None and better:
            best = evaluation.loss_nats
        if self.since.steps or evaluation is not None:
            self._record(evaluation)
        self.state = dataclasses.replace(self.state, best_validation_loss=best, evaluated_step=self.state.step)
        if self.processes.is_main:
            # There may be none yet although an earlier model was better: that of a state from another folder.
            if better or not (self.directory / MODEL_FILE).exists():
                self._save_model(evaluation)
            if self.state_path == checkpoint.state_path(self.directory, self.state.step):
                checkpoint.update_state(self.state_path, best_validation_loss=best, evaluated_step=self.state.step)
            if evaluation is not None:
                bits = "" if evaluation.bits_per_byte is None else f", {evaluation.bits_per_byte:.3f} bits per byte"
                mark = " (best so far)" if better else ""
                self.say(f"step {self.state.step:,}: validation loss {evaluation.loss_nats:.4f}{bits}{mark}")
            self._sample()
        self.processes.wait()
        self.display.activity("")

    def _sample(self) -> None:
        if self.on_evaluation is None:
            return
        self.model.eval()
        try:
            with torch.no_grad():
                text = self.on_evaluation(self.model, self.data.vocabulary, self.state.step)
        except StoryError as error:  # a context too short for the sample's beginning; training does not depend on it
            self.say(f"no sample story: {error}", "yellow")
            return
        finally:
            self.model.train()
        if text:
            self.say(text, "italic")
            self.trackers.text(self.state.step, text)

    def evaluate(self) -> Evaluation | None:
        """Loss on held-out stories, always the same ones; None without any."""
        return evaluate(
            self.model,
            self.data.validation,
            self.byte_counts,
            batch_size=self.config.batch_size,
            length=self.length,
            most_batches=self.config.eval_iters,
            rows_at_once=self.plan.rows,
            processes=self.processes,
        )

    def _save_model(self, evaluation: Evaluation | None) -> None:
        provenance: dict[str, Any] = {
            **program_facts(),
            "device": str(self.device),
            "precision": str(self.precision.dtype).removeprefix("torch."),
            "step": self.state.step,
            "tokens_seen": self.state.tokens_seen,
            "training_seconds": self.state.training_seconds,
            "train_loss_nats": self.train_loss,
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
        save_model(self.directory / MODEL_FILE, self.model, self.data.vocabulary, provenance)

    def _new_record(self, evaluation: Evaluation | None) -> StepRecord:
        since = self.since
        values: Mapping[str, Any] = {}
        if since.steps:
            means = [value / since.steps for value in since.losses]
            factor, muon = since.factor, self.config.optimizer == "muon"
            values = {
                "loss_nats": means[0],
                "multi_token_loss_nats": tuple(means[1:-2]),
                "learning_rate": self.config.learning_rate * factor,
                "matrix_learning_rate": self.config.matrix_learning_rate * factor if muon else None,
                "grad_norm": since.grad_norm,
                "step_seconds": since.seconds / since.steps,
                "tokens_per_second": since.tokens / since.seconds if since.seconds else None,
            }
            if since.load is not None and since.load.numel():
                relative = since.load / since.load.mean(1, keepdim=True).clamp(min=1e-9)
                values |= {
                    "balance_loss": means[-2],
                    "router_z_loss": means[-1],
                    "expert_load_max_over_mean": float(relative.max()),
                    "expert_load_min_over_mean": float(relative.min()),
                }
            self.train_loss = means[0]
        return StepRecord(
            step=self.state.step,
            tokens_seen=self.state.tokens_seen,
            training_seconds=self.state.training_seconds,
            loss_scale=float(self.scaler.get_scale()) if self.precision.scaled else None,
            skipped_steps=self.state.skipped_steps if self.precision.scaled else None,
            peak_memory_bytes=peak_memory_bytes(self.device.type),
            validation_loss_nats=None if evaluation is None else evaluation.loss_nats,
            validation_bits_per_byte=None if evaluation is None else evaluation.bits_per_byte,
            validation_multi_token_loss_nats=() if evaluation is None else evaluation.multi_token_loss_nats,
            **values,
        )

    def _record(self, evaluation: Evaluation | None) -> None:
        record = self._new_record(evaluation)
        self.since = _Since()
        if self.metrics is not None:
            self.metrics.write(record)
        self.trackers.log(record)
        self._show(record)

    def _show(self, record: StepRecord) -> None:
        config, step = self.config, self.state.step
        share = run_share(step, config.max_iters, self.state.training_seconds, config.max_seconds)
        remaining = None if record.step_seconds is None else record.step_seconds * (config.max_iters - step)
        if config.max_seconds is not None:
            time_left = max(0.0, config.max_seconds - self.state.training_seconds)
            remaining = time_left if remaining is None else min(remaining, time_left)
        self.display.step(record, share=share, remaining_seconds=remaining)

    def _draw(self) -> None:
        if self.processes.is_main and self.metrics is not None and self.metrics.lines:
            began = time.monotonic()
            path = plot_training_curves(self.metrics.path, self.directory / PLOT_FILE)
            # Drawing takes a second or so; a short run with many evaluations should not spend itself on pictures.
            self.draw_not_before = time.monotonic() + PICTURE_SHARE * (time.monotonic() - began)
            self.trackers.picture(self.state.step, path)

    def _result(self, *, complete: bool, exit_code: int) -> TrainingResult:
        model, plot, state = self.directory / MODEL_FILE, self.directory / PLOT_FILE, self.state
        return TrainingResult(
            checkpoint_dir=self.directory,
            best_model=model if model.exists() else None,
            state=self.state_path,
            plot=plot if plot.exists() else None,
            steps=state.step,
            tokens_seen=state.tokens_seen,
            training_seconds=state.training_seconds,
            train_loss=self.train_loss,
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
