"""The last stage: shards, lists of stories, what was left out, the report and the manifest are put together."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from ... import __version__
from ...files import sha256_of_file, write_text_atomically
from ...tokenization import Vocabulary
from ..reading_level import GRADE_BANDS
from ..shards import ShardCounts, ShardWriter, TokenShard, token_dtype, write_manifest
from ..sources import ReadReport
from .copies import exact_copies
from .notes import COPY, NEAR_COPY, NOT_DRAWN, TaskNotes, rejects_path
from .numbering import (
    COPIES_NAME,
    SPLITS,
    VOCABULARY_NAME,
    NumberedPart,
    part_path,
    read_vocabulary,
    story_text,
    told_text,
)
from .plan import FACTS_NAME, RESULT_NAME, Plan, read_plan
from .spool import TELLINGS, AboutWriter, Spool
from .steps import spool_path

if TYPE_CHECKING:
    import pyarrow as pa

REJECTED_NAME = "left_out.jsonl.gz"

EXAMPLES = 5
"""Stories that the report shows of each reason to leave one out."""

SAMPLES = 6
"""Stories of the result that the report shows."""

EXAMPLE_CHARACTERS = 600

_CHUNK = 2**22
_BINS = 24
_GRADES = np.arange(-3, 19, dtype=np.float64)


class Finish(PipelineStep):
    """Puts the result together in the folder `result`."""

    type = "STORIES"
    name = "finish"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes the folder; a half-written one of an earlier attempt is made anew."""
        result = self.work / RESULT_NAME
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        plan, vocabulary = read_plan(self.work), read_vocabulary(self.work)
        parts = [NumberedPart(self.work, task, token_dtype(vocabulary.size)) for task in range(len(plan.pieces))]
        counts = {split: write_shard(result, split, parts, vocabulary) for split in SPLITS}
        gathered = Gathered(self.work, plan, parts, counts)
        for split in SPLITS:
            write_list(result, split, parts, gathered.line_bases)
        write_left_out(result, self.work, plan, gathered)
        facts = gathered.facts(result, vocabulary)
        write_text_atomically(result / FACTS_NAME, json.dumps(facts, indent=1) + "\n")
        splits = {
            split: {"file": f"{split}.shard", "sha256": sha256_of_file(result / f"{split}.shard"), **one.to_dict()}
            for split, one in counts.items()
        }
        manifest = {
            "fingerprint": plan.fingerprint,
            "settings": plan.settings,
            "vocabulary": vocabulary.to_dict(),
            "splits": splits,
            "stories": facts["stories"],
            "dropped": {reason: entry["count"] for reason, entry in sorted(facts["left_out"].items())},
            "skipped": skipped_of(gathered.report),
            "respelled": gathered.respelled,
            "summary": gathered.summary(facts, vocabulary),
        }
        write_manifest(result, manifest)


def skipped_of(report: ReadReport) -> dict[str, dict[str, Any]]:
    """What could not be read, by reason."""
    return {
        reason: {"count": skipped.count, "first": skipped.first} for reason, skipped in sorted(report.skipped.items())
    }


def write_shard(result: Path, split: str, parts: list[NumberedPart], vocabulary: Vocabulary) -> ShardCounts:
    """One split's stories of all tasks, as one shard."""
    writer = ShardWriter(result / f"{split}.shard", vocabulary_size=vocabulary.size, fingerprint=vocabulary.fingerprint)
    try:
        for part in parts:
            byte_counts = {name: part.facts[split][name] for name in ("text_bytes", "trained_bytes")}
            ids, trained, lengths = part.arrays(split)
            # In pieces of whole stories, so that memory holds a few megabytes however large a task is.
            ends = lengths.cumsum()
            begin = 0
            while begin < len(lengths):
                first = int(ends[begin - 1]) if begin else 0
                end = max(begin + 1, int(np.searchsorted(ends, first + _CHUNK)))
                last = int(ends[end - 1])
                writer.add(ids[first:last], trained[first:last], lengths[begin:end], **byte_counts)
                byte_counts = dict.fromkeys(byte_counts, 0)
                begin = end
        return writer.close()
    finally:
        writer.abandon()


