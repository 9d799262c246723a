"""Finds runs on the disk, and tells what each is and how it went.

A run is a folder with a `metrics.jsonl`. What it was made with is in its `run.json`; runs of versions that wrote none
have it in their newest state, or in their model file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..config import ConfigError, ModelConfig
from ..errors import StoryError
from .checkpoint import STATE_FILE, list_states
from .curves import Curves
from .metrics import METRICS_FILE
from .run_file import MODEL_FILE, RUN_FILE, RunFile, RunFileError, read_run_file

NOT_RUNS = ("tensorboard", "wandb", "plots", "node_modules")
"""Folders that are not looked into, beside hidden ones and training states."""

Settings = Mapping[str, Mapping[str, Any]]


class RunsError(StoryError):
    """There is no run where one was looked for, or it cannot be read."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run. What is not known is None."""

    path: str
    """Its folder."""
    name: str | None = None
    """What the user called it."""
    problem: str | None = None
    """Why nothing or not all is known of it, in one line."""
    status: str | None = None
    """complete; stopped, by a signal; or unfinished: it runs, was killed, or ended by an error."""
    started_at: str | None = None
    """UTC, ISO 8601; of a run without a `run.json` when its metrics were last written."""
    parameters: int | None = None
    active_parameters: int | None = None
    steps: int | None = None
    tokens_seen: int | None = None
    training_seconds: float | None = None
    tokens_per_second: float | None = None
    """Median over the records."""
    loss_nats: float | None = None
    """Last mean loss in training."""
    validation_loss_nats: float | None = None
    """The best one."""
    validation_step: int | None = None
    """Where it was found; what follows was found there too."""
    validation_bits_per_byte: float | None = None
    validation_accuracy: float | None = None
    settings: Settings = dataclasses.field(default_factory=dict)
    """The configurations `model`, `training` and `data`."""


def find_runs(folders: Sequence[str | Path]) -> list[Path]:
    """The folders of all runs in some folders and below them, each once, in the order of their names.

    Links to folders are not followed.

    Raises:
        RunsError: a folder is not there, or there is no run in any.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise RunsError(f"{folder} is not a folder: give the folders that runs are in or below")
        for place, below, files in os.walk(folder):
            below[:] = sorted(name for name in below if not name.startswith((".", "state-")) and name not in NOT_RUNS)
            if METRICS_FILE in files:
                found.setdefault(os.path.realpath(place), Path(place))
    if not found:
        places = ", ".join(map(str, folders))
        raise RunsError(f"no run in or below {places}: a run is a folder with a {METRICS_FILE}")
    return list(found.values())


def summarise(path: Path) -> RunSummary:
    """What is known of the run in a folder. Whatever is wrong with it is told in the summary."""
    facts: dict[str, Any] = {"path": str(path)}
    problems = []
    run = RunFile()
    try:
        run = read_run_file(path)
    except RunFileError as error:
        if (path / RUN_FILE).exists():
            problems.append(str(error))
    settings: Settings = run.settings or _settings_of_state(path) or _settings_of_model(path)
    facts |= {"name": run.name, "started_at": run.started_at, "settings": settings}
    facts["parameters"], facts["active_parameters"] = _sizes(run, settings)
    try:
        curves = Curves(path / METRICS_FILE)
        facts |= _figures(curves)
    except StoryError as error:
        problems.append(str(error))
    if facts["started_at"] is None:
        facts["started_at"] = _last_written(path / METRICS_FILE)
    if settings or run.started_at:
        facts["status"] = _status(run, settings, facts)
    return RunSummary(problem="; ".join(problems) or None, **facts)


def _figures(curves: Curves) -> dict[str, Any]:
    _, tokens = curves["tokens_seen"]
    _, seconds = curves["training_seconds"]
    _, speeds = curves["tokens_per_second"]
    _, losses = curves["loss_nats"]
    steps, held = curves["validation_loss_nats"]
    facts: dict[str, Any] = {
        "steps": curves.last["step"],
        "tokens_seen": int(tokens[-1]) if tokens else None,
        "training_seconds": seconds[-1] if seconds else None,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "loss_nats": losses[-1] if losses else None,
    }
    if held:
        best = min(range(len(held)), key=held.__getitem__)
        facts |= {"validation_loss_nats": held[best], "validation_step": int(steps[best])}
        for name in ("validation_bits_per_byte", "validation_accuracy"):
            facts[name] = dict(zip(*curves[name], strict=True)).get(steps[best])
    return facts


def _sizes(run: RunFile, settings: Settings) -> tuple[int | None, int | None]:
    if run.parameters is not None or not settings.get("model"):
        return run.parameters, run.active_parameters
    try:
        report = ModelConfig.from_dict(settings["model"]).parameters()
    except ConfigError:  # of another version of the program
        return None, None
    return report.total, report.active


def _status(run: RunFile, settings: Settings, facts: Mapping[str, Any]) -> str:
    if run.complete or (run.started_at is None and _has_reached_an_end(settings.get("training", {}), facts)):
        return "complete"
    return "stopped" if run.ended_at is not None else "unfinished"


def _has_reached_an_end(training: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a run that wrote no `run.json` has taken all its steps, or all its time."""
    for fact, setting in (("steps", "max_iters"), ("training_seconds", "max_seconds")):
        now, end = facts.get(fact), training.get(setting)
        if now is not None and end is not None and now >= end:
            return True
    return False


