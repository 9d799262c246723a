"""Words as they are written: where they stand, and what they are when somebody disguises them.

Undone are, within reason: look-alike letters of other scripts ("fuсk" with a Cyrillic letter), wide and decorated
letters, accents, invisible characters, digits and signs for letters ("k1ll", "$ex"), stars ("f*ck"), stretched letters
("fuuuck") and spaced letters ("k i l l"). A disguise is only undone when it gives a word that is worth disguising; all
other words stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from functools import cache

_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_SIGNS = "@$!*|"

TOKEN = re.compile(rf"[@$]?[^\W_]+(?:['’{re.escape(_SIGNS)}{_INVISIBLE}\u0300-\u036f]+[^\W_]+)*(?:\*{{2,4}}|\$+)?")
"""A word with its apostrophes, and with the signs inside of it that may stand for letters."""

PLAIN = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
"""A word with its apostrophes and nothing else."""

BETWEEN_LETTERS = re.compile(r"[ .\-*_,/|]{1,2}")
"""What may stand between the letters of a word that is spaced out."""

SPACED = re.compile(r"(?<![^\W_])[^\W_](?:[ .\-*_,/|]{1,2}[^\W_]){2}(?![^\W_])")
"""Three single letters in a row, in a text where a spaced word may be."""

_LOOKS = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "9": "g",
    "@": "au", "$": "s", "!": "i", "|": "il", "*": "abcdefghijklmnopqrstuvwxyz",
}  # fmt: skip
"""Which letters a digit or a sign may stand for."""

_HOMOGLYPHS = str.maketrans(
    {
        "а": "a", "в": "b", "е": "e", "і": "i", "к": "k", "м": "m", "н": "h", "о": "o", "р": "p", "ѕ": "s", "т": "t",
        "у": "y", "х": "x", "с": "c", "ј": "j", "ԁ": "d", "ӏ": "l", "һ": "h", "ԛ": "q", "ԝ": "w",  # Cyrillic
        "α": "a", "ε": "e", "ι": "i", "κ": "k", "ν": "v", "ο": "o", "ρ": "p", "τ": "t", "υ": "u", "χ": "x",  # Greek
        "ɑ": "a", "ɡ": "g", "ı": "i", "’": "'",
    }
)  # fmt: skip

_STRETCHED = re.compile(r"(.)\1{2,}")
_LETTER = re.compile(r"[a-z]")


@cache
def _by_length(words: frozenset[str]) -> dict[int, tuple[str, ...]]:
    """The words by how many letters they have, in the order of the alphabet."""
    return {n: tuple(sorted(w for w in words if len(w) == n)) for n in {len(word) for word in words}}


def folded(token: str) -> str:
    """A token in lower case, without accents and invisible characters, with Latin letters for those that look alike."""
    if token.isascii():
        return token.lower()
    decomposed = unicodedata.normalize("NFKD", token).lower()
    kept = "".join(c for c in decomposed if not unicodedata.combining(c) and c not in _INVISIBLE)
    latin = kept.translate(_HOMOGLYPHS)
    # A word of another script stays one: only a mixture of scripts is a disguise.
    return latin if latin.isascii() and _LETTER.search(kept) else kept.replace("’", "'")


def undisguised(token: str, worth: frozenset[str]) -> str | None:
    """The word of `worth` that a token of signs, digits, stretched or look-alike letters stands for, or None."""
    word = folded(token)
    if word in worth:
        return None if token.isascii() or token.replace("’", "'").lower() == word else word
    if len(word) > 40 or not _LETTER.search(word):
        return None
    stretched = _STRETCHED.search(word) is not None
    shapes = (_STRETCHED.sub(r"\1", word), _STRETCHED.sub(r"\1\1", word)) if stretched else (word,)
    for shape in shapes:
        if shape in worth:
            return shape
        if any(c in _LOOKS for c in shape):
            for candidate in _by_length(worth).get(len(shape), ()):
                if all(c == letter or letter in _LOOKS.get(c, "") for c, letter in zip(shape, candidate, strict=True)):
                    return candidate
    return None


def spaced_words(tokens: Sequence[str], gaps: Sequence[str], worth: Collection[str]) -> dict[int, tuple[int, str]]:
    """Words spelled as single letters: from the index of the first letter to the index after the last, and the word.

    Args:
        tokens: the words of a sentence, in lower case.
        gaps: the text before each of them, after the one before it.
        worth: the words that are looked for, each of at least three letters; the longest is taken.
    """
    found: dict[int, tuple[int, str]] = {}
    start = 0
    while start < len(tokens):
        end = start
        while end < len(tokens) and len(tokens[end]) == 1 and (end == start or BETWEEN_LETTERS.fullmatch(gaps[end])):
            end += 1
        letters = "".join(tokens[start:end])
        at = 0
        while at + 2 < len(letters):
            word = next(
                (letters[at:to] for to in range(min(len(letters), at + 14), at + 2, -1) if letters[at:to] in worth),
                None,
            )
            if word is None:
                at += 1
                continue
            found[start + at] = (start + at + len(word), word)
            at += len(word)
        start = max(end, start + 1)
    return found
