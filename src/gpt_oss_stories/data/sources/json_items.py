"""The stories of a .json file, one after the other, however large the file is.

A .json file holds one list of objects, or one object with such a list under any key, as many data sets have it (a list
counts that begins with an object), or one object that is a story itself. The items are told apart by their brackets and
quotes alone, so one that is no JSON does not spoil the others, and none but the present one is in memory.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from .fields import KNOWN_FIELDS, BadStoryError, row_of_json
from .streams import limited_lines
from .text import LineCount

Found = tuple[int, Any]
"""The number of a line, row or item, and its fields (a dict), its text (a str), or why it is no story."""

_IN_STRING = re.compile(rb'["\\]')
_BRACKET = re.compile(rb'["\[\]{}]')
_AFTER_VALUE = re.compile(rb'["\[\]{},]')
_AFTER_KEY = re.compile(rb'["\[\]{},:]')
_CHUNK = 2**16
_OBJECT_CUT = "the object has no end (is the file cut off?)"


def is_json_lines(binary: BinaryIO, limit: int) -> bool:
    """Whether a file holds JSON lines, whatever its name says: an object on the first line and another one after it."""
    lines = (line for line in limited_lines(binary, limit) if line is None or line.strip())
    first = next(lines, None)
    if first is None:
        return False
    try:
        row_of_json(first.removeprefix(codecs.BOM_UTF8))
    except BadStoryError:
        return False
    second = next(lines, None)
    return second is not None and second.lstrip().startswith(b"{")


def items_of_json(binary: BinaryIO, column: str, limit: int, count: LineCount) -> Iterator[Found]:
    """The items of a .json file, numbered from 1.

    Args:
        binary: the file.
        column: the key of the text.
        limit: a longer item, in bytes, is not read.
        count: is set to the number of items.
    """
    for number, item in enumerate(_Items(binary, column, limit).all(), start=1):
        count.lines = number
        if isinstance(item, BadStoryError):
            yield number, item
            continue
        try:
            yield number, row_of_json(item)
        except BadStoryError as bad:
            yield number, bad


class _Items:
    """A position in a JSON file."""

    def __init__(self, binary: BinaryIO, column: str, limit: int) -> None:
        self.binary, self.column, self.limit = binary, column, limit
        self.data, self.at = binary.read(_CHUNK).removeprefix(codecs.BOM_UTF8), 0

    def all(self) -> Iterator[bytes | BadStoryError]:
        match self.peek():
            case b"":
                return
            case b"[":
                self.at += 1
                yield from self.items()
            case b"{":
                yield from self.members()
            case _:
                yield BadStoryError("neither a list nor an object")
                return
        if self.peek():
            yield BadStoryError("something behind the end of the JSON text")

    def more(self) -> bool:
        """Whether there is something to read, which is then in `data` from `at` on."""
        if self.at >= len(self.data):
            self.data, self.at = self.binary.read(_CHUNK), 0
        return bool(self.data)

    def peek(self) -> bytes:
        """The next byte that is no white space; empty at the end."""
        while self.more():
            rest = self.data[self.at : self.at + 1]
            if rest not in b" \t\r\n":
                return rest
            self.at += 1
        return b""

    def value(self, stop: re.Pattern[bytes], depth: int = 0) -> bytes | None:
        """What stands before the next comma or closing bracket on this level; None if it is over the limit.

        Args:
            stop: finds quotes, brackets and what ends the value.
            depth: brackets of the value that are already behind.
        """
        parts: list[bytes] = []
        size = 0
        quoted = escaped = ended = False
        while not ended and self.more():
            data, at = self.data, self.at
            while at < len(data):
                if escaped:
                    escaped = False
                    at += 1
                    continue
                match = (_IN_STRING if quoted else _BRACKET if depth else stop).search(data, at)
                if match is None:
                    at = len(data)
                    break
                found, at = match[0], match.end()
                if quoted:
                    quoted, escaped = found != b'"', found == b"\\"
                elif found == b'"':
                    quoted = True
                elif found in b"[{":
                    depth += 1
                elif depth:
                    depth -= 1
                else:
                    at, ended = match.start(), True
                    break
            size += at - self.at
            if size <= self.limit:
                parts.append(data[self.at : at])
            else:
                parts.clear()
            self.at = at
        return b"".join(parts).rstrip() if size <= self.limit else None

    def too_long(self) -> BadStoryError:
        return BadStoryError(f"item longer than {self.limit:,} bytes")

    def items(self) -> Iterator[bytes | BadStoryError]:
        """The items of a list, whose bracket is behind."""
        while True:
            if self.peek() == b"]":
                self.at += 1
                return
            item = self.value(_AFTER_VALUE)
            after = self.peek()
            if item is None:
                yield self.too_long()
            elif item:
                yield item
            if after == b"":
                yield BadStoryError("the list has no end (is the file cut off?)")
                return
            self.at += 1
            if after == b"]":
                return
            if after == b"}" or item == b"":
                yield BadStoryError("not JSON")

    def members(self) -> Iterator[bytes | BadStoryError]:
        """The items of the lists in the object that begins here, or the object if it is a story."""
        self.at += 1
        known: list[bytes] = []
        size = 0
        is_story = any_list = False
        while self.peek() != b"}":
            name = self.value(_AFTER_KEY)
            key = _key(name) if self.peek() == b":" else None
            if key is None:
                yield BadStoryError("not JSON" if self.peek() else _OBJECT_CUT)
                self.give_up()
                return
            self.at += 1
            is_field = key == self.column or key in KNOWN_FIELDS
            if self.peek() == b"[" and not is_field and not is_story:
                self.at += 1
                if self.peek() == b"{":
                    any_list = True
                    yield from self.items()
                else:  # a list of something else, of which nothing is to be read
                    self.value(_AFTER_VALUE, depth=1)
            else:
                value = self.value(_AFTER_VALUE)
                if is_field:
                    is_story = is_story or key == self.column
                    size += self.limit + 1 if value is None else len(value) + len(name or b"") + 2
                    known.append(b"%s:%s" % (name, value or b""))
                    if size > self.limit:
                        known.clear()
            after = self.peek()
            if after == b",":
                self.at += 1
            elif after != b"}":
                yield BadStoryError("not JSON" if after else _OBJECT_CUT)
                self.give_up()
                return
        self.at += 1
        if is_story:
            yield b"{%s}" % b",".join(known) if size <= self.limit else self.too_long()
        elif not any_list:
            yield BadStoryError(f"neither a story with a key {self.column!r} nor a list of stories")

    def give_up(self) -> None:
        """Leave the rest unread."""
        self.binary = io.BytesIO()
        self.data, self.at = b"", 0


def _key(content: bytes | None) -> str | None:
    try:
        key = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    return key if isinstance(key, str) else None
