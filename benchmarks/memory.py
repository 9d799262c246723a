"""How much memory does a training step take at the most, against `transformers` on the same model?

    python benchmarks/memory.py
    python benchmarks/memory.py --vocabulary harmony --shapes 1x512,8x512 --repetitions 1

Each measurement is a process of its own, from its start to its end: it imports what it needs, builds the model, and
does two of the steps that the question `training` times, the second with the optimizer's state in place. What counts is
the most memory that the process ever had, with nothing taken off. The peer is asked in float32 and under bfloat16
autocast, and the smaller one counts. Without another `--allocator` ours keeps freed memory, as our commands do, and the
peer has the system's allocator as it is, with which most shapes take it less.

`logits_bytes` says what all logits of a step take in float32, [tokens, vocabulary], and `logits_over_ours` and
`logits_over_peer` how large that is beside the whole process. `logits_held` is the measured number of such tensors: of
the bytes by which the peak grows for each token from the fewest to the most tokens, the part that the larger vocabulary
adds, over the 4 bytes for each of the entries that it adds. Parameters, gradients and optimizer state cancel out of it.
It needs both vocabularies and two numbers of tokens in rows of the same length, and is about 0 where the logits are not
what the peak is made of.

What would not fit into the memory that is available when the question is asked is left out, with a line. `ratio` is the
peer's peak over ours where the logits are largest of all that both were measured at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import click
from house import (
    FOLDER,
    SIZES,
    BenchmarkError,
    Conditions,
    Contender,
    Outcome,
    Workload,
    apart,
    best,
    compare,
    conditions_options,
    given_conditions,
    load_file,
    model_config,
    peak_memory_bytes,
    peer_dtypes_option,
    ratio,
    report,
    short,
    start,
    talk,
)

from gpt_oss_stories.config import ModelConfig, TrainingConfig
from gpt_oss_stories.environment import HUGE_PAGES, MALLOC_SETTINGS

training = load_file(str(FOLDER / "training.py"))

FIGURE = "peak_bytes"

BASE_BYTES = 450 << 20
"""A process that has imported torch and `transformers`."""

PEER_LOGITS = 3.25
PEER_SCORES = 2.0
"""Tensors of all logits, and of all attention scores of each layer, in float32, that `transformers` holds: fitted to
measurements of small batches of the tiny size."""

MARGIN = 1.1
"""Of the peer's estimate: batches may be larger than those that were fitted."""

KEPT = 1.4
"""How much more a process may take that keeps freed memory: new blocks do not always fit into what is free."""


@dataclass(frozen=True)
class Point:
    """A model and a batch."""

    vocabulary: str
    batch: int
    length: int
    config: ModelConfig

    @property
    def name(self) -> str:
        return f"{self.vocabulary} {self.batch}x{self.length}"

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def logits_bytes(self) -> int:
        """What [tokens, vocabulary] takes in float32."""
        return 4 * self.tokens * self.config.vocab_size


class StockConditions(Conditions):
    """Those of a program that leaves the allocator as it is."""

    def environment(self) -> dict[str, str]:
        kept = super().environment()
        return {name: value for name, value in kept.items() if name not in {*MALLOC_SETTINGS, *HUGE_PAGES}}


def measured(workload: Workload) -> Workload:
    """The workload, of which only the memory of its process counts."""

    def measure() -> dict[str, float]:
        workload.measure()
        if (peak := peak_memory_bytes()) is None:
            raise BenchmarkError("this system does not tell how much memory a process has used")
        return {FIGURE: peak}

    return Workload(measure, workload.warm_up, workload.facts)


def ours(options: dict[str, Any]) -> Workload:
    """Our training step."""
    return measured(training.ours(options))


def theirs(options: dict[str, Any]) -> Workload:
    """That of `transformers`."""
    return measured(training.theirs(options))


def our_bytes(config: ModelConfig, step: TrainingConfig, batch: int, length: int) -> int:
    """What a training step of ours takes, about and at the most, keeping freed memory."""
    import torch

    from gpt_oss_stories.training.memory import ACTIVATION_MARGIN, estimate_memory
    from gpt_oss_stories.training.precision import choose_precision

    estimate = estimate_memory(config, step, choose_precision(torch.device("cpu"), step.use_mixed_precision))
    activations = batch * length * estimate.per_token * ACTIVATION_MARGIN
    return int(KEPT * (BASE_BYTES + estimate.fixed + activations))


