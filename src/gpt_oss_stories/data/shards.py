"""Token shards: the prepared stories of one split as one memory-mapped file. This module both writes and reads them.

Layout of a `.shard` file, format 1, little-endian:

    header   128 bytes: magic, format version, bytes per token, vocabulary size, tokens, trained tokens, stories, UTF-8
             bytes of the stories, bytes that the trained tokens spell, the vocabulary's fingerprint, CRC-32 of all this
    offsets  (stories + 1) x int64: story i is tokens[offsets[i]:offsets[i + 1]]
    tokens   uint16 where the vocabulary has at most 65,536 entries, else uint32; filled up to a multiple of 8 bytes
    trained  one bit per token, first token in the highest bit: whether the model should learn to predict it

`manifest.json` beside the shards describes a whole prepared data set: format version, vocabulary, counts, the files'
sha256, what was dropped and why, and its own checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import StoryError
from ..files import FileWriteError, sha256_of_file

SHARD_FORMAT = 1
MANIFEST_FORMAT = 1
MANIFEST_NAME = "manifest.json"

_MAGIC = b"STORYTOK"
_HEADER = struct.Struct("<8sIIQQQQQQ32s")  # in the order of the text above, without the checksum
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = 128
_COPY_BYTES = 2**22

TokenArray = NDArray[np.uint16] | NDArray[np.uint32]


class ShardError(StoryError):
    """A prepared data set cannot be used: damaged, cut short, of another version or another vocabulary."""


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds every id of a vocabulary: uint16 up to 65,536 entries, else uint32."""
    return np.dtype("<u2") if vocabulary_size <= 2**16 else np.dtype("<u4")


@dataclass(frozen=True, kw_only=True)
class ShardCounts:
    """How much a shard holds."""

    stories: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    """Tokens that the model should learn to predict."""
    text_bytes: int = 0
    """UTF-8 bytes of the stories alone, without requests and questions."""
    trained_bytes: int = 0
    """UTF-8 bytes that the trained tokens spell: with a mean loss in nats per trained token, bits per byte are
    loss / ln(2) x trained_tokens / trained_bytes."""

    def to_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class ShardWriter:
    """Writes one shard piece by piece; memory holds no more than the piece that is added.

    The file gets its name when `close` ends well; `abandon` leaves nothing behind.

    Raises:
        FileWriteError: the operating system refused (no space, no permission).
    """

    def __init__(self, path: str | Path, *, vocabulary_size: int, fingerprint: str) -> None:
        self.path = Path(path)
        self.vocabulary_size = vocabulary_size
        self.dtype = token_dtype(vocabulary_size)
        self._fingerprint = bytes.fromhex(fingerprint)
        self._counts = ShardCounts()
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._parts = [self._part.with_name(f"{self._part.name}.{kind}") for kind in ("offsets", "tokens", "trained")]
        self._waiting: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)  # flags that do not fill a byte yet
        with _write_errors(self.path):
            self._offsets, self._tokens, self._trained = (open(part, "wb") for part in self._parts)  # noqa: SIM115
            self._offsets.write(bytes(8))

    def add(
        self,
        tokens: NDArray[Any],
        trained: NDArray[np.bool_],
        lengths: NDArray[np.int64],
        *,
        text_bytes: int,
        trained_bytes: int,
    ) -> None:
        """Append stories.

        Args:
            tokens: [N] ids of the stories, one after the other.
            trained: [N] whether each token is to be learnt.
            lengths: [stories] tokens of each story, each at least 1; they add up to N.
            text_bytes, trained_bytes: see `ShardCounts`.
        """
        if len(tokens) != len(trained) or len(tokens) != lengths.sum() or (lengths < 1).any():
            raise ValueError(
                f"{len(tokens)} tokens, {len(trained)} flags and lengths adding up to {lengths.sum()} disagree"
            )
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocabulary_size:
            raise ValueError(
                f"ids from {tokens.min()} to {tokens.max()} do not fit a vocabulary of {self.vocabulary_size}"
            )
        flags = np.concatenate([self._waiting, trained])
        whole = len(flags) // 8 * 8
        self._waiting = flags[whole:]
        counts = self._counts
        offsets = counts.tokens + lengths.cumsum(dtype=np.int64)
        with _write_errors(self.path):
            self._offsets.write(offsets.astype("<i8").tobytes())
            self._tokens.write(tokens.astype(self.dtype).tobytes())
            self._trained.write(np.packbits(flags[:whole]).tobytes())
        self._counts = ShardCounts(
            stories=counts.stories + len(lengths),
            tokens=counts.tokens + len(tokens),
            trained_tokens=counts.trained_tokens + int(trained.sum()),
            text_bytes=counts.text_bytes + text_bytes,
            trained_bytes=counts.trained_bytes + trained_bytes,
        )

    def close(self) -> ShardCounts:
        """Put the parts together under the shard's name; nothing can be added afterwards."""
        with _write_errors(self.path):
            self._trained.write(np.packbits(self._waiting).tobytes())
            self._tokens.write(bytes(-self._tokens.tell() % 8))
            for part_file in (self._offsets, self._tokens, self._trained):
                part_file.close()
            with open(self._part, "wb") as file:
                file.write(_pack_header(self._counts, self.dtype.itemsize, self.vocabulary_size, self._fingerprint))
                for part in self._parts:
                    with open(part, "rb") as content:
                        shutil.copyfileobj(content, file, _COPY_BYTES)
                file.flush()
                os.fsync(file.fileno())
            for part in self._parts:
                part.unlink()
            os.replace(self._part, self.path)
        return self._counts

    def abandon(self) -> None:
        """Remove what was written so far."""
        for part_file in (self._offsets, self._tokens, self._trained):
            part_file.close()
        for part in (*self._parts, self._part):
            part.unlink(missing_ok=True)


