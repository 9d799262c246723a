"""Causal attention with grouped key-value heads, a sliding window and learned sinks.

Axis letters:  B batch   T queries   S keys   Q query heads   H key-value heads   K head width

`attend_reference` is the oracle, short and slow; `attend` is what the model calls. Both take a window in keys, the
query's own included (0: no window), and neither knows of caches or documents.

A sink is one more logit in each row's softmax whose value is dropped: a place to put attention that no key deserves.
It needs no slow attention. With lse the log-sum-exp of a row's scores, and lse' = logaddexp(lse, sink):

    output = plain attention x exp(lse - lse')          ( = x sigmoid(lse - sink) )

and a flash backward kernel that is given this output and lse' in place of its own returns the exact gradients of q, k
and v, since it rebuilds the probabilities as exp(score - lse'). The sink's own is -sum exp(sink - lse') x (dO . O).

Sources: sinks and alternating windows, gpt-oss model card (arXiv 2508.10925); flash attention (arXiv 2205.14135).
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig
from .kv_cache import CacheStep
from .layers import Linear, linear
from .layout import DocumentLayout
from .norm import Norm
from .pointwise import rotate, wide_dtype

NARROW_BACKWARD_TOKENS = 1024
"""Below this many queries torch's 16-bit backward kernel for CPUs is slower than the float32 one, conversions included
(benchmarks/attention_backward.py)."""


def attend_reference(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, *, window: int = 0) -> Tensor:
    """Attention by its definition, all scores at once.

    Args:
        q: (B, T, Q, K); its last query stands at the last key.
        k, v: (B, S, H, K) with H dividing Q and S >= T.
        sinks: (Q,) or None.
        window: keys that a query may see, its own included; 0 for all.

    Returns:
        (B, T, Q, K).
    """
    queries, keys = q.shape[1], k.shape[1]
    query_position = torch.arange(keys - queries, keys, device=q.device)[:, None]
    key_position = torch.arange(keys, device=q.device)
    visible = key_position <= query_position
    if window:
        visible &= query_position - key_position < window
    return attend_visible(q, k, v, sinks, visible)


def attend_visible(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, visible: Tensor) -> Tensor:
    """Attention to the keys that a mask shows; for the few queries of a decoding step, and as the oracle.

    Args:
        q: (B, T, Q, K). k, v: (B, S, H, K). sinks: (Q,) or None.
        visible: bool, broadcastable to (B, T, S); a row without any visible key gives 0 where there are sinks.

    Returns:
        (B, T, Q, K).
    """
    batch, queries, heads, width = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, queries, kv_heads, heads // kv_heads, width)
    scores = torch.einsum("bthgk,bshk->bhgts", grouped, k) * width**-0.5
    if scores.dtype != torch.float64:
        scores = scores.float()
    mask = visible if visible.dim() == 3 else visible.expand(batch, queries, -1)
    scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = scores.softmax(-1)
    if sinks is not None:
        weights = weights[..., :-1]
    return torch.einsum("bhgts,bshk->bthgk", weights.to(v.dtype), v).reshape(q.shape)


class _FlashAttentionCPU(torch.autograd.Function):
    """torch's flash kernel for CPUs, which returns the log-sum-exp, with the sinks of the module's text.

    q: (B, Q, T, K); k, v: (B, H, S, K); sinks: (Q,) or None; mask: additive, broadcastable to (B, Q, T, S), or None.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, mask: Tensor | None, causal: bool
    ) -> Tensor:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=mask)
        if sinks is not None:
            with_sink = torch.logaddexp(lse, sinks[:, None].to(lse.dtype))
            out = out * (lse - with_sink).exp().unsqueeze(-1).to(out.dtype)
            lse = with_sink
        ctx.save_for_backward(q, k, v, sinks, mask, out, lse)
        ctx.causal = causal
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sinks, mask, out, lse = ctx.saved_tensors
        dtype = wide_dtype(q.dtype) if q.shape[2] < NARROW_BACKWARD_TOKENS else q.dtype
        wide = [x.to(dtype) for x in (grads[0], q, k, v, out)]
        mask = None if mask is None else mask.to(wide[0].dtype)
        grad_q, grad_k, grad_v = (
            x.to(q.dtype)
            for x in torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *wide, lse, 0.0, ctx.causal, attn_mask=mask
            )
        )
        grad, out = wide[0], wide[4]
        grad_sinks = None
        if sinks is not None:
            probability = (sinks[:, None].to(lse.dtype) - lse).exp()
            grad_sinks = -(probability * (grad * out).sum(-1, dtype=lse.dtype)).sum((0, 2)).to(sinks.dtype)
        return grad_q, grad_k, grad_v, grad_sinks, None, None


@cache
def _band_mask(window: int, first: bool, dtype: torch.dtype) -> Tensor:
    """Additive (window, 2 window) mask of a block's queries over the block before and their own."""
    query = torch.arange(window)[:, None] + window
    key = torch.arange(2 * window)
    visible = (key <= query) & (query - key < window)
    if first:
        visible &= key >= window
    return torch.zeros(window, 2 * window, dtype=dtype).masked_fill(~visible, float("-inf"))


