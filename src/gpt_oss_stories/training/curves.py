"""The record of a run as columns of numbers: a fiftieth of the memory that its lines take as objects."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .metrics import MetricsError, iterate_metrics

Curve = tuple[Sequence[float], Sequence[float]]
"""Steps and values, where a value is known."""


class Curves:
    """All numbers of a run's `metrics.jsonl`, by field."""

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            MetricsError: there is no such file, it is not a metrics file, or it has no steps yet.
        """
        self.last: dict[str, Any] = {}
        """The last record."""
        self.load: tuple[int, list[list[float]]] | None = None
        """The last step at which the load of experts is known, and it; see `StepRecord.expert_load`."""
        self._columns: dict[str, tuple[array[float], array[float]]] = {}
        for row in iterate_metrics(path):
            self._add(row)
        if not self.last:
            raise MetricsError(f"{path} has no steps yet; there is nothing to draw")

    def _add(self, row: dict[str, Any]) -> None:
        self.last, step = row, row["step"]
        if load := row.get("expert_load"):
            self.load = step, load
        for name, value in row.items():
            if isinstance(value, (int, float)):
                self._append(name, step, value)
            elif isinstance(value, list) and name != "expert_load":
                for place, item in enumerate(value):
                    if isinstance(item, (int, float)):
                        self._append(f"{name}.{place}", step, item)

    def _append(self, name: str, step: int, value: float) -> None:
        if name not in self._columns:
            self._columns[name] = array("d"), array("d")
        steps, values = self._columns[name]
        steps.append(step)
        values.append(value)

    def __getitem__(self, name: str) -> Curve:
        """Steps and values of a field; empty where it is never known."""
        return self._columns.get(name, ((), ()))

    def places(self, name: str) -> list[Curve]:
        """The same for each place of a field that is a list."""
        found: list[Curve] = []
        while f"{name}.{len(found)}" in self._columns:
            found.append(self[f"{name}.{len(found)}"])
        return found
