"""What a training run needs in memory and on disk, worked out before it starts, and how batches are split to fit.

The fixed part is exact: parameters, gradients and optimizer state, counted on a model without storage. Activations are
an estimate for each token, fitted to measurements of this project's blocks (tensors kept by an eager forward pass on a
CPU). Splitting a batch does not change its gradient, since losses are sums divided by the counts of a whole step; only
the balance loss of the router, a mean of means, changes a little.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import ModelConfig, TrainingConfig
from ..errors import StoryError
from ..model.loss import tokens_in_chunk
from ..model.transformer import StoryTransformer
from .optimizer import MUON_ROLES, optimizer_bytes_per_parameter, parameter_roles
from .precision import Precision

CPU_ACTIVATION_BYTES = 1 << 30
"""A CPU gains nothing from larger passes than this much of activations allows, and its memory is shared."""

ACTIVATION_MARGIN = 1.4
"""The backward pass holds temporary gradients beside the saved activations; measured peaks over saved tensors."""


KEPT_MEMORY = 1.2
"""On a CPU freed memory is kept for the next step (`environment.keep_freed_memory`), and what fits into none of it is
new: measured beside the system's own way on the tiny size with 201,088 tokens (`benchmarks/memory.py`)."""


class MemoryNeedError(StoryError):
    """The run cannot fit into the memory that is there."""


class DiskNeedError(StoryError):
    """What the run saves cannot fit onto the disk."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that a run needs on each device."""

    parameters: int
    gradients: int
    optimizer: int
    working: int
    """Chunk of logits, cast tables and the gradient of one table before it is added up."""
    per_token: int
    """Activations of one token of a micro-batch."""
    layer_per_token: int
    """The part of a single layer in it."""

    @property
    def fixed(self) -> int:
        """What is needed however small the batch is."""
        return self.parameters + self.gradients + self.optimizer + self.working


@dataclass(frozen=True)
class BatchPlan:
    """How the rows of one batch are worked on."""

    rows: int
    """Rows in one forward and backward pass."""
    recompute: bool
    """Blocks are computed again in the backward pass instead of kept."""
    estimate: MemoryEstimate
    available: int | None


def estimate_memory(model: ModelConfig, training: TrainingConfig, precision: Precision) -> MemoryEstimate:
    """Bytes for parameters, gradients, optimizer and activations, from the configuration alone."""
    with torch.device("meta"):
        skeleton = StoryTransformer(model)
    roles = parameter_roles(skeleton)
    hidden, other = optimizer_bytes_per_parameter(training.optimizer)
    count = optimizer = 0
    for name, parameter in skeleton.named_parameters():
        count += parameter.numel()
        optimizer += parameter.numel() * (hidden if roles[name] in MUON_ROLES else other)
    width = precision.dtype.itemsize
    table = model.vocab_size * model.n_embd
    logits = 2 * tokens_in_chunk(model.vocab_size, precision.dtype) * model.vocab_size * width
    casts = count * width if width < 4 else 0
    layer = _layer_bytes_per_token(model, width)
    layers = model.n_layer + model.multi_token_predict - 1
    return MemoryEstimate(
        parameters=4 * count,
        gradients=4 * count,
        optimizer=optimizer,
        working=4 * table + casts + logits,
        per_token=int(layers * layer + model.multi_token_predict * model.n_embd * (4 + 3 * width)),
        layer_per_token=int(layer),
    )


def _layer_bytes_per_token(model: ModelConfig, width: int) -> float:
    """What a block keeps for each token, fitted to measurements: 2-byte activations, and 1.6 times that in float32."""
    heads = (model.n_head + 2 * model.kv_heads) * model.head_dim
    inner = model.expert_width * (1.0 if model.use_swiglu else 0.5)
    narrow = 14 * model.n_embd + 7 * heads + model.active_experts * (6 * model.n_embd + 25 * inner)
    return narrow * (1.0 if width == 2 else 1.6)


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take: of the GPU, or of the machine within the limits set for the process and
    its container; None where nothing is known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        import psutil
    except ImportError:
        return None
    limits = [int(psutil.virtual_memory().available)]
    limits += _container_room()
    used = psutil.Process().memory_info()
    for kind, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, used.rss)):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            limits.append(max(0, soft - taken))
    return min(limits)


