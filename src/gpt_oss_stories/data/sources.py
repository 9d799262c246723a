"""Stories from files: a `.txt` or `.jsonl` file, or a folder of them, becomes checked `StoryRecord`s.

A reader either takes a story whole or skips it and counts why; it never cuts one, joins two, or puts a replacement
character in a letter's place. Memory is bounded by `max_line_bytes`, however large the files are.

What a `.jsonl` line may hold beside `text`: `title`, `summary`, `source`, `license`; `questions`, a list of objects
with `question`, `answer`, `choices` and `answer_index`; and what the story was asked to be, either as one object
`request` with the fields of `StoryRequest`, or as the separate fields of the original stories (`age`, `hero`,
`companions`, `setting`, `theme`, `lesson`, `words`, `features`). `questions` or `request` that cannot be used make the
line bad; one of the separate fields that has another shape is ignored and counted, because other data sets use these
names differently. Other keys are not looked at. A key that appears twice makes the line bad: either choice could be the
wrong one.
"""

from __future__ import annotations

import codecs
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from ..errors import StoryError
from ..tokenization.conversation import Question, RequestError, StoryRequest
from .records import StoryRecord, length_of

SEPARATOR = "<|endoftext|>"
"""A line of a .txt file that ends a story, as in the published TinyStories files."""

STORY_FILE_TYPES = (".txt", ".jsonl")

POSITIONS_KEPT = 5
"""How many places of skipped lines a report names for each reason."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip data, not text"),
    (b"\x89PNG", "a PNG picture, not text"),
    (b"\xff\xd8\xff", "a JPEG picture, not text"),
    (b"PK\x03\x04", "a zip archive, not text"),
    (b"\x28\xb5\x2f\xfd", "zstd data, not text"),
    (b"\xfd7zXZ", "xz data, not text"),
    (b"PAR1", "a parquet table, not text"),
    (b"%PDF", "a PDF, not text"),
    (codecs.BOM_UTF32_LE, "UTF-32, not UTF-8"),
    (codecs.BOM_UTF32_BE, "UTF-32, not UTF-8"),
    (codecs.BOM_UTF16_LE, "UTF-16, not UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16, not UTF-8"),
)


class DataError(StoryError):
    """Stories cannot be read or prepared; the message says which, why, and what would help."""


class _BadStoryError(Exception):
    """A line or a stretch of text is no usable story; the argument is the reason that is counted."""


@dataclass
class Skipped:
    """How often something was skipped for one reason, and where first."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """The first few places, as "file:line"."""

    def add(self, place: str, times: int = 1) -> None:
        self.count += times
        if len(self.first) < POSITIONS_KEPT:
            self.first.append(place)


@dataclass
class ReadReport:
    """What a reader took and what it left; complete once the reader has been read to its end."""

    path: Path
    files: int = 0
    stories: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)
    """Bad lines (in .jsonl files), bad stories (in .txt files) and bad files, by reason."""
    ignored_files: int = 0
    """Files of other types in a folder."""
    ignored_fields: Counter[str] = field(default_factory=Counter)
    """Fields of a request whose value has another shape than ours; the story itself is kept."""
    layouts: Counter[str] = field(default_factory=Counter)
    """How the stories of .txt files were told apart, by number of files."""

    @property
    def bad(self) -> int:
        """All that was skipped, blank lines not counted."""
        return sum(skipped.count for skipped in self.skipped.values())

    def skip(self, reason: str, place: str) -> None:
        self.skipped.setdefault(reason, Skipped()).add(place)

    def describe(self) -> list[str]:
        """Lines for the console: what was read, how, and what was skipped, where and why."""
        lines = [
            f"read {_count(self.stories, 'story', 'stories')} from {_count(self.files, 'file', 'files')} ({self.path})"
        ]
        for layout, files in sorted(self.layouts.items()):
            lines.append(f"  {_count(files, 'text file', 'text files')}: {layout}")
        for reason, skipped in sorted(self.skipped.items(), key=lambda item: (-item[1].count, item[0])):
            more = ", ..." if skipped.count > len(skipped.first) else ""
            lines.append(f"  skipped {skipped.count:,}: {reason} ({', '.join(skipped.first)}{more})")
        for name, count in sorted(self.ignored_fields.items()):
            lines.append(
                f"  ignored the field {name!r} of {_count(count, 'story', 'stories')}: not of the expected shape"
            )
        if self.ignored_files:
            lines.append(
                f"  ignored {_count(self.ignored_files, 'file', 'files')} that are not {' or '.join(STORY_FILE_TYPES)}"
            )
        return lines


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def clean_text(text: str) -> str:
    """The same story with LF line ends, composed characters (Unicode NFC) and no outer white space, else unchanged."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text).strip()


