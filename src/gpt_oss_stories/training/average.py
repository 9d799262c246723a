"""An exponential moving average of the weights, which is often better than the last weights of a noisy run.

After each step a <- d a + (1 - d) w. While few steps have been taken, a fixed d near 1 would leave the average at the
random weights that training began with. So d rises: after n earlier updates it is min(decay, (1 + n) / (10 + n)), the
warm-up of TensorFlow's `ExponentialMovingAverage` with `num_updates`. Averaging of weights: Polyak and Juditsky,
"Acceleration of stochastic approximation by averaging" (1992).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .slices import local


class WeightAverage:
    """The average of a model's parameters; of each, where processes share the model, this process's slice."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: the model, on its device and shared among processes; the average begins with its weights.
            decay: the highest d, above 0 and below 1.
        """
        self.decay = decay
        self.updates = 0
        """Steps that the average has seen."""
        self._model = model
        self._parameters = dict(model.named_parameters())
        self._averages = {name: torch.empty_like(parameter) for name, parameter in self._parameters.items()}
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the model's present weights."""
        self.updates = 0
        for name, parameter in self._parameters.items():
            local(self._averages[name]).copy_(local(parameter))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages = [local(average) for average in self._averages.values()]
        torch._foreach_lerp_(averages, [local(parameter) for parameter in self._parameters.values()], 1.0 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The live averages by parameter name; writing into them, and setting `updates`, restores a state."""
        return dict(self._averages)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For the length of a block the model has the averages as its weights; afterwards it has its own, bit for bit.

        The values change places one parameter after the other, so no second copy of the model is needed, and whatever
        keeps a parameter's address sees the new values.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        # A model in slices may still hold whole parameters, put together from the slices as they were.
        if (reshard := getattr(self._model, "reshard", None)) is not None:
            reshard()
        for name, parameter in self._parameters.items():
            own, average = local(parameter), local(self._averages[name])
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)
