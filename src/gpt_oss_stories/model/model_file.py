"""One file that holds all that generation needs: weights, configuration, vocabulary, provenance. Reads and writes it.

The file is torch's zip format with nothing but plain values and tensors, so it loads with `weights_only=True`: no
code from a file ever runs. Layout of version 1:

    format      "gpt_oss_stories.model"
    version     1
    config      ModelConfig.to_dict()
    vocabulary  Vocabulary.to_dict()
    provenance  plain values: how, when and on what the model was trained
    weights     parameter name -> tensor
    checksum    SHA-256 over everything above
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..config import ConfigError, ModelConfig
from ..errors import StoryError
from ..files import atomic_write
from ..tokenization import Vocabulary, vocabulary_from_dict
from .rope import RotaryEmbedding
from .transformer import StoryTransformer

FORMAT = "gpt_oss_stories.model"
VERSION = 1
MAX_PLAIN_LENGTH = 64 * 2**20
"""Longest text of what is not weights, each value counted as 64 characters more than it has: a million values."""
MAX_PLAIN_DEPTH = 64


class ModelFileError(StoryError):
    """A model file is missing, damaged, of another kind, or does not fit its own configuration."""


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds."""

    config: ModelConfig
    vocabulary: Vocabulary
    provenance: dict[str, Any]
    weights: dict[str, Tensor]

    def check(self) -> None:
        """See that the weights fit the configuration.

        Raises:
            ModelFileError: tensors are missing, surplus or mis-shaped.
        """
        with torch.device("meta"):
            model = StoryTransformer(self.config)
        check_shapes({name: tuple(tensor.shape) for name, tensor in self.weights.items()}, model, "the model file")

    def build(self) -> StoryTransformer:
        """The model with these weights, in float32 on the CPU."""
        return build_model(self.config, self.weights, "the model file")


def build_model(
    config: ModelConfig, weights: Mapping[str, Tensor], source: str, *, copy: bool = True
) -> StoryTransformer:
    """A model with given weights, none of it drawn at random.

    Args:
        weights: parameter name to tensor; converted to float32.
        source: where the weights come from, for the error.
        copy: False uses the tensors themselves where they are float32, in main memory and in one piece.

    Raises:
        ModelFileError: names or shapes do not fit the configuration.
    """
    with torch.device("meta"):
        model = StoryTransformer(config)
    check_shapes({name: tuple(tensor.shape) for name, tensor in weights.items()}, model, source)
    # In memory of its own, not in a file's, which has small pages and may change; and other programs' matrices come
    # transposed, while products read rows in one piece.
    contiguous = torch.contiguous_format
    state = {name: tensor.to(torch.float32, copy=copy, memory_format=contiguous) for name, tensor in weights.items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.rope = RotaryEmbedding(config)  # its table is no parameter, so it is still on the meta device
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def check_shapes(found: Mapping[str, tuple[int, ...]], model: StoryTransformer, source: str) -> None:
    """Refuse missing, surplus or mis-shaped tensors, by name.

    Raises:
        ModelFileError: `found` does not fit the model.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    problems = []
    if missing := sorted(set(wanted) - set(found)):
        problems.append(f"missing {_listing(missing)}")
    if surplus := sorted(set(found) - set(wanted)):
        problems.append(f"unknown {_listing(surplus)}")
    shapes = [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if shapes:
        problems.append(_listing(shapes))
    if problems:
        raise ModelFileError(f"{source}: the tensors do not fit the configuration: {'; '.join(problems)}")


def _listing(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _checksum(contents: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    plain = {key: contents[key] for key in ("format", "version", "config", "vocabulary", "provenance")}
    digest.update(json.dumps(plain, sort_keys=True).encode())
    for name, tensor in sorted(contents["weights"].items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().contiguous().flatten().view(torch.uint8)
        digest.update(flat.numpy())
    return digest.hexdigest()


class _RecordingWriter:
    """Passes writes on and remembers why one failed: torch.save reports only that it did."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_model(
    path: str | Path, model: StoryTransformer, vocabulary: Vocabulary, provenance: Mapping[str, Any]
) -> None:
    """Write a model to a file; see `save_weights`."""
    weights = {name: tensor.detach().cpu() for name, tensor in model.named_parameters()}
    save_weights(path, model.config, weights, vocabulary, provenance)


