"""What a training run needs in memory and on disk, worked out before it starts, and how batches are split to fit.

Parameters, gradients and optimizer state are counted exactly, on a model without storage. Activations are an estimate
for each token, fitted to measurements of this project's blocks (tensors kept by an eager forward pass on a CPU).
Splitting a batch does not change its gradient, since losses are sums divided by the counts of a whole step; only the
balance loss of the router, a mean of means, changes a little.

How processes share a model (see `parallel`) decides what each of them holds. With DistributedDataParallel it is all of
it; gradients are views of the buckets that travel, no second copy. With FSDP it is a slice of every tensor, and beside
it whole what is at work: the two tables, a block and the one that is fetched ahead, their gradients, and the copy that
is being sent. Gradients that add up over several passes without being exchanged are whole in each process; where that
does not fit, they are exchanged in every pass.
"""

from __future__ import annotations

import math
import resource
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from ..config import ModelConfig, TrainingConfig
from ..errors import StoryError
from ..model.loss import tokens_in_chunk
from ..model.transformer import Block, StoryTransformer
from .optimizer import ELEMENTS_AT_ONCE, MUON_ROLES, optimizer_bytes_per_parameter, parameter_roles
from .precision import Precision

CPU_ACTIVATION_BYTES = 1 << 30
"""A CPU gains nothing from larger passes than this much of activations allows, and its memory is shared."""

ACTIVATION_MARGIN = 1.4
"""The backward pass holds temporary gradients beside the saved activations; measured peaks over saved tensors."""

TENSOR_IN_STATE, TENSOR_IN_FILE = 1800, 500
"""What the formats of training states and model files take for each tensor beside its values."""

KEPT_MEMORY = 1.2
"""On a CPU freed memory is kept for the next step (`environment.keep_freed_memory`), and what fits into none of it is
new: measured beside the system's own way on the tiny size with 201,088 tokens (`benchmarks/memory.py`)."""

KEPT_SLICES = 1.5
"""The same with FSDP, which takes and frees whole blocks all the time."""


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
    average: int = 0
    """The moving average of the weights."""
    exchange: int = 0
    """What is held only while it travels between processes, or whole while this process works with it."""
    whole_gradients: int = 0
    """What gradients take in place of `gradients` if they add up over passes and are exchanged with the last one."""
    working: int
    """Chunk of logits, cast tables and the gradient of one table before it is added up."""
    stepping: int = 0
    """Temporary tensors of the optimizer, when nothing of `working` and no activations are there."""
    per_token: int
    """Activations of one token of a micro-batch."""
    layer_per_token: int
    """The part of a single layer in it."""

    state_bytes: int
    """A training state on disk, of all processes together."""
    model_bytes: int
    """A model file, apart from its vocabulary."""

    @property
    def resident(self) -> int:
        """What is there all the time."""
        return self.parameters + self.gradients + self.optimizer + self.average + self.exchange

    @property
    def fixed(self) -> int:
        """What is needed however small the batch is."""
        return self.resident + max(self.working, self.stepping)

    def adding_up(self) -> MemoryEstimate:
        """The same with gradients that are exchanged only with the last of several passes."""
        return replace(self, gradients=max(self.gradients, self.whole_gradients))


@dataclass(frozen=True)
class BatchPlan:
    """How the rows of one batch are worked on."""

    rows: int
    """Rows in one forward and backward pass."""
    recompute: bool
    """Blocks are computed again in the backward pass instead of kept."""
    estimate: MemoryEstimate
    available: int | None
    activations: int
    """Bytes of activations in one pass."""
    peak: int
    """Bytes that are needed at the most."""
    exchange_every_pass: bool = False
    """FSDP: there is no room for whole gradients that add up over passes, so each pass exchanges them."""

    @property
    def fits(self) -> bool:
        """Whether it is all known to fit; the activations of a single row may be too much."""
        return self.available is None or self.peak <= self.available


@lru_cache(maxsize=4)
def skeleton(model: ModelConfig) -> StoryTransformer:
    """The model without storage, for its names and shapes."""
    with torch.device("meta"):
        return StoryTransformer(model)


