"""The decoding step in numpy against torch's own, for every mechanism that it knows."""

from __future__ import annotations

import copy

import pytest
import torch

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.model import StoryTransformer, numpy_decode
from gpt_oss_stories.model.kv_cache import ContextLengthError
from gpt_oss_stories.model.numpy_decode import NumpyDecoder

WINDOW = 6
CASES = {
    "as gpt-oss": {},
    "tied": {"tie_embeddings": True},
    "dense": {"num_experts": 1},
    "no sinks": {"use_attention_sinks": False},
    "no windows": {"sliding_window": 0},
    "stretched": {"rope_scaling_factor": 8.0, "rope_original_context": 16},
    "all experts": {"experts_per_token": 4},
    "one key-value head": {"n_kv_head": 1},
    "clamped": {"swiglu_limit": 0.05},
    "two tokens": {"multi_token_predict": 2},
}


def build(**changes) -> StoryTransformer:
    config = ModelConfig(
        vocab_size=60, n_layer=3, n_head=4, n_kv_head=2, n_embd=24, head_dim=8, intermediate_size=20, block_size=64,
        num_experts=4, sliding_window=WINDOW,
    ).replace(**changes)  # fmt: skip
    model = StoryTransformer(config, seed=3).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def plain(model: StoryTransformer) -> StoryTransformer:
    """A copy that decodes with torch."""
    other = copy.deepcopy(model)
    other._numpy_decoder = lambda: None
    return other


@torch.inference_mode()
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
@pytest.mark.parametrize("prompt", [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW], ids="prompt={}".format)
def test_every_step_equals_torchs(changes, prompt, monkeypatch):
    model = build(**changes)
    other = plain(model)
    steps = []
    step = NumpyDecoder.step
    monkeypatch.setattr(
        NumpyDecoder, "step", lambda self, token, cache: steps.append(token) or step(self, token, cache)
    )
    tokens = torch.randint(0, 60, (1, prompt + 2 * WINDOW + 3), generator=torch.Generator().manual_seed(5))
    caches = [network.new_cache(1, 64) for network in (model, other)]
    for network, cache in zip((model, other), caches, strict=True):
        network.next_logits(tokens[:, :prompt], cache)
    for place in range(prompt, tokens.shape[1]):
        got, want = (
            network.next_logits(tokens[:, place : place + 1], cache)
            for network, cache in zip((model, other), caches, strict=True)
        )
        torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5)
    assert len(steps) == tokens.shape[1] - prompt
    assert caches[0].longest == caches[1].longest == tokens.shape[1]
    assert torch.equal(caches[0].lengths, caches[1].lengths)
    for ours, theirs in zip(caches[0].keys + caches[0].values, caches[1].keys + caches[1].values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@torch.inference_mode()
def test_the_two_ways_go_on_from_each_other():
    """Rows join and leave a batch: the cache of one way is that of the other."""
    model = build()
    tokens = torch.randint(0, 60, (1, 20), generator=torch.Generator().manual_seed(5))
    want = model.logits(tokens)
    cache = model.new_cache(1, 64)
    model.next_logits(tokens[:, :4], cache)
    for place in range(4, 12):
        torch.testing.assert_close(model.next_logits(tokens[:, place : place + 1], cache), want[:, place])
    torch.testing.assert_close(model.next_logits(tokens[:, 12:15], cache), want[:, 14])
    for place in range(15, 20):
        torch.testing.assert_close(model.next_logits(tokens[:, place : place + 1], cache), want[:, place])


def test_a_large_table_gives_the_same_logits(monkeypatch):
    model = build()
    small = decoded(model)
    monkeypatch.setattr(numpy_decode, "LARGE_TABLE", 1)
    torch.testing.assert_close(decoded(model), small)


def decoded(model: StoryTransformer) -> torch.Tensor:
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        cache = model.new_cache(1, 64)
        model.next_logits(tokens[:, :3], cache)
        return model.next_logits(tokens[:, 3:], cache)


def test_changed_and_moved_parameters_are_seen():
    model = build()
    before = decoded(model)
    with torch.no_grad():
        model.layers[1].experts.down_weight.mul_(2)
    changed = decoded(model)
    assert not torch.allclose(before, changed)
    torch.testing.assert_close(changed, decoded(plain(model)))
    model.to(torch.float64).to(torch.float32)  # the same numbers in other memory
    with torch.no_grad():
        model.layers[0].attention.qkv.weight.mul_(1.5)
    torch.testing.assert_close(decoded(model), decoded(plain(model)))
    model.norm.weight = torch.nn.Parameter(model.norm.weight * 3)
    torch.testing.assert_close(decoded(model), decoded(plain(model)))


def test_a_copied_model_decodes_with_its_own_parameters():
    model = build()
    decoded(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layers[1].experts.down_weight.mul_(2)
    torch.testing.assert_close(decoded(other), decoded(plain(other)))
    assert not torch.allclose(decoded(other), decoded(model))


@pytest.mark.parametrize("changes", [{"use_swiglu": False}, {"use_rmsnorm": False}], ids=str)
def test_what_it_does_not_know_is_torchs(changes):
    assert not NumpyDecoder.suits(build(**changes))
    narrow = build()
    narrow.compute_dtype = torch.bfloat16
    assert not NumpyDecoder.suits(narrow)


@torch.inference_mode()
def test_a_full_cache_is_an_error():
    model = build()
    cache = model.new_cache(1, 5)
    model.next_logits(torch.tensor([[1, 2, 3, 4]]), cache)
    model.next_logits(torch.tensor([[5]]), cache)
    with pytest.raises(ContextLengthError, match="6 tokens"):
        model.next_logits(torch.tensor([[6]]), cache)
