"""Sending a run's metrics, settings, sample stories and pictures to Weights & Biases and to TensorBoard.

The record of a run is `metrics.jsonl`; trackers are copies of it. One that fails is switched off with a printed line,
and training goes on. Their packages are imported only when they are asked for.
"""

from __future__ import annotations

import importlib
import json
import netrc
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config import TrainingConfig
from ..errors import StoryError
from .faults import first_line
from .metrics import StepRecord


class TrackerError(StoryError):
    """A tracker was asked for whose package is not installed."""


class Tracker(ABC):
    """One place that metrics are sent to."""

    name: str
    package: tuple[str, str]
    """The module that is imported, and the name of the package that has it."""

    @abstractmethod
    def log(self, record: StepRecord) -> None:
        """Send one record."""

    def text(self, step: int, text: str) -> None:  # noqa: B027 - a tracker without texts leaves them out
        """Send a sample story."""

    def picture(self, step: int, path: Path) -> None:  # noqa: B027
        """Send a picture."""

    def identifier(self) -> str | None:
        """What a resumed run needs to go on with the same record."""
        return None

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """Finish sending.

        Args:
            failed: an error has ended the run.
        """


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TrackerError(
            f"{package} is not installed ({error}): install it with `pip install -e .[tracking]`, or leave its flag out"
        ) from None


def require_packages(config: TrainingConfig) -> None:
    """See that the packages of the trackers that are asked for are there, before a run changes anything.

    Raises:
        TrackerError: a package is missing.
    """
    for wanted, module, package in (
        (config.use_wandb, *WandbTracker.package),
        (config.use_tensorboard, *TensorBoardTracker.package),
    ):
        if not wanted:
            continue
        try:
            _imported(module, package)
        except TrackerError:
            raise
        except Exception:  # noqa: BLE001 - there but broken: `Trackers.open` tells of it and goes on without it
            pass


class WandbTracker(Tracker):
    """Weights & Biases; without an API key the run is recorded on disk, to be sent later with `wandb sync`."""

    name = "Weights & Biases"
    package = ("wandb", "wandb")

    def __init__(
        self,
        config: TrainingConfig,
        settings: Mapping[str, Any],
        directory: Path,
        identifier: str | None,
        say: Callable[[str], None],
    ) -> None:
        self._wandb = _imported(*self.package)
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
        place = directory / "wandb"
        place.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=config.wandb_project,
            name=config.run_name,
            id=identifier,
            resume="allow" if mode == "online" else None,
            dir=str(directory),
            config=dict(settings),
            mode=mode,
            settings=self._wandb.Settings(silent=True),
        )
        if mode == "offline":
            say(f"Weights & Biases: no API key, recording offline in {place}; send it with `wandb sync`")

    def log(self, record: StepRecord) -> None:
        self._run.log(record.known(), step=record.step)

    def text(self, step: int, text: str) -> None:
        self._run.log({"sample": self._wandb.Html(f"<pre>{_escaped(text)}</pre>")}, step=step)

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"training_curves": self._wandb.Image(str(path))}, step=step)

    def identifier(self) -> str | None:
        return str(self._run.id)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = re.sub(r"^https?://|/.*$", "", os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class TensorBoardTracker(Tracker):
    """TensorBoard event files in the checkpoint folder."""

    name = "TensorBoard"
    package = ("torch.utils.tensorboard", "tensorboard")

    def __init__(self, directory: Path, settings: Mapping[str, Any], resumed_step: int) -> None:
        writer = _imported(*self.package).SummaryWriter
        # Events after the step that a run resumes from are hidden by those that are written again.
        self._writer = writer(str(directory / "tensorboard"), purge_step=resumed_step + 1 if resumed_step else None)
        # Texts are shown as Markdown, in which four spaces begin what is shown as it is.
        lines = json.dumps(settings, indent=1, default=str).splitlines()
        self._writer.add_text("settings", "\n".join(f"    {line}" for line in lines), resumed_step)
        self._writer.flush()

    def log(self, record: StepRecord) -> None:
        for name, value in record.known().items():
            self._writer.add_scalar(name, value, record.step)
        self._writer.flush()

    def text(self, step: int, text: str) -> None:
        self._writer.add_text("sample", "\n".join(f"    {line}" for line in text.splitlines()), step)

    def picture(self, step: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image("training_curves", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class Trackers:
    """All trackers of a run, each of which may fail without harm to the others or to the run."""

    def __init__(self, trackers: list[Tracker], say: Callable[[str], None]) -> None:
        self._trackers, self._say = trackers, say

    @classmethod
    def open(
        cls,
        config: TrainingConfig,
        settings: Mapping[str, Any],
        directory: Path,
        *,
        resumed_step: int,
        identifiers: Mapping[str, str],
        say: Callable[[str], None],
    ) -> Trackers:
        """Open the trackers that are asked for.

        Args:
            config: says which.
            settings: everything worth recording about the run.
            directory: checkpoint folder.
            resumed_step: step that the run goes on from, 0 for a new one.
            identifiers: what `identifiers` returned in the run that is resumed.
            say: prints a line.

        Raises:
            TrackerError: a package is missing.
        """
        makers: list[tuple[str, Callable[[], Tracker]]] = []
        if config.use_wandb:
            known = identifiers.get(WandbTracker.name)
            makers.append((WandbTracker.name, lambda: WandbTracker(config, settings, directory, known, say)))
        if config.use_tensorboard:
            makers.append((TensorBoardTracker.name, lambda: TensorBoardTracker(directory, settings, resumed_step)))
        trackers = []
        for name, make in makers:
            try:
                trackers.append(make())
            except TrackerError:
                raise
            except Exception as error:  # noqa: BLE001 - their packages raise anything; the run must not depend on it
                say(f"{name} could not start and is switched off: {first_line(error)}")
        return cls(trackers, say)

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                action(tracker)
            except Exception as error:  # noqa: BLE001 - see `open`
                self._trackers.remove(tracker)
                self._say(f"{tracker.name} failed and is switched off, training goes on: {first_line(error)}")

    def log(self, record: StepRecord) -> None:
        self._each(lambda tracker: tracker.log(record))

    def text(self, step: int, text: str) -> None:
        self._each(lambda tracker: tracker.text(step, text))

    def picture(self, step: int, path: Path) -> None:
        self._each(lambda tracker: tracker.picture(step, path))

    def identifiers(self) -> dict[str, str]:
        """Names of the trackers and what they need to go on with this run."""
        known: dict[str, str] = {}

        def ask(tracker: Tracker) -> None:
            if identifier := tracker.identifier():
                known[tracker.name] = identifier

        self._each(ask)
        return known

    def close(self, *, failed: bool = False) -> None:
        """Finish sending; `failed` if an error has ended the run."""
        self._each(lambda tracker: tracker.close(failed=failed))
