"""One optimizer step: a gradient from the rows of all processes, and the move of the weights that it asks for.

The rows of a step go through the model in passes that fit the memory. Each pass's losses are divided by the counts of
the whole step, so that the gradients add up to that of one large batch, however it is split and by however many
processes.
"""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import TrainingConfig
from ..data.batches import Batch
from ..errors import StoryError
from .evaluation import count_target_bytes
from .faults import StepOutcome, first_line, is_out_of_memory
from .memory import BatchPlan
from .optimizer import StoryOptimizer
from .parallel import Parallel
from .precision import Precision
from .sums import StepCounts
from .timing import TimeSplit


class StepTooLargeError(StoryError):
    """A single row in a pass does not fit the memory."""


@dataclass(frozen=True)
class StepGradient:
    """What is known of a step when its gradient is computed; of all processes."""

    losses: list[float]
    """Means over the step: next token, later ones, balance, z."""
    load: Tensor
    """(layers with a router, experts) token-expert pairs."""
    counts: StepCounts


class Stepper:
    """Computes gradients and moves the weights of a model that processes share."""

    def __init__(
        self,
        parallel: Parallel,
        config: TrainingConfig,
        plan: BatchPlan,
        precision: Precision,
        device: torch.device,
        byte_counts: Tensor,
        times: TimeSplit,
    ) -> None:
        """
        Args:
            parallel: the model.
            config: the optimizer and the weights of the losses.
            plan: how batches are split; `plan` of this object changes when memory turns out to be short.
            precision: the number format.
            device: where the model is.
            byte_counts: (vocab_size,) bytes of each token, on the device.
            times: where the time of the parts of a step goes.
        """
        self.parallel, self.model, self.processes = parallel, parallel.model, parallel.processes
        self.config, self.device = config, device
        self._byte_counts, self._times = byte_counts, times
        half = torch.bfloat16 if precision.dtype == torch.bfloat16 else torch.float32
        self.optimizer = StoryOptimizer(self.model, config, matrix_dtype=half)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision.scaled)
        # GradScaler wants a torch optimizer; this one only tells it which gradients there are.
        self._scaled = torch.optim.SGD(self.model.parameters(), lr=0.0) if precision.scaled else None
        self.must_recompute = False  # memory ran out with blocks that were kept
        self.use(plan)

    def use(self, plan: BatchPlan) -> None:
        """Split batches by another plan from now on."""
        self.plan = plan
        self.model.recompute_blocks = plan.recompute

    @property
    def loss_scale(self) -> float | None:
        """What losses are multiplied with; None unless float16 needs it."""
        return None if self._scaled is None else float(self.scaler.get_scale())

    def gradient(self, batches: Sequence[Batch]) -> tuple[StepGradient, str | None]:
        """Compute a step's gradient; where memory runs out, by smaller passes, which make the same gradient. Together.

        Args:
            batches: this process's rows of the step.

        Returns:
            What is known of the step; and, if the plan had to be changed, why and how, in words.

        Raises:
            StepTooLargeError: memory runs out with a single row in a pass.
            RuntimeError, MemoryError: it runs out in one of several processes, of which others wait for this one in
                the middle of a pass.
        """
        changes: list[str] = []
        while True:
            passes = [part for batch in batches for part in batch.split(self.plan.rows)]
            counts, shares = self._count(passes)
            try:
                losses, load = self._backward(passes, counts.targets, shares)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.processes.world_size > 1:
                    raise
                problem = first_line(error)
            else:
                return StepGradient(losses, load, counts), "; ".join(changes) or None
            # Only here, since the exception keeps what was computed before it.
            changes.append(self._need_less_memory(problem))

    def _need_less_memory(self, problem: str) -> str:
        """Halve the rows of a pass for the rest of the run, or recompute blocks in the backward pass, if not off.

        Returns:
            That, in words.

        Raises:
            StepTooLargeError: all of that was done already.
        """
        self.optimizer.zero_grad()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        what = f"memory ran out ({problem})"
        if self.plan.rows > 1:
            sliced = self.config.sharing == "fsdp"  # gradients that add up over passes would be whole
            self.use(dataclasses.replace(self.plan, rows=self.plan.rows // 2, exchange_every_pass=sliced))
            return f"{what}: going on with {self.plan.rows} row(s) in a pass, which gives the same gradient"
        if not self.plan.recompute and self.config.activation_checkpointing != "off":
            self.must_recompute = True
            self.use(dataclasses.replace(self.plan, recompute=True))
            return f"{what}: going on with blocks that are computed again in the backward pass"
        raise StepTooLargeError(what)

    def _count(self, passes: Sequence[Batch]) -> tuple[StepCounts, list[float]]:
        """What is to be predicted in the whole step, and each pass's share of all tokens in it."""
        own = [self.model.count_targets(part.documents, part.trained) for part in passes]
        tokens = [float((part.documents >= 0).sum()) for part in passes]
        depths = len(own[0])
        target_bytes = sum(count_target_bytes(part, self._byte_counts) for part in passes)
        *targets, all_tokens, all_bytes = self.processes.total(
            [*(float(sum(c[depth] for c in own)) for depth in range(depths)), sum(tokens), float(target_bytes)]
        )
        return StepCounts(tuple(targets), all_bytes), [count / max(1.0, all_tokens) for count in tokens]

    def _backward(
        self, passes: Sequence[Batch], counts: tuple[float, ...], shares: Sequence[float]
    ) -> tuple[list[float], Tensor]:
        """Losses and expert load of `StepGradient`; the gradients are in the parameters."""
        config = self.config
        self.optimizer.zero_grad()
        sums: Tensor | None = None
        load: Tensor | None = None
        for index, (part, share) in enumerate(zip(passes, shares, strict=True)):
            with self.parallel.synchronised(index == len(passes) - 1 or self.plan.exchange_every_pass):
                with self._times.device_part("forward"):
                    losses = self.parallel.loss(
                        part.tokens,
                        part.documents,
                        part.trained,
                        balance_coef=config.router_balance_coef if config.router_balance == "loss" else 0.0,
                        z_coef=config.router_z_coef,
                        multi_token_weight=config.multi_token_loss_weight,
                        target_counts=counts,
                        aux_share=share,
                    )
                with self._times.device_part("backward"):
                    self.parallel.backward(self.scaler.scale(losses.total))
            values = torch.stack(
                [losses.next_token, *losses.multi_token, losses.balance * share, losses.router_z * share]
            ).detach()
            sums = values if sums is None else sums + values
            load = losses.expert_load if load is None else load + losses.expert_load
        assert sums is not None
        assert load is not None
        return self.processes.total(sums.tolist()), self.processes.total_tensor(load)

    def update(self, losses: Sequence[float], factor: float) -> StepOutcome:
        """Clip the gradient and move the weights, unless a loss or the gradient is not finite; together.

        Args:
            losses: those of the step.
            factor: what the highest learning rates are multiplied with.
        """
        scale = self.loss_scale
        if self._scaled is not None:
            self.scaler.unscale_(self._scaled)
        norm = self.parallel.gradient_norm()
        sound = all(map(math.isfinite, losses))
        # By all processes' numbers: should those of one be broken, the others must not go on without it.
        broken, broken_losses = self.processes.largest([float(not (sound and math.isfinite(norm))), float(not sound)])
        if broken:
            if scale is not None:
                self._after_overflow(back_off=not broken_losses)
            # At a scale of 1 and below, gradients are no larger than without scaling.
            overflowed = scale is not None and scale > 1.0 and not broken_losses
            return StepOutcome(moved=False, gradient_norm=norm, loss_scale=scale, overflowed=overflowed)
        limit = self.config.grad_clip
        if limit and norm > limit:
            self.parallel.scale_gradient(limit / norm)
        self.optimizer.step(factor)
        if scale is not None:
            self.scaler.update()
        return StepOutcome(moved=True, gradient_norm=norm, loss_scale=scale)

    def _after_overflow(self, *, back_off: bool) -> None:
        """Lower the loss scale as GradScaler does, in every process alike, whosever gradients overflowed.

        Args:
            back_off: False keeps the scale: where the loss itself is not finite, a smaller one would not help.
        """
        state: dict[str, Any] = self.scaler.state_dict()
        self.scaler.update()  # to be ready for the next step; what it makes of the scale does not count
        if back_off:
            state |= {"scale": state["scale"] * state["backoff_factor"], "_growth_tracker": 0}
        self.scaler.load_state_dict(state)
