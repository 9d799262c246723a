"""Story requests, questions, and the token sequences that they and their stories become.

A plain story is a document: start token, text, end token. A story with a request is a conversation in the harmony
format: the user's message states the request, the assistant's final channel is the story, and further turns ask
questions about it. Data preparation, the generator, the API and the web page all render through this module, so what a
model is asked is spelled exactly as what it was trained on.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from ..errors import StoryError
from .vocabulary import Vocabulary

STORY_LENGTHS = ("short", "medium", "long")
"""What a request may say about a story's length."""

MAX_FIELD_CHARACTERS = 2_000
"""Longest text in a request; a whole page in one field is a mistake, not a wish."""


_USER, _ASSISTANT, _FINAL = "user", "assistant", "final"
"""Roles and the channel for what the reader is to see; ordinary words in the harmony format."""

DETERMINERS = (
    *("a", "an", "the", "this", "that", "some", "many", "several", "one", "two", "three", "four", "five", "six"),
    *("my", "your", "his", "her", "its", "our", "their"),
)
SOUNDS_LIKE_YOU_OR_WON = ("unic", "unif", "uniq", "unit", "univ", "use", "usu", "eu", "ewe", "uku", "one", "once")
SILENT_H = ("hour", "honest", "honour", "honor", "heir")


class RequestError(StoryError):
    """A story request or a question has a field that cannot be used."""


def _clean_text(owner: str, field: str, value: Any) -> str:
    """A text on one line without outer white space, or an error that names the field."""
    if not isinstance(value, str):
        raise RequestError(f"{owner}: {field}={value!r:.80} is not a text")
    if len(value) > MAX_FIELD_CHARACTERS:
        raise RequestError(
            f"{owner}: {field} has {len(value):,} characters; at most {MAX_FIELD_CHARACTERS:,} are allowed"
        )
    return " ".join(value.split())


def _clean_texts(owner: str, field: str, value: Any) -> tuple[str, ...]:
    """A tuple of clean texts, blank ones left out."""
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise RequestError(f"{owner}: {field}={value!r:.80} is not a list of texts")
    texts = (_clean_text(owner, f"{field}[{index}]", item) for index, item in enumerate(value))
    return tuple(text for text in texts if text)


def _with_article(kind: str) -> str:
    """ "a rabbit", "an owl", "a unicorn"; unchanged where an article stands already, and for plurals ("twins")."""
    words = kind.lower().split()
    first, last = words[0], words[-1]
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    if first in DETERMINERS or first.endswith(("'s", "’s")) or plural:
        return kind
    vowel = first.startswith(("a", "e", "i", "o", "u")) and not first.startswith(SOUNDS_LIKE_YOU_OR_WON)
    return f"an {kind}" if vowel or first.startswith(SILENT_H) else f"a {kind}"


