"""What share of a training step does making its batch take, how much of it is padding, and what does planning cost?

    python benchmarks/batches.py
    python benchmarks/batches.py --data stories.jsonl --size tiny --batch 8 --length 2048

The stories are those of the built-in storybook, or of a .jsonl file with one {"text": ...} in a line, as tokens of the
stories' own vocabulary in a shard. Steps of training are those of `benchmarks/training.py` with the same rows, packed
with stories of the mean length; `share_of_step` is the time of one of our batches over that of one of these steps.
Training makes the next batch beside the step, so even that share is mostly hidden.

Peers are two `torch.utils.data.DataLoader` over the same shard, without processes of their own, as ours has none.
`padded` reads as many stories as fill a batch on average, cut off at the length of a row, and pads them to the longest
one. `chunked` cuts the shard's tokens into rows, which wastes nothing, but cuts stories wherever a row ends
(`cut_share` of them) and tells nobody where one begins. A story token is one that is neither padding nor repeated in a
window. `ratio` is ours over `padded` in story tokens per second.

`plan` is the order of one epoch from stories of these lengths, drawn with repetition, in a process that has planned
before: `setup_seconds` holds the first time, with numba's import and, once in an installation, compilation.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
from house import (
    FOLDER,
    SIZES,
    BenchmarkError,
    Conditions,
    Contender,
    Workload,
    apart,
    compare,
    conditions_options,
    given_conditions,
    load_file,
    model_config,
    ratio,
    report,
    start,
    talk,
)

FIGURE = "story_tokens_per_second"
SHAPES = ((8, 2048), (8, 4096), (2, 131_072))
"""Rows and tokens of further batches: those of larger sizes, and of long contexts."""
LENGTHS = (512, 1024, 2048, 4096)
"""Tokens of rows whose padding is told."""
PLACES = 2**18
"""Places, about, of the batches that are made in a repetition."""


def write_shard(options: dict[str, Any]) -> Workload:
    """Write the stories as tokens; for `apart`.

    Args:
        options: `folder` to write to; `data`, a file, or None; the number of `stories` of the storybook; the
            `vocabulary` (story or harmony).
    """
    import numpy as np

    from gpt_oss_stories.data.shards import ShardWriter, TokenShard
    from gpt_oss_stories.data.storybook import write_stories
    from gpt_oss_stories.tokenization import harmony_vocabulary

    vocabulary = harmony_vocabulary()
    if options["data"] is None:
        texts = [record.text for record in write_stories(options["stories"], 0)]
    else:
        try:
            with open(options["data"], encoding="utf-8") as lines:
                texts = [json.loads(line)["text"] for line in lines]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchmarkError(f"{options['data']} is no file of stories, one {{'text': ...}} a line") from error
    begin, end = vocabulary.special("startoftext"), vocabulary.special("endoftext")
    stories = [[begin, *ids, end] for ids in vocabulary.encode_batch(texts)]
    tokens = np.asarray([token for story in stories for token in story])
    size = vocabulary.size
    if options["vocabulary"] == "story":
        kept, tokens = np.unique(tokens, return_inverse=True)
        size = len(kept)
    lengths = np.asarray([len(story) for story in stories])
    trained = np.ones(len(tokens), dtype=np.bool_)
    trained[np.concatenate([[0], lengths.cumsum()[:-1]])] = False
    path = Path(options["folder"], "stories.shard")
    writer = ShardWriter(path, vocabulary_size=size, fingerprint="00" * 32)
    writer.add(tokens, trained, lengths, text_bytes=0, trained_bytes=0)
    writer.close()
    shard = TokenShard(path)
    return Workload(
        dict,
        facts={
            "shard": str(path),
            "stories": len(shard),
            "mean_tokens": float(lengths.mean()),
            "vocab_size": shard.vocabulary_size,
        },
    )


def reading(batches: Iterable[Callable[[], int]], count: int, facts: dict[str, Any]) -> Workload:
    """Batches that are made, counted and timed.

    Args:
        batches: endless; each makes one batch when it is called, and tells the story tokens in it.
        count: batches in a repetition.
    """
    coming = iter(batches)

    def measure() -> dict[str, float]:
        began = time.perf_counter()
        tokens = sum(make() for make in islice(coming, count))
        seconds = time.perf_counter() - began
        return {FIGURE: tokens / seconds, "batch_seconds": seconds / count}

    return Workload(measure, facts=facts)


def repeated(options: dict[str, Any]) -> int:
    """Batches in a repetition."""
    return max(4, PLACES // (options["batch"] * options["length"]))


def ours(options: dict[str, Any]) -> Workload:
    """Our batches, one after the other."""
    from gpt_oss_stories.data.batches import BatchStream
    from gpt_oss_stories.data.shards import TokenShard

    stream = BatchStream(TokenShard(options["shard"]), options["batch"], options["length"])
    numbers = itertools.count()
    places = options["batch"] * options["length"]
    share = 1 - stream.padding_share - stream.repeated_share  # of the epoch: counting in each batch takes time

    def batches() -> Iterator[Callable[[], int]]:
        def make() -> int:
            batch = stream.batch(next(numbers))
            assert batch.tokens.shape == (options["batch"], options["length"])
            return round(places * share)

        yield from cycle([make])

    facts = {"padding_share": round(stream.padding_share, 4), "repeated_share": round(stream.repeated_share, 4)}
    return reading(batches(), repeated(options), facts)


def loading(loader: Any, options: dict[str, Any], facts: dict[str, Any]) -> Workload:
    """Batches of a `DataLoader`, epoch after epoch; what it pads it fills with zeros, which the mask knows."""
    counted = {"places": 0, "tokens": 0}

    def batches() -> Iterator[Callable[[], int]]:
        def make() -> int:
            nonlocal epoch
            while True:
                found = next(epoch, None)
                if found is not None:
                    break
                epoch = iter(loader)
            tokens, mask = found
            real = int(mask.sum())
            counted["places"] += tokens.numel()
            counted["tokens"] += real
            facts["padding_share"] = round(1 - counted["tokens"] / counted["places"], 4)
            return real

        epoch = iter(loader)
        yield from cycle([make])

    return reading(batches(), repeated(options), facts)


def padded(options: dict[str, Any]) -> Workload:
    """Whole stories, padded to the longest of the batch."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from torch.utils.data import DataLoader, Dataset

    from gpt_oss_stories.data.shards import TokenShard

    shard = TokenShard(options["shard"])

    class Stories(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(shard)

        def __getitem__(self, index: int) -> torch.Tensor:
            tokens = shard.tokens[int(shard.offsets[index]) : int(shard.offsets[index + 1])]
            return torch.from_numpy(tokens.astype("int64"))[: options["length"]]

    def collate(stories: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.tensor([len(story) for story in stories])
        tokens = pad_sequence(stories, batch_first=True)
        return tokens, torch.arange(tokens.shape[1])[None] < lengths[:, None]

    together = max(1, round(options["batch"] * options["length"] / options["mean_tokens"]))
    loader: DataLoader[Any] = DataLoader(
        Stories(), together, shuffle=True, collate_fn=collate, generator=torch.Generator().manual_seed(0)
    )
    cut = float((shard.lengths() > options["length"]).mean())
    return loading(loader, options, {"stories_in_a_batch": together, "cut_share": round(cut, 4)})


def chunked(options: dict[str, Any]) -> Workload:
    """Rows of tokens, wherever stories begin and end."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset

    from gpt_oss_stories.data.shards import TokenShard

    shard, length = TokenShard(options["shard"]), options["length"]
    rows = len(shard.tokens) // length
    if rows < options["batch"]:
        raise BenchmarkError(f"{len(shard.tokens):,} tokens do not fill a batch: give more --stories")

    class Rows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
        def __len__(self) -> int:
            return rows

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = shard.tokens[index * length : (index + 1) * length].astype("int64")
            return torch.from_numpy(tokens), torch.ones(length, dtype=torch.bool)

    loader: DataLoader[Any] = DataLoader(
        Rows(), options["batch"], shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0)
    )
    cut = float(np.mean(shard.offsets[:-1] // length != (shard.offsets[1:] - 1) // length))
    return loading(loader, options, {"cut_share": round(cut, 4)})


def plan(options: dict[str, Any]) -> Workload:
    """Orders of an epoch of so many stories."""
    import numpy as np

    from gpt_oss_stories.data.batches import plan_rows
    from gpt_oss_stories.data.shards import TokenShard

    lengths = TokenShard(options["shard"]).lengths()
    generator = np.random.default_rng(0)
    offsets = {
        count: np.concatenate([[0], generator.choice(lengths, count)]).cumsum() for count in options["plan_stories"]
    }
    own = np.concatenate([[0], lengths]).cumsum()
    facts = {
        "padding_share_by_length": {
            str(length): round(plan_rows(own, length, seed=0, epoch=0).padding_share(length), 4) for length in LENGTHS
        }
    }

    def measure() -> dict[str, float]:
        figures = {}
        for count, places in offsets.items():
            began = time.perf_counter()
            plan_rows(places, options["length"], seed=0, epoch=0)
            figures[f"plan_{count}_stories_seconds"] = time.perf_counter() - began
        return figures

    return Workload(measure, facts=facts)


@contextmanager
def inputs(values: dict[str, Any], conditions: Conditions) -> Iterator[dict[str, Any]]:
    """What all contenders are given, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = {**values, "folder": folder}
        talk("writing the stories", conditions)
        yield {**wanted, **apart(write_shard, wanted, conditions)}


def counts(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    """Numbers with commas between them."""
    try:
        found = [int(number) for number in value.split(",")]
    except ValueError as error:
        raise click.BadParameter("give whole numbers with commas between them") from error
    if min(found) < 1:
        raise click.BadParameter("give numbers from 1 on")
    return found


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--size", type=click.Choice(list(SIZES)), default="nano", show_default=True, help="Of the steps' model.")
@click.option(
    "--vocabulary",
    type=click.Choice(["story", "harmony"]),
    default="story",
    show_default=True,
    help="The tokens that the stories use, or all 201,088; the steps' model has 8,192 or all.",
)
@click.option("--batch", default=4, show_default=True, type=click.IntRange(1), help="Rows in a batch.")
@click.option("--length", default=512, show_default=True, type=click.IntRange(8), help="Tokens in a row.")
@click.option("--data", type=click.Path(exists=True, dir_okay=False), help="A .jsonl file.  [default: the storybook]")
@click.option("--stories", default=3000, show_default=True, type=click.IntRange(2), help="Stories of the storybook.")
@click.option(
    "--plan-stories", default="10000,100000,2500000", show_default=True, callback=counts, help="Stories of epochs."
)
@click.option("--steps", default=4, show_default=True, type=click.IntRange(1), help="Training steps in a repetition.")
@conditions_options
def main(
    size: str,
    vocabulary: str,
    batch: int,
    length: int,
    data: str | None,
    stories: int,
    plan_stories: list[int],
    steps: int,
) -> None:
    conditions: Conditions = given_conditions()
    training = load_file(str(FOLDER / "training.py"))
    given = {"data": data, "stories": stories, "vocabulary": vocabulary, "plan_stories": plan_stories}
    with inputs(given, conditions) as written:
        shape = {**written, "batch": batch, "length": length}
        others = [
            Contender(f"ours, {rows} x {tokens:,}", ours, {**written, "batch": rows, "length": tokens})
            for rows, tokens in SHAPES
        ]
        stepping = {
            "model": model_config(size, vocabulary, length).to_dict(),
            "training": training.preset(size, batch, length, None).to_dict(),
            "batch": batch,
            "length": length,
            "steps": steps,
            "warm_up_steps": 3,
            "story_tokens": min(length, round(written["mean_tokens"])),
            "compile": False,
        }
        mine, step = Contender("ours", ours, shape), Contender("training step", training.ours, stepping)
        peers = [Contender("DataLoader, padded", padded, shape), Contender("DataLoader, chunked", chunked, shape)]
        planning = Contender("plan", plan, shape)
        outcomes = compare([mine, *peers, *others, planning, step], conditions)
    by_name = {outcome.name: outcome for outcome in outcomes}
    our_outcome, plan_outcome = by_name[mine.name], by_name[planning.name]
    step_seconds = batch * length / by_name[step.name].median(training.FIGURE)
    result = ratio(our_outcome, by_name[peers[0].name], FIGURE)
    report(
        "batches",
        outcomes,
        conditions,
        ratio=result.median,
        ratio_spread=result.to_list(),
        step_seconds=step_seconds,
        share_of_step=our_outcome.median("batch_seconds") / step_seconds,
        batch_milliseconds={
            contender.name: round(1000 * by_name[contender.name].median("batch_seconds"), 4)
            for contender in [mine, *others, *peers]
        },
        padding_share={contender.name: by_name[contender.name].facts["padding_share"] for contender in [mine, *peers]},
        cut_share={contender.name: by_name[contender.name].facts["cut_share"] for contender in peers},
        padding_share_by_length=plan_outcome.facts["padding_share_by_length"],
        plan_seconds={
            str(count): round(plan_outcome.median(f"plan_{count}_stories_seconds"), 4) for count in plan_stories
        },
        settings={
            "size": size,
            "batch": batch,
            "length": length,
            "stories": written["stories"],
            "mean_tokens": round(written["mean_tokens"], 1),
            "vocabulary": written["vocab_size"],
            "data": "the storybook" if data is None else Path(data).name,
        },
    )


if __name__ == "__main__":
    start(main)
