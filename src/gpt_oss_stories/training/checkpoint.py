"""Training state on disk: one directory per save, whole or not there, checked before anything is loaded.

A state is `state-00000500/`: tensors as `torch.distributed.checkpoint` writes them (parameters, optimizer, random
generators) and `state.json` with everything else: format version, counters, settings, fingerprints and the SHA-256 of
every file. It is written beside its place and renamed, so a crash leaves either the whole state or none.

Nothing in a state can run code. The format keeps an index, `.metadata`, as a pickle; it is read here by an unpickler
that knows only the plain record classes that such an index is made of, every item must be a tensor, and tensors are
loaded with `weights_only=True` (by torch's own reader).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ..errors import StoryError
from ..files import FileWriteError, sha256_of_file, write_text_atomically
from .distributed import Processes

FORMAT_VERSION = 1
STATE_FILE = "state.json"
INDEX_FILE = ".metadata"
_PREFIX = "state-"
_STATE_NAME = re.compile(r"state-[0-9]{8,18}")
_TEMPORARY_PREFIX = ".saving-"


class CheckpointError(StoryError):
    """A training state is missing, damaged, of a newer format, or of another run."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """All of a run's state that is not a tensor."""

    step: int
    """Optimizer steps taken."""
    rows_seen: int
    """Rows of the training stream that were consumed, over all processes: the position in the data."""
    tokens_seen: int
    training_seconds: float
    skipped_steps: int = 0
    """Steps whose loss or gradient was not finite and that changed nothing."""
    averaged_steps: int = 0
    """Steps that the average of the weights has seen; 0 if there is none."""
    most_rows: int | None = None
    """Rows in one pass, at the most, since memory ran out with more."""
    must_recompute: bool = False
    """Blocks are computed again in the backward pass, since memory ran out otherwise."""
    best_validation_loss: float | None = None
    evaluated_step: int | None = None
    """The last step that was evaluated."""
    sums: dict[str, Any] | None = None
    """Sums of the losses since the last record, see `sums.StepSums`."""
    evaluations_since_best: int = 0
    """Evaluations since the one with the best loss."""
    identity: dict[str, Any] = field(default_factory=dict)
    """What must be equal for another run to go on from here."""
    training_config: dict[str, Any] = field(default_factory=dict)
    data_config: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] | None = None
    """State of the float16 gradient scaler."""
    world_size: int = 1
    trackers: dict[str, str] = field(default_factory=dict)
    """Identifiers under which trackers know this run."""


def state_path(directory: Path, step: int) -> Path:
    """Where the state after `step` steps is kept."""
    return directory / f"{_PREFIX}{step:08d}"