@dataclass(frozen=True, kw_only=True)
class StoryRequest:
    """What somebody wishes for in a story. Every field may be missing.

    Texts are stored on one line without outer white space; a blank text counts as missing.

    Raises:
        RequestError: a field has the wrong type, or a value that cannot be meant.
    """

    age: int | None = None
    """Age of the child in years."""
    hero_name: str | None = None
    hero_kind: str | None = None
    """What the hero is: "rabbit", "girl", "old tortoise"."""
    companions: tuple[str, ...] = ()
    setting: str | None = None
    theme: str | None = None
    lesson: str | None = None
    words: tuple[str, ...] = ()
    """Words that the story must use."""
    features: tuple[str, ...] = ()
    """Anything else about how it is told: "dialogue", "a twist near the end"."""
    length: Literal["short", "medium", "long"] | None = None

    def __post_init__(self) -> None:
        owner = "story request"
        for name in ("hero_name", "hero_kind", "setting", "theme", "lesson"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _clean_text(owner, name, value) or None)
        for name in ("companions", "words", "features"):
            object.__setattr__(self, name, _clean_texts(owner, name, getattr(self, name)))
        if self.age is not None and (isinstance(self.age, bool) or not isinstance(self.age, int)):
            raise RequestError(f"{owner}: age={self.age!r:.80} is not a whole number of years")
        if self.age is not None and not 0 <= self.age <= 120:
            raise RequestError(f"{owner}: age={self.age} is not between 0 and 120 years")
        if self.length is not None and self.length not in STORY_LENGTHS:
            raise RequestError(f"{owner}: length={self.length!r:.80} is not one of {', '.join(STORY_LENGTHS)}")

    def to_dict(self) -> dict[str, Any]:
        """The fields that are given, in plain values that JSON can hold."""
        given = {name: getattr(self, name) for name in self.given_fields()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping; a missing key and None both mean that nothing was wished for.

        Raises:
            RequestError: a key is unknown, or a value cannot be used.
        """
        return cls(**_known_values("story request", cls, values))

    def given_fields(self) -> tuple[str, ...]:
        """Names of the fields that have a value, in their order of declaration."""
        return tuple(field.name for field in dataclasses.fields(self) if getattr(self, field.name) not in (None, ()))

    def drop_fields(self, rng: random.Random) -> StoryRequest:
        """A copy in which some fields are missing, as they are in what people really ask for.

        How likely a field is to stay is itself drawn, so full requests and bare ones are about equally common. Of a
        request that has any field, at least one stays.
        """
        given = self.given_fields()
        if not given:
            return self
        share_kept = rng.random()
        kept = [name for name in given if rng.random() < share_kept] or [rng.choice(given)]
        return StoryRequest(**{name: getattr(self, name) for name in kept})

    def render(self) -> str:
        """The text of the user's message: one short line for each kind of wish, always in the same order."""
        what = {None: "Tell a story", "medium": "Tell a story of medium length"}.get(self.length)
        what = what or f"Tell a {self.length} story"
        years = {None: "", 1: " for a child of 1 year"}.get(self.age)
        lines = [what + (f" for a child of {self.age} years" if years is None else years) + "."]
        hero = [self.hero_name or "", _with_article(self.hero_kind) if self.hero_kind else ""]
        for label, texts, separator in (
            ("Hero", hero, ", "),
            ("With", self.companions, "; "),
            ("Place", (self.setting,), ""),
            ("About", (self.theme,), ""),
            ("Lesson", (self.lesson,), ""),
            ("Words", self.words, ", "),
            ("Also", self.features, "; "),
        ):
            if wish := separator.join(text for text in texts if text):
                lines.append(f"{label}: {wish}" + ("" if wish.endswith((".", "!", "?")) else "."))
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a story, with its answer and, where it is multiple choice, what to choose from.

    Raises:
        RequestError: question or answer is blank, there are choices but fewer than two, `answer_index` does not point
            into `choices`, or the choice there is not the answer.
    """

    question: str
    answer: str
    choices: tuple[str, ...] = ()
    answer_index: int | None = None

    def __post_init__(self) -> None:
        owner = "question"
        for name in ("question", "answer"):
            text = _clean_text(owner, name, getattr(self, name))
            if not text:
                raise RequestError(f"{owner}: {name} is blank")
            object.__setattr__(self, name, text)
        given = len(self.choices) if isinstance(self.choices, list | tuple) else 0
        choices = _clean_texts(owner, "choices", self.choices)
        if len(choices) < given:
            raise RequestError(f"{owner}: one of its {given} choices is blank")
        object.__setattr__(self, "choices", choices)
        if self.answer_index is None:
            return
        if isinstance(self.answer_index, bool) or not isinstance(self.answer_index, int):
            raise RequestError(f"{owner}: answer_index={self.answer_index!r:.80} is not a whole number")
        if not 0 <= self.answer_index < len(choices):
            raise RequestError(
                f"{owner}: answer_index={self.answer_index} does not point at one of {len(choices)} choices"
            )
        if choices[self.answer_index] != self.answer:
            raise RequestError(
                f"{owner}: the answer is {self.answer!r:.80}, but answer_index={self.answer_index} "
                f"points at {choices[self.answer_index]!r:.80}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` restores an equal question."""
        values: dict[str, Any] = {"question": self.question, "answer": self.answer}
        if self.choices:
            values["choices"] = list(self.choices)
        if self.answer_index is not None:
            values["answer_index"] = self.answer_index
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping.

        Raises:
            RequestError: a key is unknown or missing, or a value cannot be used.
        """
        known = _known_values("question", cls, values)
        if missing := [name for name in ("question", "answer") if name not in known]:
            raise RequestError(f"question: {' and '.join(missing)} missing; found {sorted(known)}")
        return cls(**known)

    def render(self) -> str:
        """The text of the user's message: the question, and below it the choices, one in a line."""
        return "\n".join([self.question, *(f"- {choice}" for choice in self.choices)])


def _known_values(owner: str, kind: type, values: Any) -> dict[str, Any]:
    """The mapping's entries that are not None, after a check that each names a field of the dataclass `kind`."""
    if not isinstance(values, Mapping):
        raise RequestError(f"{owner}: {values!r:.80} is not an object with named fields")
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := sorted(str(key) for key in values if key not in known):
        raise RequestError(f"{owner}: unknown fields {unknown}; known are {known}")
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Rendered:
    """A document as token ids, and which of them the model is to learn.

    `trained[i]` says that token i is something the model should predict from what stands before it: the story and the
    answers with the tokens that end them, not the requests and headers that are given to it.
    """

    tokens: list[int]
    trained: list[bool]


class _Script:
    """Tokens of a document under construction."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.rendered = Rendered([], [])

    def control(self, name: str, trained: bool = False) -> None:
        self._add([self.vocabulary.special(name)], trained)

    def text(self, text: str, trained: bool = False) -> None:
        self._add(self.vocabulary.encode(text), trained)

    def _add(self, tokens: list[int], trained: bool) -> None:
        self.rendered.tokens.extend(tokens)
        self.rendered.trained.extend([trained] * len(tokens))

    def user_message(self, text: str) -> None:
        """<|start|>user<|message|>text<|end|>"""
        self.control("start")
        self.text(_USER)
        self.control("message")
        self.text(text)
        self.control("end")

    def assistant_header(self) -> None:
        """<|start|>assistant<|channel|>final<|message|>"""
        self.control("start")
        self.text(_ASSISTANT)
        self.control("channel")
        self.text(_FINAL)
        self.control("message")


def render_story(vocabulary: Vocabulary, text: str) -> Rendered:
    """<|startoftext|>text<|endoftext|>; all but the start token is trained.

    Raises:
        RequestError: the text is blank.
        TokenizationError: the text cannot be encoded.
    """
    script = _Script(vocabulary)
    script.control("startoftext")
    script.text(_told(text), trained=True)
    script.control("endoftext", trained=True)
    return script.rendered


def render_conversation(
    vocabulary: Vocabulary, request: StoryRequest | str, text: str, questions: Sequence[Question] = ()
) -> Rendered:
    """A request, or the words in which somebody asked, the story as its answer, and questions with their answers.

    The token sequence is that of `openai-harmony` for training: each message ends with <|end|>, the last one with
    <|return|>.

    Raises:
        RequestError: the text is blank.
        TokenizationError: a text cannot be encoded.
    """
    asked = request if isinstance(request, str) else request.render()
    turns = [(asked, _told(text)), *((question.render(), question.answer) for question in questions)]
    script = _Script(vocabulary)
    for number, (asked, answered) in enumerate(turns, start=1):
        script.user_message(asked)
        script.assistant_header()
        script.text(answered, trained=True)
        script.control("return" if number == len(turns) else "end", trained=True)
    return script.rendered


def render_prompt(vocabulary: Vocabulary, request: StoryRequest, opening: str = "") -> list[int]:
    """Tokens after which a model tells the story of a request: up to and including the assistant's <|message|>.

    Args:
        opening: how the story begins; the model goes on from there.

    Raises:
        TokenizationError: a text cannot be encoded.
    """
    script = _Script(vocabulary)
    script.user_message(request.render())
    script.assistant_header()
    script.text(opening)
    return script.rendered.tokens


def story_prompt(vocabulary: Vocabulary, text: str = "") -> list[int]:
    """Tokens after which a model goes on with a plain story that begins with `text`.

    Raises:
        TokenizationError: the text cannot be encoded.
    """
    script = _Script(vocabulary)
    script.control("startoftext")
    script.text(text)
    return script.rendered.tokens


def stop_tokens(vocabulary: Vocabulary) -> frozenset[int]:
    """Tokens that end a story or an answer, whichever way it was asked for."""
    return frozenset(vocabulary.special(name) for name in ("endoftext", "return", "end", "call"))


def fixed_texts() -> Iterator[str]:
    """Texts that hold every word which rendering adds of its own, in the places where it adds it."""
    yield from (_USER, _ASSISTANT, _FINAL, "system", "developer", "analysis", "commentary")
    wishes: dict[str, Any] = {"hero_name": "x", "setting": "x", "theme": "x", "lesson": "x"}
    wishes |= {"companions": ("x", "x"), "words": ("x", "x"), "features": ("x", "x")}
    for kind in ("fox", "owl"):
        yield StoryRequest.from_dict({"hero_kind": kind, **wishes}).render()
        yield StoryRequest(hero_kind=kind).render()
    for length in (None, *STORY_LENGTHS):
        for age in (None, *range(19)):
            alone = StoryRequest.from_dict({"length": length, "age": age})
            yield from (alone.render(), dataclasses.replace(alone, setting="x").render())
    yield Question(question="x?", answer="x", choices=("x", "x")).render()


def _told(text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise RequestError("a story to be rendered has no text")
    return text
