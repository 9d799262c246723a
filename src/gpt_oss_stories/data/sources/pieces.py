"""Sources cut into pieces that workers read apart from each other, with the same result as if read in one go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from .csv_rows import header_of_csv
from .hub import is_hub_folder, plan_hub
from .json_items import is_json_lines
from .location import Source, find_files, place_of
from .parquet_rows import plan_parquet
from .report import DataError, Place, ReadReport
from .streams import UnusableFileError, cannot_read, identify, open_bytes, text_of
from .text import find_layout, next_border

ROWS = "rows"
"""Layout of tables in which a story is spread over rows, as in TinyStories-Instruct."""

_LINE_LIMIT = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one task reads: a file or a part of it. It can be pickled and written as JSON."""

    source: int
    """Number of the source in the mixture."""
    path: str
    """The file; for a data set of the Hub its name, for a folder laid out like one the folder."""
    place: str
    """What messages call the file."""
    kind: str
    """ "txt", "jsonl", "json", "csv", "parquet", "utf16" or "hub"."""
    start: int = 0
    end: int | None = None
    """Bytes of a plain .txt or .jsonl file, row groups of a .parquet file, files of a data set of the Hub; None: to
    the end."""
    layout: str | None = None
    """How stories are told apart: of .txt files one of `LAYOUTS`; `ROWS` where they are spread over rows of a table."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """`column` of the text; `compression`, "gzip" or "zstd"; for the Hub `split`, `config` and `revision`."""

    def to_dict(self) -> dict[str, Any]:
        """In plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(**values)


def plan_pieces(index: int, source: Source, *, piece_bytes: int = 32 * 2**20) -> tuple[list[Piece], ReadReport]:
    """What is to be read of a source, in order, and a report on files that are not to be read.

    Files are not read but for their beginnings, and to the next border between two stories where they are cut.

    Args:
        index: the number of the source in the mixture.
        source: what is to be read.
        piece_bytes: larger plain .txt and .jsonl files are cut, and .parquet files between row groups.

    Raises:
        DataError: nothing is there, something cannot be read, a table has no column of the given name, or the Hub
            cannot be reached.
    """
    if source.is_hub or is_hub_folder(Path(source.location)):
        parts = plan_hub(source)
        pieces = [
            Piece(
                source=index,
                path=source.location,
                place=part.place,
                kind="hub",
                start=number,
                end=number + 1,
                layout=ROWS if part.rows else None,
                options={
                    "column": source.column,
                    "split": source.split,
                    "config": source.config,
                    "revision": part.revision,
                },
            )
            for number, part in enumerate(parts)
        ]
        return pieces, ReadReport(path=Path(source.location))
    base, files, others = find_files(source)
    report = ReadReport(path=Path(source.location), ignored_files=others)
    pieces = []
    for file in files:
        place = place_of(file, base)
        try:
            pieces += _pieces_of_file(index, source, file, place, max(piece_bytes, 1))
        except UnusableFileError as unusable:
            report.files += 1
            report.skip(str(unusable), Place(index, place))
        except OSError as error:
            raise cannot_read(file, error) from error
    return pieces, report


def _pieces_of_file(index: int, source: Source, file: Path, place: str, piece_bytes: int) -> list[Piece]:
    kind, compression = identify(file)
    layout = None
    ranges: list[tuple[int, int | None]] = [(0, None)]
    if kind == "parquet":
        ranges, rows = plan_parquet(file, place, source.column, piece_bytes)
        layout = ROWS if rows else None
    elif kind == "csv":
        with open_bytes(file, compression) as binary, text_of(binary, at_start=True, newline="") as text:
            header_of_csv(text, source.column, place, 2**16)
    elif kind == "json":
        kind = "jsonl" if _holds_json_lines(file, compression) else "json"
    elif kind == "txt":
        layout = source.layout or _layout_of_file(file, compression)
    if compression is None and (kind == "jsonl" or (kind == "txt" and layout != "file")):
        ranges = _cut(file, layout or "lines", piece_bytes)
    options: dict[str, Any] = {"column": source.column}
    if compression is not None:
        options["compression"] = compression
    return [
        Piece(
            source=index,
            path=str(file),
            place=place,
            kind=kind,
            start=start,
            end=end,
            layout=layout,
            options=options,
        )
        for start, end in ranges
    ]


def _holds_json_lines(file: Path, compression: str | None) -> bool:
    try:
        with open_bytes(file, compression) as binary:
            return is_json_lines(binary, _LINE_LIMIT)
    except UnusableFileError:
        return False  # told when the piece is read


def _layout_of_file(file: Path, compression: str | None) -> str:
    try:
        with open_bytes(file, compression) as binary, text_of(binary, at_start=True) as text:
            return find_layout(text)
    except UnusableFileError:
        return "separator"  # the file is damaged near its beginning, which is told when the piece is read


def _cut(file: Path, layout: str, piece_bytes: int) -> list[tuple[int, int | None]]:
    """Ranges of bytes that together are the file, each from the beginning of a story on."""
    ranges: list[tuple[int, int | None]] = []
    size = os.path.getsize(file)
    start = 0
    if size > piece_bytes:
        with open(file, "rb") as binary:
            while size - start > piece_bytes:
                border = next_border(binary, start + piece_bytes, layout)
                if border is None or border >= size:
                    break
                ranges.append((start, border))
                start = border
    return [*ranges, (start, None)]


__all__ = ["ROWS", "DataError", "Piece", "plan_pieces"]
