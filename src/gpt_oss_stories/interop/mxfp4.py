"""MXFP4: blocks of 32 four-bit floats that share one power-of-two scale.

A value is E2M1 (a sign, two bits of exponent, one of mantissa); a scale is one byte, 2 ** (byte - 127). Two values
lie in a byte, the low four bits first. Source: OCP Microscaling Formats (MX) specification 1.0; as stored by gpt-oss
(`gpt_oss/torch/weights.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_VALUES = 32
SCALE_BIAS = 127
LARGEST_SCALE = 254
"""Scale bytes go from 0 to this; 255 stands for not-a-number."""

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""What each of the sixteen codes stands for."""

_BORDERS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
"""Half-way between the eight sizes: a value on an odd border belongs to the size below, on an even one to that above,
which is the one whose mantissa is even."""

_SCALE_TRIALS = (-2, -1, 0, 1)
"""Exponents tried for a block, counted from the one with which its largest value lies between 4 and 8."""


def decode_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Unpack to float32, exactly.

    Args:
        blocks: (..., G, 16) uint8, G blocks of 32 values.
        scales: (..., G) uint8. 255 stands for not-a-number.

    Returns:
        (..., 32 G) float32.

    Raises:
        ValueError: shapes or dtypes do not belong together.
    """
    if blocks.dtype != torch.uint8 or scales.dtype != torch.uint8:
        raise ValueError(f"MXFP4 blocks and scales are bytes, not {blocks.dtype} and {scales.dtype}")
    if blocks.shape[-1] != BLOCK_VALUES // 2 or blocks.shape[:-1] != scales.shape:
        raise ValueError(f"MXFP4 blocks {tuple(blocks.shape)} do not go with scales {tuple(scales.shape)}")
    codes = torch.stack((blocks & 0x0F, blocks >> 4), dim=-1).flatten(-2)
    values = _times_power_of_two(_sizes(codes, blocks.device), scales[..., None])
    values = torch.where(scales[..., None] == 255, torch.nan, values)
    return values.flatten(-2)


def encode_mxfp4(values: Tensor) -> tuple[Tensor, Tensor]:
    """Pack into blocks of 32, each value as the nearest that its block's scale can express.

    The scale is the one whose block has the smallest sum of squared errors: the usual choice, with which the largest
    value lies between 4 and 8 (and is cut off at 6 where it is larger), or one of its neighbours.

    Args:
        values: (..., 32 G) finite floats; the device "meta" gives shapes only.

    Returns:
        blocks (..., G, 16) uint8 and scales (..., G) uint8.

    Raises:
        ValueError: the last axis is no multiple of 32, or a value is not finite.
    """
    if not values.shape or values.shape[-1] % BLOCK_VALUES:
        raise ValueError(f"MXFP4 needs rows of a multiple of {BLOCK_VALUES} values, not {tuple(values.shape)}")
    groups = values.detach().to(torch.float32).unflatten(-1, (-1, BLOCK_VALUES))
    if not groups.is_meta and not groups.isfinite().all():
        raise ValueError("MXFP4 can only hold finite values")
    largest = groups.abs().amax(-1)
    usual = torch.frexp(largest).exponent.to(torch.int32) - 1 - 2 + SCALE_BIAS
    best_codes, best_scales, best_error = None, None, None
    for trial in _SCALE_TRIALS:
        scales = (usual + trial).clamp(0, LARGEST_SCALE).to(torch.uint8)
        codes = _nearest_codes(groups, scales)
        # Errors of a block relative to its largest value: their squares neither overflow nor vanish.
        unit = torch.where(largest > 0, largest, 1.0)[..., None]
        wrong = (_times_power_of_two(_sizes(codes, groups.device), scales[..., None]) - groups) / unit
        error = wrong.square().sum(-1)
        if best_codes is None or best_scales is None or best_error is None:
            best_codes, best_scales, best_error = codes, scales, error
            continue
        better = error < best_error
        best_codes = torch.where(better[..., None], codes, best_codes)
        best_scales = torch.where(better, scales, best_scales)
        best_error = torch.where(better, error, best_error)
    assert best_codes is not None
    assert best_scales is not None
    low, high = best_codes[..., ::2], best_codes[..., 1::2]
    return low | high << 4, best_scales


def _nearest_codes(groups: Tensor, scales: Tensor) -> Tensor:
    """Codes (..., G, 32) of the values nearest to `groups` (..., G, 32); values beyond the largest become it."""
    sizes = _times_power_of_two(groups.abs(), LARGEST_SCALE - scales[..., None])
    codes = torch.zeros_like(groups, dtype=torch.uint8)
    for index, border in enumerate(_BORDERS):
        codes += (sizes > border if index % 2 == 0 else sizes >= border).to(torch.uint8)
    return codes | groups.signbit().to(torch.uint8) << 3


def _sizes(codes: Tensor, device: torch.device) -> Tensor:
    return torch.tensor(E2M1_VALUES, device=device)[codes.long()]


def _times_power_of_two(values: Tensor, scales: Tensor) -> Tensor:
    """values x 2 ** (scales - 127), in two steps: 2 ** -127 alone is a subnormal that some devices flush to zero."""
    exponents = scales.to(torch.int32) - SCALE_BIAS
    half = exponents // 2
    return torch.ldexp(torch.ldexp(values, half), exponents - half)