def _last_written(path: Path) -> str | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return None


def _settings_of_state(directory: Path) -> Settings:
    for path in list_states(directory):
        try:
            state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["state"]
            model, training, data = state["identity"]["model"], state["training_config"], state["data_config"]
        except (OSError, ValueError, KeyError, TypeError):  # damaged: the one before it
            continue
        if isinstance(model, dict) and isinstance(training, dict) and isinstance(data, dict):
            return {"model": model, "training": training, "data": data}
    return {}


def _settings_of_model(directory: Path) -> Settings:
    if not (directory / MODEL_FILE).is_file():
        return {}
    from ..model.model_file import load_model_file

    try:
        file = load_model_file(directory / MODEL_FILE)
    except StoryError:
        return {}
    parts = {"training": file.provenance.get("training_config"), "data": file.provenance.get("data_config")}
    return {"model": file.config.to_dict(), **{name: part for name, part in parts.items() if isinstance(part, dict)}}


def differences(a: RunSummary, b: RunSummary) -> list[tuple[str, Any, Any]]:
    """The settings in which two runs differ: names such as `training.learning_rate`, and both values; None where a run
    does not have it. Folders that only say where things are kept are left out."""
    where = {"training.checkpoint_dir", "training.resume", "data.data_dir"}
    flat = [
        {f"{part}.{name}": value for part, values in run.settings.items() for name, value in values.items()}
        for run in (a, b)
    ]
    names = dict.fromkeys([*flat[0], *flat[1]])
    both = [(name, flat[0].get(name), flat[1].get(name)) for name in names if name not in where]
    return [entry for entry in both if entry[1] != entry[2]]


SORT_KEYS: Mapping[str, tuple[Callable[[RunSummary], Any], bool]] = {
    "name": (lambda run: run.path, False),
    "started": (lambda run: run.started_at, True),
    "size": (lambda run: run.parameters, True),
    "steps": (lambda run: run.steps, True),
    "tokens": (lambda run: run.tokens_seen, True),
    "loss": (lambda run: run.validation_loss_nats, False),
    "bits": (lambda run: run.validation_bits_per_byte, False),
    "speed": (lambda run: run.tokens_per_second, True),
    "duration": (lambda run: run.training_seconds, True),
}
"""By what runs can be sorted, and whether the largest comes first."""


def sort_runs(runs: Sequence[RunSummary], key: str) -> list[RunSummary]:
    """Runs by one of `SORT_KEYS`; those of which it is not known come last."""
    value, largest_first = SORT_KEYS[key]
    known = [run for run in runs if value(run) is not None]
    return sorted(known, key=value, reverse=largest_first) + [run for run in runs if value(run) is None]
