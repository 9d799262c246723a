"""What a reader took and what it left, and where: one report for each piece, put together in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from ...errors import StoryError

SEPARATOR = "<|endoftext|>"
"""A line of a .txt file, or a row of a table, that ends a story, as in the published TinyStories files."""

STORY_FILE_TYPES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
"""Endings of files that are read; all but .parquet also with .gz or .zst behind them."""

POSITIONS_KEPT = 5
"""How many places of skipped lines a report names for each reason."""


class DataError(StoryError):
    """Stories cannot be read or prepared; the message says which, why, and what would help."""


class Place(NamedTuple):
    """Where something stands: a line of a file of a source. JSON holds it as a list."""

    source: int
    file: str
    line: int | None = None
    """Counted from 1 at the beginning of what was read: of a piece, or of the file in a report on all its pieces. A
    row in a table, an item in a .json file. None: the whole file is meant."""

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass
class Skipped:
    """How often something was skipped for one reason, and where first."""

    count: int = 0
    places: list[Place] = field(default_factory=list)
    """The first few."""

    @property
    def first(self) -> list[str]:
        """The first few places, as "file:line"."""
        return list(map(str, self.places))

    def add(self, place: Place) -> None:
        """Count one more."""
        self.count += 1
        if len(self.places) < POSITIONS_KEPT:
            self.places.append(place)


@dataclass
class ReadReport:
    """What a reader took and what it left; complete once the reader has been read to its end."""

    path: Path = field(default_factory=Path)
    """What was read, for messages; `Path()` if that is not to be said."""
    files: int = 0
    stories: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)
    """Bad lines, rows and items, bad stories (in .txt files) and bad files, by reason."""
    ignored_files: int = 0
    """Files of other types in a folder."""
    ignored_fields: Counter[str] = field(default_factory=Counter)
    """Fields of a request whose value has another shape than ours; the story itself is kept."""
    layouts: Counter[str] = field(default_factory=Counter)
    """How the stories of .txt files were told apart, by number of files."""
    lines_of: dict[tuple[int, str], int] = field(default_factory=dict)
    """Lines, rows or items read of each file, which is known by the number of its source and its name there."""

    @property
    def lines(self) -> int:
        """Lines, rows and items that were read."""
        return sum(self.lines_of.values())

    @property
    def bad(self) -> int:
        """All that was skipped, blank lines not counted."""
        return sum(skipped.count for skipped in self.skipped.values())

    def skip(self, reason: str, place: Place) -> None:
        """Count something that cannot be used."""
        self.skipped.setdefault(reason, Skipped()).add(place)

    def add(self, later: ReadReport) -> None:
        """Count in what was read after this; places in a file begun here then count from that file's beginning."""
        for reason, skipped in later.skipped.items():
            mine = self.skipped.setdefault(reason, Skipped())
            mine.count += skipped.count
            for place in skipped.places[: POSITIONS_KEPT - len(mine.places)]:
                before = self.lines_of.get((place.source, place.file), 0)
                mine.places.append(place if place.line is None else place._replace(line=place.line + before))
        for file, lines in later.lines_of.items():
            self.lines_of[file] = self.lines_of.get(file, 0) + lines
        self.files += later.files
        self.stories += later.stories
        self.ignored_files += later.ignored_files
        self.ignored_fields += later.ignored_fields
        self.layouts += later.layouts

    @classmethod
    def merge(cls, reports: Iterable[ReadReport]) -> Self:
        """One report on pieces that were read apart from each other.

        Args:
            reports: in the order of the pieces, those of one file following each other in the file's order.
        """
        merged = cls()
        paths = set()
        for report in reports:
            merged.add(report)
            paths.add(report.path)
        paths.discard(Path())
        if len(paths) == 1:
            merged.path = paths.pop()
        return merged

    def to_dict(self) -> dict[str, Any]:
        """In plain values that JSON can hold."""
        return {
            "path": str(self.path),
            "files": self.files,
            "stories": self.stories,
            "skipped": {
                reason: {"count": skipped.count, "places": [list(place) for place in skipped.places]}
                for reason, skipped in self.skipped.items()
            },
            "ignored_files": self.ignored_files,
            "ignored_fields": dict(self.ignored_fields),
            "layouts": dict(self.layouts),
            "lines_of": [[source, file, lines] for (source, file), lines in self.lines_of.items()],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(
            path=Path(values["path"]),
            files=values["files"],
            stories=values["stories"],
            skipped={
                reason: Skipped(count=skipped["count"], places=[Place(*place) for place in skipped["places"]])
                for reason, skipped in values["skipped"].items()
            },
            ignored_files=values["ignored_files"],
            ignored_fields=Counter(values["ignored_fields"]),
            layouts=Counter(values["layouts"]),
            lines_of={(source, file): lines for source, file, lines in values["lines_of"]},
        )

    def describe(self) -> list[str]:
        """Lines for the console: what was read, how, and what was skipped, where and why."""
        where = f" ({self.path})" if self.path != Path() else ""
        lines = [f"read {count_of(self.stories, 'story', 'stories')} from {count_of(self.files, 'file')}{where}"]
        for layout, files in sorted(self.layouts.items()):
            lines.append(f"  {count_of(files, 'text file')}: {layout}")
        for reason, skipped in sorted(self.skipped.items(), key=lambda item: (-item[1].count, item[0])):
            more = ", ..." if skipped.count > len(skipped.places) else ""
            lines.append(f"  skipped {skipped.count:,}: {reason} ({', '.join(skipped.first)}{more})")
        for name, count in sorted(self.ignored_fields.items()):
            lines.append(
                f"  ignored the field {name!r} of {count_of(count, 'story', 'stories')}: not of the expected shape"
            )
        if self.ignored_files:
            lines.append(f"  ignored {count_of(self.ignored_files, 'file')} that are not {file_types()}")
        return lines

    def why_none(self, name: str | Path | None = None) -> str:
        """One line that says why nothing was found in `name`: what was skipped instead, and what is expected."""
        reasons = [
            f"{skipped.count:,} {reason} ({skipped.places[0]})" for reason, skipped in self.skipped.items() if skipped
        ]
        why = f"skipped {'; '.join(reasons)}" if reasons else "nothing but blank lines" if self.lines else "empty"
        return (
            f"no stories in {self.path if name is None else name}: {why}. Expected .jsonl lines with a text under the "
            f"key 'text', .txt stories separated by lines of {SEPARATOR}, or a table with a column 'text'"
        )


def file_types() -> str:
    """The types of files that are read, for a message."""
    return f"{', '.join(STORY_FILE_TYPES[:-1])} or {STORY_FILE_TYPES[-1]}"


def count_of(number: int, one: str, many: str | None = None) -> str:
    """ "1 story", "2,000 stories"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
