"""Reading GPT-OSS checkpoints of the two public layouts: OpenAI's own and that of `transformers`.

Each of our parameters has a recipe: the tensors of the file that it is made from, and how. Shapes are compared with the
configuration before anything is allocated; missing and surplus tensors are listed by name. Only safetensors files are
read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import ModelConfig
from ..errors import StoryError
from ..model.model_file import build_model
from ..model.transformer import StoryTransformer
from .mxfp4 import decode_mxfp4

MAX_CONFIG_BYTES = 1_000_000


class CheckpointError(StoryError):
    """A checkpoint directory of another project cannot be read as GPT-OSS."""


@dataclass(frozen=True)
class Recipe:
    """How one of our parameters is made from tensors of a file."""

    sources: tuple[str, ...]
    make: Callable[..., Tensor]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _stack(*tensors: Tensor) -> Tensor:
    return torch.cat(tensors)


def _decode_transposed(blocks: Tensor, scales: Tensor) -> Tensor:
    """Quantized (E, out, in) to our (E, in, out)."""
    return decode_mxfp4(blocks, scales).transpose(1, 2).contiguous()


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).contiguous()


def openai_recipes(config: ModelConfig, present: Iterable[str]) -> dict[str, Recipe]:
    """Recipes for OpenAI's layout; expert matrices as MXFP4 where the file has blocks of them, else as plain
    tensors."""
    names = set(present)

    def plain(source: str) -> Recipe:
        return Recipe((source,), _same)

    def experts(source: str) -> Recipe:
        if f"{source}.blocks" in names:
            return Recipe((f"{source}.blocks", f"{source}.scales"), _decode_transposed)
        return Recipe((source,), _transposed)

    recipes = {
        "embedding.weight": plain("embedding.weight"),
        "unembedding.weight": plain("unembedding.weight"),
        "norm.weight": plain("norm.scale"),
    }
    for layer in range(config.n_layer):
        ours, theirs = f"layers.{layer}", f"block.{layer}"
        recipes |= {
            f"{ours}.attention.norm.weight": plain(f"{theirs}.attn.norm.scale"),
            f"{ours}.attention.sinks": plain(f"{theirs}.attn.sinks"),
            f"{ours}.attention.qkv.weight": plain(f"{theirs}.attn.qkv.weight"),
            f"{ours}.attention.qkv.bias": plain(f"{theirs}.attn.qkv.bias"),
            f"{ours}.attention.out.weight": plain(f"{theirs}.attn.out.weight"),
            f"{ours}.attention.out.bias": plain(f"{theirs}.attn.out.bias"),
            f"{ours}.experts.norm.weight": plain(f"{theirs}.mlp.norm.scale"),
            f"{ours}.experts.router.weight": plain(f"{theirs}.mlp.gate.weight"),
            f"{ours}.experts.router.bias": plain(f"{theirs}.mlp.gate.bias"),
            f"{ours}.experts.gate_up_weight": experts(f"{theirs}.mlp.mlp1_weight"),
            f"{ours}.experts.gate_up_bias": plain(f"{theirs}.mlp.mlp1_bias"),
            f"{ours}.experts.down_weight": experts(f"{theirs}.mlp.mlp2_weight"),
            f"{ours}.experts.down_bias": plain(f"{theirs}.mlp.mlp2_bias"),
        }
    return recipes


def huggingface_recipes(config: ModelConfig, present: Iterable[str]) -> dict[str, Recipe]:
    """Recipes for the layout of `transformers`; expert matrices plain, or MXFP4 where the file has blocks of them."""
    names = set(present)

    def plain(source: str) -> Recipe:
        return Recipe((source,), _same)

    def experts(source: str) -> Recipe:
        if f"{source}_blocks" in names:
            return Recipe((f"{source}_blocks", f"{source}_scales"), _decode_transposed)
        return plain(source)

    recipes = {
        "embedding.weight": plain("model.embed_tokens.weight"),
        "norm.weight": plain("model.norm.weight"),
    }
    if not config.tie_embeddings:
        recipes["unembedding.weight"] = plain("lm_head.weight")
    for layer in range(config.n_layer):
        ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
        qkv = tuple(f"{theirs}.self_attn.{part}_proj" for part in "qkv")
        recipes |= {
            f"{ours}.attention.norm.weight": plain(f"{theirs}.input_layernorm.weight"),
            f"{ours}.attention.sinks": plain(f"{theirs}.self_attn.sinks"),
            f"{ours}.attention.qkv.weight": Recipe(tuple(f"{part}.weight" for part in qkv), _stack),
            f"{ours}.attention.qkv.bias": Recipe(tuple(f"{part}.bias" for part in qkv), _stack),
            f"{ours}.attention.out.weight": plain(f"{theirs}.self_attn.o_proj.weight"),
            f"{ours}.attention.out.bias": plain(f"{theirs}.self_attn.o_proj.bias"),
            f"{ours}.experts.norm.weight": plain(f"{theirs}.post_attention_layernorm.weight"),
            f"{ours}.experts.router.weight": plain(f"{theirs}.mlp.router.weight"),
            f"{ours}.experts.router.bias": plain(f"{theirs}.mlp.router.bias"),
            f"{ours}.experts.gate_up_weight": experts(f"{theirs}.mlp.experts.gate_up_proj"),
            f"{ours}.experts.gate_up_bias": plain(f"{theirs}.mlp.experts.gate_up_proj_bias"),
            f"{ours}.experts.down_weight": experts(f"{theirs}.mlp.experts.down_proj"),
            f"{ours}.experts.down_bias": plain(f"{theirs}.mlp.experts.down_proj_bias"),
        }
    return recipes


def openai_config(raw: dict[str, Any]) -> ModelConfig:
    """Our configuration for an OpenAI `config.json`."""
    factor = float(raw.get("rope_scaling_factor", 1.0))
    context = int(raw["initial_context_length"])
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        n_layer=raw["num_hidden_layers"],
        n_head=raw["num_attention_heads"],
        n_kv_head=raw["num_key_value_heads"],
        n_embd=raw["hidden_size"],
        head_dim=raw["head_dim"],
        intermediate_size=raw["intermediate_size"],
        block_size=int(context * factor),
        num_experts=raw["num_experts"],
        experts_per_token=raw["experts_per_token"],
        sliding_window=raw["sliding_window"],
        swiglu_limit=float(raw["swiglu_limit"]),
        rope_theta=float(raw["rope_theta"]),
        rope_scaling_factor=factor,
        rope_original_context=context,
        rope_beta_slow=float(raw["rope_ntk_alpha"]),
        rope_beta_fast=float(raw["rope_ntk_beta"]),
    )


def huggingface_config(raw: dict[str, Any]) -> ModelConfig:
    """Our configuration for a `transformers` `config.json`.

    Raises:
        CheckpointError: the model is not GPT-OSS, or uses a convention that GPT-OSS does not.
    """
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    layers = raw["num_hidden_layers"]
    kinds = raw.get("layer_types") or []
    different = []
    if raw.get("model_type") != "gpt_oss":
        different.append(f"model_type is {raw.get('model_type')!r}, not 'gpt_oss'")
    if rope.get("rope_type", "default") not in ("yarn", "default"):
        different.append(f"rope_type is {rope['rope_type']!r}, not 'yarn' or 'default'")
    if rope.get("rope_type") == "yarn" and rope.get("truncate", True):
        different.append("YaRN's cut-offs are truncated, gpt-oss's are not")
    if any(kind != ("full_attention" if layer % 2 else "sliding_attention") for layer, kind in enumerate(kinds)):
        different.append("layer_types do not alternate, sliding first")
    if not raw.get("attention_bias", True):
        different.append("attention has no biases")
    if different:
        raise CheckpointError("config.json: this is not a GPT-OSS model: " + "; ".join(different))
    yarn = rope.get("rope_type") == "yarn"
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        n_layer=layers,
        n_head=raw["num_attention_heads"],
        n_kv_head=raw["num_key_value_heads"],
        n_embd=raw["hidden_size"],
        head_dim=raw["head_dim"],
        intermediate_size=raw["intermediate_size"],
        block_size=raw["max_position_embeddings"],
        num_experts=raw["num_local_experts"],
        experts_per_token=raw["num_experts_per_tok"],
        sliding_window=raw["sliding_window"],
        tie_embeddings=raw.get("tie_word_embeddings", False),
        norm_eps=raw.get("rms_norm_eps", 1e-5),
        swiglu_alpha=float(raw.get("swiglu_alpha", 1.702)),
        swiglu_limit=float(raw.get("swiglu_limit", 7.0)),
        rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 150_000.0))),
        rope_scaling_factor=float(rope.get("factor", 1.0)) if yarn else 1.0,
        rope_original_context=rope.get("original_max_position_embeddings", 4096) if yarn else 4096,
        rope_beta_slow=float(rope.get("beta_slow", 1.0)),
        rope_beta_fast=float(rope.get("beta_fast", 32.0)),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, more than a configuration has")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds {type(raw).__name__}, not an object with settings")
    return raw


class _TensorFiles:
    """All tensors of a directory's safetensors files, found by name, read one at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Shards are found by looking, not by following an index file's names, which could lead out of the directory;
        # both layouts call them model.safetensors or model-00001-of-00002.safetensors.
        self.paths = sorted(path for path in directory.glob("model*.safetensors") if path.is_file())
        self.where: dict[str, Path] = {}
        for path in self.paths:
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 (not a mapping)
                        if name in self.where:
                            raise CheckpointError(f"{directory}: tensor {name} is in two files")
                        self.where[name] = path
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error

    def read(self, name: str) -> Tensor:
        with safe_open(self.where[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def load_foreign_directory(directory: str | Path) -> StoryTransformer:
    """Read a GPT-OSS checkpoint directory of either layout.

    Args:
        directory: holds `config.json` and safetensors files.

    Returns:
        the model in float32 on the CPU.

    Raises:
        CheckpointError: files are missing or damaged, or it is not a GPT-OSS model.
    """
    directory = Path(directory)
    raw = _read_json(directory / "config.json")
    is_huggingface = "model_type" in raw or "architectures" in raw
    try:
        config = huggingface_config(raw) if is_huggingface else openai_config(raw)
    except KeyError as error:
        raise CheckpointError(
            f"{directory / 'config.json'} lacks the setting {error}: not a GPT-OSS checkpoint"
        ) from error
    except CheckpointError:
        raise
    except (TypeError, ValueError, OverflowError) as error:  # ConfigError is a ValueError
        raise CheckpointError(f"{directory / 'config.json'}: {error}") from error
    files = _TensorFiles(directory)
    if not files.paths:
        raise CheckpointError(f"{directory} has no model*.safetensors file; other weight formats are not read")
    recipes = (huggingface_recipes if is_huggingface else openai_recipes)(config, files.where)
    needed = {source for recipe in recipes.values() for source in recipe.sources}
    if missing := sorted(needed - set(files.where)):
        raise CheckpointError(f"{directory}: tensors are missing: {', '.join(missing[:5])} ({len(missing)} in all)")
    if surplus := sorted(set(files.where) - needed):
        raise CheckpointError(f"{directory}: unknown tensors: {', '.join(surplus[:5])} ({len(surplus)} in all)")
    weights = {}
    for name, recipe in recipes.items():
        try:
            weights[name] = recipe.make(*(files.read(source) for source in recipe.sources)).float()
        except (ValueError, RuntimeError, IndexError) as error:
            raise CheckpointError(f"{directory}: {', '.join(recipe.sources)} cannot be used: {error}") from error
    return build_model(config, weights, str(directory))
