"""Mixture of experts: a router sends each token to a few small networks and mixes what they return.

Axis letters:  N tokens   D model width   E experts   C experts chosen per token   F expert width
               R rows of the grouped products: N x C token-expert pairs and some padding

Dropless: every chosen pair is computed, whatever the load. Pairs are sorted by expert, one grouped matrix product
serves all experts, and the results are summed back with the router's weights. On a CPU each expert's rows are padded
to a multiple of a block, since oneDNN builds a kernel for every matrix shape it has not seen, which takes longer than
most products.

Routing, clamped SwiGLU and biases follow the gpt-oss reference (`gpt_oss/torch/model.py`): router with bias, top-k,
softmax over the chosen k. Balance loss: Switch Transformer (arXiv 2101.03961), z-loss: ST-MoE (arXiv 2202.08906).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig
from .layers import Linear
from .norm import Norm
from .pointwise import swiglu
from .rows import take_rows

ROW_BLOCK = 128
"""Rows per expert are padded to a multiple of this on a CPU."""

FEW_PAIRS = 64
"""Up to this many token-expert pairs, as in decoding, the experts are called one by one."""


@dataclass(frozen=True)
class Routing:
    """What the router of one layer decided, for losses and metrics."""

    balance: Tensor
    """Scalar: balance loss, 1.0 for perfectly even routing, up to E where one expert takes all."""
    router_z: Tensor
    """Scalar: mean squared log-sum-exp of the router's logits."""
    load: Tensor
    """(E,) float32: pairs that each expert got from counted tokens."""


def gelu(up: Tensor) -> Tensor:
    """GELU in the tanh form of GPT-2."""
    return F.gelu(up, approximate="tanh")


