"""The story vocabulary cuts its corpus as harmony does, holds no token without a reason, and loses no text."""

from __future__ import annotations

import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.data.originals import original_stories
from gpt_oss_stories.tokenization import (
    StoryVocabulary,
    TokenizationError,
    build_story_vocabulary,
    count_tokens,
    harmony_vocabulary,
)
from gpt_oss_stories.tokenization.conversation import fixed_texts
from gpt_oss_stories.tokenization.story_vocabulary import merge_parts
from gpt_oss_stories.tokenization.vocabulary import HARMONY_SPECIALS

CORPUS = (
    "Long ago, when the moon was still learning to be round, a hedgehog named Juniper lived under a bakery.",
    "She wasn't afraid of the dark. \"I'm only afraid of bicycles,\" she'd say, and nobody could change her mind.",
    "One evening\nthe baker left 12 buns   on the step!\r\n\tJuniper counted them twice: 12... No, 11?!",
    "Naïve Zoë's café 龟 🐢🐢 — “hooray”, THE END. unbelievablyextraordinarily",
)


@functools.cache
def story_vocabulary(texts: tuple[str, ...] = CORPUS, min_count: int = 1) -> StoryVocabulary:
    return build_story_vocabulary(count_tokens(harmony_vocabulary(), texts), min_count)


def in_harmony_ids(vocabulary: StoryVocabulary, text: str) -> list[int]:
    return [vocabulary.harmony_ids[id] for id in vocabulary.encode(text)]


def test_the_corpus_is_cut_as_by_harmony() -> None:
    vocabulary = story_vocabulary()
    for text in CORPUS:
        assert in_harmony_ids(vocabulary, text) == harmony_vocabulary().encode(text)


@settings(deadline=None, max_examples=40)
@given(texts=st.lists(st.text(max_size=50), max_size=4), words=st.lists(st.sampled_from(" ".join(CORPUS).split())))
def test_any_corpus_is_cut_as_by_harmony(texts: list[str], words: list[str]) -> None:
    corpus = (*texts, "".join(words), " ".join(words), "a")
    vocabulary = story_vocabulary(corpus)
    for text in corpus:
        assert in_harmony_ids(vocabulary, text) == harmony_vocabulary().encode(text)


@settings(deadline=None)
@given(text=st.text())
def test_other_texts_come_back_unchanged(text: str) -> None:
    vocabulary = story_vocabulary()
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_a_whole_collection_is_cut_as_by_harmony() -> None:
    texts = tuple(story.text for story in original_stories())
    vocabulary, harmony = story_vocabulary(texts), harmony_vocabulary()
    plain = harmony.encode_batch(texts)
    assert [in_harmony_ids(vocabulary, text) for text in texts] == plain
    assert vocabulary.size < harmony.size / 20
    common = story_vocabulary(texts, min_count=5)
    growth = sum(map(len, common.encode_batch(texts))) / sum(map(len, plain))
    assert common.size < 0.65 * vocabulary.size
    assert 1 < growth < 1.04


def test_each_kept_token_is_merged_from_kept_tokens() -> None:
    vocabulary, harmony = story_vocabulary(), harmony_vocabulary()
    kept = [vocabulary.token_bytes(id) for id in range(vocabulary.ordinary_size)]
    assert sum(len(token) > 1 for token in kept) > 200  # the loop below is about something
    for token in kept:
        if len(token) > 1:
            parts = merge_parts(token, harmony.rank)
            assert parts is not None
            assert b"".join(parts) == token
            assert set(parts) <= set(kept)
            assert merge_parts(token, vocabulary.rank) == parts  # fewer tokens, the same last step


def test_nothing_is_kept_without_a_reason() -> None:
    vocabulary, harmony = story_vocabulary(), harmony_vocabulary()
    needed = {harmony.token_bytes(id) for text in (*CORPUS, *fixed_texts()) for id in harmony.encode(text)}
    for _ in range(128):
        needed |= {part for token in needed for part in merge_parts(token, harmony.rank) or ()}
    needed |= {bytes([byte]) for byte in range(256)}
    assert {vocabulary.token_bytes(id) for id in range(vocabulary.ordinary_size)} == needed


