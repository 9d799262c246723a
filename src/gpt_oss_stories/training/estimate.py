"""What a run will take, worked out from its configurations: memory, operations, traffic between devices and disk.

Nothing is allocated and no device is touched, so a model of any size can be estimated anywhere, also for GPUs that are
in another place. Memory is that of `memory`, operations are counted as in `flops`. What travels is counted for rings,
as NCCL and gloo send: of a tensor that n processes collect or add up, each sends (n - 1) / n.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..config import HARMONY_VOCABULARY_SIZE, DataConfig, ModelConfig, TrainingConfig
from ..data.pipeline import prepared_folder
from ..data.preparation.plan import source_bytes, sources_of
from ..data.shards import read_manifest
from ..device import choose_device
from ..errors import StoryError
from ..model.transformer import Block
from .flops import peak_flops, peak_flops_of, training_flops_per_token
from .memory import (
    BatchPlan,
    available_memory,
    disk_need,
    plan_batch,
    size_text,
    skeleton,
)
from .optimizer import MUON_ROLES, parameter_roles
from .precision import FORMATS, Precision, choose_precision

if TYPE_CHECKING:
    from rich.console import RenderableType

ASSUMED_VOCABULARY = 8192
"""Tokens of a story vocabulary that is not known before the stories are prepared: about that of a few million words."""

QUICKLY_HASHED_BYTES = 2**26
"""Stories on this machine up to this size are hashed to find out whether they are prepared."""

DAY_SECONDS = 86_400

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class EstimateError(StoryError):
    """What was asked for cannot be estimated."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A run whose processes share the model in one way."""

    sharing: str
    """none, ddp or fsdp."""
    devices: int
    plan: BatchPlan
    fits: bool | None
    """None if it is not known how much memory a device has."""
    passes: int
    """Forward and backward passes of each device in a step."""
    tokens_per_step: int
    bytes_sent_per_step: int
    """By each device."""

    def memory(self) -> dict[str, int]:
        """Bytes on each device when it takes the most, by what they are for; they add up to `plan.peak`."""
        estimate = self.plan.estimate
        parts = {
            "parameters": estimate.parameters,
            "gradients": estimate.gradients,
            "optimizer": estimate.optimizer,
            "moving average": estimate.average,
            "exchange": estimate.exchange,
            "activations": self.plan.activations,
        }
        return {**parts, "working space": self.plan.peak - sum(parts.values())}


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """What a run will take."""

    model: ModelConfig
    training: TrainingConfig
    device: str
    precision: Precision
    length: int
    """Tokens in a row."""
    available: int | None
    """Bytes that each process may take."""
    ways: tuple[Shared, ...]
    flops_per_token: float
    peak_flops: float | None
    """Of one device; None if not known."""
    notes: tuple[str, ...]

    def tokens_per_second_bound(self, way: Shared) -> float | None:
        """What no program can exceed: every device at its peak, all the time."""
        return None if self.peak_flops is None else way.devices * self.peak_flops / self.flops_per_token

    def run_flops(self, way: Shared) -> float:
        """Operations of the whole run."""
        return self.training.max_iters * way.tokens_per_step * self.flops_per_token

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not known is None."""
        first = self.ways[0].plan.estimate
        return {
            "parameters": dataclasses.asdict(self.model.parameters()),
            "vocabulary": self.model.vocab_size,
            "device": self.device,
            "precision": str(self.precision.dtype).removeprefix("torch."),
            "tokens_per_row": self.length,
            "available_bytes_per_process": self.available,
            "flops_per_token": self.flops_per_token,
            "peak_flops_per_device": self.peak_flops,
            "state_bytes": first.state_bytes,
            "model_file_bytes": first.model_bytes,
            "disk_bytes": disk_need(first, self.training)[0],
            "ways": [
                {
                    "sharing": way.sharing,
                    "devices": way.devices,
                    "memory_bytes": way.memory(),
                    "peak_memory_bytes": way.plan.peak,
                    "fits": way.fits,
                    "rows_in_a_pass": way.plan.rows,
                    "passes_per_step": way.passes,
                    "activation_checkpointing": way.plan.recompute,
                    "gradients_travel_in_every_pass": way.plan.exchange_every_pass,
                    "tokens_per_step": way.tokens_per_step,
                    "flops_per_step": way.tokens_per_step * self.flops_per_token,
                    "flops_of_the_run": self.run_flops(way),
                    "tokens_per_second_bound": self.tokens_per_second_bound(way),
                    "bytes_sent_per_device_and_step": way.bytes_sent_per_step,
                }
                for way in self.ways
            ],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """`to_dict` as one line."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def lines(self) -> list[str]:
        """For people: what all ways have in common."""
        estimate, training = self.ways[0].plan.estimate, self.training
        need, states, models = disk_need(estimate, training)
        peak = "not known" if self.peak_flops is None else f"{_si(self.peak_flops)}FLOP/s"
        return [
            f"model       {self.model.parameters().describe()}; vocabulary of {self.model.vocab_size:,}",
            f"device      {self.device}, {self.precision.describe()}; peak {peak}",
            f"operations  {_si(self.flops_per_token)}FLOP for each token in rows of {self.length:,}",
            f"run         {training.max_iters:,} steps",
            f"disk        {size_text(need)} at the most: {states} x {size_text(estimate.state_bytes)} of states, "
            f"{models} x {size_text(estimate.model_bytes)} of models",
            *(f"note        {note}" for note in self.notes),
        ]

    def table(self) -> RenderableType:
        """For people: the ways side by side; print it with a rich console."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("on each device", no_wrap=True)
        for way in self.ways:
            table.add_column(_NAMES[way.sharing], justify="right")
        for name in self.ways[0].memory():
            values = [way.memory()[name] for way in self.ways]
            if any(values):
                table.add_row(name, *(size_text(value) if value else "-" for value in values))
        table.add_row("memory at the most", *(size_text(way.plan.peak) for way in self.ways), style="bold")
        if self.available is not None:
            table.add_row(f"fits into {size_text(self.available)}", *(_yes(way.fits) for way in self.ways))
        table.add_row()
        table.add_row("rows in a pass", *(f"{way.plan.rows:,}" for way in self.ways))
        table.add_row("passes in a step", *(f"{way.passes:,}" for way in self.ways))
        table.add_row("blocks are computed again", *(_yes(way.plan.recompute) for way in self.ways))
        if any(way.plan.exchange_every_pass for way in self.ways):
            table.add_row("gradients are sent in each pass", *(_yes(way.plan.exchange_every_pass) for way in self.ways))
        table.add_row(
            "sent in a step",
            *(size_text(way.bytes_sent_per_step) if way.bytes_sent_per_step else "-" for way in self.ways),
        )
        table.add_row()
        table.add_row("all devices", *(f"{way.devices:,}" for way in self.ways), style="bold")
        table.add_row("tokens in a step", *(f"{way.tokens_per_step:,}" for way in self.ways))
        table.add_row("FLOP in a step", *(_si(way.tokens_per_step * self.flops_per_token) for way in self.ways))
        table.add_row("FLOP in the run", *(_si(self.run_flops(way)) for way in self.ways))
        if self.peak_flops is not None:
            bounds = [self.tokens_per_second_bound(way) or 0.0 for way in self.ways]
            table.add_row("tokens/s at the most", *(f"{bound:,.0f}" for bound in bounds))
            seconds = [self.run_flops(way) / (way.devices * self.peak_flops) for way in self.ways]
            table.add_row("hours at the least", *(f"{second / 3600:,.2f}" for second in seconds))
        else:
            needed = [self.run_flops(way) / DAY_SECONDS / way.devices for way in self.ways]
            table.add_row("FLOP/s of each to end in a day", *map(_si, needed))
        return table


_NAMES = {"none": "one process", "ddp": "ddp", "fsdp": "fsdp"}


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not known"}[value]


def _si(value: float) -> str:
    """A number with three digits and a prefix, ready for a unit."""
    for factor, prefix in ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:,.0f} "


def parse_bytes(text: str) -> int:
    """Bytes in a size such as 24GiB, 80GB, 512 MiB or 1.5T.

    Raises:
        EstimateError: it is none.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if match is None or match[2] not in _UNITS or not float(match[1]):
        raise EstimateError(f"{text!r} is not an amount of memory: give one such as 24GiB or 80GB")
    return int(float(match[1]) * _UNITS[match[2]])


