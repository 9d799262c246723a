"""The interactive mode, driven by lines."""

from __future__ import annotations

import io

import pytest

from gpt_oss_stories.config import GenerationConfig
from gpt_oss_stories.generation import Storyteller
from gpt_oss_stories.generation import interactive as module
from gpt_oss_stories.generation.interactive import InteractiveSession, run_interactive

GREEDY = GenerationConfig(temperature=0)


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def session(fakes):
    """A session over a scripted network, and what it printed."""

    class Driver:
        def __init__(self) -> None:
            predict = fakes.scripted({"Once upon a time": " a fox ran.", "The owl": " slept. \x1b[2J"})
            self.network = fakes.FakeNetwork(predict)
            self.out, self.talk = io.StringIO(), io.StringIO()
            self.session = InteractiveSession(
                Storyteller(self.network, fakes.ByteVocabulary()), GREEDY, self.out, self.talk
            )

        def say(self, line: str) -> tuple[str, str]:
            """Answer a line; give what was printed to each stream."""
            for stream in (self.out, self.talk):
                stream.seek(0)
                stream.truncate()
            self.going = self.session.answer(line)
            return self.out.getvalue(), self.talk.getvalue()

    return Driver()


def test_a_line_begins_a_story(session):
    out, talk = session.say("The owl\n")
    assert out == "The owl slept. ␛[2J\n"
    assert "ended by itself" in talk
    assert session.going


@pytest.mark.parametrize("line", ["\n", "", "   \n"])
def test_an_empty_line_begins_the_usual_way(session, line):
    assert session.say(line)[0] == "Once upon a time a fox ran.\n"


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("/temperature 0.5", "temperature", 0.5),
        ("/top-k 7", "top_k", 7),
        ("/top-p  0.9 ", "top_p", 0.9),
        ("/repetition-penalty 1.1", "repetition_penalty", 1.1),
        ("/max-tokens 12", "max_tokens", 12),
        ("/seed 99", "seed", 99),
        ("/SAMPLES 3\r\n", "num_samples", 3),
    ],
)
def test_commands_change_settings(session, line, field, value):
    out, talk = session.say(line)
    assert getattr(session.session.config, field) == value
    assert (out, talk.count("\n")) == ("", 1)
    assert str(value) in talk


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/temprature 1", "there is no command /temprature: did you mean /temperature?"),
        ("/xyzzy", "there is no command /xyzzy: /help shows the commands"),
        ("/", "there is no command /: /help shows the commands"),
        ("/temperature", "usage: /temperature X"),
        ("/temperature warm", "'warm' is not a number"),
        ("/temperature -1", "temperature=-1.0 is below 0"),
        ("/temperature nan", "not a finite number"),
        ("/top-p 0", "top_p=0.0 must be above 0"),
        ("/top-k 1.5", "'1.5' is not a whole number"),
        ("/max-tokens 0", "max_tokens=0 is below 1"),
        ("/again now", "usage: /again"),
        ("/again", "no story has been told yet"),
        ("/\x1b[2J", "there is no command /␛[2J"),
    ],
)
def test_wrong_commands_get_one_line_and_change_nothing(session, line, complaint):
    out, talk = session.say(line)
    assert out == ""
    assert complaint in talk
    assert talk.count("\n") == 1
    assert session.session.config == GREEDY
    assert session.going
    assert session.network.calls == []


def test_help_and_settings(session):
    help_text, _ = session.say("/help")
    for command in module.COMMANDS:
        assert command.name in help_text
    session.say("/seed 5")
    assert session.say("/settings")[0].split("\n")[:2] == ["  temperature is 0", "  top-k is 0"]
    assert "seed is 5" in session.say("/settings")[0]
    session.say("/seed none")
    assert "seed is a new one each time" in session.say("/settings")[0]


def test_quit(session):
    session.say("/quit")
    assert not session.going


def test_samples_have_headings(session):
    session.say("/samples 2")
    out, _ = session.say("")
    story = "Once upon a time a fox ran.\n"
    assert out == f"--- Story 1 of 2 ---\n\n{story}--- Story 2 of 2 ---\n\n{story}"