def peer_bytes(config: ModelConfig, step: TrainingConfig, batch: int, length: int) -> int:
    """The same for a step of `transformers`, with the allocator as it is."""
    import torch

    from gpt_oss_stories.training.memory import estimate_memory
    from gpt_oss_stories.training.precision import Precision

    tokens = batch * length
    activations = tokens * estimate_memory(config, step, Precision(torch.float32, False, "")).per_token
    scores, logits = config.n_layer * config.n_head * tokens * length, tokens * config.vocab_size
    activations += 4 * int(PEER_SCORES * scores + PEER_LOGITS * logits)
    return int(MARGIN * (BASE_BYTES + 16 * config.parameters().total + activations))


def needs(options: dict[str, Any]) -> Workload:
    """What there is and what each point takes, in bytes; for `apart`."""
    import torch

    from gpt_oss_stories.training.memory import available_memory

    facts: dict[str, Any] = {"available": available_memory(torch.device("cpu")), "ours": [], "transformers": []}
    for point in options["points"]:
        models = ModelConfig.from_dict(point["model"]), TrainingConfig.from_dict(point["training"])
        facts["ours"].append(our_bytes(*models, point["batch"], point["length"]))
        facts["transformers"].append(peer_bytes(*models, point["batch"], point["length"]))
    return Workload(dict, facts=facts)


def contenders(
    points: Sequence[Point], size: str, peer_dtypes: Sequence[str], conditions: Conditions
) -> tuple[dict[str, dict[str, Contender]], list[str]]:
    """Who is measured at each point, by the point's name and its own, and a sentence for each one that does not fit."""
    common = {"steps": 1, "warm_up_steps": 1, "story_tokens": 0, "compile": False, "experts": None}
    values: dict[str, dict[str, Any]] = {
        point.name: {
            "model": point.config.to_dict(),
            "training": training.preset(size, point.batch, point.length, None).to_dict(),
            "batch": point.batch,
            "length": point.length,
            **common,
        }
        for point in points
    }
    room = apart(needs, {"points": list(values.values())}, conditions)
    available = room["available"]
    chosen: dict[str, dict[str, Contender]] = {}
    left_out = []
    for index, (name, options) in enumerate(values.items()):
        entrants = {"ours": Contender(f"ours, {name}", ours, options)}
        for dtype in dict.fromkeys(peer_dtypes):
            peer = f"transformers {dtype}"
            autocast = {**options, "autocast": dtype == "bfloat16"}
            entrants[peer] = Contender(f"{peer}, {name}", theirs, autocast, ("transformers",))
        for who in list(entrants):
            need = room["ours" if who == "ours" else "transformers"][index]
            if available is not None and need > available:
                left_out.append(f"{entrants.pop(who).name}: takes about {gib(need)}, {gib(available)} are available")
        chosen[name] = entrants
    return chosen, left_out


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def logits_held(points: Sequence[Point], measured: dict[str, dict[str, Outcome]], who: str) -> float | None:
    """How many tensors of all logits in float32 a contender's memory grows by; None where too little was measured.

    Args:
        measured: what was measured at each point, by the point's name and the contender's own.
        who: the contender.
    """
    by_vocabulary: dict[int, dict[tuple[int, int], float]] = {}
    for point in points:
        if who in measured[point.name]:
            peaks = by_vocabulary.setdefault(point.config.vocab_size, {})
            peaks[point.length, point.batch] = measured[point.name][who].median(FIGURE)
    if len(by_vocabulary) < 2:
        return None
    few, many = min(by_vocabulary), max(by_vocabulary)
    shapes = by_vocabulary[few].keys() & by_vocabulary[many].keys()
    pairs = [(low, high) for low, high in product(shapes, shapes) if low[0] == high[0] and low[1] < high[1]]
    if not pairs:
        return None
    low, high = max(pairs, key=lambda pair: pair[1][0] * (pair[1][1] - pair[0][1]))
    tokens = high[0] * (high[1] - low[1])
    growth = {entries: (peaks[high] - peaks[low]) / tokens for entries, peaks in by_vocabulary.items()}
    return (growth[many] - growth[few]) / (4 * (many - few))


