"""Roles of parameters, Muon and the optimizer that joins it with AdamW."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gpt_oss_stories.config import TrainingConfig, model_config, training_config
from gpt_oss_stories.model.transformer import StoryTransformer
from gpt_oss_stories.training.optimizer import (
    DECAYED_ROLES,
    MUON_ROLES,
    Muon,
    StoryOptimizer,
    orthogonalize,
    parameter_roles,
)

SWITCHES = [
    {},
    {"multi_token_predict": 3},
    {"num_experts": 1},
    {"use_swiglu": False, "use_rmsnorm": False, "use_attention_sinks": False},
    {"tie_embeddings": True},
]


def small_model(**changes):
    settings = {"vocab_size": 50, "n_layer": 2, "n_embd": 16, "head_dim": 8, "block_size": 32, "sliding_window": 8}
    settings["tie_embeddings"] = False
    return StoryTransformer(model_config("nano", **{**settings, **changes}), seed=3)


def fill_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_parameter_has_one_role_and_one_optimizer(changes):
    model = small_model(**changes)
    roles = parameter_roles(model)
    assert set(roles) == {name for name, _ in model.named_parameters()}
    optimizer = StoryOptimizer(model, TrainingConfig(optimizer="muon"))
    handled = list(optimizer.muon.parameters.values()) + [p for g in optimizer.adamw.param_groups for p in g["params"]]
    assert sorted(map(id, handled)) == sorted(map(id, model.parameters()))
    assert all(parameter.dim() >= 2 for parameter in optimizer.muon.parameters.values())


@pytest.mark.parametrize(("rate", "wanted"), [(None, 1e-3), (1e-2, 1e-2)])
def test_the_embedding_has_a_rate_of_its_own(rate, wanted):
    """AdamW's first step moves every entry by the learning rate."""
    model = small_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    fill_gradients(model, 1)
    config = training_config("debug", learning_rate=1e-3, embedding_learning_rate=rate, weight_decay=0.0)
    StoryOptimizer(model, config).step(1.0)
    moved = {name: (parameter - before[name]).abs().median().item() for name, parameter in model.named_parameters()}
    assert moved["embedding.weight"] == pytest.approx(wanted, rel=0.01)
    assert moved["unembedding.weight"] == pytest.approx(1e-3, rel=0.01)


def test_roles_by_hand():
    roles = parameter_roles(small_model(multi_token_predict=2))
    assert roles["embedding.weight"] == "embedding"
    assert roles["unembedding.weight"] == "unembedding"
    assert roles["layers.0.attention.qkv.weight"] == roles["multi_token.0.projection.weight"] == "matrix"
    assert roles["layers.1.experts.down_weight"] == roles["multi_token.0.block.experts.gate_up_weight"] == "expert"
    assert roles["layers.0.experts.router.weight"] == "router"
    vectors = (
        "norm.weight",
        "layers.0.attention.sinks",
        "layers.0.experts.router.bias",
        "layers.0.experts.gate_up_bias",
        "multi_token.0.hidden_norm.weight",
        "layers.1.attention.qkv.bias",
    )
    assert {roles[name] for name in vectors} == {"vector"}


