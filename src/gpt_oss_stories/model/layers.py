"""torch's layers without their own initialisation: the model draws all its parameters itself, from one seed.

Drawing them twice takes seconds for large tables; and on the meta device, where a model is only built for its shapes,
torch would load its compiler for it, which takes longer than opening a small model.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """A matrix and a bias, to be drawn by `StoryTransformer.initialise`."""

    def reset_parameters(self) -> None:
        """Leave the parameters as they were allocated."""


class Embedding(nn.Embedding):
    """A table with a row for each token, to be drawn by `StoryTransformer.initialise`."""

    def reset_parameters(self) -> None:
        """Leave the parameters as they were allocated."""


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a layer in the input's dtype: parameters stay float32 and are cast where they are used."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)
