"""Many texts to ids at once, faster than one by one; the ids are the same.

`Vocabulary.encode` spends its time on the expression that cuts a text into pieces (`PIECE_PATTERN`) and on making
lists. Here compiled loops cut the text, by the same rules written out as a machine over classes of characters, and
look each piece up among those seen before: stories consist of a few thousand different pieces. A piece that is new is
spelled by the vocabulary itself and remembered. A text with anything unusual (a character that this Python's Unicode
does not know, an absurdly long piece) is given to the vocabulary whole.

numba compiles the loops when they are first called, which takes some seconds once per installation.

Axis letters:  C characters of all texts   T texts   P pieces   N ids
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .string_table import MOST_STRINGS, StringTable, characters_of, compiled, in_groups, part_of_others
from .vocabulary import Vocabulary

_CAPITAL, _SMALL, _BEFORE, _NUMBER, _SPACE, _LINE_END, _SIGN, _UNKNOWN = (1 << bit for bit in range(8))
"""What the rules may take a character for: a capital, a small letter (one without case is both, and so is a mark), what
may stand before a word, a digit, white space but for line ends, CR or LF, a sign of punctuation or the like."""

_SPACES = (0x09, 0x0B, 0x0C, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
_OF_CATEGORY = {
    "Lu": _CAPITAL, "Lt": _CAPITAL, "Ll": _SMALL, "Lm": _CAPITAL | _SMALL, "Lo": _CAPITAL | _SMALL,
    "Cn": _UNKNOWN, "Cs": _UNKNOWN,
}  # fmt: skip
_OF_FIRST_LETTER = {"M": _CAPITAL | _SMALL | _BEFORE | _SIGN, "N": _NUMBER}

_LAST_CHARACTER = 0x323AF
"""Characters above are left to the vocabulary: variation selectors, and planes for private use."""

LONGEST_PIECE = 256
"""Characters; a text with a longer piece is given to the vocabulary."""


@cache
def _classes() -> NDArray[np.uint8]:
    """[_LAST_CHARACTER + 2] what each character may be taken for; the last entry is for all that are above."""
    classes = np.full(_LAST_CHARACTER + 2, _UNKNOWN, dtype=np.uint8)
    for code in range(_LAST_CHARACTER + 1):
        category = unicodedata.category(chr(code))
        by_letter = _OF_FIRST_LETTER.get(category[0], _BEFORE | _SIGN)
        classes[code] = _OF_CATEGORY.get(category, by_letter)
    classes[list(_SPACES)] = _SPACE | _BEFORE
    classes[[0x0A, 0x0D]] = _LINE_END
    return classes


@part_of_others
def _word_end(class_C: Any, begin: Any, end: Any) -> Any:
    """Where a word ends that begins at `begin`: capitals*, then small letters+; `begin` if none does.

    Letters without case and marks count as both, so the capitals may have to give some of them back.
    """
    at = begin
    while at < end and class_C[at] & _CAPITAL:
        at += 1
    if at < end and class_C[at] & _SMALL:
        while at < end and class_C[at] & _SMALL:
            at += 1
        return at
    while at > begin:
        at -= 1
        if class_C[at] & _SMALL:
            return at + 1
    return begin


@part_of_others
def _capitals_end(class_C: Any, begin: Any, end: Any) -> Any:
    """Where a word in capitals ends that begins at `begin`; `begin` if none does."""
    at = begin
    while at < end and class_C[at] & _CAPITAL:
        at += 1
    if at > begin:
        while at < end and class_C[at] & _SMALL:
            at += 1
    return at


@part_of_others
def _in_lower_case(character: Any) -> Any:
    """An ASCII letter in lower case; the long s, which case folding makes an s, too."""
    if 65 <= character <= 90:
        return character + np.uint32(32)
    return np.uint32(115) if character == 0x17F else character


@part_of_others
def _short_end(character_C: Any, at: Any, end: Any) -> Any:
    """Where 's, 't, 're, 've, 'm, 'll or 'd ends that begins at `at`, in any case; `at` if none does."""
    if at + 1 >= end or character_C[at] != 39:
        return at
    first = _in_lower_case(character_C[at + 1])
    if first == 115 or first == 116 or first == 109 or first == 100:  # s t m d
        return at + 2
    if at + 2 < end:
        second = _in_lower_case(character_C[at + 2])
        if (first == 114 and second == 101) or (first == 118 and second == 101) or (first == 108 and second == 108):
            return at + 3
    return at


