"""The learning rate over a run: a warm-up, then a decay that ends where the run ends.

A run ends after a number of steps or after a time, whichever comes first, so the decay follows the larger of the two
shares that are used up: a run that is limited by time still ends with a fully decayed learning rate.
Everything here is a pure function of a step and of seconds.

Shapes: `cosine` (arXiv 1608.03983, without restarts), `linear`, `constant`, and `warmdown`: constant, then linear to
the end (warm-up, stable, decay; arXiv 2404.06395).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import TrainingConfig

DEFAULT_WARMUP_SHARE = 0.02
"""Share of the run over which the learning rate rises when `warmup_iters` is not given."""


def run_share(step: int, max_iters: int, seconds: float, max_seconds: float | None) -> float:
    """The share of the run that is used up, from 0 to 1: the larger one of steps and time.

    Args:
        step: optimizer steps taken.
        max_iters: steps of the whole run; 0 is a run that is over.
        seconds: time spent training, earlier parts of a resumed run included.
        max_seconds: time of the whole run; None is no limit.
    """
    share = step / max_iters if max_iters else 1.0
    if max_seconds is not None:
        share = max(share, seconds / max_seconds)
    return min(1.0, max(0.0, share))


def decay(kind: str, share: float, *, floor: float, warmdown_fraction: float) -> float:
    """The learning rate as a share of its peak, at a share of the decay's way from 0 to 1.

    Args:
        kind: cosine, linear, constant or warmdown.
        share: how far along, 0 to 1.
        floor: value at the end (`constant` does not fall).
        warmdown_fraction: share of the way over which `warmdown` falls.
    """
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        height = 0.5 * (1.0 + math.cos(math.pi * share))
    elif kind == "linear":
        height = 1.0 - share
    elif kind == "warmdown":
        height = min(1.0, (1.0 - share) / warmdown_fraction)
    else:
        raise AssertionError(f"unknown schedule {kind!r}")
    return floor + (1.0 - floor) * height


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What the learning rate is multiplied with, at any moment of a run."""

    kind: str
    max_iters: int
    max_seconds: float | None = None
    warmup_iters: int | None = None
    warmdown_fraction: float = 0.5
    floor: float = 0.1

    @classmethod
    def from_config(cls, config: TrainingConfig) -> Schedule:
        return cls(
            kind=config.learning_rate_schedule,
            max_iters=config.max_iters,
            max_seconds=config.max_seconds,
            warmup_iters=config.warmup_iters,
            warmdown_fraction=config.warmdown_fraction,
            floor=config.min_learning_rate_ratio,
        )

    def warmup(self, step: int, seconds: float) -> float:
        """Height of the warm-up, above 0 and at most 1, for the step that follows `step` others.

        With a time limit, and without a number of its own, it lasts 2% of the steps or of the time, whichever is
        shorter: 2% of 100,000 steps would be all that a run of four minutes gets to.
        """
        steps = self.warmup_iters
        if steps is None:
            steps = math.ceil(DEFAULT_WARMUP_SHARE * self.max_iters)
        height = (step + 1) / (steps + 1)
        if self.warmup_iters is None and self.max_seconds is not None:
            height = max(height, seconds / (DEFAULT_WARMUP_SHARE * self.max_seconds))
        return min(1.0, height)

    def factor(self, step: int, seconds: float) -> float:
        """The learning rate of the step that follows `step` others after `seconds`, as a share of its highest value."""
        share = run_share(step, self.max_iters, seconds, self.max_seconds)
        return self.warmup(step, seconds) * decay(
            self.kind, share, floor=self.floor, warmdown_fraction=self.warmdown_fraction
        )
