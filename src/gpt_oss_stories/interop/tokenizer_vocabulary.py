"""The vocabulary of a `transformers` directory that came without our own description of it.

A model that was exported, trained further elsewhere and saved there has its `tokenizer.json` only. Its tokens are
looked up in harmony, which gives the story vocabulary back.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from ..tokenization import StoryVocabulary, Vocabulary, harmony_vocabulary
from .tensor_files import read_json

TOKENIZER_FILE = "tokenizer.json"


def byte_spelling() -> dict[int, str]:
    """The printable character by which GPT-2's byte-level tokenizers spell each byte: itself where it is printable in
    Latin-1, else the next free character from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spelling = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in spelling:
            spelling[byte] = chr(256 + len(spelling) - len(printable))
    return spelling


def read_tokenizer_vocabulary(path: Path, size: int) -> Vocabulary | None:
    """The story vocabulary that a `tokenizer.json` spells.

    Args:
        path: the file.
        size: tokens that the model has.

    Returns:
        None where the tokenizer is not a story vocabulary: its tokens are not harmony's in harmony's order, followed by
        the control tokens.

    Raises:
        FormatError: the file is damaged.
    """
    raw = read_json(path)
    model = raw.get("model")
    ids = model.get("vocab") if isinstance(model, Mapping) else None
    if not isinstance(ids, Mapping) or not all(type(id) is int for id in ids.values()):
        return None
    harmony = harmony_vocabulary()
    byte_of = {character: byte for byte, character in byte_spelling().items()}
    tokens, ranks = [], []
    for expected, (spelled, id) in enumerate(sorted(ids.items(), key=lambda entry: entry[1])):
        if id != expected or not all(character in byte_of for character in spelled):
            break
        token = bytes(byte_of[character] for character in spelled)
        if (rank := harmony.rank(token)) is None:
            break
        tokens.append(token)
        ranks.append(rank)
    vocabulary = _story_vocabulary(tokens, ranks)
    if vocabulary is None or vocabulary.size != size:
        return None
    added = {entry.get("content"): entry.get("id") for entry in raw.get("added_tokens", []) if isinstance(entry, dict)}
    wanted = {f"<|{name}|>": vocabulary.special(name) for name in ("startoftext", "endoftext", "return")}
    return vocabulary if wanted.items() <= added.items() else None


def _story_vocabulary(tokens: list[bytes], ranks: list[int]) -> StoryVocabulary | None:
    ascending = all(earlier < later for earlier, later in pairwise(ranks))
    single = sum(len(token) == 1 for token in tokens)
    return StoryVocabulary(tokens, ranks) if ascending and single == 256 else None
