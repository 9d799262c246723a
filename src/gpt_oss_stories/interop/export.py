"""Writing a model in the formats of other tools: `transformers`, OpenAI's own, GGUF."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import GenerationConfig
from ..files import staged_directory, write_text_atomically
from ..generation.engine import Storyteller
from ..model.transplant import TABLES, move_table
from ..tokenization import Vocabulary, harmony_vocabulary
from .checkpoints import CONFIG_FILE, GGUF, HUGGINGFACE, OPENAI, Checkpoint
from .configs import FormatError, check_expressible, write_huggingface_config, write_openai_config
from .layouts import MULTI_TOKEN_PREFIX, TensorMap, huggingface_layout, openai_layout
from .manifest import MANIFEST_FILE, write_manifest
from .model_card import model_card, public_provenance
from .mxfp4 import BLOCK_VALUES
from .tensor_files import write_shards
from .tokenizer_files import token_ids, write_tokenizer_files

EXPORT_FORMATS = (HUGGINGFACE, OPENAI, GGUF)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_SHARD_BYTES = 5 << 30

NOTICED_SHARE = 0.01
"""Probability of unknown tokens, all together, from which a position counts as one where they are noticed."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    path: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    """What the format cannot hold, and what was changed."""


def export_huggingface(
    source: Checkpoint,
    out: str | Path,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    name: str = "",
    never_told: Sequence[int] = (),
    overwrite: bool = False,
) -> Exported:
    """Write a directory that `transformers` opens: weights, configuration, tokenizer, chat template and model card.

    Args:
        source: the model.
        out: the new directory.
        dtype: of the weights, a key of `DTYPES`.
        max_shard_bytes: size from which the weights are split over several files.
        name: of the model, for its card; that of the directory when not given.
        never_told: tokens that must not be chosen when stories are told.
        overwrite: replace a directory that an earlier export made.

    Raises:
        FormatError: the format cannot hold this model.
        FileWriteError: `out` exists, or cannot be written.
    """
    out, vocabulary = Path(out), _vocabulary(source)
    provenance = public_provenance(source.provenance)
    config = source.config
    settings = write_huggingface_config(config, dtype, token_ids(vocabulary))
    layout = huggingface_layout(config, lambda _: False)
    notes = _left_out(source, HUGGINGFACE)
    with staged_directory(out, replace=overwrite and _is_export(out)) as directory:
        write_shards(directory, _converted(source, layout, DTYPES[dtype]), max_shard_bytes)
        write_text_atomically(directory / CONFIG_FILE, _json(settings))
        write_tokenizer_files(directory, vocabulary, block_size=config.block_size, never_told=never_told)
        title = name or out.name
        card = model_card(config, vocabulary, provenance, name=title, formats=[HUGGINGFACE], notes=notes)
        write_text_atomically(directory / "README.md", card)
        write_manifest(directory, HUGGINGFACE, vocabulary, provenance, notes)
        names = sorted(path.name for path in directory.iterdir())
    return Exported(out, tuple(out / name for name in names), tuple(notes))


def export_openai(
    source: Checkpoint,
    out: str | Path,
    *,
    dtype: str = "bfloat16",
    mxfp4: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> Exported:
    """Write a directory in the layout of OpenAI's reference implementation.

    Args:
        mxfp4: keep the experts' matrices as MXFP4, a quarter of the size of bfloat16; the error is in the notes.

    Raises: as `export_huggingface`.
    """
    out, vocabulary = Path(out), _vocabulary(source)
    config = source.config
    settings, notes = write_openai_config(config)
    if mxfp4 and (odd := [width for width in (config.n_embd, config.expert_width) if width % BLOCK_VALUES]):
        raise FormatError(f"MXFP4 needs widths that are a multiple of {BLOCK_VALUES}, and this model's {odd[0]} is not")
    layout = openai_layout(config, lambda _: mxfp4)
    notes = [*_left_out(source, OPENAI), *notes]
    error = _QuantizationError()
    with staged_directory(out, replace=overwrite and _is_export(out)) as directory:
        write_shards(directory, _converted(source, layout, DTYPES[dtype], error), max_shard_bytes)
        if mxfp4:
            notes.append(error.describe())
        write_text_atomically(directory / CONFIG_FILE, _json(settings))
        write_manifest(directory, OPENAI, vocabulary, public_provenance(source.provenance), notes)
        names = sorted(path.name for path in directory.iterdir())
    return Exported(out, tuple(out / name for name in names), tuple(notes))


def export_gguf(
    source: Checkpoint, out: str | Path, *, tensor_type: str = "F16", name: str = "", overwrite: bool = False
) -> Exported:
    """Write a directory with a GGUF file for `llama.cpp` and a Modelfile for Ollama beside it.

    Args:
        tensor_type: of the matrices: F32, F16, BF16 or a quantization of the `gguf` package.

    Raises: as `export_huggingface`.
    """
    from .gguf_file import write_gguf, write_modelfile
    from .tokenizer_files import chat_template

    out, vocabulary = Path(out), _vocabulary(source)
    check_expressible(source.config, GGUF)
    name = name or out.name
    with staged_directory(out, replace=overwrite and _is_gguf_export(out)) as directory:
        file = f"{name}-{tensor_type}.gguf"
        weights = dict(source.weights())
        notes = write_gguf(
            directory / file,
            source.config,
            vocabulary,
            weights,
            tensor_type=tensor_type,
            name=name,
            provenance=public_provenance(source.provenance),
            chat_template=chat_template(),
        )
        usual = GenerationConfig()
        write_modelfile(
            directory / "Modelfile",
            file,
            temperature=usual.temperature,
            top_k=usual.top_k,
            top_p=usual.top_p,
            repetition_penalty=usual.repetition_penalty,
            num_ctx=source.config.block_size,
        )
        names = sorted(path.name for path in directory.iterdir())
    return Exported(out, tuple(out / name for name in names), tuple(notes))


def _vocabulary(source: Checkpoint) -> Vocabulary:
    if source.vocabulary is None:
        raise FormatError(
            f"{source.path} has a vocabulary that is not known here, so no tokenizer can be written: "
            "export a model with a harmony or story vocabulary"
        )
    return source.vocabulary


def _is_export(out: Path) -> bool:
    return (out / MANIFEST_FILE).is_file()


def _is_gguf_export(out: Path) -> bool:
    return out.is_dir() and {path.suffix for path in out.iterdir()} <= {".gguf", ""} and (out / "Modelfile").is_file()


def _json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2) + "\n"


def _left_out(source: Checkpoint, layout: str) -> list[str]:
    """Lines about what a GPT-OSS layout has no place for, and what stands in for what our model does not have."""
    config, notes = source.config, []
    modules = config.multi_token_predict - 1
    if modules:
        notes.append(
            f"left out: {modules} module{'s' if modules > 1 else ''} for multi-token prediction, which the format "
            "cannot hold; the next token is predicted by the model without them"
        )
    if not config.use_attention_sinks:
        notes.append("the model has no attention sinks: sinks that take no weight are written in their place")
    if config.num_experts == 1:
        notes.append("the model is dense: a router with one expert is written, which always chooses it")
    if config.tie_embeddings and layout == OPENAI:
        notes.append("the model's two tables are one: it is written twice")
    return notes


def _converted(
    source: Checkpoint, layout: Sequence[TensorMap], dtype: torch.dtype, error: _QuantizationError | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the file, one of our parameters at a time."""
    of_parameter: dict[str, list[TensorMap]] = defaultdict(list)
    for entry in layout:
        if entry.ours is not None:
            of_parameter[entry.ours].append(entry)
        else:
            (values,) = entry.write(torch.empty(0))
            yield entry.theirs[0], values.to(dtype)
    for name, tensor in source.weights():
        entries = of_parameter.pop(name, [])
        if not entries and not name.startswith(MULTI_TOKEN_PREFIX):
            raise FormatError(f"{source.path}: {name} has no place in the format")
        for entry in entries:
            written = entry.write(tensor.float() if entry.quantized else tensor)
            if entry.quantized and error is not None:
                error.add(entry.read(*written), tensor)
            for theirs, values in zip(entry.theirs, written, strict=True):
                yield theirs, values if entry.quantized else values.to(dtype)
    assert not of_parameter, f"never given: {sorted(of_parameter)}"


