"""Which texts are usable stories: language, length, completeness, repetition, each with a reason that can be counted.

    find_flaw(text, QualityRules())    None, or why the text is left out: "shorter than 5 words"

The thresholds were set on children's stories, in which refrains, cumulative verses, invented words and short lines are
style and not damage. Everything here is a pure function: the same text and rules give the same answer in any process.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ..config import ConfigError
from .cleaning import is_blank

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRules:
    """What a text has to be to count as a story. None switches a rule off where its type allows that.

    Raises:
        ConfigError: a limit cannot be met, or the language is not given as a code of two or three letters.
    """

    language: str | None = "en"
    """ISO 639 code of the language that the stories are in."""
    min_words: int = 5
    max_characters: int | None = 1_000_000
    require_ending: bool = True
    """Whether a story has to end like one; see `has_ending`."""
    max_repetition: float | None = 0.93
    """Largest share of a story's words that may stand in passages said before; see `Repetition.repeated_share`."""
    max_loop: float | None = 0.2
    """Largest share of a story's words in passages said over and over; see `Repetition.loop_share`."""
    allow_lost_characters: bool = False
    """Whether a story may hold U+FFFD, which stands where a letter was lost before it came here."""

    def __post_init__(self) -> None:
        problems = []
        if self.language is not None and not re.fullmatch("[a-z]{2,3}", self.language):
            problems.append(f"language={self.language!r} is not an ISO 639 code such as 'en'")
        if self.min_words < 0:
            problems.append(f"min_words={self.min_words} is negative")
        if self.max_characters is not None and self.max_characters < 1:
            problems.append(f"max_characters={self.max_characters} leaves no story; use None for any length")
        for name in ("max_repetition", "max_loop"):
            share = getattr(self, name)
            if share is not None and not 0.0 <= share <= 1.0:
                problems.append(f"{name}={share} is not a share from 0 to 1; use None to allow any repetition")
        if problems:
            raise ConfigError("quality rules: " + "; ".join(problems))


class WordCounts(NamedTuple):
    """What somebody has counted already in a text."""

    strings: int
    """Strings between blanks."""
    english: int
    """Those that are in `ENGLISH_WORDS` in lower case."""


def find_flaw(text: str, rules: QualityRules, counts: WordCounts | None = None) -> str | None:
    """Why a cleaned text is not a usable story by these rules: the first rule broken, or None.

    The order is: nothing to read, length, lost characters, repetition, language, ending. Rules for language and words
    compare words, so they mean most for languages that put blanks between them; see each function.

    Args:
        text: what `tidy_text` returns; outer white space would hide an ending.
        rules: which limits hold.
        counts: of this text, if they are known; otherwise they are counted where a rule needs them.

    Raises:
        ConfigError: `rules.language` is not among the languages that can be told apart.
    """
    if rules.max_characters is not None and len(text) > rules.max_characters:
        return f"longer than {rules.max_characters:,} characters"
    if is_blank(text):
        return "nothing to read"
    words: Sequence[str] = ()
    if counts is None or rules.max_repetition is not None or rules.max_loop is not None:
        words = text.lower().split()
    counts = counts or WordCounts(len(words), sum(map(ENGLISH_WORDS.__contains__, words)))
    if counts.strings < rules.min_words and count_words(text) < rules.min_words:
        return f"shorter than {rules.min_words} words"
    if not rules.allow_lost_characters and "\N{REPLACEMENT CHARACTER}" in text:
        return "has lost characters (U+FFFD)"
    if _repeats_itself(words, rules):
        return "repeats itself"
    if rules.language is not None:
        found = _other_language(text, counts, rules.language)
        if found is not None:
            return f"not {'English' if rules.language == 'en' else rules.language} ({found})"
    if rules.require_ending and not has_ending(text):
        return "does not end like a story"
    return None


# Letters of scripts that are written without blanks between words: Thai, Lao, Myanmar, Khmer, Chinese, Japanese.
_UNSPACED_LETTERS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"
)


def count_words(text: str) -> int:
    """Stretches between blanks; where a script has no blanks between words, two of its letters count as a word."""
    unspaced = len(_UNSPACED_LETTERS.findall(text))
    return len((_UNSPACED_LETTERS.sub(" ", text) if unspaced else text).split()) + (unspaced + 1) // 2


# --------------------------------------------------------------------------------------------------------- repetition

_RUN_WORDS = 6
"""Length of the runs of words that are compared."""

_LOOP_WORDS = 24
"""Fewer words in loops than this are never a flaw: "No, no, no!" and "row, row, row your boat" are fine."""

_COPY_WORDS = 25
"""A passage this long counts as a loop when it stands twice in a row; a shorter one when it stands three times."""

_LONGEST_WORD = 25
"""Words that are longer than this on average are no words: their characters are compared instead."""