def estimate_memory(
    model: ModelConfig,
    training: TrainingConfig,
    precision: Precision,
    *,
    processes: int = 1,
    device_type: str = "cpu",
) -> MemoryEstimate:
    """Bytes for parameters, gradients, optimizer and activations in each process, from the configuration alone.

    Args:
        model, training, precision: the run.
        processes: how many share the model, in the way that the training's configuration says.
        device_type: cpu or another one.
    """
    hollow = skeleton(model)
    parameters = dict(hollow.named_parameters())
    roles = parameter_roles(hollow)
    sliced = training.sharing == "fsdp" and processes > 1
    hidden, other = optimizer_bytes_per_parameter(training.optimizer)
    whole = {name: parameter.numel() for name, parameter in parameters.items()}
    own = {name: slice_elements(tuple(p.shape), processes) if sliced else p.numel() for name, p in parameters.items()}
    by_muon = [name for name in parameters if training.optimizer == "muon" and roles[name] in MUON_ROLES]

    def optimizer_bytes(elements: Mapping[str, int]) -> int:
        return sum(count * (hidden if name in by_muon else other) for name, count in elements.items())

    count, own_count = sum(whole.values()), sum(own.values())
    width = precision.dtype.itemsize
    table = model.vocab_size * model.n_embd
    logits = 2 * tokens_in_chunk(model.vocab_size, precision.dtype) * model.vocab_size * width
    blocks = [sum(p.numel() for p in module.parameters()) for module in hollow.modules() if isinstance(module, Block)]
    root = count - sum(blocks)
    gathered = root + 2 * max(blocks)
    casts = (gathered if sliced else count) * width if width < 4 else 0
    exchange = 0
    if sliced:  # parameters, their gradients, and what is being sent
        exchange = 4 * (2 * gathered + max(root, *blocks))
    elif training.sharing == "ddp" and processes > 1 and device_type == "cpu":
        exchange = 4 * count  # gloo copies each bucket that is on its way, which may be all of them
    stepping = 0
    if by_muon:
        at_once = min(sum(whole[name] for name in by_muon), max(ELEMENTS_AT_ONCE, *(whole[n] for n in by_muon)))
        iteration = 3 * (2 if precision.dtype == torch.bfloat16 else 4) + 4 * (2 if sliced else 1)
        stepping = 4 * sum(own[name] for name in by_muon) + iteration * at_once
    layer = _layer_bytes_per_token(model, width)
    layers = model.n_layer + model.multi_token_predict - 1
    average = 4 if training.ema_decay is not None else 0
    tensors = len(whole) * (2 if average else 1) + 3 * len(whole) - 2 * len(by_muon)
    return MemoryEstimate(
        parameters=4 * own_count,
        gradients=4 * own_count,
        optimizer=optimizer_bytes(own),
        average=average * own_count,
        exchange=exchange,
        whole_gradients=4 * count,
        working=4 * table + casts + logits,
        stepping=stepping,
        per_token=int(layers * layer + model.multi_token_predict * model.n_embd * (4 + 3 * width)),
        layer_per_token=int(layer),
        state_bytes=(4 + average) * count + optimizer_bytes(whole) + tensors * TENSOR_IN_STATE,
        model_bytes=4 * count + len(whole) * TENSOR_IN_FILE,
    )


