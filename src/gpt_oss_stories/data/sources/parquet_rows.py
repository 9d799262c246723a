"""The stories of .parquet files, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .csv_rows import wrong_column
from .fields import KNOWN_FIELDS, BadStoryError
from .json_items import Found
from .streams import UnusableFileError
from .text import LineCount

BATCH_BYTES, BATCH_ROWS = 2**23, 512
"""At most so many rows, of so many bytes together as far as the file says, are in memory at a time."""


def plan_parquet(file: Path, place: str, column: str, piece_bytes: int) -> tuple[list[tuple[int, int | None]], bool]:
    """How a file is cut into ranges of row groups, and whether stories are spread over its rows.

    Raises:
        DataError: there is no such column.
        UnusableFileError: the file is damaged.
    """
    import pyarrow as pa

    with open(file, "rb") as binary:
        table = _open(binary)
        names = table.schema_arrow.names
        if names.count(column) != 1:
            raise wrong_column(place, column, names)
        metadata = table.metadata
        ranges: list[tuple[int, int | None]] = []
        start = size = 0
        for group in range(metadata.num_row_groups):
            if size and size + metadata.row_group(group).total_byte_size > piece_bytes:
                ranges.append((start, group))
                start, size = group, 0
            size += metadata.row_group(group).total_byte_size
        ranges.append((start, None))
        try:
            first = next(table.iter_batches(batch_size=200, columns=[column], use_threads=False), None)
        except (pa.ArrowException, OSError):
            first = None  # told when the piece is read
        from .text import looks_like_rows

        return ranges, first is not None and looks_like_rows(
            value for _, row in _rows(first, 0) if isinstance(row, dict) and isinstance(value := row[column], str)
        )


def _open(binary: BinaryIO) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(binary, buffer_size=2**20, pre_buffer=False)
    except (pa.ArrowException, OSError):
        raise UnusableFileError("a damaged parquet table") from None


def rows_of_parquet(file: Path, column: str, start: int, end: int | None, count: LineCount) -> Iterator[Found]:
    """The rows of the row groups from `start` to `end`, numbered from 1.

    Columns that are not looked at are not read. Memory is bounded by `BATCH_BYTES` and by the largest page in the file.

    Raises:
        UnusableFileError: the file is damaged; the rows before that have been given.
    """
    import pyarrow as pa

    with open(file, "rb") as binary:
        table = _open(binary)
        metadata = table.metadata
        groups = range(start, metadata.num_row_groups if end is None else min(end, metadata.num_row_groups))
        columns = [name for name in table.schema_arrow.names if name == column or name in KNOWN_FIELDS]
        for group in groups:
            facts = metadata.row_group(group)
            mean = facts.total_byte_size / max(facts.num_rows, 1)
            rows = int(max(1, min(BATCH_ROWS, BATCH_BYTES / max(mean, 1))))
            try:
                for batch in table.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                    yield from _rows(batch, count.lines)
                    count.lines += batch.num_rows
            except (pa.ArrowException, OSError):
                raise UnusableFileError("a damaged parquet table: what follows is lost") from None


def _rows(batch: Any, before: int) -> Iterator[Found]:
    """The rows of a batch; what is null is left out, but for nothing else."""
    try:
        rows = batch.to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError):
        rows = None
    for index in range(batch.num_rows):
        try:
            row = rows[index] if rows is not None else batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield before + index + 1, BadStoryError("not UTF-8")
        except (ValueError, OverflowError):
            yield before + index + 1, BadStoryError("a value that cannot be read")
        else:
            yield before + index + 1, row


def without_nulls(row: dict[str, Any], column: str) -> dict[str, Any]:
    """The fields of a row that have a value, and the column of the text in any case."""
    return {name: value for name, value in row.items() if value is not None or name == column}
