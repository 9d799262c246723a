"""Text made uniform without losing anything of a story: encodings repaired, line ends, Unicode form, stray characters.

    tidy_text(text)          both steps below, in this order, until nothing changes: what a pipeline calls
    repair_encoding(text)    "â€™" becomes "’"; text that is not broken stays as it is, character for character
    clean_text(text)         LF line ends, NFC, no control characters, no outer white space, one empty line at most

Repair has to come first: two of the characters that cleaning removes, C1 controls and the soft hyphen, are halves of
broken letters ("Ã" and a soft hyphen are an "í").

Everything here is a pure function. A story that needs nothing costs a few microseconds, because the costly steps are
behind tests that are cheap and never miss a text to which the step would do something.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

_LINE_BREAKS = re.compile("\r\n|[\r\v\f\x85\u2028]")
"""What ends a line beside LF: the newline functions of the Unicode Standard, section 5.8, without the paragraph's."""

_PARAGRAPH_SEPARATOR = "\u2029"

_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\ufeff]+")
"""Control characters but TAB and LF, soft hyphens, byte order marks; line breaks have been made LF before."""

_MANY_EMPTY_LINES = re.compile("\n{3,}")

# Bytes of UTF-8 that no character touched by the three expressions above can do without. E9 is an e with an acute
# accent as well, so a story that has one of these may be clean; a story that has none is.
_TELLING_BYTES = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F, 0xC2, 0xEF, 0xA8, 0xA9])
_SILENT_BYTES = bytes(sorted(set(range(256)) - set(_TELLING_BYTES)))


def clean_text(text: str) -> str:
    """The same story in one uniform shape.

    Line ends become LF (CR, CR LF, and the vertical tab, form feed, NEL and line separator that stand for one; a
    paragraph separator becomes an empty line), letters are composed (Unicode NFC), and these are removed: outer white
    space, blanks at the ends of lines, all but one of several empty lines, control characters (C0 and C1 but LF and
    TAB), byte order marks and soft hyphens. Everything else is kept: quotes and apostrophes of every kind, dashes,
    tabs, joiners in emoji, direction marks, every script.

    Cleaning twice gives what cleaning once gives. Lone surrogates are left where they are.
    """
    if text.encode("utf-8", "surrogatepass").translate(None, _SILENT_BYTES):
        text = _LINE_BREAKS.sub("\n", text).replace(_PARAGRAPH_SEPARATOR, "\n\n")
        text = _REMOVED.sub("", text)
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", _MANY_MARKS.sub(_in_canonical_order, text))
    if "\n" in text:
        text = "\n".join(map(str.rstrip, text.split("\n")))
        if "\n\n\n" in text:
            text = _MANY_EMPTY_LINES.sub("\n\n", text)
    return text.strip()


# Python orders the marks upon a letter by insertion, whose time grows with the square of their number: 100,000 of them,
# 200 kB of text, would take 13 s. Marks begin at U+0300.
_MANY_MARKS = re.compile("[^\x00-\u02ff]{100,}")


def _in_canonical_order(stretch: re.Match[str]) -> str:
    """A long stretch decomposed, with the marks upon each letter in the order that normalisation will give them."""
    ordered: list[str] = []
    marks: list[str] = []
    for character in stretch[0]:
        for part in unicodedata.normalize("NFD", character):
            if unicodedata.combining(part):
                marks.append(part)
                continue
            ordered += sorted(marks, key=unicodedata.combining)
            ordered.append(part)
            marks.clear()
    return "".join(ordered) + "".join(sorted(marks, key=unicodedata.combining))


def is_blank(text: str) -> bool:
    """Whether a text has nothing to read: only white space, control and formatting characters (a zero-width space)."""
    return all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text)


def tidy_text(text: str) -> str:
    """A text with its encoding repaired and then cleaned; tidying it again changes nothing."""
    tidied = clean_text(repair_encoding(text))
    # Cleaning may bring the halves of a broken letter together, so that only the next round can see them.
    while (again := repair_encoding(tidied)) != tidied:
        tidied = clean_text(again)
    return tidied


