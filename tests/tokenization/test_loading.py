"""A saved vocabulary opens where it is whole, and is refused, with one clear line, where it is not."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gpt_oss_stories.tokenization import (
    TokenizationError,
    build_story_vocabulary,
    count_tokens,
    harmony,
    harmony_vocabulary,
    vocabulary_from_dict,
)


def saved(kind: str) -> dict[str, Any]:
    vocabulary = harmony_vocabulary()
    if kind == "story":
        return build_story_vocabulary(count_tokens(vocabulary, ["A hen, a pen."])).to_dict()
    return vocabulary.to_dict()


@pytest.mark.parametrize("kind", ["harmony", "story"])
def test_it_survives_a_checkpoint_without_code(kind: str) -> None:
    file = io.BytesIO()
    torch.save({"vocabulary": saved(kind)}, file)
    file.seek(0)
    restored = vocabulary_from_dict(torch.load(file, weights_only=True)["vocabulary"])
    assert restored.to_dict() == saved(kind)


def test_a_story_vocabulary_opens_without_the_harmony_file(monkeypatch: pytest.MonkeyPatch) -> None:
    values = saved("story")

    def unavailable() -> None:
        raise AssertionError("the harmony vocabulary was loaded")

    monkeypatch.setattr(harmony, "harmony_vocabulary", unavailable)
    monkeypatch.setattr("gpt_oss_stories.tokenization.loading.harmony_vocabulary", unavailable)
    vocabulary = vocabulary_from_dict(values)
    assert vocabulary.decode(vocabulary.encode("A hen?")) == "A hen?"


def change(values: dict[str, Any], key: str, value: Any) -> None:
    values[key] = value


def put(values: dict[str, Any], key: str, index: int, value: Any) -> None:
    values[key][index] = value


STORY_DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "version": (lambda v: change(v, "version", 2), "format version 2, but this program reads version 1"),
    "version missing": (lambda v: v.pop("version"), "format version None"),
    "version true": (lambda v: change(v, "version", True), "format version True"),
    "kind": (lambda v: change(v, "kind", "gpt2"), "unknown kind 'gpt2'"),
    "kind a list": (lambda v: change(v, "kind", ["story"]), "unknown kind"),
    "entry missing": (lambda v: v.pop("tokens"), "missing or unknown entries: tokens"),
    "entry unknown": (lambda v: change(v, "merges", []), "missing or unknown entries: merges"),
    "fingerprint": (lambda v: change(v, "fingerprint", "0" * 64), "it is damaged"),
    "fingerprint a number": (lambda v: change(v, "fingerprint", 5), "it is damaged"),
    "size": (lambda v: change(v, "size", v["size"] + 1), "it is damaged"),
    "ids no list": (lambda v: change(v, "harmony_ids", "abc"), "must be lists"),
    "tokens no list": (lambda v: change(v, "tokens", {"a": 1}), "must be lists"),
    "id lost": (lambda v: v["harmony_ids"].pop(), "harmony ids do not fit"),
    "token lost": (lambda v: v["tokens"].pop(), "harmony ids do not fit"),
    "too small": (lambda v: (change(v, "tokens", []), change(v, "harmony_ids", v["harmony_ids"][-9:])), "9 entries"),
    "too large": (
        lambda v: (change(v, "tokens", [""] * 300_000), change(v, "harmony_ids", [0] * 300_009)),
        "300009 entries",
    ),
    "id a text": (lambda v: put(v, "harmony_ids", 3, "3"), "not whole numbers"),
    "id true": (lambda v: put(v, "harmony_ids", 1, True), "not whole numbers"),
    "id a fraction": (lambda v: put(v, "harmony_ids", 1, 1.0), "not whole numbers"),
    "id negative": (lambda v: put(v, "harmony_ids", 0, -1), "do not ascend"),
    "id repeated": (lambda v: put(v, "harmony_ids", 1, 0), "do not ascend"),
    "id a control token's": (lambda v: put(v, "harmony_ids", -10, 199_998), "do not ascend"),
    "control token moved": (lambda v: put(v, "harmony_ids", -1, 200_013), "end with the control tokens"),
    "token a number": (lambda v: put(v, "tokens", 7, 7), "token 7 is not a short text"),
    "token huge": (lambda v: put(v, "tokens", 7, "A" * 4000), "token 7 is not a short text"),
    "token too long": (lambda v: put(v, "tokens", -1, "YWFh" * 43), "has 129 bytes, not 1 to 128"),
    "token empty": (lambda v: put(v, "tokens", -1, ""), "has 0 bytes"),
    "token not base64": (lambda v: put(v, "tokens", 7, "!!!!"), "token 7 is not base64"),
    "token badly padded": (lambda v: put(v, "tokens", 7, "YWF"), "token 7 is not base64"),
    "token not ascii": (lambda v: put(v, "tokens", 7, "ä"), "token 7 is not base64"),
    "token twice": (lambda v: put(v, "tokens", -1, v["tokens"][-2]), "occurs twice"),
    "byte lost": (lambda v: put(v, "tokens", 0, "enp6enp6"), "not all 256 single bytes"),
    "tokens exchanged": (
        lambda v: change(v, "tokens", [*v["tokens"][:-2], v["tokens"][-1], v["tokens"][-2]]),
        "it is damaged",
    ),
    "harmony id changed": (lambda v: put(v, "harmony_ids", -10, v["harmony_ids"][-10] + 1), "it is damaged"),
}


@pytest.mark.parametrize("name", STORY_DAMAGE)
def test_a_damaged_story_vocabulary_is_refused(name: str) -> None:
    damage, problem = STORY_DAMAGE[name]
    values = copy.deepcopy(saved("story"))
    damage(values)
    with pytest.raises(TokenizationError) as caught:
        vocabulary_from_dict(values)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("key", ["fingerprint", "size"])
def test_another_harmony_vocabulary_is_refused(key: str) -> None:
    with pytest.raises(TokenizationError, match="the saved harmony vocabulary says"):
        vocabulary_from_dict({**saved("harmony"), key: 5})


@pytest.mark.parametrize("value", [None, [], "story", 7])
def test_what_is_no_mapping_is_refused(value: Any) -> None:
    with pytest.raises(TokenizationError, match="is a mapping, but found"):
        vocabulary_from_dict(value)
