"""Phrase templates: the little language in which the storybook's sentences are written.

    {slot}          the value of a slot, such as {N} (the hero's name) or {his}; {Slot} is the same with a capital
    [a|b|c]         one of several wordings, drawn at random; they nest
    <2+ text>       only for reading levels 2 and up; <1 text> and <1-2 text> likewise

A template is parsed once per reading level and kept as nested tuples, so that telling a story only walks them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

LEVELS = (1, 2, 3)


class Slot:
    """A place in a template that the world state fills."""

    __slots__ = ("capital", "key")

    def __init__(self, name: str) -> None:
        self.capital = len(name) > 1 and name[0].isupper()
        self.key = name[0].lower() + name[1:] if self.capital else name


class Choice:
    """A place in a template where one of several wordings is drawn."""

    __slots__ = ("options",)

    def __init__(self, options: tuple[Parts, ...]) -> None:
        self.options = options


Parts = tuple[str | Slot | Choice, ...]


@cache
def compile_template(source: str, level: int) -> Parts:
    """Parse a template for one reading level.

    Raises:
        ValueError: a bracket is not closed, or a level mark is malformed; a fault of the storybook, not of its user.
    """
    parser = _Parser(source, level)
    parts = parser.sequence("")
    if parser.at < len(source):
        raise ValueError(f"storybook template {source!r}: unexpected {source[parser.at]!r} at {parser.at}")
    return parts


def render(parts: Parts, slots: Mapping[str, str], random: Callable[[], float], out: list[str]) -> None:
    """Append the pieces of a compiled template to `out`.

    Raises:
        KeyError: a slot that the world state does not fill; a fault of the storybook.
    """
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, Slot):
            value = slots[part.key]
            out.append(value[:1].upper() + value[1:] if part.capital else value)
        else:
            options = part.options
            render(options[int(random() * len(options))], slots, random, out)


class _Parser:
    """Recursive descent over one template."""

    def __init__(self, source: str, level: int) -> None:
        self.source, self.level, self.at = source, level, 0

    def sequence(self, stop: str) -> Parts:
        """Parts up to an unnested character of `stop`, or to the end."""
        parts: list[str | Slot | Choice] = []
        while self.at < len(self.source) and self.source[self.at] not in stop:
            mark = self.source[self.at]
            if mark == "{":
                end = self.source.index("}", self.at)
                parts.append(Slot(self.source[self.at + 1 : end]))
                self.at = end + 1
            elif mark == "[":
                parts.append(Choice(self._options()))
            elif mark == "<":
                for part in self._levelled():
                    _append(parts, part)
            elif mark in "|]>}":
                raise ValueError(f"storybook template {self.source!r}: unexpected {mark!r} at {self.at}")
            else:
                _append(parts, mark)
                self.at += 1
        return tuple(parts)

    def _options(self) -> tuple[Parts, ...]:
        options = []
        while self.source[self.at] != "]":
            self.at += 1
            options.append(self.sequence("|]"))
            self._expect("|]")
        self.at += 1
        return tuple(options)

    def _levelled(self) -> Parts:
        space = self.source.index(" ", self.at)
        mark = self.source[self.at + 1 : space]
        self.at = space + 1
        parts = self.sequence(">")
        self._expect(">")
        self.at += 1
        low, high = _level_range(mark, self.source)
        return parts if low <= self.level <= high else ()

    def _expect(self, marks: str) -> None:
        if self.at >= len(self.source):
            raise ValueError(f"storybook template {self.source!r}: missing one of {marks!r} at its end")


def _append(parts: list[str | Slot | Choice], part: str | Slot | Choice) -> None:
    """Add a part, joining neighbouring texts."""
    if isinstance(part, str) and parts and isinstance(parts[-1], str):
        parts[-1] += part
    else:
        parts.append(part)


def _level_range(mark: str, source: str) -> tuple[int, int]:
    """The first and last level that a mark such as `2+`, `1` or `1-2` names."""
    low, _, high = mark.removesuffix("+").partition("-")
    if not low.isdigit() or (high and not high.isdigit()):
        raise ValueError(f"storybook template {source!r}: {mark!r} is not a range of reading levels")
    return int(low), LEVELS[-1] if mark.endswith("+") else int(high or low)