@part_of_others
def _piece_end(character_C: Any, class_C: Any, at: Any, end: Any) -> Any:
    """Where the piece ends that begins at `at`: the alternatives of `PIECE_PATTERN`, in their order."""
    kind = class_C[at]
    before = kind & _BEFORE
    if before:
        found = _word_end(class_C, at + 1, end)
        if found > at + 1:
            return _short_end(character_C, found, end)
    found = _word_end(class_C, at, end)
    if found > at:
        return _short_end(character_C, found, end)
    if before:
        found = _capitals_end(class_C, at + 1, end)
        if found > at + 1:
            return _short_end(character_C, found, end)
    found = _capitals_end(class_C, at, end)
    if found > at:
        return _short_end(character_C, found, end)
    if kind & _NUMBER:
        found = at + 1
        while found < end and found < at + 3 and class_C[found] & _NUMBER:
            found += 1
        return found
    found = at + 1 if character_C[at] == 32 else at
    begin = found
    while found < end and class_C[found] & _SIGN:
        found += 1
    if found > begin:
        while found < end and (class_C[found] & _LINE_END or character_C[found] == 47):
            found += 1
        return found
    found = at
    line_end = -1
    while found < end and class_C[found] & (_SPACE | _LINE_END):
        if class_C[found] & _LINE_END:
            line_end = found
        found += 1
    if line_end >= 0:
        return line_end + 1
    if found == end or found == at + 1:
        return found
    return found - 1


@compiled
def _cut(character_C: Any, end_T: Any, classes: Any, class_C: Any, begin_P: Any, end_P: Any, pieces_T: Any) -> Any:
    """Cut texts into pieces.

    Writes where each piece begins and ends, and how many each text has, -1 for one with anything unusual, whose pieces
    do not count. Returns the number of pieces.
    """
    last = len(classes) - 1
    for c in range(len(character_C)):
        class_C[c] = classes[min(np.int64(character_C[c]), last)]
    total = 0
    begin = 0
    for t in range(len(end_T)):
        end = end_T[t]
        usual = True
        for c in range(begin, end):
            if class_C[c] & _UNKNOWN:
                usual = False
                break
        pieces = 0
        at = begin
        while usual and at < end:
            found = _piece_end(character_C, class_C, at, end)
            if found - at > LONGEST_PIECE:
                usual = False
            begin_P[total + pieces] = at
            end_P[total + pieces] = found
            pieces += 1
            at = found
        pieces_T[t] = pieces if usual else -1
        if usual:
            total += pieces
        begin = end
    return total


@compiled
def _gather(entry_P: Any, pieces_T: Any, first_id_E: Any, ids_E: Any, known_N: Any, id_N: Any, length_T: Any) -> None:
    """Write the ids of all pieces, and how many each text has."""
    total = 0
    piece = 0
    for t in range(len(pieces_T)):
        before = total
        for _ in range(max(pieces_T[t], 0)):
            entry = entry_P[piece]
            piece += 1
            for n in range(first_id_E[entry], first_id_E[entry] + ids_E[entry]):
                id_N[total] = known_N[n]
                total += 1
        length_T[t] = total - before


class ManyTexts:
    """Encodes texts, and remembers their pieces for the next ones.

    Args:
        vocabulary: whose ids the texts become.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._pieces = StringTable(self._remember, self._forget)

    def _forget(self) -> None:
        self._entries = self._ids = 0
        self._first_id = np.zeros(MOST_STRINGS, dtype=np.int64)
        self._id_count = np.zeros(MOST_STRINGS, dtype=np.int64)
        self._known_ids = np.zeros(1 << 16, dtype=np.uint32)

    def _remember(self, piece: str) -> None:
        """Have the vocabulary spell a new piece, and keep it."""
        ids = self.vocabulary.encode_piece(piece.encode("utf-8"))
        while self._ids + len(ids) > len(self._known_ids):
            self._known_ids = np.concatenate([self._known_ids, np.zeros_like(self._known_ids)])
        self._first_id[self._entries], self._id_count[self._entries] = self._ids, len(ids)
        self._known_ids[self._ids : self._ids + len(ids)] = ids
        self._entries += 1
        self._ids += len(ids)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text, as `Vocabulary.encode` gives them.

        Raises:
            TokenizationError: a text cannot be encoded.
        """
        encoded: list[NDArray[np.uint32]] = []
        for group, too_long in in_groups(texts):
            encoded += [self._alone(group[0])] if too_long else self._encode_group(group)
        return encoded

    def _alone(self, text: str) -> NDArray[np.uint32]:
        return np.asarray(self.vocabulary.encode(text), dtype=np.uint32)

    def _encode_group(self, texts: list[str]) -> list[NDArray[np.uint32]]:
        """`encode` of texts that are looked at together."""
        character_C, end_T = characters_of(texts)
        begin_P = np.empty(len(character_C), dtype=np.int64)
        end_P = np.empty(len(character_C), dtype=np.int64)
        pieces_T = np.empty(len(texts), dtype=np.int64)
        class_C = np.empty(len(character_C), dtype=np.uint8)
        pieces = _cut(character_C, end_T, _classes(), class_C, begin_P, end_P, pieces_T)
        entry_P = self._pieces.numbers(character_C, begin_P[:pieces], end_P[:pieces])
        length_T = np.empty(len(texts), dtype=np.int64)
        id_N = np.empty(int(self._id_count[entry_P].sum()), dtype=np.uint32)
        _gather(entry_P, pieces_T, self._first_id, self._id_count, self._known_ids, id_N, length_T)
        ends = length_T.cumsum()
        return [
            id_N[ends[t] - length_T[t] : ends[t]] if pieces_T[t] >= 0 else self._alone(text)
            for t, text in enumerate(texts)
        ]