def write_list(result: Path, split: str, parts: list[NumberedPart], line_bases: list[int]) -> None:
    """What is known of one split's stories, in the order of the shard."""
    import pyarrow as pa

    writer = AboutWriter(result / f"{split}.parquet", TELLINGS)
    for part, base in zip(parts, line_bases, strict=True):
        for table in rows_of(part.directory, split):
            places = pa.array([shifted(place or "", base) for place in table["place"].to_pylist()])
            writer.add_table(table.set_column(0, "place", places))
    writer.close()


def shifted(place: str, base: int) -> str:
    """A place whose line is counted from where a piece begins, counted from the start of its file."""
    name, colon, line = place.rpartition(":")
    return f"{name}:{int(line) + base}" if colon and line.isdigit() and base else place


def shortened(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 1] + "…"


class Gathered:
    """What all tasks noted, added up."""

    def __init__(self, work: Path, plan: Plan, parts: list[NumberedPart], counts: dict[str, ShardCounts]) -> None:
        self.work, self.plan, self.parts, self.counts = work, plan, parts, counts
        self.notes = [TaskNotes.read(work, rank) for rank in range(len(plan.pieces))]
        self.report = ReadReport.merge([*plan.planned, *(one.report for one in self.notes)])
        self.line_bases = self._line_bases()
        self.left_out: Counter[str] = Counter()
        for one in self.notes:
            self.left_out += one.left_out
        for reason, name in ((COPY, "exact"), (NEAR_COPY, "near"), (NOT_DRAWN, "not_drawn")):
            if count := sum(part.facts[name] for part in parts):
                self.left_out[reason] = count
        self.examples: dict[str, list[dict[str, str]]] = {}
        self.respelled = sum(part.facts[split]["respelled"] for part in parts for split in SPLITS)

    def _line_bases(self) -> list[int]:
        """[tasks] lines of a task's file that stand before its piece."""
        bases, lines, path = [], 0, None
        for piece, note in zip(self.plan.pieces, self.notes, strict=True):
            if piece.path != path:
                lines, path = 0, piece.path
            bases.append(lines)
            lines += note.report.lines
        return bases

    def facts(self, result: Path, vocabulary: Vocabulary) -> dict[str, Any]:
        """All that the report tells; see `report`."""
        plan = self.plan
        learnt = json.loads((self.work / VOCABULARY_NAME).read_text(encoding="utf-8"))["facts"]
        renderings = sum(part.facts["renderings"] for part in self.parts)
        levels = Levels(result)
        return {
            "format": 1,
            "name": result_name(plan),
            "fingerprint": plan.fingerprint,
            "program": {"name": "gpt_oss_stories", "version": __version__},
            "settings": {name: getattr(plan.config, name) for name in plan.deciding},
            "command": plan.command,
            "sources": [self._source(index) for index in range(len(plan.ingredients))],
            "left_out": {
                reason: {"count": count, "examples": self.examples.get(reason, [])}
                for reason, count in self.left_out.most_common()
            },
            "copies": {
                "exact": self.left_out[COPY],
                "near": self.left_out[NEAR_COPY],
                "pairs": self._pairs(),
            },
            "splits": {split: one.to_dict() for split, one in self.counts.items()},
            "stories": {
                "distinct": sum(part.facts[split]["stories"] for part in self.parts for split in SPLITS),
                "renderings": renderings,
                "on_request": sum(part.facts["on_request"] for part in self.parts),
                "with_questions": levels.with_questions,
            },
            "lengths": self._lengths(),
            "levels": {"unit": "Flesch-Kincaid grade", "edges": _GRADES.tolist(), "counts": levels.counts.tolist()},
            "level_bands": levels.bands,
            "vocabulary": {"kind": vocabulary.kind, "size": vocabulary.size, **learnt},
            "samples": self._samples(result, vocabulary),
            "rejected_file": REJECTED_NAME if self.left_out else None,
        }

    def _source(self, index: int) -> dict[str, Any]:
        plan, ingredient = self.plan, self.plan.ingredients[index]
        tasks = [rank for rank, piece in enumerate(plan.pieces) if piece.source == index]
        report = ReadReport.merge([plan.planned[index], *(self.notes[rank].report for rank in tasks)])
        left_out: Counter[str] = Counter()
        licenses: Counter[str] = Counter()
        attributions: Counter[str] = Counter()
        for rank in tasks:
            left_out += self.notes[rank].left_out
            for split in SPLITS:
                licenses.update(self.parts[rank].facts[split]["licenses"])
                attributions.update(self.parts[rank].facts[split]["attributions"])
            for reason, name in ((COPY, "exact"), (NEAR_COPY, "near"), (NOT_DRAWN, "not_drawn")):
                left_out[reason] += self.parts[rank].facts[name]
        return {
            "spec": ingredient.spec,
            "name": ingredient.name,
            "weight": ingredient.weight,
            "files": ingredient.files,
            "read": report.stories,
            "skipped": skipped_of(report),
            "layouts": dict(sorted(report.layouts.items())),
            "ignored_fields": dict(sorted(report.ignored_fields.items())),
            "left_out": {reason: count for reason, count in left_out.most_common() if count},
            "kept": sum(self.parts[rank].facts[split]["stories"] for rank in tasks for split in SPLITS),
            "told": sum(self.parts[rank].facts["renderings"] for rank in tasks),
            "words": sum(self.parts[rank].facts[split]["words"] for rank in tasks for split in SPLITS),
            "train_tokens": sum(self.parts[rank].facts["train"]["tokens"] for rank in tasks),
            "licenses": dict(licenses.most_common()),
            "attributions": dict(attributions.most_common()),
            "repaired": sum(self.notes[rank].repaired for rank in tasks),
        }

    def _lengths(self) -> dict[str, Any]:
        """How long the stories of the training part are."""
        lengths = [part.arrays("train")[2] for part in self.parts]
        shortest = min((int(one.min()) for one in lengths if len(one)), default=1)
        longest = max((int(one.max()) for one in lengths if len(one)), default=1)
        edges = np.unique(np.geomspace(shortest, longest + 1, _BINS + 1).round().astype(np.int64))
        counts = sum((np.histogram(one, edges)[0] for one in lengths), start=np.zeros(len(edges) - 1, dtype=np.int64))
        return {"unit": "tokens", "edges": edges.tolist(), "counts": counts.tolist()}

    def _pairs(self) -> list[dict[str, str]]:
        """Some near copies beside the stories that they are copies of."""
        if not self.plan.seeks_near_copies:
            return []
        from ..near_copies import read_copies

        pairs: list[dict[str, str]] = []
        for rank in range(len(self.parts)):
            exact = set(exact_copies(self.work, self.plan, rank).tolist())
            for row in read_copies(self.work, rank):
                if len(pairs) == EXAMPLES:
                    return pairs
                if int(row["index"]) not in exact:
                    kept = self._story(int(row["kept_rank"]), int(row["kept_index"]))
                    dropped = self._story(rank, int(row["index"]))
                    pairs.append(
                        {"kept": kept[0], "kept_place": kept[1], "dropped": dropped[0], "dropped_place": dropped[1]}
                    )
        return pairs

    def _story(self, rank: int, number: int) -> tuple[str, str]:
        """Text and place of a spooled story."""
        spool = Spool(spool_path(self.work, rank))
        begin = 0
        for table in spool.about():
            if number < begin + len(table):
                place = table["place"][number - begin].as_py() or ""
                return shortened(story_text(spool, number)), shifted(place, self.line_bases[rank])
            begin += len(table)
        raise IndexError(f"story {number} of {begin}")

    def _samples(self, result: Path, vocabulary: Vocabulary) -> list[dict[str, Any]]:
        """Stories from all over the result, evenly spaced."""
        samples = []
        for split, wanted in (("train", SAMPLES - 2), ("validation", 2)):
            stories = sum(part.facts[split]["stories"] for part in self.parts)
            numbers = {int(place) for place in np.linspace(0, stories - 1, min(wanted, stories))}
            shard = TokenShard(result / f"{split}.shard")
            begin = telling = 0
            for table in rows_of(result, split):
                first = telling + np.append(0, np.cumsum(table[TELLINGS].to_numpy(), dtype=np.int64))
                for number in sorted(one for one in numbers if begin <= one < begin + len(table)):
                    row = table.slice(number - begin, 1).to_pylist()[0]
                    text = told_text(vocabulary, *shard.story(int(first[number - begin])))
                    kept = ("source", "place", "words", "grade", "request", "questions")
                    samples.append({"split": split, "text": shortened(text), **{name: row[name] for name in kept}})
                begin += len(table)
                telling = int(first[-1])
        return samples

    def summary(self, facts: dict[str, Any], vocabulary: Vocabulary) -> list[str]:
        """Lines for the console."""
        plan = self.plan
        lines = []
        built_in = [self._built_in_line(index) for index, one in enumerate(plan.ingredients) if one.built_in]
        if built_in:
            lines.append(", ".join(built_in))
        if not all(one.built_in for one in plan.ingredients):
            lines += self.report.describe()
        lines += [f"  dropped {count:,}: {reason}" for reason, count in self.left_out.most_common()]
        stories = facts["stories"]
        asked = stories["on_request"] / max(stories["renderings"], 1)
        lines.append(f"{stories['distinct']:,} different stories; {asked:.0%} are told on request")
        for split, count in self.counts.items():
            lines.append(
                f"{split}: {count.stories:,} stories, {count.tokens:,} tokens, {count.text_bytes:,} bytes of text"
            )
        lines.append(f"vocabulary: {vocabulary.kind}, {vocabulary.size:,} tokens")
        if self.respelled:
            lines.append(
                f"  {self.respelled:,} stories hold tokens that it leaves out and were spelled with smaller ones"
            )
        return lines

    def _built_in_line(self, index: int) -> str:
        one = self.plan.ingredients[index]
        count = sum((piece.end or 0) - piece.start for piece in self.plan.pieces if piece.source == index)
        times = f", each told {one.weight:g} times" if one.weight != 1 else ""
        what = {
            "storybook": f"stories of the storybook (seed {self.plan.config.storybook_seed})",
            "first-readers": "first readers",
            "originals": "original stories",
        }[one.name]
        return f"{count:,} {what}{times}"