_COMPARED_UNITS = 100_000
"""More words than this, a thick book, are not looked at, which bounds memory to about 30 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """How much of a text says again what it has said before."""

    repeated_share: float
    """Share of words, from 0 to 1, that are part of a run of six words which stood in the text before."""
    loop_share: float
    """Share of words, from 0 to 1, in passages that follow directly upon themselves: every copy but the first, of a
    passage that stands three times in a row, or twice if it has 25 words or more."""


def repetition(text: str) -> Repetition:
    """How much of a text repeats what it has said, in small or capital letters alike.

    Two shares, because children's stories repeat on purpose. A cumulative tale repeats almost everything but adds
    something new each time, so its repeated passages do not follow directly upon themselves; a machine that is caught
    in a loop says the same thing again and again.

    Source: the share of text in repeated runs of words follows the quality rules of Gopher, arXiv 2112.11446, table A1
    (counted here in words instead of characters, in runs of six); the thresholds there would refuse many folk tales.
    """
    units = _units(text.lower().split())
    repeated, looped = _repeated_and_looped(units)
    return Repetition(
        repeated_share=repeated / len(units) if units else 0.0,
        loop_share=looped / len(units) if units else 0.0,
    )


def _units(words: Sequence[str]) -> Sequence[str]:
    """What is compared: words, or characters where there are hardly any blanks; the beginning of a whole library."""
    characters = sum(map(len, words))
    units = "".join(words) if characters > _LONGEST_WORD * len(words) else words
    return units[:_COMPARED_UNITS] if len(units) > _COMPARED_UNITS else units


def _repeats_itself(words: Sequence[str], rules: QualityRules) -> bool:
    if rules.max_repetition is None and rules.max_loop is None:
        return False
    units = _units(words)
    runs = len(units) - _RUN_WORDS + 1
    if runs < 2:
        return False
    again = runs - len(set(zip(*(units[start:] for start in range(_RUN_WORDS)), strict=False)))
    # Each run that stood before covers at most six words, and loops are made of such runs.
    most = again * _RUN_WORDS
    limits = [limit for limit in (rules.max_repetition, rules.max_loop) if limit is not None]
    if most <= min(limits) * len(units):
        return False
    repeated, looped = _repeated_and_looped(units)
    if rules.max_repetition is not None and repeated > rules.max_repetition * len(units):
        return True
    return rules.max_loop is not None and looped >= _LOOP_WORDS and looped > rules.max_loop * len(units)


def _repeated_and_looped(units: Sequence[str]) -> tuple[int, int]:
    """How many units are in runs that stood before, and how many of them in loops.

    A run that last began `distance` units earlier continues a passage with that period; when the passage is as long as
    its period, or twice as long for a short one, it has followed directly upon itself.
    """
    last_start: dict[tuple[str, ...], int] = {}
    repeated = looped = covered_to = 0
    distance = passage_start = passage_end = 0

    def close_passage() -> int:
        length = passage_end - passage_start
        return length if distance and length >= (distance if distance >= _COPY_WORDS else 2 * distance) else 0

    for start, run in enumerate(zip(*(units[start:] for start in range(_RUN_WORDS)), strict=False)):
        before = last_start.get(run)
        last_start[run] = start
        new_distance = 0 if before is None else start - before
        if new_distance != distance:
            looped += close_passage()
            distance, passage_start = new_distance, start
        if new_distance:
            passage_end = start + _RUN_WORDS
            repeated += passage_end - max(start, covered_to)
            covered_to = passage_end
    return repeated, min(repeated, looped + close_passage())


# ----------------------------------------------------------------------------------------------------------- language

# Common words of English that are no common words of languages with the same letters. Left out are, among others, "a",
# "in", "is", "was", "of", "we", "had" (Dutch), "will", "so", "all" (German), "my" (Afrikaans), "for" (Danish), "to"
# (Polish), "her" (Turkish), "me", "no" (Spanish) and "on" (French).
ENGLISH_WORDS = frozenset(
    word
    for line in (
        "the and he she it they you that with said were but not what this there then our their him them are his",
        "from would could when who your into out",
    )
    for word in line.split()
)

_ENOUGH_ENGLISH = 0.08
"""A text of which this share, and at least two, are words from above is English."""

_SAMPLE_CHARACTERS = 1_000
"""The language of a longer text is judged by so many characters of its beginning and of its middle."""

_IMPOSSIBLE = 0.001
"""A text is not in a language that is given less probability than this; short and odd texts are given more."""


def _other_language(text: str, counts: WordCounts, language: str) -> str | None:
    """What a text looks like if it is not in a language; None if it is, or if that cannot be told."""
    if language == "en" and counts.english >= max(2, _ENOUGH_ENGLISH * counts.strings):
        return None
    if len(text) > 2 * _SAMPLE_CHARACTERS:
        middle = len(text) // 2
        text = f"{text[:_SAMPLE_CHARACTERS]} {text[middle : middle + _SAMPLE_CHARACTERS]}"
    identifier = _language_identifier()
    ranking = identifier.rank(text)
    probabilities = dict(ranking)
    if language not in probabilities:
        raise ConfigError(f"language={language!r} cannot be recognised; known are {', '.join(sorted(probabilities))}")
    if probabilities[language] >= _IMPOSSIBLE:
        return None
    likeliest = ranking[0][0]
    return "in no known language" if likeliest == "zxx" else f"looks like {likeliest}"


@cache
def _language_identifier() -> LanguageIdentifier:
    """py3langid's packaged model of 140 languages: 0.7 s to load, once per process, and 120 MB.

    Of our own, not the module's, because that one can be restricted to other languages by anybody.

    Source: langid.py, Lui and Baldwin, ACL 2012 system demonstrations; py3langid by Adrien Barbaresi.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


