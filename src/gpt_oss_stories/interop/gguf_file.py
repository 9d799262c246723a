"""GGUF files of the architecture `gpt-oss`, as llama.cpp opens them: written, checked and read back.

A GGUF file is a header (keys with values, then name, shape, type and place of each tensor) and the tensors' data. What
llama.cpp asks of the header and of the tensors' names follows its `src/models/openai-moe.cpp`, which types the tensors
have its `convert_hf_to_gguf.py`. Keys that begin with `gpt_oss_stories.` are ours: with them the file reads back as the
model that was written, up to the rounding of its tensors.

Layout of our keys, version 1:

    gpt_oss_stories.header_sha256            64 hexadecimal digits: SHA-256 of all bytes before the tensors' data, with
                                             zeros in place of these digits
    gpt_oss_stories.version                  1
    gpt_oss_stories.config                   JSON of ModelConfig.to_dict()
    gpt_oss_stories.provenance               JSON: how, when and on what the model was trained
    gpt_oss_stories.notes                    JSON: lines about what was left out or changed
    gpt_oss_stories.vocabulary.kind          "story" or "harmony"
    gpt_oss_stories.vocabulary.fingerprint   Vocabulary.fingerprint
    gpt_oss_stories.vocabulary.harmony_ids   row of each token in the full table (story vocabulary only)

Nothing in a file is trusted: the header is walked with bounds on every count and length, and tensors' names, shapes and
places are compared with what the configuration demands before any data is read.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..config import HARMONY_VOCABULARY_SIZE, ConfigError, ModelConfig
from ..files import atomic_write, write_text_atomically
from ..tokenization import TokenizationError, Vocabulary, harmony_vocabulary, vocabulary_from_dict
from ..tokenization.vocabulary import FORMAT_VERSION, HARMONY_SPECIALS
from .gguf_header import TEXT, GgufError, Header, Value
from .gguf_layout import (
    ARCHITECTURE,
    TENSOR_TYPES,
    Entry,
    architecture_values,
    gguf_layout,
    merges_of,
    single,
    stored_type,
    token_texts,
    unspell,
)
from .layouts import MULTI_TOKEN_PREFIX, NO_SINK, Shape
from .mxfp4 import encode_mxfp4

OWN = "gpt_oss_stories."
VERSION = 1
NO_DIGEST = "0" * 64

LARGEST_HALF = 65_504.0
"""Largest 16-bit float: F16 weights and the block scales of all quantizations but MXFP4 are such floats."""

CHUNK_VALUES = 1 << 22
"""Values that are converted at a time."""

LLAMA_CPP_LAYERS, LLAMA_CPP_EXPERTS = 512, 1024
"""What llama.cpp has room for (`src/llama-hparams.h`)."""


def _gguf() -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise GgufError(
            "GGUF files need the package gguf: install it with pip install 'gpt-oss-stories[interop]'"
        ) from error
    return gguf


# ---- Writing ---------------------------------------------------------------------------------------------------------


def write_gguf(
    path: str | Path,
    config: ModelConfig,
    vocabulary: Vocabulary,
    weights: Mapping[str, Tensor],
    *,
    tensor_type: str = "F16",
    name: str,
    provenance: Mapping[str, Any],
    chat_template: str | None = None,
) -> list[str]:
    """Write a file that llama.cpp opens.

    Args:
        path: where; replaced only when all of it is on the disk.
        config: the architecture.
        vocabulary: its tokens.
        weights: parameter name to tensor, as in `StoryTransformer.named_parameters`; each is asked for when it is
            written, and converted a few million values at a time, so tensors mapped from a file never all lie in
            memory.
        tensor_type: one of `TENSOR_TYPES`, for the matrices; see `stored_type` for the rest.
        name: what the model is called.
        provenance: plain values.
        chat_template: Jinja template of a conversation.

    Returns:
        One line for each thing that the format cannot hold, or that was changed to fit it.

    Raises:
        GgufError: the architecture has no place in the format, or the weights do not fit the configuration.
        FileWriteError: no space or no permission; what stood at `path` is unchanged.
    """
    gguf = _gguf()
    if tensor_type not in TENSOR_TYPES:
        raise GgufError(f"tensor type {tensor_type!r:.40} is not one of {', '.join(TENSOR_TYPES)}")
    _check_architecture(config)
    if vocabulary.size != config.vocab_size:
        raise GgufError(f"the vocabulary has {vocabulary.size:,} tokens, the model {config.vocab_size:,}")
    if not name.strip() or not name.isprintable():
        raise GgufError(f"a model cannot be called {name!r:.80}: give its name as a text on one line")
    layout = gguf_layout(config)
    notes = _notes(config)
    notes += _check_weights(layout, weights)
    # The modules that are left out are no part of the model that the file holds.
    config = config.replace(multi_token_predict=1)

    blocks = {kind: gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] for kind in TENSOR_TYPES}
    shapes = dict(pair for entry in layout for pair in entry.named_shapes())
    types = {tensor: stored_type(tensor, shape, tensor_type, blocks) for tensor, shape in shapes.items()}
    fallen = [tensor for tensor, kind in types.items() if kind == "F16" and tensor_type != "F16"]
    if tensor_type == "MXFP4":
        notes.append("MXFP4 is for the experts' matrices; the other matrices are stored as Q8_0")
    elif tensor_type[:2] in ("Q4", "Q5"):
        notes.append(f"{tensor_type} is for the matrices of the layers; the two tables are stored as Q8_0")
    if fallen:
        notes.append(
            f"stored as F16, because their rows are no multiple of a block of {blocks[tensor_type][0]} values: "
            f"{_listing(fallen)}"
        )

    writer = gguf.GGUFWriter(None, ARCHITECTURE)
    writer.add_string(f"{OWN}header_sha256", NO_DIGEST)
    writer.add_uint32(f"{OWN}version", VERSION)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(TENSOR_TYPES[tensor_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in architecture_values(config).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value < 1 << 32:
            writer.add_uint32(key, value)
        else:
            raise GgufError(f"{key} is {value:,}, too large for the 32-bit numbers of a GGUF file")
    notes += _add_tokenizer(writer, vocabulary, chat_template)
    writer.add_string(f"{OWN}config", json.dumps(config.to_dict()))
    writer.add_string(f"{OWN}provenance", json.dumps(dict(provenance)))
    writer.add_string(f"{OWN}notes", json.dumps(notes))
    for tensor, shape in shapes.items():
        values, size = blocks[types[tensor]]
        length = math.prod(shape) // values * size
        writer.add_tensor_info(tensor, shape, None, length, gguf.GGMLQuantizationType[types[tensor]])
    header = _header_bytes(gguf, writer)

    with atomic_write(path) as file:
        file.write(header)
        for entry in layout:
            parts = _parts(entry, torch.empty(0) if entry.map.ours is None else weights[entry.map.ours])
            for tensor, part in zip(entry.map.theirs, parts, strict=True):
                _write_tensor(gguf, file, tensor, part, types[tensor], writer.data_alignment)
    return notes


def _check_architecture(config: ModelConfig) -> None:
    """Refuse what llama.cpp's gpt-oss does differently, with no key to tell it."""
    problems = []
    if not config.use_swiglu:
        problems.append("experts without SwiGLU (use_swiglu=False)")
    if not config.use_rmsnorm:
        problems.append("LayerNorm (use_rmsnorm=False)")
    if config.use_swiglu and config.swiglu_alpha != 1.702:
        problems.append(f"swiglu_alpha={config.swiglu_alpha} (only 1.702)")
    if config.use_swiglu and config.swiglu_limit != 7.0:
        problems.append(f"swiglu_limit={config.swiglu_limit} (only 7.0)")
    if problems:
        raise GgufError(f"a GGUF file of the architecture {ARCHITECTURE} cannot hold {', '.join(problems)}")


