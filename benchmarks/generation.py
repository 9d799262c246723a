"""How many tokens a second are told, and how soon comes the first, against `generate` of `transformers`?

    python benchmarks/generation.py --size tiny
    python benchmarks/generation.py --model checkpoints/best_model.pt --dtype float32 --dtype bfloat16

Both programs continue the same prompts of random tokens greedily, by the same number of tokens, whatever these are: no
token ends a story. Tokens per second are those of all rows together, the reading of the prompts included; ours include
the making of text. `first_token_seconds` is a whole call for one token, batch 1.

The model is a given one or has random weights, and is exported for `transformers`, which is asked in float32 and in
bfloat16 (its weights too); the better one counts. Of the first prompt, `same_tokens` is the share of tokens before a
contender's first that is not the first peer's; with random weights a near tie may part them.

`ratio` is that of batch 1 with our fastest dtype, `ratio_by_batch` has all; `batch_gain` is what the largest batch
brings us over batch 1, in total tokens per second.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from house import (
    DTYPES,
    Conditions,
    Contender,
    Workload,
    apart,
    best,
    compare,
    conditions_options,
    given_conditions,
    model_options,
    peer_dtypes_option,
    ratio,
    report,
    require,
    start,
    write_model,
)

FIRST = "first_token_seconds"

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""Prompts and number of tokens to the tokens that follow."""


def figure(batch: int) -> str:
    return f"batch_{batch}_tokens_per_second"