def _attend_flash_cpu(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, window: int) -> Tensor:
    batch, time, heads, width = q.shape
    if not window or time <= window:
        flash = _FlashAttentionCPU.apply(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), sinks, None, True)
        return flash.transpose(1, 2)
    # Blocks of one window: each looks at itself and the block before, so the cost grows with time x window.
    blocks = -(-time // window)
    padding = blocks * window - time
    if padding:
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, padding)) for x in (q, k, v))

    def with_block_before(x: Tensor) -> Tensor:
        own = x.reshape(batch, blocks, window, *x.shape[2:])
        before = F.pad(own[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        return torch.cat((before, own), dim=2).flatten(0, 1).transpose(1, 2)

    mask = _band_mask(window, False, q.dtype).expand(batch, blocks, window, 2 * window).clone()
    mask[:, 0] = _band_mask(window, True, q.dtype)
    q_blocks = q.reshape(batch * blocks, window, heads, width).transpose(1, 2)
    flash = _FlashAttentionCPU.apply(
        q_blocks, with_block_before(k), with_block_before(v), sinks, mask.flatten(0, 1)[:, None], False
    )
    return flash.transpose(1, 2).reshape(batch, blocks * window, heads, width)[:, :time]


@cache
def _compiled_flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@lru_cache(maxsize=64)
def _cuda_block_mask(time: int, window: int, device: torch.device) -> Any:
    """FlexAttention's map of the blocks that a causal sequence needs, the same for all layers of a kind."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        causal = key <= query
        return causal & (query - key < window) if window else causal

    return create_block_mask(visible, None, None, time, time, device=device)


def _attend_flex_cuda(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, window: int) -> Tensor:
    """FlexAttention on CUDA, whose log-sum-exp is differentiable. Written from torch's documentation, not run here."""
    out, lse = _compiled_flex_attention()(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        block_mask=_cuda_block_mask(q.shape[1], window, q.device),
        enable_gqa=True,
        return_lse=True,
    )
    if sinks is not None:
        out = out * torch.sigmoid(lse - sinks[:, None].to(lse.dtype)).unsqueeze(-1).to(out.dtype)
    return out.transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, *, window: int = 0) -> Tensor:
    """Causal attention of a sequence to itself, by the fastest exact way for the device.

    Args:
        q: (B, T, Q, K). k, v: (B, T, H, K) with H dividing Q.
        sinks: (Q,) or None.
        window: keys that a query may see, its own included; 0 for all.

    Returns:
        (B, T, Q, K), equal to `attend_reference`.
    """
    if q.device.type == "cpu":
        return _attend_flash_cpu(q, k, v, sinks, window)
    if q.device.type == "cuda":
        return _attend_flex_cuda(q, k, v, sinks, window)
    return attend_reference(q, k, v, sinks, window=window)


class Attention(nn.Module):
    """One attention layer: norm, q k v, rotary embedding, attention, output; without the residual sum."""

    def __init__(self, config: ModelConfig, window: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = config.n_head, config.kv_heads, config.head_dim
        self.window = window
        self.norm = Norm(config)
        self.qkv = Linear(config.n_embd, (self.heads + 2 * self.kv_heads) * self.width)
        self.out = Linear(self.heads * self.width, config.n_embd)
        self.sinks = nn.Parameter(torch.zeros(self.heads)) if config.use_attention_sinks else None

    def _project(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotated queries, rotated keys and values, (..., Q + H + H, K)."""
        qkv = linear(self.norm(x), self.qkv).unflatten(-1, (-1, self.width))
        return rotate(qkv, cos, sin, self.heads + self.kv_heads)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=-2)
        return q, k, v

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], layout: DocumentLayout | None) -> Tensor:
        """Attention within whole sequences.

        Args:
            x: (batch, time, n_embd).
            rotation: cos and sin of the tokens' positions, each (batch or 1, time, 1, head_dim / 2).
            layout: the documents of packed rows; None where each row is one document.

        Returns:
            (batch, time, n_embd).
        """
        qkv = self._project(x, *rotation)
        if layout is None:
            mixed = attend(*self._split(qkv), self.sinks, window=self.window).flatten(-2)
        else:
            groups = []
            for group in layout.gather(qkv.flatten(-2).flatten(0, 1)):
                q, k, v = self._split(group.unflatten(-1, (-1, self.width)))
                groups.append(attend(q, k, v, self.sinks, window=self.window).flatten(-2))
            mixed = layout.scatter(groups).view(*x.shape[:2], -1)
        return linear(mixed, self.out)

    def extend(self, x: Tensor, rotation: tuple[Tensor, Tensor], step: CacheStep, layer: int) -> Tensor:
        """Attention of new tokens to themselves and to what the cache holds; see `KVCache`.

        Args:
            x: (batch, time, n_embd), rows padded on the right.
            rotation: cos and sin of the tokens' positions, each (batch, time, 1, head_dim / 2).
            step: the cache and the new tokens' places in it.
            layer: which of the cache's layers this is.

        Returns:
            (batch, time, n_embd).
        """
        q, k, v = self._split(self._project(x, *rotation))
        if step.is_first:
            mixed = attend(q, k, v, self.sinks, window=self.window)
            step.write(layer, k, v)
        else:
            keys, values, visible = step.write_and_read(layer, k, v)
            mixed = attend_visible(q, keys, values, self.sinks, visible)
        return linear(mixed.flatten(-2), self.out)
