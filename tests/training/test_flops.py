"""Counting floating-point operations: the formulas against torch's own counter, and the table of GPUs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt_oss_stories.config import MODEL_SIZES, model_config
from gpt_oss_stories.model import attention, experts
from gpt_oss_stories.model.transformer import StoryTransformer
from gpt_oss_stories.training.flops import (
    forward_flops_per_token,
    mean_keys_seen,
    peak_flops,
    peak_flops_of,
    training_flops_per_token,
)

VARIANTS = {
    "experts": {},
    "dense": {"num_experts": 1},
    "gelu": {"use_swiglu": False},
    "three tokens": {"multi_token_predict": 3},
    "tied": {"tie_embeddings": True},
    "wide experts": {"intermediate_size": 192, "experts_per_token": 3},
}


def small(**changes):
    shape = {"vocab_size": 512, "n_layer": 3, "n_embd": 64, "num_experts": 4, "block_size": 128, "sliding_window": 16}
    return model_config("nano", **{**shape, **changes})


def counted_flops(config, length, monkeypatch):
    """What torch counts in a forward and backward pass on the plain paths, in float64: no padding, no fused kernels."""
    monkeypatch.setattr(attention, "attend", attention.attend_reference)
    monkeypatch.setattr(experts.Experts, "_walks", lambda self, x: False)
    monkeypatch.setattr(experts, "ROW_BLOCK", 1)
    model = StoryTransformer(config).double()
    model.compute_dtype = torch.float64
    tokens = torch.randint(0, config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        model.loss(tokens).total.backward()
    return counter.get_total_flops() / tokens.numel()


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_formula_is_what_torch_counts(changes, monkeypatch):
    config = small(**changes)
    length = 96
    measured = counted_flops(config, length, monkeypatch)
    # The plain path computes all scores and masks most of them away.
    parts = dict(forward_flops_per_token(config, length))
    layers = config.n_layer + config.multi_token_predict - 1
    parts["attention"] = 2 * layers * length * 2 * config.n_head * config.head_dim
    # It adds the experts' biases by products with one-hot rows: forward once and backward once.
    biases = (2 if config.use_swiglu else 1) * config.expert_width + config.n_embd
    if config.num_experts > 1:
        measured -= 2 * 2 * layers * config.active_experts * config.num_experts * biases
    assert 3 * sum(parts.values()) == pytest.approx(measured, rel=1e-4), "the balance loss takes the rest"


def test_all_parts_make_the_whole():
    config = small(multi_token_predict=2)
    parts = forward_flops_per_token(config, 100)
    assert all(value > 0 for value in parts.values())
    assert training_flops_per_token(config, 100) == 3 * sum(parts.values())


@pytest.mark.parametrize("window", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("length", [1, 8, 30])
def test_keys_seen_are_those_that_the_mask_shows(window, length):
    query, key = torch.arange(length)[:, None], torch.arange(length)
    visible = (key <= query) & ((query - key < window) if window else torch.tensor(True))
    assert mean_keys_seen(length, window) == pytest.approx(float(visible.float().sum() / length))


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_the_sizes_take_about_six_operations_for_each_active_parameter(size):
    config = model_config(size)
    without_attention = training_flops_per_token(config, 1) - 3 * forward_flops_per_token(config, 1)["attention"]
    assert without_attention == pytest.approx(6 * config.parameters().active, rel=0.01)


def test_a_longer_row_costs_more_and_a_window_less():
    full, sliding = small(sliding_window=0), small(sliding_window=16)
    assert training_flops_per_token(full, 128) > training_flops_per_token(full, 64)
    assert training_flops_per_token(sliding, 128) < training_flops_per_token(full, 128)


@pytest.mark.parametrize(
    ("name", "bfloat16", "float16"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12, 989.4e12),
        ("NVIDIA H100 PCIe", 756e12, 756e12),
        ("NVIDIA H100 NVL", 835.5e12, 835.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 312e12),
        ("NVIDIA A10", 125e12, 125e12),
        ("NVIDIA A10G", None, None),
        ("NVIDIA L40S", 362.05e12, 362.05e12),
        ("NVIDIA L4", 121e12, 121e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("Tesla T4", None, 65e12),
        ("Tesla V100-SXM2-16GB", None, 125e12),
        ("NVIDIA GeForce GTX 1080", None, None),
    ],
)
def test_known_gpus_have_their_data_sheet_s_figure(name, bfloat16, float16):
    assert peak_flops_of(name, torch.bfloat16) == bfloat16
    assert peak_flops_of(name, torch.float16) == float16


def test_the_gpu_s_own_name_is_looked_up(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-PCIE-40GB")
    assert peak_flops(torch.device("cuda", 0), torch.float32) == 19.5e12
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peak_flops(torch.device("cuda", 0), torch.float32) is None, "TensorFloat-32 is another format"


def test_nothing_is_known_of_a_cpu():
    assert peak_flops(torch.device("cpu"), torch.float32) is None
