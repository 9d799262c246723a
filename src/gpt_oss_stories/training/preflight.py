"""Whether a run can start and what it would do first, found out in seconds: nothing is trained, written or moved.

What a run looks at before its first step is looked at in the same way, by the same functions where there are any.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch

from ..config import DataConfig, ModelConfig, TrainingConfig, check_run
from ..data.pipeline import PreparedData, load_prepared, prepared_folder
from ..data.preparation.plan import USUAL_PIECE, plan_ingredient, read_stories_of, source_bytes, sources_of
from ..data.sources import DataError, ReadReport
from ..device import choose_device
from ..errors import StoryError
from ..model.transformer import StoryTransformer
from ..model.transplant import WeightSource
from . import checkpoint
from .checkpoint import CheckpointError
from .display import Speaker
from .distributed import DistributedError, Processes, joined, launched_processes
from .estimate import vocabulary_size
from .faults import first_line, is_out_of_memory
from .flops import training_flops_per_token
from .memory import (
    BatchPlan,
    available_memory,
    check_disk,
    disk_need,
    estimate_memory,
    free_disk,
    plan_batch,
    size_text,
)
from .precision import Precision, choose_precision
from .resume import run_identity, starting_point
from .trackers import require_packages

if TYPE_CHECKING:
    from rich.console import RenderableType

SAMPLED_STORIES = 20
"""Stories of each source that are read."""

HASHED_BYTES = 2**32
"""More than this is not read whole: it takes longer than a check should."""

STEP_FLOPS, STEP_PARAMETERS = 4e11, 150_000_000
"""A row is sent through a model on a CPU if it takes no more than this: a few seconds."""

_Result = TypeVar("_Result")
Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    words: str


@dataclass
class Preflight:
    """What was found, in the order in which it was looked at."""

    is_main: bool = True
    """This process is the one that prints."""
    checks: list[Check] = field(default_factory=list)
    problems_elsewhere: int = 0
    """Problems that the other processes have found."""

    @property
    def exit_code(self) -> int:
        """0 if the run can start, 1 if not."""
        return int(self.problems_elsewhere > 0 or any(check.verdict == "problem" for check in self.checks))

    def add(self, name: str, verdict: Verdict, words: str) -> None:
        """Note something."""
        self.checks.append(Check(name, verdict, " ".join(words.split())))

    def attempt(self, name: str, work: Callable[[], _Result]) -> _Result | None:
        """The result of some work; None if it ended in an error of ours, which is noted as a problem."""
        try:
            return work()
        except StoryError as error:
            self.add(name, "problem", str(error))
            return None

    def to_json(self) -> str:
        """One JSON object."""
        checks = [dataclasses.asdict(check) for check in self.checks]
        return json.dumps({"checks": checks, "problems_in_other_processes": self.problems_elsewhere})

    def table(self) -> RenderableType:
        """For people; print it with a rich console."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        styles = {"ok": "green", "warning": "yellow", "problem": "bold red"}
        for check in self.checks:
            table.add_row(check.name, Text(check.verdict, styles[check.verdict]), Text(check.words))
        return table


class _Listener(Speaker):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(None)
        self.lines: list[str] = []

    def __call__(self, text: str, style: str = "") -> None:
        self.lines.append(text)


def preflight(
    model: ModelConfig, training: TrainingConfig, data: DataConfig, *, initial: WeightSource | None = None
) -> Preflight:
    """See whether a run can start; with torchrun every process calls this.

    Args:
        model, training, data: the run.
        initial: the opened model of `training.init_from`.
    """
    found = Preflight()
    found.attempt("settings", lambda: check_run(model, training))
    launched = found.attempt("processes", launched_processes)
    if launched is None:
        return found
    rank, local_rank, world_size = launched
    found.is_main = rank == 0
    if not found.checks:
        found.add("settings", "ok", f"{training.max_iters:,} steps, {training.optimizer}, seed {training.seed}")
    device = found.attempt(
        "device", lambda: choose_device(training.device, local_rank=local_rank, processes=world_size)
    )
    if device is None:
        return found
    found.add("device", "ok", _describe_device(device))

    def together() -> None:
        with joined(rank, local_rank, world_size, device, timeout_seconds=training.process_timeout) as processes:
            _look(found, model, training, data, initial, device, processes)

    found.attempt("processes", together)
    return found


def _describe_device(device: torch.device) -> str:
    available = available_memory(device)
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    return name if available is None else f"{name}, {size_text(available)} of memory available"


