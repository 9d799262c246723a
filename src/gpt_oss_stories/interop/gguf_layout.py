"""What a GGUF file of the architecture gpt-oss consists of: tensors, their types, keys for configuration and tokenizer.

llama.cpp demands these tensors and keys in `src/models/openai-moe.cpp` and `src/llama-model.cpp`; which types tensors
have follows its `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from ..config import ModelConfig
from ..tokenization import Vocabulary
from ..tokenization.vocabulary import HARMONY_SPECIALS
from .gguf_header import GgufError, Value
from .layouts import NO_SINK, Shape, TensorMap
from .tokenizer_files import merge_places
from .tokenizer_vocabulary import byte_spelling

ARCHITECTURE = "gpt-oss"

TENSOR_TYPES: Mapping[str, int] = {
    "F32": 0,
    "F16": 1,
    "BF16": 32,
    "Q8_0": 7,
    "Q5_1": 9,
    "Q5_0": 8,
    "Q4_1": 3,
    "Q4_0": 2,
    "MXFP4": 38,
}
"""Types that the `gguf` package can make, and llama.cpp's number for a file of mostly this type. Its other types it
can only read (the K and IQ families, which llama.cpp's `llama-quantize` makes of an F16 file), or they suit only models
that were trained for them (TQ1_0, TQ2_0: three values per weight)."""

NORMAL, CONTROL, UNUSED = 1, 3, 5
"""Token types."""


@dataclass(frozen=True)
class Entry:
    """A tensor map and the shapes of the file's tensors."""

    map: TensorMap
    shapes: tuple[Shape, ...]

    def named_shapes(self) -> Iterator[tuple[str, Shape]]:
        return zip(self.map.theirs, self.shapes, strict=True)


def _one(tensor: Tensor) -> Tensor:
    return tensor


def _as_one(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor,)


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _split(tensor: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tensor.split(list(sizes))


def _turned(tensor: Tensor) -> Tensor:
    """(E, out, in) to (E, in, out)."""
    return tensor.transpose(1, 2).contiguous()


def _as_turned(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor.transpose(1, 2),)


def _interleaved(gate: Tensor, up: Tensor) -> Tensor:
    """Two (E, F, D) to (E, D, 2 F)."""
    return torch.stack((gate, up), dim=2).flatten(1, 2).transpose(1, 2).contiguous()


def _as_gate_and_up(tensor: Tensor) -> tuple[Tensor, ...]:
    turned = tensor.transpose(1, 2)
    return turned[:, ::2], turned[:, 1::2]


def _interleaved_bias(gate: Tensor, up: Tensor) -> Tensor:
    """Two (E, F) to (E, 2 F)."""
    return torch.stack((gate, up), dim=2).flatten(1)


def _as_gate_and_up_bias(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor[:, ::2], tensor[:, 1::2]


def _as_constant(like: Tensor, shape: Shape, value: float) -> tuple[Tensor, ...]:
    return (torch.full(shape, value, device=like.device),)


def gguf_layout(config: ModelConfig) -> list[Entry]:
    """All tensors of a file, in the order in which they are written.

    Shapes are those of numpy and torch; GGUF writes them the other way round.
    """
    width, inner, experts, vocabulary = config.n_embd, config.expert_width, config.num_experts, config.vocab_size
    query, key_value = config.n_head * config.head_dim, config.kv_heads * config.head_dim

    def same(ours: str, theirs: str, *shape: int) -> Entry:
        return Entry(TensorMap(ours, (theirs,), _one, _as_one), (shape,))

    def constant(theirs: str, value: float, *shape: int) -> Entry:
        return Entry(TensorMap(None, (theirs,), _one, partial(_as_constant, shape=shape, value=value)), (shape,))

    entries = [
        same("embedding.weight", "token_embd.weight", vocabulary, width),
        same("norm.weight", "output_norm.weight", width),
        # llama.cpp's gpt-oss has no tied tables: a model that has is written with its table twice.
        same("embedding.weight" if config.tie_embeddings else "unembedding.weight", "output.weight", vocabulary, width),
    ]
    for layer in range(config.n_layer):
        attention, mixture, block = f"layers.{layer}.attention", f"layers.{layer}.experts", f"blk.{layer}"
        split = partial(_split, sizes=(query, key_value, key_value))
        parts = [f"{block}.attn_{part}" for part in "qkv"]
        entries += [
            same(f"{attention}.norm.weight", f"{block}.attn_norm.weight", width),
            Entry(
                TensorMap(f"{attention}.qkv.weight", tuple(f"{part}.weight" for part in parts), _joined, split),
                ((query, width), (key_value, width), (key_value, width)),
            ),
            Entry(
                TensorMap(f"{attention}.qkv.bias", tuple(f"{part}.bias" for part in parts), _joined, split),
                ((query,), (key_value,), (key_value,)),
            ),
            same(f"{attention}.sinks", f"{block}.attn_sinks.weight", config.n_head)
            if config.use_attention_sinks
            else constant(f"{block}.attn_sinks.weight", NO_SINK, config.n_head),
            same(f"{attention}.out.weight", f"{block}.attn_output.weight", width, query),
            same(f"{attention}.out.bias", f"{block}.attn_output.bias", width),
            same(f"{mixture}.norm.weight", f"{block}.post_attention_norm.weight", width),
        ]
        if experts > 1:
            entries += [
                same(f"{mixture}.router.weight", f"{block}.ffn_gate_inp.weight", experts, width),
                same(f"{mixture}.router.bias", f"{block}.ffn_gate_inp.bias", experts),
            ]
        else:  # with one expert any router gives it all the weight
            entries += [
                constant(f"{block}.ffn_gate_inp.weight", 0.0, 1, width),
                constant(f"{block}.ffn_gate_inp.bias", 0.0, 1),
            ]
        gate, up, down = (f"{block}.ffn_{part}_exps" for part in ("gate", "up", "down"))
        entries += [
            Entry(
                TensorMap(
                    f"{mixture}.gate_up_weight", (f"{gate}.weight", f"{up}.weight"), _interleaved, _as_gate_and_up
                ),
                ((experts, inner, width), (experts, inner, width)),
            ),
            Entry(
                TensorMap(
                    f"{mixture}.gate_up_bias", (f"{gate}.bias", f"{up}.bias"), _interleaved_bias, _as_gate_and_up_bias
                ),
                ((experts, inner), (experts, inner)),
            ),
            Entry(
                TensorMap(f"{mixture}.down_weight", (f"{down}.weight",), _turned, _as_turned),
                ((experts, width, inner),),
            ),
            same(f"{mixture}.down_bias", f"{down}.bias", experts, width),
        ]
    return entries


def stored_type(name: str, shape: Shape, wanted: str, blocks: Mapping[str, tuple[int, int]]) -> str:
    """The type that a tensor gets in a file of type `wanted`; `blocks` has the values and bytes in a block of each.

    As in llama.cpp's converter, norms, biases, sinks and the router stay F32, and a matrix whose rows are no multiple
    of the block becomes F16. Files of MXFP4 have it in the experts and Q8_0 elsewhere, like the published ones; in
    files of four and five bits the two tables are Q8_0, since errors there reach every token.
    """
    if len(shape) < 2 or not name.endswith(".weight") or ".ffn_gate_inp." in name:
        return "F32"
    is_expert, is_table = "_exps." in name, name in ("token_embd.weight", "output.weight")
    if (wanted == "MXFP4" and not is_expert) or (wanted[:2] in ("Q4", "Q5") and is_table):
        wanted = "Q8_0"
    return wanted if shape[-1] % blocks[wanted][0] == 0 else "F16"


def architecture_values(config: ModelConfig) -> dict[str, Value]:
    """llama.cpp's keys for a configuration: whole numbers are stored as UINT32, others as FLOAT32."""
    values: dict[str, Value] = {
        "context_length": config.block_size,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.expert_width,
        "expert_feed_forward_length": config.expert_width,
        "expert_count": config.num_experts,
        "expert_used_count": config.active_experts,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": single(config.norm_eps),
        # A window of W keys, the token's own included, as ours; no window is one that holds the whole context.
        "attention.sliding_window": min(config.sliding_window or config.block_size, config.block_size),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": single(config.rope_theta),
        "vocab_size": config.vocab_size,
    }
    if config.rope_scaling_factor > 1:
        values |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": single(config.rope_scaling_factor),
            "rope.scaling.original_context_length": config.rope_original_context,
            "rope.scaling.yarn_beta_slow": single(config.rope_beta_slow),
            "rope.scaling.yarn_beta_fast": single(config.rope_beta_fast),
        }
    return {f"{ARCHITECTURE}.{key}": value for key, value in values.items()}


def single(value: float) -> float:
    """The nearest 32-bit float.

    Raises:
        GgufError: it is larger than any.
    """
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError as error:
        raise GgufError(f"{value} is too large for the 32-bit numbers of a GGUF file") from error


@cache
def _spelling() -> tuple[dict[int, str], dict[str, int]]:
    spelling = byte_spelling()
    return spelling, {character: byte for byte, character in spelling.items()}


def spell(token: bytes) -> str:
    """A token's bytes in printable characters, as GPT-2's vocabulary file has them."""
    characters = _spelling()[0]
    return "".join([characters[byte] for byte in token])


def unspell(text: bytes) -> bytes:
    """The token that UTF-8 text spells.

    Raises:
        GgufError: it is not spelled so.
    """
    values = _spelling()[1]
    try:
        return bytes([values[character] for character in text.decode("utf-8")])
    except (UnicodeDecodeError, KeyError) as error:
        raise GgufError(f"the token {text!r:.80} is not spelled as in GPT-2") from error


def token_texts(vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
    """How each token is spelled in the file, and its type."""
    ordinary = vocabulary.ordinary_size
    texts = [spell(vocabulary.token_bytes(token)) for token in range(ordinary)]
    # Every id needs a text of its own; those without a meaning are named as in harmony.
    texts += [f"<|reserved_{vocabulary.harmony_ids[token]}|>" for token in range(ordinary, vocabulary.size)]
    types = [NORMAL] * ordinary + [UNUSED] * (vocabulary.size - ordinary)
    for name in HARMONY_SPECIALS:
        token = vocabulary.special(name)
        texts[token], types[token] = f"<|{name}|>", CONTROL
    return texts, types


def merges_of(vocabulary: Vocabulary) -> tuple[list[str], int]:
    """The last merge of each token, in rank order; and how many tokens no merging builds. For why one merge for each
    token is enough see `merge_places`."""
    merges, unreachable = [], 0
    for token, cut in enumerate(merge_places(vocabulary)):
        text = vocabulary.token_bytes(token)
        if cut:
            merges.append(f"{spell(text[:cut])} {spell(text[cut:])}")
        elif len(text) > 1:
            unreachable += 1
    return merges, unreachable