def is_blank(text: str) -> bool:
    """Whether a text has nothing to read: only white space, control and formatting characters (a zero-width space)."""
    return all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text)


class StoryReader:
    """Reads the stories of a file or a folder, in the order of their names; see the module's text for the formats.

    Iterating starts at the beginning each time and fills `report` anew.

    Args:
        path: a .txt or .jsonl file, or a folder that is searched through its sub-folders.
        max_line_bytes: a longer line (.jsonl) or story (.txt) is skipped and counted.

    Raises:
        DataError: there is nothing at `path`, a file cannot be opened, or a folder holds no story files.
    """

    def __init__(self, path: str | Path, *, max_line_bytes: int = 16 * 2**20) -> None:
        self.path = Path(path)
        self.max_line_bytes = max_line_bytes
        self.report = ReadReport(path=self.path)
        self.files, self._ignored_files = _story_files(self.path)

    def __iter__(self) -> Iterator[StoryRecord]:
        self.report = report = ReadReport(path=self.path, ignored_files=self._ignored_files)
        for file in self.files:
            report.files += 1
            try:
                for record in self._read(file, report):
                    report.stories += 1
                    yield record
            except OSError as error:
                raise DataError(f"cannot read {file}: {error.strerror or error}") from error

    def require_stories(self) -> None:
        """Check, after reading, that there was anything to read.

        Raises:
            DataError: no story was found; the message says what was skipped instead.
        """
        if self.report.stories:
            return
        reasons = [
            f"{skipped.count:,} {reason} ({skipped.first[0]})" for reason, skipped in self.report.skipped.items()
        ]
        why = (
            f"skipped {'; '.join(reasons)}" if reasons else "nothing but blank lines" if self._has_bytes() else "empty"
        )
        raise DataError(
            f"no stories in {self.path}: {why}. Expected .jsonl lines with a text under the key 'text', or .txt "
            f"stories separated by lines of {SEPARATOR}"
        )

    def _has_bytes(self) -> bool:
        return any(file.stat().st_size for file in self.files)

    def _read(self, file: Path, report: ReadReport) -> Iterator[StoryRecord]:
        place = self._place(file)
        with open(file, "rb") as binary:
            start = binary.read(8)
            kind = next((kind for signature, kind in _SIGNATURES if start.startswith(signature)), None)
            binary.seek(0)
            if kind is not None and kind.startswith("UTF-16") and file.suffix.lower() == ".jsonl":
                yield from _skip_utf16_lines(binary, kind, place, report, self.max_line_bytes)
            elif kind is not None:
                report.skip(kind, place)
            elif file.suffix.lower() == ".jsonl":
                yield from self._read_jsonl(binary, place, report)
            elif file.suffix.lower() == ".txt":
                yield from self._read_txt(file, place, report)
            else:
                report.skip(f"not a {' or '.join(STORY_FILE_TYPES)} file", place)

    def _place(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix() if file != self.path else file.name

    def _read_jsonl(self, binary: BinaryIO, place: str, report: ReadReport) -> Iterator[StoryRecord]:
        for number, line in enumerate(_limited_lines(binary, self.max_line_bytes), start=1):
            if line is None:
                report.skip(f"line longer than {self.max_line_bytes:,} bytes", f"{place}:{number}")
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                yield _record_of_line(line, place, report.ignored_fields)
            except _BadStoryError as bad:
                report.skip(str(bad), f"{place}:{number}")
            except RecursionError:
                report.skip("nested too deeply", f"{place}:{number}")

    def _read_txt(self, file: Path, place: str, report: ReadReport) -> Iterator[StoryRecord]:
        # Bytes that are not UTF-8 come out as lone surrogates, so that the one story they are in can be told.
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline=None) as text:
            layout = _text_layout(text, self.max_line_bytes)
            text.seek(0)
            report.layouts[layout] += 1
            for number, story in _text_stories(text, layout, self.max_line_bytes):
                try:
                    if story is None:
                        raise _BadStoryError(f"story longer than {self.max_line_bytes:,} characters")
                    checked = _checked_story(story)
                except _BadStoryError as bad:
                    report.skip(str(bad), f"{place}:{number}")
                else:
                    yield StoryRecord(text=checked, source=place)


