"""From spooled tokens to the pieces of shards: the split, the vocabulary of the training part, and new numbers."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ...files import atomic_write, write_text_atomically
from ...tokenization import Vocabulary, build_story_vocabulary, harmony_vocabulary, vocabulary_from_dict
from .copies import EXTREMES_NAME, exact_copies, near_copies
from .notes import COPY, NEAR_COPY
from .plan import Plan, read_plan
from .respelling import Respeller, spelled_bytes
from .spool import TELLINGS, AboutWriter, Spool, map_file
from .steps import spool_path
from .telling import is_held_out

SPLITS = ("train", "validation")

VOCABULARY_NAME = "vocabulary.json"

MOST_ATTRIBUTIONS = 1000
"""Names to be given credit that a task counts at the most; the lists of stories hold all."""

COPIES_NAME = "copies.jsonl"
"""File of a task's part that holds the stories that are left out as copies."""

NEVER = np.iinfo(np.int64).max

GROWTH_POINTS = 60
"""Points of the curve of distinct tokens over stories."""


class Choice:
    """Which of a task's stories stay, and on which side.

    Attributes:
        spool: the task's stories.
        exact, near: [copies] stories that are dropped as copies, and those besides them that are nearly copies.
        stories: for each split the numbers of its stories, in order.
        renderings: for each split the numbers of its renderings, in order.
        not_drawn: stories of the training part that its source's weight leaves out.
    """

    def __init__(self, work: Path, plan: Plan, rank: int) -> None:
        self.spool = spool = Spool(spool_path(work, rank))
        extremes = json.loads((work / EXTREMES_NAME).read_text(encoding="utf-8"))
        self.exact = exact_copies(work, plan, rank)
        self.near = np.setdiff1d(near_copies(work, plan, rank), self.exact)
        stays = np.ones(len(spool.stories), dtype=np.bool_)
        stays[self.exact] = stays[self.near] = False
        held = is_held_out(
            np.array(spool.stories["key"]), plan.config.validation_fraction, extremes["lowest"], extremes["highest"]
        )
        told = spool.stories["told"] > 0
        if extremes["stories"] == 1:
            told |= stays  # there is no other story to draw
        self.not_drawn = int((stays & ~held & ~told).sum())
        self.stories = {"train": np.flatnonzero(stays & ~held & told), "validation": np.flatnonzero(stays & held)}
        chosen = {split: np.zeros(len(spool.stories), dtype=np.bool_) for split in SPLITS}
        for split, numbers in self.stories.items():
            chosen[split][numbers] = True
        owners = spool.owners
        within = np.arange(len(owners)) - spool.first_rendering[:-1][owners]
        self.renderings = {
            "train": np.flatnonzero(chosen["train"][owners] & (within < np.maximum(spool.stories["told"], 1)[owners])),
            "validation": np.flatnonzero(chosen["validation"][owners] & (within == 0)),  # evaluated once
        }