def _notes(config: ModelConfig) -> list[str]:
    """What about an architecture changes on the way into the format."""
    notes = []
    if config.tie_embeddings:
        notes.append("the embedding table is stored twice: llama.cpp's gpt-oss has no tied tables")
    if config.num_experts == 1:
        notes.append("a router of zeros was added: llama.cpp's gpt-oss has one also for a single expert")
    if not config.use_attention_sinks:
        notes.append(f"sinks of {NO_SINK:g}, which take no attention, were added: llama.cpp's gpt-oss always has sinks")
    if config.sliding_window == 0:
        notes.append(f"layers without a window got one of {config.block_size:,} tokens, the whole context")
    if config.rope_scaling_factor > 1:
        notes.append(
            "YaRN: llama.cpp rounds the cut-offs to whole dimensions, this program and OpenAI's do not: "
            "it will tell other stories than this program"
        )
        if (config.rope_beta_slow, config.rope_beta_fast) != (1.0, 32.0):
            notes.append("YaRN: llama.cpp's gpt-oss takes beta_slow and beta_fast as 1 and 32, whatever the file says")
    if config.n_layer > LLAMA_CPP_LAYERS or config.num_experts > LLAMA_CPP_EXPERTS:
        notes.append(f"llama.cpp opens at most {LLAMA_CPP_LAYERS} layers and {LLAMA_CPP_EXPERTS:,} experts")
    return notes


