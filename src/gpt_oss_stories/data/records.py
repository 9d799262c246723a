"""One story with all that is known about it, whatever source it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..tokenization.conversation import Question, StoryRequest

SHORT_BELOW_WORDS = 110
LONG_FROM_WORDS = 170
"""A story counts as short below the first number of words, as long from the second, and as medium between them."""


@dataclass(frozen=True, kw_only=True)
class StoryRecord:
    """A story and, where its source says so, what was asked for, what it is about and questions on it."""

    text: str
    """The story; paragraphs are separated by newlines."""
    title: str | None = None
    request: StoryRequest | None = None
    """What somebody could have asked for to be told this story."""
    prompt: str | None = None
    """What somebody did ask for in his own words, where the source says it: an instruction that the story answers."""
    summary: str | None = None
    """One sentence."""
    questions: tuple[Question, ...] = ()
    source: str = "unknown"
    """Where the story comes from: "storybook", a file's name, a data set's name."""
    license: str | None = None
    """SPDX identifier of the text's licence."""
    attribution: str | None = None
    """Who is to be named wherever the story is passed on."""
    place: str = field(default="", compare=False)
    """Where it stands, "file:line", counted from where its reader began."""


def length_of(text: str) -> Literal["short", "medium", "long"]:
    """What a request would call the length of this text: "short", "medium" or "long"."""
    words = len(text.split())
    if words < SHORT_BELOW_WORDS:
        return "short"
    return "medium" if words < LONG_FROM_WORDS else "long"
