"""The stories of a .csv file: a header that names the columns, then one row for each story."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from typing import IO, Any, BinaryIO

from .fields import REQUEST_FIELDS, BadStoryError
from .json_items import Found
from .report import DataError
from .streams import text_of
from .text import LineCount

_DELIMITERS = (",", ";", "\t", "|")

_STRUCTURED = ("questions", "request", *REQUEST_FIELDS)
"""Columns whose cells may hold JSON."""


class _RowTooLongError(Exception):
    """A row is over the limit."""


class _Lines:
    """The lines of a file for `csv.reader`, which stop a row that grows over the limit.

    Without that, one quote that is not closed would bring the rest of the file into memory.
    """

    def __init__(self, text: IO[str], limit: int) -> None:
        self.text, self.limit = text, limit
        self.lines = 0
        self.begin_row()

    def begin_row(self) -> None:
        self.first_line = self.lines + 1
        self.size = self.quotes = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.text.readline(self.limit + 2)  # with its end, which may be CR LF
        if not line:
            raise StopIteration
        self.lines += 1
        self.quotes += line.count('"')
        if self.size + len(line.rstrip("\r\n")) > self.limit:
            self.finish_line(line)
            raise _RowTooLongError
        self.size += len(line)
        return line

    def finish_line(self, line: str) -> None:
        while line and not line.endswith(("\n", "\r")):
            line = self.text.readline(self.limit + 2)
            self.quotes += line.count('"')

    def leave_row(self) -> None:
        """Go behind a row that cannot be used: to the line after which its quotes are in pairs."""
        while self.quotes % 2 and (line := self.text.readline(self.limit + 2)):
            self.lines += 1
            self.quotes += line.count('"')
            self.finish_line(line)


def header_of_csv(text: IO[str], column: str, place: str, limit: int) -> tuple[list[str], str] | None:
    """The names of the columns in the first line and what separates them; None for an empty file.

    Raises:
        DataError: the column of the text is not among them, or twice.
    """
    line = text.readline(limit)
    if not line.strip():
        return None
    try:
        headers = [[name.strip() for name in next(csv.reader([line], delimiter=one))] for one in _DELIMITERS]
    except csv.Error:
        raise DataError(f"{place}: its first line does not name columns") from None
    for delimiter, names in zip(_DELIMITERS, headers, strict=True):
        if names.count(column) == 1:
            return names, delimiter
    names = max(headers, key=len)
    raise wrong_column(place, column, names)


def wrong_column(place: str, column: str, names: Sequence[str]) -> DataError:
    """The error for a table without the column of the text, or with two of them."""
    problem = "two columns" if list(names).count(column) > 1 else "no column"
    shown = ", ".join(repr(name[:40]) for name in names[:20]) + (", ..." if len(names) > 20 else "")
    return DataError(
        f"{place} has {problem} {column!r}, only {shown or 'none'}; name the one with the stories with ?column=NAME"
    )


def rows_of_csv(binary: BinaryIO, column: str, place: str, limit: int, count: LineCount) -> Iterator[Found]:
    """The rows of a .csv file, each with the line where it begins. Cells stay text, formulas too.

    Args:
        binary: the file.
        column: the name of the column with the text.
        place: what an error calls the file.
        limit: a longer row, in characters, is not read.
        count: is set to the number of lines.

    Raises:
        DataError: there is no such column.
    """
    # The limit of the module `csv` holds for all of a process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), limit + 1))
    with text_of(binary, at_start=True, newline="") as text:
        header = header_of_csv(text, column, place, max(limit, 2**16))
        if header is None:
            return
        names, delimiter = header
        lines = _Lines(text, limit)
        count.lines = lines.lines = 1
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            lines.begin_row()
            try:
                cells = next(reader)
            except StopIteration:
                break
            except _RowTooLongError:
                row: Any = BadStoryError(f"row longer than {limit:,} characters (a quote that is not closed?)")
                lines.leave_row()
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
            except csv.Error:
                row = BadStoryError("not CSV: quotes that do not fit")
                lines.leave_row()
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
            else:
                row = _row(names, cells, column)
            count.lines = lines.lines
            if row is not None:
                yield lines.first_line, row
        count.lines = lines.lines


def _row(names: list[str], cells: list[str], column: str) -> dict[str, Any] | BadStoryError | None:
    """The fields of a row. One with cells too many or too few may hold only a part of a story."""
    if not cells:
        return None
    if len(cells) != len(names):
        return BadStoryError(f"{'more' if len(cells) > len(names) else 'fewer'} cells than columns")
    row: dict[str, Any] = {name: cell for name, cell in zip(names, cells, strict=True) if cell or name == column}
    for name in _STRUCTURED:
        if name == column or name not in row:
            continue
        cell = row[name].strip()
        if name == "age" and cell.isascii() and cell.isdigit() and len(cell) <= 3:
            row[name] = int(cell)
        elif cell.startswith(("[", "{")):
            try:
                row[name] = json.loads(cell)
            except (ValueError, RecursionError):
                continue  # stays a text, which the reader of fields refuses
    return row