def vocabulary_size(data: DataConfig) -> tuple[int, str | None]:
    """Tokens in the vocabulary that the data will have, and a remark if that is a guess."""
    if data.vocabulary == "harmony":
        return HARMONY_VOCABULARY_SIZE, None
    try:
        sources = [source for _, source in sources_of(data)]
        small = sum(source_bytes(source, data) for source in sources) <= QUICKLY_HASHED_BYTES
        if small and not any(source.is_hub for source in sources):
            return int(read_manifest(prepared_folder(data))["vocabulary"]["size"]), None
    except StoryError:  # not prepared; what is wrong with the stories is for --check to tell
        pass
    return ASSUMED_VOCABULARY, (
        f"a story vocabulary of {ASSUMED_VOCABULARY:,} tokens is assumed: its size is known when the stories are "
        "prepared (stories prepare)"
    )


def estimate_run(
    model: ModelConfig,
    training: TrainingConfig,
    data: DataConfig,
    *,
    devices: int = 1,
    device_memory: int | None = None,
    gpu: str | None = None,
) -> RunEstimate:
    """Work out what a run will take.

    Args:
        model, training, data: the run. How its processes share the model is not looked at: all ways are estimated.
        devices: how many processes train together, each with a device.
        device_memory: bytes that each may take; if not given, what is left of a device here, where processes on a CPU
            share that of the machine.
        gpu: name of the GPUs, such as H100 or RTX 4090, where they are not in this machine.

    Raises:
        EstimateError: there is no device, or a GPU of this name is not known and its memory not given.
    """
    if devices < 1:
        raise EstimateError(f"--devices {devices}: at least one device is needed")
    size, remark = vocabulary_size(data)
    model = model.replace(vocab_size=size)
    notes = [] if remark is None else [remark]
    device, name, here = _device(training.device, gpu)
    precision = _precision(training, device, name, here)
    peak = peak_flops(device, precision.dtype) if here else peak_flops_of(name, precision.dtype)
    if not here and peak is None:
        notes.append(f"the peak of {name} in {str(precision.dtype).removeprefix('torch.')} is not known here")
    on_one = devices if device.type == "cpu" and device_memory is None else 1
    available = device_memory if device_memory is not None else available_memory(device) if here else None
    if available is None:
        notes.append("how much memory a device has is not known: give it with --device-memory")
    elif on_one > 1:
        notes.append(f"{on_one} processes share the memory of this machine")
    length = training.train_length or model.block_size
    ways = []
    for sharing in ("none", "ddp", "fsdp") if devices > 1 else ("none",):
        wanted = training.replace(use_ddp=False, parallelism=sharing)
        count = 1 if sharing == "none" else devices
        ways.append(_shared(model, wanted, precision, device, length, count, available, on_one if count > 1 else 1))
    if device.type != "cpu" and devices > 1:
        whole = 4 * model.parameters().total
        notes.append(f"each process builds the whole model in main memory first ({size_text(whole)} for a moment)")
    return RunEstimate(
        model=model,
        training=training,
        device=name,
        precision=precision,
        length=length,
        available=None if available is None else available // on_one,
        ways=tuple(ways),
        flops_per_token=training_flops_per_token(model, length),
        peak_flops=peak,
        notes=tuple(notes),
    )


