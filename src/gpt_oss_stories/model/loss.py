"""Cross-entropy of a large vocabulary without ever holding all its logits.

Axis letters:  N tokens   D model width   V vocabulary   S entries in a slice of the vocabulary

The logits of 4,096 tokens over 201,088 entries are 3.3 GB in float32. Here the vocabulary is walked twice, slice by
slice, with all tokens: once to collect each token's log-sum-exp, as flash attention does over keys, and once more to
turn the slice's logits, computed again, into their gradient and that into the gradients of the hidden states and of
the slice's rows of the unembedding. Both passes stand in the forward pass; the backward pass only scales. A slice of
logits is small enough to stay in the processor's cache, which makes up for the second product. (Losses that carry
their gradient along: Liger Kernel, arXiv 2410.10989; the walk over slices: Cut Cross-Entropy, arXiv 2411.09009.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .pointwise import wide_dtype

SLICE_LOGITS = 2**22
"""Logits alive at a time, about: 17 MB in float32."""

NARROWEST_SLICE = 256
"""Vocabulary entries in a slice at the least, so that products stay matrix products however many tokens there are."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, unembedding_VD: Tensor, targets_N: Tensor, weights_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        tokens, vocabulary = len(hidden_ND), len(unembedding_VD)
        wide = wide_dtype(hidden_ND.dtype)
        width = min(vocabulary, max(NARROWEST_SLICE, SLICE_LOGITS // max(tokens, 1)))
        buffer = torch.empty(tokens * width, dtype=wide, device=hidden_ND.device)

        single = width == vocabulary  # the only slice need not be computed again: the buffer holds exp(logit - highest)

        def slices(again: bool = False) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
            """Each slice's entries, rows of the unembedding, logits (N, S), and the targets that lie in it (N, 1)."""
            for begin in range(0, vocabulary, width):
                entries = slice(begin, min(begin + width, vocabulary))
                rows_SD = unembedding_VD[entries].to(hidden_ND.dtype)
                logits_NS = buffer[: tokens * len(rows_SD)].view(tokens, -1)
                if not (single and again):
                    logits_NS.copy_(hidden_ND @ rows_SD.T)
                inside_N1 = ((targets_N >= entries.start) & (targets_N < entries.stop))[:, None]
                local_N1 = (targets_N - begin).clamp(0, len(rows_SD) - 1)[:, None]
                yield entries, rows_SD, logits_NS, inside_N1, local_N1

        highest_N1 = torch.full((tokens, 1), float("-inf"), dtype=wide, device=hidden_ND.device)
        total_N1 = torch.zeros_like(highest_N1)
        target_logit_N1 = torch.zeros_like(highest_N1)
        for _, _, logits_NS, inside_N1, local_N1 in slices():
            target_logit_N1 += torch.where(inside_N1, logits_NS.gather(1, local_N1), 0.0)
            higher_N1 = torch.maximum(highest_N1, logits_NS.amax(-1, keepdim=True))
            total_N1 *= (highest_N1 - higher_N1).exp_()
            total_N1 += logits_NS.sub_(higher_N1).exp_().sum(-1, keepdim=True)
            highest_N1 = higher_N1
        lse_N1 = highest_N1 + total_N1.log()
        nll_N = (lse_N1 - target_logit_N1)[:, 0]

        grad_hidden = grad_unembedding = scale = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            grad_hidden = torch.zeros(hidden_ND.shape, dtype=wide, device=hidden_ND.device)
            grad_unembedding = torch.empty_like(unembedding_VD)
            # Weights of at most one until the backward pass: in 16 bits a mean over many tokens would underflow.
            scale = weights_N.max().clamp(min=torch.finfo(wide).tiny).to(wide)
            weight_N1 = weights_N[:, None].to(wide) / scale
            shift_N1 = lse_N1 - weight_N1.log()  # a weight of 0 shifts by infinity, and the gradient is 0
            for entries, rows_SD, logits_NS, inside_N1, local_N1 in slices(again=True):
                # d nll / d logits = softmax - one-hot, times the weight.
                grad_NS = logits_NS.mul_(weight_N1 / total_N1) if single else logits_NS.sub_(shift_N1).exp_()
                grad_NS.scatter_add_(1, local_N1, torch.where(inside_N1, -weight_N1, 0.0))
                narrow_NS = grad_NS.to(hidden_ND.dtype)
                grad_hidden += narrow_NS @ rows_SD
                grad_unembedding[entries] = narrow_NS.T @ hidden_ND
        ctx.save_for_backward(grad_hidden, grad_unembedding, scale)
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


def linear_cross_entropy(
    hidden: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the negative log-likelihoods of targets under softmax(hidden @ unembedding.T).

    Args:
        hidden: (N, D), in the compute dtype.
        unembedding: (V, D); cast to the dtype of `hidden`.
        targets: (N,) int64 in [0, V); any valid id where the weight is 0.
        weights: (N,), not negative.

    Returns:
        scalar, differentiable once in `hidden` and `unembedding`; and each token's negative log-likelihood in nats,
        (N,) float32, detached.
    """
    return _LinearCrossEntropy.apply(hidden, unembedding, targets, weights)
