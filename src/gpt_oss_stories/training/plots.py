"""Training curves as a picture, from `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_write
from .metrics import MetricsError, read_metrics, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#22303c", "#6b7a88", "#e4e9ee"
TRAIN, HELD_OUT, EXTRA, OTHER = "#2f6fb0", "#d9622b", "#3a9a73", "#8a63b5"


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and the ones before it, `window` of them at the most."""
    result, total = [], 0.0
    for index, value in enumerate(values):
        total += value
        if index >= window:
            total -= values[index - window]
        result.append(total / min(index + 1, window))
    return result


def plot_training_curves(metrics: str | Path, picture: str | Path) -> Path:
    """Draw loss, learning rate, gradient norm, expert load and speed of a run.

    Args:
        metrics: a run's `metrics.jsonl`.
        picture: the PNG file to write; its folder is made.

    Raises:
        MetricsError: the file is missing, is not a metrics file, or has no steps yet.
        FileWriteError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    if not rows:
        raise MetricsError(f"{metrics} has no steps yet; there is nothing to draw")
    figure = Figure(figsize=(12, 8.2), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, height_ratios=[1.7, 1, 1])
    _loss(figure.add_subplot(grid[0, :]), rows)
    _learning_rates(figure.add_subplot(grid[1, 0]), rows)
    _gradient(figure.add_subplot(grid[1, 1]), rows)
    _load(figure.add_subplot(grid[2, 0]), rows)
    _speed(figure.add_subplot(grid[2, 1]), rows)
    last = rows[-1]
    figure.suptitle(
        f"Training curves: {last['step']:,} steps, {last['tokens_seen']:,} tokens",
        color=INK,
        fontsize=14,
        weight="bold",
    )
    with atomic_write(picture) as file:
        figure.savefig(file, format="png")
    return Path(picture)


def _style(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold")
    axes.set_ylabel(unit, fontsize=9, color=MUTED)
    axes.set_xlabel("step", fontsize=9, color=MUTED)
    axes.tick_params(labelsize=8.5, colors=MUTED)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _absent(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=10)


def _loss(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    _style(axes, "Loss of the next token", "nats per token")
    steps, values = series(rows, "loss_nats")
    if steps:
        window = max(1, len(values) // 50)
        if window > 1:
            axes.plot(steps, values, color=TRAIN, alpha=0.22, linewidth=1)
        axes.plot(steps, smoothed(values, window), color=TRAIN, linewidth=1.8, label=f"training ({values[-1]:.3f})")
    held_steps, held = series(rows, "validation_loss_nats")
    if held_steps:
        best = min(range(len(held)), key=held.__getitem__)
        _, bits = series(rows, "validation_bits_per_byte")
        note = f", {min(bits):.3f} bits per byte" if bits else ""
        label = f"held-out stories (best {held[best]:.3f}{note})"
        axes.plot(held_steps, held, color=HELD_OUT, linewidth=1.8, marker="o", markersize=4, label=label)
        axes.plot(
            held_steps[best], held[best], "o", color=HELD_OUT, markersize=9, markerfacecolor="white", markeredgewidth=2
        )
    depth_values = [row.get("multi_token_loss_nats") or [] for row in rows]
    for depth in range(max(map(len, depth_values))):
        known = [(row["step"], v[depth]) for row, v in zip(rows, depth_values, strict=True) if len(v) > depth]
        known = [(step, value) for step, value in known if value is not None]
        if known:
            shown = smoothed([value for _, value in known], max(1, len(known) // 50))
            axes.plot([s for s, _ in known], shown, color=EXTRA, linewidth=1.2, alpha=0.8 - 0.1 * depth,
                      label=f"token {depth + 2} ahead")  # fmt: skip
    if values:
        # The first steps are several times higher than all that follows; the curve's end is what one wants to read.
        shown = values[len(values) // 20 :] + held
        low, high = min(shown), max(shown)
        axes.set_ylim(max(0.0, low - 0.06 * (high - low) - 0.02), high + 0.06 * (high - low) + 0.02)
    if steps or held_steps:
        axes.legend(frameon=False, fontsize=9.5, labelcolor=INK)


def _learning_rates(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    _style(axes, "Learning rate", "")
    curves = [("AdamW", TRAIN, *series(rows, "learning_rate")), ("Muon", OTHER, *series(rows, "matrix_learning_rate"))]
    if not any(steps for _, _, steps, _ in curves):
        _absent(axes, "not recorded")
        return
    for label, color, steps, values in curves:
        if steps:
            axes.plot(steps, values, color=color, linewidth=1.6, label=label)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def _gradient(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    _style(axes, "Gradient norm before clipping", "")
    steps, values = series(rows, "grad_norm")
    if not steps:
        _absent(axes, "not recorded")
        return
    axes.plot(steps, values, color=EXTRA, alpha=0.3, linewidth=0.9)
    axes.plot(steps, smoothed(values, max(1, len(values) // 40)), color=EXTRA, linewidth=1.6)
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _load(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    _style(axes, "Expert load, relative to even", "")
    steps, busiest = series(rows, "expert_load_max_over_mean")
    if not steps:
        _absent(axes, "one expert: no routing")
        return
    least_steps, least = series(rows, "expert_load_min_over_mean")
    axes.plot(steps, busiest, color=HELD_OUT, linewidth=1.4, label="busiest expert of any layer")
    axes.plot(least_steps, least, color=TRAIN, linewidth=1.4, label="idlest")
    axes.axhline(1.0, color=MUTED, linewidth=0.9, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, ncols=2)


def _speed(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    _style(axes, "Speed", "tokens per second")
    steps, values = series(rows, "tokens_per_second")
    if not steps:
        _absent(axes, "not recorded")
        return
    axes.plot(steps, values, color=OTHER, alpha=0.3, linewidth=0.9)
    axes.plot(steps, smoothed(values, max(1, len(values) // 40)), color=OTHER, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
