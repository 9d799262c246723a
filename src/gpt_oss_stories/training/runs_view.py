"""Runs as tables, and their curves in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..files import atomic_write
from .curves import Curves
from .display import duration
from .metrics import METRICS_FILE, MetricsError
from .plots import INK, MARKED, absent, curve, legend, style
from .runs import RunsError, RunSummary, differences

COLORS = ("#2f6fb0", "#d9622b", "#3a9a73", "#8a63b5", "#b0852f", "#a3476b", "#4c8f9e", "#6b7a88")

AXES = {"step": "step", "time": "minutes of training", "tokens": "million tokens"}
"""What curves can be drawn over, and its name."""


def runs_table(runs: Sequence[RunSummary]) -> Table:
    """One line for each run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("run", "started"):
        table.add_column(heading, no_wrap=True)
    for heading in ("parameters", "steps", "tokens", "best loss", "bits/byte", "right", "tokens/s", "took"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for run in runs:
        table.add_row(
            _plain(run.path + (f" ({run.name})" if run.name else "")),
            _plain("-" if run.started_at is None else run.started_at[:16].replace("T", " ")),
            *(Text(text) for text in _figures(run)),
            _plain(run.status or ("damaged" if run.problem else "-")),
        )
    return table


def _figures(run: RunSummary) -> tuple[str, ...]:
    accuracy = run.validation_accuracy
    return (
        _short(run.parameters),
        "-" if run.steps is None else f"{run.steps:,}",
        _short(run.tokens_seen),
        _number(run.validation_loss_nats, 4),
        _number(run.validation_bits_per_byte, 4),
        "-" if accuracy is None else f"{accuracy:.1%}",
        _number(run.tokens_per_second, 0),
        "-" if run.training_seconds is None else duration(run.training_seconds),
    )


def comparison_table(a: RunSummary, b: RunSummary) -> Table:
    """The settings in which two runs differ, and how both went."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for run in (a, b):
        table.add_column(_plain(run.path), justify="right")
    for name, left, right in differences(a, b):
        table.add_row(_plain(name), _plain(_shown(left)), _plain(_shown(right)))
    table.add_section()
    names = ("parameters", "steps", "tokens", "best validation loss", "best bits per byte", "right tokens", "tokens/s",
             "time")  # fmt: skip
    for name, left, right in zip(names, _figures(a), _figures(b), strict=True):
        table.add_row(name, left, right)
    for name, left, right in (("training loss", a.loss_nats, b.loss_nats),):
        table.add_row(name, _number(left, 4), _number(right, 4))
    table.add_row("started", _plain(a.started_at or "-"), _plain(b.started_at or "-"))
    table.add_row("status", a.status or "-", b.status or "-")
    return table


def _plain(text: str) -> Text:
    """Text of a file or folder, without what would steer a terminal."""
    return Text("".join(character if character.isprintable() else "?" for character in text))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:,.{decimals}f}"


def _short(count: int | None) -> str:
    """A count with three digits and a letter."""
    if count is None:
        return "-"
    value, unit = float(count), ""
    for larger in ("k", "M", "B", "T"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}{unit}" if unit else str(count)


def plot_runs(runs: Sequence[RunSummary], picture: str | Path, *, by: str = "step") -> tuple[Path, list[str]]:
    """Draw validation and training losses of several runs.

    Args:
        runs: which; those whose record cannot be read are left out.
        picture: the PNG file to write; its folder is made.
        by: one of `AXES`.

    Returns:
        The picture, and a line for each run that is not in it.

    Raises:
        RunsError: none of them can be drawn.
        FileWriteError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found, left_out = [], []
    for run in runs:
        try:
            found.append((run, Curves(Path(run.path) / METRICS_FILE)))
        except MetricsError as error:
            left_out.append(str(error))
    if not found:
        raise RunsError(f"nothing to draw: {'; '.join(left_out)}")
    figure = Figure(figsize=(12, 10), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    plots: Any = figure.subplots(2, 1)
    for axes, title, name in (
        (plots[0], "Loss on held-out stories", "validation_loss_nats"),
        (plots[1], "Loss in training, running mean", "loss_nats"),
    ):
        style(axes, title, "nats per token", AXES[by])
        ends: list[float] = []
        for number, (run, curves) in enumerate(found):
            places, values = _over(curves, name, by)
            if values:
                label = f"{run.name or run.path}: {min(values) if axes is plots[0] else values[-1]:.3f}"
                curve(axes, places, values, COLORS[number % len(COLORS)], label, smooth=axes is plots[1])
                ends += [max(values[len(values) // 10 :]), min(values)]
        if not ends:
            absent(axes, "not recorded")
            continue
        if len(found) > 1 or len(ends) > MARKED:
            low, high = min(ends), max(ends)
            axes.set_ylim(low - 0.05 * (high - low) - 0.01, high + 0.05 * (high - low) + 0.01)
        legend(axes)
    figure.suptitle(f"{len(found)} runs" if len(found) > 1 else found[0][0].path, color=INK, fontsize=14, weight="bold")
    with atomic_write(picture) as file:
        figure.savefig(file, format="png")
    return Path(picture), left_out


def _over(curves: Curves, name: str, by: str) -> tuple[list[float], list[float]]:
    """A field over steps, minutes or millions of tokens; records that do not know these are left out."""
    steps, values = curves[name]
    if by == "step":
        return list(steps), list(values)
    source, unit = {"time": ("training_seconds", 60.0), "tokens": ("tokens_seen", 1e6)}[by]
    places = dict(zip(*curves[source], strict=True))
    known = [(places[step] / unit, value) for step, value in zip(steps, values, strict=True) if step in places]
    return [place for place, _ in known], [value for _, value in known]
