"""What a person sees while a model trains: a live line with progress on a terminal, plain lines anywhere else."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .metrics import StepRecord

PLAIN_SECONDS = 10.0
"""Seconds between lines where there is no terminal."""

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Values as a row of small bars, the lowest one lowest; at most `width` of them, means of equal runs of values."""
    if not values:
        return ""
    if len(values) > width:
        bounds = [index * len(values) // width for index in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[min(len(_BLOCKS) - 1, int((value - low) / span * len(_BLOCKS)))] for value in values)


def duration(seconds: float) -> str:
    """Seconds as 4s, 3m 05s or 2h 07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


STAGES = {
    "tell": "cleaning and tokenizing stories",
    "exact": "comparing stories",
    "pairs": "finding near copies",
    "clusters": "joining near copies",
    "extremes": "splitting",
    "count": "counting tokens",
    "vocabulary": "building the vocabulary",
    "number": "numbering tokens",
    "finish": "writing shards and lists",
}
"""What the stages of a preparation are called for people; others say it themselves."""


class PreparationDisplay:
    """Shows how far the preparation of stories is: a bar on a terminal, a line for each stage elsewhere."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._stages: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._console is not None and self._console.is_terminal:
            columns = (
                TextColumn("[bold green]{task.description}"),
                BarColumn(30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bars = Progress(*columns, console=self._console, transient=True)
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Show a stage.

        Args:
            stage: what is being done.
            done: how much of it is done.
            total: how much there is, None if not known.
        """
        if stage not in self._stages:
            self._stages[stage] = TaskID(len(self._stages))
            if self._bars is not None:
                self._stages[stage] = self._bars.add_task(STAGES.get(stage, stage), total=total)
            elif self._console is not None:
                self._console.print(Text(f"{STAGES.get(stage, stage)} ..."))
        if self._bars is not None:
            self._bars.update(self._stages[stage], completed=done, total=total)


class TrainingDisplay:
    """Shows a run's progress; a context manager. A console that is None shows nothing."""

    def __init__(self, console: Console | None, max_iters: int) -> None:
        self._console, self._max_iters = console, max_iters
        self._live: Live | None = None
        self._losses: deque[float] = deque(maxlen=480)
        self._record: StepRecord | None = None
        self._validation: float | None = None
        self._share = 0.0
        self._remaining: float | None = None
        self._activity = ""
        self._last_plain: float | None = None

    def __enter__(self) -> Self:
        if self._console is not None and self._console.is_terminal:
            self._live = Live(self._render(), console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._render())
            self._live.stop()
            self._live = None

    def line(self, text: str, style: str = "") -> None:
        """Print a line that stays, above the live display."""
        if self._console is not None:
            self._console.print(Text(text, style=style), soft_wrap=self._live is None)

    def activity(self, text: str) -> None:
        """Say what is done besides training (saving, evaluating); empty for nothing."""
        self._activity = text
        if self._live is not None:
            self._live.update(self._render(), refresh=True)

    def step(self, record: StepRecord, *, share: float, remaining_seconds: float | None) -> None:
        """Show a step.

        Args:
            record: what is known about it.
            share: part of the run that is done, 0 to 1.
            remaining_seconds: estimate of what is left, None if not known yet.
        """
        self._record, self._share, self._remaining = record, share, remaining_seconds
        if record.loss_nats is not None:
            self._losses.append(record.loss_nats)
        if record.validation_loss_nats is not None:
            self._validation = record.validation_loss_nats
        if self._live is not None:
            self._live.update(self._render())
        elif self._console is not None and self._is_time_for_a_line():
            self._console.print(Text("  ".join(f"{name} {value}" for name, value in self._facts())), soft_wrap=True)

    def _is_time_for_a_line(self) -> bool:
        now = time.monotonic()
        # A clock that went back would keep lines away until it is where it was.
        if self._last_plain is not None and 0 <= now - self._last_plain < PLAIN_SECONDS:
            return False
        self._last_plain = now
        return True

    def _facts(self) -> list[tuple[str, str]]:
        record = self._record
        if record is None:
            return [("step", f"0/{self._max_iters:,}")]
        facts = [("step", f"{record.step:,}/{self._max_iters:,}")]
        if record.loss_nats is not None:
            facts.append(("loss", f"{record.loss_nats:.3f}"))
        if record.bits_per_byte is not None:
            facts.append(("bits/byte", f"{record.bits_per_byte:.3f}"))
        if self._validation is not None:
            facts.append(("validation", f"{self._validation:.3f}"))
        if record.learning_rate is not None:
            facts.append(("lr", f"{record.learning_rate:.2e}"))
        if record.grad_norm is not None:
            facts.append(("gradient", f"{record.grad_norm:.2f}"))
        if record.tokens_per_second is not None:
            facts.append(("tokens/s", f"{record.tokens_per_second:,.0f}"))
        if record.model_flops_utilization is not None:
            facts.append(("of the peak", f"{record.model_flops_utilization:.0%}"))
        if record.skipped_steps:
            facts.append(("skipped", f"{record.skipped_steps:,}"))
        if self._remaining is not None:
            facts.append(("left", duration(self._remaining)))
        return facts

    def _render(self) -> Group:
        top = Table.grid(padding=(0, 2))
        cells: list[Text | ProgressBar] = [
            Text(self._activity or "training", style="bold green"),
            ProgressBar(total=1.0, completed=self._share, width=30),
            Text(f"{100 * self._share:3.0f}%", style="bold"),
        ]
        if self._losses:
            cells.append(Text(sparkline(self._losses), style="cyan"))
        top.add_row(*cells)
        below = Text()
        for name, value in self._facts():
            below.append(f"{name} ", style="dim")
            below.append(f"{value}   ")
        return Group(top, below)


class Speaker:
    """Prints lines that stay; above the live display while there is one. A console that is None shows nothing."""

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.display: TrainingDisplay | None = None

    def __call__(self, text: str, style: str = "") -> None:
        if self.display is not None:
            self.display.line(text, style)
        elif self.console is not None:
            self.console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)