def random_prompts(options: dict[str, Any]) -> list[list[int]]:
    """As many prompts as the largest batch has rows."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (max(options["batches"]), options["prompt_tokens"])
    prompts: list[list[int]] = torch.randint(options["vocab_size"], shape, generator=generator).tolist()
    return prompts


def workload(generate: Generate, options: dict[str, Any], facts: dict[str, Any]) -> Workload:
    """The first token and then each batch, timed."""
    prompts, count = random_prompts(options), options["tokens"]

    def timed(rows: int, tokens: int) -> float:
        began = time.perf_counter()
        continued = generate(prompts[:rows], tokens)
        seconds = time.perf_counter() - began
        assert [len(row) for row in continued] == [tokens] * rows, "a story has ended early"
        if rows == 1 and tokens == count:
            facts["tokens"] = continued[0]
        return seconds

    def measure() -> dict[str, float]:
        figures = {FIRST: timed(1, 1)}
        for batch in options["batches"]:
            figures[figure(batch)] = batch * count / timed(batch, count)
        return figures

    return Workload(measure, facts=facts)


def ours(options: dict[str, Any]) -> Workload:
    """Our storyteller."""
    import torch

    from gpt_oss_stories.config import GenerationConfig
    from gpt_oss_stories.generation.engine import Storyteller
    from gpt_oss_stories.interop.checkpoints import open_checkpoint
    from gpt_oss_stories.model.quantized import quantize_for_decoding

    class Endless(Storyteller):
        """Tells on after a token that ends stories."""

        def _ends(self) -> frozenset[int]:
            return frozenset()

    checkpoint = open_checkpoint(options["ours"])
    network = checkpoint.build().eval()
    if options["dtype"] == "int8":
        quantize_for_decoding(network)
    else:
        network.compute_dtype = getattr(torch, options["dtype"])
    teller = Endless(network, checkpoint.vocabulary, max_rows=max(options["batches"]))

    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        stories = teller.tell(prompts, GenerationConfig(max_tokens=count, temperature=0.0, seed=0))
        return [list(story.tokens) for story in stories]

    return workload(generate, options, {})


def theirs(options: dict[str, Any]) -> Workload:
    """`transformers`."""
    import torch
    import transformers

    dtype = getattr(torch, options["dtype"])
    model = transformers.AutoModelForCausalLM.from_pretrained(options["transformers"], dtype=dtype).eval()
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)  # without a token that ends stories

    @torch.inference_mode()
    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        tokens = torch.tensor(prompts)
        result = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count, do_sample=False, use_cache=True
        )
        continued: list[list[int]] = result[:, tokens.shape[1] :].tolist()
        return continued

    return workload(generate, options, {"experts_implementation": model.config._experts_implementation})


def agreement(first: list[int], second: list[int]) -> float:
    """Share of tokens before the first that differs."""
    same = next((place for place, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]), len(first))
    return same / len(first)


def whole_numbers(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    """A list of batch sizes."""
    try:
        numbers = sorted({int(word) for word in value.split(",")} | {1})
    except ValueError:
        numbers = [0]
    if numbers[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers from 1 on, such as 1,8,32")
    return numbers


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--model", type=click.Path(), help="A model of any format.  [default: random weights]")
@model_options
@click.option("--batches", default="1,8,32", show_default=True, callback=whole_numbers, help="Rows told together.")
@click.option("--tokens", default=64, show_default=True, type=click.IntRange(1), help="Tokens of a continuation.")
@click.option("--prompt-tokens", default=32, show_default=True, type=click.IntRange(1), help="Tokens of a prompt.")
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice([*DTYPES, "int8"]),
    default=("float32", "int8"),
    show_default=True,
    help="What ours computes in, or int8 as with --weights int8; may be given several times.",
)
@peer_dtypes_option
@conditions_options
def main(
    model: str | None,
    size: str,
    vocabulary: str,
    batches: list[int],
    tokens: int,
    prompt_tokens: int,
    dtypes: tuple[str, ...],
    peer_dtypes: tuple[str, ...],
) -> None:
    conditions: Conditions = given_conditions()
    require(("transformers",))
    with tempfile.TemporaryDirectory() as folder:
        wanted = {"model": model, "size": size, "vocabulary": vocabulary, "length": prompt_tokens + tokens}
        written = apart(write_model, {"folder": str(Path(folder)), **wanted}, conditions)
        if prompt_tokens + tokens > written["block_size"]:
            raise click.UsageError(
                f"--prompt-tokens {prompt_tokens} and --tokens {tokens} do not fit into the model's context of "
                f"{written['block_size']:,}"
            )
        options = {**written, "batches": batches, "tokens": tokens, "prompt_tokens": prompt_tokens}
        mine = [Contender(f"ours, {dtype}", ours, {**options, "dtype": dtype}) for dtype in dict.fromkeys(dtypes)]
        peers = [
            Contender(f"transformers, {dtype}", theirs, {**options, "dtype": dtype}, ("transformers",))
            for dtype in dict.fromkeys(peer_dtypes)
        ]
        outcomes = compare([*mine, *peers], conditions)
    by_name = {outcome.name: outcome for outcome in outcomes}
    our_outcomes = [by_name[contender.name] for contender in mine]
    peer_outcomes = [by_name[contender.name] for contender in peers]
    told = {name: outcome.facts.pop("tokens") for name, outcome in by_name.items()}
    ratios = {
        name: ratio(best(our_outcomes, name), best(peer_outcomes, name), name)
        for name in [FIRST, *map(figure, batches)]
    }
    single, largest = figure(1), figure(batches[-1])
    our_best = best(our_outcomes, single)
    reference = peers[0].name
    report(
        "generation",
        outcomes,
        conditions,
        ratio=ratios[single].median,
        ratio_spread=ratios[single].to_list(),
        ours=our_best.name,
        peer=best(peer_outcomes, single).name,
        ratio_by_batch={str(batch): round(ratios[figure(batch)].median, 4) for batch in batches},
        first_token_ratio=ratios[FIRST].median,
        ratio_by_peer={outcome.name: round(ratio(our_best, outcome, single).median, 4) for outcome in peer_outcomes},
        batch_gain=best(our_outcomes, largest).median(largest) / our_best.median(single),
        same_tokens={name: round(agreement(told[name], told[reference]), 3) for name in told if name != reference},
        settings={
            "model": "random weights" if model is None else "given",
            **({"size": size} if model is None else {}),
            "vocabulary": written["vocab_size"],
            "parameters": written["parameters"],
            "prompt_tokens": prompt_tokens,
            "tokens": tokens,
        },
    )


if __name__ == "__main__":
    start(main)
