"""A directory of safetensors files: found, checked and read one tensor at a time, or written in shards.

Nothing in such a directory is trusted: header sizes are bounded before they are parsed, an index file may not lead out
of the directory, and shapes are known before any tensor is read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import FileWriteError, write_text_atomically
from .configs import FormatError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_JSON_BYTES = 64 << 20
MAX_HEADER_BYTES = 16 << 20
"""Larger headers are refused; that of a shard of gpt-oss-120b has some tens of kilobytes."""

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "U8": "uint8"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file, without its values."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def size(self) -> int:
        """Number of values."""
        count = 1
        for length in self.shape:
            count *= length
        return count


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """An object from a JSON file of bounded size.

    Raises:
        FormatError: it is missing, too large, damaged, or holds something else than an object.
    """
    try:
        size = path.stat().st_size
        raw = json.loads(path.read_text(encoding="utf-8")) if size <= limit else None
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read as JSON: {error}") from error
    if size > limit:
        raise FormatError(f"{path} has {size:,} bytes; at most {limit:,} are read")
    if not isinstance(raw, dict):
        raise FormatError(f"{path} holds {type(raw).__name__}, not an object with settings")
    return raw


class TensorFiles:
    """All tensors of a directory's safetensors files, by name.

    Raises:
        FormatError: there is none, one is damaged, a tensor is in two files, or the index does not fit the files.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths = self._find_files()
        self.tensors: dict[str, TensorInfo] = {}
        for path in self.paths:
            for info in _read_table(path):
                if info.name in self.tensors:
                    raise FormatError(f"{directory}: tensor {info.name} is in two files")
                self.tensors[info.name] = info

    def _find_files(self) -> list[Path]:
        """The weight files: those that the index names, or else those with the usual names."""
        index = self.directory / INDEX_FILE
        if not index.is_file():
            paths = sorted(path for path in self.directory.glob("model*.safetensors") if path.is_file())
            if not paths:
                raise FormatError(
                    f"{self.directory} has no model*.safetensors file; other weight files are not read here"
                )
            return paths
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise FormatError(f"{index} is damaged: its weight_map is not a table of file names")
        names = sorted(set(weight_map.values()))
        if outside := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
            raise FormatError(f"{index} names {outside[0]!r:.80}, which is no safetensors file in the same directory")
        if missing := [name for name in names if not (self.directory / name).is_file()]:
            raise FormatError(f"{self.directory}: weight files are missing: {listing(missing)}")
        return [self.directory / name for name in names]

    def check_names(self, wanted: Collection[str]) -> None:
        """Hold the names of the tensors to those that a configuration demands.

        Raises:
            FormatError: with the names of the tensors that are missing or surplus.
        """
        problems = []
        if missing := sorted(set(wanted) - set(self.tensors)):
            problems.append(f"missing: {listing(missing)}")
        if surplus := sorted(set(self.tensors) - set(wanted)):
            problems.append(f"unknown: {listing(surplus)}")
        self._refuse(problems)

    def check_shapes(self, wanted: Mapping[str, tuple[int, ...]], quantized: Collection[str]) -> None:
        """Hold shapes and kinds of number to those that a configuration demands; the names have been checked.

        Args:
            wanted: shape by name.
            quantized: names of the tensors that are bytes of MXFP4.

        Raises:
            FormatError: with the names of the tensors that are mis-shaped or of another kind.
        """
        problems = []
        for name, shape in wanted.items():
            info = self.tensors[name]
            if info.shape != shape:
                problems.append(f"{name} is {info.shape}, expected {shape}")
            elif (info.dtype == "uint8") != (name in quantized):
                problems.append(f"{name} holds {info.dtype}")
        self._refuse(problems)

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            raise FormatError(f"{self.directory}: the tensors do not fit config.json: {listing(problems, '; ')}")

    def read(self, name: str) -> Tensor:
        """One tensor, from the disk.

        Raises:
            FormatError: the file has changed or cannot be read.
        """
        path = self.directory / self.tensors[name].file
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{path}: {name} cannot be read: {error}") from error


def header_size(path: Path) -> int:
    """Bytes of a safetensors file before its values, after a check that they are within bounds.

    Raises:
        FormatError: the file is too short, or claims more than it has or than is reasonable.
    """
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from error
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > total - 8:
        raise FormatError(f"{path} is damaged or not a safetensors file: its {total:,} bytes do not hold its header")
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"{path} has a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    return 8 + length


def _read_table(path: Path) -> list[TensorInfo]:
    header_size(path)
    found = []
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                view = file.get_slice(name)
                dtype = view.get_dtype()
                if dtype not in _DTYPES:
                    raise FormatError(f"{path}: {name!r:.80} holds {dtype}; read are {', '.join(_DTYPES)}")
                found.append(TensorInfo(name, _DTYPES[dtype], tuple(view.get_shape()), path.name))
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is damaged or not a safetensors file: {error}") from error
    return found


def listing(texts: Sequence[str], separator: str = ", ") -> str:
    """The first few of some texts, and how many more there are."""
    shown = separator.join(f"{text:.200}" for text in texts[:5])
    return shown + (f" and {len(texts) - 5:,} more" if len(texts) > 5 else "")


def write_shards(directory: Path, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int) -> None:
    """Write tensors into as many safetensors files as a size limit demands, with an index where there are several.

    Only one shard is in memory at a time. A tensor larger than the limit gets a file of its own.

    Args:
        directory: where no model files are yet.
        tensors: name and values.

    Raises:
        FileWriteError: no space or no permission.
    """
    parts: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    size = total = 0

    def write() -> None:
        nonlocal size
        _write_file(directory / _part_name(len(parts)), shard)
        parts.append(list(shard))
        shard.clear()
        size = 0

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_shard_bytes:
            write()
        # A copy of its own: tied tables share their memory, which the format refuses.
        shard[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        size += tensor.nbytes
        total += tensor.nbytes
    write()
    if len(parts) == 1:
        (directory / _part_name(0)).rename(directory / SINGLE_FILE)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(parts):
        file = f"model-{number + 1:05d}-of-{len(parts):05d}.safetensors"  # only now is it known how many there are
        (directory / _part_name(number)).rename(directory / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_text_atomically(directory / INDEX_FILE, json.dumps(index, indent=1) + "\n")


def _part_name(number: int) -> str:
    return f"part-{number}.safetensors"


def _write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    try:
        # The metadata is what `transformers` looks for before it loads.
        save_file(tensors, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise FileWriteError(f"cannot write {path}: {error}. Free some space or choose another folder.") from error
