"""A decoding step's matrix products, each in the form that is fastest for the tokens there are.

Axis letters:  N tokens   I inputs of a matrix, O its outputs   E experts   C experts of one token
               R rows for experts: pairs of token and expert, sorted by expert
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .quantized import ByteTable

Array = NDArray[np.float32]


class Twin:
    """Memory that is an array to numpy and a tensor to torch."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.array: Array = tensor.numpy()

    @classmethod
    def empty(cls, *shape: int) -> Twin:
        """float32 that nobody has written yet."""
        return cls(torch.empty(shape))


class LinearProduct:
    """y = W x + b, on views of a layer's parameters.

    Args:
        weight_OI: float32.
        bias_O: float32, or None.
        in_bytes: whether single tokens are multiplied with the weights in 8 bits.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, *, in_bytes: bool) -> None:
        self._weight_OI, self._bias_O = weight_OI, bias_O
        self.table = ByteTable(weight_OI.t()[None]) if in_bytes else None

    def one(self, x_I: Twin, y_O: Twin) -> None:
        """For one token."""
        if self.table is not None:
            y_O.array[:] = self.table.products(x_I.array[None], (0,))[0]
            if self._bias_O is not None:
                y_O.array += self._bias_O.numpy()
        elif self._bias_O is not None:
            torch.addmv(self._bias_O, self._weight_OI, x_I.tensor, out=y_O.tensor)
        else:
            torch.mv(self._weight_OI, x_I.tensor, out=y_O.tensor)

    def many(self, x_NI: Array) -> Array:
        """(N, O), contiguous, for several tokens."""
        # oneMKL needs half the time when the tokens, which are few, are the product's columns and not its rows.
        y_NO = torch.mm(self._weight_OI, torch.from_numpy(x_NI).t()).t()
        y_NO = y_NO.contiguous() if self._bias_O is None else (y_NO + self._bias_O).contiguous()
        return y_NO.numpy()


class ChosenRows(Twin):
    """One row for each expert that a token has chosen.

    Attributes:
        pairs: what torch sees of them, two at a time: tensors (2 or 1, 1, width).
    """

    def __init__(self, tensor_CW: Tensor) -> None:
        super().__init__(tensor_CW)
        self.pairs = tensor_CW[:, None].split(2)


class ExpertProduct:
    """y = x W[e] + b[e] for the experts that tokens have chosen, on views of a layer's parameters.

    Args:
        weight_EIO, bias_EO: float32.
        in_bytes: whether single tokens are multiplied with the weights in 8 bits.
    """

    def __init__(self, weight_EIO: Tensor, bias_EO: Tensor, *, in_bytes: bool) -> None:
        self._weight_EIO, self._bias_EO = weight_EIO, bias_EO
        self._biases_EO: Array = bias_EO.numpy()
        self._pairs: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self.table = ByteTable(weight_EIO) if in_bytes else None

    def one(self, x_CI: ChosenRows, experts: list[int], y_CO: ChosenRows) -> None:
        """For one token; its experts in rising order."""
        if self.table is not None:
            np.add(self.table.products(x_CI.array, experts), self._biases_EO[experts], out=y_CO.array)
            return
        # Two experts at a time, so that each of two cores takes one.
        for place, (x, y) in enumerate(zip(x_CI.pairs, y_CO.pairs, strict=True)):
            bias, weight = self._pair(experts[2 * place : 2 * place + 2])
            torch.baddbmm(bias, x, weight, out=y)

    def _pair(self, experts: list[int]) -> tuple[Tensor, Tensor]:
        """Biases (2, 1, O) and weights (2, I, O) of two experts, or of one. Whichever they are, they are a view, with a
        stride of its own."""
        key = tuple(experts)
        if key not in self._pairs:
            both = slice(experts[0], experts[-1] + 1, max(experts[-1] - experts[0], 1))
            self._pairs[key] = self._bias_EO[both, None], self._weight_EIO[both]
        return self._pairs[key]

    def many(self, x_RI: Array, experts: Sequence[int], bounds: Sequence[int]) -> Array:
        """(R, O) for several tokens: rows bounds[i] to bounds[i + 1] multiplied with the matrix of experts[i]."""
        y_RO = np.empty((len(x_RI), self._bias_EO.shape[1]), dtype=np.float32)
        x, y = torch.from_numpy(x_RI), torch.from_numpy(y_RO)
        for expert, (begin, end) in zip(experts, pairwise(bounds), strict=True):
            torch.addmm(self._bias_EO[expert], x[begin:end], self._weight_EIO[expert], out=y[begin:end])
        return y_RO
