"""The record of a run: `metrics.jsonl`, one JSON object per line, and the one class that writes and reads it.

A value that is not known is null, never 0. A resumed run drops the lines after the step that it resumes from, and what
it finds out about that step later goes into the line that is there. So each step appears once however often the run was
interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import StoryError
from ..files import FileWriteError, atomic_write

if TYPE_CHECKING:
    import torch

METRICS_FILE = "metrics.jsonl"
"""Its name in the checkpoint folder."""

SCHEMA = 2
"""Version of a line's fields. Version 1 has fewer, and its `peak_memory_bytes` is the GPU's where there is one."""

LOAD_DIGITS = 5
"""Decimals of each expert's share in a line."""


class MetricsError(StoryError):
    """A metrics file cannot be read."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What is known about one optimizer step.

    Training losses are means over the steps since the record before, without those whose loss was not finite. Speeds
    are over all processes and count training steps only, not what lies between them. Seconds are those of the main
    process since the record before, see `timing`; memory is that of the process that has most.
    """

    schema: int = SCHEMA
    step: int
    """Optimizer steps taken, this one included."""
    tokens_seen: int
    """Tokens of all rows so far, padding included, over all processes."""
    training_seconds: float | None = None
    """Time spent training so far, earlier parts of a resumed run included."""
    interim: bool | None = None
    """The run was stopped here; when it is resumed, the next record takes this one's place."""
    loss_nats: float | None = None
    """Mean loss of the next token."""
    bits_per_byte: float | None = None
    """Loss of the next token for each byte of the text predicted."""
    multi_token_loss_nats: tuple[float, ...] = ()
    """Mean loss of the token after the next, and of the ones after that."""
    balance_loss: float | None = None
    router_z_loss: float | None = None
    expert_load: tuple[tuple[float, ...], ...] = ()
    """For each layer with a router, those of multi-token prediction last, each expert's share of token-expert pairs."""
    expert_load_entropy: tuple[float, ...] = ()
    """For each of these layers the entropy of that, relative to an even load: 1 is even, 0 is all to one expert."""
    expert_load_max_over_mean: float | None = None
    """Load of the busiest expert relative to an even load, in the layer where that is largest."""
    expert_load_min_over_mean: float | None = None
    learning_rate: float | None = None
    embedding_learning_rate: float | None = None
    """Of the embedding table, where it has its own."""
    matrix_learning_rate: float | None = None
    """Muon's."""
    grad_norm: float | None = None
    """Norm of the whole gradient before clipping, in the last step."""
    loss_scale: float | None = None
    """What losses are multiplied with before the backward pass (float16 only)."""
    skipped_steps: int | None = None
    """Steps so far that changed nothing, for whatever reason."""
    step_seconds: float | None = None
    tokens_per_second: float | None = None
    """Tokens of rows, padding included."""
    targets_per_second: float | None = None
    """Tokens that were predicted."""
    model_flops_per_second: float | None = None
    """Operations of the model's mathematics (see `flops`) on all tokens of rows."""
    model_flops_utilization: float | None = None
    """The same as a share of what the devices' data sheets state; null where nothing is stated."""
    interval_seconds: float | None = None
    """All time since the record before; the parts below need not add up to it."""
    data_seconds: float | None = None
    forward_seconds: float | None = None
    backward_seconds: float | None = None
    optimizer_seconds: float | None = None
    evaluation_seconds: float | None = None
    saving_seconds: float | None = None
    resident_memory_bytes: int | None = None
    """Main memory that the process has now."""
    peak_memory_bytes: int | None = None
    """Most main memory that it has had."""
    gpu_memory_bytes: int | None = None
    """GPU memory in tensors now."""
    gpu_peak_memory_bytes: int | None = None
    """Most GPU memory that was in tensors."""
    validation_loss_nats: float | None = None
    validation_bits_per_byte: float | None = None
    validation_accuracy: float | None = None
    """Share of held-out targets that are what greedy decoding would take, after the true tokens before them."""
    validation_multi_token_loss_nats: tuple[float, ...] = ()
    validation_multi_token_accuracy: tuple[float, ...] = ()

    def to_line(self) -> str:
        """One line of JSON, without the line's end; a number that is not finite becomes null."""
        row = {field.name: _finite(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return json.dumps(row, allow_nan=False, separators=(",", ":"))

    def known(self) -> dict[str, float]:
        """The numbers that are known, flat, for trackers.

        Lists become `<name>.2` for the token after the next and so on, `expert_load_entropy/layer0` and
        `expert_load/layer0.expert0`.
        """
        numbers: dict[str, float] = {}
        for field in dataclasses.fields(self):
            if field.name in ("schema", "step", "interim"):
                continue
            for name, value in _flat(field.name, _finite(getattr(self, field.name))):
                if value is not None:
                    numbers[name] = value
        return numbers


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if name == "expert_load":
        for layer, shares in enumerate(value):
            yield from ((f"{name}/layer{layer}.expert{expert}", share) for expert, share in enumerate(shares))
    elif name == "expert_load_entropy":
        yield from ((f"{name}/layer{layer}", item) for layer, item in enumerate(value))
    elif isinstance(value, list):
        yield from ((f"{name}.{depth}", item) for depth, item in enumerate(value, 2))
    else:
        yield name, value


def _finite(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0.0:
        return None
    return value


class MetricsFile:
    """Appends records to `metrics.jsonl`; each line is on its way to the disk before the next step starts."""

    def __init__(self, path: str | Path, *, resumed_step: int, keep_interim: bool = True) -> None:
        """Open the file for a run that goes on after `resumed_step` steps (0 for a new one).

        Args:
            path: the file; it need not be there.
            resumed_step: lines of later steps are dropped.
            keep_interim: keep a last line that was only written because the run was stopped there; not if the run knows
                the sums that are in it.

        Raises:
            FileWriteError: the file cannot be written.
        """
        self.path = Path(path)
        self._resumed_step, self._keep_interim = resumed_step, keep_interim
        self._rewrite()

    def _rewrite(self, news: dict[str, Any] | None = None) -> None:
        """Put a file with the lines that stay in place of this one, and open it; `news` goes into the last line."""
        self.lines = 0
        """Records in the file."""
        self.last_step: int | None = None
        """Step of the last record."""
        last: tuple[str, dict[str, Any]] | None = None
        with atomic_write(self.path) as file:
            for text, row in _lines(self.path) if self.path.exists() else ():
                if row["step"] > self._resumed_step:
                    continue
                if last is not None:
                    self._keep(file, *last)
                last = text, row
            if last is not None and news is not None:
                row = last[1] | news
                last = json.dumps(row, separators=(",", ":")) + "\n", row
            if last is not None and (self._keep_interim or not last[1].get("interim")):
                self._keep(file, *last)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open for as long as the run

    def _keep(self, file: BinaryIO, text: str, row: Mapping[str, Any]) -> None:
        file.write(text.encode())
        self.lines += 1
        self.last_step = row["step"]

    def write(self, record: StepRecord) -> None:
        """Append one record; if the last line is of the same step, what the record knows is put into that line.

        Raises:
            FileWriteError: the disk is full or gone.
        """
        self._resumed_step = record.step
        if record.step == self.last_step:
            self._file.close()
            self._keep_interim = True
            self._rewrite(
                {name: value for name, value in json.loads(record.to_line()).items() if value not in (None, [])}
            )
            return
        self.last_step = record.step
        try:
            self._file.write(record.to_line() + "\n")
            self._file.flush()
            self.lines += 1
        except OSError as error:
            raise FileWriteError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        # A line that could not be written is still in the buffer: `write` has told of it.
        with contextlib.suppress(OSError):
            self._file.close()


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines that are whole, as they are and read; a run that was killed while it wrote leaves half a line at the
    end."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    if next(file, None) is None:
                        return
                    raise MetricsError(f"{path}, line {number}: not JSON; remove the line to go on") from None
                if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                    raise MetricsError(f"{path}, line {number}: has no step; remove the line to go on")
                if not isinstance(row.get("schema", 0), int) or row.get("schema", 0) > SCHEMA:
                    raise MetricsError(
                        f"{path}, line {number}: schema {row['schema']} is newer than {SCHEMA}: update the program"
                    )
                yield line if line.endswith("\n") else line + "\n", row
    except (OSError, UnicodeDecodeError) as error:
        raise MetricsError(f"{path} cannot be read: {error}; move it away to go on") from error


def iterate_metrics(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a run, oldest first, one at a time.

    Raises:
        MetricsError: there is no such file, or it is not a metrics file.
    """
    path = Path(path)
    if not path.is_file():
        raise MetricsError(f"{path} is not there; a run writes it into its checkpoint folder")
    for _, row in _lines(path):
        yield row


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All records of a run, oldest first; see `iterate_metrics`, and `curves` for a long run."""
    return list(iterate_metrics(path))


def process_memory() -> tuple[int | None, int | None]:
    """Main memory of this process in bytes, now and at the most; None where nothing tells."""
    import psutil

    now = int(psutil.Process().memory_info().rss)
    if os.name != "posix":
        return now, None
    import resource
    import sys

    largest = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # macOS counts bytes, Linux KiB. The kernel brings its peak up to date more seldom than what is there now.
    return now, max(now, largest if sys.platform == "darwin" else largest * 1024)


def gpu_memory(device: torch.device) -> tuple[int | None, int | None]:
    """Memory of a GPU that tensors take, in bytes, now and at the most; None where nothing tells."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device)), int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory()), None
    return None, None
