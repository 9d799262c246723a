"""Moving rows of a matrix to other places, forward and backward, as two gathers.

Packed documents and routed tokens are both "take these rows in that order". Autograd's own backward of indexing is a
scatter-add, which on a CPU runs row by row; where the places that each row went to are known, its gradient is a
gather too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, places: Tensor, used: Tensor | None) -> Tensor:
        ctx.save_for_backward(places, used)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        places, used = ctx.saved_tensors
        grad = grads[0].contiguous()
        copies = places.shape[1]
        gathered = grad.index_select(0, places.reshape(-1))
        if copies > 1:
            gathered = gathered.view(-1, copies, grad.shape[-1]).sum(1)
        if used is not None:
            gathered = gathered * used[:, None]
        return gathered, None, None, None


def take_rows(rows: Tensor, index: Tensor, places: Tensor, used: Tensor | None = None) -> Tensor:
    """`rows[index]`, with a gradient that is gathered instead of scattered.

    Args:
        rows: (n, width).
        index: (m,) int64, the row that goes to each place. Places that no row claims below are filler: what stands
            there must not influence any result.
        places: (n, copies) int64, where each row went.
        used: (n,) bool, False for rows that went nowhere (their `places` are ignored); None when all went somewhere.

    Returns:
        (m, width).
    """
    return _TakeRows.apply(rows, index, places, used)