def slice_elements(shape: tuple[int, ...], processes: int) -> int:
    """Elements of the largest slice of a tensor that processes share: see `parallel.Slices`."""
    axis = 1 if len(shape) == 3 and shape[0] < processes else 0
    return math.prod(shape) // shape[axis] * -(-shape[axis] // processes)


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
    processes: int = 1,
    refuse: bool = True,
) -> BatchPlan:
    """Decide how many rows go through the model at once.

    Args:
        model, training, precision: the run.
        length: tokens in a row.
        device: where it runs.
        available: bytes that may be taken; None if unknown, which only the cap for CPUs then bounds.
        processes_on_device: processes that share the memory.
        processes: processes that share the model.
        refuse: raise an error where nothing fits, as opposed to planning the smallest passes all the same.

    Raises:
        MemoryNeedError: not even the parameters with gradients and optimizer state fit.
    """
    estimate = estimate_memory(model, training, precision, processes=processes, device_type=device.type)
    share = None if available is None else available // processes_on_device
    kept = 1.0
    if device.type == "cpu":
        kept = KEPT_SLICES if training.sharing == "fsdp" and processes > 1 else KEPT_MEMORY
    if refuse and share is not None and (needed := int(estimate.fixed * kept)) > share:
        smaller = "" if training.optimizer == "muon" else ", --optimizer muon"
        rest = needed - estimate.parameters - estimate.gradients - estimate.optimizer
        share_out = "" if training.sharing == "fsdp" else ", several devices with --parallelism fsdp"
        raise MemoryNeedError(
            f"training {model.parameters().total:,} parameters needs {_gib(needed)} before the first token "
            f"(parameters {_gib(estimate.parameters)}, gradients {_gib(estimate.gradients)}, "
            f"optimizer {_gib(estimate.optimizer)}, working space {_gib(rest)}), but {_gib(share)} are available: "
            f"choose a smaller --model-size, a smaller vocabulary (--vocabulary story){smaller}{share_out} or another "
            "machine"
        )
    plan = _split(model, training, estimate, length, device, share, kept)
    if training.sharing == "fsdp" and processes > 1:
        passes = -(-training.batch_size // plan.rows) * training.gradient_accumulation_steps
        adding_up = _split(model, training, estimate.adding_up(), length, device, share, kept)
        if passes > 1:
            same = (plan.rows, plan.recompute) == (adding_up.rows, adding_up.recompute)
            plan = adding_up if same and adding_up.fits else replace(plan, exchange_every_pass=True)
    return plan


def _split(
    model: ModelConfig,
    training: TrainingConfig,
    estimate: MemoryEstimate,
    length: int,
    device: torch.device,
    share: int | None,
    kept: float,
) -> BatchPlan:
    """The plan for one process that may take `share` bytes, of which all but activations grow by the factor `kept`."""
    always = kept * (estimate.resident + estimate.working)
    room = float("inf") if share is None else max(0.0, 0.9 * (share - always))
    kept_row = estimate.per_token * length * ACTIVATION_MARGIN
    checkpoints = 4 * model.n_embd * (model.n_layer + model.multi_token_predict)
    recomputed_row = (estimate.layer_per_token + checkpoints) * length * ACTIVATION_MARGIN
    recompute = {"on": True, "off": False}.get(training.activation_checkpointing, kept_row > room)
    per_row = recomputed_row if recompute else kept_row
    if device.type == "cpu":
        room = min(room, CPU_ACTIVATION_BYTES)
    rows = max(1, min(training.batch_size, int(room // per_row) if room != float("inf") else training.batch_size))
    passes = -(-training.batch_size // rows)
    rows = -(-training.batch_size // passes)  # even passes: matrix shapes repeat
    activations = int(rows * per_row)
    peak = int(max(always + activations, kept * (estimate.resident + estimate.stepping)))
    return BatchPlan(
        rows=rows, recompute=recompute, estimate=estimate, available=share, activations=activations, peak=peak
    )


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

    need, states, models = disk_need(
        estimate, training, steps_done=steps_done, states_there=states_there, models_there=models_there
    )
    free = free_disk(Path(training.checkpoint_dir))
    if free is not None and need > free:
        raise DiskNeedError(
            f"this run saves up to {size_text(need)} ({states} x {size_text(estimate.state_bytes)} of training states "
            f"with --keep-states {training.keep_states}, {models} x {size_text(estimate.model_bytes)} of models), but "
            f"{training.checkpoint_dir} has {size_text(free)} left: free some space, lower --keep-states, or choose "
            "another --checkpoint-dir"
        )


def disk_need(
    estimate: MemoryEstimate,
    training: TrainingConfig,
    *,
    steps_done: int = 0,
    states_there: int = 0,
    models_there: int = 0,
) -> tuple[int, int, int]:
    """Bytes that a run will write at the most beyond what is there, and how many states and model files; arguments as
    for `check_disk`."""

    def due(interval: int) -> int:
        return max(0, (training.max_iters - 1) // interval - steps_done // interval)

    end = int(steps_done < training.max_iters or not steps_done)
    saving, evaluating = training.save_interval, training.eval_interval  # a state is saved before each evaluation
    saves = due(saving) + due(evaluating) - due(math.lcm(saving, evaluating)) + end
    states = max(0, min(training.keep_states + 1 - states_there, saves))
    models = max(0, min(2 - models_there, due(evaluating) + end))
    return states * estimate.state_bytes + models * estimate.model_bytes, states, models


def free_disk(folder: Path) -> int | None:
    """Bytes left where a folder is, or will be; None where nothing is known, so that only saving will tell."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def size_text(size: int) -> str:
    """A number of bytes in words."""
    return _gib(size) if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
