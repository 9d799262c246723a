"""What is counted in a story's words, for its reading level and the quality rules. `many_levels` is the fast way."""

from __future__ import annotations

from typing import NamedTuple

from .quality import ENGLISH_WORDS, WordCounts
from .reading_level import ReadingLevel, reading_level


class Words(NamedTuple):
    """What is known of a story's words."""

    level: ReadingLevel
    counts: WordCounts


def words_of(text: str) -> Words:
    """Count the words of a story."""
    strings = text.lower().split()
    counts = WordCounts(len(strings), sum(map(ENGLISH_WORDS.__contains__, strings)))
    return Words(reading_level(text), counts)
