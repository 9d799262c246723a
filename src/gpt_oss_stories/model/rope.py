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

    low, high = dimension_turning(config.rope_beta_fast), dimension_turning(config.rope_beta_slow)
    slowed = ((torch.arange(pairs, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    speeds = slowed / (config.rope_scaling_factor * period) + (1 - slowed) / period
    return speeds, 0.1 * math.log(config.rope_scaling_factor) + 1.0


class RotaryEmbedding(nn.Module):
    """Table of cos and sin for every position up to `block_size`; has no parameters and is not in checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        speeds, concentration = inverse_frequencies(config)
        # float32 angles, like the reference: a float64 table would differ from it at far positions.
        angles = torch.arange(config.block_size, dtype=torch.float32)[:, None] * speeds
        self.register_buffer("cos", angles.cos() * concentration, persistent=False)
        self.register_buffer("sin", angles.sin() * concentration, persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def at(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin at positions (...) int64, each (..., 1, head_dim / 2), to broadcast over heads."""
        return self.cos[positions].unsqueeze(-2).to(dtype), self.sin[positions].unsqueeze(-2).to(dtype)
