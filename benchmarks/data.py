"""How many megabytes of stories a second become token files, against `datasets` with a fast tokenizer?

    python benchmarks/data.py --stories 40000
    python benchmarks/data.py --file stories.jsonl --vocabulary harmony

The input is a .jsonl file, one {"text": ...} in a line: of the built-in storybook's stories, without requests, or one
that is given. A megabyte is 1,000,000 bytes of the stories' text in UTF-8. Repetitions begin with an empty folder; the
file itself is in the system's cache.

`ours` is all of `stories prepare` with the steps that the peer is given too: broken encodings mended, Unicode and line
ends normalised, language, length and ending checked. It has `--threads` worker processes, which it starts anew each
time. Besides, it hashes the input file, checks each line (keys, characters, length), drops copies, holds stories out
for validation, counts syllables for the reading level, builds the story vocabulary and renumbers all tokens into it,
marks the tokens to be learnt, keeps what it left out, waits until the shards are on the disk, and reads them again to
verify them. `ours, all steps` also looks for what repeats itself or is not for children, and for near copies.

The peer is `load_dataset("json")`, `map(batched=True)` and `save_to_disk`: `ftfy` and `unicodedata` for the text,
`py3langid` for the language, a regular expression for the ending, and a fast tokenizer of `transformers`, which is that
of our finished vocabulary, already loaded. It is asked with the tokenizer's own threads and, where there are several,
with as many processes instead; the faster one counts.

`tokens_only_ratio` is like for like, one thread each, without any cleaning: the same code reads the lines and writes
the ids to a numpy file, and only the tokenizer is ours or that of `tokenizers`. Both must have written the same ids.

Peak memory is that of the contender's own process, without those that it starts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
import unicodedata
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
        options: `folder` to write to, the number of `stories`, the `vocabulary` (story or harmony), and a `file` whose
            stories are taken instead of the storybook's, None for these.
    """
    from gpt_oss_stories.data.pipeline import prepare
    from gpt_oss_stories.data.sources import read_stories
    from gpt_oss_stories.data.storybook import write_stories
    from gpt_oss_stories.interop.tokenizer_files import write_tokenizer_files

    folder = Path(options["folder"])
    stories = folder / "stories.jsonl"
    text_bytes = written = 0
    with open(stories, "w", encoding="utf-8") as file:
        given = options["file"]
        for record in write_stories(options["stories"], 0) if given is None else read_stories(given):
            text_bytes += len(record.text.encode("utf-8"))
            written += 1
            file.write(json.dumps({"text": record.text}, ensure_ascii=False) + "\n")
    config = same_steps(options, data_dir=str(folder / "first"), dataset_path=str(stories))
    prepared = prepare(config)
    write_tokenizer_files(folder, prepared.vocabulary, block_size=config.max_story_characters)
    facts = {
        "stories_file": str(stories),
        "text_bytes": text_bytes,
        "stories_written": written,
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


def same_steps(options: dict[str, Any], **more: Any) -> Any:
    """A configuration with the steps that the peer is given too."""
    from gpt_oss_stories.config import DataConfig

    off = {"child_safety": "off", "drop_near_copies": False, "drop_repetitive": False}
    return DataConfig(vocabulary=options["vocabulary"], **off, **more)


def ours(options: dict[str, Any]) -> Workload:
    """All of our preparation; with `all_steps` also those that the peer is not given."""
    from gpt_oss_stories.data.pipeline import prepare
    from gpt_oss_stories.data.preparation.workers import POOL_FROM_BYTES

    # As the program decides by itself, but for the number: a small file is done before processes have started.
    workers = options["threads"] if Path(options["stories_file"]).stat().st_size >= POOL_FROM_BYTES else 1

    def work(folder: Path) -> dict[str, Any]:
        config = same_steps(options, data_dir=str(folder), dataset_path=options["stories_file"])
        if options["all_steps"]:
            config = config.replace(child_safety="usual", drop_near_copies=True, drop_repetitive=True)
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


ENDING = re.compile(r"[.!?…][\"'”’»)\]]*$")


def theirs(options: dict[str, Any]) -> Workload:
    """`datasets` with `ftfy`, `py3langid` and a tokenizer of `transformers`."""
    os.environ["HF_HOME"] = options["folder"]  # it keeps what it has read, and would find it there the next time
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options["tokenizer_threads"] > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(options["tokenizer_threads"])
    import datasets
    import ftfy
    import py3langid
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=options["tokenizer"])
    begin, end = tokenizer.convert_tokens_to_ids(["<|startoftext|>", "<|endoftext|>"])
    datasets.disable_progress_bars()
    processes = options["processes"]

    def clean(text: str) -> str:
        text = ftfy.fix_encoding(text).replace("\r\n", "\n").replace("\r", "\n")
        return "\n".join(line.rstrip() for line in unicodedata.normalize("NFC", text).strip().split("\n"))

    def is_story(text: str) -> bool:
        if not len(text.split()) >= 5 or len(text) > 1_000_000 or not ENDING.search(text):
            return False
        return py3langid.classify(text)[0] == "en"

    def prepare_batch(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        texts = [text for text in map(clean, batch["text"]) if is_story(text)]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return {"input_ids": [[begin, *one, end] for one in ids]}

    def work(folder: Path) -> dict[str, Any]:
        rows = datasets.load_dataset(
            "json", data_files=options["stories_file"], split="train", cache_dir=str(folder / "cache")
        )
        tokenized = rows.map(
            prepare_batch, batched=True, batch_size=BATCH, remove_columns=rows.column_names, num_proc=processes
        )
        tokenized.save_to_disk(str(folder / "tokens"), num_proc=processes)
        return {"stories": lambda: len(tokenized), "tokens": lambda: sum(map(len, tokenized["input_ids"]))}

    return workload(work, options)


# The command


def peers(written: dict[str, Any], threads: int) -> list[Contender]:
    """Who does what we do: `datasets` in one and in several processes."""
    wide = {**written, "tokenizer_threads": threads, "processes": None}
    needs = ("datasets", "transformers", "tokenizers")
    found = [Contender("datasets", theirs, wide, needs)]
    if threads > 1:
        several = {**written, "tokenizer_threads": 1, "processes": threads}
        found.append(Contender(f"datasets, {threads} processes", theirs, several, needs))
    return found


@contextmanager
def inputs(stories: int, file: str | None, vocabulary: str, conditions: Conditions) -> Iterator[dict[str, Any]]:
    """What all contenders are given, in a folder that goes away with all that they write."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = {"folder": folder, "stories": stories, "vocabulary": vocabulary, "file": file}
        talk(f"writing {stories:,} stories" if file is None else f"reading {file}", conditions)
        yield {**apart(write_inputs, wanted, conditions), **wanted, "threads": conditions.threads}


MOST_DIFFERENT = 0.01
"""Share of the stories by which contenders may differ: we drop copies, and the peer's languages are guessed."""


def check_same(outcomes: Sequence[Any]) -> None:
    """Refuse figures of contenders that did not do the same work.

    Raises:
        BenchmarkError: tokens, or numbers of stories, differ.
    """
    hashes = {outcome.name: outcome.facts["tokens_sha256"] for outcome in outcomes if "tokens_sha256" in outcome.facts}
    if len(set(hashes.values())) > 1:
        raise BenchmarkError(f"the contenders wrote different tokens: {hashes}")
    stories = {outcome.name: outcome.facts["stories"] for outcome in outcomes}
    if min(stories.values()) < (1 - MOST_DIFFERENT) * max(stories.values()):
        raise BenchmarkError(f"the contenders kept different stories: {stories}")


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--stories", default=40_000, show_default=True, type=click.IntRange(2), help="Stories of the storybook.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="PATH",
    help="A .jsonl file of stories instead of these.",
)
@click.option(
    "--vocabulary",
    type=click.Choice(["story", "harmony"]),
    default="story",
    show_default=True,
    help="The tokens that the stories use, or all 201,088.",
)
@conditions_options
def main(stories: int, file: str | None, vocabulary: str) -> None:
    conditions: Conditions = given_conditions()
    require(("datasets", "transformers", "tokenizers"))
    with inputs(stories, file, vocabulary, conditions) as written:
        others = peers(written, conditions.threads)
        mine = Contender("ours", ours, {**written, "all_steps": False})
        whole = Contender("ours, all steps", ours, {**written, "all_steps": True})
        pair = [
            Contender("ours, tokens only", our_tokens, written),
            Contender("tokenizers, one thread", their_tokens, {**written, "tokenizer_threads": 1}, ("tokenizers",)),
        ]
        outcomes = compare([mine, *others, whole, *pair], conditions)
    by_name = {outcome.name: outcome for outcome in outcomes}
    check_same([outcome for outcome in outcomes if outcome.name != whole.name])
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
            "stories": written["stories_written"],
            "text_bytes": written["text_bytes"],
            "vocabulary": written["vocab_size"],
        },
    )


if __name__ == "__main__":
    start(main)
