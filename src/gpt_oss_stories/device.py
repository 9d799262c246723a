"""The names of devices, and the device that a name means on this machine.

Names can be checked without torch, which is loaded only when a device is chosen.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import StoryError

if TYPE_CHECKING:
    import torch

DEVICE_NAMES = "auto, cpu, cuda, cuda:N or mps"
"""The names of devices in words, for messages."""

_NAME = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,4})?")


class DeviceError(StoryError):
    """The device that was asked for is not there."""


def is_device_name(name: str) -> bool:
    """Whether a text names a device, on this machine or another."""
    return _NAME.fullmatch(name) is not None


def choose_device(name: str, *, local_rank: int = 0, processes: int = 1) -> torch.device:
    """The device that a name means here, to one process or to one among several that train together.

    Args:
        name: auto, cpu, mps, cuda or cuda:N; auto is a GPU where there is one.
        local_rank: number of this process among those on its machine; cuda means the GPU of that number.
        processes: how many processes work together.

    Raises:
        DeviceError: the name means no device, the machine has no such device, or fewer GPUs than processes.
    """
    import torch

    if not is_device_name(name):
        raise DeviceError(f"device={name!r} is not {DEVICE_NAMES}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and processes == 1 and torch.backends.mps.is_available():
            name = "mps"  # torch has no communication between several processes there
    kind, _, number = name.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device='mps': this machine has no Apple GPU that torch can use; try --device cpu")
    if kind != "cuda":
        return torch.device(kind)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise DeviceError(f"device={name!r}: torch finds no CUDA device here; try --device cpu")
    if number and processes > 1:
        raise DeviceError(f"device={name!r} names one GPU for {processes} processes; use --device cuda")
    index = int(number or local_rank)
    if index >= count:
        raise DeviceError(f"device={name!r}: GPU {index} is needed, but torch finds {count} here, counted from 0")
    return torch.device("cuda", index)
