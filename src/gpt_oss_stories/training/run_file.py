"""What a run is, beside its figures: `run.json` in the checkpoint folder, written when a run starts and when it ends.

It is there for people and for `stories runs`; a run does not need it to go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import typing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import StoryError
from ..files import write_text_atomically

RUN_FILE = "run.json"
MODEL_FILE = "best_model.pt"
"""The model of the best evaluation, beside it."""
SCHEMA = 1


class RunFileError(StoryError):
    """A run file cannot be read."""


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """The content of `run.json`. Times are UTC, in ISO 8601."""

    schema: int = SCHEMA
    name: str | None = None
    """What the user called it."""
    started_at: str | None = None
    """When the run was begun."""
    resumed_at: str | None = None
    """When it was last gone on with."""
    ended_at: str | None = None
    """When it last ended, by itself or by a signal; None while it runs and after it was killed."""
    complete: bool = False
    """It has come to its end."""
    settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """The configurations `model`, `training` and `data`."""
    parameters: int | None = None
    active_parameters: int | None = None
    """Those that take part in predicting a token."""
    device: str | None = None
    precision: str | None = None
    processes: int | None = None
    program: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Versions."""

    def write(self, directory: Path) -> None:
        """Put it into a checkpoint folder.

        Raises:
            FileWriteError: it cannot be written; one that was there is as it was.
        """
        write_text_atomically(directory / RUN_FILE, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def ended(self, *, complete: bool) -> RunFile:
        """The same run after it has ended."""
        return dataclasses.replace(self, ended_at=utc_now(), complete=complete)


def utc_now() -> str:
    """Date and time to the second, with the offset +00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def begun(directory: Path, *, resumed: bool, **facts: Any) -> RunFile:
    """The file of a run that begins now, or goes on.

    Args:
        directory: checkpoint folder; if the run is resumed, the time of its beginning is looked up there.
        resumed: whether it goes on.
        facts: fields of `RunFile`.
    """
    now, started = utc_now(), None
    if resumed:
        with contextlib.suppress(RunFileError):  # none, or unreadable: when the run was begun is not known
            started = read_run_file(directory).started_at
        return RunFile(started_at=started, resumed_at=now, **facts)
    return RunFile(started_at=now, **facts)


def read_run_file(directory: Path) -> RunFile:
    """The run file of a checkpoint folder.

    Raises:
        RunFileError: there is none, or it is damaged, or of a newer version of the program.
    """
    path = directory / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFileError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise RunFileError(f"{path} is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise RunFileError(f"{path} is not the file of a run")
    if content["schema"] > SCHEMA:
        raise RunFileError(f"{path}: schema {content['schema']} is newer than {SCHEMA}: update the program")
    known = {name: value for name, value in content.items() if name in _FIELDS}
    for name, value in known.items():
        if not isinstance(value, _FIELDS[name]):
            raise RunFileError(f"{path} is not the file of a run: {name} is {value!r}")
    if not all(isinstance(part, dict) for part in known.get("settings", {}).values()):
        raise RunFileError(f"{path} is not the file of a run: settings are not in parts")
    return RunFile(**known)


_FIELDS: dict[str, Any] = {
    name: dict if typing.get_origin(hint) is dict else hint for name, hint in typing.get_type_hints(RunFile).items()
}
"""The type of each field, without what it holds."""