def list_states(directory: Path) -> list[Path]:
    """The states in a checkpoint folder, newest first; none if there is no folder."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if _STATE_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True)


class _Writer(FileSystemWriter):
    def storage_meta(self) -> StorageMeta | None:
        return StorageMeta()  # the default would store this machine's folder names

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if (refused := _system_error(error)) is not None:
                raise refused from None  # what is told to the other processes has no context
            raise


def save_state(
    directory: Path,
    state: RunState,
    tensors: Mapping[str, Tensor],
    processes: Processes,
    *,
    keep: int,
) -> Path:
    """Write a state and remove the oldest ones; every process calls this.

    Args:
        directory: checkpoint folder.
        state: counters and settings.
        tensors: this process's tensors; names that several processes have must hold equal values.
        processes: who takes part.
        keep: newest states that stay.

    Returns:
        The state's folder.

    Raises:
        FileWriteError: it cannot be written; earlier states are unchanged.
    """
    target, temporary = state_path(directory, state.step), directory / f"{_TEMPORARY_PREFIX}{state.step:08d}"
    problem: str | None = None
    try:
        if processes.is_main:
            directory.mkdir(parents=True, exist_ok=True)
            for leftover in directory.glob(f"{_TEMPORARY_PREFIX}*"):
                shutil.rmtree(leftover)
    except OSError as error:
        problem = _reason(error)
    _agree(problem, target, processes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that one process saves without a process group
            state_dict_saver.save(
                dict(tensors),
                storage_writer=_Writer(temporary),
                process_group=processes.group,
                no_dist=processes.world_size == 1,
            )
        if processes.is_main:
            write_text_atomically(temporary / STATE_FILE, _to_json(state, temporary))
            _sync_directory(temporary)
            replaced = directory / f"{temporary.name}-replaced"
            if target.exists():
                os.replace(target, replaced)
            os.replace(temporary, target)
            _sync_directory(directory)
            shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, CheckpointException, FileWriteError) as error:
        problem = _reason(error)
    if problem is not None and processes.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
    _agree(problem, target, processes)
    if processes.is_main:
        for old in [path for path in list_states(directory) if path != target][max(0, keep - 1) :]:
            # What cannot be removed, since somebody reads it, is tried again by the next save.
            shutil.rmtree(old, ignore_errors=True)
    return target


def _agree(problem: str | None, target: Path, processes: Processes) -> None:
    """Go on only if no process has a problem; together.

    Raises:
        FileWriteError: one has.
    """
    source = int(processes.largest([float(problem is not None) * (processes.rank + 1)])[0]) - 1
    if source >= 0:
        raise FileWriteError(
            f"cannot save the training state {target}: {processes.share(problem, source=source)}; "
            "earlier states are unchanged. Free some space, or choose another --checkpoint-dir."
        )


def _reason(error: BaseException) -> str:
    """The cause in one line; torch wraps each process's error."""
    if isinstance(error, CheckpointException):
        for wrapped in error.failures.values():
            return _reason(wrapped[0])
    refused = _system_error(error)
    return str(error).splitlines()[0] if refused is None else str(refused.strerror)


def _system_error(error: BaseException) -> OSError | None:
    """The system's reason: torch's writer reports only that a write failed, and has the reason as context."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _to_json(state: RunState, directory: Path) -> str:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        for path in sorted(directory.iterdir())
        if path.name != STATE_FILE
    }
    return _sealed({"format_version": FORMAT_VERSION, "state": dataclasses.asdict(state), "files": files})


def _sealed(content: dict[str, Any]) -> str:
    return json.dumps({**content, "checksum": _checksum(content)}, indent=1) + "\n"


def update_state(path: Path, **changes: Any) -> None:
    """Change counters of a saved state, such as the best loss that an evaluation right after the save found.

    Raises:
        FileWriteError: the file cannot be written; it is unchanged.
    """
    content = _read_json(path)
    content["state"] |= changes
    write_text_atomically(path / STATE_FILE, _sealed(content))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
        version = content["format_version"]
        sound = checksum == _checksum(content) and isinstance(version, int)
    except OSError as error:
        raise CheckpointError(f"{path} is not a training state: {STATE_FILE}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        sound, version = False, 0
    if not sound:
        raise CheckpointError(f"{path / STATE_FILE} is damaged")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this version of the program reads up to {FORMAT_VERSION}: update it"
        )
    return dict(content)


def read_state(path: Path, *, verify: bool = True) -> RunState:
    """Read a state's counters and settings, and check its files.

    Args:
        path: the state's folder.
        verify: read all files and compare their checksums; without it only their sizes are checked.

    Raises:
        CheckpointError: the state is missing, damaged or newer than this program.
    """
    content = _read_json(path)
    for name, facts in content["files"].items():
        file = path / name
        if Path(name).name != name or not file.is_file() or file.is_symlink():
            raise CheckpointError(f"{path} is damaged: {name} is missing")
        if file.stat().st_size != facts["bytes"] or (verify and sha256_of_file(file) != facts["sha256"]):
            raise CheckpointError(f"{path} is damaged: {name} is not what was written")
    if INDEX_FILE not in content["files"]:
        raise CheckpointError(f"{path} is damaged: it has no {INDEX_FILE}")
    known = {field.name for field in dataclasses.fields(RunState)}
    try:
        state = RunState(**{name: value for name, value in content["state"].items() if name in known})
    except TypeError as error:
        raise CheckpointError(f"{path / STATE_FILE} lacks a field: {error}") from None
    if _STATE_NAME.fullmatch(path.name) and path.name != state_path(path.parent, state.step).name:
        raise CheckpointError(f"{path} holds the state after step {state.step:,}: it was put there from another folder")
    return state


_INDEX_CLASSES = {
    ("torch.distributed.checkpoint.metadata", name)
    for name in (
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "BytesStorageMetadata",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),  # a look-up in torch's fixed table of layouts
    ("torch", "Size"),
    ("collections", "OrderedDict"),
}
_INDEX_DTYPES = {
    str(dtype).removeprefix("torch.")
    for dtype in (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.uint8,
        torch.int32,
        torch.int64,
        torch.bool,
    )
}


class _IndexUnpickler(pickle.Unpickler):
    """Reads the index of a state, and refuses every class and function that is not part of such an index."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _INDEX_CLASSES or (module == "torch" and name in _INDEX_DTYPES):
            return super().find_class(module, name)
        raise CheckpointError(
            f"the index names {module}.{name}, which has no place in a training state; it was not run"
        )


