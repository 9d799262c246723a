"""Cross-entropy of a large vocabulary without ever holding all its logits.

Axis letters:  N tokens   C tokens in a chunk   D model width   V vocabulary   S entries in a slice of the vocabulary

The logits of 4,096 tokens over 201,088 entries are 3.3 GB in float32. Two walks avoid them; in both the gradients are
made in the forward pass, where the logits are, and the backward pass only scales them (Liger Kernel, arXiv 2410.10989).

By chunks of tokens, where the vocabulary is small enough for a chunk of a useful size: a chunk's logits in the compute
dtype become probabilities in one softmax, then the gradient by taking 1 from each target's, and that the gradients of
the chunk's hidden states and of the whole unembedding, which is added up over the chunks.

By slices of the vocabulary, with all tokens, where adding up the gradient of a large unembedding would take longer
than all else: once to collect each token's log-sum-exp, as flash attention does over keys, and once more to turn the
slice's logits, computed again, into their gradient. A slice of logits stays in the processor's cache, which makes up
for the second product (Cut Cross-Entropy, arXiv 2411.09009). It is also the way without gradients, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .pointwise import wide_dtype

CHUNK_BYTES = 2**25
"""Memory of a chunk's logits; their probabilities take as much again. The C library hands out larger blocks afresh each
time, and the system clears them."""

SMALLEST_CHUNK = 512
"""Tokens in a chunk at the least: each chunk adds its gradient to that of the whole unembedding."""

SLICE_LOGITS = 2**22
"""Logits alive at a time in the walk over slices, about: 17 MB in float32."""

NARROWEST_SLICE = 256
"""Vocabulary entries in a slice at the least, so that products stay matrix products however many tokens there are."""


def tokens_in_chunk(tokens: int, vocabulary: int, dtype: torch.dtype) -> int:
    """Tokens in a chunk; 0 where the vocabulary is too large for chunks and is walked in slices."""
    fitting = CHUNK_BYTES // (vocabulary * dtype.itemsize)
    return min(tokens, fitting) if fitting >= min(SMALLEST_CHUNK, tokens) else 0


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, unembedding_VD: Tensor, targets_N: Tensor, weights_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        grad_hidden_ND = grad_unembedding_VD = scale = None
        if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            nll_N, _, _ = _by_slices(hidden_ND, unembedding_VD, targets_N, None)
        else:
            # Weights of at most one until the backward pass: in 16 bits a mean over many tokens would underflow.
            wide = wide_dtype(hidden_ND.dtype)
            scale = weights_N.max().clamp(min=torch.finfo(wide).tiny).to(wide)
            weight_N1 = weights_N[:, None].to(wide) / scale
            chunk = tokens_in_chunk(len(hidden_ND), len(unembedding_VD), hidden_ND.dtype)
            nll_N, grad_hidden_ND, grad_unembedding_VD = (
                _by_chunks(hidden_ND, unembedding_VD, targets_N, weight_N1, chunk)
                if chunk
                else _by_slices(hidden_ND, unembedding_VD, targets_N, weight_N1)
            )
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


def _by_chunks(
    hidden_ND: Tensor, unembedding_VD: Tensor, targets_N: Tensor, weight_N1: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihoods (N,), and the gradients of their sum with the given weights, tokens in chunks.

    In 16 bits a log-likelihood is good to 0.004, as are the logits it comes from.
    """
    table_VD = unembedding_VD.to(hidden_ND.dtype)
    nll_N = torch.empty(len(hidden_ND), dtype=weight_N1.dtype, device=hidden_ND.device)
    grad_hidden_ND = torch.empty_like(hidden_ND)
    grad_unembedding_VD: Tensor | None = None
    for begin in range(0, len(hidden_ND), chunk):
        part = slice(begin, begin + chunk)
        hidden_CD, target_C1, weight_C1 = hidden_ND[part], targets_N[part, None], weight_N1[part].to(hidden_ND.dtype)
        logits_CV = hidden_CD @ table_VD.T
        probability_CV = logits_CV.softmax(-1)
        # The log-sum-exp from the likeliest entry, whose probability never underflows.
        highest_C1, likeliest_C1 = logits_CV.max(-1, keepdim=True)
        lse_C1 = highest_C1.to(nll_N.dtype) - probability_CV.gather(1, likeliest_C1).to(nll_N.dtype).log()
        nll_N[part] = (lse_C1 - logits_CV.gather(1, target_C1))[:, 0]
        # d nll / d logits = softmax - one-hot. The token's weight goes to the smaller factor of each product.
        grad_CV = probability_CV.scatter_add_(1, target_C1, torch.full_like(weight_C1, -1))
        grad_hidden_ND[part] = (grad_CV @ table_VD).mul_(weight_C1)
        grad_VD = grad_CV.T @ (hidden_CD * weight_C1)
        if grad_unembedding_VD is None:
            grad_unembedding_VD = grad_VD.to(unembedding_VD.dtype)
        else:
            grad_unembedding_VD += grad_VD
    if grad_unembedding_VD is None:
        grad_unembedding_VD = torch.zeros_like(unembedding_VD)
    return nll_N, grad_hidden_ND, grad_unembedding_VD


def _by_slices(
    hidden_ND: Tensor, unembedding_VD: Tensor, targets_N: Tensor, weight_N1: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Negative log-likelihoods (N,), and with weights the gradients of their weighted sum, the vocabulary in slices."""
    tokens, vocabulary = len(hidden_ND), len(unembedding_VD)
    wide = wide_dtype(hidden_ND.dtype)
    width = min(vocabulary, max(NARROWEST_SLICE, SLICE_LOGITS // max(tokens, 1)))
    buffer = torch.empty(tokens * width, dtype=wide, device=hidden_ND.device)

    def slices() -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
        """Each slice's entries, rows of the unembedding, logits (N, S), and the targets that lie in it (N, 1)."""
        for begin in range(0, vocabulary, width):
            entries = slice(begin, min(begin + width, vocabulary))
            rows_SD = unembedding_VD[entries].to(hidden_ND.dtype)
            logits_NS = buffer[: tokens * len(rows_SD)].view(tokens, -1)
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
    if weight_N1 is None:
        return nll_N, None, None

    grad_hidden_ND = torch.zeros(hidden_ND.shape, dtype=wide, device=hidden_ND.device)
    grad_unembedding_VD = torch.empty_like(unembedding_VD)
    shift_N1 = lse_N1 - weight_N1.log()  # a weight of 0 shifts by infinity, and the gradient is 0
    for entries, rows_SD, logits_NS, inside_N1, local_N1 in slices():
        # d nll / d logits = softmax - one-hot, times the weight.
        grad_NS = logits_NS.sub_(shift_N1).exp_()
        grad_NS.scatter_add_(1, local_N1, torch.where(inside_N1, -weight_N1, 0.0))
        narrow_NS = grad_NS.to(hidden_ND.dtype)
        grad_hidden_ND += narrow_NS @ rows_SD
        grad_unembedding_VD[entries] = narrow_NS.T @ hidden_ND
    return nll_N, grad_hidden_ND, grad_unembedding_VD


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
