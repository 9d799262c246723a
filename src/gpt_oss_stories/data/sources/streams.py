"""Bytes of a file or of a part of it, compressed or not, with what can be told from their beginning."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

from .location import compression_of_name, type_of_file
from .report import DataError, file_types

_COMPRESSED = ((b"\x1f\x8b", "gzip data, not text"), (b"\x28\xb5\x2f\xfd", "zstd data, not text"))
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    *_COMPRESSED,
    (b"\x89PNG", "a PNG picture, not text"),
    (b"\xff\xd8\xff", "a JPEG picture, not text"),
    (b"PK\x03\x04", "a zip archive, not text"),
    (b"\xfd7zXZ", "xz data, not text"),
    (b"BZh", "bzip2 data, not text"),
    (b"PAR1", "a parquet table, not text"),
    (b"ARROW1", "an Arrow table, not text"),
    (b"%PDF", "a PDF, not text"),
    (codecs.BOM_UTF32_LE, "UTF-32, not UTF-8"),
    (codecs.BOM_UTF32_BE, "UTF-32, not UTF-8"),
    (codecs.BOM_UTF16_LE, "UTF-16, not UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16, not UTF-8"),
)

_BUFFER = 2**16


class UnusableFileError(Exception):
    """A file is not what its name says, or is damaged; the argument is the reason that is counted."""


def identify(file: Path) -> tuple[str, str | None]:
    """The type of a file and how it is compressed, by its name, checked against how its content begins.

    Returns:
        "txt", "jsonl", "json", "csv" or "parquet", or "utf16" for JSON lines in that encoding, whose lines can be
        counted; and "gzip", "zstd" or None.

    Raises:
        UnusableFileError: the content is something else.
        OSError: the file cannot be read.
    """
    kind, compression = type_of_file(file), compression_of_name(file)
    with open(file, "rb") as binary:
        start = binary.read(8)
    if kind == "parquet":
        if not start.startswith(b"PAR1"):
            raise UnusableFileError(_signature(start) or "not a parquet table, though its name says so")
        return kind, None
    if kind is not None and compression is not None:
        if not _is_compressed(start, compression):
            raise UnusableFileError(f"not {compression} data, though its name says so")
        with open_bytes(file, compression) as stream:
            start = stream.read(8)
    found = _signature(start)
    if found is not None and found.startswith("UTF-16") and kind == "jsonl":
        return "utf16", compression
    if found is not None:
        raise UnusableFileError(found)
    if kind is None:
        raise UnusableFileError(f"not a {file_types()} file")
    return kind, compression


def _signature(start: bytes) -> str | None:
    return next((kind for signature, kind in _SIGNATURES if start.startswith(signature)), None)


def _is_compressed(start: bytes, compression: str) -> bool:
    if compression == "gzip":
        return start.startswith(b"\x1f\x8b")
    # Parallel compressors begin with a frame that is to be skipped.
    return start.startswith(b"\x28\xb5\x2f\xfd") or (start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50)


def open_bytes(path: str | Path, compression: str | None = None, start: int = 0, end: int | None = None) -> BinaryIO:
    """A file's content, decompressed as it is read; of a plain file the bytes from `start` to `end`.

    Reading raises UnusableFileError where compressed data are damaged or cut off.

    Raises:
        OSError: the file cannot be opened.
    """
    file = open(path, "rb")  # noqa: SIM115 - closed with the stream that is returned
    try:
        if compression is None:
            if end is None:
                file.seek(start)
                return file
            raw: io.RawIOBase = _Range(file, start, end)
        else:
            raw = _Decompressed(file, compression)
    except BaseException:
        file.close()
        raise
    return io.BufferedReader(raw, _BUFFER)


class _Range(io.RawIOBase):
    """A stretch of a file."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self.file, self.left = file, end - start
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.file.read(min(len(buffer), self.left))
        buffer[: len(content)] = content
        self.left -= len(content)
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Decompressed(io.RawIOBase):
    """The content of a compressed file, never more than a buffer of it at a time."""

    def __init__(self, file: BinaryIO, compression: str) -> None:
        self.file, self.compression = file, compression
        self.content: _Readable
        if compression == "gzip":
            self.content = gzip.GzipFile(fileobj=file)
        else:
            # Unlike the reader of `zstandard`, that of pyarrow notices when the data end too early.
            import pyarrow

            self.content = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self.content.read(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise UnusableFileError(f"damaged {self.compression} data: what follows is lost") from None
        except OSError as error:
            if error.errno is not None:
                raise
            raise UnusableFileError(f"damaged {self.compression} data: what follows is lost") from None
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()


def text_of(binary: BinaryIO, *, at_start: bool, newline: str | None = None) -> IO[str]:
    """Bytes as UTF-8 text. Bytes that are not come out as lone surrogates, so that what they spoil can be told."""
    encoding = "utf-8-sig" if at_start else "utf-8"
    return io.TextIOWrapper(binary, encoding=encoding, errors="surrogateescape", newline=newline)


def limited_lines(binary: BinaryIO, limit: int) -> Iterator[bytes | None]:
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


def cannot_read(file: str | Path, error: OSError) -> DataError:
    """The error for a file that the system does not give."""
    return DataError(f"cannot read {file}: {error.strerror or error}")
