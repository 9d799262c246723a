"""What words owe each other: articles, pronouns, capitals."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Pronouns:
    """The forms that stand for one person or thing."""

    subject: str
    object: str
    possessive: str
    reflexive: str


SHE = Pronouns("she", "her", "her", "herself")
HE = Pronouns("he", "him", "his", "himself")
IT = Pronouns("it", "it", "its", "itself")
THEY = Pronouns("they", "them", "their", "themselves")

# Spelled with a vowel but spoken with a consonant, and the other way round.
_CONSONANT_SOUNDS = ("one", "once", "use", "useful", "unicorn", "uniform")
_VOWEL_SOUNDS = ("hour", "honest")

_ARTICLE = re.compile(r"\b([Aa])n? (?=([A-Za-z]+))")
# One speech right after another is another speaker's.
_NEXT_SPEAKER = re.compile(r'(?<=[.,!?])" "')
_SPACES = re.compile(r" {2,}")
_SPACE_BEFORE = re.compile(r" (?=[.,!?;:\n]|$)")
_SENTENCE_START = re.compile(r"(?:^|(?<=[.!?] )|(?<=\n))[a-z]")


def article_for(word: str) -> str:
    """`a` or `an`, by how the word sounds."""
    word = word.lower()
    if word in _VOWEL_SOUNDS:
        return "an"
    return "an" if word[0] in "aeiou" and word not in _CONSONANT_SOUNDS else "a"


def with_article(phrase: str) -> str:
    """`a red kite`, `an old owl`."""
    return f"{article_for(phrase.split(' ', 1)[0])} {phrase}"


def capitalized(phrase: str) -> str:
    """The phrase with its first letter in upper case, the rest untouched."""
    return phrase[:1].upper() + phrase[1:]


_SMALL_WORDS = frozenset(("a", "an", "and", "at", "by", "for", "in", "is", "of", "on", "or", "the", "to", "with"))


def title_case(phrase: str) -> str:
    """`The House in the Flower Pot`."""
    words = phrase.split(" ")
    return " ".join(word if index and word in _SMALL_WORDS else capitalized(word) for index, word in enumerate(words))


def _agreeing_article(match: re.Match[str]) -> str:
    found = article_for(match[2])
    return (found.capitalize() if match[1] == "A" else found) + " "


def mend_articles(phrase: str) -> str:
    """The phrase with `a` or `an` wherever the next word asks for it."""
    return _ARTICLE.sub(_agreeing_article, phrase)


def polish(text: str) -> str:
    """Mend what joining phrases leaves behind: articles, doubled spaces, capitals at the start of sentences."""
    text = _NEXT_SPEAKER.sub('"\n"', text)
    text = _SPACE_BEFORE.sub("", _SPACES.sub(" ", text)).replace("\n ", "\n")
    text = mend_articles(text)
    return _SENTENCE_START.sub(lambda match: match[0].upper(), text)