# ------------------------------------------------------------------------------------------------------------- ending

# Marks that end a sentence, after the property Sentence_Terminal of the Unicode Standard, with the ellipses.
_TERMINALS = frozenset(
    ".!?\u2026\u2025\u203c\u203d\u2047\u2048\u2049\u2e2e\u2e3c"  # Latin, Greek, Cyrillic
    "\u0589\u055c\u055e\u05c3"  # Armenian, Hebrew
    "\u061d\u061e\u061f\u06d4\u0700\u0701\u0702\u07f9"  # Arabic, Syriac, N'Ko
    "\u0964\u0965\u0df4"  # Devanagari and its sisters, Sinhala
    "\u0f0d\u0f0e\u0f0f\u0f10\u0f11\u0f14\u104a\u104b\u17d4\u17d5\u17da"  # Tibetan, Myanmar, Khmer
    "\u1362\u1367\u1368\u166e\u1803\u1809"  # Ethiopic, Canadian syllabics, Mongolian
    "\u1944\u1945\u1aa8\u1aa9\u1aaa\u1aab\u1b5a\u1b5b\u1b5e\u1b5f\u1c3b\u1c3c\u1c7e\u1c7f"  # Limbu to Ol Chiki
    "\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua92f\uaa5d\uaa5e\uaa5f\uabeb"  # Lisu to Meetei Mayek
    "\u3002\uff01\uff0e\uff1f\uff61"  # Chinese and Japanese
)
_JAPANESE_CLOSING_QUOTES = "\u300d\u300f\uff63"
"""Speech in Japanese ends with these and no other mark."""

_UNPUNCTUATED = re.compile("[\u0e00-\u0eff]")
"""Thai and Lao have no mark that ends a sentence, so nothing can be told from their last letter."""

_CLOSING_CATEGORIES = frozenset(("Pe", "Pf", "Pi", "So", "Sk", "Mn", "Me", "Cf", "Zs", "Cc"))
"""Closing brackets, quotes of both directions ("»so«" and "„so“" close with the opening ones of English), emoji with
all that belongs to them, and blanks."""

_CLOSING_FORMULA = re.compile(
    r"""(?: ^ | \n | [^\w\s,;:] ) [\s*_~=#-]*
        (?: the (?:\ very)? \ end (?: \ of \ (?:the|this|my|our) \ (?:story|tale) )? | fin(?:is)? | amen | good\ ?night
          | sweet\ dreams ) $
    | \b (?:happily|for) \ ever \ after $""",
    re.VERBOSE | re.IGNORECASE,
)
_FOOTNOTE = re.compile(r"[(\[]\d{1,3}[)\]]$")
_FOOTNOTE_CHARACTERS = 5
_ORNAMENTS = "*_~=#- \t\n"
_FORMULA_CHARACTERS = 60


def has_ending(text: str) -> bool:
    """Whether a text ends as a complete story would, and not in the middle of a sentence.

    It does if it ends with a mark that ends a sentence in any script, which closing quotes, brackets, asterisks, emoji
    or the number of a footnote may follow; or with a closing formula that needs no mark, such as "The End" on its own.
    A colon, a comma, a dash or a bare word is no ending. A text in Thai or Lao, which have no such marks, always has
    one.
    """
    footnote = _FOOTNOTE.search(text[-_FOOTNOTE_CHARACTERS:])
    end = len(text) - (len(footnote[0]) if footnote else 0)
    while end and _closes(text[end - 1]):
        end -= 1
    if not end:
        return False
    last = text[end - 1]
    if last in _TERMINALS or _UNPUNCTUATED.match(last):
        return True
    if any(character in _JAPANESE_CLOSING_QUOTES for character in text[end:]):
        return True
    if last == ";" and end > 1 and "GREEK" in unicodedata.name(text[end - 2], ""):
        return True  # NFC makes the Greek question mark a semicolon
    return _CLOSING_FORMULA.search(text[:end].rstrip(_ORNAMENTS)[-_FORMULA_CHARACTERS:]) is not None


def _closes(character: str) -> bool:
    return character in "\"'*_`~" or unicodedata.category(character) in _CLOSING_CATEGORIES