def test_the_parts_of_a_token_are_those_of_the_lowest_ranks() -> None:
    ranks = {b"ab": 5, b"bc": 3, b"cd": 4, b"abc": 6, b"bcd": 7, b"abcd": 8}
    assert merge_parts(b"abcd", ranks.get) == (b"abc", b"d")  # bc first, then abc before bcd
    assert merge_parts(b"ab", ranks.get) == (b"a", b"b")
    assert merge_parts(b"a", ranks.get) is None
    assert merge_parts(b"wxyz", ranks.get) is None  # no merge leads there
    assert merge_parts(b"aaa", {b"aa": 1}.get) == (b"aa", b"a")  # the leftmost of equals


def test_ids_follow_the_ranks_and_control_tokens_come_last() -> None:
    vocabulary = story_vocabulary()
    ids = list(vocabulary.harmony_ids)
    assert ids == sorted(set(ids))
    assert len(ids) == vocabulary.size == vocabulary.ordinary_size + len(HARMONY_SPECIALS)
    assert ids[vocabulary.ordinary_size :] == list(HARMONY_SPECIALS.values())
    for id in range(vocabulary.ordinary_size):
        assert vocabulary.token_bytes(id) == harmony_vocabulary().token_bytes(ids[id])


def test_all_single_bytes_are_kept() -> None:
    vocabulary = story_vocabulary(("a",))
    assert all(vocabulary.rank(bytes([byte])) is not None for byte in range(256))


def test_fixed_texts_cost_no_more_than_in_harmony() -> None:
    vocabulary = story_vocabulary(("a",))
    for text in fixed_texts():
        assert in_harmony_ids(vocabulary, text) == harmony_vocabulary().encode(text)


def test_rare_tokens_can_be_left_out() -> None:
    harmony = harmony_vocabulary()
    often, seldom = harmony.encode(" hedgehog hedgehog")[-1], harmony.encode(" juniper")
    counts = {often: 3, **dict.fromkeys(seldom, 2)}
    sizes = [build_story_vocabulary(counts, minimum).size for minimum in (1, 2, 3, 4)]
    assert sizes[0] == sizes[1] > sizes[2] > sizes[3]
    assert often in build_story_vocabulary(counts, 3).harmony_ids
    assert often not in build_story_vocabulary(counts, 4).harmony_ids
    tight = story_vocabulary(min_count=3)
    assert tight.size < story_vocabulary().size
    for text in CORPUS:
        assert tight.decode(tight.encode(text)) == text


def test_the_order_of_counting_does_not_matter() -> None:
    counts = count_tokens(harmony_vocabulary(), CORPUS)
    backwards = dict(reversed(counts.items()))
    assert build_story_vocabulary(backwards).fingerprint == build_story_vocabulary(counts).fingerprint
    more = {**counts, harmony_vocabulary().encode(" zebra")[0]: 1}
    assert build_story_vocabulary(more).fingerprint != build_story_vocabulary(counts).fingerprint


def test_counted_control_tokens_change_nothing() -> None:
    counts = count_tokens(harmony_vocabulary(), CORPUS)
    rendered = {**counts, HARMONY_SPECIALS["startoftext"]: 4, 200_500: 1}
    assert build_story_vocabulary(rendered).fingerprint == build_story_vocabulary(counts).fingerprint


@pytest.mark.parametrize(
    ("counts", "minimum", "problem"),
    [
        ({}, 1, "none were counted"),
        ({201_088: 1}, 1, "1 occurrences of token 201088 cannot be"),
        ({-1: 1}, 1, "token -1 cannot be"),
        ({5: -2}, 1, "-2 occurrences of token 5"),
        ({5: 1}, 0, "min_count=0 must be at least 1"),
    ],
)
def test_impossible_counts_are_refused(counts: dict[int, int], minimum: int, problem: str) -> None:
    with pytest.raises(TokenizationError, match=problem):
        build_story_vocabulary(counts, minimum)


def test_merging_never_crosses_pieces() -> None:
    # Words side by side are cut apart before merging, so a corpus of words covers their combinations with spaces.
    vocabulary, harmony = story_vocabulary((" the hedgehog ran home",)), harmony_vocabulary()
    for words in itertools.permutations([" the", " hedgehog", " ran", " home"]):
        assert in_harmony_ids(vocabulary, "".join(words)) == harmony.encode("".join(words))