def result_name(plan: Plan) -> str:
    """What the data are called."""
    return ", ".join(one.name for one in plan.ingredients)


def rows_of(result: Path, split: str) -> Iterator[pa.Table]:
    """What is known of a split's stories, some thousands at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(result / f"{split}.parquet") as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


class Levels:
    """How hard the stories of both splits are to read.

    Attributes:
        counts: stories by grade, between `_GRADES`.
        bands: stories by band of grades, easiest first.
        with_questions: stories that have questions.
    """

    def __init__(self, result: Path) -> None:
        self.counts = np.zeros(len(_GRADES) - 1, dtype=np.int64)
        self.bands = {band: 0 for _, band in GRADE_BANDS}
        self.with_questions = 0
        ends = np.asarray([end for end, _ in GRADE_BANDS])
        for split in SPLITS:
            for table in rows_of(result, split):
                grades = table["grade"].drop_null().to_numpy()
                self.counts += np.histogram(np.clip(grades, _GRADES[0], _GRADES[-1]), _GRADES)[0]
                in_band = np.bincount(np.searchsorted(ends, grades, side="right"), minlength=len(ends))
                for (_, band), count in zip(GRADE_BANDS, in_band.tolist(), strict=True):
                    self.bands[band] += count
                self.with_questions += int(np.count_nonzero(table["questions"].to_numpy()))


def write_left_out(result: Path, work: Path, plan: Plan, gathered: Gathered) -> None:
    """All stories that were read and not kept, one JSON object in a line; and the report's examples of them."""
    if not gathered.left_out:
        return
    with open(result / REJECTED_NAME, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for rank in range(len(plan.pieces)):
            for row in _left_out_of(work, rank, gathered.line_bases[rank]):
                examples = gathered.examples.setdefault(row["reason"], [])
                if len(examples) < EXAMPLES:
                    examples.append({"place": row["place"], "text": shortened(row["text"])})
                file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _left_out_of(work: Path, rank: int, base: int) -> Iterator[dict[str, Any]]:
    for path in (rejects_path(work, rank), part_path(work, rank) / COPIES_NAME):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield {**row, "place": shifted(row["place"], base)}