def _look(
    found: Preflight,
    model: ModelConfig,
    training: TrainingConfig,
    data: DataConfig,
    initial: WeightSource | None,
    device: torch.device,
    processes: Processes,
) -> None:
    """Everything that needs a device. What processes do together they do whatever each of them has found."""
    count = int(processes.total([1.0])[0])
    if count > 1 and training.sharing == "none":
        raise DistributedError(
            f"torchrun started {count} processes, but nothing says how they share the model: add --use-ddp, or "
            "--parallelism fsdp if it does not fit one device"
        )
    if training.sharing != "none" and count == 1:
        found.add("processes", "warning", f"{training.sharing} without torchrun: training in one process")
    else:
        found.add(
            "processes", "ok", "one" if count == 1 else f"{count} that can talk to each other, {training.sharing}"
        )
    precision = choose_precision(device, training.use_mixed_precision, training.precision)
    found.add("precision", "ok", precision.describe())
    prepared, size = None, 0
    if processes.is_main:
        _look_at_trackers(found, training)
        prepared = found.attempt("data", lambda: _look_at_data(found, data))
        size = _look_at_vocabulary(found, data, prepared)
    model = model.replace(vocab_size=int(processes.share(size)))
    length = training.train_length or model.block_size
    on_one = int(os.environ.get("LOCAL_WORLD_SIZE", count)) if device.type == "cpu" else 1

    def plan_it() -> BatchPlan:
        plan = plan_batch(
            model,
            training,
            precision,
            length=length,
            device=device,
            available=available_memory(device),
            processes_on_device=on_one,
            processes=count,
        )
        _tell_plan(found, plan, training)
        return plan

    plan = found.attempt("memory", plan_it)
    if processes.is_main:
        identity = None if prepared is None else run_identity(model, training, prepared, initial)
        found.attempt("resume", lambda: _look_at_states(found, model, training, precision, identity))
    if plan is not None and plan.fits:
        found.attempt("one row", lambda: _send_a_row(found, model, training, precision, device, length, plan))
    problems = sum(check.verdict == "problem" for check in found.checks)
    found.problems_elsewhere = int(processes.total([problems])[0]) - problems
    if found.problems_elsewhere:
        found.add("processes", "problem", "other processes have problems, which they print themselves")
    processes.wait()  # none takes the connections down while another still uses them


