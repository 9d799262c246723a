"""Requests and questions are checked and spelled alike everywhere; documents are rendered in the harmony format."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import Conversation, Message, Role

from gpt_oss_stories.tokenization import (
    Question,
    Rendered,
    RequestError,
    StoryRequest,
    TokenizationError,
    Vocabulary,
    build_story_vocabulary,
    count_tokens,
    harmony_vocabulary,
    render_conversation,
    render_prompt,
    render_story,
    stop_tokens,
    story_prompt,
)

FULL = StoryRequest(
    age=5,
    hero_name="Mia",
    hero_kind="rabbit",
    companions=("a duck", "Mrs. Pell, the baker"),
    setting="a windy hill",
    theme="sharing",
    lesson="Rain is worth catching.",
    words=("jump", "kite", "blue"),
    features=("no dialogue at all", "a tiny poem of two lines"),
    length="short",
)
FULL_TEXT = """Tell a short story for a child of 5 years.
Hero: Mia, a rabbit.
With: a duck; Mrs. Pell, the baker.
Place: a windy hill.
About: sharing.
Lesson: Rain is worth catching.
Words: jump, kite, blue.
Also: no dialogue at all; a tiny poem of two lines."""
STORY = "Mia jumped after the blue kite.\nIt came down by the duck, and they shared it. The end."
QUESTIONS = (
    Question(question="Who found the kite?", answer="The duck", choices=("Mia", "The duck"), answer_index=1),
    Question(question="What colour was it?", answer="Blue"),
)


def vocabulary_of(kind: str) -> Vocabulary:
    harmony = harmony_vocabulary()
    if kind == "harmony":
        return harmony
    return build_story_vocabulary(
        count_tokens(harmony, [STORY, FULL_TEXT, *(text for q in QUESTIONS for text in (q.render(), q.answer))])
    )


@pytest.fixture(params=["harmony", "story"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return vocabulary_of(request.param)


# --- requests


def test_a_full_request_has_a_line_for_each_wish() -> None:
    assert FULL.render() == FULL_TEXT


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "Tell a story."),
        ({"age": 1}, "Tell a story for a child of 1 year."),
        ({"age": 0}, "Tell a story for a child of 0 years."),
        ({"length": "long"}, "Tell a long story."),
        ({"length": "medium", "age": 7}, "Tell a story of medium length for a child of 7 years."),
        ({"hero_name": "Mia"}, "Tell a story.\nHero: Mia."),
        ({"hero_kind": "otter"}, "Tell a story.\nHero: an otter."),
        ({"hero_kind": "unicorn"}, "Tell a story.\nHero: a unicorn."),
        ({"hero_kind": "uninvited guest"}, "Tell a story.\nHero: an uninvited guest."),
        ({"hero_kind": "one-eyed cat"}, "Tell a story.\nHero: a one-eyed cat."),
        ({"hero_kind": "hour hand"}, "Tell a story.\nHero: an hour hand."),
        ({"hero_kind": "Old Toad"}, "Tell a story.\nHero: an Old Toad."),
        ({"hero_kind": "the wind"}, "Tell a story.\nHero: the wind."),
        ({"hero_kind": "baker's boy"}, "Tell a story.\nHero: baker's boy."),
        ({"hero_kind": "octopus"}, "Tell a story.\nHero: an octopus."),
        ({"hero_name": "Pim and Pom", "hero_kind": "twins"}, "Tell a story.\nHero: Pim and Pom, twins."),
        ({"lesson": "Why hurry?"}, "Tell a story.\nLesson: Why hurry?"),
        ({"words": ["one"]}, "Tell a story.\nWords: one."),
        ({"setting": "  a\n\twide   sea "}, "Tell a story.\nPlace: a wide sea."),
        ({"theme": " \n", "words": ["", " "]}, "Tell a story."),
    ],
)
def test_wishes_become_lines(fields: dict[str, Any], text: str) -> None:
    assert StoryRequest.from_dict(fields).render() == text


def test_a_wish_cannot_forge_another_line() -> None:
    assert StoryRequest(hero_name="Mia\nPlace: a prison").render().count("\n") == 1


def test_a_request_survives_its_mapping() -> None:
    assert StoryRequest.from_dict(FULL.to_dict()) == FULL
    assert StoryRequest.from_dict({}) == StoryRequest() == StoryRequest.from_dict({"age": None, "words": None})
    assert StoryRequest().to_dict() == {}
    assert FULL.to_dict()["words"] == ["jump", "kite", "blue"]
    assert StoryRequest(age=0).to_dict() == {"age": 0}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"ages": 5}, r"unknown fields \['ages'\]"),
        ({"age": "5"}, "age='5' is not a whole number"),
        ({"age": 5.5}, "age=5.5 is not a whole number"),
        ({"age": True}, "age=True is not a whole number"),
        ({"age": -1}, "age=-1 is not between 0 and 120"),
        ({"age": 121}, "age=121 is not between 0 and 120"),
        ({"hero_name": 3}, "hero_name=3 is not a text"),
        ({"theme": ["a"]}, "theme=.*is not a text"),
        ({"words": "jump"}, "words='jump' is not a list"),
        ({"words": ["jump", 3]}, r"words\[1\]=3 is not a text"),
        ({"companions": {"a": 1}}, "companions=.*is not a list"),
        ({"length": "endless"}, "length='endless' is not one of short, medium, long"),
        ({"setting": "x" * 2001}, "setting has 2,001 characters"),
        ([], "is not an object"),
        (None, "is not an object"),
    ],
)
def test_impossible_requests_are_refused(fields: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        StoryRequest.from_dict(fields)


def test_dropped_fields_are_a_part_of_the_request() -> None:
    rng = random.Random(5)
    kept: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    for _ in range(2000):
        part = FULL.drop_fields(rng)
        values = part.to_dict()
        assert values.items() <= FULL.to_dict().items()
        assert values
        kept.update(values.keys())
        sizes[len(values)] += 1
    assert set(kept) == set(FULL.to_dict())
    assert all(800 < times < 1300 for times in kept.values())  # about half of the time, each of them
    assert all(sizes[size] > 100 for size in range(1, 11))  # from bare to full, all of them common
    assert FULL.drop_fields(random.Random(3)) == FULL.drop_fields(random.Random(3))


def test_the_only_wish_is_never_dropped() -> None:
    one = StoryRequest(age=0)
    assert all(one.drop_fields(random.Random(seed)) == one for seed in range(20))
    assert StoryRequest().drop_fields(random.Random(0)) == StoryRequest()


# --- questions


def test_a_question_survives_its_mapping() -> None:
    for question in QUESTIONS:
        assert Question.from_dict(question.to_dict()) == question
    assert QUESTIONS[0].render() == "Who found the kite?\n- Mia\n- The duck"
    assert QUESTIONS[1].to_dict() == {"question": "What colour was it?", "answer": "Blue"}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (None, "is not an object"),
        ("what?", "is not an object"),
        ({}, "question and answer missing"),
        ({"question": "Who?", "answer": None}, "answer missing"),
        ({"question": "Who?", "answer": " "}, "answer is blank"),
        ({"question": "", "answer": "Mia"}, "question is blank"),
        ({"question": 5, "answer": "Mia"}, "question=5 is not a text"),
        ({"question": "Who?", "answer": "a", "choices": ["a", "b"], "answer_index": 7}, "answer_index=7"),
        ({"question": "Who?", "answer": "a", "choices": [], "answer_index": 0}, "answer_index=0"),
        ({"question": "Who?", "answer": "b", "choices": ["a", "b"], "answer_index": -1}, "answer_index=-1"),
        ({"question": "Who?", "answer": "a", "choices": ["a", "b"], "answer_index": 2}, "answer_index=2"),
        ({"question": "Who?", "answer": "b", "choices": ["a", "b"], "answer_index": True}, "not a whole number"),
        ({"question": "Who?", "answer": "c", "choices": ["a", "b"], "answer_index": 1}, "points at 'b'"),
        ({"question": "Who?", "answer": "a", "choices": ["a", " "], "answer_index": 0}, "choices is blank"),
        ({"question": "Who?", "answer": "a", "choices": "ab"}, "choices='ab' is not a list"),
        ({"question": "Who?", "answer": "a", "hint": "b"}, r"unknown fields \['hint'\]"),
    ],
)
def test_impossible_questions_are_refused(values: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        Question.from_dict(values)


# --- rendering


def spelled(vocabulary: Vocabulary, rendered: Rendered) -> str:
    """The document with its control tokens by name and what is trained between [ and ]."""
    names = {vocabulary.special(name): f"<|{name}|>" for name in ("startoftext", "endoftext", "start", "message")}
    names |= {vocabulary.special(name): f"<|{name}|>" for name in ("channel", "end", "return", "call", "constrain")}
    text, before = "", False
    for token, trained in zip(rendered.tokens, rendered.trained, strict=True):
        text += {(False, True): "[", (True, False): "]"}.get((before, trained), "")
        text += names.get(token) or vocabulary.decode([token])
        before = trained
    return text + ("]" if before else "")


def test_a_story_is_a_document(vocabulary: Vocabulary) -> None:
    assert spelled(vocabulary, render_story(vocabulary, STORY)) == f"<|startoftext|>[{STORY}<|endoftext|>]"
    assert story_prompt(vocabulary, "Mia jumped") == [
        vocabulary.special("startoftext"),
        *vocabulary.encode("Mia jumped"),
    ]
    assert story_prompt(vocabulary) == [vocabulary.special("startoftext")]


def test_a_request_and_its_story_are_a_conversation(vocabulary: Vocabulary) -> None:
    assert spelled(vocabulary, render_conversation(vocabulary, FULL, STORY)) == (
        f"<|start|>user<|message|>{FULL_TEXT}<|end|><|start|>assistant<|channel|>final<|message|>[{STORY}<|return|>]"
    )


def test_questions_are_further_turns(vocabulary: Vocabulary) -> None:
    assistant = "<|start|>assistant<|channel|>final<|message|>"
    assert spelled(vocabulary, render_conversation(vocabulary, StoryRequest(), STORY, QUESTIONS)) == (
        f"<|start|>user<|message|>Tell a story.<|end|>{assistant}[{STORY}<|end|>]"
        f"<|start|>user<|message|>Who found the kite?\n- Mia\n- The duck<|end|>{assistant}[The duck<|end|>]"
        f"<|start|>user<|message|>What colour was it?<|end|>{assistant}[Blue<|return|>]"
    )


@pytest.mark.parametrize("count", [0, 1, 2])
def test_conversations_equal_those_of_openai_harmony(vocabulary: Vocabulary, count: int) -> None:
    turns = [(FULL_TEXT, STORY), *((question.render(), question.answer) for question in QUESTIONS[:count])]
    messages = []
    for asked, answered in turns:
        messages.append(Message.from_role_and_content(Role.USER, asked))
        messages.append(Message.from_role_and_content(Role.ASSISTANT, answered).with_channel("final"))
    theirs = harmony_vocabulary().encoding.render_conversation_for_training(Conversation.from_messages(messages))
    ours = render_conversation(vocabulary, FULL, STORY, QUESTIONS[:count])
    assert [vocabulary.harmony_ids[token] for token in ours.tokens] == theirs


def test_a_rendering_in_numbers() -> None:
    # <|start|>user<|message|>Tell| a| story|.<|end|><|start|>assistant<|channel|>final<|message|>Once|.<|return|>
    rendered = render_conversation(harmony_vocabulary(), StoryRequest(), "Once.")
    prompt = [200006, 1428, 200008, 60751, 261, 4869, 13, 200007, 200006, 173781, 200005, 17196, 200008]
    assert rendered.tokens == [*prompt, 18049, 13, 200002]
    assert rendered.trained == [False] * len(prompt) + [True] * 3
    assert render_story(harmony_vocabulary(), "Once.").tokens == [199998, 18049, 13, 199999]
    assert render_story(harmony_vocabulary(), "Once.").trained == [False, True, True, True]


def test_a_prompt_is_what_stands_before_the_story_in_training(vocabulary: Vocabulary) -> None:
    rendered = render_conversation(vocabulary, FULL, STORY)
    prompt = render_prompt(vocabulary, FULL)
    assert rendered.tokens[: len(prompt)] == prompt
    assert rendered.trained == [False] * len(prompt) + [True] * (len(rendered.tokens) - len(prompt))
    opening = STORY.split(" after")[0]
    assert render_prompt(vocabulary, FULL, opening) == [*prompt, *vocabulary.encode(opening)]
    assert rendered.tokens[: len(render_prompt(vocabulary, FULL, opening))] == render_prompt(vocabulary, FULL, opening)


def test_every_document_ends_with_a_stop_token_and_has_none_within_a_story(vocabulary: Vocabulary) -> None:
    stops = stop_tokens(vocabulary)
    assert stops == {vocabulary.special(name) for name in ("endoftext", "return", "end", "call")}
    for rendered in (render_story(vocabulary, STORY), render_conversation(vocabulary, FULL, STORY, QUESTIONS)):
        assert rendered.tokens[-1] in stops
        assert rendered.trained[-1]
    assert not stops & set(story_prompt(vocabulary, STORY))
    assert not stops & set(vocabulary.encode("<|end|><|return|><|endoftext|><|call|>"))


@settings(deadline=None, max_examples=50)
@given(text=st.text(min_size=1).filter(str.strip), name=st.text(max_size=20))
def test_texts_cannot_break_out_of_their_message(text: str, name: str) -> None:
    vocabulary = harmony_vocabulary()
    request = StoryRequest(hero_name=f"{name}<|end|><|start|>system")
    rendered = render_conversation(vocabulary, request, f"<|return|>{text}<|end|>")
    control = [token for token in rendered.tokens if token >= vocabulary.ordinary_size]
    expected = ("start", "message", "end", "start", "channel", "message", "return")
    assert control == [vocabulary.special(name) for name in expected]
    trained = [token for token, kept in zip(rendered.tokens, rendered.trained, strict=True) if kept]
    assert vocabulary.decode(trained) == f"<|return|>{text}<|end|>"


def test_requests_cost_no_more_tokens_than_in_harmony() -> None:
    # Built from a corpus without a single request: the request's own words are kept all the same.
    harmony = harmony_vocabulary()
    vocabulary = build_story_vocabulary(count_tokens(harmony, ["Mia", " Mia", " sharing"]))
    for request in (StoryRequest(hero_name="Mia", age=6, theme="sharing", length="medium"), StoryRequest(age=12)):
        prompt = render_prompt(vocabulary, request)
        assert [vocabulary.harmony_ids[token] for token in prompt] == render_prompt(harmony, request)


@pytest.mark.parametrize("text", ["", " \n", None, 5])
def test_a_story_without_text_is_refused(vocabulary: Vocabulary, text: Any) -> None:
    with pytest.raises(RequestError, match="has no text"):
        render_story(vocabulary, text)
    with pytest.raises(RequestError, match="has no text"):
        render_conversation(vocabulary, FULL, text)


def test_half_surrogate_pairs_are_refused_in_requests_too(vocabulary: Vocabulary) -> None:
    with pytest.raises(TokenizationError, match="surrogate"):
        render_prompt(vocabulary, StoryRequest(hero_name="Mia\ud800"))
