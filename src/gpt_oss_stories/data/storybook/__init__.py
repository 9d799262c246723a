"""The built-in storybook: a story-world generator.

    write_story(seed)           one story, a pure function of its seed
    write_stories(count, seed)  many different ones

and the same for first readers, which are much shorter and name the hero in nearly every sentence (`first_readers`).

A plot (package `plots`) is told about a hero, companions, a place and things (`world`) that one `Telling` holds. Its
sentences are templates (`templates`) with alternative wordings; articles, pronouns and capitals are made to agree
(`agreement`). The child's age sets length and complexity (`levels`). What the world state knows becomes the story's
request and questions (`requests`, `questions`).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..records import StoryRecord
from .first_readers import write_first_reader, write_first_readers
from .levels import AGES, level_for_age
from .plots import PLOTS, Plot
from .questions import questions_for
from .requests import request_for
from .seeds import distinct, mix
from .telling import Telling

__all__ = [
    "PLOTS",
    "mix",
    "tell_story",
    "write_first_reader",
    "write_first_readers",
    "write_stories",
    "write_story",
]

LICENSE = "CC0-1.0"

_MOST_TRIES = 100
_LEAST_NAMINGS = 4


def tell_story(seed: int) -> tuple[Telling, Plot]:
    """A story as its finished telling: the text (`text()`) and the state of the world it is about."""
    start = mix(seed)
    age = AGES[start % len(AGES)]
    level = level_for_age(age)
    plot = PLOTS[(start >> 16) % len(PLOTS)]
    # Wordings differ in length; a telling that misses the level's bounds, or hardly names its hero, is told again.
    for attempt in range(_MOST_TRIES):
        telling = Telling(mix(start, attempt), age, level)
        plot.tell(telling)
        text = telling.text()
        long_enough = level.min_words <= len(text.split()) <= level.max_words
        if long_enough and text.count(telling.hero_name) >= _LEAST_NAMINGS:
            return telling, plot
    raise AssertionError(f"plot {plot.name!r} cannot be told to age {age} (seed {seed})")


def write_story(seed: int) -> StoryRecord:
    """One story with its request, title, summary and questions.

    The same seed gives the same story on every machine and Python version.
    """
    telling, plot = tell_story(seed)
    text = telling.text()
    return StoryRecord(
        text=text,
        title=telling.title,
        request=request_for(telling, plot.theme, text),
        summary=telling.summary,
        questions=questions_for(telling, text),
        source="storybook",
        license=LICENSE,
    )


def write_stories(count: int, seed: int) -> Iterator[StoryRecord]:
    """Stories whose texts all differ; two seeds give different selections.

    Args:
        count: how many.
        seed: any whole number.
    """
    return distinct(write_story, count, seed)
