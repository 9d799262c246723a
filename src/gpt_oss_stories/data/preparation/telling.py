"""What becomes of one story: its hash, how often it is told, and each telling as tokens.

All of it depends on the story alone. Chances are drawn from a hash of its text, so the result is the same for any
number of workers, any order of files and any other stories beside it.
"""

from __future__ import annotations

import hashlib
import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...tokenization import Question, StoryRequest, Vocabulary, render_conversation
from ..records import StoryRecord

QUESTIONS_SHARE = 0.5
"""Share of the stories told as conversations, where there are questions, that some of them follow."""

_UNIMPORTANT_ASCII = bytes(code for code in range(128) if chr(code) not in string.ascii_letters + string.digits)
_UNIMPORTANT = re.compile(r"[\W_]+")


def story_digest(text: str) -> bytes:
    """16 bytes that are equal for copies of a story: a hash of its letters and digits in lower case."""
    lower = text.lower()
    if lower.isascii():
        key = lower.encode("ascii").translate(None, _UNIMPORTANT_ASCII)
    else:
        key = _UNIMPORTANT.sub("", lower).encode("utf-8")
    return hashlib.blake2b(key or text.encode("utf-8"), digest_size=16).digest()


def times_told(weight: float, digest: bytes) -> int:
    """How often an epoch tells a story of a source with this weight: its whole part, and one more by chance.

    The second half of the digest decides the chance; the first half decides whether the story is held out.
    """
    whole = int(weight)
    return whole + (int.from_bytes(digest[8:], "big") / 2.0**64 < weight - whole)


def is_held_out(keys: NDArray[np.uint64], fraction: float, lowest: int, highest: int) -> NDArray[np.bool_]:
    """Which stories are for validation: those whose key is in the lowest `fraction` of all numbers.

    Of two or more stories at least one is held out and at least one is not: the one with the lowest and the one with
    the highest key. A single story is for training.

    Args:
        keys: [stories] numbers spread evenly over 64 bits, different for different stories.
        fraction: share to hold out.
        lowest, highest: the lowest and the highest key of the whole data set.
    """
    held = keys < np.uint64(min(int(fraction * 2.0**64), 2**64 - 1))
    held[keys == np.uint64(lowest)] = True
    held[keys == np.uint64(highest)] = False
    return held


@dataclass(frozen=True, kw_only=True)
class TellingRules:
    """The settings that decide how a story is told."""

    request_fraction: float
    data_seed: int


class Telling(NamedTuple):
    """One story as N tokens, once."""

    tokens: NDArray[np.uint32]
    """[N] harmony ids."""
    trained: NDArray[np.bool_]
    """[N] whether each is one to predict."""
    on_request: bool
    """It is told as a conversation."""


def tell_plainly(vocabulary: Vocabulary, ids: NDArray[np.uint32]) -> Telling:
    """A story as a plain document, what `tokenization.render_story` makes of it.

    Args:
        vocabulary: whose ids these are.
        ids: of the story's text.
    """
    tokens = np.empty(len(ids) + 2, dtype=np.uint32)
    tokens[0], tokens[1:-1], tokens[-1] = vocabulary.special("startoftext"), ids, vocabulary.special("endoftext")
    trained = np.ones(len(tokens), dtype=np.bool_)
    trained[0] = False
    return Telling(tokens, trained, False)


def tell_on_request(
    vocabulary: Vocabulary, record: StoryRecord, text: str, rules: TellingRules, digest: bytes, number: int
) -> Telling | None:
    """A story as a conversation; None where there is no request, or where chance has it told as a plain document.

    Args:
        vocabulary: what spells it.
        record: what is known about the story.
        text: the story, cleaned.
        rules: how often it is a conversation.
        digest: of the text: what chance is drawn from, with
        number: which of the story's tellings this is, from 0.

    Raises:
        TokenizationError: a text cannot be encoded.
    """
    asked: StoryRequest | str | None = record.prompt
    if record.request is not None and record.request.given_fields():
        asked = record.request
    if asked is None:
        return None
    rng = random.Random(f"{rules.data_seed} {digest.hex()} {number}")
    if rng.random() >= rules.request_fraction:
        return None
    questions: Sequence[Question] = ()
    if record.questions and rng.random() < QUESTIONS_SHARE:
        chosen = rng.sample(range(len(record.questions)), rng.randint(1, len(record.questions)))
        questions = [record.questions[index] for index in sorted(chosen)]
    if isinstance(asked, StoryRequest):
        asked = asked.drop_fields(rng)
    rendered = render_conversation(vocabulary, asked, text, questions)
    return Telling(np.asarray(rendered.tokens, np.uint32), np.asarray(rendered.trained, np.bool_), True)
