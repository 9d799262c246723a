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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoryError
from ..files import FileWriteError, write_text_atomically

SCHEMA = 1
"""Version of a line's fields."""


class MetricsError(StoryError):
    """A metrics file cannot be read."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What is known about one optimizer step. Training losses are means over the steps since the record before."""

    schema: int = SCHEMA
    step: int
    """Optimizer steps taken, this one included."""
    tokens_seen: int
    """Tokens of all rows so far, padding included, over all processes."""
    training_seconds: float | None = None
    """Time spent training so far, earlier parts of a resumed run included."""
    loss_nats: float | None = None
    """Mean loss of the next token."""
    multi_token_loss_nats: tuple[float, ...] = ()
    """Mean loss of the token after the next, and of the ones after that."""
    balance_loss: float | None = None
    router_z_loss: float | None = None
    expert_load_max_over_mean: float | None = None
    """Load of the busiest expert relative to an even load, in the layer where that is largest."""
    expert_load_min_over_mean: float | None = None
    learning_rate: float | None = None
    matrix_learning_rate: float | None = None
    grad_norm: float | None = None
    """Norm of the whole gradient before clipping, in the last step."""
    loss_scale: float | None = None
    skipped_steps: int | None = None
    """Steps so far that changed nothing because scaled gradients overflowed (float16 only)."""
    step_seconds: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    validation_loss_nats: float | None = None
    validation_bits_per_byte: float | None = None
    validation_multi_token_loss_nats: tuple[float, ...] = ()

    def to_line(self) -> str:
        """One line of JSON, without the line's end; a number that is not finite becomes null."""
        row = {field.name: _finite(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return json.dumps(row, allow_nan=False, separators=(",", ":"))

    def known(self) -> dict[str, float]:
        """The numbers that are known, flat, for trackers."""
        numbers: dict[str, float] = {}
        for field in dataclasses.fields(self):
            value = _finite(getattr(self, field.name))
            if field.name in ("schema", "step") or value is None:
                continue
            if isinstance(value, (list, tuple)):
                numbers |= {f"{field.name}.{depth}": item for depth, item in enumerate(value, 2) if item is not None}
            else:
                numbers[field.name] = value
        return numbers


def _finite(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0.0:
        return None
    return value


class MetricsFile:
    """Appends records to `metrics.jsonl`; each line is on its way to the disk before the next step starts."""

    def __init__(self, path: str | Path, *, resumed_step: int) -> None:
        """Open the file for a run that goes on after `resumed_step` steps (0 for a new one).

        Raises:
            FileWriteError: the file cannot be written.
        """
        self.path = Path(path)
        kept = [row for row in _rows(self.path) if row["step"] <= resumed_step] if self.path.exists() else []
        self._start_with(kept)

    def _start_with(self, rows: Sequence[dict[str, Any]]) -> None:
        write_text_atomically(self.path, "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
        self.lines = len(rows)
        """Records in the file."""
        self._last_step = rows[-1]["step"] if rows else None
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open for as long as the run

    def write(self, record: StepRecord) -> None:
        """Append one record; if the last line is of the same step, what the record knows is put into that line.

        Raises:
            FileWriteError: the disk is full or gone.
        """
        if record.step == self._last_step:
            self._file.close()
            *before, last = _rows(self.path)
            news = {name: value for name, value in json.loads(record.to_line()).items() if value not in (None, [])}
            self._start_with([*before, last | news])
            return
        self._last_step = record.step
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


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole; a run that was killed while it wrote leaves half a line at the end."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MetricsError(f"{path} cannot be read: {error}; move it away to go on") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise MetricsError(f"{path}, line {number}: not JSON; remove the line to go on") from None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise MetricsError(f"{path}, line {number}: has no step; remove the line to go on")
        if row.get("schema", 0) > SCHEMA:
            raise MetricsError(
                f"{path}, line {number}: schema {row['schema']} is newer than {SCHEMA}: update the program"
            )
        rows.append(row)
    return rows


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All records of a run, oldest first.

    Raises:
        MetricsError: there is no such file, or it is not a metrics file.
    """
    path = Path(path)
    if not path.is_file():
        raise MetricsError(f"{path} is not there; a run writes it into its checkpoint folder")
    return _rows(path)


def series(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one field where it is known."""
    known = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in known], [value for _, value in known]


def peak_memory_bytes(device_type: str) -> int | None:
    """Most memory used so far: the GPU's own count, or this process's resident set; None where nothing tells."""
    if device_type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    if os.name != "posix":
        return None
    import resource
    import sys

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(largest) if sys.platform == "darwin" else int(largest) * 1024  # macOS counts bytes, Linux KiB
