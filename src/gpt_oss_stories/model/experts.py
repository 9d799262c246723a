"""Mixture of experts: a router sends each token to a few small networks and mixes what they return.

Axis letters:  N tokens   D model width   E experts   C experts chosen per token   F expert width
               R rows of the grouped products: N x C token-expert pairs and some padding

Dropless: every chosen pair is computed, whatever the load. Pairs are sorted by expert, each expert multiplies the rows
of its own pairs, and the results are summed back with the router's weights. On a CPU each expert's rows are padded to a
multiple of a block, since oneDNN builds a kernel for every matrix shape it has not seen, which takes longer than most
products; the whole layer is one autograd function that walks from expert to expert and keeps little (`_ExpertWalk`).
Elsewhere one grouped product serves all experts (`_mix_grouped`), which is also its plain twin in the tests.

Routing, clamped SwiGLU and biases follow the gpt-oss reference (`gpt_oss/torch/model.py`): router with bias, top-k,
softmax over the chosen k. Balance loss: Switch Transformer (arXiv 2101.03961), z-loss: ST-MoE (arXiv 2202.08906).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig
from .layers import Linear
from .norm import Norm
from .pointwise import swiglu, swiglu_backward, swiglu_forward
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


@dataclass(frozen=True)
class ExpertRows:
    """Where token-expert pairs stand when they are sorted by expert."""

    token_of_row: Tensor
    """(R,) int64; any token where a row is padding."""
    row_of_pair: Tensor
    """(N, C) int64."""
    pair_of_row: Tensor
    """(R,) int64; any pair where a row is padding."""
    row_used: Tensor
    """(R,) bool: False for padding."""
    ends: Tensor
    """(E,) int64: where each expert's rows end."""

    @staticmethod
    def of(chosen: Tensor, experts: int, block: int) -> ExpertRows:
        """Sort pairs.

        Args:
            chosen: (N, C) int64, the experts of each token.
            block: each expert's rows are padded to a multiple of this.
        """
        pair_expert = chosen.flatten()
        order = pair_expert.argsort(stable=True)
        counts = torch.bincount(pair_expert, minlength=experts)
        padded = (counts + block - 1) // block * block
        ends = padded.cumsum(0)
        shift = (ends - padded) - (counts.cumsum(0) - counts)
        row_sorted = torch.arange(len(order), device=chosen.device) + shift[pair_expert[order]]
        row_count = len(order) if block == 1 else int(ends[-1])  # a GPU need not be waited for
        row_of_pair = torch.empty_like(order)
        row_of_pair[order] = row_sorted
        pair_of_row = torch.zeros(row_count, dtype=torch.int64, device=chosen.device)
        pair_of_row[row_sorted] = order
        row_used = torch.zeros(row_count, dtype=torch.bool, device=chosen.device)
        row_used[row_sorted] = True
        return ExpertRows(
            token_of_row=pair_of_row // chosen.shape[1],
            row_of_pair=row_of_pair.view(chosen.shape),
            pair_of_row=pair_of_row,
            row_used=row_used,
            ends=ends,
        )


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
            return self._answer_alone(normed).view_as(x), None
        # Routing is discrete: in float32 a near-tie does not flip with the precision of the rest.
        wide = normed if normed.dtype == torch.float64 else normed.float()
        logits = self.router(wide)
        chosen_logits, chosen = logits.topk(self.chosen, dim=-1)
        weights = chosen_logits.softmax(-1)
        routing = (
            self._routing(logits, chosen, None if counted is None else counted.flatten()) if with_routing else None
        )
        if chosen.numel() <= FEW_PAIRS and not torch.is_grad_enabled():
            mix = self._mix_few
        elif self._walks(x):
            mix = self._mix_by_expert
        else:
            mix = self._mix_grouped
        return mix(normed, chosen, weights).view_as(x), routing

    def _activate(self, hidden: Tensor, *, interleaved: bool = True) -> Tensor:
        """(..., 2 F) with gate and linear part interleaved, or one after the other, to (..., F); without gate
        (..., F)."""
        if not self.use_swiglu:
            return gelu(hidden)
        if interleaved:
            hidden = torch.cat((hidden[..., ::2], hidden[..., 1::2]), dim=-1)
        return swiglu(hidden, self.swiglu_alpha, self.swiglu_limit)

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

    def _answer_alone(self, x: Tensor) -> Tensor:
        """The only expert's answer to all tokens; x: (N, D)."""
        if self._walks(x):
            return self._walk(x, None, None) + self.down_bias[0].to(x.dtype)
        weight, bias = (self._separated(p[0].to(x.dtype)) for p in (self.gate_up_weight, self.gate_up_bias))
        hidden = self._activate(torch.addmm(bias, x, weight), interleaved=False)
        return torch.addmm(self.down_bias[0].to(x.dtype), hidden, self.down_weight[0].to(x.dtype))

    def _mix_by_expert(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """One expert after the other, each on a block of rows."""
        experts = self.gate_up_weight.shape[0]
        mixed = self._walk(x, weights, ExpertRows.of(chosen, experts, ROW_BLOCK))
        # The experts' last biases, mixed for each token.
        share_NE = torch.zeros(len(x), experts, dtype=weights.dtype).scatter(1, chosen, weights)
        return torch.addmm(mixed, share_NE.to(x.dtype), self.down_bias.to(x.dtype))

    def _walks(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and self.use_swiglu

    def _walk(self, x: Tensor, weights: Tensor | None, rows: ExpertRows | None) -> Tensor:
        parameters = self.gate_up_weight, self.gate_up_bias, self.down_weight
        mixed: Tensor = _ExpertWalk.apply(x, weights, *parameters, rows, self.swiglu_alpha, self.swiglu_limit)
        return mixed

    def _mix_grouped(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """All experts at once, in one grouped product for each projection."""
        tokens, choices = chosen.shape
        experts = self.gate_up_weight.shape[0]
        plan = ExpertRows.of(chosen, experts, ROW_BLOCK if x.device.type == "cpu" else 1)
        rows = take_rows(x, plan.token_of_row, plan.row_of_pair)
        # A product with one-hot rows adds each row its expert's bias, and its backward is a product too, where that of
        # indexing would be a scatter-add.
        expert_of_row = torch.searchsorted(plan.ends, torch.arange(len(rows), device=x.device), right=True)
        one_hot_RE = F.one_hot(expert_of_row, experts).to(x.dtype)
        offsets = plan.ends.to(torch.int32)
        hidden = _grouped_product(rows, self._separated(self.gate_up_weight.to(x.dtype)), offsets)
        hidden = torch.addmm(hidden, one_hot_RE, self._separated(self.gate_up_bias.to(x.dtype)))
        answers = _grouped_product(self._activate(hidden, interleaved=False), self.down_weight.to(x.dtype), offsets)
        answers = torch.addmm(answers, one_hot_RE, self.down_bias.to(x.dtype))
        per_pair = take_rows(answers, plan.row_of_pair.flatten(), plan.pair_of_row[:, None], plan.row_used)
        # Summed in the weights' precision, float32: bfloat16 would round each expert's share.
        return (per_pair.view(tokens, choices, -1) * weights[..., None]).sum(1).to(x.dtype)


class _ExpertWalk(torch.autograd.Function):
    """Experts with clamped SwiGLU on a CPU, one after the other, without their last bias.

    The router's weight is applied to an expert's activations, before its last product: its gradient is then a sum over
    values that are at hand, and what the experts return need not be kept. G = 2 F columns, gates and then linear parts.

    x: (N, D); weights: (N, C), or None for one expert that answers all tokens; gate_up_weight: (E, D, 2 F) and
    gate_up_bias: (E, 2 F), gate and linear part interleaved; down_weight: (E, F, D); rows: None for one expert.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weights_NC: Tensor | None,
        gate_up_weight: Tensor,
        gate_up_bias: Tensor,
        down_weight: Tensor,
        rows: ExpertRows | None,
        alpha: float,
        limit: float,
    ) -> Tensor:
        dtype = x_ND.dtype
        gate_up_EDG = torch.empty_like(gate_up_weight, dtype=dtype)
        _columns_apart(gate_up_EDG).copy_(gate_up_weight.unflatten(-1, (-1, 2)))
        bias_EG = torch.empty_like(gate_up_bias, dtype=dtype)
        _columns_apart(bias_EG).copy_(gate_up_bias.unflatten(-1, (-1, 2)))
        down_EFD = down_weight.to(dtype)
        share_R1 = None
        x_RD, bounds = x_ND, [0, len(x_ND)]
        if rows is not None:
            assert weights_NC is not None
            x_RD, bounds = x_ND.index_select(0, rows.token_of_row), [0, *rows.ends.tolist()]
            # Padding has no share, so it changes no gradient either.
            share_R1 = weights_NC.new_zeros(len(x_RD)).index_put_((rows.row_of_pair,), weights_NC)[:, None]
        hidden_RG = x_RD.new_empty(len(x_RD), gate_up_EDG.shape[-1])
        answer_RD = torch.empty_like(x_RD)
        for expert, part in enumerate(map(slice, bounds, bounds[1:])):
            torch.addmm(bias_EG[expert], x_RD[part], gate_up_EDG[expert], out=hidden_RG[part])
            mixed_RF = swiglu_forward(hidden_RG[part], None if share_R1 is None else share_R1[part], alpha, limit)
            torch.mm(mixed_RF, down_EFD[expert], out=answer_RD[part])
        ctx.save_for_backward(x_RD, share_R1, hidden_RG, gate_up_EDG, down_EFD)
        ctx.rows, ctx.bounds, ctx.constants = rows, bounds, (alpha, limit)
        ctx.dtypes = [parameter.dtype for parameter in (gate_up_weight, gate_up_bias, down_weight)]
        return answer_RD if rows is None else _sum_pairs(answer_RD, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, share_R1, hidden_RG, gate_up_EDG, down_EFD = ctx.saved_tensors
        rows: ExpertRows | None = ctx.rows
        gate_up_dtype, bias_dtype, down_dtype = ctx.dtypes
        grad_RD = grads[0] if rows is None else grads[0].index_select(0, rows.token_of_row)
        grad_x_RD = torch.empty_like(x_RD)
        grad_gate_up = torch.empty_like(gate_up_EDG, dtype=gate_up_dtype)
        grad_bias = grad_gate_up.new_empty(len(gate_up_EDG), gate_up_EDG.shape[-1], dtype=bias_dtype)
        grad_down = torch.empty_like(down_EFD, dtype=down_dtype)
        grad_share_R1 = None if share_R1 is None else torch.empty_like(share_R1)
        for expert, part in enumerate(map(slice, ctx.bounds, ctx.bounds[1:])):
            share = None if share_R1 is None else share_R1[part]
            grad_mixed_RF = grad_RD[part] @ down_EFD[expert].T
            grad_hidden_RG, mixed_RF, grad_share = swiglu_backward(
                grad_mixed_RF, hidden_RG[part], share, *ctx.constants
            )
            if grad_share_R1 is not None and grad_share is not None:
                grad_share_R1[part] = grad_share
            grad_down[expert] = mixed_RF.T @ grad_RD[part]
            product_DG = x_RD[part].T @ grad_hidden_RG
            grad_gate_up[expert].unflatten(-1, (-1, 2)).copy_(_columns_apart(product_DG))
            grad_bias[expert].unflatten(-1, (-1, 2)).copy_(_columns_apart(grad_hidden_RG.sum(0)))
            torch.mm(grad_hidden_RG, gate_up_EDG[expert].T, out=grad_x_RD[part])
        grad_weights = None if rows is None or grad_share_R1 is None else grad_share_R1[:, 0][rows.row_of_pair]
        grad_x = grad_x_RD if rows is None else _sum_pairs(grad_x_RD, rows)
        return grad_x, grad_weights, grad_gate_up, grad_bias, grad_down, None, None, None


def _columns_apart(columns: Tensor) -> Tensor:
    """A view (..., F, 2) of (..., 2 F) columns that hold gates and then linear parts, as if they were interleaved."""
    return columns.unflatten(-1, (2, -1)).transpose(-1, -2)


def _sum_pairs(rows_RD: Tensor, rows: ExpertRows) -> Tensor:
    """Each token's sum over its pairs, (N, D); added up in float32 and rounded once."""
    if rows_RD.dtype == torch.float64:
        return rows_RD[rows.row_of_pair].sum(1)
    return F.embedding_bag(rows.row_of_pair, rows_RD, mode="sum")


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
