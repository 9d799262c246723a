"""The header of a GGUF file, walked with bounds: nothing that an untrusted file claims is believed unchecked.

Layout of the format (version 3, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), numbers little-endian:

    "GGUF"  version: u32  tensors: u64  keys: u64
    per key:     name: text   kind: u32   value        a text is its length, u64, and its bytes in UTF-8; a list is the
                                                       kind of its elements, u32, their number, u64, and the elements
    per tensor:  name: text   dimensions: u32   sizes: u64 each, the innermost first   type: u32   offset: u64
    zeros up to a multiple of general.alignment, then the tensors' data
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Any

from .configs import FormatError
from .layouts import Shape

# Bounds of a header that is worth reading: lists for the harmony vocabulary (some programs store more than two merges
# for each token), and more tensors than the deepest model has.
MAX_HEADER_BYTES = 128 << 20
MAX_KEYS, MAX_TENSORS, MAX_ARRAY_ELEMENTS = 4096, 32_768, 1_500_000
MAX_NAME_BYTES, MAX_STRING_BYTES, MAX_DIMENSIONS, MAX_ALIGNMENT = 256, 4 << 20, 4, 65_536

NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
"""struct codes of the kinds of values; 7 is a truth value. 8 is a text, 9 a list."""
BOOL, TEXT, ARRAY = 7, 8, 9

Value = int | float | bool | str


class GgufError(FormatError):
    """A GGUF file is damaged, of another architecture or not readable; or a model does not fit into one."""


@dataclass(frozen=True)
class ArrayPlace:
    """Where a list of the header lies."""

    kind: int
    count: int
    place: int


@dataclass(frozen=True)
class TensorPlace:
    """What the header says about a tensor."""

    name: str
    shape: Shape
    kind: int
    offset: int
    """From the beginning of the tensors' data."""


class Header:
    """The header, walked from its beginning with every length checked before it is used.

    Args:
        data: the file's bytes, at least 24 of them.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.values: dict[str, Value] = {}
        self.arrays: dict[str, ArrayPlace] = {}
        self.places: dict[str, int] = {}
        """Where each value begins."""
        self._at, self._end = 4, min(len(data), MAX_HEADER_BYTES)
        self._elements = 0
        version = self._number("<I")
        if version not in (2, 3):
            raise GgufError(f"it is of GGUF version {version}, but 2 and 3 (little-endian) are read")
        tensor_count = self._count("<Q", MAX_TENSORS, 24, "tensors")
        key_count = self._count("<Q", MAX_KEYS, 13, "keys")
        for _ in range(key_count):
            self._key_and_value()
        infos: dict[str, TensorPlace] = {}
        for _ in range(tensor_count):
            info = self._tensor_info()
            if info.name in infos:
                raise GgufError(f"the tensor {info.name} is there twice")
            infos[info.name] = info
        self.infos = infos
        alignment = self.values.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise GgufError(f"general.alignment is {alignment!r:.40}, not a power of two up to {MAX_ALIGNMENT:,}")
        self.alignment = alignment
        self.data_start = self._at + -self._at % alignment
        if infos and self.data_start > len(data):
            raise GgufError(self._cut_short())

    def _cut_short(self) -> str:
        return f"it is damaged or was cut short: its header goes beyond the {self._end:,} bytes that there are to read"

    def _take(self, count: int) -> int:
        """Step over some bytes; where they begin."""
        place = self._at
        if count > self._end - place:
            raise GgufError(self._cut_short())
        self._at = place + count
        return place

    def _number(self, code: str) -> Any:
        return struct.unpack_from(code, self.data, self._take(struct.calcsize(code)))[0]

    def _count(self, code: str, most: int, smallest: int, what: str) -> int:
        """How many things follow, each of at least `smallest` bytes."""
        count = self._number(code)
        if count > most or count * smallest > self._end - self._at:
            raise GgufError(f"it is damaged: it claims to have {count:,} {what}")
        return int(count)

    def _text(self, most: int, what: str) -> str:
        place = self._take(self._count("<Q", most, 1, f"bytes in {what}"))
        try:
            return self.data[place : self._at].decode("utf-8")
        except UnicodeDecodeError as error:
            raise GgufError(f"it is damaged: {what} is not UTF-8") from error

    def _name(self, what: str) -> str:
        name = self._text(MAX_NAME_BYTES, what)
        if not name or not name.isascii() or not name.isprintable():
            raise GgufError(f"it is damaged: {what} is {name!r:.80}, not a plain name")
        return name

    def _key_and_value(self) -> None:
        key = self._name("a key")
        if key in self.places:
            raise GgufError(f"the key {key} is there twice")
        kind = self._number("<I")
        self.places[key] = self._at
        if kind == ARRAY:
            self.arrays[key] = self._array(key)
        elif kind == TEXT:
            self.values[key] = self._text(MAX_STRING_BYTES, f"the value of {key}")
        elif kind in NUMBERS:
            value = self._number(NUMBERS[kind])
            if kind == BOOL and value > 1:
                raise GgufError(f"it is damaged: {key} is {value}, neither true nor false")
            self.values[key] = bool(value) if kind == BOOL else value
        else:
            raise GgufError(f"it is damaged: {key} has a value of the unknown kind {kind}")

    def _array(self, key: str) -> ArrayPlace:
        kind = self._number("<I")
        if kind != TEXT and kind not in NUMBERS:
            raise GgufError(f"it is damaged: {key} is a list of the unknown kind {kind}")
        size = 8 if kind == TEXT else struct.calcsize(NUMBERS[kind])
        count = self._count("<Q", MAX_ARRAY_ELEMENTS - self._elements, size, f"elements in {key}")
        self._elements += count
        array = ArrayPlace(kind, count, self._at)
        if kind != TEXT:
            self._take(count * size)
            return array
        at, end, data, length_at = self._at, self._end, self.data, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if end - at < 8:
                raise GgufError(self._cut_short())
            at += 8 + length_at(data, at)[0]
            if at > end:
                raise GgufError(self._cut_short())
        self._at = at
        return array

    def _tensor_info(self) -> TensorPlace:
        name = self._name("a tensor's name")
        dimensions = self._count("<I", MAX_DIMENSIONS, 8, f"dimensions in {name}")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        return TensorPlace(name, shape[::-1], self._number("<I"), self._number("<Q"))

    def texts(self, key: str) -> list[bytes]:
        """A list of texts, none of them checked to be UTF-8."""
        array = self.arrays.get(key)
        if array is None or array.kind != TEXT:
            raise GgufError(f"the list of texts {key} is missing")
        texts, at, length_at = [], array.place, struct.Struct("<Q").unpack_from
        for _ in range(array.count):
            begin = at + 8
            at = begin + length_at(self.data, at)[0]
            texts.append(self.data[begin:at])
        return texts

    def numbers(self, key: str) -> list[int]:
        """A list of whole numbers."""
        array = self.arrays.get(key)
        if array is None or array.kind in (TEXT, BOOL) or NUMBERS[array.kind][1] in "fd":
            raise GgufError(f"the list of whole numbers {key} is missing")
        return list(struct.unpack_from(f"<{array.count}{NUMBERS[array.kind][1]}", self.data, array.place))
