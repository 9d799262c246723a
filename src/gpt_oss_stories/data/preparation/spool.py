"""The stories of one task between two stages of preparation: tokens on disk, read again through memory mapping.

A task's folder holds, without headers and in the order of the stories:

    stories     one `STORY` record for each story
    lengths     uint32: tokens of each rendering, a story's renderings together
    on_request  one byte for each rendering: whether it is a conversation
    tokens      uint32 harmony ids of all renderings
    trained     one byte for each token: whether it is one to predict
    about.parquet  what else is known of each story, in the columns of `ABOUT`

It gets its name when it is complete. Memory holds what waits to be written, never a whole task.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from .telling import Telling

if TYPE_CHECKING:
    import pyarrow as pa

STORY = np.dtype(
    [("key", "<u8"), ("rest", "<u8"), ("text_bytes", "<u8"), ("told", "<u4"), ("renderings", "<u4"), ("source", "<u4")]
)
"""A story: the two halves of its digest, UTF-8 bytes of its text, how often training tells it, how many renderings of
it there are (one at least, in case it is held out), and which source of the mixture it comes from."""

_PACKED_STORY = struct.Struct("<QQQIII")
"""The same for a single one."""

ABOUT = ("place", "source", "title", "license", "attribution", "request", "questions", "words", "grade")
"""Columns of what is known of a story."""

TELLINGS = "tellings"
"""Column, beside these, of the lists of a result: how many stories of the shard, one after the other, are this one."""

_GROUP = 4096
"""Renderings that are read together."""

_ROW_GROUP = 4096
"""Stories in a row group of about.parquet."""


def about_schema(*more: str) -> pa.Schema:
    """Types of the columns of `ABOUT`, and of some more."""
    import pyarrow as pa

    kinds = {"questions": pa.int32(), "words": pa.int32(), "grade": pa.float32(), TELLINGS: pa.int32()}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in (*ABOUT, *more)])


class AboutWriter:
    """Writes what is known of stories as a parquet file, some thousand rows at a time.

    Args:
        path: the file.
        more: columns besides those of `ABOUT`.
    """

    def __init__(self, path: Path, *more: str) -> None:
        import pyarrow.parquet as pq

        self._schema = about_schema(*more)
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._waiting = self._schema.empty_table()

    def add(self, row: dict[str, Any]) -> None:
        """Append a story, given by the columns of `ABOUT`; a missing one is null."""
        for name, column in self._columns.items():
            column.append(row.get(name))
        if len(self._columns[ABOUT[0]]) >= _ROW_GROUP:
            self._take_rows()

    def add_table(self, table: pa.Table) -> None:
        """Append stories that stand in a table already."""
        import pyarrow as pa

        # Row groups are of the same size whatever the pieces are, so that the file is.
        self._waiting = pa.concat_tables([self._waiting, table])
        while len(self._waiting) >= _ROW_GROUP:
            self._writer.write_table(self._waiting.slice(0, _ROW_GROUP).combine_chunks())
            self._waiting = self._waiting.slice(_ROW_GROUP)

    def _take_rows(self) -> None:
        import pyarrow as pa

        table = pa.table(self._columns, schema=self._schema)
        self._columns = {name: [] for name in self._columns}
        self.add_table(table)

    def close(self) -> None:
        """Finish the file."""
        self._take_rows()
        if len(self._waiting):
            self._writer.write_table(self._waiting.combine_chunks())
        self._writer.close()


class SpoolWriter:
    """Fills a task's folder; a context manager. After an error nothing of it is left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._part = directory.with_name(f".{directory.name}.{os.getpid()}.part")
        self.stories = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        names = ("stories", "lengths", "on_request", "tokens", "trained")
        self._files = {name: open(self._part / name, "wb") for name in names}  # noqa: SIM115 - closed by `__exit__`
        self._about = AboutWriter(self._part / "about.parquet")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._about.close()
            for file in self._files.values():
                file.close()
            if kind is None:
                shutil.rmtree(self.directory, ignore_errors=True)
                self._part.rename(self.directory)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    def add(
        self,
        digest: bytes,
        tellings: list[Telling],
        *,
        text_bytes: int,
        told: int,
        source: int,
        about: dict[str, Any],
    ) -> None:
        """Append one story; see `STORY` and `ABOUT` for what is kept of it."""
        key, rest = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        # `struct` takes a fifth of the time that numpy takes for so little.
        self._files["stories"].write(_PACKED_STORY.pack(key, rest, text_bytes, told, len(tellings), source))
        for telling in tellings:
            self._files["lengths"].write(len(telling.tokens).to_bytes(4, "little"))
            self._files["on_request"].write(bytes([telling.on_request]))
            self._files["tokens"].write(telling.tokens.astype("<u4", copy=False).tobytes())
            self._files["trained"].write(telling.trained.tobytes())
        self._about.add(about)
        self.stories += 1


def map_file(path: Path, dtype: Any) -> NDArray[Any]:
    """A file of records as an array that reads them when they are needed; an empty file is an empty array."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)


class Spool:
    """Reads a task's folder.

    Attributes:
        stories: [stories] of type `STORY`.
        lengths: [renderings] uint32.
        on_request: [renderings] bool.
        tokens: [N] uint32 harmony ids.
        trained: [N] bool.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stories = map_file(directory / "stories", STORY)
        self.lengths: NDArray[np.uint32] = map_file(directory / "lengths", "<u4")
        self.on_request: NDArray[np.bool_] = map_file(directory / "on_request", np.bool_)
        self.tokens: NDArray[np.uint32] = map_file(directory / "tokens", "<u4")
        self.trained: NDArray[np.bool_] = map_file(directory / "trained", np.bool_)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """[renderings + 1] position of each rendering's first token."""
        return np.concatenate([np.zeros(1, dtype=np.int64), self.lengths.cumsum(dtype=np.int64)])

    @cached_property
    def first_rendering(self) -> NDArray[np.int64]:
        """[stories + 1] number of each story's first rendering."""
        return np.concatenate([np.zeros(1, dtype=np.int64), self.stories["renderings"].cumsum(dtype=np.int64)])

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """[renderings] number of the story that each is of."""
        return np.repeat(np.arange(len(self.stories)), self.stories["renderings"])

    def groups(self, renderings: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]]:
        """The chosen renderings, in rising order, some thousands at a time: their numbers, tokens and flags."""
        for begin in range(0, len(renderings), _GROUP):
            numbers = renderings[begin : begin + _GROUP]
            first, end = int(self.offsets[numbers[0]]), int(self.offsets[numbers[-1] + 1])
            chosen = np.zeros(int(numbers[-1] - numbers[0]) + 1, dtype=np.bool_)
            chosen[numbers - numbers[0]] = True
            places = np.repeat(chosen, self.lengths[numbers[0] : numbers[-1] + 1])
            yield numbers, self.tokens[first:end][places], self.trained[first:end][places]

    def about(self) -> Iterator[pa.Table]:
        """What is known of the stories, some thousands at a time and in their order."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.directory / "about.parquet") as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)
