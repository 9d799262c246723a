"""Reading levels: what a child's age changes about a story's length and sentences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReadingLevel:
    """How a story is told to children of some ages.

    `grade` selects the wordings of the templates: 1 short main clauses, 2 an added detail here and there, 3 longer
    sentences with clauses, and more that happens between.
    """

    grade: int
    ages: tuple[int, ...]
    min_words: int
    max_words: int


LEVELS = (
    ReadingLevel(1, (3,), 65, 116),
    ReadingLevel(2, (4, 5), 105, 176),
    ReadingLevel(3, (6, 7, 8), 145, 222),
)

AGES = (3, 3, 4, 4, 5, 5, 6, 6, 7, 8)
"""Ages to draw from, repeated as often as they shall be told to, relative to each other."""


def level_for_age(age: int) -> ReadingLevel:
    """The level on which a child of this age is told to; ages outside 3 to 8 take the nearest."""
    for level in LEVELS:
        if age <= level.ages[-1]:
            return level
    return LEVELS[-1]
