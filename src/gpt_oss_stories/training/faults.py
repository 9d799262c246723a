"""What can go wrong in a step without ending a run: numbers that are not finite, and memory that is not there.

A step whose losses or gradients are not finite is skipped, and what was the matter is kept in `bad-steps/`: one JSON
file for each such step, of which the newest stay. Numbers that are not finite are texts there ("nan", "inf", "-inf"),
since JSON has no others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_text_atomically
from .distributed import Processes
from .slices import is_sliced, local

EVIDENCE_FOLDER = "bad-steps"
MOST_EVIDENCE = 20
"""Files that stay there."""

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc", "ALLOC_FAILED")
"""What torch's allocators and libraries write into a plain RuntimeError."""


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What became of a step's gradient."""

    moved: bool
    """The weights were changed by it."""
    gradient_norm: float
    """Norm before clipping."""
    loss_scale: float | None
    """What the loss was multiplied with (float16 only)."""
    overflowed: bool = False
    """Nothing but the scaling of float16 made it infinite: part of finding the scale, and no fault."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, be it a GPU's or the machine's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def first_line(error: BaseException) -> str:
    """An exception of foreign code in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def not_finite(tensors: Mapping[str, Tensor], processes: Processes) -> dict[str, dict[str, int]]:
    """Where a model's tensors, or their gradients, are not finite; together.

    Args:
        tensors: by name, the same names in every process; tensors of which each holds a slice, or what ought to be
            equal ones, of which the worst counts.

    Returns:
        For each tensor with such elements: how many are nan, how many infinite, and how many it has in all.
    """
    counts: list[float] = []
    for tensor in tensors.values():
        part = local(tensor)
        counts += [float(torch.isnan(part).sum()), float(torch.isinf(part).sum())]
    sliced = any(is_sliced(tensor) for tensor in tensors.values())
    counts = processes.total(counts) if sliced else processes.largest(counts)
    found = {}
    for index, (name, tensor) in enumerate(tensors.items()):
        nan, infinite = int(counts[2 * index]), int(counts[2 * index + 1])
        if nan or infinite:
            found[name] = {"nan": nan, "infinite": infinite, "elements": tensor.numel()}
    return found


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients that a model's parameters have, by name."""
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def keep_evidence(directory: Path, step: int, facts: Mapping[str, Any]) -> Path:
    """Write what is known about a step that was skipped, and remove the oldest files beyond `MOST_EVIDENCE`.

    Args:
        directory: checkpoint folder.
        step: number of the step, from 1.
        facts: plain values; numbers may be not finite.

    Raises:
        FileWriteError: the file cannot be written.
    """
    folder = directory / EVIDENCE_FOLDER
    path = folder / f"step-{step:08d}.json"
    content = json.dumps(_plain({"step": step, **facts}), allow_nan=False)
    write_text_atomically(path, content + "\n")
    files = sorted(folder.glob("step-*.json"), key=lambda file: file.stat().st_mtime_ns)
    for old in files[:-MOST_EVIDENCE]:
        old.unlink(missing_ok=True)
    return path


def _plain(value: Any) -> Any:
    """The same with texts in place of numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
