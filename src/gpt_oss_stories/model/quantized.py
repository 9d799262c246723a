"""Matrices in 8 bits, for decoding one token at a time.

One token's step reads every active weight once and does two operations with it, so its time is that of reading memory;
a byte instead of four makes it much shorter. Only weights are rounded: activations, sums, biases, norms, the router and
the cache stay float32.

A product x @ W with W of (inputs, outputs) is a sum of W's rows, weighed by x: what recommendation models call an
embedding bag, for which torch has a kernel over rows of bytes that sums in float32. Each row of such a table has a
minimum and a step of its own, and stands for one input and a group of at most `GROUP` outputs.

Axis letters:  M matrices   I inputs   O outputs   G groups of outputs   C chosen matrices
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from .transformer import StoryTransformer

GROUP = 256
"""Most weights with one minimum and step, which take 8 bytes: 3 % more than the weights themselves. Groups are also
what the cores share."""


class ByteTable:
    """Matrices of one shape in 8 bits.

    Args:
        weight_MIO: (M, I, O) float32 on the CPU.
    """

    def __init__(self, weight_MIO: Tensor) -> None:
        matrices, inputs, outputs = self.shape = weight_MIO.shape
        # The fewest groups of equal size.
        groups = next(count for count in range(-(-outputs // GROUP), outputs + 1) if outputs % count == 0)
        self.groups = groups
        # (M I G, O / G) bytes, and 8 more in each row for its step and minimum.
        self._rows = torch.ops.quantized.embedding_bag_byte_prepack(weight_MIO.reshape(-1, outputs // groups))
        # Rows of a matrix in the order of their use, the inputs of its first group of outputs before the second's.
        row_MIG = np.arange(matrices * inputs * groups, dtype=np.int32).reshape(matrices, inputs, groups)
        self._row_MGI = np.ascontiguousarray(row_MIG.transpose(0, 2, 1))
        self._begin = torch.arange(0, matrices * groups * inputs, inputs, dtype=torch.int32)

    def dequantized(self) -> Tensor:
        """(M, I, O) float32: the weights that the table stands for."""
        rows: Tensor = torch.ops.quantized.embedding_bag_byte_unpack(self._rows)
        return rows.reshape(self.shape)

    def products(self, x_CI: NDArray[np.float32], chosen: Sequence[int] | NDArray[np.intp]) -> NDArray[np.float32]:
        """x @ W for one or more of the matrices.

        Args:
            x_CI: (C, I), or (1, I) for the same input to all.
            chosen: C indices of matrices, each at most once.

        Returns:
            (C, O).
        """
        count = len(chosen)
        row_CGI = self._row_MGI if count == len(self._row_MGI) == 1 else self._row_MGI[chosen]
        weight_CGI = np.empty(row_CGI.shape, dtype=np.float32)
        weight_CGI[:] = x_CI[:, None]
        sums: Tensor = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            self._rows,
            torch.from_numpy(row_CGI.reshape(-1)),
            self._begin[: count * self.groups],
            per_sample_weights=torch.from_numpy(weight_CGI.reshape(-1)),
        )
        return sums.numpy().reshape(count, -1)


def large_matrices(model: StoryTransformer) -> Iterator[Tensor]:
    """The parameters that decoding keeps in 8 bits, each as a view (M, I, O)."""
    for name, parameter in model.named_parameters():
        if name.startswith("layers."):
            if name.endswith((".qkv.weight", ".out.weight")):
                yield parameter.detach().t()[None]
            elif name.endswith((".gate_up_weight", ".down_weight")):
                yield parameter.detach()
    yield model.unembedding_weight.detach().t()[None]


@torch.no_grad()
def quantize_for_decoding(model: StoryTransformer) -> None:
    """Round a model's large matrices to 8 bits, in place, and let it decode single rows from bytes.

    The parameters then are the rounded numbers themselves, in float32. So whatever reads them, the evaluation of a loss
    as well as prompts and batches, works with exactly the model that decodes. Small matrices are multiplied in float32
    even so, where bytes would save nothing (`decode.SMALL_MATRIX`), and so is everything that is not on a CPU.
    """
    for matrix in large_matrices(model):
        matrix.copy_(ByteTable(matrix.float().cpu()).dequantized())
    model.decode_weights = "int8"
