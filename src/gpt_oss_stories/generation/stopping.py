"""When a story ends: at a stop token, at a stop string, or at a limit of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import StoryError

FinishReason = Literal["end", "stop", "length", "cancelled"]
"""end: the model ended the story. stop: a stop string appeared. length: max_tokens or the model's context was used up.
cancelled: the listener had enough."""


class StopStrings:
    """Passes a text on piece by piece until one of some strings appears in it.

    What might be the beginning of a stop string is held back until it is known not to be one; the stop string itself
    and everything after it never comes out. The stop string that is complete first counts, and of those complete at
    once the longest.

    Args:
        strings: texts that end a story; none of them may be empty.

    Raises:
        StoryError: a stop string is empty.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if any(not string for string in strings):
            raise StoryError("a stop string is empty and would end every story before it begins: leave it out")
        self._strings = tuple(strings)
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text."""

    def push(self, piece: str) -> str:
        """Take the next piece; give what may be passed on."""
        if not self._strings:
            return piece
        if self.found is not None:
            return ""
        text = self._held + piece
        places = [(text.find(string), string) for string in self._strings if string in text]
        if places:
            # Of several, the one a reader of single letters would meet first: the result never depends on the pieces.
            place, self.found = min(places, key=lambda found: (found[0] + len(found[1]), found[0]))
            self._held = ""
            return text[:place]
        held = max(_overlap(text, string) for string in self._strings)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What is still held back, when the text has ended without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that is a beginning, though not all, of `string`."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