def test_again_tells_another_story_and_a_seed_repeats_the_series(fakes):
    def series() -> list[str]:
        out = io.StringIO()
        storyteller = Storyteller(fakes.FakeNetwork(fakes.dice), fakes.ByteVocabulary())
        chat = InteractiveSession(storyteller, GenerationConfig(seed=3, max_tokens=20), out, io.StringIO())
        found = []
        for line in ("Once", "/again", "/again", "Once"):
            begin = out.tell()
            chat.answer(line)
            found.append(out.getvalue()[begin:])
        return found

    first = series()
    assert len(set(first[:3])) == 3
    assert first[3] == first[0]
    assert series() == first


def test_a_prompt_that_is_too_long_is_one_line_and_the_session_goes_on(session):
    _, talk = session.say("x" * 600)
    assert "context holds 512" in talk
    assert talk.count("\n") == 1
    assert session.say("")[0] == "Once upon a time a fox ran.\n"


def test_ctrl_c_stops_the_story_and_not_the_session(fakes):
    def predict(row):
        if len(row) == 30:
            raise KeyboardInterrupt
        return fakes.certain(ord("a"))

    out, talk = io.StringIO(), io.StringIO()
    chat = InteractiveSession(
        Storyteller(fakes.FakeNetwork(predict), fakes.ByteVocabulary()), GREEDY.replace(num_samples=3), out, talk
    )
    assert chat.answer("Once")
    assert out.getvalue() == "--- Story 1 of 3 ---\n\nOnce" + "a" * 25 + "\n"
    assert "stopped by you" in talk.getvalue()


def make_teller(fakes) -> Storyteller:
    predict = fakes.scripted({"Once upon a time": " a fox ran.", "The owl": " slept."})
    return Storyteller(fakes.FakeNetwork(predict), fakes.ByteVocabulary())


def test_a_pipe_gets_stories_only(fakes):
    out, talk = io.StringIO(), io.StringIO()
    assert run_interactive(make_teller(fakes), GREEDY, io.StringIO("The owl\n/seed 4\n\nThe owl"), out, talk) == 0
    assert out.getvalue() == "The owl slept.\nOnce upon a time a fox ran.\nThe owl slept.\n"
    assert "vocabulary" in talk.getvalue()
    assert module.READY not in out.getvalue() + talk.getvalue()


def test_lines_after_quit_are_not_read(fakes):
    out = io.StringIO()
    run_interactive(make_teller(fakes), GREEDY, io.StringIO("/quit\nThe owl\n"), out, io.StringIO())
    assert out.getvalue() == ""


def test_a_first_beginning_needs_no_typing(fakes):
    out = io.StringIO()
    run_interactive(make_teller(fakes), GREEDY, io.StringIO(""), out, io.StringIO(), first="The owl")
    assert out.getvalue() == "The owl slept.\n"


def test_bytes_that_are_no_text_do_not_end_the_session(fakes):
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n\n"), encoding="utf-8")
    out = io.StringIO()
    assert run_interactive(make_teller(fakes), GREEDY, stdin, out, io.StringIO()) == 0
    assert out.getvalue().endswith("Once upon a time a fox ran.\n")


def test_the_banner_names_the_model(fakes):
    text = module.banner(make_teller(fakes))
    network = fakes.FakeNetwork(fakes.dice)
    assert f"{network.config.parameters().total:,}" in text
    assert "264 tokens (the bytes vocabulary)" in text
    assert "/help" in text


def test_with_a_keyboard_but_stories_in_a_file_the_prompt_stays_out_of_it(fakes):
    out, err = io.StringIO(), io.StringIO()
    keyboard = Terminal("The owl\n")
    assert run_interactive(make_teller(fakes), GREEDY, keyboard, out, err) == 0
    assert out.getvalue() == "The owl slept.\n"
    assert err.getvalue().count(module.READY) == 2


def test_at_a_terminal_ctrl_c_asks_again_and_ctrl_d_ends(fakes, monkeypatch):
    answers = iter([KeyboardInterrupt(), "The owl", EOFError()])

    def ask(prompt: str) -> str:
        assert prompt == module.READY
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setenv("NO_COLOR", "1")
    out, err = Terminal(), io.StringIO()
    assert run_interactive(make_teller(fakes), GREEDY, Terminal(), out, err) == 0
    assert "Ctrl-D or /quit ends" in out.getvalue()
    assert "The owl slept.\n" in out.getvalue()
    assert next(answers, None) is None
    assert err.getvalue() == ""