class _QuantizationError:
    """How far quantized matrices are from what they stand for."""

    def __init__(self) -> None:
        self._squares = self._wrong = self._largest = 0.0

    def add(self, got: Tensor, wanted: Tensor) -> None:
        difference = (got - wanted.float()).double()
        self._squares += float(wanted.double().square().sum())
        self._wrong += float(difference.square().sum())
        self._largest = max(self._largest, float(difference.abs().max()))

    def describe(self) -> str:
        relative = math.sqrt(self._wrong / self._squares) if self._squares else 0.0
        return (
            f"experts in MXFP4: root mean square error {100 * relative:.2f}% of the weights' own, "
            f"largest error {self._largest:.3g}"
        )


@dataclass(frozen=True)
class Expanded:
    """A model with the whole harmony vocabulary in place of its story vocabulary."""

    source: Checkpoint
    unknown_tokens: tuple[int, ...]
    """Those that the model does not know."""
    notes: tuple[str, ...]


def expanded(source: Checkpoint) -> Expanded:
    """The model with the whole harmony vocabulary: each row at its harmony id.

    Tokens that the model does not know get the mean of the rows that spell them as embedding. Their unembedding (a tied
    table is untied) is one row that is fitted to get little probability on stories which the model tells itself. No row
    gets none everywhere: who samples must exclude `unknown_tokens`, as the `generation_config.json` of an export tells
    `transformers` to. How often they would be noticed otherwise is measured on other such stories, and told in a line.

    Raises:
        FormatError: the model has no story vocabulary.
    """
    old = _vocabulary(source)
    if old.kind != "story":
        raise FormatError(f"{source.path} has the {old.kind} vocabulary already: leave out --expand-vocabulary")
    new = harmony_vocabulary()
    unknown = tuple(sorted(set(range(new.size)) - set(old.harmony_ids)))
    row, noticed = _unknown_row(source, old, len(unknown))
    config = source.config.replace(vocab_size=new.size, tie_embeddings=False)

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in source.weights():
            if name == TABLES[0]:
                yield name, move_table(tensor, old, new)
            if name == TABLES[1] or (name == TABLES[0] and source.config.tie_embeddings):
                table = row.to(tensor.dtype).repeat(new.size, 1)
                table[torch.tensor(old.harmony_ids)] = tensor
                yield TABLES[1], table
            if name not in TABLES:
                yield name, tensor

    note = (
        f"vocabulary expanded from {old.size:,} to {new.size:,} tokens; where a tool does not exclude those that the "
        f"model does not know, they get more than {NOTICED_SHARE:.0%} of the probability at {noticed:.1%} of places "
        "in its stories"
    )
    return Expanded(replace(source, config=config, vocabulary=new, read=weights), unknown, (note,))


