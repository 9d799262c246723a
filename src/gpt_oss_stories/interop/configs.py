"""Our configuration and the `config.json` of the two public GPT-OSS layouts, in both directions.

What a layout cannot express is either refused (the model would answer differently) or told in a line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..config import ConfigError, ModelConfig
from ..errors import StoryError

GPT_OSS_ALPHA, GPT_OSS_NORM_EPS = 1.702, 1e-5
"""Constants of GPT-OSS that OpenAI's layout has no place for."""

SLIDING, FULL = "sliding_attention", "full_attention"


class FormatError(StoryError):
    """A checkpoint of another format cannot be read as GPT-OSS, or a model cannot be written in that format."""


def read_openai_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Our configuration for an OpenAI `config.json`.

    Raises:
        FormatError: a setting is missing, or has a value that cannot be.
    """
    return _checked(_openai_config, raw)


def read_huggingface_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Our configuration for a `transformers` `config.json`.

    Raises:
        FormatError: the model is not GPT-OSS, uses a convention that GPT-OSS does not, or a setting is missing or has a
            value that cannot be.
    """
    return _checked(_huggingface_config, raw)


def _checked(read: Callable[[Mapping[str, Any]], ModelConfig], raw: Mapping[str, Any]) -> ModelConfig:
    try:
        return read(raw)
    except FormatError:
        raise
    except KeyError as error:
        raise FormatError(f"config.json lacks the setting {error}: not a GPT-OSS checkpoint") from error
    except (ConfigError, TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"config.json: {error}") from error


def _openai_config(raw: Mapping[str, Any]) -> ModelConfig:
    factor = float(raw.get("rope_scaling_factor", 1.0))
    context = _whole(raw, "initial_context_length")
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        n_layer=raw["num_hidden_layers"],
        n_head=raw["num_attention_heads"],
        n_kv_head=_whole(raw, "num_key_value_heads"),
        n_embd=raw["hidden_size"],
        head_dim=raw["head_dim"],
        intermediate_size=_whole(raw, "intermediate_size"),
        block_size=int(context * factor),
        num_experts=raw["num_experts"],
        experts_per_token=_whole(raw, "experts_per_token"),
        sliding_window=raw["sliding_window"],
        swiglu_limit=float(raw["swiglu_limit"]),
        rope_theta=float(raw["rope_theta"]),
        rope_scaling_factor=factor,
        rope_original_context=context,
        rope_beta_slow=float(raw["rope_ntk_alpha"]),
        rope_beta_fast=float(raw["rope_ntk_beta"]),
    )


def _huggingface_config(raw: Mapping[str, Any]) -> ModelConfig:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    layers = _whole(raw, "num_hidden_layers")
    kinds = raw.get("layer_types") or []
    if not isinstance(rope, Mapping) or not isinstance(kinds, list):
        raise FormatError("config.json: rope_parameters is not an object, or layer_types no list")
    alternating = all(kind == (FULL if layer % 2 else SLIDING) for layer, kind in enumerate(kinds))
    all_full = bool(kinds) and all(kind == FULL for kind in kinds)
    different = []
    if raw.get("model_type") != "gpt_oss":
        different.append(f"model_type is {raw.get('model_type')!r:.40}, not 'gpt_oss'")
    if rope.get("rope_type", "default") not in ("yarn", "default"):
        different.append(f"rope_type is {rope['rope_type']!r:.40}, not 'yarn' or 'default'")
    yarn = rope.get("rope_type") == "yarn"
    if yarn and rope.get("truncate", True):
        different.append("YaRN's cut-offs are truncated, gpt-oss's are not")
    if yarn and any(rope.get(name) is not None for name in ("attention_factor", "mscale", "mscale_all_dim")):
        different.append("YaRN has a concentration of its own")
    if kinds and len(kinds) != layers:
        different.append(f"layer_types has {len(kinds)} entries for {layers} layers")
    elif not alternating and not all_full:
        different.append("layer_types neither alternate, sliding first, nor are all full")
    if not raw.get("attention_bias", True):
        different.append("attention has no biases")
    if different:
        raise FormatError("config.json: this is not a GPT-OSS model: " + "; ".join(different))
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        n_layer=layers,
        n_head=raw["num_attention_heads"],
        n_kv_head=_whole(raw, "num_key_value_heads"),
        n_embd=raw["hidden_size"],
        head_dim=raw["head_dim"],
        intermediate_size=_whole(raw, "intermediate_size"),
        block_size=raw["max_position_embeddings"],
        num_experts=raw["num_local_experts"],
        experts_per_token=_whole(raw, "num_experts_per_tok"),
        # One layer that is full says nothing about a window.
        sliding_window=0 if all_full else raw["sliding_window"],
        tie_embeddings=raw.get("tie_word_embeddings", False),
        norm_eps=raw.get("rms_norm_eps", GPT_OSS_NORM_EPS),
        swiglu_alpha=float(raw.get("swiglu_alpha", GPT_OSS_ALPHA)),
        swiglu_limit=float(raw.get("swiglu_limit", 7.0)),
        rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 150_000.0))),
        rope_scaling_factor=float(rope.get("factor", 1.0)) if yarn else 1.0,
        rope_original_context=rope.get("original_max_position_embeddings", 4096) if yarn else 4096,
        rope_beta_slow=float(rope.get("beta_slow", 1.0)),
        rope_beta_fast=float(rope.get("beta_fast", 32.0)),
    )