def _container_room() -> Iterable[int]:
    """What is left of a Linux control group's memory limit, version 2 or 1, if there is one."""
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            most, taken = Path(limit).read_text(encoding="ascii"), Path(usage).read_text(encoding="ascii")
        except OSError:
            continue
        if most.strip().isdigit():  # "max" is no limit
            yield max(0, int(most) - int(taken))


def plan_batch(
    model: ModelConfig,
    training: TrainingConfig,
    precision: Precision,
    *,
    length: int,
    device: torch.device,
    available: int | None,
    processes_on_device: int = 1,
) -> BatchPlan:
    """Decide how many rows go through the model at once.

    Args:
        model, training, precision: the run.
        length: tokens in a row.
        device: where it runs.
        available: bytes that may be taken; None if unknown, which only the cap for CPUs then bounds.
        processes_on_device: processes that share the memory.

    Raises:
        MemoryNeedError: not even the parameters with gradients and optimizer state fit.
    """
    estimate = estimate_memory(model, training, precision)
    room: float = float("inf")
    if available is not None:
        share = available // processes_on_device
        needed = int(estimate.fixed * (KEPT_MEMORY if device.type == "cpu" else 1))
        if needed > share:
            raise MemoryNeedError(
                f"training {model.parameters().total:,} parameters needs {_gib(needed)} before the first token "
                f"(parameters {_gib(estimate.parameters)}, gradients {_gib(estimate.gradients)}, "
                f"optimizer {_gib(estimate.optimizer)}, working space {_gib(estimate.working)}), but "
                f"{_gib(share)} are available: choose a smaller --model-size, a smaller vocabulary (--vocabulary story)"
                f"{'' if training.optimizer == 'muon' else ', --optimizer muon'} or another machine"
            )
        room = 0.9 * (share - needed)
    if device.type == "cpu":
        room = min(room, CPU_ACTIVATION_BYTES)
    per_row = estimate.per_token * length * ACTIVATION_MARGIN
    recompute = per_row > room
    if recompute:
        checkpoints = 4 * model.n_embd * (model.n_layer + model.multi_token_predict)
        per_row = (estimate.layer_per_token + checkpoints) * length * ACTIVATION_MARGIN
    rows = max(1, min(training.batch_size, int(room // per_row) if room != float("inf") else training.batch_size))
    passes = -(-training.batch_size // rows)
    rows = -(-training.batch_size // passes)  # even passes: matrix shapes repeat
    return BatchPlan(rows=rows, recompute=recompute, estimate=estimate, available=available)


def check_disk(
    estimate: MemoryEstimate,
    training: TrainingConfig,
    *,
    steps_done: int = 0,
    states_there: int = 0,
    models_there: int = 0,
) -> None:
    """Refuse a run whose checkpoint folder has no room for what it will save.

    A state or a model file is written beside the one that it replaces, so there is one more of each for a moment.

    Args:
        estimate: a state holds its parameters and optimizer, a model file its parameters.
        training: how often states and models are saved, how many are kept, and where.
        steps_done: steps that a resumed run has behind it.
        states_there, models_there: states and model files of this run that are in the folder already, and will be
            replaced.

    Raises:
        DiskNeedError: there is too little room.
    """

    def times(interval: int) -> int:
        return max(0 if steps_done else 1, -(-(training.max_iters - steps_done) // interval))

    states = max(0, min(training.keep_states + 1 - states_there, times(training.save_interval)))
    models = max(0, min(2 - models_there, times(training.eval_interval)))
    state_bytes, model_bytes = estimate.parameters + estimate.optimizer, estimate.parameters
    need = states * state_bytes + models * model_bytes
    folder = Path(training.checkpoint_dir).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # nothing is known; saving will tell
        return
    if need > free:
        raise DiskNeedError(
            f"this run saves up to {_size(need)} ({states} x {_size(state_bytes)} of training states with "
            f"--keep-states {training.keep_states}, {models} x {_size(model_bytes)} of models), but "
            f"{training.checkpoint_dir} has {_size(free)} left: free some space, lower --keep-states, or choose "
            "another --checkpoint-dir"
        )


def _size(size: int) -> str:
    return _gib(size) if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
