"""Starting a model from the weights of another one, whose vocabulary may be another.

All harmony and story vocabularies share harmony's numbering, so a row of one table is found in the other by its harmony
id. A token that the other model does not have starts as the mean of the rows by which it would spell that token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import StoryError
from ..tokenization import Vocabulary
from .transformer import StoryTransformer

TABLES = ("embedding.weight", "unembedding.weight")
"""The parameters with a row for each token."""

MULTI_TOKEN = "multi_token."


class TransplantError(StoryError):
    """A model cannot start from the weights that were given."""


class WeightSource(Protocol):
    """A model that another one may start from."""

    @property
    def path(self) -> Path: ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def vocabulary(self) -> Vocabulary | None: ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Parameter names and values, one at a time."""
        ...


def move_table(table: Tensor, old: Vocabulary, new: Vocabulary) -> Tensor:
    """The rows of a table under another vocabulary.

    Args:
        table: (old.size, width).

    Returns:
        (new.size, width): the same rows for tokens that both have; for others the mean of the rows of the tokens that
        spell them in `old`, and the mean of all rows where there are none (control tokens, parts of characters).
    """
    place = {harmony_id: row for row, harmony_id in enumerate(old.harmony_ids)}
    rows = torch.tensor([place.get(harmony_id, -1) for harmony_id in new.harmony_ids], dtype=torch.int64)
    moved = table[rows.clamp(min=0)]
    absent = torch.nonzero(rows < 0).flatten().tolist()
    if not absent:
        return moved
    usual = table.float().mean(0)
    spelled: list[int] = []
    lengths: list[int] = []
    for token in absent:
        try:
            parts = old.encode(new.token_bytes(token).decode("utf-8"))
        except UnicodeDecodeError:
            parts = []
        spelled += parts
        lengths.append(len(parts))
    counts = torch.tensor(lengths)
    sums = torch.zeros(len(absent), table.shape[1])
    owner = torch.repeat_interleave(torch.arange(len(absent)), counts)
    sums.index_add_(0, owner, table[torch.tensor(spelled, dtype=torch.int64)].float())
    means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], usual)
    moved[torch.tensor(absent)] = means.to(moved.dtype)
    return moved


@torch.no_grad()
def start_from(model: StoryTransformer, vocabulary: Vocabulary, source: WeightSource) -> list[str]:
    """Give a model the weights of another one.

    Args:
        model: of the same architecture; modules for multi-token prediction that the other lacks keep their weights.
        vocabulary: the model's.
        source: the other model.

    Returns:
        lines about what was not simply copied.

    Raises:
        TransplantError: the architectures differ, or the other model's vocabulary is not known and of another size.
    """
    other = source.vocabulary
    if other is None and source.config.vocab_size != vocabulary.size:
        raise TransplantError(
            f"{source.path} has {source.config.vocab_size:,} tokens of an unknown vocabulary, the new model "
            f"{vocabulary.size:,}: start from a model with a harmony or story vocabulary"
        )
    moves = other is not None and other.fingerprint != vocabulary.fingerprint
    parameters = dict(model.named_parameters())
    waiting, ignored, problems = set(parameters), [], []

    def put(name: str, values: Tensor) -> None:
        waiting.discard(name)
        if parameters[name].shape == values.shape:
            parameters[name].copy_(values)
        else:
            problems.append(f"{name} is {tuple(values.shape)}, needed is {tuple(parameters[name].shape)}")

    for name, values in source.weights():
        if name in TABLES and moves:
            assert other is not None
            values = move_table(values, other, vocabulary)
        if name in parameters:
            put(name, values)
            if name == TABLES[0] and source.config.tie_embeddings and TABLES[1] in parameters:
                put(TABLES[1], values)
        else:
            ignored.append(name)
    fresh = sorted(name for name in waiting if name.startswith(MULTI_TOKEN))
    problems += [f"{name} is not in it" for name in sorted(waiting - set(fresh))]
    problems += [f"{name} has no place in the new model" for name in ignored if not name.startswith(MULTI_TOKEN)]
    if problems:
        raise TransplantError(
            f"the model cannot start from {source.path}, whose architecture differs: {'; '.join(problems[:4])}"
            + (f" and {len(problems) - 4} more" if len(problems) > 4 else "")
        )
    notes = []
    if moves:
        assert other is not None
        known = set(other.harmony_ids)
        shared = sum(harmony_id in known for harmony_id in vocabulary.harmony_ids)
        notes.append(
            f"vocabulary: {shared:,} of {vocabulary.size:,} tokens have their row of {source.path.name}'s "
            f"{other.size:,}" + ("" if shared == vocabulary.size else "; the others start as the mean of their parts")
        )
    if fresh:
        notes.append("the modules for multi-token prediction start untrained: the given model has none")
    if any(name.startswith(MULTI_TOKEN) for name in ignored):
        notes.append(
            "modules of the given model for multi-token prediction are left out: --multi-token-predict is lower"
        )
    return notes
