"""Stories in plain text: how they are told apart, and where a large file can be cut between two of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, BinaryIO

from .report import SEPARATOR

LOOK_CHARACTERS = 32 * 2**20
"""How much of a .txt file is looked at to find out how its stories are told apart."""

SHORT_LINE = 80
"""A line of up to so many characters is read whole under any limit, so that a separator is always seen as one."""

LINES_AT_LEAST = 8
"""Fewer lines are taken for the paragraphs of one story."""
STORY_WORDS, OPENED_STORY_WORDS = 60, 15
"""Words that a line has if it is a story: more if nothing else tells, fewer if many lines begin like stories."""

_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’»)\]*_~]*\s*\Z")
_STORY_OPENING = re.compile(
    r"[\"“]?(?:once (?:upon a time|there|a )|one (?:day|sunny|night|morning)|there (?:was|once))", re.I
)


def find_layout(text: IO[str]) -> str:
    """How the stories of a text are told apart, one of the keys of `LAYOUTS`.

    By a separator anywhere in it; else by two or more blank lines between lines of text; else a text without blank
    lines, in which nearly every line has the length and the end of a story, has one per line; else it is one story.
    """
    begun, blank, gaps, looked = False, 0, False, 0
    lines = inner_blanks = ended = long = opened = opened_long = 0
    for line in _text_lines(text, 2**20):
        looked += 2**20 if line is None else len(line) + 1
        if line is not None and not line.strip():
            blank += 1
        else:
            if line is not None and line.strip() == SEPARATOR:
                return "separator"
            if begun and blank:
                inner_blanks += 1
                gaps = gaps or blank >= 2
            begun, blank = True, 0
            lines += 1
            if line is None:
                long += 1
                opened_long += 1
            elif not inner_blanks:
                ended += _SENTENCE_END.search(line) is not None
                words = len(line.split(maxsplit=STORY_WORDS))
                long += words >= STORY_WORDS
                opened_long += words >= OPENED_STORY_WORDS
                opened += _STORY_OPENING.match(line) is not None
        if looked >= LOOK_CHARACTERS:
            break
    if gaps:
        return "blank-lines"
    like_stories = long >= 0.9 * lines or (opened >= 0.3 * lines and opened_long >= 0.9 * lines)
    if lines >= LINES_AT_LEAST and not inner_blanks and ended >= 0.95 * lines and like_stories:
        return "lines"
    return "file"


def _text_lines(text: IO[str], limit: int) -> Iterator[str | None]:
    """The lines of a text without their ends; None stands for a line of more than `limit` characters."""
    limit = max(limit, SHORT_LINE)
    while line := text.readline(limit + 1):
        if len(line) <= limit or line.endswith("\n"):
            yield line.removesuffix("\n")
            continue
        while (rest := text.readline(limit)) and not rest.endswith("\n"):
            pass
        yield None


class LineCount:
    """How many lines, rows or items a reader has read."""

    def __init__(self) -> None:
        self.lines = 0


def stories_of_text(text: IO[str], layout: str, limit: int, count: LineCount) -> Iterator[tuple[int, str | None]]:
    """The stories of a text, each with the line where it begins; None stands for one over `limit` characters.

    A separator ends a story in every layout but that of a single story: the layout is found in the beginning of a
    file, which may hold none of the separators that come later.
    """
    lines: list[str] = []
    start, size, blank, fits = 0, 0, 0, True
    for number, line in enumerate(_text_lines(text, limit), start=1):
        count.lines = number
        is_empty = line is not None and not line.strip()
        blank = blank + 1 if is_empty else 0
        is_separator = layout != "file" and line is not None and line.strip() == SEPARATOR
        if layout == "lines":
            if not is_empty and not is_separator:
                yield number, line if line is not None and len(line) <= limit else None
            continue
        if is_separator or (layout == "blank-lines" and blank == 2):
            if start:
                yield start, "\n".join(lines) if fits else None
            lines, start, size, fits = [], 0, 0, True
            continue
        if is_empty and not start:
            continue
        start = start or number
        size += limit + 2 if line is None else len(line) + 1
        if size > limit + 1:
            fits = False
            lines.clear()
        elif line is not None and fits:
            lines.append(line)
    if start:
        yield start, "\n".join(lines) if fits else None


def stories_of_rows(
    rows: Iterable[str | None], more: Iterable[str | None], *, at_start: bool, limit: int, count: LineCount
) -> Iterator[tuple[int, str | None]]:
    """Stories that are spread over rows and end with a row that holds the separator, as in TinyStories-Instruct.

    Of several stretches of rows each has the stories that begin behind its first separator, and the one that goes on
    behind its end: so every story is whole and belongs to one stretch.

    Args:
        rows: the stretch; None stands for an empty row.
        more: what follows it.
        at_start: nothing comes before the stretch: a story begins with its first row.
        limit: a story of more characters is given as None.
        count: is set to the rows of the stretch that were read.

    Returns:
        The number of the row where each story begins, and the story.
    """
    lines: list[str] = []
    start, size, own = 0, 0, at_start

    def all_rows() -> Iterator[tuple[int, str, bool]]:
        for row in rows:
            count.lines += 1
            yield count.lines, row or "", True
        for number, row in enumerate(more, start=count.lines + 1):
            yield number, row or "", False

    for number, row, inside in all_rows():
        if not inside and not own:
            return
        if row.strip() == SEPARATOR:
            if start:
                yield start, "\n".join(lines) if size <= limit + 1 else None
            lines, start, size, own = [], 0, 0, True
            if not inside:
                return
            continue
        if not own or (not start and not row.strip()):
            continue
        start = start or number
        size += len(row) + 1
        if size <= limit + 1:
            lines.append(row)
        else:
            lines.clear()
    if start:
        yield start, "\n".join(lines) if size <= limit + 1 else None


def looks_like_rows(texts: Iterable[str | None]) -> bool:
    """Whether stories are spread over the rows of a table: one of the first 200 rows is a separator."""
    return any(text is not None and text.strip() == SEPARATOR for text in islice(texts, 200))


def next_border(binary: BinaryIO, target: int, layout: str) -> int | None:
    """The first place from byte `target` on where a file can be cut between two stories; None if there is none.

    Cuts are right behind an LF, so that whoever reads on from there sees the same lines, whichever line ends the file
    has. Where lines or separators have an unusual form the cut comes later than it could.

    Args:
        binary: the file, plain and seekable.
        target: at least 1.
        layout: "lines", "separator" or "blank-lines".
    """
    binary.seek(target - 1)
    while (line := binary.readline(2**16)) and not line.endswith(b"\n"):
        pass
    if not line:
        return None
    if layout == "lines":
        return binary.tell()
    blank, whole = 0, True
    while line := binary.readline(SHORT_LINE):
        ends = line.endswith(b"\n")
        content = line.strip() if whole and ends else b"-"
        if layout == "separator" and content == SEPARATOR.encode():
            return binary.tell()
        blank = blank + 1 if not content else 0
        if layout == "blank-lines" and blank >= 2:
            return binary.tell()
        whole = ends
    return None
