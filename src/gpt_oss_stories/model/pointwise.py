"""The element-wise mathematics of the model, forward and backward, each written once as plain tensor functions.

Autograd would keep every intermediate result of these formulas and walk through them again one by one. Here each
formula is one autograd function that keeps only its inputs, with its derivative written out. The plain functions are
also what `compile_kernels` hands to torch.compile, which turns each into a single loop over memory.

Norm statistics and products are in float32 whatever the dtype of the activations, as in the gpt-oss reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..errors import StoryError


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype for statistics: float32, or float64 for float64 (gradient checks)."""
    return torch.promote_types(dtype, torch.float32)


# RMSNorm, arXiv 1910.07467: y = x r w with r = 1 / sqrt(mean(x^2) + eps).


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = x.to(wide_dtype(x.dtype))
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * inverse * weight).to(x.dtype), inverse


def _rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    unit = x.to(inverse.dtype) * inverse
    grad_wide = grad.to(inverse.dtype)
    grad_unit = grad_wide * weight
    grad_x = (grad_unit - unit * (grad_unit * unit).mean(-1, keepdim=True)) * inverse
    return grad_x.to(x.dtype), (grad_wide * unit).flatten(0, -2).sum(0)


# LayerNorm, the counterpart in GPT-2: y = (x - mean) r w + b with r = 1 / sqrt(var + eps).


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    wide = x.to(wide_dtype(x.dtype))
    return torch.nn.functional.layer_norm(wide, wide.shape[-1:], weight, bias, eps).to(x.dtype)


# Clamped SwiGLU of gpt-oss: g sigmoid(alpha g) (u + 1), with g <= limit and -limit <= u <= limit; times a share, that
# of an expert in a mixture. hidden: (rows, 2 width), gates and then linear parts; share: (rows, 1) or None for 1.
# With a = alpha g, it is silu(a) (u + 1) / alpha: torch has fast loops for silu, for clamp, and for their derivatives.


def _swiglu(hidden: Tensor, share: Tensor | None, alpha: float, limit: float) -> Tensor:
    gate, up = hidden.chunk(2, dim=-1)
    factor = 1 / alpha if share is None else (share * (1 / alpha)).to(hidden.dtype)
    silu = torch.nn.functional.silu(gate.clamp(max=limit) * alpha)
    return silu * up.clamp(min=-limit, max=limit).add_(1).mul_(factor)