# What the repair can do something to, by three tests of rising cost. ftfy changes a line only where its BADNESS_RE
# matches. Each alternative of that expression needs a character outside of ASCII and of the typography below; and
# each needs such a character beside another non-ASCII character, or one of the first class of _SUSPECT. A test reads
# both facts off the expression itself, so that an ftfy which no longer keeps them is noticed.
_TYPOGRAPHY = "\N{EN DASH}\N{EM DASH}\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}" + (
    "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{HORIZONTAL ELLIPSIS}"
)
_ASCII_BYTES = bytes(range(0x80))
_ONLY_TYPOGRAPHY = re.compile(b"(?:" + b"|".join(c.encode() for c in _TYPOGRAPHY) + b")*")
_SUSPECT = re.compile(f"[\x80-\x9fÂÃŒœ]|[^\x00-\x7f{_TYPOGRAPHY}][^\x00-\x7f]|[{_TYPOGRAPHY}][^\x00-\x7f{_TYPOGRAPHY}]")

_SEGMENT_CHARACTERS = 1_000_000
"""A longer line is repaired in pieces, as ftfy does it, which bounds time and memory."""

# A closing quote ” is E2 80 9D, and 9D is no character in Windows-1252: many programs dropped it, or wrote U+FFFD or
# "?" in its place. ftfy would read "â€" and the space after it as the dagger † and lose the space. In all of these
# encodings E2 80 reads "â€", so what any of them makes of a third byte means that none was lost.
_THIRD_CHARACTERS = "".join(
    bytes([byte]).decode(encoding, "ignore") or chr(byte)
    for encoding in ("cp1252", "cp1250", "cp1254")
    for byte in range(0x80, 0xC0)
)
_LOST_QUOTE = re.compile(f"â€\ufffd|(?<=[.,!?])â€\\?|â€(?![{re.escape(_THIRD_CHARACTERS)}])")


def repair_encoding(text: str) -> str:
    """Mend text that was decoded with the wrong encoding ("â€™" for "’"), and nothing else.

    The mending is ftfy's, of which only the fixes of encodings are used: quotes, ligatures, widths, HTML entities,
    control characters and spaces stay as they are. Letters are never replaced by U+FFFD. A closing quote whose last
    byte was lost on the way ("â€") is restored. Lines are looked at one by one, so a sound line is never touched
    because of a broken one.

    Source: ftfy, Robyn Speer, https://github.com/rspeer/python-ftfy
    """
    if text.isascii():
        return text
    if _ONLY_TYPOGRAPHY.fullmatch(text.encode("utf-8", "surrogatepass").translate(None, _ASCII_BYTES)):
        return text
    if not _SUSPECT.search(text):
        return text
    return "".join(segment if segment.isascii() else _mend_segment(segment) for segment in _segments(text))


def _segments(text: str) -> Iterator[str]:
    """The lines of a text, each with its LF, and long ones in pieces."""
    start = 0
    while start < len(text):
        end = (text.find("\n", start) + 1) or len(text)
        end = min(end, start + _SEGMENT_CHARACTERS)
        yield text[start:end]
        start = end


def _mend_segment(segment: str) -> str:
    """One line with its broken letters mended; the same line if ftfy sees none."""
    from ftfy import fix_encoding_and_explain
    from ftfy.badness import is_bad

    config = _encoding_fixes_only()
    # Text that was broken several times is mended once in each round; each round makes it shorter or is the last.
    while is_bad(segment):
        mended = fix_encoding_and_explain(_LOST_QUOTE.sub("â€\x9d", segment), config).text
        if mended == segment or len(mended) > len(segment):
            break
        segment = mended
    return segment


@cache
def _encoding_fixes_only() -> TextFixerConfig:
    from ftfy import TextFixerConfig

    # Of the fixes of an encoding only `replace_lossy_sequences` is off: it would put U+FFFD in the place of letters.
    return TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        replace_lossy_sequences=False,
    )
