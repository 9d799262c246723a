"""Parameters by role, Muon, and the one optimizer that the trainer sees.

A parameter's name says what it does in the model, and its role decides how it is trained:

| role | Muon run | AdamW run | weight decay |
|---|---|---|---|
| matrix: attention, multi-token projection | Muon | AdamW | yes |
| expert: stacked expert matrices | Muon, each expert by itself | AdamW | yes |
| router | AdamW | AdamW | yes |
| embedding | AdamW, with a rate of its own | the same | no |
| unembedding | AdamW | AdamW | no |
| vector: norms, biases, sinks | AdamW | AdamW | no |

Every parameter has exactly one role; a name that no pattern or more than one pattern fits is an error, so a new part of
the model cannot be trained by accident of its spelling.

Muon: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024): the momentum of a matrix
is replaced by the nearest matrix whose singular values are all about one, by a few steps of a Newton-Schulz iteration.
Weight decay with it: arXiv 2502.16982. AdamW: arXiv 1711.05101.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainingConfig
from .slices import local, own_part, whole_matrices

ROLE_PATTERNS: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embedding.weight",),
    "unembedding": ("unembedding.weight",),
    "matrix": ("*.attention.qkv.weight", "*.attention.out.weight", "*.projection.weight"),
    "expert": ("*.experts.gate_up_weight", "*.experts.down_weight"),
    "router": ("*.router.weight",),
    "vector": ("norm.weight", "*norm.weight", "*bias", "*.sinks"),
}
"""Shell-style patterns of parameter names, by role."""

DECAYED_ROLES = frozenset({"matrix", "expert", "router"})
MUON_ROLES = frozenset({"matrix", "expert"})

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x^3 and x^5 in one step, chosen by Keller Jordan for a steep slope at zero."""

ELEMENTS_AT_ONCE = 1 << 24
"""Most matrix elements in one Newton-Schulz call, which needs a few copies of them."""