class CountTokens(PipelineStep):
    """Counts the tokens of a task's part of the training stories, and notes where each is seen first."""

    type = "STORIES"
    name = "count"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes `counts/RANK.npz`: ids, how often each is seen, in which story first; and the number of stories."""
        choice = Choice(self.work, read_plan(self.work), rank)
        size = harmony_vocabulary().size
        counts = np.zeros(size, dtype=np.int64)
        first = np.full(size, NEVER)
        order = np.zeros(len(choice.spool.stories) + 1, dtype=np.int64)
        order[choice.stories["train"]] = np.arange(len(choice.stories["train"]))
        for numbers, tokens, _ in choice.spool.groups(choice.renderings["train"]):
            counts += np.bincount(tokens, minlength=size)
            new = np.flatnonzero(first[tokens] == NEVER)  # soon few
            ids, of_new = np.unique(tokens[new], return_index=True)
            ends = choice.spool.lengths[numbers].cumsum(dtype=np.int64)
            owners = choice.spool.owners[numbers[np.searchsorted(ends, new[of_new], side="right")]]
            first[ids] = order[owners]
        used = np.flatnonzero(counts)
        with atomic_write(self.work / "counts" / f"{rank:05d}.npz") as file:
            np.savez(file, ids=used, counts=counts[used], first=first[used], stories=len(choice.stories["train"]))


class BuildVocabulary(PipelineStep):
    """Builds the vocabulary of the training part's tokens, and how it grew with the stories."""

    type = "STORIES"
    name = "vocabulary"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes `vocabulary.json`: the vocabulary, and what the report tells about it."""
        plan = read_plan(self.work)
        harmony = harmony_vocabulary()
        counts = np.zeros(harmony.size, dtype=np.int64)
        first = np.full(harmony.size, NEVER)
        stories = 0
        for task in range(len(plan.pieces)):
            with np.load(self.work / "counts" / f"{task:05d}.npz", allow_pickle=False) as part:
                counts[part["ids"]] += part["counts"]
                first[part["ids"]] = np.minimum(first[part["ids"]], part["first"] + stories)
                stories += int(part["stories"])
        used = np.flatnonzero(counts)
        vocabulary: Vocabulary = harmony
        if plan.config.vocabulary == "story":
            vocabulary = build_story_vocabulary(
                dict(zip(used.tolist(), counts[used].tolist(), strict=True)), plan.config.token_count_floor
            )
        seen = np.sort(first[used])
        points = np.unique(np.geomspace(1, max(stories, 1), GROWTH_POINTS).astype(np.int64))
        growth = [
            {"stories": int(point), "distinct_tokens": int(np.searchsorted(seen, point, side="left"))}
            for point in points
            if stories
        ]
        common = np.sort(counts[used])[::-1].cumsum()
        shares = [
            {"tokens": tokens, "share": float(common[tokens - 1] / common[-1])}
            for tokens in (100, 1000, 10_000)
            if tokens <= len(common)
        ]
        facts = {"tokens_in_text": len(used), "growth": growth, "most_common_share": shares}
        write_text_atomically(
            self.work / VOCABULARY_NAME, json.dumps({"vocabulary": vocabulary.to_dict(), "facts": facts})
        )


@cache
def read_vocabulary(work: Path) -> Vocabulary:
    """The vocabulary that the stage `vocabulary` built."""
    return vocabulary_from_dict(json.loads((work / VOCABULARY_NAME).read_text(encoding="utf-8"))["vocabulary"])


@cache
def respeller(work: Path) -> tuple[Respeller, NDArray[np.int64]]:
    """What renumbers the tokens of a work folder, and how many bytes each harmony id spells."""
    harmony = harmony_vocabulary()
    spelled = spelled_bytes(harmony)
    return Respeller(harmony, read_vocabulary(work), spelled == 0), spelled


class NumberTokens(PipelineStep):
    """Writes a task's part of each shard, in the numbers of the vocabulary."""

    type = "STORIES"
    name = "number"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes the folder `numbered/RANK`; see `NumberedPart`."""
        plan = read_plan(self.work)
        choice = Choice(self.work, plan, rank)
        directory = part_path(self.work, rank)
        part = directory.with_name(f".{directory.name}.{os.getpid()}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        counts = {split: self._write_split(part, split, choice) for split in SPLITS}
        write_copies(part / COPIES_NAME, choice)
        facts = {
            "exact": len(choice.exact),
            "near": len(choice.near),
            "not_drawn": choice.not_drawn,
            "renderings": len(choice.renderings["train"]),
            "on_request": int(choice.spool.on_request[choice.renderings["train"]].sum()),
            **counts,
        }
        write_text_atomically(part / "facts.json", json.dumps(facts))
        shutil.rmtree(directory, ignore_errors=True)
        part.rename(directory)

    def _write_split(self, part: Path, split: str, choice: Choice) -> dict[str, Any]:
        spool = choice.spool
        respell, spelled = respeller(self.work)
        dtype = np.dtype("<u2") if respell.vocabulary.size <= 2**16 else np.dtype("<u4")
        text_bytes = trained_bytes = respelled = tokens_written = 0
        with (
            open(part / f"{split}.tokens", "wb") as ids_file,
            open(part / f"{split}.trained", "wb") as trained_file,
            open(part / f"{split}.lengths", "wb") as lengths_file,
        ):
            for numbers, tokens, trained in spool.groups(choice.renderings[split]):
                ids, flags, lengths, anew = respell.renumber(tokens, trained, spool.lengths[numbers].astype(np.int64))
                ids_file.write(ids.astype(dtype).tobytes())
                trained_file.write(flags.tobytes())
                lengths_file.write(lengths.astype("<i8").tobytes())
                text_bytes += int(spool.stories["text_bytes"][spool.owners[numbers]].sum())
                trained_bytes += int(spelled[tokens[trained]].sum())
                tokens_written += len(ids)
                respelled += anew
        tellings = np.bincount(spool.owners[choice.renderings[split]], minlength=len(spool.stories))
        writer = AboutWriter(part / f"{split}.parquet", TELLINGS)
        begin = words = 0
        licenses: Counter[str] = Counter()
        attributions: Counter[str] = Counter()
        for table in spool.about():
            here = tellings[begin : begin + len(table)].astype(np.int32)
            begin += len(table)
            chosen = table.append_column(TELLINGS, [here]).filter(here > 0)
            words += int(np.sum(chosen["words"].to_numpy(), dtype=np.int64))
            licenses.update(name or "unknown" for name in chosen["license"].to_pylist())
            attributions.update(filter(None, chosen["attribution"].to_pylist()))
            attributions = Counter(dict(attributions.most_common(MOST_ATTRIBUTIONS)))
            writer.add_table(chosen)
        writer.close()
        return {
            "stories": len(choice.stories[split]),
            "tokens": tokens_written,
            "text_bytes": text_bytes,
            "trained_bytes": trained_bytes,
            "respelled": respelled,
            "words": words,
            "licenses": dict(licenses),
            "attributions": dict(attributions),
        }


def part_path(work: Path, rank: int) -> Path:
    """The folder of a task's part of the shards."""
    return work / "numbered" / f"{rank:05d}"


