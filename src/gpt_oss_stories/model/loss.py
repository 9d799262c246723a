"""Cross-entropy of a large vocabulary without ever holding all its logits.

Axis letters:  N tokens   C tokens in a chunk   D model width   V vocabulary   S entries in a slice of the vocabulary

The logits of 4,096 tokens over 201,088 entries are 3.3 GB in float32. Two walks avoid them.

With gradients, by chunks of tokens: a chunk's logits in the compute dtype become probabilities in one softmax, then the
gradient by taking 1 from each target's, and that the gradients of the chunk's hidden states and of the whole
unembedding, which is added up over the chunks. All this stands in the forward pass, where the logits are; the backward
pass only scales (Liger Kernel, arXiv 2410.10989).

Without gradients, by slices of the vocabulary with all tokens, in float32: each token's log-sum-exp is collected over
the slices, as flash attention does over keys. A slice stays in the processor's cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .pointwise import wide_dtype

CHUNK_BYTES = 2**24
"""Memory of a chunk's logits, in place of which their probabilities and gradients come on a CPU."""

LEAST_TOKENS = 512
"""Tokens in a chunk if CHUNK_BYTES would allow fewer: each chunk adds its gradient to that of the whole unembedding,
which for a large vocabulary takes as long as the products of a few hundred tokens."""

MOST_CHUNK_BYTES = 2**28
"""What LEAST_TOKENS may take."""

SLICE_ROWS = 2**14
"""Rows of the unembedding whose gradients of a chunk are added at once."""

SLICE_LOGITS = 2**22
"""Logits in a slice, about: 17 MB in float32."""

NARROWEST_SLICE = 256
"""Vocabulary entries in a slice at the least, so that products stay matrix products however many tokens there are."""


