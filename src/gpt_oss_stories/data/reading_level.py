"""How hard an English story is to read: words, sentences, syllables, and the school grade that they come to.

    level = reading_level(text)
    level.flesch_kincaid_grade    2.4
    grade_band(level)             "ages 6 to 7"

Words are counted as Flesch counted them: what stands between blanks or dashes, so that "don't", "well-known" and "1984"
are one word each. Syllables come from rules of spelling and a list of common words that break them. Of the words in
5,327 English children's stories that are in the CMU Pronouncing Dictionary, 99.9% get a count that the dictionary has;
of all its words, mostly names, 93%. The dictionary itself would cost 0.2 s to load, lacks 1% of the words of these
stories, and its Python package is under the GPL.

All of it is made for English; numbers for other languages mean nothing. Pure functions: same text, same answer.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

HARD_WORD_SYLLABLES = 3
"""A word of so many syllables is hard: the polysyllables of McLaughlin's SMOG grading, Journal of Reading 12 (1969)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingLevel:
    """The counts of one text and what the known formulas make of them; None where a text has no words."""

    words: int
    sentences: int
    syllables: int
    hard_words: int
    """Words of three or more syllables."""

    @property
    def flesch_kincaid_grade(self) -> float | None:
        """Grade of a US school, first grade being the age of six to seven; easy texts come out below zero.

        Source: Kincaid, Fishburne, Rogers and Chissom, Research Branch Report 8-75, Naval Technical Training (1975).
        """
        if not self.words:
            return None
        return 0.39 * self.words / self.sentences + 11.8 * self.syllables / self.words - 15.59

    @property
    def flesch_reading_ease(self) -> float | None:
        """About 0 (very hard) to 100 (very easy); easy texts come out above it.

        Source: Flesch, A new readability yardstick, Journal of Applied Psychology 32 (1948).
        """
        if not self.words:
            return None
        return 206.835 - 1.015 * self.words / self.sentences - 84.6 * self.syllables / self.words

    @property
    def hard_word_share(self) -> float | None:
        """Share of words with three or more syllables, from 0 to 1."""
        return self.hard_words / self.words if self.words else None

    def to_dict(self) -> dict[str, Any]:
        """The counts and the measures by name, for metadata and reports; grades are rounded to two places."""
        grade, ease, share = self.flesch_kincaid_grade, self.flesch_reading_ease, self.hard_word_share
        return {
            "words": self.words,
            "sentences": self.sentences,
            "syllables": self.syllables,
            "hard_words": self.hard_words,
            "flesch_kincaid_grade": None if grade is None else round(grade, 2),
            "flesch_reading_ease": None if ease is None else round(ease, 2),
            "hard_word_share": None if share is None else round(share, 4),
        }


GRADE_BANDS: tuple[tuple[float, str], ...] = (
    (1.0, "ages 3 to 5"),
    (3.0, "ages 6 to 7"),
    (5.0, "ages 8 to 9"),
    (8.0, "ages 10 to 12"),
    (float("inf"), "ages 13 and up"),
)
"""Bands for reports: the grade below which each ends, and the ages at which children are in these grades. The youngest
are read to."""

NO_BAND = "no words"


def grade_band(level: ReadingLevel) -> str:
    """The band of `GRADE_BANDS` that a text's Flesch-Kincaid grade is in, or `NO_BAND`."""
    grade = level.flesch_kincaid_grade
    if grade is None:
        return NO_BAND
    return next(band for below, band in GRADE_BANDS if grade < below)


def reading_level(text: str) -> ReadingLevel:
    """Count the words, sentences, syllables and hard words of a text.

    A sentence ends with ".", "!", "?" or an ellipsis, quotes and brackets included, unless the next word begins small
    ('"Stop!" said Tom.' is one sentence) or says who spoke ('"Stop!" Tom said.'), or the dot belongs to a title or an
    initial. An empty line always ends one.
    """
    words = syllables = hard_words = sentences = 0
    for paragraph in text.split("\n\n"):
        tokens = paragraph.split()
        try:
            # Without a step of Python for each string, which would take most of the time.
            signs = bytes(map(_SIGNS.__getitem__, tokens))  # the first to miss a string
            for begin in range(0, len(tokens), _TOGETHER):
                total = sum(map(_COUNTS.__getitem__, tokens[begin : begin + _TOGETHER]))
                words += total & _FIELD
                syllables += total >> _BITS & _FIELD
                hard_words += total >> 2 * _BITS
        except KeyError:
            known = list(map(_look_up, tokens))
            signs = bytes(sign for _, _, _, sign in known)
            words += sum(one for one, _, _, _ in known)
            syllables += sum(one for _, one, _, _ in known)
            hard_words += sum(one for _, _, one, _ in known)
        sentences += sum(map(bool, map(_ANY_WORD.search, _SENTENCE_BORDER.split(signs))))
    return ReadingLevel(words=words, sentences=sentences, syllables=syllables, hard_words=hard_words)


