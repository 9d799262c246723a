"""How several processes share a model: each holds all of it, or a slice of every tensor.

| | parameters, gradients and optimizer state | what travels in a step |
|---|---|---|
| one process | whole | nothing |
| DistributedDataParallel (arXiv 2006.15704) | whole in each process | gradients, once |
| fully sharded, FSDP2 (arXiv 2304.11277) | a slice in each process | parameters twice, gradients once |

Slices are cut along the first axis, so stacked experts are dealt out whole where there are enough of them. While a
block computes, its process holds that block's parameters whole, and only these.

Every method that is marked *together* exchanges something: all processes must call it, in the same order.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..model.model_file import build_model
from ..model.transformer import Block, Losses, StoryTransformer
from .distributed import Processes
from .slices import local, own_slice, whole


class Parallel(ABC):
    """A model in training, as its processes share it."""

    def __init__(self, model: StoryTransformer, processes: Processes) -> None:
        self.model, self.processes = model, processes

    @abstractmethod
    def loss(self, *batch: Tensor, **options: Any) -> Losses:
        """`StoryTransformer.loss`; its backward pass adds up all processes' gradients. Together."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of the sum of all processes' losses; together."""
        loss.backward()

    def synchronised(self, wanted: bool) -> AbstractContextManager[None]:
        """Gradients travel in the backward passes of this block only if wanted: once a step, with its last pass."""
        return contextlib.nullcontext()

    def gradient_norm(self) -> float:
        """Norm of the whole gradient; together."""
        return float(torch.nn.utils.get_total_norm(self._gradients()))

    def scale_gradient(self, factor: float) -> None:
        """Multiply the gradient with a number."""
        torch._foreach_mul_(self._gradients(), factor)

    def _gradients(self) -> list[Tensor]:
        return [local(parameter.grad) for parameter in self.model.parameters() if parameter.grad is not None]

    @torch.no_grad()
    def balance_by_bias(self, expert_load: Tensor, rate: float) -> None:
        """Move the routers' biases towards an even load; see `StoryTransformer.router_bias_directions`."""
        for bias, direction in self.model.router_bias_directions(expert_load):
            local(bias).add_(own_slice(direction, bias), alpha=rate)

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the model's or optimizer's tensors that this process writes into a training state."""
        return dict(tensors) if self.processes.is_main else {}

    def take_weights(self, model: StoryTransformer) -> None:
        """Take over the weights of a whole model of the same architecture, the same in every process."""
        self.model.load_state_dict(model.state_dict())

    def whole_model(self) -> StoryTransformer | None:
        """The model with all its parameters in the main process, None in others; together."""
        return self.model if self.processes.is_main else None


class OneProcess(Parallel):
    """Nothing is shared."""

    def loss(self, *batch: Tensor, **options: Any) -> Losses:
        return self.model.loss(*batch, **options)


class _LossModule(nn.Module):
    """The model with its loss as `forward`, which is where DistributedDataParallel hooks in."""

    def __init__(self, model: StoryTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor, **options: Any) -> Losses:
        return self.model.loss(*batch, **options)


class Replicas(Parallel):
    """The whole model in each process (DistributedDataParallel)."""

    def __init__(self, model: StoryTransformer, processes: Processes, device: torch.device) -> None:
        super().__init__(model, processes)
        self._module = DistributedDataParallel(
            _LossModule(model),
            device_ids=[device] if device.type == "cuda" else None,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
        )

    def loss(self, *batch: Tensor, **options: Any) -> Losses:
        losses: Losses = self._module(*batch, **options)
        return losses

    def backward(self, loss: Tensor) -> None:
        # DistributedDataParallel takes the mean over processes where the sum is wanted.
        (loss * self.processes.world_size).backward()

    def synchronised(self, wanted: bool) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if wanted else self._module.no_sync()


class Slices(Parallel):
    """A slice of every parameter, gradient and optimizer tensor in each process (FSDP2)."""

    def __init__(self, model: StoryTransformer, processes: Processes, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
        from torch.distributed.tensor import Shard

        super().__init__(model, processes)
        mesh = init_device_mesh(device.type, (processes.world_size,))

        def place(parameter: nn.Parameter) -> Shard:
            # Too few experts to deal out are cut across, as a single one is.
            return Shard(1 if parameter.dim() == 3 and len(parameter) < processes.world_size else 0)

        for block in [module for module in model.modules() if isinstance(module, Block)]:
            fully_shard(block, mesh=mesh, shard_placement_fn=place)
        fully_shard(model, mesh=mesh, shard_placement_fn=place)
        register_fsdp_forward_method(model, "loss")
        for module in model.modules():
            if isinstance(module, FSDPModule):  # the sum over processes, not the mean, by any backend
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def loss(self, *batch: Tensor, **options: Any) -> Losses:
        return self.model.loss(*batch, **options)

    def synchronised(self, wanted: bool) -> AbstractContextManager[None]:
        self.model.set_requires_gradient_sync(wanted)  # type: ignore[operator]
        return contextlib.nullcontext()

    def gradient_norm(self) -> float:
        squares = sum(float(torch.nn.utils.get_total_norm([part])) ** 2 for part in self._gradients() if part.numel())
        return float(self.processes.total([squares])[0] ** 0.5)

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)  # each writes its slices; of what several hold alike one copy is kept

    @torch.no_grad()
    def take_weights(self, model: StoryTransformer) -> None:
        for own, given in zip(self.model.parameters(), model.parameters(), strict=True):
            local(own).copy_(own_slice(given.detach().to(local(own).device), own))

    def whole_model(self) -> StoryTransformer | None:
        weights = {}
        # After a pass without gradients some parameters are still whole, in memory of FSDP's own; a state has slices.
        for name, tensor in self.model.state_dict().items():
            gathered = whole(tensor)
            if self.processes.is_main:
                weights[name] = gathered.cpu()
        if not self.processes.is_main:
            return None
        model = build_model(self.model.config, weights, "the processes' slices", copy=False)
        model.compute_dtype = self.model.compute_dtype
        return model


def share_model(kind: str, model: StoryTransformer, processes: Processes, device: torch.device) -> Parallel:
    """Share a model among processes.

    Args:
        kind: ddp or fsdp.
        model: the whole model, the same in each process; for fsdp it may still be in the main memory of each.
        processes: who takes part.
        device: where this process computes.
    """
    if processes.world_size == 1:
        return OneProcess(model, processes)
    return Slices(model, processes, device) if kind == "fsdp" else Replicas(model, processes, device)