def tokens_in_chunk(vocabulary: int, dtype: torch.dtype) -> int:
    """Most tokens in a chunk."""
    row = vocabulary * dtype.itemsize
    return max(CHUNK_BYTES // row, min(LEAST_TOKENS, MOST_CHUNK_BYTES // row), 1)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, unembedding_VD: Tensor, targets_N: Tensor, weights_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        # Weights of at most one until the backward pass: in 16 bits a mean over many tokens would underflow.
        wide = wide_dtype(hidden_ND.dtype)
        scale = weights_N.max().clamp(min=torch.finfo(wide).tiny).to(wide)
        weight_N1 = weights_N[:, None].to(wide) / scale
        nll_N, grad_hidden_ND, grad_unembedding_VD = _with_gradients(hidden_ND, unembedding_VD, targets_N, weight_N1)
        ctx.save_for_backward(grad_hidden_ND, grad_unembedding_VD, scale)
        ctx.dtype, ctx.spent = hidden_ND.dtype, False
        ctx.mark_non_differentiable(nll_N)
        return (nll_N * weights_N).sum(), nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.spent:
            raise RuntimeError("this loss can go backward once: it scales its gradients in place to save memory")
        ctx.spent = True
        grad_hidden, grad_unembedding, scale = ctx.saved_tensors
        factor = grads[0] * scale
        return grad_hidden.mul_(factor).to(ctx.dtype), grad_unembedding.mul_(factor), None, None


def _with_gradients(
    hidden_ND: Tensor, unembedding_VD: Tensor, targets_N: Tensor, weight_N1: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihoods (N,), and the gradients of their sum with the given weights, by chunks of tokens.

    In 16 bits a log-likelihood is good to 0.004, as are the logits it comes from.
    """
    chunk = tokens_in_chunk(len(unembedding_VD), hidden_ND.dtype)
    table_VD = unembedding_VD.to(hidden_ND.dtype)
    nll_N = torch.empty(len(hidden_ND), dtype=weight_N1.dtype, device=hidden_ND.device)
    grad_hidden_ND = torch.empty_like(hidden_ND)
    grad_unembedding_VD = torch.zeros_like(unembedding_VD)
    logits = hidden_ND.new_empty(min(chunk, len(hidden_ND)) * len(table_VD))  # one piece of memory for all chunks
    for begin in range(0, len(hidden_ND), chunk):
        part = slice(begin, begin + chunk)
        hidden_CD, weight_C1 = hidden_ND[part], weight_N1[part].to(hidden_ND.dtype)
        logits_CV = logits[: len(hidden_CD) * len(table_VD)].view(len(hidden_CD), -1)
        torch.mm(hidden_CD, table_VD.T, out=logits_CV)
        # On a CPU in place: each row is read before it is written.
        probability_CV = torch.softmax(logits_CV, -1, out=logits_CV if logits_CV.device.type == "cpu" else None)
        row_C = torch.arange(len(hidden_CD), device=hidden_ND.device)
        target_C = targets_N[part]
        likelihood_C = probability_CV[row_C, target_C]
        nll_N[part] = -likelihood_C.to(nll_N.dtype).log()
        # Those too unlikely for the number format once more.
        lost_L = (likelihood_C < torch.finfo(likelihood_C.dtype).tiny).nonzero()[:, 0]
        lost_logits_LV = (hidden_CD[lost_L] @ table_VD.T).to(nll_N.dtype)
        nll_N[begin + lost_L] = F.cross_entropy(lost_logits_LV, target_C[lost_L], reduction="none")
        # d nll / d logits = softmax - one-hot. A 16-bit probability near 1 says little about its distance to 1, which
        # is the sum of all others. (scatter_ would make two copies of everything in 16 bits.)
        grad_CV = probability_CV
        grad_CV[row_C, target_C] = 0
        grad_CV[row_C, target_C] = -grad_CV.sum(-1)
        # The token's weight goes to the smaller factor of each product.
        grad_hidden_ND[part] = (grad_CV @ table_VD).mul_(weight_C1)
        weighed_CD = hidden_CD * weight_C1
        for rows_SV, sum_SD in zip(grad_CV.T.split(SLICE_ROWS), grad_unembedding_VD.split(SLICE_ROWS), strict=True):
            sum_SD += rows_SV @ weighed_CD
    return nll_N, grad_hidden_ND, grad_unembedding_VD


def _without_gradients(hidden_ND: Tensor, unembedding_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods (N,), and which targets have the highest logit (N,) bool, by slices of the vocabulary.

    Of equal logits that of the lowest token counts as the highest, as in `argmax`.
    """
    tokens, vocabulary = len(hidden_ND), len(unembedding_VD)
    wide = wide_dtype(hidden_ND.dtype)
    width = min(vocabulary, max(NARROWEST_SLICE, SLICE_LOGITS // max(tokens, 1)))
    buffer = torch.empty(tokens * width, dtype=wide, device=hidden_ND.device)
    highest_N1 = torch.full((tokens, 1), float("-inf"), dtype=wide, device=hidden_ND.device)
    total_N1 = torch.zeros_like(highest_N1)
    target_logit_N1 = torch.zeros_like(highest_N1)
    likeliest_N1 = torch.zeros_like(targets_N)[:, None]
    for begin in range(0, vocabulary, width):
        rows_SD = unembedding_VD[begin : begin + width].to(hidden_ND.dtype)
        logits_NS = buffer[: tokens * len(rows_SD)].view(tokens, -1)
        logits_NS.copy_(hidden_ND @ rows_SD.T)
        local_N1 = targets_N[:, None] - begin
        inside_N1 = (local_N1 >= 0) & (local_N1 < len(rows_SD))
        target_logit_N1 += torch.where(inside_N1, logits_NS.gather(1, local_N1.clamp(0, len(rows_SD) - 1)), 0.0)
        highest_here_N1, place_N1 = logits_NS.max(-1, keepdim=True)
        likeliest_N1 = torch.where(highest_here_N1 > highest_N1, place_N1 + begin, likeliest_N1)
        higher_N1 = torch.maximum(highest_N1, highest_here_N1)
        total_N1 *= (highest_N1 - higher_N1).exp_()
        total_N1 += logits_NS.sub_(higher_N1).exp_().sum(-1, keepdim=True)
        highest_N1 = higher_N1
    return (highest_N1 + total_N1.log() - target_logit_N1)[:, 0], likeliest_N1[:, 0] == targets_N


def linear_cross_entropy(
    hidden: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weighted sum of the negative log-likelihoods of targets under softmax(hidden @ unembedding.T).

    Args:
        hidden: (N, D), in the compute dtype.
        unembedding: (V, D); cast to the dtype of `hidden`.
        targets: (N,) int64 in [0, V); any valid id where the weight is 0.
        weights: (N,), not negative.

    Returns:
        scalar, differentiable once in `hidden` and `unembedding`; each token's negative log-likelihood in nats,
        (N,) float32, detached; and, if no gradients are asked for, which targets have the highest logit, (N,) bool.
    """
    # Asked here: inside a Function nothing tells whether `no_grad` is in force around it.
    if torch.is_grad_enabled() and (hidden.requires_grad or unembedding.requires_grad):
        total, nll = _LinearCrossEntropy.apply(hidden, unembedding, targets, weights)
        return total, nll, None
    nll, right = _without_gradients(hidden, unembedding, targets)
    return (nll * weights).sum(), nll, right
