"""Multi-token prediction: at each position also predict the tokens after the next one.

Depth 0 is the model itself, which predicts token t+1 from tokens up to t. Depth d adds one module after the one
before it: norm(hidden of depth d-1) joined with norm(embedding of token t+d), projected to the model's width, one
transformer block, and the model's own unembedding, predicting token t+d+1. Source: DeepSeek-V3 report, arXiv
2412.19437, section 2.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig
from .layers import Linear
from .norm import Norm

if TYPE_CHECKING:
    from .experts import Routing
    from .layout import DocumentLayout


def shift_left(tokens: Tensor, distance: int) -> Tensor:
    """Tokens moved `distance` places to the left, 0 where they run out; tokens: (batch, time)."""
    return F.pad(tokens[:, distance:], (0, distance))[:, : tokens.shape[1]]


def targets_at_depth(
    tokens: Tensor, depth: int, documents: Tensor | None, trained: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the module at a depth must predict. The only place in the project where labels are shifted.

    Args:
        tokens: (batch, time) int64, document after document.
        depth: 0 for the next token.
        documents: (batch, time) int64, the document of each token, -1 for padding; None where a row is one document.
        trained: (batch, time) bool, the tokens that are worth predicting; None for all.

    Returns:
        targets (batch, time) int64, the tokens depth + 1 places on; and which of them count, (batch, time) bool:
        those that exist, belong to the same document and are trained.

    Raises:
        ValueError: depth is negative.
    """
    if depth < 0:
        raise ValueError(f"depth={depth}: modules are counted from 0, the next-token head")
    distance = depth + 1
    counts = torch.zeros_like(tokens, dtype=torch.bool)
    counts[:, :-distance] = True
    if documents is not None:
        counts[:, :-distance] &= (documents[:, distance:] == documents[:, :-distance]) & (documents[:, distance:] >= 0)
    if trained is not None:
        counts[:, :-distance] &= trained[:, distance:]
    return shift_left(tokens, distance), counts


class MultiTokenModule(nn.Module):
    """The module of one depth beyond the next token."""

    def __init__(self, config: ModelConfig, block: nn.Module) -> None:
        super().__init__()
        self.hidden_norm = Norm(config)
        self.embedding_norm = Norm(config)
        self.projection = Linear(2 * config.n_embd, config.n_embd, bias=False)
        self.block = block
        self.norm = Norm(config)

    def forward(
        self,
        hidden: Tensor,
        embedded: Tensor,
        rotation: tuple[Tensor, Tensor],
        layout: DocumentLayout | None,
        counted: Tensor | None,
    ) -> tuple[Tensor, Routing | None]:
        """Look one token further.

        Args:
            hidden: (batch, time, n_embd) of the depth before, not normalised.
            embedded: (batch, time, n_embd), the embedding of the last token that the depth before predicted.
            rotation, layout, counted: as for the model's blocks.

        Returns:
            (batch, time, n_embd), not normalised; and the routing of its block.
        """
        joined = torch.cat((self.hidden_norm(hidden), self.embedding_norm(embedded)), dim=-1)
        projected = F.linear(joined, self.projection.weight.to(joined.dtype))
        result: tuple[Tensor, Routing | None] = self.block(projected, rotation, layout, counted)
        return result