def _swiglu_backward(
    grad: Tensor, hidden: Tensor, share: Tensor | None, alpha: float, limit: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of hidden and share, with `_swiglu` itself between them."""
    gate, up = hidden.chunk(2, dim=-1)
    scaled = gate.clamp(max=limit) * alpha
    silu = torch.nn.functional.silu(scaled)
    linear = up.clamp(min=-limit, max=limit).add_(1)
    mixed = (silu * linear).mul_(1 / alpha)
    grad_share = None
    if share is not None:
        grad_share = (grad * mixed).sum(-1, keepdim=True).to(share.dtype)
        narrow = share.to(hidden.dtype)
        mixed = mixed * narrow
        grad = grad * narrow
    grad_up = silu.mul_(grad).mul_(1 / alpha)
    grad_gate = torch.ops.aten.silu_backward(linear.mul_(grad), scaled)
    clamped = torch.ops.aten.hardtanh_backward
    grad_hidden = torch.cat(
        (clamped(grad_gate, gate, float("-inf"), limit), clamped(grad_up, up, -limit, limit)), dim=-1
    )
    return grad_hidden, mixed, grad_share


# Rotation of the pairs (i, i + head_dim / 2) of the first `turned` heads; the others stay. Its derivative is the
# rotation by the opposite angle.


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, turned: int) -> Tensor:
    first, second = x[..., :turned, :].chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((rotated, x[..., turned:, :]), dim=-2)


_PLAIN: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "rms_norm": _rms_norm,
        "rms_norm_backward": _rms_norm_backward,
        "swiglu": _swiglu,
        "swiglu_backward": _swiglu_backward,
        "rotate": _rotate,
    }
)
_kernels: dict[str, Callable[..., Any]] = dict(_PLAIN)
"""What is used: the formulas above, or what torch.compile made of them."""


class CompileError(StoryError):
    """torch.compile does not work on this machine."""


def compile_kernels(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """Replace the formulas above by loops that torch.compile makes of them, for this process.

    The results agree up to rounding. One formula is built and run here, forward and backward, on a few numbers: it
    takes a working compiler, Python's headers and more, of which any may be missing. The others are built, or read from
    torch's cache, when they are first used.

    Args:
        device, dtype: where the model will compute, and in which dtype.

    Raises:
        CompileError: it does not work here; the formulas are as they were.
    """
    before = dict(_kernels)
    try:
        for name, function in _PLAIN.items():
            if _kernels[name] is function:
                _kernels[name] = torch.compile(function, dynamic=True)
        with torch.enable_grad():
            x = torch.ones(2, 3, 8, dtype=dtype, device=device, requires_grad=True)
            rms_norm(x, torch.ones(8, device=device), 1e-5).sum().backward()
    except Exception as error:  # compilers fail in any way, and training does not depend on them
        _kernels.update(before)
        raise CompileError(_cause(error)) from error


def plain_kernels() -> None:
    """Go back from what `compile_kernels` made to the formulas themselves."""
    _kernels.update(_PLAIN)


def _cause(error: Exception) -> str:
    """One line of an error that holds a compiler's whole output: the first that names an error, or the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "error: " in line), lines[0])


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        result, inverse = _kernels["rms_norm"](x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        normed: Tensor = result
        return normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_x, grad_weight = _kernels["rms_norm_backward"](grads[0], *ctx.saved_tensors)
        return grad_x, grad_weight, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, alpha: float, limit: float) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.constants = (alpha, limit)
        return swiglu_forward(hidden, None, alpha, limit)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (hidden,), (alpha, limit) = ctx.saved_tensors, ctx.constants
        grad_hidden, _, _ = swiglu_backward(grads[0], hidden, None, alpha, limit)
        return grad_hidden, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, turned: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.turned = turned
        result: Tensor = _kernels["rotate"](x, cos, sin, turned)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _kernels["rotate"](grads[0], cos, -sin, ctx.turned), None, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis; x: (..., width), weight: (width,). The result has the shape and dtype of x."""
    # Without gradients the bare formula: an autograd function costs more than the arithmetic of one decoded token.
    normed: Tensor = (
        _RMSNorm.apply(x, weight, eps) if torch.is_grad_enabled() else _kernels["rms_norm"](x, weight, eps)[0]
    )
    return normed


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis; x: (..., width), weight and bias: (width,)."""
    return _layer_norm(x, weight, bias, eps)


def swiglu(hidden: Tensor, alpha: float, limit: float) -> Tensor:
    """Clamped SwiGLU; hidden: (..., 2 width), gates and then linear parts, the result (..., width)."""
    result: Tensor = (
        _SwiGLU.apply(hidden, alpha, limit)
        if torch.is_grad_enabled()
        else _kernels["swiglu"](hidden, None, alpha, limit)
    )
    return result


def swiglu_forward(hidden: Tensor, share: Tensor | None, alpha: float, limit: float) -> Tensor:
    """Clamped SwiGLU of an expert whose answer counts with a share; for use within an autograd function.

    Args:
        hidden: (rows, 2 width), gates and then linear parts.
        share: (rows, 1), or None for 1.

    Returns:
        (rows, width).
    """
    result: Tensor = _kernels["swiglu"](hidden, share, alpha, limit)
    return result


def swiglu_backward(
    grad: Tensor, hidden: Tensor, share: Tensor | None, alpha: float, limit: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """From the gradient of `swiglu_forward` those of hidden and share, with its result again between them."""
    result: tuple[Tensor, Tensor, Tensor | None] = _kernels["swiglu_backward"](grad, hidden, share, alpha, limit)
    return result


def rotate(x: Tensor, cos: Tensor, sin: Tensor, turned: int | None = None) -> Tensor:
    """Turn each pair of dimensions (i, i + head_dim / 2) by an angle.

    Args:
        x: (..., heads, head_dim).
        cos, sin: (..., 1, head_dim / 2), of the angle at each position; no gradient flows into them.
        turned: how many of the heads are turned, from the first on; None for all. The others are copied.

    Returns:
        the shape and dtype of `x`.
    """
    function = _Rotate.apply if torch.is_grad_enabled() else _kernels["rotate"]
    result: Tensor = function(x, cos, sin, x.shape[-2] if turned is None else turned)
    return result