class Experts(nn.Module):
    """One expert layer: norm, router, experts, mixture; without the residual sum.

    With one expert it is a plain feed-forward layer and has no router.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner, experts = config.n_embd, config.expert_width, config.num_experts
        self.chosen, self.swiglu_limit, self.swiglu_alpha = (
            config.active_experts,
            config.swiglu_limit,
            config.swiglu_alpha,
        )
        self.use_swiglu = config.use_swiglu
        up = 2 * inner if config.use_swiglu else inner
        self.norm = Norm(config)
        self.router = Linear(width, experts) if experts > 1 else None
        self.gate_up_weight = nn.Parameter(torch.empty(experts, width, up))
        self.gate_up_bias = nn.Parameter(torch.zeros(experts, up))
        self.down_weight = nn.Parameter(torch.empty(experts, inner, width))
        self.down_bias = nn.Parameter(torch.zeros(experts, width))

    def forward(
        self, x: Tensor, counted: Tensor | None = None, *, with_routing: bool = True
    ) -> tuple[Tensor, Routing | None]:
        """Mix the chosen experts' answers.

        Args:
            x: (..., D).
            counted: bool over the tokens of x, those that count for balance and load; None for all of them.
            with_routing: whether anybody asks for the routing.

        Returns:
            the shape of x, and the routing (None without a router, or when not asked for).
        """
        normed = self.norm(x).flatten(0, -2)
        if self.router is None:
            weight, bias = (self._separated(p[0].to(x.dtype)) for p in (self.gate_up_weight, self.gate_up_bias))
            hidden = self._activate(torch.addmm(bias, normed, weight), interleaved=False)
            out = torch.addmm(self.down_bias[0].to(x.dtype), hidden, self.down_weight[0].to(x.dtype))
            return out.view_as(x), None
        # Routing is discrete: in float32 a near-tie does not flip with the precision of the rest.
        wide = normed if normed.dtype == torch.float64 else normed.float()
        logits = self.router(wide)
        chosen_logits, chosen = logits.topk(self.chosen, dim=-1)
        weights = chosen_logits.softmax(-1)
        routing = (
            self._routing(logits, chosen, None if counted is None else counted.flatten()) if with_routing else None
        )
        mix = self._mix_few if chosen.numel() <= FEW_PAIRS and not torch.is_grad_enabled() else self._mix_grouped
        return mix(normed, chosen, weights).view_as(x), routing

    def _activate(self, hidden: Tensor, *, interleaved: bool = True) -> Tensor:
        """(..., 2 F) with gate and linear part interleaved, or one after the other, to (..., F); without gate
        (..., F)."""
        if not self.use_swiglu:
            return gelu(hidden)
        gate, up = (hidden[..., ::2], hidden[..., 1::2]) if interleaved else hidden.chunk(2, dim=-1)
        return swiglu(gate, up, self.swiglu_alpha, self.swiglu_limit)

    def _separated(self, parameter: Tensor) -> Tensor:
        """Columns of gate and linear part one after the other: to reorder weights is cheaper than to read every
        activation with a stride."""
        return parameter.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2) if self.use_swiglu else parameter

    def _routing(self, logits: Tensor, chosen: Tensor, counted: Tensor | None) -> Routing:
        tokens, experts = logits.shape
        share = torch.full((tokens,), 1.0 / tokens, dtype=logits.dtype, device=logits.device)
        if counted is not None:
            share = counted.to(logits.dtype) / counted.sum().clamp(min=1)
        picks = F.one_hot(chosen, experts).sum(1).to(logits.dtype)
        fraction = share @ picks / self.chosen
        probability = share @ logits.softmax(-1)
        load = (picks if counted is None else picks * counted[:, None]).sum(0).detach()
        router_z = share @ logits.logsumexp(-1).square()
        return Routing(balance=experts * (fraction * probability).sum(), router_z=router_z, load=load)

    def _mix_few(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Each expert in turn, on views of its weights; for decoding, where sorting would cost more than it saves."""
        out = torch.zeros_like(x, dtype=weights.dtype)
        for expert in chosen.unique().tolist():
            token, place = torch.nonzero(chosen == expert, as_tuple=True)
            hidden = x[token] @ self.gate_up_weight[expert].to(x.dtype) + self.gate_up_bias[expert].to(x.dtype)
            answer = self._activate(hidden) @ self.down_weight[expert].to(x.dtype) + self.down_bias[expert].to(x.dtype)
            out[token] += answer * weights[token, place, None]
        return out.to(x.dtype)

    def _mix_grouped(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """All experts at once, in one grouped product for each projection."""
        tokens, choices = chosen.shape
        experts = self.gate_up_weight.shape[0]
        block = ROW_BLOCK if x.device.type == "cpu" else 1
        pair_expert = chosen.flatten()
        order = pair_expert.argsort(stable=True)
        counts = torch.bincount(pair_expert, minlength=experts)
        padded = (counts + block - 1) // block * block
        ends = padded.cumsum(0)
        shift = (ends - padded) - (counts.cumsum(0) - counts)
        expert_sorted = pair_expert[order]
        row_sorted = torch.arange(len(order), device=x.device) + shift[expert_sorted]
        row_count = int(ends[-1])
        row_of_pair = torch.empty_like(order)
        row_of_pair[order] = row_sorted
        pair_of_row = torch.zeros(row_count, dtype=torch.int64, device=x.device)
        pair_of_row[row_sorted] = order
        row_used = torch.zeros(row_count, dtype=torch.bool, device=x.device)
        row_used[row_sorted] = True

        rows = take_rows(x, pair_of_row // choices, row_of_pair.view(tokens, choices))
        # A product with one-hot rows adds each row its expert's bias, and its backward is a product too, where that of
        # indexing would be a scatter-add.
        expert_of_row = torch.repeat_interleave(torch.arange(experts, device=x.device), padded, output_size=row_count)
        one_hot_RE = F.one_hot(expert_of_row, experts).to(x.dtype)
        offsets = ends.to(torch.int32)
        hidden = _grouped_product(rows, self._separated(self.gate_up_weight.to(x.dtype)), offsets)
        hidden = torch.addmm(hidden, one_hot_RE, self._separated(self.gate_up_bias.to(x.dtype)))
        answers = _grouped_product(self._activate(hidden, interleaved=False), self.down_weight.to(x.dtype), offsets)
        answers = torch.addmm(answers, one_hot_RE, self.down_bias.to(x.dtype))
        per_pair = take_rows(answers, row_of_pair, pair_of_row[:, None], row_used).view(tokens, choices, -1)
        # Summed in the weights' precision, float32: bfloat16 would round each expert's share.
        return (per_pair * weights[..., None]).sum(1).to(x.dtype)


def _grouped_product(rows_RI: Tensor, weight_EIO: Tensor, ends_E: Tensor) -> Tensor:
    """Multiply consecutive groups of rows, each with its own matrix.

    Args:
        rows_RI: (R, in). weight_EIO: (E, in, out). ends_E: (E,) int32, where each expert's rows end.

    Returns:
        (R, out).
    """
    # grouped_mm has no float64, which gradient checks need, and wants rows of whole 16-byte units.
    aligned = all(width * rows_RI.element_size() % 16 == 0 for width in weight_EIO.shape[1:])
    if rows_RI.dtype == torch.float64 or not aligned:
        bounds = [0, *ends_E.tolist()]
        parts = [rows_RI[bounds[e] : bounds[e + 1]] @ weight_EIO[e] for e in range(len(weight_EIO))]
        return torch.cat(parts)
    return F.grouped_mm(rows_RI, weight_EIO, offs=ends_E)
