"""Tensors of which each process holds a slice (DTensor), and plain ones, alike.

Functions that are marked *together* exchange something: all processes must call them, in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sliced(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this process holds only a slice of the tensor."""
    if type(tensor) in (Tensor, torch.nn.Parameter):  # without importing anything
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's slice, sharing the tensor's memory; any other tensor as it is."""
    return tensor.to_local() if is_sliced(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together from all processes' slices; together."""
    return tensor.full_tensor() if is_sliced(tensor) else tensor


def whole_matrices(part: Tensor, parameter: Tensor) -> Tensor:
    """Values for this process's slice of a parameter, completed to whole matrices; together.

    Slices of stacked matrices, (matrices, rows, cols), that are cut between matrices are complete.
    """
    if not is_sliced(parameter) or _is_cut_between_matrices(parameter):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = parameter.device_mesh, parameter.placements
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(part, mesh, placements, shape=shape, stride=stride).full_tensor()


def own_part(matrices: Tensor, parameter: Tensor) -> Tensor:
    """What this process holds of what `whole_matrices` gave."""
    if not is_sliced(parameter) or _is_cut_between_matrices(parameter):
        return matrices
    return own_slice(matrices, parameter)


def own_slice(full: Tensor, example: Tensor) -> Tensor:
    """This process's slice of a whole tensor, cut like an example of the same shape."""
    if not is_sliced(example):
        return full
    from torch.distributed.tensor import distribute_tensor

    # Every process has the same values already: nothing is sent.
    return distribute_tensor(full, example.device_mesh, example.placements, src_data_rank=None).to_local()


def _is_cut_between_matrices(parameter: DTensor) -> bool:
    return parameter.dim() == 3 and all(placement.is_shard(0) for placement in parameter.placements)