def given_shapes(context: click.Context, parameter: click.Parameter, value: str) -> list[tuple[int, int]]:
    """A list of rows x tokens."""
    try:
        shapes = [(int(rows), int(tokens)) for rows, tokens in (word.split("x") for word in value.split(","))]
    except ValueError:
        shapes = [(0, 0)]
    if any(rows < 1 or tokens < 8 for rows, tokens in shapes):
        raise click.BadParameter(f"{value!r} is not a list of rows x tokens (from 8 on) such as 2x512,8x512")
    return list(dict.fromkeys(shapes))


@click.command(help=(__doc__ or "").partition("\n")[0], context_settings={"default_map": {"repetitions": 3}})
@click.option("--size", type=click.Choice(list(SIZES)), default="tiny", show_default=True)
@click.option(
    "--vocabulary",
    "vocabularies",
    multiple=True,
    type=click.Choice(["story", "harmony"]),
    default=("story", "harmony"),
    show_default=True,
    help="8,192 or 201,088 tokens; may be given twice.",
)
@click.option(
    "--shapes",
    default="2x512,8x512,2x2048",
    show_default=True,
    callback=given_shapes,
    help="Batches: rows x tokens in a row.",
)
@peer_dtypes_option
@conditions_options
def main(size: str, vocabularies: tuple[str, ...], shapes: list[tuple[int, int]], peer_dtypes: tuple[str, ...]) -> None:
    conditions: Conditions = given_conditions()
    points = [
        Point(vocabulary, batch, length, model_config(size, vocabulary, length))
        for vocabulary in dict.fromkeys(vocabularies)
        for batch, length in shapes
    ]
    chosen, left_out = contenders(points, size, peer_dtypes, conditions)
    for sentence in left_out:
        talk(f"left out: {sentence}", conditions)
    both = [point for point in points if "ours" in chosen[point.name] and len(chosen[point.name]) > 1]
    if not both:
        raise BenchmarkError("nothing can be compared in the memory that is available: choose smaller --shapes")
    everyone = [contender for entrants in chosen.values() for contender in entrants.values()]
    mine = [contender for contender in everyone if contender.make is ours]
    others = [contender for contender in everyone if contender.make is theirs]
    stock = StockConditions(**vars(conditions))
    measured_outcomes = [
        *compare(mine, conditions, one_at_a_time=True),
        *compare(others, stock, one_at_a_time=True),
    ]
    by_name = {contender.name: outcome for contender, outcome in zip([*mine, *others], measured_outcomes, strict=True)}
    outcomes = {
        name: {who: by_name[contender.name] for who, contender in entrants.items()} for name, entrants in chosen.items()
    }
    peers = {
        point.name: best([outcome for who, outcome in outcomes[point.name].items() if who != "ours"], FIGURE)
        for point in both
    }
    ratios = {point.name: ratio(outcomes[point.name]["ours"], peers[point.name], FIGURE) for point in both}
    largest = max(both, key=lambda point: point.logits_bytes).name
    held = {
        who: logits_held(points, outcomes, who)
        for who in ("ours", *(f"transformers {dtype}" for dtype in dict.fromkeys(peer_dtypes)))
    }
    report(
        "memory",
        [by_name[contender.name] for contender in everyone],
        conditions,
        ratio=ratios[largest].median,
        ratio_spread=ratios[largest].to_list(),
        ratio_at=largest,
        ratio_by_point={name: round(value.median, 3) for name, value in ratios.items()},
        logits_bytes={point.name: point.logits_bytes for point in points},
        logits_over_ours={
            point.name: round(point.logits_bytes / outcomes[point.name]["ours"].median(FIGURE), 4)
            for point in points
            if "ours" in outcomes[point.name]
        },
        logits_over_peer={
            point.name: round(point.logits_bytes / peers[point.name].median(FIGURE), 4) for point in both
        },
        logits_held={who: short(value) for who, value in held.items() if value is not None},
        left_out=left_out,
        settings={
            "size": size,
            "optimizer": training.preset(size, 1, 8, None).optimizer,
            **({"peer_allocator": "the system's, as it is"} if conditions.allocator is None else {}),
        },
    )


if __name__ == "__main__":
    start(main)
