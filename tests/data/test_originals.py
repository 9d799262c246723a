"""The packaged stories: all there, with their fields, and refused when damaged."""

from __future__ import annotations

import gzip
from collections import Counter
from importlib import resources

import pytest

from gpt_oss_stories.data.originals import original_stories, parse_original_stories
from gpt_oss_stories.data.records import length_of
from gpt_oss_stories.data.sources import DataError


def packaged() -> bytes:
    return (resources.files("gpt_oss_stories.data") / "assets" / "original_stories.jsonl.gz").read_bytes()


def test_all_stories_are_there_with_requests_summaries_and_questions():
    stories = original_stories()
    assert len(stories) == 1299
    assert sum(len(story.questions) for story in stories) == 3750
    assert all(story.title and story.summary and story.license == "CC0-1.0" for story in stories)
    assert Counter(story.request.age for story in stories) == {3: 142, 4: 317, 5: 295, 6: 262, 7: 142, 8: 141}
    assert {story.request.length for story in stories} == {"short", "medium", "long"}


def test_fields_of_the_first_story_are_mapped():
    story = original_stories()[0]
    assert story.title == "The Floury Helper"
    assert story.text.startswith("At four in the morning the wind lifted the bakery gate")
    request = story.request
    assert (request.hero_name, request.hero_kind, request.age) == ("Otis", "snowman", 7)
    assert request.companions == ("Mrs. Pell the baker", "the new helper, a boy")
    assert (request.setting, request.theme, request.lesson) == ("a bakery before sunrise", "a storm", None)
    assert request.words == ("sort", "gate", "thin")
    assert request.features == ("a twist near the end", "a rhyme somewhere in it")
    assert request.length == length_of(story.text)
    assert story.questions[0].answer == "The ovens had gone off"
    assert story.questions[0].choices[story.questions[0].answer_index] == story.questions[0].answer


def test_the_list_may_be_changed_without_changing_the_next_one():
    original_stories().clear()
    assert len(original_stories()) == 1299


def test_asset_was_packed_without_time_and_name():
    header = packaged()[:10]
    assert header[3] == 0  # no name
    assert header[4:8] == bytes(4)  # no time


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:5000] + bytes([raw[5000] ^ 1]) + raw[5001:],
        lambda raw: gzip.compress(b'{"text": "another file"}\n'),
        lambda raw: b"not gzip at all",
    ],
    ids=["missing", "cut", "one bit", "another file", "not gzip"],
)
def test_damaged_asset_is_one_clear_error(damage):
    with pytest.raises(DataError, match=r"damaged or missing.*Install the package again") as error:
        parse_original_stories(damage(packaged()))
    assert "\n" not in str(error.value)
