"""Cross-entropy of a large vocabulary without ever holding all its logits.

Axis letters:  N tokens   D model width   V vocabulary

The logits of 4,096 tokens over 201,088 entries are 3.3 GB in float32. Here they exist for one chunk of tokens at a
time: the forward pass turns a chunk's logits into its loss and, in the same buffer, into the gradient of the logits,
and from that accumulates the gradients of the hidden states and of the unembedding. The backward pass only scales
them. (The idea is that of fused linear-cross-entropy kernels; see Liger Kernel, arXiv 2410.10989.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 2**26
"""Logits in one chunk at the most: 268 MB in float32, and half as much in a compute dtype of 16 bits."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        tokens, vocabulary = hidden.shape[0], unembedding.shape[0]
        narrow = unembedding.to(hidden.dtype)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_unembedding = torch.zeros_like(unembedding) if needs_grad else None
        nll = torch.empty(tokens, dtype=wide, device=hidden.device)
        # A power of two, so that batches of many sizes share the shapes of their products.
        chunk = max(128, 1 << (max(1, CHUNK_LOGITS // vocabulary)).bit_length() - 1)
        # Buffers are made once: on a CPU the page faults of fresh ones would cost more than the arithmetic.
        rows = min(chunk, tokens)
        narrow_buffer = torch.empty(rows, vocabulary, dtype=hidden.dtype, device=hidden.device)
        wide_buffer = narrow_buffer if wide == hidden.dtype else torch.empty_like(narrow_buffer, dtype=wide)
        for begin in range(0, tokens, chunk):
            part = slice(begin, min(begin + chunk, tokens))
            size = part.stop - begin
            logits_narrow, logits = narrow_buffer[:size], wide_buffer[:size]
            torch.mm(hidden[part], narrow.T, out=logits_narrow)
            if logits is not logits_narrow:
                logits.copy_(logits_narrow)
            target = targets[part, None]
            target_logit = logits.gather(1, target)
            highest = logits.amax(-1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            total = exponentials.sum(-1, keepdim=True)
            nll[part] = (total.log() + highest - target_logit)[:, 0]
            if grad_hidden is not None and grad_unembedding is not None:
                # d nll / d logits = softmax - one-hot, in the same buffer.
                weight = weights[part, None].to(wide)
                grad = exponentials.mul_(weight / total).scatter_add_(1, target, -weight)
                grad_narrow = grad if grad.dtype == hidden.dtype else logits_narrow.copy_(grad)
                torch.mm(grad_narrow, narrow, out=grad_hidden[part])
                if grad_narrow.dtype == grad_unembedding.dtype:
                    grad_unembedding.addmm_(grad_narrow.T, hidden[part])
                else:
                    grad_unembedding += grad_narrow.T @ hidden[part]
        ctx.save_for_backward(grad_hidden, grad_unembedding)
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_unembedding = ctx.saved_tensors
        scale = grads[0]
        return grad_hidden * scale.to(grad_hidden.dtype), grad_unembedding.mul_(scale), None, None


def linear_cross_entropy(
    hidden: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the negative log-likelihoods of targets under softmax(hidden @ unembedding.T).

    Args:
        hidden: (N, D), in the compute dtype.
        unembedding: (V, D); cast to the dtype of `hidden`.
        targets: (N,) int64 in [0, V); any valid id where the weight is 0.
        weights: (N,) float32.

    Returns:
        scalar, differentiable once in `hidden` and `unembedding`; and each token's negative log-likelihood in nats,
        (N,) float32, detached.
    """
    return _LinearCrossEntropy.apply(hidden, unembedding, targets, weights)
