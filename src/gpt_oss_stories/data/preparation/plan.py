"""What a preparation will do: its sources cut into tasks. Written once, read by every worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from ...config import DataConfig
from ...errors import StoryError
from ...files import write_text_atomically
from ..originals import original_stories
from ..records import StoryRecord
from ..sources import DataError, Piece, ReadReport, Source, parse_source, plan_pieces, read_piece, source_files
from ..storybook import mix, write_first_reader, write_story

PLAN_NAME = "plan.json"
APART_NAME = "apart.ngrams"
"""Files of a work folder: the plan, and the passages of stories that are kept apart."""

RESULT_NAME = "result"
"""Folder of a work folder that becomes the prepared data."""

FACTS_NAME = "report.json"
"""File of the prepared data that holds all that its report tells."""

Progress = Callable[[str, int, int | None], None]
"""Called with a stage, how much of it is done, and of how much, where that is known."""

STORYBOOK, FIRST_READERS, ORIGINALS = "storybook", "first-readers", "originals"
BUILT_IN = (STORYBOOK, FIRST_READERS, ORIGINALS)
"""Names of the sources that the package brings; a file or folder of this name goes first."""

WRITTEN_STORIES = 2_500
"""Stories of the generator that one task writes."""

SMALLEST_PIECE, USUAL_PIECE = 4 * 2**20, 8 * 2**20
MOST_TASKS = 4096
"""Bytes of a file that one task reads: a 64th of all, within the first two bounds; more only where there would be more
tasks than this. The memory of a worker depends on it."""

COMPILED_FROM_BYTES = 64_000_000
"""Less than this is done one by one before numba has compiled its loops."""

PARTITION_BYTES, MOST_PARTITIONS = 2**28, 256
"""Bytes of stories whose digests are compared at a time, and into how many parts they are cut at the most."""


class PreparationSubmittedError(StoryError):
    """The preparation was handed to a cluster, and its result is not there yet."""


class NoStoriesError(DataError):
    """There is no story to train on: nothing of the work is worth keeping."""


class WorkerDiedError(DataError):
    """A worker ended unexpectedly: the work of the others is kept."""


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """A source of the mixture with what is planned to be read of it."""

    spec: str
    """As it was given."""
    name: str
    """What messages call it."""
    weight: float
    built_in: bool
    """It is of the package: its stories are sound, and like each other on purpose."""
    files: int
    input_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The tasks of a preparation."""

    settings: dict[str, Any]
    fingerprint: str
    config: DataConfig
    deciding: tuple[str, ...]
    """Names of the configuration's fields that the result depends on."""
    command: str
    """How to make the same data again."""
    ingredients: tuple[Ingredient, ...]
    pieces: tuple[Piece, ...]
    """One task each, in the order in which their stories stand in the result."""
    planned: tuple[ReadReport, ...] = ()
    """What was found out about each ingredient before it was read: files of other types."""

    @property
    def partitions(self) -> int:
        """Parts into which the digests are cut."""
        return min(1 + sum(one.input_bytes for one in self.ingredients) // PARTITION_BYTES, MOST_PARTITIONS)

    @property
    def is_large(self) -> bool:
        """Whether it pays to have numba compile what looks at many stories at once."""
        return sum(one.input_bytes for one in self.ingredients) >= COMPILED_FROM_BYTES

    @property
    def seeks_near_copies(self) -> bool:
        """Whether any stories are compared with others; those of the package are like each other on purpose."""
        return self.config.drop_near_copies and not all(one.built_in for one in self.ingredients)

    def to_dict(self) -> dict[str, Any]:
        """In plain values that JSON can hold."""
        return {
            "settings": self.settings,
            "fingerprint": self.fingerprint,
            "config": self.config.to_dict(),
            "deciding": self.deciding,
            "command": self.command,
            "ingredients": [vars(one) for one in self.ingredients],
            "pieces": [piece.to_dict() for piece in self.pieces],
            "planned": [report.to_dict() for report in self.planned],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(
            settings=values["settings"],
            fingerprint=values["fingerprint"],
            config=DataConfig.from_dict(values["config"]),
            deciding=tuple(values["deciding"]),
            command=values["command"],
            ingredients=tuple(Ingredient(**one) for one in values["ingredients"]),
            pieces=tuple(map(Piece.from_dict, values["pieces"])),
            planned=tuple(map(ReadReport.from_dict, values["planned"])),
        )

    def write(self, work: Path) -> None:
        """Keep the plan in a work folder."""
        write_text_atomically(work / PLAN_NAME, json.dumps(self.to_dict()))


@cache
def read_plan(work: Path) -> Plan:
    """The plan of a work folder."""
    return Plan.from_dict(json.loads((work / PLAN_NAME).read_text(encoding="utf-8")))


def mixture(dataset_path: str) -> list[Source]:
    """The sources that a `--dataset-path` names, separated by commas.

    Raises:
        DataError: one of them cannot be understood.
    """
    if Path(dataset_path).exists():
        return [Source(location=dataset_path)]  # a name with a comma or a question mark in it
    texts = [text.strip() for text in dataset_path.split(",")]
    if not all(texts):
        raise DataError(f"dataset path {dataset_path!r} has an empty part; separate sources with single commas")
    return list(map(parse_source, texts))


def is_built_in(source: Source) -> bool:
    """Whether a source is one of the package's."""
    return source.location in BUILT_IN and not Path(source.location).exists()


def sources_of(config: DataConfig) -> list[tuple[str, Source]]:
    """The mixture that a configuration names, each source as given and as understood."""
    if config.dataset_path is not None:
        return list(zip(_specs(config.dataset_path), mixture(config.dataset_path), strict=True))
    chosen = []
    if config.storybook_stories:
        chosen.append(Source(location=STORYBOOK))
    if config.first_readers:
        chosen.append(Source(location=FIRST_READERS))
    if config.original_repeats:
        chosen.append(Source(location=ORIGINALS, weight=float(config.original_repeats)))
    return [(source.location, source) for source in chosen]


def _specs(dataset_path: str) -> list[str]:
    return [dataset_path] if Path(dataset_path).exists() else [text.strip() for text in dataset_path.split(",")]


def make_plan(
    config: DataConfig, settings: dict[str, Any], fingerprint: str, deciding: tuple[str, ...], command: str
) -> Plan:
    """Cut all sources of a configuration into tasks.

    Raises:
        DataError: there is nothing to read, or it cannot be read.
    """
    chosen = sources_of(config)
    if not chosen:
        raise DataError(
            "no stories to train on: storybook_stories, first_readers and original_repeats are all 0. Raise one of "
            "them, or give a --dataset-path"
        )
    total = sum(source_bytes(source, config) for _, source in chosen)
    piece_bytes = max(SMALLEST_PIECE, min(total // 64, USUAL_PIECE), total // MOST_TASKS)
    planned = [plan_ingredient(index, spec, source, config, piece_bytes) for index, (spec, source) in enumerate(chosen)]
    return Plan(
        settings=settings,
        fingerprint=fingerprint,
        config=config,
        deciding=deciding,
        command=command,
        ingredients=tuple(ingredient for ingredient, _, _ in planned),
        pieces=tuple(piece for _, pieces, _ in planned for piece in pieces),
        planned=tuple(report for _, _, report in planned),
    )


def plan_ingredient(
    index: int, spec: str, source: Source, config: DataConfig, piece_bytes: int
) -> tuple[Ingredient, list[Piece], ReadReport]:
    """Cut one source into tasks; see `Plan`."""
    if is_built_in(source):
        count = built_in_stories(source, config)
        pieces = [
            Piece(
                source=index,
                path="",
                place=source.location,
                kind=source.location,
                start=start,
                end=min(start + WRITTEN_STORIES, count),
            )
            for start in range(0, count, WRITTEN_STORIES)
        ]
        ingredient = Ingredient(
            spec=spec,
            name=source.location,
            weight=source.weight,
            built_in=True,
            files=0,
            input_bytes=source_bytes(source, config),
        )
        return ingredient, pieces, ReadReport(path=Path(source.location))
    pieces, report = plan_pieces(index, source, piece_bytes=piece_bytes)
    ingredient = Ingredient(
        spec=spec,
        name=Path(source.location).name or source.location,
        weight=source.weight,
        built_in=False,
        files=len({piece.path for piece in pieces}),
        input_bytes=source_bytes(source, config),
    )
    return ingredient, pieces, report


def built_in_stories(source: Source, config: DataConfig) -> int:
    """How many stories one of the package's sources has."""
    counts = {STORYBOOK: config.storybook_stories, FIRST_READERS: config.first_readers}
    return counts[source.location] if source.location in counts else len(original_stories())


BUILT_IN_BYTES = 1000
"""What a story of the package counts as, so that they can be set against files."""


def source_bytes(source: Source, config: DataConfig) -> int:
    """Bytes of a source's stories, about; 0 where that is not known, as of a data set of the Hub."""
    if is_built_in(source):
        return built_in_stories(source, config) * BUILT_IN_BYTES
    return sum(file.stat().st_size for file in local_files(source))


def local_files(source: Source) -> list[Path]:
    """A source's files on this machine; none for a data set of the Hub and for a source of the package."""
    if is_built_in(source) or source.is_hub:
        return []
    return source_files(source)


def read_stories_of(
    piece: Piece, ingredient: Ingredient, config: DataConfig, report: ReadReport
) -> Iterator[StoryRecord]:
    """The stories of one task."""
    if not ingredient.built_in:
        yield from read_piece(piece, report)
        return
    numbers = range(piece.start, piece.end or 0)
    write = {STORYBOOK: write_story, FIRST_READERS: write_first_reader}.get(piece.kind)
    originals = original_stories() if write is None else []
    for number in numbers:
        record = originals[number] if write is None else write(mix(config.storybook_seed, number))
        report.stories += 1
        yield record


def read_apart(config: DataConfig) -> Iterator[StoryRecord]:
    """The stories that `--decontaminate` names.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    assert config.decontaminate is not None
    for index, source in enumerate(mixture(config.decontaminate)):
        ingredient, pieces, planned = plan_ingredient(index, source.location, source, config, USUAL_PIECE)
        reports = [planned]
        for piece in pieces:
            reports.append(ReadReport(path=Path(piece.path)))
            yield from read_stories_of(piece, ingredient, config, reports[-1])
        if not sum(report.stories for report in reports):
            raise DataError(ReadReport.merge(reports).why_none(source.location))
