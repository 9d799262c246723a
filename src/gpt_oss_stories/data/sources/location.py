"""What a source is called: a file, a folder, a pattern or a data set of the Hub, with options."""

from __future__ import annotations

import glob
import math
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .report import STORY_FILE_TYPES, DataError, count_of, file_types

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
"""Endings behind the type of a file that say how it is compressed."""

LAYOUTS = {
    "separator": "stories separated by lines of <|endoftext|>",
    "blank-lines": "stories separated by two or more blank lines",
    "lines": "one story per line",
    "file": "the whole file is one story",
}
"""How the stories of a .txt file may be told apart, and how a report calls it."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_OPTIONS = re.compile(r"[\w-]+=[^&]*(?:&[\w-]+=[^&]*)*")
_WILDCARDS = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One ingredient of a mixture.

    Raises:
        DataError: a value cannot be used.
    """

    location: str
    """A file, a folder, a pattern such as "data/*.txt", or the name of a data set on the Hub, "owner/name"."""
    weight: float = 1.0
    """How often each of its stories is told: 2 is twice, 0.5 every second story."""
    split: str = "train"
    """Part of a data set of the Hub, or of a folder laid out like one."""
    column: str = "text"
    """Where the story stands in tables and JSON objects."""
    revision: str | None = None
    """Version of a data set of the Hub: a branch, a tag or a commit."""
    config: str | None = None
    """Which of several data sets of one name of the Hub."""
    layout: str | None = None
    """How the stories of .txt files are told apart, one of `LAYOUTS`; None: to be found out."""

    def __post_init__(self) -> None:
        problems = []
        if not self.location.strip():
            problems.append("no file, folder or name is given")
        if not (math.isfinite(self.weight) and self.weight > 0):
            problems.append(f"weight={self.weight} is not a number above 0")
        if not self.column:
            problems.append("column is empty")
        if not self.split:
            problems.append("split is empty")
        if self.layout is not None and self.layout not in LAYOUTS:
            problems.append(f"layout={self.layout!r} is not one of {', '.join(LAYOUTS)}")
        if problems:
            raise DataError(f"source {self.location!r}: {'; '.join(problems)}")

    @property
    def is_hub(self) -> bool:
        """Whether it is the name of a data set on the Hub: nothing of that name is here, and it is no file's name."""
        return (
            _HUB_NAME.fullmatch(self.location) is not None
            and not self.location.startswith(".")
            and type_of_file(Path(self.location)) is None
            and not os.path.lexists(self.location)
        )


_ALLOWED = tuple(field.name for field in fields(Source) if field.name != "location")


def parse_source(text: str) -> Source:
    """A source as it is given on a command line: "stories.jsonl", "data/*.txt?weight=2", "owner/name?split=train&...".

    What follows the last question mark is read as options only if it looks like them (key=value, joined by "&") and no
    file has the whole text as its name or fits it as a pattern.

    Raises:
        DataError: an option is unknown or its value cannot be used.
    """
    text = text.strip()
    location, mark, tail = text.rpartition("?")
    if not mark or not location or not _OPTIONS.fullmatch(tail) or os.path.lexists(text) or glob.glob(text):
        return Source(location=text)
    given: dict[str, Any] = {}
    for pair in tail.split("&"):
        key, _, value = pair.partition("=")
        if key not in _ALLOWED:
            raise DataError(f"source {text!r}: unknown option {key!r}; the options are {', '.join(_ALLOWED)}")
        if key in given:
            raise DataError(f"source {text!r}: the option {key!r} appears twice")
        if not value:
            raise DataError(f"source {text!r}: the option {key!r} has no value")
        given[key] = value
    if "weight" in given:
        try:
            given["weight"] = float(given["weight"])
        except ValueError:
            raise DataError(f"source {text!r}: weight={given['weight']!r} is not a number above 0") from None
    return Source(location=location, **given)


def type_of_file(file: Path) -> str | None:
    """ "txt", "jsonl", "json", "csv" or "parquet" by the ending of a file's name; None for other files."""
    name = file.name.lower()
    for ending in COMPRESSIONS:
        if name.endswith(ending):
            name = name.removesuffix(ending)
            if name.endswith(".parquet"):
                return None  # parquet is compressed inside
    return next((ending[1:] for ending in STORY_FILE_TYPES if name.endswith(ending)), None)


def compression_of_name(file: Path) -> str | None:
    """ "gzip" or "zstd" by the ending of a file's name."""
    return COMPRESSIONS.get(file.suffix.lower())


def source_files(source: Source) -> list[Path]:
    """The files of a source in their order; none for the name of a data set on the Hub.

    Raises:
        DataError: nothing is there, or a folder cannot be read or holds no story files.
    """
    return [] if source.is_hub else find_files(source)[1]


def find_files(source: Source) -> tuple[Path, list[Path], int]:
    """Where a source's files are, the files in the order of their names below that, and how many others are there.

    Raises:
        DataError: nothing is there, or a folder cannot be read or holds no story files.
    """
    path = Path(source.location)
    if path.is_file():
        return path.parent, [path], 0
    if path.is_dir():
        return (path, *_files_of_folder(path))
    if path.exists():
        raise DataError(f"dataset path {path} is neither a file nor a folder; {_expected()}")
    if _WILDCARDS.search(source.location):
        return _files_of_pattern(source.location)
    raise DataError(f"dataset path {path} does not exist; {_expected()}")


def place_of(file: Path, base: Path) -> str:
    """What messages call a file of a source."""
    return file.relative_to(base).as_posix()


def _expected() -> str:
    return (
        "give a .txt or .jsonl file with stories (or .json, .csv, .parquet), a folder of them, a pattern such as "
        "data/*.txt, or a data set of the Hub as owner/name"
    )


def _files_of_folder(path: Path) -> tuple[list[Path], int]:
    found: list[Path] = []
    others = 0
    for folder, folders, names in os.walk(path, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if name.startswith(".") or not file.is_file():
                continue
            if type_of_file(file) is not None:
                found.append(file)
            else:
                others += 1
    if not found:
        raise DataError(f"no {file_types()} files in the folder {path} ({count_of(others, 'other file')})")
    return sorted(found, key=lambda file: file.relative_to(path).parts), others


def _files_of_pattern(pattern: str) -> tuple[Path, list[Path], int]:
    """Files that fit a pattern, of known types; folders that fit are not gone into."""
    base = Path()
    for part in Path(pattern).parts:
        if _WILDCARDS.search(part):
            break
        base /= part
    fitting = [file for file in map(Path, glob.glob(pattern, recursive=True)) if file.is_file()]
    found = [file for file in fitting if type_of_file(file) is not None]
    if not found:
        raise DataError(
            f"no {file_types()} file fits the pattern {pattern} ({count_of(len(fitting), 'other file')}); {_expected()}"
        )
    return base, sorted(found, key=lambda file: file.relative_to(base).parts), len(fitting) - len(found)


def _refuse_folder(error: OSError) -> None:
    """A folder that cannot be read may hold stories: it is not passed over."""
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror or error}") from error