def read_stories(path: str | Path, *, max_line_bytes: int = 16 * 2**20) -> StoryReader:
    """A reader of the stories at `path`; iterate over it, then look at its `report`. See `StoryReader`.

    Raises:
        DataError: there is nothing at `path`, or a folder holds no story files.
    """
    return StoryReader(path, max_line_bytes=max_line_bytes)


def _story_files(path: Path) -> tuple[list[Path], int]:
    """The story files at a path in the order of their names, and how many others a folder holds."""
    if path.is_file():
        return [path], 0
    if not path.is_dir():
        kind = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise DataError(f"dataset path {path} {kind}; give a .txt or .jsonl file with stories, or a folder of them")
    found: list[Path] = []
    others = 0
    for folder, folders, names in os.walk(path, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if name.startswith(".") or not file.is_file():
                continue
            if file.suffix.lower() in STORY_FILE_TYPES:
                found.append(file)
            else:
                others += 1
    if not found:
        raise DataError(
            f"no {' or '.join(STORY_FILE_TYPES)} files in the folder {path} "
            f"({_count(others, 'other file', 'other files')})"
        )
    return sorted(found, key=lambda file: file.relative_to(path).parts), others


def _refuse_folder(error: OSError) -> None:
    """A folder that cannot be read may hold stories: it is not passed over."""
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror or error}") from error


def _limited_lines(binary: BinaryIO, limit: int) -> Iterator[bytes | None]:
    """The lines of a file without more than `limit` bytes in memory; None stands for a longer line.

    Only LF ends a line: U+2028 and its kin may stand inside a JSON string.
    """
    while line := binary.readline(limit + 1):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
            continue
        while (rest := binary.readline(limit)) and not rest.endswith(b"\n"):
            pass
        yield None


def _skip_utf16_lines(binary: BinaryIO, kind: str, place: str, report: ReadReport, limit: int) -> Iterator[StoryRecord]:
    """Count the lines of a UTF-16 file as skipped; it yields nothing."""
    for number, line in enumerate(_limited_lines(binary, limit), start=1):
        if line is None or line.strip(b"\0 \t\r\n"):
            report.skip(f"{kind}: save the file as UTF-8", f"{place}:{number}")
    yield from ()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _BadStoryError("a key appears twice")
    return values