def _pack_header(counts: ShardCounts, itemsize: int, vocabulary_size: int, fingerprint: bytes) -> bytes:
    header = _HEADER.pack(
        _MAGIC,
        SHARD_FORMAT,
        itemsize,
        vocabulary_size,
        counts.tokens,
        counts.trained_tokens,
        counts.stories,
        counts.text_bytes,
        counts.trained_bytes,
        fingerprint,
    ).ljust(_HEADER_BYTES - _CHECKSUM.size, b"\0")
    return header + _CHECKSUM.pack(zlib.crc32(header))


class TokenShard:
    """The stories of one split, read through memory mapping. It may hold no story at all.

    Opening checks magic, format version, header checksum, token type, the file's exact size, that the offsets rise from
    0 to the number of tokens, and the vocabulary's fingerprint; it does not read the tokens. `verify` does.

    Attributes:
        path, counts, vocabulary_size, fingerprint (of the vocabulary, hexadecimal).
        offsets: [stories + 1] int64.
        tokens: [tokens] uint16 or uint32, memory-mapped, read-only.

    Raises:
        ShardError: the file is missing or is not a sound shard of this vocabulary.
    """

    def __init__(self, path: str | Path, *, fingerprint: str | None = None) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._read_header(file, size)
            content = np.memmap(self.path, dtype=np.uint8, mode="r").view(np.ndarray)
        except OSError as error:
            raise ShardError(f"cannot read the token shard {self.path}: {error.strerror or error}") from error
        if fingerprint is not None and self.fingerprint != fingerprint:
            raise ShardError(
                f"{self.path} holds ids of the vocabulary {self.fingerprint[:12]}, expected {fingerprint[:12]}: "
                "stories would come out as noise. Prepare the data again (--process-data)"
            )
        counts, dtype = self.counts, self._dtype
        tokens_at = _HEADER_BYTES + 8 * (counts.stories + 1)
        self.offsets: NDArray[np.int64] = content[_HEADER_BYTES:tokens_at].view("<i8")
        self.tokens: TokenArray = content[tokens_at : tokens_at + counts.tokens * dtype.itemsize].view(dtype)
        self._trained_bits: NDArray[np.uint8] = content[len(content) - -(-counts.tokens // 8) :]
        self.check_offsets()

    def _read_header(self, file: BinaryIO, size: int) -> None:
        raw = file.read(_HEADER_BYTES)
        if len(raw) < _HEADER_BYTES or not raw.startswith(_MAGIC):
            raise ShardError(
                f"{self.path} is not a token shard ({size:,} bytes). Prepare the data again (--process-data)"
            )
        (
            _,
            version,
            itemsize,
            vocabulary_size,
            tokens,
            trained_tokens,
            stories,
            text_bytes,
            trained_bytes,
            fingerprint,
        ) = _HEADER.unpack_from(raw)
        if version != SHARD_FORMAT:
            raise ShardError(
                f"{self.path} has shard format {version}, this program reads {SHARD_FORMAT}. "
                "Prepare the data again (--process-data)"
            )
        if _CHECKSUM.unpack_from(raw, _HEADER_BYTES - _CHECKSUM.size)[0] != zlib.crc32(raw[: -_CHECKSUM.size]):
            raise self._damaged("the header's checksum is wrong")
        self._dtype = token_dtype(vocabulary_size)
        if itemsize != self._dtype.itemsize:
            raise self._damaged(f"{itemsize} bytes per token do not go with {vocabulary_size:,} ids")
        expected = _HEADER_BYTES + 8 * (stories + 1) + -(-tokens * itemsize // 8) * 8 + -(-tokens // 8)
        if size != expected:
            raise self._damaged(f"it has {size:,} bytes instead of {expected:,}")
        self.vocabulary_size: int = vocabulary_size
        self.fingerprint: str = fingerprint.hex()
        self.counts = ShardCounts(
            stories=stories,
            tokens=tokens,
            trained_tokens=trained_tokens,
            text_bytes=text_bytes,
            trained_bytes=trained_bytes,
        )

    def check_offsets(self) -> None:
        """See again that the offsets rise from 0 to the number of tokens: a disk may change them while they are mapped.

        Raises:
            ShardError: they do not.
        """
        if self.offsets[0] != 0 or self.offsets[-1] != self.counts.tokens or not self._offsets_rise():
            raise self._damaged("the story offsets do not rise from 0 to the number of tokens")

    def check_tokens(self, tokens: TokenArray | NDArray[np.int64]) -> None:
        """See that ids that were read from the shard are ids of its vocabulary.

        Raises:
            ShardError: one is not.
        """
        highest = int(tokens.max(initial=0))
        if highest >= self.vocabulary_size:
            raise self._damaged(f"it holds the id {highest:,}, but the vocabulary has {self.vocabulary_size:,} ids")

    def _offsets_rise(self) -> bool:
        """Whether each story has a token or more; looked at in pieces, so that memory does not grow with the shard."""
        pieces = (self.offsets[start : start + _COPY_BYTES // 8 + 1] for start in range(0, len(self), _COPY_BYTES // 8))
        return not any((np.diff(piece) < 1).any() for piece in pieces)

    def _damaged(self, what: str) -> ShardError:
        return ShardError(f"the token shard {self.path} is damaged: {what}. Prepare the data again (--process-data)")

    def __len__(self) -> int:
        """Number of stories."""
        return self.counts.stories

    def lengths(self) -> NDArray[np.int64]:
        """[stories] int64: tokens of each story."""
        return np.diff(self.offsets)

    def story(self, index: int) -> tuple[TokenArray, NDArray[np.bool_]]:
        """Tokens and trained flags of one story, each [tokens of the story]."""
        if not 0 <= index < len(self):
            raise IndexError(f"story {index} of {len(self)}")
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        return self.tokens[start:end], self.trained(start, end)

    def trained(self, start: int, end: int) -> NDArray[np.bool_]:
        """Whether each of the tokens start .. end - 1 is to be learnt, [end - start]."""
        first = start // 8
        bits = np.unpackbits(self._trained_bits[first : -(-end // 8)])
        return bits[start - 8 * first : end - 8 * first].view(np.bool_)

    def verify(self, sha256: str | None = None) -> None:
        """Read everything: the file's hash, and that every id is in the vocabulary.

        Raises:
            ShardError: the content is not what was written.
        """
        if sha256 is not None and sha256_of_file(self.path) != sha256:
            raise self._damaged(f"its sha256 does not begin with {sha256[:12]}, as its manifest says")
        for start in range(0, self.counts.tokens, _COPY_BYTES):
            self.check_tokens(self.tokens[start : start + _COPY_BYTES])


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode("ascii")).hexdigest()


def write_manifest(directory: str | Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json` with its format version and checksum added.

    Raises:
        FileWriteError: the operating system refused.
    """
    path = Path(directory, MANIFEST_NAME)
    full: dict[str, Any] = {"format": MANIFEST_FORMAT, **manifest}
    full["checksum"] = _manifest_checksum(full)
    with _write_errors(path), open(path, "w", encoding="utf-8") as file:
        json.dump(full, file, indent=1, ensure_ascii=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a prepared data set, its version and checksum checked.

    Raises:
        ShardError: there is none, or it cannot be trusted.
    """
    path = Path(directory, MANIFEST_NAME)
    again = "Prepare the data again (--process-data)"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ShardError(f"no prepared data in {directory}: {error.strerror or error}. {again}") from error
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is damaged: it is not JSON. {again}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ShardError(f"{path} has manifest format {found}, this program reads {MANIFEST_FORMAT}. {again}")
    if manifest.get("checksum") != _manifest_checksum(manifest):
        raise ShardError(f"{path} is damaged: its checksum is wrong. {again}")
    return manifest


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileWriteError(
            f"cannot write {path}: {error.strerror or error}. Free some space or choose another folder (--data-dir)"
        ) from error