def _check_weights(layout: list[Entry], weights: Mapping[str, Tensor]) -> list[str]:
    """Refuse weights that the layout does not ask for; a line about those that are left out on purpose."""
    wanted = {entry.map.ours for entry in layout if entry.map.ours is not None}
    left_out = [name for name in weights if name.startswith(MULTI_TOKEN_PREFIX)]
    problems = []
    if missing := sorted(wanted - set(weights)):
        problems.append(f"missing {_listing(missing)}")
    if surplus := sorted(set(weights) - wanted - set(left_out)):
        problems.append(f"unknown {_listing(surplus)}")
    if problems:
        raise GgufError(f"the weights do not fit the configuration: {'; '.join(problems)}")
    if not left_out:
        return []
    return [f"left out: the modules of multi-token prediction ({len(left_out)} tensors), which GGUF has no place for"]


def _parts(entry: Entry, ours: Tensor) -> tuple[Tensor, ...]:
    """The tensors of the file that hold one of ours."""
    try:
        parts = entry.map.write(ours.detach())
    except (RuntimeError, IndexError):  # too few axes, or not the rows that are to be split
        parts = ()
    if tuple(tuple(part.shape) for part in parts) != entry.shapes:
        raise GgufError(f"{entry.map.ours} has the shape {tuple(ours.shape)}, which does not fit the configuration")
    return parts