def parameter_roles(model: nn.Module) -> dict[str, str]:
    """The role of each trainable parameter, by name.

    Raises:
        AssertionError: a name fits no role, or more than one.
    """
    roles = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        fitting = [
            role
            for role, patterns in ROLE_PATTERNS.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        ]
        if len(fitting) != 1:
            raise AssertionError(
                f"parameter {name!r} fits the roles {fitting}; it must fit exactly one of ROLE_PATTERNS"
            )
        roles[name] = fitting[0]
    return roles


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrices with all singular values near one (between about 0.7 and 1.2).

    Args:
        matrices: (N, rows, cols) in the number format to compute in.
        steps: Newton-Schulz steps.

    Returns:
        (N, rows, cols). A matrix of zeros stays one.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT.contiguous() if tall else matrices  # the products are then of the shorter side's size
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon:
    """Momentum, made orthogonal, with decoupled weight decay.

    Matrices are (rows, cols) = (outputs, inputs); stacked expert matrices are (experts, inputs, outputs), and each
    expert is a matrix by itself. The update is scaled by sqrt(max(1, outputs / inputs)), so that a step changes the
    outputs of tall and of wide matrices alike. Equal shapes of all layers go through one batched iteration.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, momentum: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        self.parameters = dict(parameters)
        self.momentum, self.weight_decay, self.dtype = momentum, weight_decay, dtype
        self.buffers = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        names = [name for name, parameter in self.parameters.items() if parameter.grad is not None]
        if not names:
            return
        parameters = [local(self.parameters[name]) for name in names]
        gradients = [local(_gradient(self.parameters[name])) for name in names]
        buffers = [local(self.buffers[name]) for name in names]
        torch._foreach_lerp_(buffers, gradients, 1.0 - self.momentum)
        updates = torch._foreach_lerp(gradients, buffers, self.momentum)  # Nesterov: one step ahead along the momentum
        if self.weight_decay:
            torch._foreach_mul_(parameters, 1.0 - learning_rate * self.weight_decay)
        by_shape: dict[tuple[int, int], list[int]] = {}
        for index, name in enumerate(names):
            rows, cols = self.parameters[name].shape[-2:]
            by_shape.setdefault((rows, cols), []).append(index)
        for indices in by_shape.values():
            for chunk in _chunks(indices, [self.parameters[name].numel() for name in names]):
                self._apply(
                    [self.parameters[names[index]] for index in chunk], [updates[i] for i in chunk], learning_rate
                )

    def _apply(self, parameters: Sequence[nn.Parameter], updates: Sequence[Tensor], learning_rate: float) -> None:
        rows, cols = parameters[0].shape[-2:]
        # Of parameters that processes share in slices, the whole matrices; experts that are dealt out whole stay apart.
        matrices = [whole_matrices(update, parameter) for update, parameter in zip(updates, parameters, strict=True)]
        stack = torch.cat([matrix.reshape(-1, rows, cols) for matrix in matrices]).to(self.dtype)
        directions = orthogonalize(stack).to(parameters[0].dtype)
        start = 0
        for parameter, matrix in zip(parameters, matrices, strict=True):
            count = matrix.numel() // (rows * cols)
            outputs, inputs = (cols, rows) if parameter.dim() == 3 else (rows, cols)
            step = learning_rate * math.sqrt(max(1.0, outputs / inputs))
            direction = directions[start : start + count].view_as(matrix)
            local(parameter).add_(own_part(direction, parameter), alpha=-step)
            start += count


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _chunks(indices: Sequence[int], sizes: Sequence[int]) -> Iterable[list[int]]:
    """Runs of indices of which none, unless it is a single one, is larger than ELEMENTS_AT_ONCE."""
    chunk: list[int] = []
    total = 0
    for index in indices:
        if chunk and total + sizes[index] > ELEMENTS_AT_ONCE:
            yield chunk
            chunk, total = [], 0
        chunk.append(index)
        total += sizes[index]
    if chunk:
        yield chunk


def _adamw_group(role: str) -> str:
    if role == "embedding":
        return "embedding"
    return "decayed" if role in DECAYED_ROLES else "plain"


class StoryOptimizer:
    """AdamW for everything, or Muon for the matrices and AdamW for the rest, as one optimizer.

    State is float32 and exists from the start, so that it can be loaded in place before the first step.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, *, matrix_dtype: torch.dtype = torch.float32) -> None:
        """
        Args:
            model: the model, already on its device.
            config: optimizer, learning rates, betas and weight decay.
            matrix_dtype: number format of Muon's Newton-Schulz iteration; bfloat16 is enough for it.
        """
        self.kind = config.optimizer
        self.learning_rate, self.matrix_learning_rate = config.learning_rate, config.matrix_learning_rate
        parameters = dict(model.named_parameters())
        self.roles = parameter_roles(model)
        # In the model's order, which is the same in every process.
        by_muon = [name for name, role in self.roles.items() if self.kind == "muon" and role in MUON_ROLES]
        self.muon = Muon(
            {name: parameters[name] for name in by_muon},
            momentum=0.95,
            weight_decay=config.weight_decay,
            dtype=matrix_dtype,
        )
        self.by_adamw = {name: parameters[name] for name in self.roles if name not in by_muon}
        self.embedding_learning_rate = config.embedding_learning_rate or config.learning_rate
        groups: list[dict[str, Any]] = []
        for kind in ("decayed", "plain", "embedding"):
            members = [p for name, p in self.by_adamw.items() if _adamw_group(self.roles[name]) == kind]
            if members:
                decay = config.weight_decay if kind == "decayed" else 0.0
                groups.append({"params": members, "weight_decay": decay, "kind": kind})
        device = next(iter(parameters.values())).device.type
        self.adamw = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=1e-8,
            fused=device in ("cpu", "cuda"),
        )
        for group in self.adamw.param_groups:
            for parameter in group["params"]:
                place = parameter.device if group["fused"] else "cpu"
                self.adamw.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=place),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    def step(self, factor: float) -> None:
        """Change the parameters by their gradients.

        Args:
            factor: the schedule's share of the highest learning rates.
        """
        for group in self.adamw.param_groups:
            highest = self.embedding_learning_rate if group["kind"] == "embedding" else self.learning_rate
            group["lr"] = highest * factor
        self.adamw.step()
        self.muon.step(self.matrix_learning_rate * factor)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad(set_to_none=True)
        for parameter in self.muon.parameters.values():
            parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """The live state tensors, by parameter name and slot; writing into them restores a state."""
        tensors = {f"muon.{name}.momentum": buffer for name, buffer in self.muon.buffers.items()}
        for name, parameter in self.by_adamw.items():
            for slot, tensor in self.adamw.state[parameter].items():
                tensors[f"adamw.{name}.{slot}"] = tensor
        return tensors


def optimizer_bytes_per_parameter(kind: str) -> tuple[int, int]:
    """Bytes of state for a parameter inside the hidden matrices, and for any other one."""
    return (4 if kind == "muon" else 8), 8
