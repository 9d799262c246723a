"""How tensors correspond between our models and the two public GPT-OSS layouts, in both directions.

Each entry of a layout names one of our parameters, the tensors of the file that it is kept in, and the two functions
between them. Reading, writing, the shapes that a file must have and the tests all follow from these entries.

Sources: the names of OpenAI's layout as in `gpt_oss/torch/model.py` and `weights.py`, those of `transformers` as in its
`GptOssForCausalLM`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..config import ModelConfig
from ..model.transformer import StoryTransformer
from .mxfp4 import decode_mxfp4, encode_mxfp4

Shape = tuple[int, ...]

NO_SINK = -1e30
"""A sink logit that takes no weight from any key, for models whose softmax has no sinks; bfloat16 holds it."""

MULTI_TOKEN_PREFIX = "multi_token."


@dataclass(frozen=True)
class TensorMap:
    """One of our parameters and the tensors of a file that hold it."""

    ours: str | None
    """None for tensors that the layout demands and our model, with a mechanism switched off, does not have."""
    theirs: tuple[str, ...]
    read: Callable[..., Tensor]
    """From the tensors of the file to our parameter."""
    write: Callable[[Tensor], tuple[Tensor, ...]]
    """From our parameter to the tensors of the file; where `ours` is None it is given an empty tensor."""
    quantized: bool = False
    """The tensors of the file are MXFP4 blocks and scales."""


def _read_same(tensor: Tensor) -> Tensor:
    return tensor


def _write_same(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor,)


def _read_transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2)


def _write_transposed(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor.transpose(1, 2),)


def _read_quantized(blocks: Tensor, scales: Tensor) -> Tensor:
    """Quantized (E, out, in) to our (E, in, out)."""
    return decode_mxfp4(blocks, scales).transpose(1, 2)


def _write_quantized(tensor: Tensor) -> tuple[Tensor, ...]:
    return encode_mxfp4(tensor.transpose(1, 2))


def _read_joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _write_split(tensor: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    return tensor.split(list(sizes))


def _write_constant(like: Tensor, shape: Shape, value: float) -> tuple[Tensor, ...]:
    return (torch.full(shape, value, device=like.device),)


def _plain(ours: str, theirs: str) -> TensorMap:
    return TensorMap(ours, (theirs,), _read_same, _write_same)


def _constant(theirs: str, shape: Shape, value: float) -> TensorMap:
    return TensorMap(None, (theirs,), _read_same, partial(_write_constant, shape=shape, value=value))


def _quantized(ours: str, *theirs: str) -> TensorMap:
    return TensorMap(ours, theirs, _read_quantized, _write_quantized, quantized=True)


def _router(config: ModelConfig, ours: str, theirs: str) -> list[TensorMap]:
    """A dense model has no router; with one expert any router gives it all the weight."""
    if config.num_experts > 1:
        return [_plain(f"{ours}.{leaf}", f"{theirs}.{leaf}") for leaf in ("weight", "bias")]
    return [_constant(f"{theirs}.weight", (1, config.n_embd), 0.0), _constant(f"{theirs}.bias", (1,), 0.0)]


def _sinks(config: ModelConfig, ours: str, theirs: str) -> TensorMap:
    return _plain(ours, theirs) if config.use_attention_sinks else _constant(theirs, (config.n_head,), NO_SINK)


def openai_layout(config: ModelConfig, quantized: Callable[[str], bool]) -> list[TensorMap]:
    """OpenAI's layout.

    Args:
        config: the architecture; SwiGLU and RMSNorm on.
        quantized: whether an expert matrix of this name is kept as MXFP4 blocks and scales.
    """

    def experts(ours: str, theirs: str) -> TensorMap:
        if quantized(theirs):
            return _quantized(ours, f"{theirs}.blocks", f"{theirs}.scales")
        return TensorMap(ours, (theirs,), _read_transposed, _write_transposed)

    maps = [_plain("embedding.weight", "embedding.weight"), _plain("norm.weight", "norm.scale")]
    # The layout has no tied tables: a model that has is written with its table twice.
    unembedding = "embedding.weight" if config.tie_embeddings else "unembedding.weight"
    maps.append(_plain(unembedding, "unembedding.weight"))
    for layer in range(config.n_layer):
        ours, theirs = f"layers.{layer}", f"block.{layer}"
        maps += [
            _plain(f"{ours}.attention.norm.weight", f"{theirs}.attn.norm.scale"),
            _sinks(config, f"{ours}.attention.sinks", f"{theirs}.attn.sinks"),
            _plain(f"{ours}.attention.qkv.weight", f"{theirs}.attn.qkv.weight"),
            _plain(f"{ours}.attention.qkv.bias", f"{theirs}.attn.qkv.bias"),
            _plain(f"{ours}.attention.out.weight", f"{theirs}.attn.out.weight"),
            _plain(f"{ours}.attention.out.bias", f"{theirs}.attn.out.bias"),
            _plain(f"{ours}.experts.norm.weight", f"{theirs}.mlp.norm.scale"),
            *_router(config, f"{ours}.experts.router", f"{theirs}.mlp.gate"),
            experts(f"{ours}.experts.gate_up_weight", f"{theirs}.mlp.mlp1_weight"),
            _plain(f"{ours}.experts.gate_up_bias", f"{theirs}.mlp.mlp1_bias"),
            experts(f"{ours}.experts.down_weight", f"{theirs}.mlp.mlp2_weight"),
            _plain(f"{ours}.experts.down_bias", f"{theirs}.mlp.mlp2_bias"),
        ]
    return maps


def huggingface_layout(config: ModelConfig, quantized: Callable[[str], bool]) -> list[TensorMap]:
    """The layout of `transformers`; arguments as `openai_layout`."""

    def experts(ours: str, theirs: str) -> TensorMap:
        if quantized(theirs):
            return _quantized(ours, f"{theirs}_blocks", f"{theirs}_scales")
        return _plain(ours, theirs)

    maps = [_plain("embedding.weight", "model.embed_tokens.weight"), _plain("norm.weight", "model.norm.weight")]
    if not config.tie_embeddings:
        maps.append(_plain("unembedding.weight", "lm_head.weight"))
    query, key_value = config.n_head * config.head_dim, config.kv_heads * config.head_dim
    split = partial(_write_split, sizes=(query, key_value, key_value))
    for layer in range(config.n_layer):
        ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
        maps += [
            _plain(f"{ours}.attention.norm.weight", f"{theirs}.input_layernorm.weight"),
            _sinks(config, f"{ours}.attention.sinks", f"{theirs}.self_attn.sinks"),
            *(
                TensorMap(
                    f"{ours}.attention.qkv.{leaf}",
                    tuple(f"{theirs}.self_attn.{part}_proj.{leaf}" for part in "qkv"),
                    _read_joined,
                    split,
                )
                for leaf in ("weight", "bias")
            ),
            _plain(f"{ours}.attention.out.weight", f"{theirs}.self_attn.o_proj.weight"),
            _plain(f"{ours}.attention.out.bias", f"{theirs}.self_attn.o_proj.bias"),
            _plain(f"{ours}.experts.norm.weight", f"{theirs}.post_attention_layernorm.weight"),
            *_router(config, f"{ours}.experts.router", f"{theirs}.mlp.router"),
            experts(f"{ours}.experts.gate_up_weight", f"{theirs}.mlp.experts.gate_up_proj"),
            _plain(f"{ours}.experts.gate_up_bias", f"{theirs}.mlp.experts.gate_up_proj_bias"),
            experts(f"{ours}.experts.down_weight", f"{theirs}.mlp.experts.down_proj"),
            _plain(f"{ours}.experts.down_bias", f"{theirs}.mlp.experts.down_proj_bias"),
        ]
    return maps


def quantized_in(names: Collection[str]) -> Callable[[str], bool]:
    """Which expert matrices of a file with these tensors are MXFP4."""
    present = set(names)
    return lambda name: f"{name}.blocks" in present or f"{name}_blocks" in present


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The shape of each of our parameters, allocating nothing."""
    with torch.device("meta"):
        model = StoryTransformer(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def file_shapes(layout: Sequence[TensorMap], shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape of each tensor of the file.

    Args:
        layout: from one of the functions above.
        shapes: those of our parameters.
    """
    found = {}
    for entry in layout:
        ours = torch.empty(shapes[entry.ours] if entry.ours is not None else 0, device="meta")
        for name, tensor in zip(entry.theirs, entry.write(ours), strict=True):
            found[name] = tuple(tensor.shape)
    return found
