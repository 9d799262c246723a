"""How many megabytes of stories a second become token files, against `datasets` with a fast tokenizer?

    python benchmarks/data.py --stories 40000
    python benchmarks/data.py --vocabulary harmony

The input is a .jsonl file of the built-in storybook's stories, one {"text": ...} in a line, without requests, so that
all write the same tokens: each story between <|startoftext|> and <|endoftext|>. A megabyte is 1,000,000 bytes of the
stories' text in UTF-8. Repetitions begin with an empty folder; the file itself is in the system's cache.

`ours` is all of `stories prepare`. From 24 MB on it has `--threads` worker processes, which it starts anew each time.
Besides reading, tokenizing and writing it hashes the input file, checks each line (keys, characters, length), drops
copies, holds stories out for validation, builds the story vocabulary and renumbers all tokens into it, marks the tokens
to be learnt, waits until the shards are on the disk, and reads them again to verify them.

The peer is `load_dataset("json")`, `map(batched=True)` with the package `tokenizers` and `save_to_disk`, which does
none of that, and is given the tokenizer of our finished vocabulary, already loaded. It is asked with the tokenizer's
own threads and, where there are several, with as many processes instead; the faster one counts. Where `datasets` is not
installed, the peer is `tokenizers` alone, with its threads and a numpy file, and a line says so.

`tokens_only_ratio` is like for like, one thread each: the same code reads the lines and writes the ids to a numpy file,
and only the tokenizer is ours or that of `tokenizers`. That both wrote the same ids is checked.

Peak memory is that of the contender's own process, without those that it starts.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import click
from house import (
    BenchmarkError,
    Conditions,
    Contender,
    Workload,
    apart,
    best,
    compare,
    conditions_options,
    given_conditions,
    ratio,
    report,
    require,
    start,
    talk,
)

FIGURE = "text_megabytes_per_second"
BATCH = 1000
"""Stories that are tokenized together; what `datasets` does unless it is told otherwise."""

EncodeBatch = Callable[[list[str]], list[list[int]]]
"""Texts to ids, with the tokens that begin and end a story."""


def write_inputs(options: dict[str, Any]) -> Workload:
    """Write the stories and the finished vocabulary in both formats; for `apart`.

    Args:
        options: `folder` to write to, the number of `stories`, and the `vocabulary` (story or harmony).
    """
    from gpt_oss_stories.config import DataConfig
    from gpt_oss_stories.data.pipeline import prepare
    from gpt_oss_stories.data.storybook import write_stories
    from gpt_oss_stories.interop.tokenizer_files import write_tokenizer_files

    folder = Path(options["folder"])
    stories = folder / "stories.jsonl"
    text_bytes = 0
    with open(stories, "w", encoding="utf-8") as file:
        for record in write_stories(options["stories"], 0):
            text_bytes += len(record.text.encode("utf-8"))
            file.write(json.dumps({"text": record.text}, ensure_ascii=False) + "\n")
    config = DataConfig(dataset_path=str(stories), data_dir=str(folder / "first"), vocabulary=options["vocabulary"])
    prepared = prepare(config)
    write_tokenizer_files(folder, prepared.vocabulary, block_size=config.max_story_characters)
    facts = {
        "stories_file": str(stories),
        "text_bytes": text_bytes,
        "prepared": str(prepared.directory),
        "tokenizer": str(folder / "tokenizer.json"),
        "vocab_size": prepared.vocabulary.size,
    }
    return Workload(dict, facts=facts)


def workload(work: Callable[[Path], dict[str, Any]], options: dict[str, Any]) -> Workload:
    """The work, timed.

    Args:
        work: is given a new folder and writes tokens to it; what it returns, which is not timed, finds out what there
            is to know about them.
    """
    facts: dict[str, Any] = {}

    def measure() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=options["folder"]) as folder:
            began = time.perf_counter()
            written = work(Path(folder))
            seconds = time.perf_counter() - began
            facts.update({name: look() for name, look in written.items()})
        return {FIGURE: options["text_bytes"] / 1e6 / seconds}

    return Workload(measure, facts=facts)


def ours(options: dict[str, Any]) -> Workload:
    """All of our preparation."""
    from gpt_oss_stories.config import DataConfig
    from gpt_oss_stories.data.pipeline import POOL_FROM_BYTES, prepare

    # As the program decides by itself, but for the number: a small file is done before processes have started.
    workers = options["threads"] if Path(options["stories_file"]).stat().st_size >= POOL_FROM_BYTES else 1

    def work(folder: Path) -> dict[str, Any]:
        config = DataConfig(
            dataset_path=options["stories_file"], data_dir=str(folder), vocabulary=options["vocabulary"]
        )
        prepared = prepare(config, workers=workers)
        counts = prepared.train.counts, prepared.validation.counts
        return {
            "stories": lambda: sum(part.stories for part in counts),
            "tokens": lambda: sum(part.tokens for part in counts),
        }

    return workload(work, options)


def tokens_only(encode_batch: EncodeBatch, dtype: Any, options: dict[str, Any]) -> Workload:
    """Lines to ids in a numpy file, with the stories' ends in another, by any tokenizer."""
    import numpy as np

    def work(folder: Path) -> dict[str, Any]:
        pieces, ends = [], [0]
        with open(options["stories_file"], encoding="utf-8") as lines:
            while texts := [json.loads(line)["text"] for line in islice(lines, BATCH)]:
                for ids in encode_batch(texts):
                    pieces.append(np.asarray(ids, dtype=dtype))
                    ends.append(ends[-1] + len(ids))
        tokens = np.concatenate(pieces)
        np.save(folder / "tokens.npy", tokens)
        np.save(folder / "ends.npy", np.asarray(ends))
        return {
            "stories": lambda: len(ends) - 1,
            "tokens": lambda: len(tokens),
            "tokens_sha256": lambda: hashlib.sha256(tokens.tobytes()).hexdigest(),
        }

    return workload(work, options)