def _add_tokenizer(writer: Any, vocabulary: Vocabulary, chat_template: str | None) -> list[str]:
    texts, types = token_texts(vocabulary)
    merges, unreachable = merges_of(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocabulary.special("startoftext"))
    writer.add_eos_token_id(vocabulary.special("endoftext"))
    writer.add_eot_token_id(vocabulary.special("return"))
    writer.add_pad_token_id(vocabulary.special("endoftext"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    # llama.cpp finds the other tokens that end an answer by their names; Ollama reads this list.
    ends = [vocabulary.special(name) for name in ("endoftext", "return", "call")]
    writer.add_array("tokenizer.ggml.eos_token_ids", ends)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    writer.add_string(f"{OWN}vocabulary.kind", vocabulary.kind)
    writer.add_string(f"{OWN}vocabulary.fingerprint", vocabulary.fingerprint)
    if vocabulary.kind != "harmony":
        writer.add_array(f"{OWN}vocabulary.harmony_ids", list(vocabulary.harmony_ids))
    if not unreachable:
        return []
    return [f"{unreachable} tokens are not built by merging others: llama.cpp spells their text with smaller tokens"]


def _header_bytes(gguf: Any, writer: Any) -> bytes:
    """Everything before the tensors' data, with its digest."""
    memory = io.BytesIO()
    # The writer only wants to open files of its own; given one that is open and empty, it goes on from there.
    writer.fout, writer.state = [memory], gguf.gguf_writer.WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_padding(memory, memory.tell())
    header = memory.getvalue()
    key = f"{OWN}header_sha256".encode()
    # The key is the second of the file, behind the architecture's name: its first occurrence is the right one.
    place = header.index(key) + len(key) + 4 + 8
    digest = hashlib.sha256(header).hexdigest().encode()
    return header[:place] + digest + header[place + len(digest) :]


def _write_tensor(gguf: Any, file: BinaryIO, name: str, tensor: Tensor, kind: str, alignment: int) -> None:
    """One tensor's data, converted piece by piece, and zeros up to where the next begins."""
    import numpy

    rows = max(1, CHUNK_VALUES * len(tensor) // max(tensor.numel(), 1))
    written = 0
    for chunk in tensor.split(rows):
        values = chunk.to("cpu", torch.float32).contiguous()
        largest = values.abs().max().item()
        if not largest <= (LARGEST_HALF if kind not in ("F32", "BF16", "MXFP4") else torch.finfo(torch.float32).max):
            raise GgufError(f"{name} has values up to {largest:g}, which {kind} cannot hold: choose BF16 or F32")
        if kind == "MXFP4":
            data = _mxfp4_bytes(values)
        else:
            with numpy.errstate(all="ignore"):  # blocks of values near zero, whose reciprocal scale overflows
                data = gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType[kind]).tobytes()
        file.write(data)
        written += len(data)
    file.write(bytes(-written % alignment))


def _mxfp4_bytes(values: Tensor) -> bytes:
    """Blocks as llama.cpp has them: the scale, then sixteen bytes with value i in the low four bits and value i + 16 in
    the high ones.

    Our own encoder: gguf's cuts off whatever is beyond 6 x its scale, ours takes the next larger scale where that is
    the smaller error.
    """
    packed, scales = encode_mxfp4(values)
    codes = torch.stack((packed & 0x0F, packed >> 4), dim=-1).flatten(-2)
    first, second = codes.chunk(2, dim=-1)
    return torch.cat((scales[..., None], first | second << 4), dim=-1).numpy().tobytes()


def write_modelfile(
    path: str | Path,
    gguf_name: str,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    num_ctx: int,
    num_predict: int = 256,
) -> None:
    """Write an Ollama Modelfile: the model goes on with whatever text it is given.

    Args:
        path: where.
        gguf_name: name of the GGUF file in the same folder.
        temperature, top_k, top_p, repetition_penalty: as in `GenerationConfig`; Ollama's own defaults differ.
        num_ctx: the context in tokens, at most the model's `block_size`.
        num_predict: most tokens to add.

    Raises:
        GgufError: the name is not one of a file in that folder.
        FileWriteError: no space or no permission.
    """
    if not gguf_name.isprintable() or Path(gguf_name).name != gguf_name:
        raise GgufError(f"{gguf_name!r:.80} is not the name of a file beside {Path(path).name}")
    stops = "".join(f'PARAMETER stop "<|{name}|>"\n' for name in ("endoftext", "return", "end", "call"))
    # Without a template of its own Ollama would wrap the text into a conversation. The start token is added by it, as
    # the file's add_bos_token asks.
    write_text_atomically(
        path,
        "# ollama create stories -f Modelfile\n"
        '# ollama run stories "Once upon a time"\n'
        f"FROM ./{gguf_name}\n"
        'TEMPLATE """{{ .Prompt }}"""\n'
        f"{stops}"
        f"PARAMETER temperature {temperature:g}\n"
        f"PARAMETER top_k {top_k}\n"
        f"PARAMETER top_p {top_p:g}\n"
        f"PARAMETER repeat_penalty {repetition_penalty:g}\n"
        f"PARAMETER num_ctx {num_ctx}\n"
        f"PARAMETER num_predict {num_predict}\n",
    )


# ---- Reading ---------------------------------------------------------------------------------------------------------


class StoredTensor(NamedTuple):
    """One tensor of a file."""

    name: str
    dtype: str
    shape: Shape
    """As in torch, the longest stride first."""
    bytes: int


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file holds; `weights` reads its data."""

    path: Path
    config: ModelConfig
    vocabulary: Vocabulary | None
    """None in files of other programs, unless it is the whole harmony vocabulary."""
    metadata: dict[str, Value]
    """All values of the header that are no lists, but for our configuration, provenance and notes."""
    provenance: dict[str, Any]
    """Empty in files of other programs."""
    notes: tuple[str, ...]
    """What was left out or changed when the file was written, as it says itself."""
    tensors: tuple[StoredTensor, ...]
    offsets: dict[str, int] = field(repr=False)
    """Where each tensor's data begins, from the beginning of the file."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Our parameters' names and values in float32, one at a time.

        Raises:
            GgufError: the file is gone or was changed since it was opened.
        """
        gguf = _gguf()
        stored = {tensor.name: tensor for tensor in self.tensors}
        seen = set()
        with _opened(self.path) as file:
            for entry in gguf_layout(self.config):
                if entry.map.ours is None or entry.map.ours in seen:
                    continue
                seen.add(entry.map.ours)
                parts = [
                    _read_tensor(gguf, file, self.path, stored[name], self.offsets[name]) for name in entry.map.theirs
                ]
                yield entry.map.ours, entry.map.read(*parts)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise GgufError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_tensor(gguf: Any, file: BinaryIO, path: Path, tensor: StoredTensor, offset: int) -> Tensor:
    import numpy

    file.seek(offset)
    raw = numpy.fromfile(file, dtype=numpy.uint8, count=tensor.bytes)
    if raw.size != tensor.bytes:
        raise GgufError(f"{path} became shorter while it was read: the data of {tensor.name} is cut off")
    rows = raw.reshape(*tensor.shape[:-1], -1)
    values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[tensor.dtype])
    return torch.from_numpy(values.reshape(tensor.shape))


def read_gguf(path: str | Path) -> GgufFile:
    """Open and check a GGUF file of the architecture gpt-oss; its tensors' data is read later.

    Raises:
        GgufError: it is missing, cut short, damaged, of another architecture, or its tensors do not fit its
            configuration; one line says which.
    """
    gguf = _gguf()
    path = Path(path)
    try:
        return _read(gguf, path)
    except GgufError as error:
        raise GgufError(f"{path}: {error}") from error
    except TokenizationError as error:
        raise GgufError(f"{path}: its vocabulary cannot be used: {error}") from error
    except ConfigError as error:
        raise GgufError(f"{path}: its configuration cannot be used: {error}") from error


def _read(gguf: Any, path: Path) -> GgufFile:
    if not path.is_file():
        raise GgufError("there is no such file")
    with _opened(path) as file:
        size = path.stat().st_size
        if size < 24 or file.read(4) != b"GGUF":
            raise GgufError("this is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = Header(data)
            tensors, offsets = _tensors(gguf, header)
            is_ours = _check_digest(header)
            if header.values.get("general.architecture") != ARCHITECTURE:
                raise GgufError(
                    f"its architecture is {header.values.get('general.architecture')!r:.40}, not {ARCHITECTURE!r}"
                )
            if header.values.get("split.count", 1) != 1:
                raise GgufError("it is one part of several: join them first with llama-gguf-split --merge")
            config = _own_config(header) if is_ours else _foreign_config(header, tensors)
            _check_tensors(config, tensors)
            vocabulary = _own_vocabulary(header) if is_ours else _foreign_vocabulary(header)
    if vocabulary is not None and vocabulary.size != config.vocab_size:
        raise GgufError(f"its vocabulary has {vocabulary.size:,} tokens, its tables have {config.vocab_size:,} rows")
    notes = _json_value(header, f"{OWN}notes", list) if is_ours else []
    if not all(isinstance(note, str) for note in notes):
        raise GgufError(f"{OWN}notes is not a list of texts")
    hidden = (f"{OWN}config", f"{OWN}provenance", f"{OWN}notes")
    return GgufFile(
        path=path,
        config=config,
        vocabulary=vocabulary,
        metadata={key: value for key, value in header.values.items() if key not in hidden},
        provenance=_json_value(header, f"{OWN}provenance", dict) if is_ours else {},
        notes=tuple(notes),
        tensors=tuple(tensors.values()),
        offsets=offsets,
    )


def _tensors(gguf: Any, header: Header) -> tuple[dict[str, StoredTensor], dict[str, int]]:
    """The tensors and where their data begins, after checks that all of it is in the file, one after the other."""
    import numpy

    tensors, offsets = {}, {}
    expected = 0
    decodable: dict[int, bool] = {}
    for info in header.infos.values():
        try:
            kind = gguf.GGMLQuantizationType(info.kind)
            block, size = gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise GgufError(f"{info.name} is of the unknown type {info.kind}") from error
        if info.kind not in decodable:
            try:
                gguf.quants.dequantize(numpy.zeros((1, size), numpy.uint8), kind)
                decodable[info.kind] = True
            except NotImplementedError:
                decodable[info.kind] = False
        if not decodable[info.kind]:
            raise GgufError(f"{info.name} is of the type {kind.name}, which the package gguf cannot decode")
        if not info.shape or 0 in info.shape or info.shape[-1] % block:
            raise GgufError(f"{info.name} has the shape {info.shape}, which does not fit blocks of {block} values")
        length = math.prod(info.shape) // block * size
        if info.offset != expected:
            raise GgufError(f"the data of {info.name} begins at {info.offset:,}, expected {expected:,}")
        if header.data_start + expected + length > len(header.data):
            raise GgufError(
                f"it was cut short: the data of {info.name} ends at byte {header.data_start + expected + length:,}, "
                f"the file at {len(header.data):,}"
            )
        tensors[info.name] = StoredTensor(info.name, kind.name, info.shape, length)
        offsets[info.name] = header.data_start + expected
        expected += length + -length % header.alignment
    return tensors, offsets


def _check_digest(header: Header) -> bool:
    """Whether the file is one of ours; if so its header must be unchanged."""
    key = f"{OWN}header_sha256"
    if not any(name.startswith(OWN) for name in header.places):
        return False
    digest = header.values.get(key)
    if not isinstance(digest, str) or len(digest) != len(NO_DIGEST):
        raise GgufError(f"it is damaged: it has keys of this program, but not their checksum {key}")
    place = header.places[key] + 8
    found = hashlib.sha256(header.data[:place])
    found.update(NO_DIGEST.encode())
    found.update(header.data[place + len(NO_DIGEST) : header.data_start])
    if found.hexdigest() != digest:
        raise GgufError(
            "its header was changed after it was written: the file is damaged, or another program, such as "
            "llama-quantize, rewrote it and kept our keys: use the file as it was exported"
        )
    version = header.values.get(f"{OWN}version")
    if version != VERSION:
        raise GgufError(f"it was written in version {version!r:.40}, this program reads {VERSION}: update the program")
    return True


def _json_value(header: Header, key: str, kind: type) -> Any:
    text = header.values.get(key)
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise GgufError(f"{key} is not JSON") from error
    if not isinstance(value, kind):
        raise GgufError(f"{key} is missing, or not a {kind.__name__}")
    return value


def _own_config(header: Header) -> ModelConfig:
    """The configuration that we wrote; llama.cpp's keys must say the same."""
    config = ModelConfig.from_dict(_json_value(header, f"{OWN}config", dict))
    _check_architecture(config)
    for key, value in architecture_values(config).items():
        if header.values.get(key) != value:
            raise GgufError(f"{key} is {header.values.get(key)!r:.40}, but the configuration beside it says {value!r}")
    return config


def _foreign_config(header: Header, tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """Our configuration for a file of another program."""
    values = header.values

    def whole(key: str, default: int | None = None) -> int:
        value = values.get(f"{ARCHITECTURE}.{key}", default)
        if type(value) is not int:
            raise GgufError(f"{ARCHITECTURE}.{key} is {value!r:.40}, expected a whole number")
        return value

    def number(key: str, default: float) -> float:
        value = values.get(f"{ARCHITECTURE}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise GgufError(f"{ARCHITECTURE}.{key} is {value!r:.40}, expected a finite number")
        return _shortest(value)

    table = tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise GgufError("the tensor token_embd.weight is missing, or is no table")
    head_dim, layers = whole("attention.key_length"), whole("block_count")
    factor = number("rope.scaling.factor", 1.0) or 1.0
    different = []
    if (kind := values.get(f"{ARCHITECTURE}.rope.scaling.type", "none")) != "yarn" and factor != 1:
        different.append(f"rope.scaling.type is {kind!r:.40}, not 'yarn'")
    for key, expected in (
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("attention.sliding_window_pattern", 2),
        ("nextn_predict_layers", 0),
    ):
        if f"{ARCHITECTURE}.{key}" in header.places and (found := whole(key)) != expected:
            different.append(f"{key} is {found}, not {expected}")
    if number("rope.freq_base_swa", (theta := number("rope.freq_base", 10_000.0))) != theta:
        different.append("the windowed layers have rotary frequencies of their own")
    if different:
        raise GgufError(f"it departs from GPT-OSS: {'; '.join(different)}")
    return ModelConfig(
        vocab_size=table.shape[0],
        n_layer=layers,
        n_head=whole("attention.head_count"),
        n_kv_head=whole("attention.head_count_kv"),
        n_embd=whole("embedding_length"),
        head_dim=head_dim,
        intermediate_size=whole("expert_feed_forward_length"),
        block_size=whole("context_length"),
        num_experts=whole("expert_count"),
        experts_per_token=whole("expert_used_count"),
        sliding_window=whole("attention.sliding_window"),
        norm_eps=number("attention.layer_norm_rms_epsilon", 1e-5),
        rope_theta=theta,
        rope_scaling_factor=factor,
        rope_original_context=whole("rope.scaling.original_context_length", 4096),
    )


def _shortest(value: float) -> float:
    """The shortest decimal number with the same 32-bit float: 1e-05 rather than 9.999999747378752e-06."""
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if abs(short) < 3e38 and single(short) == value:
            return short
    return value


def _check_tensors(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse missing, surplus or mis-shaped tensors, by name."""
    if config.n_layer > len(tensors):  # before names are made for all of them
        raise GgufError(f"it claims to have {config.n_layer:,} layers, but has only {len(tensors):,} tensors")
    wanted = dict(pair for entry in gguf_layout(config) for pair in entry.named_shapes())
    problems = []
    if missing := [name for name in wanted if name not in tensors]:
        problems.append(f"missing {_listing(missing)}")
    if surplus := [name for name in tensors if name not in wanted]:
        problems.append(f"unknown {_listing(surplus)}")
    if shapes := [
        f"{name} is {tensors[name].shape}, expected {shape}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]:
        problems.append(_listing(shapes))
    if problems:
        raise GgufError(f"the tensors do not fit the configuration: {'; '.join(problems)}")


def _listing(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _own_vocabulary(header: Header) -> Vocabulary:
    """The vocabulary that we wrote, checked as any saved vocabulary is."""
    kind, fingerprint = (header.values.get(f"{OWN}vocabulary.{key}") for key in ("kind", "fingerprint"))
    array = header.arrays.get("tokenizer.ggml.tokens")
    if array is None or array.count > HARMONY_VOCABULARY_SIZE:
        raise GgufError("its list of tokens is missing, or has more than the harmony vocabulary")
    saved: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "kind": kind,
        "size": array.count,
        "fingerprint": fingerprint,
    }
    if kind == "story":
        ids = header.numbers(f"{OWN}vocabulary.harmony_ids")
        ordinary = header.texts("tokenizer.ggml.tokens")[: -len(HARMONY_SPECIALS)]
        saved |= {
            "harmony_ids": ids,
            "tokens": [base64.b64encode(unspell(text)).decode("ascii") for text in ordinary],
        }
    return vocabulary_from_dict(saved)


def _foreign_vocabulary(header: Header) -> Vocabulary | None:
    """The harmony vocabulary, if that is what the file has."""
    array = header.arrays.get("tokenizer.ggml.tokens")
    if array is None or array.kind != TEXT or array.count != HARMONY_VOCABULARY_SIZE:
        return None
    harmony = harmony_vocabulary()
    expected = [text.encode() for text in token_texts(harmony)[0]]
    known = [*range(harmony.ordinary_size), *(harmony.special(name) for name in HARMONY_SPECIALS)]
    found = header.texts("tokenizer.ggml.tokens")
    return harmony if all(found[token] == expected[token] for token in known) else None
