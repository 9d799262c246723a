"""Loss and accuracy on held-out stories, against a twin that looks at one token after the other."""

from __future__ import annotations

import math

import pytest
import torch

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.data.batches import Batch
from gpt_oss_stories.model.transformer import StoryTransformer
from gpt_oss_stories.training import evaluation
from gpt_oss_stories.training.distributed import Processes
from gpt_oss_stories.training.evaluation import count_target_bytes, evaluate

VOCABULARY, LENGTH = 23, 16


def model_with(depths, **changes):
    settings = {"vocab_size": VOCABULARY, "n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 16, "head_dim": 8,
                "block_size": LENGTH, "num_experts": 2, "sliding_window": 4, "multi_token_predict": depths}  # fmt: skip
    model = StoryTransformer(ModelConfig(**{**settings, **changes}), seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # so that it has opinions
    return model


def a_batch(seed, rows=3):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (rows, LENGTH), generator=generator)
    documents = (torch.arange(LENGTH) // 6).repeat(rows, 1)
    documents[:, -2:] = -1
    trained = torch.rand(rows, LENGTH, generator=generator) < 0.8
    return Batch(tokens, documents, trained)


def evaluate_on(monkeypatch, model, batches, byte_counts, rows_at_once=2):
    monkeypatch.setattr(evaluation, "validation_batches", lambda *a, **k: iter(batches))
    return evaluate(
        model,
        None,
        byte_counts,
        batch_size=3,
        length=LENGTH,
        most_batches=9,
        rows_at_once=rows_at_once,
        processes=Processes(),
    )


def one_by_one(model, batches, byte_counts):
    """Loss and accuracy at depth 0, each document alone and each target by itself."""
    nats = right = count = size = 0.0
    for batch in batches:
        for row in range(len(batch.tokens)):
            for document in range(3):
                places = [i for i in range(LENGTH) if int(batch.documents[row, i]) == document]
                if len(places) < 2:
                    continue
                ids = batch.tokens[row, places]
                logits = model.logits(ids[None])[0]
                for here, place in enumerate(places[1:]):
                    if not bool(batch.trained[row, place]):
                        continue
                    target = int(ids[here + 1])
                    scores = logits[here].tolist()
                    nats += math.log(sum(math.exp(score) for score in scores)) - scores[target]
                    right += scores.index(max(scores)) == target
                    size += int(byte_counts[target])
                    count += 1
    return nats / count, right / count, nats / math.log(2) / size


@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
def test_loss_accuracy_and_bits_equal_those_of_single_tokens(monkeypatch, rows_at_once):
    model, batches = model_with(1), [a_batch(1), a_batch(2)]
    byte_counts = torch.arange(1, VOCABULARY + 1)
    found = evaluate_on(monkeypatch, model, batches, byte_counts, rows_at_once)
    with torch.no_grad():
        loss, accuracy, bits = one_by_one(model, batches, byte_counts)
    assert found.loss_nats == pytest.approx(loss, rel=1e-5)
    assert found.accuracy == pytest.approx(accuracy, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(bits, rel=1e-5)
    assert 0 < found.accuracy < 0.5
    assert found.multi_token_loss_nats == found.multi_token_accuracy == ()
    assert model.training


def test_every_depth_has_its_own_accuracy(monkeypatch):
    """A model that always says one token is right wherever that is the target, at each depth."""
    model = model_with(3, tie_embeddings=True)
    with torch.no_grad():  # whatever it reads, it says token 7
        for parameter in model.parameters():
            parameter.zero_()
        table = model.unembedding_weight
        table[7] = 1.0
        for module in (model.norm, *(part for each in model.multi_token for part in each.children())):
            if hasattr(module, "weight"):  # norms and projections; blocks add nothing
                module.weight.fill_(1.0)
    tokens = torch.tensor([[7, 1, 7, 7, 2, 7, 3, 7]])
    batch = Batch(tokens, torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool))
    monkeypatch.setattr(type(model), "_embed", lambda self, ids: torch.ones(*ids.shape, 16))
    found = evaluate_on(monkeypatch, model, [batch], torch.ones(VOCABULARY, dtype=torch.int64))
    assert found.accuracy == pytest.approx(4 / 7)
    assert found.multi_token_accuracy == pytest.approx((4 / 6, 3 / 5))


def test_a_depth_without_targets_is_not_a_number_and_no_targets_are_no_evaluation(monkeypatch):
    model = model_with(3)
    tokens = torch.tensor([[1, 2, 3, 4]])
    documents = torch.tensor([[0, 0, 1, 1]])
    batch = Batch(tokens, documents, torch.ones_like(tokens, dtype=torch.bool))
    found = evaluate_on(monkeypatch, model, [batch], torch.ones(VOCABULARY, dtype=torch.int64))
    assert math.isfinite(found.loss_nats)
    assert all(map(math.isnan, found.multi_token_loss_nats + found.multi_token_accuracy))
    silent = Batch(tokens, documents, torch.zeros_like(tokens, dtype=torch.bool))
    assert evaluate_on(monkeypatch, model, [silent], torch.ones(VOCABULARY, dtype=torch.int64)) is None


def test_bytes_are_those_of_the_targets():
    tokens = torch.tensor([[1, 2, 3, 4]])
    documents = torch.tensor([[0, 0, 1, 1]])
    trained = torch.tensor([[True, True, True, False]])
    assert count_target_bytes(Batch(tokens, documents, trained), 10 ** torch.arange(VOCABULARY)[:8]) == 100


def test_training_is_not_slowed_by_accuracy():
    batch = a_batch(1)
    losses = model_with(2).loss(batch.tokens, batch.documents, batch.trained)
    assert losses.accuracy is None
    with torch.no_grad():
        assert len(model_with(2).loss(batch.tokens, batch.documents, batch.trained).accuracy) == 2