def token_dtype(options: dict[str, Any]) -> Any:
    """The narrowest type of all ids."""
    from gpt_oss_stories.data.shards import token_dtype

    return token_dtype(options["vocab_size"])


def our_tokens(options: dict[str, Any]) -> Workload:
    """Our tokenizer alone."""
    from gpt_oss_stories.data.pipeline import load_prepared

    vocabulary = load_prepared(options["prepared"], verify=False).vocabulary
    begin, end = vocabulary.special("startoftext"), vocabulary.special("endoftext")

    def encode_batch(texts: list[str]) -> list[list[int]]:
        return [[begin, *ids, end] for ids in vocabulary.encode_batch(texts)]

    return tokens_only(encode_batch, token_dtype(options), options)


def fast_tokenizer(options: dict[str, Any]) -> EncodeBatch:
    """The tokenizer of `tokenizers`, with as many threads as `tokenizer_threads` says."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options["tokenizer_threads"] > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(options["tokenizer_threads"])
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_file(options["tokenizer"])
    marks = [(name, tokenizer.token_to_id(name)) for name in ("<|startoftext|>", "<|endoftext|>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=marks
    )
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


def their_tokens(options: dict[str, Any]) -> Workload:
    """`tokenizers` alone."""
    return tokens_only(fast_tokenizer(options), token_dtype(options), options)


def theirs(options: dict[str, Any]) -> Workload:
    """`datasets` with `tokenizers`."""
    os.environ["HF_HOME"] = options["folder"]  # it keeps what it has read, and would find it there the next time
    import datasets

    encode_batch = fast_tokenizer(options)
    datasets.disable_progress_bars()
    processes = options["processes"]

    def work(folder: Path) -> dict[str, Any]:
        rows = datasets.load_dataset(
            "json", data_files=options["stories_file"], split="train", cache_dir=str(folder / "cache")
        )
        tokenized = rows.map(
            lambda batch: {"input_ids": encode_batch(batch["text"])},
            batched=True,
            batch_size=BATCH,
            remove_columns=rows.column_names,
            num_proc=processes,
        )
        tokenized.save_to_disk(str(folder / "tokens"), num_proc=processes)
        return {"stories": lambda: len(tokenized), "tokens": lambda: sum(map(len, tokenized["input_ids"]))}

    return workload(work, options)


# The command


def peers(written: dict[str, Any], threads: int) -> list[Contender]:
    """Who does what we do: `datasets` in one and in several processes, or `tokenizers` where that is missing."""
    wide = {**written, "tokenizer_threads": threads, "processes": None}
    if importlib.util.find_spec("datasets") is None:
        return [Contender("tokenizers", their_tokens, wide, ("tokenizers",))]
    needs = ("datasets", "tokenizers")
    found = [Contender("datasets", theirs, wide, needs)]
    if threads > 1:
        several = {**written, "tokenizer_threads": 1, "processes": threads}
        found.append(Contender(f"datasets, {threads} processes", theirs, several, needs))
    return found


@contextmanager
def inputs(stories: int, vocabulary: str, conditions: Conditions) -> Iterator[dict[str, Any]]:
    """What all contenders are given, in a folder that goes away with all that they write."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = {"folder": folder, "stories": stories, "vocabulary": vocabulary}
        talk(f"writing {stories:,} stories", conditions)
        yield {**apart(write_inputs, wanted, conditions), **wanted, "threads": conditions.threads}


