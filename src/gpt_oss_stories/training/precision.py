"""In which number format a run computes on its device, with the reason in words.

Parameters, gradients and optimizer state are float32 always; the choice here is about the matrix products between them.
bfloat16 has float32's range and needs nothing else. float16 overflows, so it comes with gradient scaling
(arXiv 1710.03740). float32 stays where neither is fast, and on Apple's GPUs, where half precision is known to diverge.
A format that is asked for by name is used, fast or not.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Precision:
    """The number format of matrix products."""

    dtype: torch.dtype
    scaled: bool
    """Losses are scaled up before the backward pass and gradients down after it (float16 only)."""
    reason: str

    def describe(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} ({self.reason})"


FORMATS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def choose_precision(device: torch.device, mixed: bool, wish: str = "auto") -> Precision:
    """The number format to train in on a device.

    Args:
        device: where it runs.
        mixed: for auto: the format that is fast and safe there, as opposed to float32.
        wish: auto, or bfloat16, float16 or float32.
    """
    if wish != "auto":
        dtype = FORMATS[wish]
        remark = "; gradients are scaled" if dtype == torch.float16 else ""
        return Precision(dtype, dtype == torch.float16, f"asked for{remark}{_slow(device, dtype)}")
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


def _slow(device: torch.device, dtype: torch.dtype) -> str:
    """A remark about a format that a device computes in only by way of another one."""
    if dtype == torch.float32:
        return ""
    if device.type == "cuda":
        slow = dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False)
        return "; the GPU only emulates it" if slow else ""
    if device.type == "mps":
        return "; not reliable on this kind of device"
    slow = dtype == torch.float16 or _cpu_bfloat16_units() is None
    return "; slower than float32 on this CPU" if slow else ""


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
