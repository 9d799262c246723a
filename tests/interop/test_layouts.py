"""The layouts against the released gpt-oss models: names and shapes, without their weights.

The figures of the models are those of the model card (arXiv 2508.10925, table 1); shapes spelled out are those of the
released files.
"""

from __future__ import annotations

import pytest
import torch

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.interop.configs import read_huggingface_config, read_openai_config
from gpt_oss_stories.interop.layouts import (
    file_shapes,
    huggingface_layout,
    openai_layout,
    parameter_shapes,
    quantized_in,
)

LAYERS = {"20b": 24, "120b": 36}
EXPERTS = {"20b": 32, "120b": 128}


def openai_settings(size: str) -> dict:
    return {
        "num_hidden_layers": LAYERS[size],
        "num_experts": EXPERTS[size],
        "experts_per_token": 4,
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "swiglu_limit": 7.0,
        "head_dim": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "sliding_window": 128,
        "initial_context_length": 4096,
        "rope_theta": 150000,
        "rope_scaling_factor": 32.0,
        "rope_ntk_alpha": 1,
        "rope_ntk_beta": 32,
    }


def huggingface_settings(size: str) -> dict:
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * (LAYERS[size] // 2),
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": LAYERS[size],
        "num_key_value_heads": 8,
        "num_local_experts": EXPERTS[size],
        "output_router_logits": False,
        "pad_token_id": 199999,
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": 201088,
    }


@pytest.mark.parametrize("size", ["20b", "120b"])
def test_both_configurations_of_a_released_model_are_the_same(size):
    ours = read_openai_config(openai_settings(size))
    assert read_huggingface_config(huggingface_settings(size)) == ours
    assert ours.block_size == 131072
    assert ours.rope_scaling_factor == 32


@pytest.mark.parametrize(
    ("size", "total", "active"), [("20b", 20.91e9, 3.61e9), ("120b", 116.83e9, 5.13e9)], ids=["20b", "120b"]
)
def test_parameter_counts_are_those_of_the_model_card(size, total, active):
    report = read_openai_config(openai_settings(size)).parameters()
    assert report.total == pytest.approx(total, rel=5e-4)
    assert report.active == pytest.approx(active, rel=2e-3)


@pytest.mark.parametrize("size", ["20b", "120b"])
def test_shapes_of_openais_released_files(size):
    config = read_openai_config(openai_settings(size))
    shapes = file_shapes(openai_layout(config, lambda _: True), parameter_shapes(config))
    experts = EXPERTS[size]
    assert len(shapes) == 3 + 15 * LAYERS[size]
    assert shapes["embedding.weight"] == shapes["unembedding.weight"] == (201088, 2880)
    last = f"block.{LAYERS[size] - 1}"
    for name, shape in {
        "attn.norm.scale": (2880,),
        "attn.sinks": (64,),
        "attn.qkv.weight": (5120, 2880),
        "attn.qkv.bias": (5120,),
        "attn.out.weight": (2880, 4096),
        "attn.out.bias": (2880,),
        "mlp.norm.scale": (2880,),
        "mlp.gate.weight": (experts, 2880),
        "mlp.gate.bias": (experts,),
        "mlp.mlp1_weight.blocks": (experts, 5760, 90, 16),
        "mlp.mlp1_weight.scales": (experts, 5760, 90),
        "mlp.mlp1_bias": (experts, 5760),
        "mlp.mlp2_weight.blocks": (experts, 2880, 90, 16),
        "mlp.mlp2_weight.scales": (experts, 2880, 90),
        "mlp.mlp2_bias": (experts, 2880),
    }.items():
        assert shapes[f"{last}.{name}"] == shape


@pytest.mark.parametrize("size", ["20b", "120b"])
def test_names_and_shapes_are_those_of_transformers_own_model(size):
    from transformers import GptOssConfig, GptOssForCausalLM

    raw = {name: value for name, value in huggingface_settings(size).items() if name != "quantization_config"}
    with torch.device("meta"):
        theirs = GptOssForCausalLM(GptOssConfig(**raw))
    wanted = {name: tuple(parameter.shape) for name, parameter in theirs.named_parameters()}
    config = read_huggingface_config(raw)
    assert file_shapes(huggingface_layout(config, lambda _: False), parameter_shapes(config)) == wanted


def test_quantized_tensors_of_transformers_released_files():
    config = read_huggingface_config(huggingface_settings("20b"))
    quantized = quantized_in(["model.layers.0.mlp.experts.gate_up_proj_blocks"])
    shapes = file_shapes(huggingface_layout(config, quantized), parameter_shapes(config))
    assert shapes["model.layers.0.mlp.experts.gate_up_proj_blocks"] == (32, 5760, 90, 16)
    assert shapes["model.layers.0.mlp.experts.gate_up_proj_scales"] == (32, 5760, 90)
    assert shapes["model.layers.0.mlp.experts.down_proj"] == (32, 2880, 2880)


@pytest.mark.parametrize("layout", [openai_layout, huggingface_layout])
@pytest.mark.parametrize(
    "changes", [{}, {"num_experts": 1}, {"use_attention_sinks": False}, {"tie_embeddings": True}], ids=str
)
def test_reading_undoes_writing(layout, changes):
    config = ModelConfig(
        vocab_size=50, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, head_dim=8, intermediate_size=64, num_experts=3
    ).replace(**changes)
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in parameter_shapes(config).items()}
    read = set()
    for entry in layout(config, lambda _: False):
        if entry.ours is None:
            continue
        written = entry.write(weights[entry.ours])
        assert len(written) == len(entry.theirs)
        assert torch.equal(entry.read(*written), weights[entry.ours])
        read.add(entry.ours)
    assert read == set(weights)
