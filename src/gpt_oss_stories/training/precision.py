"""Which device a run uses and in which number format it computes, each with its reason in words.

Parameters, gradients and optimizer state are float32 always; the choice here is about the matrix products between them.
bfloat16 has float32's range and needs nothing else. float16 overflows, so it comes with gradient scaling
(arXiv 1710.03740). float32 stays where neither is fast, and on Apple's GPUs, where half precision is known to diverge.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import StoryError


class DeviceError(StoryError):
    """The device that was asked for is not there."""


@dataclass(frozen=True)
class Precision:
    """The number format of matrix products."""

    dtype: torch.dtype
    scaled: bool
    """Losses are scaled up before the backward pass and gradients down after it (float16 only)."""
    reason: str

    def describe(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} ({self.reason})"


def choose_device(name: str, *, local_rank: int = 0, processes: int = 1) -> torch.device:
    """The device of this process; a CUDA device becomes the current one, before anything is put on it.

    Args:
        name: auto, cpu, mps, cuda or cuda:N.
        local_rank: number of this process among those on its machine.
        processes: how many processes train together.

    Raises:
        DeviceError: the machine has no such device, or fewer GPUs than processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and processes == 1 and torch.backends.mps.is_available():
            name = "mps"
    kind, colon, _ = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and kind != "cuda"):
        raise DeviceError(f"device={name!r} is not auto, cpu, cuda, cuda:N or mps")
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device='mps': this machine has no Apple GPU that torch can use; try --device cpu")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(":")[2] or local_rank)
        if count == 0:
            raise DeviceError(f"device={name!r}: torch finds no CUDA device here; try --device cpu")
        if processes > 1 and ":" in name:
            raise DeviceError(f"device={name!r} names one GPU for {processes} processes; use --device cuda")
        if index >= count:
            raise DeviceError(
                f"device={name!r}: process {local_rank} needs GPU {index}, but there are {count}, from 0 on"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        return device
    return torch.device(name)


def choose_precision(device: torch.device, mixed: bool) -> Precision:
    """The number format that is fast and safe on a device."""
    if not mixed:
        return Precision(torch.float32, False, "mixed precision is off")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(torch.bfloat16, False, "the GPU computes in it")
        return Precision(torch.float16, True, "the GPU has no bfloat16; gradients are scaled")
    if device.type == "mps":
        return Precision(torch.float32, False, "half precision is not reliable on this kind of device")
    if units := _cpu_bfloat16_units():
        return Precision(torch.bfloat16, False, f"the CPU has {units}")
    return Precision(torch.float32, False, "the CPU has no fast bfloat16 units")


def _cpu_bfloat16_units() -> str | None:
    """Name of the CPU's bfloat16 matrix units, None where there are none or nothing is known."""
    # torch tells what the processor can do through private names that come and go between its versions: ask carefully.
    for function, units in (
        ("_is_amx_tile_supported", "bfloat16 matrix units (AMX)"),
        ("_is_avx512_bf16_supported", "bfloat16 instructions (AVX-512)"),
    ):
        probe = getattr(torch.cpu, function, None)
        if probe is not None and probe():
            return units
    if platform.machine() in ("aarch64", "arm64"):
        facts = Path("/proc/cpuinfo")
        if facts.is_file() and " bf16" in facts.read_text(encoding="utf-8", errors="replace"):
            return "bfloat16 instructions (ARM)"
    return None
