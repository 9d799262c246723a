"""Restoring a vocabulary from what `Vocabulary.to_dict` wrote: the reading half of the vocabulary's format."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from .harmony import harmony_vocabulary
from .story_vocabulary import StoryVocabulary
from .vocabulary import FORMAT_VERSION, HARMONY_SPECIALS, MAX_TOKEN_BYTES, TokenizationError, Vocabulary

_KEYS = {
    "harmony": {"version", "kind", "size", "fingerprint"},
    "story": {"version", "kind", "size", "fingerprint", "harmony_ids", "tokens"},
}
_FIRST_SPECIAL = min(HARMONY_SPECIALS.values())
_SMALLEST = 256 + len(HARMONY_SPECIALS)


def vocabulary_from_dict(values: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that `to_dict` described, after checking that it is whole.

    Nothing in `values` is trusted: types, sizes and token lengths are checked before anything is built from them.

    Raises:
        TokenizationError: the description is of another version or damaged, or the installed harmony is another one.
    """
    if not isinstance(values, Mapping):
        raise TokenizationError(f"a saved vocabulary is a mapping, but found {type(values).__name__}")
    version, kind = values.get("version"), values.get("kind")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise TokenizationError(
            f"the saved vocabulary has format version {version!r:.40}, but this program reads version "
            f"{FORMAT_VERSION}; use the program that wrote it, or a newer one"
        )
    if not isinstance(kind, str) or kind not in _KEYS:
        raise TokenizationError(
            f"the saved vocabulary is of the unknown kind {kind!r:.40}; known are {', '.join(_KEYS)}"
        )
    if set(values) != _KEYS[kind]:
        differing = sorted(str(key) for key in set(values) ^ _KEYS[kind])
        raise TokenizationError(f"the saved {kind} vocabulary has missing or unknown entries: {', '.join(differing)}")
    vocabulary = harmony_vocabulary() if kind == "harmony" else _story_vocabulary(values)
    if values["fingerprint"] != vocabulary.fingerprint or values["size"] != vocabulary.size:
        raise TokenizationError(
            f"the saved {kind} vocabulary says that it has {values['size']!r:.20} tokens and the fingerprint "
            f"{values['fingerprint']!r:.80}, but has {vocabulary.size} and {vocabulary.fingerprint}: it is damaged, or "
            "was written by another program"
        )
    return vocabulary


def _story_vocabulary(values: Mapping[str, Any]) -> StoryVocabulary:
    ids, encoded = values["harmony_ids"], values["tokens"]
    if not isinstance(ids, list) or not isinstance(encoded, list):
        raise _damaged("harmony_ids and tokens must be lists")
    if len(ids) != len(encoded) + len(HARMONY_SPECIALS):
        raise _damaged(
            f"{len(ids)} harmony ids do not fit {len(encoded)} tokens and {len(HARMONY_SPECIALS)} control tokens"
        )
    specials = list(HARMONY_SPECIALS.values())
    if not _SMALLEST <= len(ids) <= _FIRST_SPECIAL + len(specials):
        raise _damaged(f"it has {len(ids)} entries, fewer than {_SMALLEST} or more than harmony has")
    if not all(type(id) is int for id in ids) or ids[-len(specials) :] != specials:
        raise _damaged("its harmony ids are not whole numbers that end with the control tokens")
    ordinary = ids[: len(encoded)]
    if any(later <= earlier for earlier, later in zip([-1, *ordinary], [*ordinary, _FIRST_SPECIAL], strict=True)):
        raise _damaged("its harmony ids do not ascend within the ordinary tokens")
    tokens = [_token(index, text) for index, text in enumerate(encoded)]
    if len(set(tokens)) != len(tokens):
        raise _damaged("a token occurs twice")
    if sum(len(token) == 1 for token in tokens) != 256:
        raise _damaged("not all 256 single bytes are among its tokens")
    return StoryVocabulary(tokens, ordinary)


def _token(index: int, text: Any) -> bytes:
    if not isinstance(text, str) or len(text) > 4 * MAX_TOKEN_BYTES:
        raise _damaged(f"token {index} is not a short text")
    try:
        token = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise _damaged(f"token {index} is not base64") from error
    if not 1 <= len(token) <= MAX_TOKEN_BYTES:
        raise _damaged(f"token {index} has {len(token)} bytes, not 1 to {MAX_TOKEN_BYTES}")
    return token


def _damaged(problem: str) -> TokenizationError:
    return TokenizationError(f"the saved story vocabulary is damaged: {problem}")
