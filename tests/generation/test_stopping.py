"""Stop strings: nothing of them comes out, and nothing else is lost, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.generation.stopping import StopStrings


def run(strings: list[str], pieces: list[str]) -> tuple[str, str | None]:
    stop = StopStrings(strings)
    text = "".join([stop.push(piece) for piece in pieces])
    return text + stop.finish(), stop.found


@pytest.mark.parametrize(
    ("strings", "pieces", "expected"),
    [
        ([], ["The", " end"], ("The end", None)),
        (["end"], ["The", " end", " now"], ("The ", "end")),
        (["The end"], ["So. T", "he", " e", "nd."], ("So. ", "The end")),
        (["The end"], ["The", " ear"], ("The ear", None)),
        (["aab"], ["aa", "ab"], ("a", "aab")),
        (["bc", "abcd"], ["ab", "cd"], ("a", "bc")),
        (["ab", "abc"], ["abc"], ("", "ab")),
    ],
)
def test_by_hand(strings, pieces, expected):
    assert run(strings, pieces) == expected


@given(
    strings=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    pieces=st.lists(st.text("abc", max_size=4), max_size=10),
)
def test_equals_a_search_that_sees_one_letter_at_a_time(strings, pieces):
    """The slow twin adds letter by letter and looks for the first stop string that is complete."""
    text = "".join(pieces)
    expected: tuple[str, str | None] = (text, None)
    for end in range(1, len(text) + 1):
        done = [string for string in strings if text[:end].endswith(string)]
        if done:
            longest = max(done, key=len)
            expected = (text[: end - len(longest)], longest)
            break
    assert run(strings, list(text)) == expected
    assert run(strings, pieces) == expected


def test_what_may_be_a_beginning_is_held_back_only_as_long_as_needed():
    stop = StopStrings(["\n\nThe end"])
    assert stop.push("Bye.\n") == "Bye."
    assert stop.push("\nThe") == ""
    assert stop.push("n") == "\n\nThen"


def test_an_empty_stop_string_is_refused():
    with pytest.raises(StoryError, match="empty"):
        StopStrings(["", "x"])
