"""One door to models in every format: ours, the directories of `transformers` and OpenAI, and GGUF files.

Opening reads and checks everything but the weights, which then come one tensor at a time under our names: a model far
larger than the memory left beside it can be looked at, converted or started from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import HARMONY_VOCABULARY_SIZE, ModelConfig
from ..model.model_file import ModelFileError, build_model, load_model_file
from ..model.transformer import StoryTransformer
from ..tokenization import Vocabulary, harmony_vocabulary
from .configs import FormatError, read_huggingface_config, read_openai_config
from .layouts import TensorMap, file_shapes, huggingface_layout, openai_layout, parameter_shapes, quantized_in
from .manifest import MANIFEST_FILE, Manifest, read_manifest, verify_files
from .tensor_files import INDEX_FILE, TensorFiles, TensorInfo, listing, read_json
from .tokenizer_vocabulary import TOKENIZER_FILE, read_tokenizer_vocabulary

CONFIG_FILE = "config.json"
MAX_CONFIG_BYTES = 1 << 20

OURS, HUGGINGFACE, OPENAI, GGUF = "gpt_oss_stories", "huggingface", "openai", "gguf"
FORMATS = (OURS, HUGGINGFACE, OPENAI, GGUF)

WeightReader = Callable[[], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Checkpoint:
    """A model of any format, checked but not yet loaded."""

    path: Path
    format: str
    """One of `FORMATS`."""
    config: ModelConfig
    vocabulary: Vocabulary | None
    """None where the file has none and it cannot be told from the number of tokens."""
    provenance: dict[str, Any]
    """How the model was trained, as its file says; empty for other programs' files."""
    tensors: tuple[TensorInfo, ...]
    """The tensors of the file, under the names that they have there."""
    files: tuple[Path, ...]
    """The files that the model consists of."""
    notes: tuple[str, ...] = ()
    """What was left out or changed when the file was written, as it says itself."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Further settings of the format, to be looked at."""
    read: WeightReader = field(repr=False, kw_only=True)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Our parameters' names and values, one at a time, in the precision of the file (float32 where it is coarser
        than 16 bits).

        Raises:
            FormatError: a tensor cannot be read or has values that cannot be.
        """
        return self.read()

    def build(self) -> StoryTransformer:
        """The model in float32 on the CPU; beside it there is never more than one tensor in memory."""
        weights = {name: tensor.to(torch.float32) for name, tensor in self.weights()}
        return build_model(self.config, weights, str(self.path))


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model.

    Args:
        path: a model file of ours (`best_model.pt`), a `.gguf` file, or a directory in the layout of `transformers` or
            OpenAI.

    Raises:
        StoryError: it is missing, damaged, or not a GPT-OSS model; one line says which.
    """
    path = Path(path)
    if path.is_dir():
        return _open_directory(path)
    if not path.exists():
        raise ModelFileError(
            f"no model at {path}: train one first (src/run_training.py writes checkpoints/best_model.pt), or give a "
            "checkpoint directory or a .gguf file"
        )
    return _open_gguf(path) if path.suffix == ".gguf" else _open_ours(path)


def _open_ours(path: Path) -> Checkpoint:
    file = load_model_file(path)
    tensors = tuple(
        TensorInfo(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), path.name)
        for name, tensor in file.weights.items()
    )
    # Raises what `build` would: a file whose tensors do not fit is not a model, whatever it is opened for.
    file.check()
    return Checkpoint(
        path,
        OURS,
        file.config,
        file.vocabulary,
        file.provenance,
        tensors,
        (path,),
        read=lambda: iter(file.weights.items()),
    )


def _open_gguf(path: Path) -> Checkpoint:
    from .gguf_file import read_gguf

    file = read_gguf(path)
    tensors = tuple(TensorInfo(name, dtype, tuple(shape), path.name) for name, dtype, shape, _ in file.tensors)
    return Checkpoint(
        path,
        GGUF,
        file.config,
        file.vocabulary,
        file.provenance,
        tensors,
        (path,),
        notes=tuple(file.notes),
        metadata=dict(file.metadata),
        read=file.weights,
    )


def _open_directory(directory: Path) -> Checkpoint:
    gguf_files = sorted(directory.glob("*.gguf"))
    if not (directory / CONFIG_FILE).is_file() and len(gguf_files) == 1:
        return _open_gguf(gguf_files[0])
    if not (directory / CONFIG_FILE).is_file():
        raise FormatError(f"{directory} has no {CONFIG_FILE}: not a model directory of `transformers` or OpenAI")
    manifest = read_manifest(directory)
    if manifest is not None:
        verify_files(directory, manifest, _small_files(directory))
    raw = read_json(directory / CONFIG_FILE, MAX_CONFIG_BYTES)
    is_huggingface = "model_type" in raw or "architectures" in raw
    try:
        config = (read_huggingface_config if is_huggingface else read_openai_config)(raw)
    except FormatError as error:
        raise FormatError(f"{directory}: {error}") from error
    files = TensorFiles(directory)
    if manifest is not None:
        verify_files(directory, manifest, [path.name for path in files.paths])
    layout = (huggingface_layout if is_huggingface else openai_layout)(config, quantized_in(files.tensors))
    # Names first: a configuration of a thousand layers is refused before a model of that size is built for its shapes.
    files.check_names({name for entry in layout for name in entry.theirs})
    quantized = {name for entry in layout if entry.quantized for name in entry.theirs}
    files.check_shapes(file_shapes(layout, parameter_shapes(config)), quantized)
    vocabulary = _vocabulary(directory, config, manifest)
    return Checkpoint(
        directory,
        HUGGINGFACE if is_huggingface else OPENAI,
        config,
        vocabulary,
        {} if manifest is None else manifest.provenance,
        tuple(files.tensors.values()),
        (directory / CONFIG_FILE, *files.paths),
        () if manifest is None else manifest.notes,
        metadata=raw,
        read=lambda: _read_weights(layout, files),
    )


def _small_files(directory: Path) -> list[str]:
    return [CONFIG_FILE, *([INDEX_FILE] if (directory / INDEX_FILE).is_file() else [])]


def _vocabulary(directory: Path, config: ModelConfig, manifest: Manifest | None) -> Vocabulary | None:
    if manifest is not None:
        if manifest.vocabulary.size != config.vocab_size:
            raise FormatError(
                f"{directory}: the vocabulary in {MANIFEST_FILE} has {manifest.vocabulary.size:,} tokens, "
                f"{CONFIG_FILE} {config.vocab_size:,}"
            )
        return manifest.vocabulary
    if config.vocab_size == HARMONY_VOCABULARY_SIZE:
        return harmony_vocabulary()
    if (directory / TOKENIZER_FILE).is_file():
        return read_tokenizer_vocabulary(directory / TOKENIZER_FILE, config.vocab_size)
    return None


def _read_weights(layout: list[TensorMap], files: TensorFiles) -> Iterator[tuple[str, Tensor]]:
    seen = set()
    for entry in layout:
        if entry.ours is None or entry.ours in seen:  # the second copy of tied tables
            continue
        seen.add(entry.ours)
        try:
            yield entry.ours, entry.read(*(files.read(name) for name in entry.theirs))
        except FormatError:
            raise
        except (ValueError, RuntimeError, IndexError) as error:
            raise FormatError(f"{files.directory}: {listing(entry.theirs)} cannot be used: {error}") from error