def _no_constant(name: str) -> Any:
    raise _BadStoryError("not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def _record_of_line(line: bytes, place: str, ignored: Counter[str]) -> StoryRecord:
    """The story of one JSON line."""
    if b"\0" in line:
        raise _BadStoryError("NUL character")
    try:
        row = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise _BadStoryError("not UTF-8") from None
    except json.JSONDecodeError:
        raise _BadStoryError("not JSON (old Mac line ends, CR alone)" if b"\r{" in line else "not JSON") from None
    except ValueError:  # Python refuses to convert whole numbers of more than 4,300 digits
        raise _BadStoryError("a number too long to read") from None
    if not isinstance(row, dict):
        raise _BadStoryError("not a JSON object")
    if "text" not in row:
        raise _BadStoryError("no key 'text'")
    if not isinstance(row["text"], str):
        raise _BadStoryError("'text' is not a text")
    return record_of_fields(row, source=place, ignored=ignored)


def record_of_fields(row: Mapping[str, Any], *, source: str, ignored: Counter[str]) -> StoryRecord:
    """The record of a story that is given as named fields; `row["text"]` is a str.

    Args:
        source: where the story is from, when the row itself does not say.
        ignored: counts fields whose value has another shape than expected.
    """
    text = _checked_story(row["text"])
    return StoryRecord(
        text=text,
        title=_optional_text(row, "title", ignored),
        request=_request_of_fields(row, text, ignored),
        summary=_optional_text(row, "summary", ignored),
        questions=_questions_of_fields(row),
        source=_optional_text(row, "source", ignored) or source,
        license=_optional_text(row, "license", ignored),
    )


def _checked_story(text: str) -> str:
    if "\0" in text:
        raise _BadStoryError("NUL character")
    if not _is_unicode(text):
        # A file's undecodable bytes are in U+DC80..U+DCFF; other lone surrogates come from JSON escapes.
        stray = {character for character in text if "\ud800" <= character <= "\udfff"}
        raise _BadStoryError(
            "not UTF-8" if all("\udc80" <= character <= "\udcff" for character in stray) else "half a surrogate pair"
        )
    if is_blank(text):
        raise _BadStoryError("blank story")
    return clean_text(text)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8, which half a surrogate pair cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _optional_text(row: Mapping[str, Any], key: str, ignored: Counter[str]) -> str | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value or not _is_unicode(value):
        ignored[key] += 1
        return None
    return clean_text(value) or None


def _is_clean(value: Any) -> bool:
    """Whether every text within is free of NUL and of halves of surrogate pairs."""
    if isinstance(value, str):
        return "\0" not in value and _is_unicode(value)
    if isinstance(value, list | tuple):
        return all(map(_is_clean, value))
    return all(_is_clean(item) for item in value.values()) if isinstance(value, dict) else True


def _questions_of_fields(row: Mapping[str, Any]) -> tuple[Question, ...]:
    if "questions" not in row:
        return ()
    questions = row["questions"]
    if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
        raise _BadStoryError("'questions' is not a list of objects")
    keys = ("question", "answer", "choices", "answer_index")
    try:
        known = [{key: question[key] for key in keys if key in question} for question in questions]
        usable = tuple(map(Question.from_dict, known))
    except RequestError:
        raise _BadStoryError("'questions' cannot be used") from None
    if not all(_is_clean(question.to_dict()) for question in usable):
        raise _BadStoryError("'questions' cannot be used")
    return usable


def _request_of_fields(row: Mapping[str, Any], text: str, ignored: Counter[str]) -> StoryRequest | None:
    """The request that a row states as one object or as separate fields; its length is found out from the story."""
    if row.get("request") is not None:
        try:
            request = StoryRequest.from_dict(row["request"])
        except RequestError:
            raise _BadStoryError("'request' cannot be used") from None
        if not _is_clean(request.to_dict()):
            raise _BadStoryError("'request' cannot be used")
        return request if request.given_fields() else None
    hero = row.get("hero")
    given: dict[str, Any] = {"age": row.get("age")}
    if isinstance(hero, dict):
        given |= {"hero_name": hero.get("name"), "hero_kind": hero.get("kind")}
    elif hero is not None:
        ignored["hero"] += 1
    given |= {key: row.get(key) for key in ("companions", "setting", "theme", "lesson", "words", "features")}
    usable: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        try:
            request = StoryRequest.from_dict({key: value})
        except RequestError:
            ignored[key] += 1
            continue
        if not _is_clean(request.to_dict()):
            ignored[key] += 1
        elif request.given_fields():
            usable[key] = value
    return StoryRequest.from_dict({**usable, "length": length_of(text)}) if usable else None


def _text_lines(text: TextIO, limit: int) -> Iterator[str | None]:
    """The lines of a text without their ends; None stands for a line of more than `limit` characters."""
    while line := text.readline(limit + 1):
        if len(line) <= limit or line.endswith("\n"):
            yield line.removesuffix("\n")
            continue
        while (rest := text.readline(limit)) and not rest.endswith("\n"):
            pass
        yield None


_BY_SEPARATOR = f"stories separated by lines of {SEPARATOR}"
_BY_BLANK_LINES = "stories separated by two or more blank lines"
_ONE_STORY = "the whole file is one story"


def _text_layout(text: TextIO, limit: int) -> str:
    """How the stories of a text file are told apart: by a separator anywhere in it, by wide gaps, or not at all."""
    begun, blank, gaps = False, 0, False
    for line in _text_lines(text, limit):
        if line is not None and not line.strip():
            blank += 1
            continue
        if line is not None and line.strip() == SEPARATOR:
            return _BY_SEPARATOR
        gaps = gaps or (begun and blank >= 2)
        begun, blank = True, 0
    return _BY_BLANK_LINES if gaps else _ONE_STORY


def _text_stories(text: TextIO, layout: str, limit: int) -> Iterator[tuple[int, str | None]]:
    """The stories of a text file, each with the line where it begins; None stands for one over `limit` characters."""
    lines: list[str] = []
    start, size, blank, fits = 0, 0, 0, True
    for number, line in enumerate(_text_lines(text, limit), start=1):
        is_empty = line is not None and not line.strip()
        blank = blank + 1 if is_empty else 0
        ends = (
            blank == 2
            if layout == _BY_BLANK_LINES
            else layout == _BY_SEPARATOR and line is not None and line.strip() == SEPARATOR
        )
        if ends:
            if start:
                yield start, "\n".join(lines) if fits else None
            lines, start, size, fits = [], 0, 0, True
            continue
        if is_empty and not start:
            continue
        start = start or number
        size += limit + 2 if line is None else len(line) + 1
        if size > limit + 1:
            fits = False
            lines.clear()
        elif line is not None and fits:
            lines.append(line)
    if start:
        yield start, "\n".join(lines) if fits else None
