"""Texts encoded together have the ids that each has alone, whatever is in them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.data import original_stories
from gpt_oss_stories.tokenization import TokenizationError, harmony_vocabulary, many_texts, string_table
from gpt_oss_stories.tokenization.many_texts import LONGEST_PIECE, ManyTexts

VOCABULARY = harmony_vocabulary()
TOGETHER = ManyTexts(VOCABULARY)

BORDERS = st.text(
    st.sampled_from(
        " \n\r\t'’/.,!?-—“”\"sStTmMdDrReEvVlLaAbZ019²½éÉßſİıǅʰאあ中́̈\u200d\u00a0\u2003\u3000\u0085\x1c\x1f🐻👨Ⅷ٣"
        "\ufeff\u00ad\u17b4\ue000\U000e0100\u0378"
    ),
    max_size=40,
)
"""Texts of the characters at which the rules for pieces part ways."""


def alone(texts: list[str]) -> list[list[int]]:
    return [VOCABULARY.encode(text) for text in texts]


def together(encoder: ManyTexts, texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in encoder.encode(texts)]


@settings(max_examples=400, deadline=None)
@given(st.lists(BORDERS, max_size=8))
def test_texts_of_border_cases_have_the_same_ids(texts):
    assert together(TOGETHER, texts) == alone(texts)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=60), max_size=6))
def test_any_texts_have_the_same_ids(texts):
    assert together(TOGETHER, texts) == alone(texts)


def test_stories_have_the_same_ids():
    texts = [record.text for record in original_stories()]
    for begin in range(0, len(texts), 256):
        assert together(TOGETHER, texts[begin : begin + 256]) == alone(texts[begin : begin + 256])


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "  ", "\n", " \n ", "a\r\n\r\nb", "it's IT'S it'S we'LL I'd've 'tis ſhe'ſ", "don't 'll ''s",
        "CamelCase HTMLParser aB Ab AB", "1234567 1.5 ١٢٣٤", "//\n// x/\n", "...\n\n\nend  ", "\u0301a \u0301 a\u0301B",
        "あいう ABC中文", "<|endoftext|> <|start|>assistant", "x" * (LONGEST_PIECE + 1), " " * 3000 + "x",
    ],
)  # fmt: skip
def test_by_hand(text):
    assert together(TOGETHER, [text, "and another one", text]) == alone([text, "and another one", text])


def test_pieces_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(string_table, "MOST_STRINGS", 64)
    monkeypatch.setattr(many_texts, "MOST_STRINGS", 64)
    encoder = ManyTexts(VOCABULARY)
    for begin in range(20):
        texts = [f"kite{number} flew over pond{number}" for number in range(begin * 3, begin * 3 + 4)]
        texts.insert(2, " ".join(f"word{number}" for number in range(begin, begin + 40)))
        assert together(encoder, texts) == alone(texts)


def test_what_cannot_be_encoded_is_an_error():
    with pytest.raises(TokenizationError):
        TOGETHER.encode(["fine", "half a pair \ud800"])