def _whole(raw: Mapping[str, Any], name: str) -> int:
    """A setting that must be a whole number: None would mean our default where the file leaves no choice."""
    value = raw[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"config.json: {name}={value!r:.40} is not a whole number")
    return value


def check_expressible(config: ModelConfig, layout: str) -> None:
    """Refuse a model that a GPT-OSS layout cannot hold.

    Raises:
        FormatError: it would answer differently in that layout; all reasons are in the message.
    """
    reasons = []
    if not config.use_swiglu:
        reasons.append("use_swiglu is off, and GPT-OSS has no other experts than SwiGLU ones")
    if not config.use_rmsnorm:
        reasons.append("use_rmsnorm is off, and GPT-OSS has no other norm")
    if layout == "openai":
        for name, value, fixed in (
            ("swiglu_alpha", config.swiglu_alpha, GPT_OSS_ALPHA),
            ("norm_eps", config.norm_eps, GPT_OSS_NORM_EPS),
        ):
            if value != fixed:
                reasons.append(f"{name} is {value}, and this layout has no place for another value than {fixed}")
    if reasons:
        raise FormatError(f"this model cannot be written in the {layout} format: {'; '.join(reasons)}")


def write_openai_config(config: ModelConfig) -> tuple[dict[str, Any], list[str]]:
    """OpenAI's `config.json` for a model, and lines about what it cannot say.

    Raises:
        FormatError: the layout cannot hold this model.
    """
    check_expressible(config, "openai")
    stretched = config.rope_scaling_factor > 1
    context = config.rope_original_context if stretched else config.block_size
    notes = []
    if int(context * config.rope_scaling_factor) != config.block_size:
        notes.append(
            f"block_size {config.block_size:,} is not kept: the format states the context as initial_context_length x "
            f"rope_scaling_factor, {int(context * config.rope_scaling_factor):,}"
        )
    return {
        "num_hidden_layers": config.n_layer,
        "num_experts": config.num_experts,
        "experts_per_token": config.active_experts,
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.expert_width,
        "swiglu_limit": config.swiglu_limit,
        "head_dim": config.head_dim,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "sliding_window": config.sliding_window,
        "initial_context_length": context,
        "rope_theta": config.rope_theta,
        "rope_scaling_factor": config.rope_scaling_factor,
        "rope_ntk_alpha": config.rope_beta_slow,
        "rope_ntk_beta": config.rope_beta_fast,
    }, notes


def write_huggingface_config(config: ModelConfig, dtype: str, tokens: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of `transformers` for a model.

    Args:
        dtype: of the weights, "float32" or "bfloat16".
        tokens: `bos_token_id`, `eos_token_id` and `pad_token_id`.

    Raises:
        FormatError: the layout cannot hold this model.
    """
    check_expressible(config, "huggingface")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling_factor > 1:
        rope |= {
            "rope_type": "yarn",
            "factor": config.rope_scaling_factor,
            "original_max_position_embeddings": config.rope_original_context,
            "beta_slow": config.rope_beta_slow,
            "beta_fast": config.rope_beta_fast,
            "truncate": False,
        }
    windows = [config.layer_window(layer) for layer in range(config.n_layer)]
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.n_layer,
        "hidden_size": config.n_embd,
        "intermediate_size": config.expert_width,
        "head_dim": config.head_dim,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "attention_bias": True,
        "attention_dropout": 0.0,
        "layer_types": [SLIDING if window else FULL for window in windows],
        # `transformers` wants a window even where no layer uses one.
        "sliding_window": config.sliding_window or config.block_size,
        "max_position_embeddings": config.block_size,
        "rope_parameters": rope,
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.active_experts,
        "hidden_act": "silu",
        "swiglu_alpha": config.swiglu_alpha,
        "swiglu_limit": config.swiglu_limit,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        # Off, as while our models are told stories from; who fine-tunes there gets our training's coefficient.
        "output_router_logits": False,
        "router_aux_loss_coef": 0.01,
        "initializer_range": 0.02,
        "use_cache": True,
        **tokens,
    }
