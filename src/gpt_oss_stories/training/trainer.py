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
import platform
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import __version__
from ..config import DataConfig, ModelConfig, TrainingConfig
from ..data.batches import Batch, BatchStream, validation_batches
from ..data.pipeline import PreparedData, prepare
from ..errors import StoryError
from ..files import FileWriteError
from ..model.model_file import save_model
from ..model.multi_token import targets_at_depth
from ..model.pointwise import compile_kernels
from ..model.transformer import Losses, StoryTransformer
from ..tokenization import Vocabulary
from . import checkpoint
from .checkpoint import CheckpointError, RunState
from .display import PreparationDisplay, TrainingDisplay, duration
from .distributed import DistributedError, Processes, joined, launched_processes
from .memory import BatchPlan, available_memory, plan_batch
from .metrics import MetricsFile, StepRecord, peak_memory_bytes
from .optimizer import StoryOptimizer
from .plots import plot_training_curves
from .precision import Precision, choose_device, choose_precision
from .schedule import Schedule, run_share
from .trackers import Trackers

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


@dataclass(frozen=True)
class Evaluation:
    """Loss on held-out stories."""

    loss_nats: float
    bits_per_byte: float | None
    multi_token_loss_nats: tuple[float, ...]


def train(
    model_config: ModelConfig,
    training_config: TrainingConfig,
    data_config: DataConfig,
    *,
    console: Console | None = None,
    on_evaluation: EvaluationHook | None = None,
) -> TrainingResult:
    """Train a model, or go on with a run that was interrupted.

    Args:
        model_config: the architecture; its vocabulary size is set from the data's vocabulary.
        training_config, data_config: the run and its stories.
        console: where progress is shown; standard error if not given.
        on_evaluation: tells a sample story after each evaluation.

    Raises:
        StoryError: something given cannot be used, memory or disk do not suffice, or the loss is no longer a number.
    """
    rank, local_rank, world_size = launched_processes()
    if world_size > 1 and not training_config.use_ddp:
        raise DistributedError(f"torchrun started {world_size} processes, but use_ddp is off: add --use-ddp")
    device = choose_device(training_config.device, local_rank=local_rank, processes=world_size)
    if console is None:
        console = Console(stderr=True)
    with joined(rank, local_rank, world_size, device) as processes:
        say = _Speaker(console if processes.is_main else None)
        if training_config.use_ddp and world_size == 1:
            say("--use-ddp without torchrun: training in one process (torchrun --nproc-per-node=N starts N)")
        if device.type == "cpu" and world_size > 1:
            torch.set_num_threads(max(1, _cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", world_size))))
        precision = choose_precision(device, training_config.use_mixed_precision)
        say(f"device {device}, {processes.world_size} process(es), {precision.describe()}")
        data = _prepare(data_config, processes, say)
        model_config = model_config.replace(vocab_size=data.vocabulary.size)
        length = training_config.train_length or model_config.block_size
        if length > model_config.block_size:
            raise TrainingError(
                f"train_length={length} is longer than the model's block_size={model_config.block_size}: "
                "lower the first or raise the second"
            )
        run = _Run(
            model_config, training_config, data_config, data, length, device, precision, processes, say, on_evaluation
        )
        return run.execute()


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(config: DataConfig, processes: Processes, say: _Speaker) -> PreparedData:
    """Prepared stories; the main process prepares them while the others wait."""
    data: PreparedData | None = None
    if processes.is_main:
        with PreparationDisplay(say.console) as progress:
            data = prepare(config, progress)
        say(data.summary)
    processes.wait()
    return prepare(config.replace(process_data=False)) if data is None else data


class _Speaker:
    """Prints lines that stay; above the live display while there is one."""

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.display: TrainingDisplay | None = None

    def __call__(self, text: str, style: str = "") -> None:
        if self.display is not None:
            self.display.line(text, style)
        elif self.console is not None:
            self.console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)


class _LossModule(nn.Module):
    """The model with its loss as `forward`, which is where DistributedDataParallel hooks in."""

    def __init__(self, model: StoryTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, documents: Tensor, trained: Tensor, **options: Any) -> Losses:
        return self.model.loss(tokens, documents, trained, **options)


class _Signals:
    """Remembers SIGINT and SIGTERM instead of dying of them; a second SIGINT is obeyed at once."""

    def __init__(self, say: _Speaker) -> None:
        self.received: int | None = None
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        self._say(f"{signal.Signals(number).name} received: finishing this step and saving", "yellow")


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
        say: _Speaker,
        on_evaluation: EvaluationHook | None,
    ) -> None:
        self.config, self.data_config, self.data = config, data_config, data
        self.length, self.device, self.precision, self.processes = length, device, precision, processes
        self.say, self.on_evaluation = say, on_evaluation
        self.directory = Path(config.checkpoint_dir)
        self.schedule = Schedule.from_config(config)
        self.identity = {
            "model": model_config.to_dict(),
            "vocabulary": data.vocabulary.fingerprint,
            "data": data.fingerprint,
            "seed": config.seed,
            "optimizer": config.optimizer,
            "row length": length,
        }
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
        self.recorded_step: int | None = None
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
        compiler = os.environ.get("CXX", "g++")
        if self.device.type == "cpu" and not shutil.which(compiler):
            self.say(f"--compile-model needs a C++ compiler, and {compiler} is not there: going on without", "yellow")
            return
        compile_kernels()

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

    def _choose_state(self) -> str | None:
        """The state to go on from. Files of another run, and states that are no longer of use, are moved aside."""
        wish = self.config.resume
        if wish not in ("auto", "never"):
            return self._chosen_by_path(Path(wish))
        difference = "--resume never" if wish == "never" else None
        if wish == "auto":
            for path in checkpoint.list_states(self.directory):
                try:
                    state = checkpoint.read_state(path)
                except CheckpointError as error:
                    self.say(f"{error}; trying the state before it", "yellow")
                    continue
                difference = _difference(state.identity, self.identity)
                if difference is None:
                    self._drop_later_states(state.step)
                    return str(path)
                break
        moved = checkpoint.move_aside(self.directory, RUN_FILES)
        if moved is not None:
            self.say(f"another run's files are moved to {moved} ({difference or 'it has no sound state'})", "yellow")
        return None

    def _chosen_by_path(self, path: Path) -> str:
        if not (path / checkpoint.STATE_FILE).is_file():
            states = checkpoint.list_states(path)
            if not states:
                raise CheckpointError(
                    f"--resume {path}: there is no training state; give a folder such as "
                    f"{checkpoint.state_path(self.directory, 500)}, or auto, or never"
                )
            path = states[0]
        state = checkpoint.read_state(path)
        if (difference := _difference(state.identity, self.identity)) is not None:
            raise CheckpointError(
                f"--resume {path} is of another run ({difference}); use its settings, or --resume never"
            )
        if path.parent.resolve() == self.directory.resolve():
            self._drop_later_states(state.step)
        elif (moved := checkpoint.move_aside(self.directory, RUN_FILES)) is not None:
            self.say(f"the files in {self.directory} are moved to {moved}", "yellow")
        return str(path)

    def _drop_later_states(self, step: int) -> None:
        """Move aside the states after `step`: damaged ones, or ones that the run is taken back from."""
        later = [
            path.name
            for path in checkpoint.list_states(self.directory)
            if path > checkpoint.state_path(self.directory, step)
        ]
        if later:
            moved = checkpoint.move_aside(self.directory, tuple(later), states=False)
            self.say(f"{', '.join(sorted(later))} moved to {moved}", "yellow")

    # The loop

    def execute(self) -> TrainingResult:
        """Run to the end, or to a signal."""
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
            return self._result(complete=True, exit_code=0)
        stopped: int | None = None
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(_Signals(self.say))
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

    def _loop(self, signals: _Signals) -> int | None:
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
        passes = [part for batch in batches for part in _split(batch, self.plan.rows)]
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
        """What is due after a step: saving, then evaluating, then recording."""
        config, step = self.config, self.state.step
        over = step >= config.max_iters
        if step % config.save_interval == 0 and not over:
            self._save()
        if over:
            return  # `_finish` does it all
        evaluated = step % config.eval_interval == 0
        if evaluated:
            self._evaluate_and_keep()
        if evaluated or step % config.log_interval == 0 or self.since.steps == step == 1:
            self._record(self.evaluation if evaluated else None)
        else:
            self._show(self._new_record(None))
        if evaluated and time.monotonic() >= self.draw_not_before:
            self._draw()

    def _finish(self) -> None:
        """The end of a run: save, evaluate, record, draw."""
        if self.state_path != checkpoint.state_path(self.directory, self.state.step):
            self._save()
        elif self.processes.is_main:  # saved right after the last step, before the clock was read again
            checkpoint.update_state(self.state_path, training_seconds=self.state.training_seconds)
        if self.state.evaluated_step != self.state.step:
            self._evaluate_and_keep()
        # A run that ends by the clock may end right after a step that was evaluated and recorded.
        if self.since.steps or (self.evaluation is not None and self.recorded_step != self.state.step):
            self._record(self.evaluation)
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
        """Evaluate, keep the model if it is the best so far, and show a sample."""
        self.display.activity("evaluating")
        self.evaluation = evaluation = self.evaluate()
        best = self.state.best_validation_loss
        better = evaluation is None or best is None or evaluation.loss_nats < best
        if evaluation is not None and better:
            best = evaluation.loss_nats
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

    @torch.no_grad()
    def evaluate(self) -> Evaluation | None:
        """Loss on held-out stories, always the same ones; None without any."""
        self.model.eval()
        depths = self.model.config.multi_token_predict
        sums, bytes_seen = [0.0] * (2 * depths), 0.0
        batches = validation_batches(
            self.data.validation,
            self.config.batch_size,
            self.length,
            self.config.eval_iters,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
        )
        for batch in batches:
            for part in _split(batch, self.plan.rows):
                part = part.to(self.device)
                counts = self.model.count_targets(part.documents, part.trained)
                if not counts[0]:
                    continue
                losses = self.model.loss(part.tokens, part.documents, part.trained)
                means = [losses.next_token, *losses.multi_token]
                for depth, (mean, count) in enumerate(zip(means, counts, strict=True)):
                    sums[2 * depth] += float(mean) * count
                    sums[2 * depth + 1] += count
                targets, counted = targets_at_depth(part.tokens, 0, part.documents, part.trained)
                bytes_seen += float(self.byte_counts[targets[counted]].sum())
        self.model.train()
        *sums, bytes_seen = self.processes.total([*sums, bytes_seen])
        if not sums[1]:
            return None
        return Evaluation(
            loss_nats=sums[0] / sums[1],
            bits_per_byte=sums[0] / math.log(2) / bytes_seen if bytes_seen else None,
            multi_token_loss_nats=tuple(sums[2 * d] / max(1.0, sums[2 * d + 1]) for d in range(1, depths)),
        )

    def _save_model(self, evaluation: Evaluation | None) -> None:
        provenance: dict[str, Any] = {
            "program_version": __version__,
            "git_commit": _git_commit(),
            "torch_version": torch.__version__,
            "python_version": platform.python_version(),
            "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
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
        self.since, self.recorded_step = _Since(), self.state.step
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


def _split(batch: Batch, rows: int) -> Iterator[Batch]:
    """A batch as passes of at most `rows` rows."""
    for begin in range(0, len(batch.tokens), rows):
        part = slice(begin, begin + rows)
        yield Batch(batch.tokens[part], batch.documents[part], batch.trained[part])


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How another run differs from this one, in words; None if it is this one."""
    parts = []
    for key, value in now.items():
        before = then.get(key)
        if before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            names = [f"{name} {before.get(name)} -> {value.get(name)}" for name in {**before, **value}
                     if before.get(name) != value.get(name)]  # fmt: skip
            parts.append(f"{key}: {', '.join(names)}")
        elif key in ("vocabulary", "data"):
            parts.append(f"other {key}")
        else:
            parts.append(f"{key} {before} -> {value}")
    return "; ".join(parts) or None


def _git_commit() -> str | None:
    """Commit of the program's own checkout, None if it is not one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    found = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
