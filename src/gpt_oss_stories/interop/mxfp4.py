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

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""What each of the sixteen codes stands for."""


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
    table = torch.tensor(E2M1_VALUES, device=blocks.device)
    codes = torch.stack((blocks & 0x0F, blocks >> 4), dim=-1).flatten(-2)
    exponents = scales.to(torch.int32) - SCALE_BIAS
    # ldexp through two factors: 2 ** -127 alone would be a float32 subnormal that some devices flush to zero.
    values = torch.ldexp(
        torch.ldexp(table[codes.long()], exponents[..., None] // 2), exponents[..., None] - exponents[..., None] // 2
    )
    values = torch.where(scales[..., None] == 255, torch.nan, values)
    return values.flatten(-2)