def save_weights(
    path: str | Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    provenance: Mapping[str, Any],
) -> None:
    """Write a model file, replacing `path` only when all of it is on the disk.

    Args:
        weights: parameter name to values, in any precision.
        provenance: plain values (texts, numbers, truth values, None, lists and mappings of these).

    Raises:
        FileWriteError: no space or no permission; what stood at `path` is unchanged.
    """
    contents: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "config": config.to_dict(),
        "vocabulary": vocabulary.to_dict(),
        # Through JSON, so that only plain values can get in.
        "provenance": json.loads(json.dumps(dict(provenance))),
        "weights": dict(weights),
    }
    contents["checksum"] = _checksum(contents)
    with atomic_write(path) as file:
        recorder = _RecordingWriter(file)
        try:
            torch.save(contents, recorder)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise recorder.error or error from error


def load_model_file(path: str | Path) -> ModelFile:
    """Read and check a model file.

    Raises:
        ModelFileError: it is missing, cut short, damaged, holds code, or is of another format or version.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(
            f"no model at {path}: train one first (src/run_training.py writes checkpoints/best_model.pt)"
        )
    contents = _read_contents(path)
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise ModelFileError(f"{path} is a PyTorch file, but not a model of this project (no format '{FORMAT}' in it)")
    if contents.get("version") != VERSION:
        raise ModelFileError(
            f"{path} has format version {contents.get('version')!r}, this program reads {VERSION}: update the program"
        )
    weights = contents.get("weights")
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and _is_plain_tensor(tensor) for name, tensor in weights.items()
    ):
        raise ModelFileError(f"{path} is damaged: its weights are not a table of named tensors")
    if not _is_short(contents, skip="weights"):
        raise ModelFileError(f"{path} is damaged: its settings are nested too deeply, or without end")
    try:
        matches = contents.get("checksum") == _checksum(contents)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged: parts of it are missing or of the wrong kind ({error})") from error
    if not matches:
        raise ModelFileError(f"{path} is damaged: its checksum does not match. Restore it from a copy or train again.")
    try:
        config = ModelConfig.from_dict(contents["config"])
    except (ConfigError, TypeError) as error:
        raise ModelFileError(f"{path}: its configuration cannot be used: {error}") from error
    vocabulary = vocabulary_from_dict(contents["vocabulary"])
    if vocabulary.size != config.vocab_size:
        raise ModelFileError(f"{path}: its vocabulary has {vocabulary.size} tokens, its model {config.vocab_size}")
    if not isinstance(contents["provenance"], dict):
        raise ModelFileError(f"{path} is damaged: its provenance is not a table")
    return ModelFile(config=config, vocabulary=vocabulary, provenance=contents["provenance"], weights=weights)


def _is_short(contents: Mapping[str, Any], *, skip: str) -> bool:
    """Whether the plain values would be of bounded length as text. Lists that hold the same list many times take no
    memory until they are written out, so each is counted as often as it would be written."""
    waiting: list[tuple[Any, int]] = [(value, 0) for key, value in contents.items() if key != skip]
    length = 0
    while waiting:
        value, depth = waiting.pop()
        inner: list[Any] = []
        if isinstance(value, Mapping):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            inner = list(value)
        length += 64 * len(inner) + (len(value) if isinstance(value, str) else 0)
        if length > MAX_PLAIN_LENGTH or depth > MAX_PLAIN_DEPTH:
            return False
        waiting.extend((item, depth + 1) for item in inner)
    return True


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _is_plain_tensor(value: Any) -> bool:
    """Whether it is a tensor that takes as much memory as its bytes in the file: a crafted one can look far larger, by
    strides of zero."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.is_floating_point()
        and value.is_contiguous()
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _read_contents(path: Path) -> Any:
    """The file's values and tensors, with every way in which reading can fail turned into one line."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                # torch never compresses; a compressed entry could unpack to any size.
                raise ModelFileError(f"{path} is not a model file: it has compressed entries")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ModelFileError(f"{path} is not a model file, or it was cut short: restore it or train again") from error
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path} was refused: it holds code or objects other than plain values and tensors, which are never run"
        ) from error
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, StoryError):
            raise
        # Whatever a flipped bit in the pickled table makes of it.
        raise ModelFileError(f"{path} is damaged or was cut short ({_first_line(error)})") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
