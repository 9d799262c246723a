"""Models that start from the weights of others, under the same vocabulary or another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from gpt_oss_stories.model import StoryTransformer
from gpt_oss_stories.model.transplant import TransplantError, move_table, start_from
from gpt_oss_stories.tokenization import build_story_vocabulary, count_tokens, harmony_vocabulary
from support.small_models import TEXTS, small_config, small_model, small_vocabulary


@dataclass(frozen=True)
class Given:
    model: StoryTransformer
    vocabulary: object
    path: Path = Path("given.pt")

    @property
    def config(self):
        return self.model.config

    def weights(self):
        return ((name, parameter.detach()) for name, parameter in self.model.named_parameters())


@pytest.fixture(scope="module")
def larger():
    """A vocabulary with every token of the small one, and more."""
    return build_story_vocabulary(
        count_tokens(harmony_vocabulary(), [*TEXTS, "A hippopotamus wandered through marvellous gardens."])
    )


def table_of(vocabulary, width=3):
    return torch.randn(vocabulary.size, width, generator=torch.Generator().manual_seed(2))


def test_rows_follow_their_tokens(larger):
    small = small_vocabulary()
    table = table_of(larger)
    moved = move_table(table, larger, small)
    for row, harmony_id in enumerate(small.harmony_ids):
        assert torch.equal(moved[row], table[larger.harmony_ids.index(harmony_id)])


def test_unknown_tokens_start_as_the_mean_of_their_parts(larger):
    small = small_vocabulary()
    table = table_of(small)
    moved = move_table(table, small, larger)
    known, spelled, control = set(small.harmony_ids), 0, 0
    for row, harmony_id in enumerate(larger.harmony_ids):
        if harmony_id in known:
            assert torch.equal(moved[row], table[small.harmony_ids.index(harmony_id)])
            continue
        parts = small.encode(larger.token_bytes(row).decode())
        assert len(parts) > 1
        torch.testing.assert_close(moved[row], table[parts].mean(0))
        spelled += 1
    assert spelled > 5
    harmony = harmony_vocabulary()
    moved = move_table(table, small, harmony)
    for row in (200_500, 201_087):  # reserved: nothing spells them
        torch.testing.assert_close(moved[row], table.mean(0))
        control += 1
    assert control == 2


def test_a_table_that_goes_to_harmony_and_back_is_the_same():
    small = small_vocabulary()
    table = table_of(small)
    assert torch.equal(move_table(move_table(table, small, harmony_vocabulary()), harmony_vocabulary(), small), table)


def test_the_same_architecture_gets_the_same_weights():
    vocabulary = small_vocabulary()
    given, new = small_model(small_config(vocabulary)), StoryTransformer(small_config(vocabulary), seed=9)
    assert start_from(new, vocabulary, Given(given, vocabulary)) == []
    for (name, ours), (_, theirs) in zip(new.named_parameters(), given.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert ours.requires_grad


def test_another_vocabulary_keeps_what_the_model_says(larger):
    small = small_vocabulary()
    given = small_model(small_config(larger))
    new = StoryTransformer(small_config(small), seed=9)
    [note] = start_from(new, small, Given(given, larger))
    assert f"{small.size:,} of {small.size:,} tokens" in note
    rows = torch.tensor([larger.harmony_ids.index(harmony_id) for harmony_id in small.harmony_ids])
    tokens = torch.tensor([small.encode(TEXTS[0])])
    torch.testing.assert_close(new.logits(tokens), given.logits(rows[tokens])[..., rows])


def test_modules_for_further_tokens_may_be_missing_on_either_side():
    vocabulary = small_vocabulary()
    one, two = small_config(vocabulary), small_config(vocabulary, multi_token_predict=2)
    new = StoryTransformer(two, seed=9)
    fresh = {name: p.clone() for name, p in new.named_parameters() if name.startswith("multi_token.")}
    [note] = start_from(new, vocabulary, Given(small_model(one), vocabulary))
    assert "untrained" in note
    assert fresh
    assert all(torch.equal(dict(new.named_parameters())[name], before) for name, before in fresh.items())
    [note] = start_from(StoryTransformer(one), vocabulary, Given(small_model(two), vocabulary))
    assert "left out" in note


def test_a_tied_table_serves_both_tables():
    vocabulary = small_vocabulary()
    given = small_model(small_config(vocabulary, tie_embeddings=True))
    new = StoryTransformer(small_config(vocabulary), seed=9)
    start_from(new, vocabulary, Given(given, vocabulary))
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(new.logits(tokens), given.logits(tokens))


def test_other_architectures_are_refused_with_the_reasons():
    vocabulary = small_vocabulary()
    given = Given(small_model(small_config(vocabulary)), vocabulary)
    for changes, reason in (
        ({"n_layer": 3}, "layers.2.attention.norm.weight is not in it"),
        ({"n_layer": 1}, "has no place in the new model"),
        ({"n_embd": 64}, r"embedding.weight is \(456, 32\), needed is \(456, 64\)"),
        ({"tie_embeddings": True}, "unembedding.weight has no place"),
    ):
        with pytest.raises(TransplantError, match=reason):
            start_from(StoryTransformer(small_config(vocabulary, **changes)), vocabulary, given)


def test_a_vocabulary_that_is_not_known_must_at_least_have_the_size(larger):
    small = small_vocabulary()
    given = Given(small_model(small_config(small)), None)
    start_from(StoryTransformer(small_config(small)), small, given)
    with pytest.raises(TransplantError, match="unknown vocabulary"):
        start_from(StoryTransformer(small_config(larger)), larger, given)