def test_a_parameter_of_unknown_role_is_an_error():
    model = small_model()
    model.extra = nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(AssertionError, match="extra"):
        parameter_roles(model)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_weight_decay_shrinks_matrices_only(kind):
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    config = TrainingConfig(optimizer=kind, learning_rate=0.1, matrix_learning_rate=0.1, weight_decay=0.5)
    StoryOptimizer(model, config).step(1.0)
    roles = parameter_roles(model)
    for name, parameter in model.named_parameters():
        expected = 0.95 if roles[name] in DECAYED_ROLES else 1.0
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected), msg=name)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalized_matrices_keep_their_directions_with_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    matrices = u @ torch.diag_embed(s.clamp(min=0.2 * s.amax().item())) @ vh
    found = orthogonalize(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    # same singular vectors: the result differs from U V^T only by the spread of the values
    inner = u.mT @ found @ vh.mT
    off_diagonal = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() < 1e-3


def test_orthogonalizing_zero_gives_zero():
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def reference_muon(weight, gradients, *, learning_rate, weight_decay, transposed):
    """One matrix, step by step, as the method's description reads."""
    momentum = torch.zeros_like(weight)
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
        x = 0.05 * gradient + 0.95 * momentum
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
        outputs, inputs = weight.shape[::-1] if transposed else weight.shape
        scale = math.sqrt(max(1.0, outputs / inputs))
        weight = weight * (1 - learning_rate * weight_decay) - learning_rate * scale * x
    return weight


def test_muon_equals_the_reference_matrix_by_matrix_in_one_batch_of_layers():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    parameters = {
        "a": nn.Parameter(draw(24, 8)),
        "b": nn.Parameter(draw(24, 8)),
        "experts": nn.Parameter(draw(3, 24, 8)),
        "wide": nn.Parameter(draw(8, 24)),
    }
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    muon = Muon(parameters, momentum=0.95, weight_decay=0.1, dtype=torch.float64)
    gradients = {name: [draw(*p.shape) for _ in range(3)] for name, p in parameters.items()}
    for step in range(3):
        for name, parameter in parameters.items():
            parameter.grad = gradients[name][step]
        muon.step(0.05)
    options = {"learning_rate": 0.05, "weight_decay": 0.1}
    for name in ("a", "b", "wide"):
        expected = reference_muon(start[name], gradients[name], **options, transposed=False)
        torch.testing.assert_close(parameters[name].detach(), expected)
    for expert in range(3):
        own = [gradient[expert] for gradient in gradients["experts"]]
        expected = reference_muon(start["experts"][expert], own, **options, transposed=True)
        torch.testing.assert_close(parameters["experts"].detach()[expert], expected)


def test_small_chunks_give_the_same_update(monkeypatch):
    results = []
    for limit in (1 << 24, 1):
        monkeypatch.setattr("gpt_oss_stories.training.optimizer.ELEMENTS_AT_ONCE", limit)
        model = small_model()
        fill_gradients(model, 5)
        StoryOptimizer(model, TrainingConfig(optimizer="muon")).step(1.0)
        results.append([parameter.detach().clone() for parameter in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_restored_state_continues_bit_for_bit(kind):
    config = TrainingConfig(optimizer=kind)
    first, second = small_model(), small_model()
    one, two = StoryOptimizer(first, config), StoryOptimizer(second, config)
    for seed in range(2):
        fill_gradients(first, seed)
        one.step(0.5)
    second.load_state_dict(first.state_dict())
    live, saved = two.state_tensors(), one.state_tensors()
    assert live.keys() == saved.keys()
    for name, tensor in live.items():
        tensor.copy_(saved[name])
    for model, optimizer in ((first, one), (second, two)):
        fill_gradients(model, 9)
        optimizer.step(0.3)
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_state_is_float32_and_there_from_the_start():
    model = small_model()
    optimizer = StoryOptimizer(model, TrainingConfig(optimizer="muon"), matrix_dtype=torch.bfloat16)
    before = set(optimizer.state_tensors())
    fill_gradients(model, 1)
    optimizer.step(1.0)
    assert set(optimizer.state_tensors()) == before
    assert {tensor.dtype for tensor in optimizer.state_tensors().values()} == {torch.float32}


def test_adamw_equals_torch():
    model, twin = small_model(), small_model()
    config = TrainingConfig(optimizer="adamw", learning_rate=1e-2, weight_decay=0.1)
    optimizer = StoryOptimizer(model, config)
    roles = parameter_roles(twin)
    groups = [
        {"params": [p], "weight_decay": 0.1 if roles[n] in DECAYED_ROLES else 0.0} for n, p in twin.named_parameters()
    ]
    plain = torch.optim.AdamW(groups, lr=5e-3, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    for seed in range(3):
        for each in (model, twin):
            fill_gradients(each, seed)
        optimizer.step(0.5)
        plain.step()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_muon_roles_are_matrices_that_decay():
    assert MUON_ROLES <= DECAYED_ROLES
