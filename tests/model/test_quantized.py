"""Matrices in 8 bits against the float32 numbers that they stand for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.model import StoryTransformer, decode
from gpt_oss_stories.model.decode import Decoder
from gpt_oss_stories.model.quantized import GROUP, ByteTable, large_matrices, quantize_for_decoding


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(**changes) -> StoryTransformer:
    config = ModelConfig(
        vocab_size=300, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, head_dim=8, intermediate_size=28, block_size=64,
        num_experts=4, sliding_window=6,
    ).replace(**changes)  # fmt: skip
    model = StoryTransformer(config, seed=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(random(*parameter.shape) * 0.1)
    return model


def story(model: StoryTransformer, rows: int = 1) -> torch.Tensor:
    """(steps, rows, vocab_size) logits along a fixed continuation."""
    tokens = torch.randint(0, 300, (rows, 30), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cache = model.new_cache(rows, 64)
        logits = [model.next_logits(tokens[:, :5], cache)]
        logits += [model.next_logits(tokens[:, place : place + 1], cache) for place in range(5, 30)]
    return torch.stack(logits)


SHAPES = [(1, 1, 1), (1, 7, 5), (3, 16, GROUP), (2, 9, GROUP + 1), (4, 5, 3 * GROUP), (2, 31, 2 * GROUP + 6)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_that_of_the_numbers_it_stands_for(shape):
    matrices, inputs, _ = shape
    table = ByteTable(random(*shape))
    weight = table.dequantized().double()
    assert weight.shape == shape
    for chosen in ([0], list(range(matrices))[::-1], [matrices - 1]):
        x = random(len(chosen), inputs, seed=1)
        want = torch.stack([row.double() @ weight[matrix] for row, matrix in zip(x, chosen, strict=True)])
        got = torch.from_numpy(table.products(x.numpy(), chosen))
        torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-5)
        same = torch.from_numpy(table.products(x.numpy()[:1], chosen))
        torch.testing.assert_close(same, (x[0].double() @ weight[chosen]).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rounding_moves_a_weight_by_half_a_step_at_most(shape):
    weight = random(*shape)
    table = ByteTable(weight)
    groups = weight.reshape(shape[0], shape[1], table.groups, -1)
    step = (groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)) / 255
    error = (table.dequantized().reshape(groups.shape) - groups).abs()
    assert (error <= step * 0.5001 + 1e-6).all()
    assert groups.shape[-1] <= GROUP


@pytest.mark.parametrize("value", [0.0, -3.25])
def test_equal_weights_stay_what_they_are(value):
    assert torch.equal(ByteTable(torch.full((2, 3, 4), value)).dequantized(), torch.full((2, 3, 4), value))


def test_rounding_twice_changes_nothing_more():
    once = ByteTable(random(2, 20, 300)).dequantized()
    torch.testing.assert_close(ByteTable(once).dequantized(), once, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": True}, {"num_experts": 1}, {"use_attention_sinks": False}], ids=str
)
def test_the_rounded_model_in_bytes_equals_itself_in_float32(changes, monkeypatch):
    for limit in ("SMALL_MATRIX", "SMALL_TABLE"):
        monkeypatch.setattr(decode, limit, 0)
    model = build(**changes)
    original = copy.deepcopy(model)
    quantize_for_decoding(model)
    assert model.decode_weights == "int8"
    float32 = copy.deepcopy(model)
    float32.decode_weights = "float32"
    with_torch = copy.deepcopy(model)
    with_torch._fast_decoder = lambda: None
    products = []
    multiply = ByteTable.products

    def counted(self, x, chosen):
        products.append(len(chosen))
        return multiply(self, x, chosen)

    monkeypatch.setattr(ByteTable, "products", counted)
    got = story(model)
    # Of 25 steps: for each layer two of the attention and two of the experts, and the unembedding.
    assert len(products) == 25 * (2 * 4 + 1)
    for twin in (float32, with_torch):
        torch.testing.assert_close(got, story(twin), rtol=1e-4, atol=1e-4)
    assert len(products) == 25 * (2 * 4 + 1)
    want = story(original)
    moved = (story(float32) - want).square().mean() / want.square().mean()
    assert 1e-8 < moved < 1e-3
    torch.testing.assert_close(story(model, rows=3), story(with_torch, rows=3), rtol=1e-4, atol=1e-4)


def test_only_the_large_matrices_of_the_model_are_rounded():
    model = build(multi_token_predict=2)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    quantize_for_decoding(model)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    leaves = ("attention.qkv.weight", "attention.out.weight", "experts.gate_up_weight", "experts.down_weight")
    assert changed == {"unembedding.weight"} | {f"layers.{layer}.{leaf}" for layer in range(2) for leaf in leaves}
    assert sum(matrix.numel() for matrix in large_matrices(model)) == sum(before[name].numel() for name in changed)


def test_evaluation_reads_the_rounded_numbers():
    model = build()
    tokens = torch.randint(0, 300, (1, 30), generator=torch.Generator().manual_seed(1))
    quantize_for_decoding(model)
    with torch.inference_mode():
        whole = model.logits(tokens)
    torch.testing.assert_close(story(model)[:, 0], whole[0, 4:], rtol=1e-4, atol=1e-4)


def test_training_after_rounding_is_seen():
    """Steps after an optimizer's are in 8 bits of the new numbers."""
    model = build()
    quantize_for_decoding(model)
    before = story(model)
    with torch.no_grad():
        model.layers[0].attention.qkv.weight.mul_(1.5)
    changed = story(model)
    assert not torch.allclose(before, changed)
    with_torch = copy.deepcopy(model)
    with_torch._fast_decoder = lambda: None
    torch.testing.assert_close(changed, story(with_torch), rtol=0.01, atol=0.01)


def test_a_model_may_go_back_to_float32():
    model = build()
    quantize_for_decoding(model)
    story(model)
    model.decode_weights = "float32"
    assert model._fast_decoder().unembedding.table is None
    assert isinstance(model._fast_decoder(), Decoder)


def test_what_a_product_takes_is_not_changed():
    table, x = ByteTable(random(2, 8, 16)), random(1, 8).numpy()
    before = x.copy()
    table.products(x, [1])
    np.testing.assert_array_equal(x, before)
