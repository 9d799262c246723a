"""Sums over the steps between two records of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepCounts:
    """What is counted in all processes' rows of one optimizer step before it is computed."""

    targets: tuple[float, ...]
    """Targets at each depth."""
    target_bytes: float
    """UTF-8 bytes of the next-token targets."""


@dataclass
class StepSums:
    """Sums over the steps since the last record. A step whose losses are not finite is in no mean."""

    steps: int = 0
    """Steps that were taken, skipped ones included."""
    seconds: float = 0.0
    tokens: int = 0
    targets: float = 0.0
    finite_steps: int = 0
    grad_norm: float | None = None
    """Of the last step, None if it was skipped."""
    factor: float = 0.0
    """What the last step's highest learning rates were multiplied with."""
    _losses: list[float] = field(default_factory=list)
    _load: Tensor | None = None
    _nats: float = 0.0
    _bytes: float = 0.0

    def add(
        self,
        losses: Sequence[float],
        load: Tensor,
        counts: StepCounts,
        *,
        seconds: float,
        tokens: int,
        grad_norm: float | None,
        factor: float,
    ) -> None:
        """Add one step.

        Args:
            losses: means over the step: next-token loss, those of the tokens after it, balance loss, z-loss.
            load: (layers, experts) token-expert pairs; no layers for a dense model.
            counts: what the step predicted.
            seconds: time that the step took; less than none counts as none.
            tokens: tokens of its rows, padding included.
            grad_norm: norm of its gradient.
            factor: what the highest learning rates were multiplied with.
        """
        self.steps += 1
        self.seconds += max(0.0, seconds)
        self.tokens += tokens
        self.targets += counts.targets[0]
        self.grad_norm, self.factor = grad_norm, factor
        if not all(map(math.isfinite, losses)):
            return
        self.finite_steps += 1
        self._losses = [a + b for a, b in zip(self._losses or [0.0] * len(losses), losses, strict=True)]
        load = load.cpu()
        self._load = load if self._load is None else self._load + load
        self._nats += losses[0] * counts.targets[0]
        self._bytes += counts.target_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a training state."""
        load = None if self._load is None else self._load.tolist()
        return {name.strip("_"): value for name, value in {**vars(self), "_load": load}.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepSums:
        """What `to_dict` gave."""
        private = {"losses", "load", "nats", "bytes"}
        sums = cls(**{f"_{name}" if name in private else name: value for name, value in values.items()})
        sums._load = None if values["load"] is None else torch.tensor(values["load"])
        return sums

    def mean_losses(self) -> list[float]:
        """The losses of `add`, means over the steps; none if no step's were finite."""
        return [value / self.finite_steps for value in self._losses]

    def bits_per_byte(self) -> float | None:
        """Bits of the next-token loss for each byte of text that was predicted."""
        return self._nats / math.log(2) / self._bytes if self._bytes else None

    def load_shares(self) -> Tensor | None:
        """(layers, experts) each expert's share of its layer's token-expert pairs; None for a dense model."""
        return None if self._load is None or not self._load.numel() else load_shares(self._load)


def load_shares(load: Tensor) -> Tensor:
    """Token-expert pairs, (layers, experts), as shares of each layer's, float64; 0 where a layer has none."""
    load = load.double()
    return load / load.sum(1, keepdim=True).clamp(min=1.0)


def relative_entropy(shares: Tensor) -> Tensor:
    """Entropy of each layer's load relative to that of an even one: 1 if all experts get the same, 0 if one gets all.

    Args:
        shares: (layers, experts) as of `load_shares`, of at least two experts.
    """
    return torch.special.entr(shares).sum(1) / math.log(shares.shape[1])
