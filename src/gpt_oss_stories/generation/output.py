"""Stories on a terminal, in a pipe, and as JSON.

A model can write any character, also those with which a terminal is steered. Everything meant for reading goes through
`harmless` first. JSON escapes such characters by itself.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len

from .engine import Story, StoryStream

_MAX_WIDTH = 100
"""Columns; longer lines are hard to read, however wide the terminal is."""

_STEERING = {
    code: 0x2400 + code if code < 0x20 else 0x2421 if code == 0x7F else 0xFFFD
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
} | {ord("\r"): None}


def harmless(text: str) -> str:
    """Replace control characters (all but line breaks and tabs) by pictures of themselves, so that no text can move the
    cursor, colour the screen or ring the bell. Carriage returns vanish."""
    return text.translate(_STEERING)


def is_terminal(stream: TextIO) -> bool:
    """Somebody sits there; a closed stream is nobody."""
    return not stream.closed and stream.isatty()


class StoryWriter:
    """Writes a story as it is made: steering characters made harmless, and on a terminal wrapped between words.

    Only the word at the end is held back, until it is clear whether it fits into the line. Line breaks of the story
    stay, so paragraphs do. In a pipe the text goes through as it is.

    Args:
        out: where to write.
        width: columns to wrap at; None does not wrap.
        styled: write bold text with terminal codes.
    """

    def __init__(self, out: TextIO, *, width: int | None = None, styled: bool = False) -> None:
        self._out, self._width, self._styled = out, width, styled
        self._column = 0
        self._space = ""
        self._word = ""
        """The word in the making, with terminal codes."""
        self._word_columns = 0
        self._line_open = False
        """Something stands on the last line."""

    @classmethod
    def for_stream(cls, out: TextIO) -> StoryWriter:
        """Wrapped and styled on a terminal, plain otherwise."""
        if not is_terminal(out):
            return cls(out)
        width = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
        plain = os.environ.get("TERM") == "dumb" or "NO_COLOR" in os.environ
        return cls(out, width=max(width, 20), styled=not plain)

    def write(self, text: str, *, bold: bool = False) -> None:
        """Write the next piece."""
        text = harmless(text)
        if bold and self._styled and text:
            self._word += "\x1b[1m"
        if self._width is None:
            self._put(self._word + text)
            self._word = ""
        else:
            self._wrap(text, self._width)
        if bold and self._styled and text:
            self._word += "\x1b[22m"
        self._out.flush()

    def finish(self) -> None:
        """Write what is held back and end the line."""
        self._place_word(self._width)
        if self._line_open:
            self._put("\n")
        self._out.flush()
        self._column, self._space = 0, ""

    def _wrap(self, text: str, width: int) -> None:
        for character in text:
            if character == "\n":
                self._place_word(width)
                self._put("\n")
                self._column, self._space = 0, ""
            elif character in " \t":
                self._place_word(width)
                self._space += " "
            else:
                self._word += character
                self._word_columns += cell_len(character)
                if self._word_columns >= width:  # longer than a line: cut it rather than hold it back for ever
                    self._place_word(width)

    def _place_word(self, width: int | None) -> None:
        if not self._word:
            return
        if width is not None and self._word_columns and self._column:
            if self._column + len(self._space) + self._word_columns > width:
                self._put("\n")
                self._column = 0
            else:
                self._put(self._space)
                self._column += len(self._space)
        if self._word_columns:
            self._space = ""
        self._put(self._word)
        self._column += self._word_columns
        self._word, self._word_columns = "", 0

    def _put(self, text: str) -> None:
        if text:
            self._line_open = not text.endswith("\n")
        write_safely(self._out, text)


def write_safely(out: TextIO, text: str) -> None:
    """Write text to a stream whose encoding may lack some of its characters; those become question marks."""
    encoding = getattr(out, "encoding", None) or "utf-8"
    out.write(text.encode(encoding, "replace").decode(encoding))


def describe_end(story: Story) -> str:
    """One line on a story: its length, its speed and why it ended."""
    reason = {
        "end": "ended by itself",
        "stop": "ended at a stop string",
        "length": f"cut: {story.note or 'max-tokens is reached'}",
        "cancelled": "stopped by you",
    }[story.finish_reason]
    words = f"{story.token_count} token{'' if story.token_count == 1 else 's'}"
    return f"{words} in {story.seconds:.1f} s ({story.tokens_per_second:.0f} tokens/s), {reason}, seed {story.seed}"


def heading(number: int, total: int) -> str:
    """The line above one of several stories, numbered from 1."""
    return f"--- Story {number} of {total} ---"


def print_stories(stories: Sequence[Story], out: TextIO, talk: TextIO) -> None:
    """Print stories for reading.

    Args:
        stories: what was told.
        out: gets the stories, with a heading where there are several; the prompt is bold on a terminal.
        talk: gets the line about each story.
    """
    for number, story in enumerate(stories, 1):
        if len(stories) > 1:
            out.write(heading(number, len(stories)) + "\n\n")
        writer = StoryWriter.for_stream(out)
        writer.write(story.prompt, bold=True)
        writer.write(story.continuation)
        writer.finish()
        if len(stories) > 1 and number < len(stories) and not is_terminal(out):
            out.write("\n")
        out.flush()
        print_footer(story, talk)


def show_stream(stream: StoryStream, out: TextIO, talk: TextIO) -> None:
    """Write one story as it is made, and the line about it; Ctrl-C ends the story, not the program."""
    writer = StoryWriter.for_stream(out)
    try:
        writer.write(stream.prompt, bold=True)
        for piece in stream:
            writer.write(piece)
    except KeyboardInterrupt:
        writer.write(stream.cancel())
    writer.finish()
    print_footer(stream.story, talk)


def print_footer(story: Story, talk: TextIO) -> None:
    """Print the line about a story that was told."""
    gap = "\n" if is_terminal(talk) else ""
    talk.write(f"{gap}[{describe_end(story)}]\n{gap}")
    talk.flush()


def print_json_lines(stories: Sequence[Story], out: TextIO) -> None:
    """Print each story as one line of JSON, in plain ASCII that every reader understands."""
    for story in stories:
        out.write(json.dumps(story.to_dict(), allow_nan=False) + "\n")
    out.flush()
