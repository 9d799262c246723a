"""Rotary position embedding with YaRN.

A head's dimensions i and i + head_dim / 2 form a pair that is turned by position x frequency_i. YaRN ("NTK by parts",
arXiv 2309.00071) stretches a trained model to a longer context: frequencies that turn often within the original context
stay, those that never complete a turn are slowed by the factor, those between are blended.

Conventions where implementations differ (all as in the gpt-oss reference, `gpt_oss/torch/model.py`): the two cut-offs
are fractional, not rounded to whole dimensions, and the concentration 0.1 ln(factor) + 1 multiplies cos and sin,
once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config import ModelConfig


def inverse_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Turning speed of each pair of dimensions, and YaRN's concentration.

    Returns:
        radians per position, (head_dim / 2,) float32; and the factor on cos and sin, 1.0 without stretching.
    """
    pairs = config.head_dim // 2
    period = config.rope_theta ** (torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim)
    if config.rope_scaling_factor == 1.0:
        return 1.0 / period, 1.0

    def dimension_turning(rotations: float) -> float:
        """The (fractional) pair that completes this many turns within the original context."""
        return pairs * math.log(config.rope_original_context / (rotations * 2 * math.pi)) / math.log(config.rope_theta)

    # Within the head, as in `transformers`; for gpt-oss's own settings, which the reference is written for, they are.
    low = max(dimension_turning(config.rope_beta_fast), 0.0)
    high = min(dimension_turning(config.rope_beta_slow), float(config.head_dim - 1))
    if low == high:
        high += 1e-3
    slowed = ((torch.arange(pairs, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    speeds = slowed / (config.rope_scaling_factor * period) + (1 - slowed) / period
    return speeds, 0.1 * math.log(config.rope_scaling_factor) + 1.0


class RotaryEmbedding(nn.Module):
    """Table of cos and sin by position; has no parameters and is not in checkpoints.

    The table grows, in powers of two, with the positions that are asked for: a configuration may allow far longer
    contexts than anybody uses.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("cos", torch.empty(0, config.head_dim // 2), persistent=False)
        self.register_buffer("sin", torch.empty(0, config.head_dim // 2), persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def _grow(self, length: int) -> None:
        speeds, concentration = inverse_frequencies(self.config)
        length = min(self.config.block_size, 1 << (length - 1).bit_length())
        # float32 angles, like the reference: a float64 table would differ from it at far positions.
        angles = (torch.arange(length, dtype=torch.float32)[:, None] * speeds).to(self.cos.device)
        self.cos, self.sin = angles.cos() * concentration, angles.sin() * concentration

    def at(self, positions: Tensor, longest: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin at positions (...) int64 below `longest`: (..., 1, head_dim / 2), to broadcast over heads."""
        if longest > len(self.cos):
            self._grow(longest)
        return self.cos[positions].unsqueeze(-2).to(dtype), self.sin[positions].unsqueeze(-2).to(dtype)