class _Reader(FileSystemReader):
    """torch's reader, with an index that cannot run code and that names only tensors in this folder's files."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / INDEX_FILE
        try:
            with path.open("rb") as file:
                index = _IndexUnpickler(file).load()
        except CheckpointError as error:
            raise CheckpointError(f"{self.path} is not safe to load: {error}") from None
        except (
            OSError,
            EOFError,
            pickle.UnpicklingError,
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
        ) as e:
            raise CheckpointError(f"{path} is damaged: {e}") from None
        if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
            raise CheckpointError(f"{path} is damaged: it is not an index of tensors")
        for name, item in index.state_dict_metadata.items():
            if not isinstance(item, TensorStorageMetadata):
                raise CheckpointError(f"{path} is not safe to load: {name} is not a tensor")
        for place in index.storage_data.values():
            if Path(place.relative_path).name != place.relative_path or place.transform_descriptors:
                raise CheckpointError(f"{path} is not safe to load: it points to {place.relative_path!r}")
        index.storage_meta = StorageMeta(load_id=self.load_id)
        return index


def load_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, optional: Callable[[str], bool] = lambda name: False
) -> None:
    """Fill tensors in place from a state whose files `read_state` has checked.

    Nothing is changed unless names, shapes and number formats fit.

    Args:
        path: the state's folder.
        tensors: live tensors by name.
        optional: says of a name that it may be absent from the state; such a tensor is left as it is.

    Raises:
        CheckpointError: the state does not fit, is damaged, or is not safe to load.
    """
    index = _Reader(path).read_metadata().state_dict_metadata
    wanted = {name: tensor for name, tensor in tensors.items() if name in index or not optional(name)}
    for name, tensor in wanted.items():
        stored = index.get(name)
        if not isinstance(stored, TensorStorageMetadata):
            raise CheckpointError(f"{path} has no tensor {name}: it belongs to another model or optimizer")
        if stored.size != tensor.shape or stored.properties.dtype != tensor.dtype:
            raise CheckpointError(
                f"{path}: {name} is {tuple(stored.size)} {stored.properties.dtype}, "
                f"but {tuple(tensor.shape)} {tensor.dtype} is needed"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state_dict_loader.load(dict(wanted), storage_reader=_Reader(path), no_dist=True)
    except CheckpointException as error:
        raise CheckpointError(f"{path} cannot be loaded: {_reason(error)}") from None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's random generators as uint8 tensors, by generator."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the generators to what `random_state` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def move_aside(directory: Path, names: Sequence[str]) -> Path | None:
    """Move those of the named files and folders that are there into a new folder `previous-<n>` beside them.

    Returns:
        That folder, or None if there was nothing to move.

    Raises:
        FileWriteError: a file cannot be moved.
    """
    if not directory.is_dir():
        return None
    moved = [directory / name for name in names if (directory / name).exists()]
    if not moved:
        return None
    taken = [p.name.removeprefix("previous-") for p in directory.glob("previous-*")]
    number = max((int(text) for text in taken if re.fullmatch("[0-9]{1,18}", text)), default=0) + 1
    target = directory / f"previous-{number}"
    try:
        target.mkdir()
        for path in moved:
            os.replace(path, target / path.name)
    except OSError as error:
        raise FileWriteError(f"cannot move {directory}'s earlier run to {target}: {error.strerror or error}") from error
    return target
