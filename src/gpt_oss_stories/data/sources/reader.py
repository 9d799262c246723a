"""Reading pieces: good stories are taken whole, bad ones are skipped and counted."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..cleaning import tidy_text
from ..records import StoryRecord
from .csv_rows import rows_of_csv
from .fields import BadStoryError, record_of_row, record_of_text, row_of_json
from .hub import DataSet, count_of_files, rows_of_hub
from .json_items import Found, items_of_json
from .location import LAYOUTS, Source, parse_source, source_files
from .parquet_rows import rows_of_parquet, without_nulls
from .pieces import ROWS, Piece, plan_pieces
from .report import DataError, Place, ReadReport
from .streams import UnusableFileError, cannot_read, limited_lines, open_bytes, text_of
from .text import LineCount, stories_of_rows, stories_of_text

MAX_LINE_BYTES = 16 * 2**20
"""Longer lines, rows, items and stories are skipped and counted."""


def read_piece(piece: Piece, report: ReadReport, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[StoryRecord]:
    """The stories of a piece, in their order; each says where it stands, counted from the piece's beginning.

    Texts are as their source has them but for LF line ends and without outer blanks; see `fields`.

    Args:
        piece: what is to be read.
        report: counts what is read and what is skipped; complete when the last story has been taken.
        max_line_bytes: a longer line (.jsonl), item (.json), row (.csv) or story (.txt) is skipped and counted.

    Raises:
        DataError: the file or the data set cannot be read.
    """
    key = (piece.source, piece.place)
    before = report.lines_of.get(key, 0)
    count = LineCount()
    column = piece.options.get("column", "text")
    source = piece.path if piece.kind == "hub" else piece.place
    if piece.start == 0 or piece.kind == "hub":
        report.files += 1
        if piece.kind == "txt" and piece.layout is not None:
            report.layouts[LAYOUTS[piece.layout]] += 1
    report.lines_of[key] = before
    try:
        for number, found in _found(piece, column, max_line_bytes, count):
            place = f"{piece.place}:{number}"
            try:
                if isinstance(found, BadStoryError):
                    raise found
                if isinstance(found, str):
                    record = record_of_text(found, source=source, place=place, ignored=report.ignored_fields)
                else:
                    record = record_of_row(
                        found, column=column, source=source, place=place, ignored=report.ignored_fields
                    )
            except BadStoryError as bad:
                report.skip(str(bad), Place(piece.source, piece.place, number))
            else:
                report.stories += 1
                report.lines_of[key] = before + count.lines
                yield record
    except UnusableFileError as unusable:
        report.skip(str(unusable), Place(piece.source, piece.place, count.lines + 1))
    except OSError as error:
        raise cannot_read(piece.path, error) from error
    finally:
        report.lines_of[key] = before + count.lines


def _found(piece: Piece, column: str, limit: int, count: LineCount) -> Iterator[Found]:
    """What a piece holds, each with its number."""
    if piece.kind in ("parquet", "hub"):
        yield from _rows_of_table(piece, column, limit, count)
        return
    compression = piece.options.get("compression")
    with open_bytes(piece.path, compression, piece.start, piece.end) as binary:
        if piece.kind == "jsonl":
            for number, line in enumerate(limited_lines(binary, limit), start=1):
                count.lines = number
                if line is None:
                    yield number, BadStoryError(f"line longer than {limit:,} bytes")
                    continue
                if number == 1 and piece.start == 0:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line.strip():
                    continue
                try:
                    yield number, row_of_json(line)
                except BadStoryError as bad:
                    yield number, bad
        elif piece.kind == "utf16":
            for number, line in enumerate(limited_lines(binary, limit), start=1):
                count.lines = number
                if line is None or line.strip(b"\0 \t\r\n"):
                    yield number, BadStoryError("UTF-16, not UTF-8: save the file as UTF-8")
        elif piece.kind == "txt":
            with text_of(binary, at_start=piece.start == 0) as text:
                for number, story in stories_of_text(text, piece.layout or "separator", limit, count):
                    yield number, _too_long(limit) if story is None else story
        elif piece.kind == "json":
            yield from items_of_json(binary, column, limit, count)
        elif piece.kind == "csv":
            yield from rows_of_csv(binary, column, piece.place, limit, count)
        else:
            raise ValueError(f"piece of unknown kind {piece.kind!r}")


def _too_long(limit: int) -> BadStoryError:
    return BadStoryError(f"story longer than {limit:,} characters")


def _rows_of_table(piece: Piece, column: str, limit: int, count: LineCount) -> Iterator[Found]:
    own = _table(piece, piece.start, piece.end, count)
    if piece.layout == ROWS:
        more: Iterator[Found] = iter(())
        if piece.end is not None:
            more = _table(piece, piece.end, None, LineCount())
        # The rows are counted where they are gathered.
        stories = stories_of_rows(
            _texts(own, column), _texts(more, column), at_start=piece.start == 0, limit=limit, count=LineCount()
        )
        for number, story in stories:
            yield number, _too_long(limit) if story is None else story
        return
    for number, found in own:
        if not isinstance(found, Mapping):
            yield number, found
        elif isinstance(text := found.get(column), str) and len(text) > limit:
            yield number, _too_long(limit)
        else:
            yield number, without_nulls(dict(found), column)


def _table(piece: Piece, start: int, end: int | None, count: LineCount) -> Iterator[Found]:
    """The rows of a stretch of row groups, or of files of a data set."""
    if piece.kind == "parquet":
        yield from rows_of_parquet(Path(piece.path), piece.options["column"], start, end, count)
        return
    options = piece.options
    data_set = DataSet(piece.path, options.get("config"), options["split"], options.get("revision"))
    for index in range(start, count_of_files(data_set) if end is None else end):
        yield from rows_of_hub(data_set, index, count)


def _texts(found: Iterator[Found], column: str) -> Iterator[str | None]:
    """The texts of rows; one that cannot be read spoils the story that it is a part of."""
    for _, row in found:
        text: Any = row.get(column) if isinstance(row, Mapping) else "\udc80"
        yield text if isinstance(text, str) else None


class StoryReader:
    """Reads the stories of a file, a folder or any other source, one after the other, with their texts tidied.

    Iterating starts at the beginning each time and fills `report` anew.

    Args:
        path: what `parse_source` takes, or a path.
        max_line_bytes: a longer line, row, item or story is skipped and counted.

    Raises:
        DataError: there is nothing at `path`, a file cannot be opened, or a folder holds no story files.
    """

    def __init__(self, path: str | Path | Source, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        if isinstance(path, Source):
            self.source = path
        else:
            self.source = parse_source(path) if isinstance(path, str) else Source(location=str(path))
        self.path = Path(self.source.location)
        self.max_line_bytes = max_line_bytes
        self.report = ReadReport(path=self.path)
        self.files = source_files(self.source)

    def __iter__(self) -> Iterator[StoryRecord]:
        pieces, self.report = plan_pieces(0, self.source, piece_bytes=2**63)
        for piece in pieces:
            of_piece = ReadReport()
            try:
                for record in read_piece(piece, of_piece, max_line_bytes=self.max_line_bytes):
                    yield dataclasses.replace(record, text=tidy_text(record.text))
            finally:
                self.report.add(of_piece)

    def require_stories(self) -> None:
        """Check, after reading, that there was anything to read.

        Raises:
            DataError: no story was found; the message says what was skipped instead.
        """
        if not self.report.stories:
            raise DataError(self.report.why_none(self.path))


def read_stories(path: str | Path | Source, *, max_line_bytes: int = MAX_LINE_BYTES) -> StoryReader:
    """A reader of the stories at `path`; iterate over it, then look at its `report`. See `StoryReader`.

    Raises:
        DataError: there is nothing at `path`, or a folder holds no story files.
    """
    return StoryReader(path, max_line_bytes=max_line_bytes)
