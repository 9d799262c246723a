"""Strings that come again and again, numbered, and found by compiled loops in the characters of many texts at once.

Texts are given as one array of characters (UTF-32) and the strings in them by where they begin and end. What is known
of a string is kept by whoever uses the table, under the string's number.

Axis letters:  C characters of all texts   P places of strings   E strings that are known   S slots
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

MOST_STRINGS = 1 << 17
"""Strings that a table remembers; with more it forgets all. Also the characters of texts that are looked at together,
which can have no more strings."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code of a function, made when it is first called."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder can be written, as in some containers: compiled anew by each process
        return njit(nogil=True, error_model="numpy")(function)


def part_of_others(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that compiled ones take in: calls with arrays cost as much as what a short one does."""
    return njit(inline="always", error_model="numpy")(function)


@compiled
def _slot(character_C: Any, begin: Any, end: Any, slot_S: Any, first_E: Any, length_E: Any, known_C: Any) -> Any:
    """Where a string is in the table of slots, or the free slot where it would be."""
    hash = np.uint64(end - begin)
    for c in range(begin, end):
        hash = (hash ^ np.uint64(character_C[c])) * _FACTOR
        hash ^= hash >> np.uint64(29)
    slot = np.int64(hash & np.uint64(len(slot_S) - 1))
    while slot_S[slot] >= 0:
        entry = slot_S[slot]
        if length_E[entry] == end - begin:
            same = True
            for c in range(end - begin):
                if known_C[first_E[entry] + c] != character_C[begin + c]:
                    same = False
                    break
            if same:
                return slot
        slot = (slot + 1) & (len(slot_S) - 1)
    return slot


@compiled
def _look_up(
    character_C: Any, begin_P: Any, end_P: Any, slot_S: Any, first_E: Any, length_E: Any, known_C: Any, entry_P: Any
) -> Any:
    """Write the number of each string, -1 for one that is not known; return how many are not."""
    missing = 0
    for p in range(len(begin_P)):
        entry = slot_S[_slot(character_C, begin_P[p], end_P[p], slot_S, first_E, length_E, known_C)]
        entry_P[p] = entry
        missing += entry < 0
    return missing


class StringTable:
    """Numbers strings in the order in which they are first seen.

    Args:
        remember: is called with each new string, in this order.
        forget: is called when the table begins anew, from number 0.
    """

    def __init__(self, remember: Callable[[str], None], forget: Callable[[], None]) -> None:
        self._remember = remember
        self._forget = forget
        self._clear()

    def _clear(self) -> None:
        self._entries = self._characters = 0
        self._slots = np.full(2 * MOST_STRINGS, -1, dtype=np.int32)
        self._first = np.zeros(MOST_STRINGS, dtype=np.int64)
        self._length = np.zeros(MOST_STRINGS, dtype=np.int64)
        self._known = np.zeros(1 << 16, dtype=np.uint32)
        self._forget()

    def numbers(
        self, character_C: NDArray[np.uint32], begin_P: NDArray[np.int64], end_P: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """[P] the number of each string; new ones are remembered.

        Args:
            character_C: at most `MOST_STRINGS` characters.
            begin_P, end_P: where each string begins and ends among them.
        """
        entry_P = np.empty(len(begin_P), dtype=np.int64)

        def look_up() -> int:
            table = self._slots, self._first, self._length, self._known
            return int(_look_up(character_C, begin_P, end_P, *table, entry_P))

        if look_up():
            new = np.flatnonzero(entry_P < 0)
            if self._entries + len(new) > MOST_STRINGS:
                self._clear()
                new = np.arange(len(begin_P))
            for place in new.tolist():
                self._add(character_C, int(begin_P[place]), int(end_P[place]))
            look_up()
        return entry_P

    def _add(self, character_C: NDArray[np.uint32], begin: int, end: int) -> None:
        slot = _slot(character_C, begin, end, self._slots, self._first, self._length, self._known)
        if self._slots[slot] >= 0:
            return  # it stands at an earlier place too
        string = character_C[begin:end]
        while self._characters + len(string) > len(self._known):
            self._known = np.concatenate([self._known, np.zeros_like(self._known)])
        self._slots[slot] = self._entries
        self._first[self._entries], self._length[self._entries] = self._characters, len(string)
        self._known[self._characters : self._characters + len(string)] = string
        self._entries += 1
        self._characters += len(string)
        self._remember(string.tobytes().decode("utf-32-le", "surrogatepass"))


def in_groups(texts: Sequence[str]) -> Iterator[tuple[list[str], bool]]:
    """Texts in their order, those together that have at most `MOST_STRINGS` characters; True for one that alone has
    more."""
    group: list[str] = []
    characters = 0
    for text in texts:
        if characters + len(text) > MOST_STRINGS:
            if group:
                yield group, False
            group, characters = [], 0
        if len(text) > MOST_STRINGS:
            yield [text], True
        else:
            group.append(text)
            characters += len(text)
    if group:
        yield group, False


def characters_of(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The characters of texts, one after the other [C], and where each text ends [T]."""
    encoded = [text.encode("utf-32-le", "surrogatepass") for text in texts]
    character_C = np.frombuffer(b"".join(encoded), dtype="<u4")
    return character_C, np.asarray([len(one) // 4 for one in encoded], dtype=np.int64).cumsum()