def write_copies(path: Path, choice: Choice) -> None:
    """What a task leaves out as copies, in the form of its other rejects: one JSON object in a line."""
    reasons = dict.fromkeys(choice.near.tolist(), NEAR_COPY) | dict.fromkeys(choice.exact.tolist(), COPY)
    places = (place for table in choice.spool.about() for place in table["place"].to_pylist())
    with open(path, "w", encoding="utf-8") as file:
        for number, place in enumerate(places):
            if number in reasons:
                row = {"reason": reasons[number], "place": place or "", "text": story_text(choice.spool, number)}
                file.write(json.dumps(row) + "\n")


def story_text(spool: Spool, number: int) -> str:
    """A spooled story's text, from the tokens of its first telling."""
    rendering = int(spool.first_rendering[number])
    first, end = int(spool.offsets[rendering]), int(spool.offsets[rendering + 1])
    return told_text(harmony_vocabulary(), spool.tokens[first:end], spool.trained[first:end])


def told_text(vocabulary: Vocabulary, tokens: NDArray[Any], trained: NDArray[np.bool_]) -> str:
    """The story in a telling, without the request before it and the questions after it."""
    told = []
    for token in tokens[int(np.argmax(trained)) :].tolist():
        if not vocabulary.token_bytes(token):
            break
        told.append(token)
    return vocabulary.decode(told)


class NumberedPart:
    """A task's part of the shards, as `NumberTokens` wrote it.

    Attributes:
        facts: counts: copies, and for each split stories, tokens and bytes.
    """

    def __init__(self, work: Path, rank: int, dtype: np.dtype[Any]) -> None:
        self.directory = part_path(work, rank)
        self.facts: dict[str, Any] = json.loads((self.directory / "facts.json").read_text(encoding="utf-8"))
        self._dtype = dtype

    def arrays(self, split: str) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64]]:
        """Ids, flags and lengths of a split's renderings."""
        return (
            map_file(self.directory / f"{split}.tokens", self._dtype),
            map_file(self.directory / f"{split}.trained", np.bool_),
            map_file(self.directory / f"{split}.lengths", "<i8"),
        )
