"""A vocabulary of bytes and a network without weights, so that the engine is tested apart from the model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_oss_stories.config import ModelConfig

SPECIALS = ("startoftext", "endoftext", "start", "message", "channel", "end", "return", "call")


class ByteVocabulary:
    """Tokens 0 to 255 are bytes, the specials follow."""

    kind = "bytes"
    size = 256 + len(SPECIALS)
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.token_bytes(token) for token in ids).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < 256 else b""

    def special(self, name: str) -> int:
        return 256 + SPECIALS.index(name)


class FakeCache:
    """Remembers each row's tokens."""

    def __init__(self, batch_size: int, max_length: int) -> None:
        self.rows: list[list[int]] = [[] for _ in range(batch_size)]
        self.max_length = max_length

    def select(self, rows: Tensor) -> None:
        self.rows = [list(self.rows[row]) for row in rows.tolist()]


@dataclass
class FakeNetwork:
    """A network whose logits are a function of a row's tokens; it records the width of each call."""

    predict: Callable[[Sequence[int]], Tensor]
    block_size: int = 512
    training: bool = False
    vocab_size: int = ByteVocabulary.size
    calls: list[tuple[int, int]] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(
            vocab_size=self.vocab_size, n_layer=1, n_head=1, n_embd=8, block_size=self.block_size, num_experts=1
        )

    def train(self, mode: bool = True) -> FakeNetwork:
        self.training = mode
        return self

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def new_cache(self, batch_size: int, max_length: int) -> FakeCache:
        return FakeCache(batch_size, max_length)

    def next_logits(self, tokens: Tensor, cache: FakeCache, counts: Tensor | None = None) -> Tensor:
        self.calls.append((tokens.shape[0], tokens.shape[1]))
        self.modes.append(self.training)
        assert tokens.shape[0] == len(cache.rows)
        kept = [tokens.shape[1]] * len(tokens) if counts is None else counts.tolist()
        for row, new, count in zip(cache.rows, tokens.tolist(), kept, strict=True):
            row += new[:count]
            assert len(row) <= cache.max_length
        return torch.stack([self.predict(row) for row in cache.rows])


def certain(token: int) -> Tensor:
    """Logits that leave no choice."""
    logits = torch.full((ByteVocabulary.size,), -50.0)
    logits[token] = 50.0
    return logits


def scripted(scripts: dict[str, str], *, ends: bool = True) -> Callable[[Sequence[int]], Tensor]:
    """A network that continues each prompt with its script and then ends; without `ends` it repeats its last letter."""
    vocabulary = ByteVocabulary()
    whole = [list((prompt + text).encode()) for prompt, text in scripts.items()]

    def predict(row: Sequence[int]) -> Tensor:
        story = [token for token in row if token < 256]
        for text in whole:
            if text[: len(story)] == story:
                if len(text) > len(story):
                    return certain(text[len(story)])
                break
        return certain(vocabulary.special("endoftext") if ends else story[-1])

    return predict


def dice(row: Sequence[int]) -> Tensor:
    """Logits that look random and depend on every token before; about one story in twenty tokens ends."""
    generator = torch.Generator().manual_seed(random.Random(str(list(row))).getrandbits(31))
    logits = 2 * torch.randn(ByteVocabulary.size, generator=generator)
    logits[128:256] = -20.0
    logits[257] += 3.0
    return logits


@pytest.fixture
def fakes() -> SimpleNamespace:
    """The helpers above."""
    return SimpleNamespace(
        ByteVocabulary=ByteVocabulary, FakeNetwork=FakeNetwork, certain=certain, scripted=scripted, dice=dice
    )
