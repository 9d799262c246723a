"""Matrices in 8 bits, for decoding.

A single token's step reads every active weight once and does two operations with it, so its time is that of reading
memory; a byte instead of four makes it much shorter. Only weights are rounded: activations, sums, biases, norms, the
router and the cache stay float32.

Each output of a matrix has a scale of its own, the largest of its weights over 127; a weight becomes the nearest whole
number of scales. Zero stays zero, and what was rounded once stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from .transformer import StoryTransformer

LARGEST = 127


def quantize(weight: Tensor) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers and scales whose products are nearly a matrix.

    Args:
        weight: (outputs, inputs), or (experts, inputs, outputs): float32 on the CPU, inputs on axis 1.

    Returns:
        the numbers, of the same shape, and the scales, (outputs,) or (experts, outputs).
    """
    scale = weight.abs().amax(1) / LARGEST
    steps = weight / scale.unsqueeze(1).clamp(min=torch.finfo(torch.float32).tiny)
    return steps.round_().clamp_(-LARGEST, LARGEST).to(torch.int8).numpy(), scale.numpy()


def dequantize(numbers: NDArray[np.int8], scale: NDArray[np.float32]) -> Tensor:
    """The float32 matrix that `quantize`d numbers stand for."""
    return torch.from_numpy(numbers).float() * torch.from_numpy(scale).unsqueeze(1)


def large_matrices(model: StoryTransformer) -> Iterator[Tensor]:
    """The parameters that decoding reads in 8 bits."""
    leaves = (".qkv.weight", ".out.weight", ".gate_up_weight", ".down_weight")
    for name, parameter in model.named_parameters():
        if name.startswith("layers.") and name.endswith(leaves):
            yield parameter.detach()
    yield model.unembedding_weight.detach()


@torch.no_grad()
def quantize_for_decoding(model: StoryTransformer) -> None:
    """Round a model's large matrices to 8 bits, in place, and let it decode from bytes.

    The parameters then are the rounded numbers themselves, in float32. So whatever reads them, the evaluation of a loss
    as well as long prompts, works with exactly the model that decodes.
    """
    for matrix in large_matrices(model):
        matrix.copy_(dequantize(*quantize(matrix.float().cpu())))
    model.decode_weights = "int8"