def check_same(outcomes: Sequence[Any]) -> None:
    """Refuse figures of contenders that did not do the same work; our preparation may have dropped a copy.

    Raises:
        BenchmarkError: the tokens differ.
    """
    for name in ("tokens", "tokens_sha256"):
        found = {outcome.name: outcome.facts[name] for outcome in outcomes if name in outcome.facts}
        if len(set(found.values())) > 1:
            raise BenchmarkError(f"the contenders wrote different {name}: {found}")


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--stories", default=40_000, show_default=True, type=click.IntRange(2), help="Stories of the storybook.")
@click.option(
    "--vocabulary",
    type=click.Choice(["story", "harmony"]),
    default="story",
    show_default=True,
    help="The tokens that the stories use, or all 201,088.",
)
@conditions_options
def main(stories: int, vocabulary: str) -> None:
    conditions: Conditions = given_conditions()
    require(("tokenizers",))
    with inputs(stories, vocabulary, conditions) as written:
        others = peers(written, conditions.threads)
        fallen_back = others[0].make is their_tokens
        if fallen_back:
            talk("datasets is not installed: the peer is tokenizers alone, with a numpy file", conditions)
        mine = Contender("ours", ours, written)
        pair = [
            Contender("ours, tokens only", our_tokens, written),
            Contender("tokenizers, one thread", their_tokens, {**written, "tokenizer_threads": 1}, ("tokenizers",)),
        ]
        outcomes = compare([mine, *others, *pair], conditions)
    by_name = {outcome.name: outcome for outcome in outcomes}
    check_same([outcome for outcome in outcomes if outcome.name != mine.name])
    our_outcome, peer = by_name[mine.name], best([by_name[other.name] for other in others], FIGURE)
    result = ratio(our_outcome, peer, FIGURE)
    alike = ratio(by_name[pair[0].name], by_name[pair[1].name], FIGURE)
    report(
        "data",
        outcomes,
        conditions,
        ratio=result.median,
        ratio_spread=result.to_list(),
        peer=peer.name,
        tokens_only_ratio=alike.median,
        tokens_only_ratio_spread=alike.to_list(),
        settings={
            "stories": stories,
            "text_bytes": written["text_bytes"],
            "vocabulary": written["vocab_size"],
            "datasets": not fallen_back,
        },
    )


if __name__ == "__main__":
    start(main)