def _tell_plan(found: Preflight, plan: BatchPlan, training: TrainingConfig) -> None:
    passes = training.gradient_accumulation_steps * -(-training.batch_size // plan.rows)
    how = f"{size_text(plan.peak)} at the most; a step has {passes} pass(es) of {plan.rows} row(s)"
    if plan.recompute:
        how += ", blocks are computed again in the backward pass"
    if plan.exchange_every_pass:
        how += ", gradients travel in every pass"
    if plan.fits:
        found.add("memory", "ok", how)
    else:
        room = size_text(plan.available or 0)
        remedy = "" if plan.recompute else " or --activation-checkpointing auto"
        found.add(
            "memory",
            "warning",
            f"{how}, but {room} are available: it may run out; a shorter --train-length{remedy} takes less",
        )


def _look_at_trackers(found: Preflight, training: TrainingConfig) -> None:
    wanted = [name for name, on in (("wandb", training.use_wandb), ("TensorBoard", training.use_tensorboard)) if on]

    def look() -> None:
        require_packages(training)
        found.add("trackers", "ok", f"{' and '.join(wanted)}: installed" if wanted else "none asked for")

    found.attempt("trackers", look)


def _look_at_data(found: Preflight, config: DataConfig) -> PreparedData | None:
    """The prepared data, None if they are still to be prepared.

    Raises:
        StoryError: there are no stories, or they or the prepared shards cannot be read.
    """
    chosen = sources_of(config)
    if not chosen:
        raise DataError("no stories to train on: raise --storybook-stories, or give a --dataset-path")
    size = sum(source_bytes(source, config) for _, source in chosen)
    if size <= HASHED_BYTES:
        folder = prepared_folder(config)
        if folder.is_dir() and not (config.process_data or config.force_reprocess):
            shards = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
            data = load_prepared(folder, reused=True, verify=shards <= HASHED_BYTES)
            checked = "and sound" if shards <= HASHED_BYTES else "; too large to be read whole here"
            found.add(
                "data",
                "ok",
                f"{folder}: prepared {checked}, {len(data.train):,} stories, {len(data.train.tokens):,} tokens",
            )
            if not len(data.validation):
                found.add("data", "warning", "no story is held out: nothing is evaluated, and the last model is kept")
            return data
        found.add("data", "ok", f"to be prepared in {folder} when training starts: {size_text(size)} to read")
    else:
        found.add(
            "data",
            "warning",
            f"{size_text(size)} of stories are too much to find out here whether they are "
            "prepared; training looks, and prepares them if not",
        )
    for index, (spec, source) in enumerate(chosen):
        ingredient, pieces, planned = plan_ingredient(index, spec, source, config, USUAL_PIECE)
        report = ReadReport(path=planned.path)
        stories = 0
        for piece in pieces[:1]:
            stories = sum(
                1 for _ in itertools.islice(read_stories_of(piece, ingredient, config, report), SAMPLED_STORIES)
            )
        if stories == 0:
            found.add("data", "warning" if len(pieces) > 1 else "problem", report.why_none(ingredient.name))
        elif report.bad:
            found.add(
                "data",
                "warning",
                f"{ingredient.name}: {report.bad} of the first {stories + report.bad} entries cannot be used",
            )
        else:
            found.add("data", "ok", f"{ingredient.name}: the first {stories} stories can be read")
    free = free_disk(Path(config.data_dir))
    if free is not None and free < size:
        found.add("data", "warning", f"{config.data_dir} has {size_text(free)} left, less than the stories take")
    _see_that_it_can_be_written(Path(config.data_dir), "--data-dir")
    return None


def _see_that_it_can_be_written(folder: Path, flag: str) -> None:
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise CheckpointError(f"{there} cannot be written to: choose another {flag}")


def _look_at_vocabulary(found: Preflight, config: DataConfig, prepared: PreparedData | None) -> int:
    if prepared is not None:
        found.add("vocabulary", "ok", f"{prepared.vocabulary.kind}, {prepared.vocabulary.size:,} tokens")
        return prepared.vocabulary.size
    size, remark = vocabulary_size(config)
    found.add("vocabulary", "ok", f"{config.vocabulary}, {size:,} tokens" if remark is None else remark)
    return size


def _look_at_states(
    found: Preflight,
    model: ModelConfig,
    training: TrainingConfig,
    precision: Precision,
    identity: dict[str, object] | None,
) -> None:
    """What would be gone on with or moved aside, and whether the disk has room for what will be saved."""
    from .run_file import MODEL_FILE
    from .trainer import RUN_FILES

    directory, said = Path(training.checkpoint_dir), _Listener()
    states = [path.name for path in checkpoint.list_states(directory)]
    step, aside = 0, tuple[str, ...]()
    if identity is None:
        if training.resume == "auto" and states:
            found.add(
                "resume",
                "warning",
                f"{directory} holds {len(states)} state(s); whether they are of this run is "
                "known when the data are prepared, and if not they are moved aside",
            )
        elif training.resume not in ("auto", "never"):
            found.add(
                "resume", "warning", f"whether {training.resume} is of this run is known when the data are prepared"
            )
        else:
            found.add("resume", "ok", "starts anew")
    else:
        start = starting_point(directory, training.resume, identity, RUN_FILES, said)
        step, aside = start.step, start.aside
        for line in said.lines:
            found.add("resume", "warning", line)
        how = "starts anew" if start.state is None else f"goes on from {start.state}, after {start.step:,} steps"
        found.add("resume", "ok", how)
        if in_the_way := [name for name in aside if (directory / name).exists()]:
            found.add("resume", "warning", f"{', '.join(in_the_way)} in {directory} would be moved aside{start.why}")
        if start.state is not None and step >= training.max_iters:
            found.add("resume", "warning", "this run is complete: a larger --max-iters goes on with it")

    def look_at_disk() -> None:
        estimate = estimate_memory(model, training, precision)
        models = [MODEL_FILE] if (directory / MODEL_FILE).exists() else []
        there = len(set(states).difference(aside)), len(set(models).difference(aside))
        check_disk(estimate, training, steps_done=step, states_there=there[0], models_there=there[1])
        _see_that_it_can_be_written(directory, "--checkpoint-dir")
        need, _, _ = disk_need(estimate, training, steps_done=step, states_there=there[0], models_there=there[1])
        free = free_disk(directory)
        left = "how much is left is not known" if free is None else f"{size_text(free)} are left"
        found.add("disk", "ok", f"up to {size_text(need)} will be saved in {directory}, {left}")

    found.attempt("disk", look_at_disk)


def _send_a_row(
    found: Preflight,
    model: ModelConfig,
    training: TrainingConfig,
    precision: Precision,
    device: torch.device,
    length: int,
    plan: BatchPlan,
) -> None:
    """One row of random tokens forward and backward through a whole model with random weights."""
    operations, parameters = length * training_flops_per_token(model, length), model.parameters().total
    if device.type != "cuda" and (operations > STEP_FLOPS or parameters > STEP_PARAMETERS):
        found.add(
            "one row", "ok", f"left out: {parameters:,} parameters and {operations:.1e} operations take too long here"
        )
        return
    alone = estimate_memory(model, training, precision, device_type=device.type)  # a run may hold a slice of it
    needed = alone.parameters + alone.gradients + alone.working + plan.activations // plan.rows
    if plan.available is not None and needed > plan.available:
        found.add("one row", "ok", f"left out: a process that holds the whole model needs {size_text(needed)} for it")
        return
    try:
        network = StoryTransformer(model, seed=training.seed).to(device)
        network.compute_dtype = precision.dtype
        network.recompute_blocks = plan.recompute
        began = time.monotonic()
        tokens = torch.randint(model.vocab_size, (1, length), generator=torch.Generator().manual_seed(0)).to(device)
        losses = network.loss(tokens, torch.zeros_like(tokens))
        losses.total.backward()  # not scaled: the first scale of float16 is often too large, which a run finds out
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = "" if plan.recompute else " or --activation-checkpointing on"
        words = f"memory ran out ({first_line(error)}): a shorter --train-length{remedy} takes less"
        found.add("one row", "problem", words)
        return
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    loss, seconds = float(losses.next_token), time.monotonic() - began
    if finite and len(gradients) == len(list(network.parameters())):
        found.add("one row", "ok", f"forward and backward in {seconds:.1f} s, loss {loss:.2f}")
    else:
        found.add("one row", "problem", f"loss {loss}, gradients are missing or not finite: try --precision float32")