def _device(wish: str, gpu: str | None) -> tuple[torch.device, str, bool]:
    """The kind of device, its name, and whether it is in this machine."""
    if gpu is not None:
        return torch.device("cuda"), gpu, False
    if wish.startswith("cuda") and not torch.cuda.is_available():
        return torch.device("cuda"), "a GPU that is not in this machine", False
    device = choose_device(wish)
    return device, torch.cuda.get_device_name(device) if device.type == "cuda" else device.type, True


def _precision(training: TrainingConfig, device: torch.device, name: str, here: bool) -> Precision:
    if here:
        return choose_precision(device, training.use_mixed_precision, training.precision)
    if training.precision != "auto":
        return Precision(FORMATS[training.precision], training.precision == "float16", "asked for")
    if not training.use_mixed_precision:
        return Precision(torch.float32, False, "mixed precision is off")
    if peak_flops_of(name, torch.bfloat16) is None and peak_flops_of(name, torch.float16) is not None:
        return Precision(torch.float16, True, "this GPU has no bfloat16")
    return Precision(torch.bfloat16, False, "as GPUs since 2020 compute in it")


def _shared(
    model: ModelConfig,
    training: TrainingConfig,
    precision: Precision,
    device: torch.device,
    length: int,
    devices: int,
    available: int | None,
    on_one: int,
) -> Shared:
    found = plan_batch(
        model,
        training,
        precision,
        length=length,
        device=device,
        available=available,
        processes_on_device=on_one,
        processes=devices,
        refuse=False,
    )
    passes = training.gradient_accumulation_steps * -(-training.batch_size // found.rows)
    return Shared(
        sharing=training.sharing,
        devices=devices,
        plan=found,
        fits=None if available is None else found.fits,
        passes=passes,
        tokens_per_step=training.batch_size * training.gradient_accumulation_steps * devices * length,
        bytes_sent_per_step=bytes_sent(
            model, training, devices, passes=passes, exchanges=passes if found.exchange_every_pass else 1
        ),
    )


def bytes_sent(model: ModelConfig, training: TrainingConfig, devices: int, *, passes: int, exchanges: int) -> int:
    """Bytes that each device sends to others in an optimizer step, for the parameters and their gradients.

    Args:
        model, training: the run, with the way in which processes share the model.
        devices: how many there are.
        passes: forward and backward passes of each in the step.
        exchanges: how many of them exchange gradients.
    """
    if devices == 1 or training.sharing == "none":
        return 0
    parameters = dict(skeleton(model).named_parameters())
    count = sum(parameter.numel() for parameter in parameters.values())
    if training.sharing == "ddp":
        elements = 2 * count  # gradients are added up in pieces, and the sums collected
    else:
        blocks = [module for module in skeleton(model).modules() if isinstance(module, Block)]
        in_blocks = sum(parameter.numel() for block in blocks for parameter in block.parameters())
        # Blocks are collected for the forward pass and again for the backward pass, the tables once for both.
        elements = passes * (count + in_blocks) + exchanges * count
        if training.optimizer == "muon":  # its matrices are collected, unless experts are dealt out whole
            roles = parameter_roles(skeleton(model))
            elements += sum(
                parameter.numel()
                for name, parameter in parameters.items()
                if roles[name] in MUON_ROLES and not (parameter.dim() == 3 and len(parameter) >= devices)
            )
    return 4 * elements * (devices - 1) // devices