# ---------------------------------------------------------------------------------------------------------- sentences

END, SPEECH_END, SMALL, VERB, STOP, WORD = (1 << bit for bit in range(6))
"""Signs of a string between two blanks: a sentence may end with it, or a speech; it begins with a small letter; it is a
verb of speaking; who spoke is not said beyond it; it has a letter or digit."""

_SENTENCE_END = re.compile(r"""([.!?…])["'”’»)\]*_]*$""")
_SPEECH_WITH_MARK = re.compile(r"""[!?….]["'”’»][*_]*$""")
_OPENERS = "\"'“‘«([*_-–—"

_TITLES = frozenset(("mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "capt.", "rev.", "mt.", "vs.", "e.g.", "i.e."))
_INITIAL = re.compile(r"""["“'‘(]*(?!I\.)[A-Z]\.$""")

_SPEECH_VERBS = frozenset(
    word
    for line in (
        "added agreed answered asked asks barked begged bellowed boomed called calls chirped cried cries croaked",
        "exclaimed gasped giggled groaned growled grumbled hissed hooted howled laughed moaned mumbled murmured",
        "muttered repeated replied replies roared said sang says screamed screeched shouted shouts shrieked sighed",
        "sings sobbed squeaked squealed thought told wailed whispered whispers wondered yelled yells",
    )
    for word in line.split()
)
ATTRIBUTION_WORDS = 4
"""Who spoke is said within so many words: "the little old woman cried"."""


def signs_of_string(token: str, has_word: bool) -> int:
    """What matters of a string between two blanks for where sentences end."""
    signs = WORD if has_word else 0
    if _SENTENCE_END.search(token) and token.lstrip(_OPENERS).lower() not in _TITLES and not _INITIAL.match(token):
        signs |= SPEECH_END if _SPEECH_WITH_MARK.search(token) else END
    if token.lstrip(_OPENERS)[:1].islower():
        signs |= SMALL
    if token.rstrip(".,:;!?").lower() in _SPEECH_VERBS:
        signs |= VERB
    elif token[0] in _OPENERS or (token[-1] in ".,;:!?" and token.lower() not in _TITLES):
        signs |= STOP
    return signs


def _bytes_with(signs: int) -> str:
    """A set, for a regular expression, of the bytes that have one of some signs."""
    return "".join(f"\\x{byte:02x}" for byte in range(64) if byte & signs)


_ANY_WORD = re.compile(f"[{_bytes_with(WORD)}]".encode())
_SENTENCE_BORDER = re.compile(
    # After a speech, who spoke may be said within some words: not a border if a verb comes before anything stops.
    f"(?<=[{_bytes_with(END)}])(?![{_bytes_with(SMALL)}])|"
    f"(?<=[{_bytes_with(SPEECH_END)}])(?![{_bytes_with(SMALL)}])"
    f"(?![^{_bytes_with(VERB | STOP)}]{{0,{ATTRIBUTION_WORDS - 1}}}[{_bytes_with(VERB)}])".encode()
)
"""Where a sentence ends, in the signs of a paragraph's strings."""


# -------------------------------------------------------------------------------------------------- words and syllables

_WORD_BREAK = re.compile(r"[—–/]|--+|\.\.+|…")
_LETTERS_OR_DIGIT = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d")


_LONGEST = 2**6
"""Strings of this length and more are not remembered."""

_MOST_REMEMBERED = 2**16

_BITS = 20
_FIELD = 2**_BITS - 1
_TOGETHER = 2**12
"""Strings whose counts are added up as one number of three fields: of so many remembered ones the sum of each fits."""

_COUNTS: dict[str, int] = {}
"""Words, syllables and hard words of strings between two blanks, in three fields of a number. They come again and
again in stories."""

_SIGNS: dict[str, int] = {}
"""Their signs."""


def _look_up(token: str) -> tuple[int, int, int, int]:
    """Words, syllables, hard words and signs of a string, remembered from now on unless it is long."""
    if token in _SIGNS:
        counts = _COUNTS[token]
        return counts & _FIELD, counts >> _BITS & _FIELD, counts >> 2 * _BITS, _SIGNS[token]
    words, syllables, hard = count_string(token)
    signs = signs_of_string(token, words > 0)
    if len(token) < _LONGEST:
        if len(_SIGNS) >= _MOST_REMEMBERED:
            _COUNTS.clear()
            _SIGNS.clear()
        _COUNTS[token] = words + (syllables << _BITS) + (hard << 2 * _BITS)
        _SIGNS[token] = signs
    return words, syllables, hard, signs


def count_string(token: str) -> tuple[int, int, int]:
    """Words, syllables and hard words of what stands between two blanks."""
    words = syllables = hard = 0
    for part in _WORD_BREAK.split(token):
        # A digit counts as one syllable, which is about what it is read as.
        counts = [1 if piece.isdigit() else count_syllables(piece) for piece in _LETTERS_OR_DIGIT.findall(part)]
        if counts:
            words += 1
            syllables += sum(counts)
            hard += max(counts) >= HARD_WORD_SYLLABLES
    return words, syllables, hard


_VOWELS = re.compile("[aeiouy]+")

_SILENT_E = re.compile(
    r"[^aeiouy](?:e|es|ed)$"
    r"|[^aeiouy]e(?:ly|ful|fully|less|ness|times?|thing|man|men|self|boats?|one|where|body|how|what|day)$"
    r"|[^aeiouyim]ements?$"
)
"""An "e" that is written and not spoken: cake, cakes, baked, lonely, something, movement."""

_SPOKEN_E = re.compile(r"[^aeiouylrw]le(?:[sd]|ment|ness)?$|(?:[sxz]|[cs]h|[cg])es$|[td]ed$")
"""Where the expression above would go wrong: little, settled, boxes, wanted."""

_DIVIDED_VOWELS = re.compile(
    r"(?<![tscgx])i[ao](?!n$|ns$|g)"  # piano, diary; not nation, carriage
    r"|(?<![tscgxq])iu"  # stadium
    r"|[aeiouy]ing"  # going
    r"|(?<![tscgaoeu])ie(?=r$|rs$|st$|t|nt|nc)"  # happier, quiet, client
    r"|(?<![gaeiou])eo(?![up])"  # video; not people, pigeon
    r"|[^gq]ua(?![riy])"  # usual
    r"|[aeo]ya|[ao]yo|[ao]ye(?![sd]?$)"  # royal, mayor, player; not played
    r"|ism$"
    r"|[sd]n't$"  # didn't
    r"|(?:[sxz]|[cs]h|[cgsxz]e)'s$"  # the fox's, the mouse's
    r"|^mc"
)
"""Places that have one syllable more than groups of vowels."""

_EXCEPTIONS = {
    word: count
    for count, words in {
        1: "bier dower drawer huang league liu ma'am niall pier plague priest rogue tongue torque vague",
        2: (
            "acre agnes awesome barefoot baseball beyond bracelet brian bridegroom brilliant bruin business "
            "cement centre chaos chloe chocolate choir create crooked cruel diamond dr dryer duel elsewhere esme "
            "evening farewell fashioned fire fired firewood fireworks forehead foremost foretold fuel genius "
            "giant gruel hatred hedgehog henceforth hired homesick homestead homeward homework horseback "
            "household housework hundred iceberg ines jagged joey jose julia kindred lifetime likewise lion "
            "lonesome maybe mr mrs mustn't naked nineteen ninety noa noah notebook ogre ok opera persuade poem "
            "poet quiet ragged rely rhythm rugged ruin ruined sabre sacred safety saucepan scarecrow science "
            "shoreline sidewalk sideways sire soldier someone sometimes somewhere spaceship storehouse storeroom "
            "thereby therefore tire tired tv unique warehouse wasteland wednesday wherefore wicked william "
            "wretched zoe"
        ),
        3: (
            "acquired admired alien anyone area ariel attire beforehand behavior behaviour carelessly caretaker "
            "cereal champion convenient courtier created creating creation creative desire desired devour "
            "devoured diego easier empire entire everyone familiar fiery gabriel gentleman gentlemen guardian "
            "hercules heroic hideous housekeeper hyacinth hyena idea indian influence inquired inspired juiciest "
            "koala lonelier loneliness millionaire moreover mosaic mozambique museum oasis peculiar persuaded "
            "persuasive poetry prettier prettiest quieter quietly reaction realised realize realized rebellious "
            "ruining sapphire scorpion theater theatre ticklish timetable umpire valuable vegetable whoever "
            "wiggly wobbly"
        ),
        4: (
            "agreeable appreciate entirely january librarian nevertheless reality realizing retirement society watanabe"
        ),
        5: "appreciated creativity disagreeable enthusiasm enthusiastic hyacinthia",
    }.items()
    for word in words.split()
}
"""Common words of stories that the rules would get wrong."""


def count_syllables(word: str) -> int:
    """Syllables of one English word, at least 1: groups of vowels, with the silent ones taken off and the divided ones
    added, or what the list of exceptions says."""
    word = word.lower().replace("’", "'")
    if not word.isascii():
        word = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    stem = word.removesuffix("'s")
    known = _EXCEPTIONS.get(stem) or _EXCEPTIONS.get(stem.removesuffix("s"))
    if known:
        return known
    count = len(_VOWELS.findall(stem)) - stem.startswith("every")
    if count > 1 and _SILENT_E.search(stem) and not _SPOKEN_E.search(stem):
        count -= 1
    return max(1, count + len(_DIVIDED_VOWELS.findall(word)))