def _unknown_row(source: Checkpoint, vocabulary: Vocabulary, unknown: int) -> tuple[Tensor, float]:
    """A row (width,) of the unembedding for tokens that the model does not know, and the share of positions where all
    of them together are noticed."""
    model = source.build().eval()
    settings = GenerationConfig(
        num_samples=16, max_tokens=min(256, source.config.block_size - 8), temperature=1.0, seed=0
    )
    hidden: list[Tensor] = []
    expected: list[Tensor] = []
    with torch.no_grad():
        for story in Storyteller(model, vocabulary).tell("", settings):
            states = model.final_hidden(torch.tensor([[*story.prompt_tokens, *story.tokens]]))[0]
            hidden.append(states)
            expected.append(torch.logsumexp(states @ model.unembedding_weight.T, -1))
    fitted, aims = torch.cat(hidden[4:]), torch.cat(expected[4:])
    count = math.log(unknown)
    row = torch.zeros(fitted.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([row], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        """What training on these stories would add to the model's loss because of these tokens, and a pull to 0."""
        optimizer.zero_grad()
        value = torch.nn.functional.softplus(fitted @ row - aims + count).mean() + 1e-4 * row.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = row.detach()
    shares = torch.sigmoid(torch.cat(hidden[:4]) @ found - torch.cat(expected[:4]) + count)
    return found, float((shares > NOTICED_SHARE).float().mean())
