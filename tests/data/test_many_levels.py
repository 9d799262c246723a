"""Levels of many stories at once are those of each alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.data import original_stories
from gpt_oss_stories.data.many_levels import ManyLevels
from gpt_oss_stories.data.words import words_of
from gpt_oss_stories.tokenization import string_table

LEVELS = ManyLevels()

STRINGS = [
    '"Stop!"', "Tom", "said.", "said", "the", "The", "little", "old", "woman", "cried.", "Mr.", "A.", "Run!", "and",
    "...", "“Oh,”", "“Why?”", "He", "he", "asked,", "(No.)", "3.", "—", "It", "was", "late.", "!", "one-two",
    "butterfly", "x" * 70,
]  # fmt: skip
SPACES = [" ", " ", " ", "\n", "\n\n", "\n\n\n", " \n \n", "\t", "\u2003", "\u0085", "\x1c", "\r\n"]
TEXTS = st.lists(st.tuples(st.sampled_from(STRINGS), st.sampled_from(SPACES)), max_size=30).map(
    lambda pairs: "".join(string + space for string, space in pairs)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=6))
def test_made_up_texts_have_the_same_levels(texts: list[str]) -> None:
    assert LEVELS.words(texts) == list(map(words_of, texts))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_any_texts_have_the_same_levels(texts: list[str]) -> None:
    assert LEVELS.words(texts) == list(map(words_of, texts))


def test_stories_have_the_same_levels() -> None:
    texts = [record.text for record in original_stories()]
    assert LEVELS.words(texts) == list(map(words_of, texts))


def test_strings_are_forgotten_when_there_are_too_many(monkeypatch) -> None:
    monkeypatch.setattr(string_table, "MOST_STRINGS", 64)
    monkeypatch.setattr("gpt_oss_stories.data.many_levels.MOST_STRINGS", 64)
    levels = ManyLevels()
    for begin in range(20):
        texts = [f"The kite{number} flew. Over pond{number}!" for number in range(begin * 3, begin * 3 + 4)]
        texts.insert(2, " ".join(f"word{number}." for number in range(begin, begin + 40)))
        assert levels.words(texts) == list(map(words_of, texts))
