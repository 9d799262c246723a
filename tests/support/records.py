"""What a run has recorded, field by field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def series(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one field where it is known; `rows` as `read_metrics` gives them."""
    known = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in known], [value for _, value in known]
