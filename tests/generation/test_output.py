"""What reaches a terminal, a pipe, and a reader of JSON."""

from __future__ import annotations

import io
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss_stories.generation.engine import Story
from gpt_oss_stories.generation.output import (
    StoryWriter,
    describe_end,
    harmless,
    print_json_lines,
    print_stories,
    write_safely,
)


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def story(**changes) -> Story:
    fields = {
        "prompt": "Once", "continuation": " there was a fox.", "prompt_tokens": (1, 2), "tokens": (3, 4, 5),
        "finish_reason": "end", "note": None, "seconds": 0.5, "seed": 42,
    }  # fmt: skip
    return Story(**{**fields, **changes})


def plain(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)


def test_steering_characters_become_pictures():
    assert harmless("\x1b[31mred\x07\x9b2J\x7f") == "␛[31mred␇\ufffd2J␡"
    assert harmless("a\tb\r\nc “d” é 🦊") == "a\tb\nc “d” é 🦊"


@given(st.text())
def test_nothing_harmless_can_steer_a_terminal(text):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", harmless(text))


@given(
    text=st.text(alphabet="ab \n🦊狐", max_size=80),
    cuts=st.lists(st.integers(0, 80), max_size=5),
    width=st.integers(2, 12),
)
def test_wrapping_is_the_same_however_the_text_comes_and_loses_no_word(text, cuts, width):
    whole, pieces = io.StringIO(), io.StringIO()
    one, many = StoryWriter(whole, width=width), StoryWriter(pieces, width=width)
    one.write(text)
    one.finish()
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for begin, end in itertools.pairwise(edges):
        many.write(text[begin:end])
    many.finish()
    assert whole.getvalue() == pieces.getvalue()
    assert re.sub(r"\s", "", whole.getvalue()) == re.sub(r"\s", "", text)
    for line in whole.getvalue().split("\n"):
        wide = sum(2 if letter in "🦊狐" else 1 for letter in line)
        assert wide <= width + 1  # a wide letter may stand on the edge when a word is cut


def test_wrapping_by_hand_keeps_paragraphs():
    out = io.StringIO()
    writer = StoryWriter(out, width=12)
    for piece in ["The lit", "tle fox ran", " home.\n\n", "Mother", " was glad."]:
        writer.write(piece)
    writer.finish()
    assert out.getvalue() == "The little\nfox ran\nhome.\n\nMother was\nglad.\n"


def test_a_word_comes_out_as_soon_as_it_is_whole():
    out = io.StringIO()
    writer = StoryWriter(out, width=40)
    writer.write("Once upon a ti")
    assert out.getvalue() == "Once upon a"
    writer.write("me there")
    assert out.getvalue() == "Once upon a time"


def test_bold_does_not_count_as_columns_and_ends_with_the_prompt():
    out = io.StringIO()
    writer = StoryWriter(out, width=16, styled=True)
    writer.write("Once upon a time", bold=True)
    writer.write(", far away.")
    writer.finish()
    assert out.getvalue() == "\x1b[1mOnce upon a\ntime\x1b[22m, far away.\n"


def test_in_a_pipe_text_is_not_wrapped_or_styled():
    out = io.StringIO()
    print_stories([story(continuation=" word" * 60)], out, io.StringIO())
    assert out.getvalue() == "Once" + " word" * 60 + "\n"


def test_on_a_terminal_the_prompt_is_bold_and_lines_fit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out, talk = Terminal(), Terminal()
    print_stories([story(continuation=" word" * 60)], out, talk)
    assert out.getvalue().startswith("\x1b[1mOnce\x1b[22m word")
    assert max(map(len, plain(out.getvalue()).split("\n"))) <= 40
    assert "[3 tokens in 0.5 s (6 tokens/s), ended by itself, seed 42]" in talk.getvalue()


def test_no_color_and_dumb_terminals_get_no_codes(monkeypatch):
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            out = Terminal()
            print_stories([story()], out, Terminal())
            assert "\x1b" not in out.getvalue()


def test_several_stories_have_headings_and_their_remarks_stay_out_of_the_pipe():
    out, talk = io.StringIO(), io.StringIO()
    print_stories([story(), story(continuation=" was an owl.\n")], out, talk)
    assert out.getvalue() == (
        "--- Story 1 of 2 ---\n\nOnce there was a fox.\n\n--- Story 2 of 2 ---\n\nOnce was an owl.\n"
    )
    assert talk.getvalue().count("seed 42") == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "ended by itself"),
        ({"finish_reason": "length"}, "cut: max-tokens is reached"),
        (
            {"finish_reason": "length", "note": "the model's context of 20 tokens is full"},
            "cut: the model's context of 20",
        ),
        ({"finish_reason": "stop"}, "ended at a stop string"),
        ({"finish_reason": "cancelled"}, "stopped by you"),
        ({"tokens": (1,)}, "1 token in"),
        ({"seconds": 0.0}, "(0 tokens/s)"),
    ],
)
def test_the_remark_says_why_a_story_ended(changes, words):
    assert words in describe_end(story(**changes))


def test_json_lines_hold_everything_and_no_raw_control_characters():
    out = io.StringIO()
    print_json_lines([story(continuation=" \x1b\x9b “hi”\n"), story(note="x")], out)
    assert out.getvalue().isascii()
    lines = out.getvalue().splitlines()
    first, second = map(json.loads, lines)
    assert first == {
        "schema": 1, "prompt": "Once", "text": "Once \x1b\x9b “hi”\n", "continuation": " \x1b\x9b “hi”\n",
        "finish_reason": "end", "note": None, "prompt_token_count": 2, "token_count": 3, "seconds": 0.5,
        "tokens_per_second": 6.0, "seed": 42,
    }  # fmt: skip
    assert second["note"] == "x"


def test_streams_of_small_encodings_get_question_marks():
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    write_safely(out, "“é”!")
    out.flush()
    assert raw.getvalue() == b"???!"
