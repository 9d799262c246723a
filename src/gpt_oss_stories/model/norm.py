"""Normalisation of the residual stream: RMSNorm, or LayerNorm as its GPT-2-era counterpart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .pointwise import layer_norm, rms_norm


class Norm(nn.Module):
    """RMSNorm (arXiv 1910.07467): x / rms(x) x weight, or LayerNorm with a bias where `use_rmsnorm` is off.

    Statistics are computed in float32 whatever the input's dtype, as in the gpt-oss reference.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = None if config.use_rmsnorm else nn.Parameter(torch.zeros(config.n_embd))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis; x: (..., n_embd), the result has its shape and dtype."""
        if self.bias is None:
            return rms_norm(x, self.weight, self.eps)
        return layer_norm(x, self.weight, self.bias, self.eps)
