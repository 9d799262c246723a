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


# Clamped SwiGLU of gpt-oss: g sigmoid(alpha g) (u + 1), with g <= limit and -limit <= u <= limit.


# With a = alpha g, it is silu(a) (u + 1) / alpha: torch has fast loops for silu, for clamp, and for their derivatives.


def _swiglu(gate: Tensor, up: Tensor, alpha: float, limit: float) -> Tensor:
    silu = torch.nn.functional.silu(gate.clamp(max=limit) * alpha)
    return silu * up.clamp(min=-limit, max=limit).add_(1).mul_(1 / alpha)


def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor, alpha: float, limit: float) -> tuple[Tensor, Tensor]:
    scaled = gate.clamp(max=limit) * alpha
    grad_up = torch.nn.functional.silu(scaled).mul_(grad).mul_(1 / alpha)
    grad_gate = torch.ops.aten.silu_backward(up.clamp(min=-limit, max=limit).add_(1).mul_(grad), scaled)
    # The derivative of a clamp: the gradient inside, 0 outside.
    clamped = torch.ops.aten.hardtanh_backward
    return clamped(grad_gate, gate, float("-inf"), limit), clamped(grad_up, up, -limit, limit)


# Rotation of the pairs (i, i + head_dim / 2); its derivative is the rotation by the opposite angle.


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    result_first, result_second = result.chunk(2, dim=-1)
    torch.mul(first, cos, out=result_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=result_second).addcmul_(first, sin)
    return result


_PLAIN: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "rms_norm": _rms_norm,
        "rms_norm_backward": _rms_norm_backward,
        "swiglu": _swiglu,
        "swiglu_backward": _swiglu_backward,
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
    def forward(ctx: Any, gate: Tensor, up: Tensor, alpha: float, limit: float) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.constants = (alpha, limit)
        result: Tensor = _kernels["swiglu"](gate, up, alpha, limit)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_gate, grad_up = _kernels["swiglu_backward"](grads[0], *ctx.saved_tensors, *ctx.constants)
        return grad_gate, grad_up, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin), None, None


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


def swiglu(gate: Tensor, up: Tensor, alpha: float, limit: float) -> Tensor:
    """Clamped SwiGLU; gate, up: (..., width), the result too."""
    function = _SwiGLU.apply if torch.is_grad_enabled() else _kernels["swiglu"]
    result: Tensor = function(gate, up, alpha, limit)
    return result


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of dimensions (i, i + head_dim / 2) by an angle.

    Args:
        x: (..., heads, head_dim).
        cos, sin: (..., 1, head_dim / 2), of the angle at each position; no gradient flows into them.

    Returns:
        the shape and dtype of `x`.
    """
    turned: Tensor = (_Rotate.apply if torch.is_grad_enabled() else _rotate)(x, cos, sin)
    return turned
