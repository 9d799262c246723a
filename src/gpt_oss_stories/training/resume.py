"""Where a run begins: at a state of its own, or anew; and what is in its way.

A state is of the same run if its identity (model, vocabulary, data, seed, ...) is the same. Files of another run are
never overwritten but moved aside, and so are states from which the run is taken back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ModelConfig, TrainingConfig
from ..data.batches import ORDER
from ..data.pipeline import PreparedData
from ..model.transplant import WeightSource
from . import checkpoint
from .checkpoint import CheckpointError
from .display import Speaker


@dataclass(frozen=True)
class StartingPoint:
    """What a run starts from. Nothing has been moved yet."""

    state: Path | None
    """The state to go on from; None starts anew."""
    step: int
    """Steps that the run has behind it there."""
    aside: tuple[str, ...] = ()
    """What is in the way: names in the checkpoint folder, of which some may not exist."""
    what: str = ""
    """The same in words."""
    why: str = ""

    def clear_the_way(self, directory: Path, say: Speaker) -> None:
        """Move aside what is in the way.

        Raises:
            FileWriteError: a file cannot be moved.
        """
        if (moved := checkpoint.move_aside(directory, self.aside)) is not None:
            say(f"{self.what} moved to {moved}{self.why}", "yellow")


def run_identity(
    model: ModelConfig, training: TrainingConfig, data: PreparedData, initial: WeightSource | None
) -> dict[str, Any]:
    """What must be equal for a state to be of this run: whatever else is changed, it goes on with the same model and
    stories in the same order.

    Args:
        model: with the vocabulary size of the data.
        training, data: the run.
        initial: the model whose weights it started from.
    """
    identity: dict[str, Any] = {
        "model": model.to_dict(),
        "vocabulary": data.vocabulary.fingerprint,
        "data": data.fingerprint,
        "seed": training.seed,
        "optimizer": training.optimizer,
        "row length": training.train_length or model.block_size,
        "order of batches": ORDER,
    }
    if initial is not None:
        identity["started from"] = str(initial.path.resolve())
    return identity


def starting_point(
    directory: Path, wish: str, identity: Mapping[str, Any], run_files: Sequence[str], say: Speaker
) -> StartingPoint:
    """Choose the state to go on from.

    Args:
        directory: checkpoint folder of the run.
        wish: auto, never, or the path of a state or of a folder of states.
        identity: what a state must have to be of this run.
        run_files: names of what a run leaves in its folder beside states.
        say: tells of states that cannot be used.

    Raises:
        CheckpointError: the state at a path is missing, damaged, or of another run.
    """
    if wish not in ("auto", "never"):
        return _at_path(Path(wish), directory, identity, run_files)
    difference = "--resume never" if wish == "never" else None
    states = checkpoint.list_states(directory)
    for path in states if wish == "auto" else []:
        try:
            state = checkpoint.read_state(path)
        except CheckpointError as error:
            say(f"{error}; trying the state before it", "yellow")
            continue
        difference = _difference(state.identity, identity)
        if difference is None:
            return _at_state(path, state.step, directory)
        break
    return StartingPoint(
        None,
        0,
        (*(path.name for path in states), *run_files),
        "another run's files are",
        f" ({difference or 'it has no sound state'})",
    )


def _at_path(path: Path, directory: Path, identity: Mapping[str, Any], run_files: Sequence[str]) -> StartingPoint:
    if not (path / checkpoint.STATE_FILE).is_file():
        states = checkpoint.list_states(path)
        if not states:
            raise CheckpointError(
                f"--resume {path}: there is no training state; give a folder such as "
                f"{checkpoint.state_path(directory, 500)}, or auto, or never"
            )
        path = states[0]
    state = checkpoint.read_state(path)
    if (difference := _difference(state.identity, identity)) is not None:
        raise CheckpointError(f"--resume {path} is of another run ({difference}); use its settings, or --resume never")
    if path.parent.resolve() == directory.resolve():
        return _at_state(path, state.step, directory)
    names = *(found.name for found in checkpoint.list_states(directory)), *run_files
    return StartingPoint(path, state.step, names, f"the files in {directory} are")


def _at_state(path: Path, step: int, directory: Path) -> StartingPoint:
    """Go on in the same folder; states after `step` are damaged ones, or ones that the run is taken back from."""
    here = checkpoint.state_path(directory, step)
    later = tuple(sorted(found.name for found in checkpoint.list_states(directory) if found > here))
    return StartingPoint(path, step, later, ", ".join(later))


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How another run differs from this one, in words; None if it is this one."""
    parts = []
    for key, value in now.items():
        before = then.get(key)
        if before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            names = [f"{name} {before.get(name)} -> {value.get(name)}" for name in {**before, **value}
                     if before.get(name) != value.get(name)]  # fmt: skip
            parts.append(f"{key}: {', '.join(names)}")
        elif key in ("vocabulary", "data"):
            parts.append(f"other {key}")
        else:
            parts.append(f"{key} {before} -> {value}")
    return "; ".join(parts) or None
