"""Training curves as a picture, from `metrics.jsonl`.

A long run has more records than a picture has columns. Curves are then drawn from groups of records: the lowest and the
highest value of each as a pale line, so that no peak is lost, and the running mean as a strong one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_write
from .curves import Curves
from .timing import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#22303c", "#6b7a88", "#e4e9ee"
TRAIN, HELD_OUT, EXTRA, OTHER = "#2f6fb0", "#d9622b", "#3a9a73", "#8a63b5"
DEPTHS = (HELD_OUT, EXTRA, OTHER, "#b0852f", "#5b7f95", "#a3476b", "#4c8f9e", "#7b7b3a")
"""Colours of the next token, the one after it, and so on."""

PART_COLORS = dict(zip(PARTS, ("#c9a227", TRAIN, "#6fa8d6", EXTRA, HELD_OUT, OTHER), strict=True))
REST = "#d5dbe1"

GROUPS = 800
"""Groups of records that a curve is drawn from, at the most."""

BARS = 48
"""The same for stacked bars."""

MARKED = 12
"""Up to this many points are marked, so that a single one can be seen."""

WRITTEN_CELLS = 80
"""Up to this many cells of a map have their number written into them."""


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and some before it: a quarter of all so far, so that a steep beginning stays one, and
    `window` at the most."""
    sums = list(itertools.accumulate(values, initial=0.0))
    result = []
    for end in range(1, len(sums)):
        width = min(window, 1 + end // 4)
        result.append((sums[end] - sums[end - width]) / width)
    return result


def groups(count: int, most: int) -> list[slice]:
    """Divide a number of records into at most `most` even groups, in order."""
    bounds = [index * count // min(most, count) for index in range(min(most, count) + 1)] if count else [0]
    return [slice(begin, end) for begin, end in itertools.pairwise(bounds)]


def plot_training_curves(metrics: str | Path, picture: str | Path) -> Path:
    """Draw what a run's record tells: losses, rates, gradient, speed, experts, accuracy, time and memory.

    Args:
        metrics: a run's `metrics.jsonl`.
        picture: the PNG file to write; its folder is made.

    Raises:
        MetricsError: the file is missing, is not a metrics file, or has no steps yet.
        FileWriteError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = Curves(metrics)
    figure = Figure(figsize=(15, 14), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    # Each row is laid out by itself, so that what stands beside a plot narrows only its own row.
    shelves: Any = figure.subfigures(4, 1, height_ratios=[1.5, 1, 1.1, 1])
    for shelf, painters, widths in zip(
        shelves,
        ((_loss,), (_learning_rates, _gradient, _speed), (_load, _entropy, _accuracy), (_times, _memory)),
        ((1,), (1, 1, 1), (1.1, 1, 1), (1.9, 1)),
        strict=True,
    ):
        plots = shelf.subplots(1, len(painters), width_ratios=widths, squeeze=False)[0]
        for axes, paint in zip(plots, painters, strict=True):
            paint(axes, run)
    steps, tokens = run.last["step"], run["tokens_seen"][1]
    title = f"Training: {steps:,} step{'' if steps == 1 else 's'}" + (f", {tokens[-1]:,.0f} tokens" if tokens else "")
    figure.suptitle(title, color=INK, fontsize=15, weight="bold")
    with atomic_write(picture) as file:
        figure.savefig(file, format="png")
    return Path(picture)


def style(axes: Axes, title: str, unit: str, across: str = "step") -> None:
    """Give an empty plot the look that all have."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11.5, color=INK, weight="bold")
    axes.set_ylabel(unit, fontsize=9.5, color=MUTED)
    axes.set_xlabel(across, fontsize=9.5, color=MUTED)
    axes.tick_params(labelsize=9, colors=MUTED)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=across == "step", min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if across == "step" else f"{value:,.6g}")


def absent(axes: Axes, why: str) -> None:
    """Say in place of a curve why there is none."""
    axes.text(0.5, 0.5, why, ha="center", va="center", color=MUTED, fontsize=10, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("")
    axes.set_ylabel("")
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def curve(
    axes: Axes,
    steps: Sequence[float],
    values: Sequence[float],
    color: str,
    label: str | None = None,
    *,
    smooth: bool = True,
    width: float = 1.8,
) -> None:
    """Draw values over steps.

    Args:
        axes: where.
        steps, values: the points, in order.
        color, label, width: of the strong line.
        smooth: the strong line is a running mean, with the values themselves as a pale one; else it is the values.
    """
    if not steps:
        return
    marker = "o" if len(steps) <= MARKED else ""
    parts = groups(len(steps), GROUPS)
    ends = [part.stop - 1 for part in parts]
    if not smooth:
        strong = [sum(values[part]) / (part.stop - part.start) for part in parts]
    else:
        means = smoothed(values, max(1, len(values) // 40))
        strong = [means[end] for end in ends]
        pale_steps, pale = [], []
        for part in parts:
            low, high = min(values[part]), max(values[part])
            pale += [low, high] if high > low else [low]
            pale_steps += [steps[part.start], steps[part.stop - 1]] if high > low else [steps[part.start]]
        axes.plot(pale_steps, pale, color=color, alpha=0.28, linewidth=0.9)
    axes.plot([steps[end] for end in ends], strong, color=color, linewidth=width, label=label, marker=marker,
              markersize=4)  # fmt: skip


def legend(axes: Axes, **options: Any) -> None:
    axes.legend(**{"frameon": False, "fontsize": 9, "labelcolor": INK, **options})


def _loss(axes: Axes, run: Curves) -> None:
    style(axes, "Loss", "nats per token")
    steps, values = run["loss_nats"]
    held_steps, held = run["validation_loss_nats"]
    if not steps and not held:
        absent(axes, "not recorded")
        return
    if steps:
        _, bits = run["bits_per_byte"]
        note = f" ({smoothed(bits, max(1, len(bits) // 40))[-1]:.3f} bits per byte at the end)" if bits else ""
        curve(axes, steps, values, TRAIN, f"training stories{note}")
    if held:
        best = min(range(len(held)), key=held.__getitem__)
        _, bits = run["validation_bits_per_byte"]
        note = f", {min(bits):.3f} bits per byte" if bits else ""
        curve(axes, held_steps, held, HELD_OUT, f"held-out stories (best {held[best]:.3f}{note})", smooth=False)
        axes.plot(held_steps[best], held[best], "o", color=HELD_OUT, markersize=10, markerfacecolor="white",
                  markeredgewidth=2.2, zorder=5)  # fmt: skip
    shown = [*values[len(values) // 20 :], *held]
    for depth, (depth_steps, depth_values) in enumerate(run.places("multi_token_loss_nats"), 2):
        color = DEPTHS[(depth - 1) % len(DEPTHS)]
        curve(axes, depth_steps, depth_values, color, f"token {depth} ahead, training stories", width=1.3)
        shown += depth_values[len(depth_values) // 20 :]
    if len(shown) > 1:
        # The first steps are several times higher than all that follows; the curve's end is what one wants to read.
        low, high = min(shown), max(shown)
        axes.set_ylim(max(0.0, low - 0.06 * (high - low) - 0.02), high + 0.06 * (high - low) + 0.02)
    legend(axes, fontsize=10.5)


def _learning_rates(axes: Axes, run: Curves) -> None:
    style(axes, "Learning rate, relative to its highest", "")
    curves = [
        ("AdamW", TRAIN, *run["learning_rate"]),
        ("embedding", EXTRA, *run["embedding_learning_rate"]),
        ("Muon", OTHER, *run["matrix_learning_rate"]),
    ]
    curves = [entry for entry in curves if entry[2]]
    if not curves:
        absent(axes, "not recorded")
        return
    # All rates follow one schedule: each is told by its highest value, and drawn once.
    names = [f"{label}: highest {max(values):.2g}" for label, _, _, values in curves]
    _, color, steps, values = curves[0]
    highest = max(values) or 1.0
    curve(axes, steps, [value / highest for value in values], color, "\n".join(names), smooth=False)
    axes.set_ylim(0, 1.08)
    legend(axes, loc="best")


def _gradient(axes: Axes, run: Curves) -> None:
    style(axes, "Gradient norm before clipping", "")
    steps, values = run["grad_norm"]
    if not steps:
        absent(axes, "not recorded")
        return
    curve(axes, steps, values, EXTRA)
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if skipped := run.last.get("skipped_steps"):
        axes.set_title(f"{skipped:,} steps skipped", loc="right", fontsize=9.5, color=HELD_OUT)


def _speed(axes: Axes, run: Curves) -> None:
    style(axes, "Speed", "tokens per second")
    steps, values = run["tokens_per_second"]
    if not steps:
        absent(axes, "not recorded")
        return
    curve(axes, steps, values, OTHER)
    axes.set_ylim(0, 1.08 * max(values))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _, shares = run["model_flops_utilization"]
    if shares:
        text = f"{sum(shares) / len(shares):.0%} of the device's peak"
        axes.set_title(text, loc="right", fontsize=9.5, color=MUTED)


def _load(axes: Axes, run: Curves) -> None:
    """A map of the last record's load; of an older file, which lacks it, the busiest and the idlest expert."""
    import numpy as np
    from matplotlib.colors import TwoSlopeNorm

    if run.load is None:
        _extremes(axes, run)
        return
    step, shares = run.load
    load = np.array(shares) * len(shares[0])
    layers, experts = load.shape
    style(axes, f"Expert load at step {step:,}; 1 is even", "layer", "expert")
    axes.grid(False)
    norm = TwoSlopeNorm(vmin=0.0, vcenter=1.0, vmax=max(2.0, float(load.max())))
    image = axes.imshow(load, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02).ax.tick_params(labelsize=8.5, colors=MUTED)
    modules = len(run.places("multi_token_loss_nats"))
    names = [str(layer + 1) if layer < layers - modules else f"+{layer - (layers - modules) + 1}"
             for layer in range(layers)]  # fmt: skip
    stride = max(1, -(-layers // 12))
    axes.set_yticks(range(0, layers, stride), names[::stride])
    stride = max(1, -(-experts // 16))
    axes.set_xticks(range(0, experts, stride), [str(expert + 1) for expert in range(0, experts, stride)])
    if load.size <= WRITTEN_CELLS:
        for (layer, expert), value in np.ndenumerate(load):
            color = "white" if abs(norm(value) - 0.5) > 0.32 else INK
            axes.text(expert, layer, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=color)


def _extremes(axes: Axes, run: Curves) -> None:
    style(axes, "Expert load, relative to even", "")
    steps, busiest = run["expert_load_max_over_mean"]
    if not steps:
        absent(axes, "one expert: no routing")
        return
    curve(axes, steps, busiest, HELD_OUT, "busiest expert of any layer")
    curve(axes, *run["expert_load_min_over_mean"], TRAIN, "idlest")
    axes.axhline(1.0, color=MUTED, linewidth=0.9, linestyle="--")
    axes.set_ylim(bottom=0)
    legend(axes, ncols=2)


def _entropy(axes: Axes, run: Curves) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    style(axes, "Entropy of the load; 1 is even", "")
    layers = run.places("expert_load_entropy")
    if not layers:
        absent(axes, "not recorded" if run["expert_load_max_over_mean"][0] else "one expert: no routing")
        return
    few = len(layers) <= 8
    for layer, (steps, values) in enumerate(layers):
        color = to_hex(colormaps["viridis"](0.05 + 0.85 * layer / max(1, len(layers) - 1)))
        label = str(layer + 1) if few or layer in (0, len(layers) - 1) else None
        curve(axes, steps, values, color, label, smooth=False, width=1.4)
    lowest = min(min(values) for _, values in layers)
    axes.set_ylim(min(0.98, lowest) - 0.05 * (1 - min(0.98, lowest)), 1 + 0.04 * (1 - min(0.98, lowest)))
    legend(axes, ncols=4, title="layer", title_fontsize=9, loc="best")


def _accuracy(axes: Axes, run: Curves) -> None:
    style(axes, "Accuracy on held-out stories", "likeliest token is right")
    first = run["validation_accuracy"]
    if not first[0]:
        absent(axes, "no evaluation yet")
        return
    depths = [first, *run.places("validation_multi_token_accuracy")]
    for depth, (steps, values) in enumerate(depths):
        name = "next token" if depth == 0 else f"token {depth + 1} ahead"
        curve(axes, steps, values, DEPTHS[depth % len(DEPTHS)], f"{name}: {values[-1]:.1%}", smooth=False)
    axes.set_ylim(0, max(0.01, 1.15 * max(max(values) for _, values in depths)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    legend(axes, loc="lower right")


def _times(axes: Axes, run: Curves) -> None:
    style(axes, "Where the time goes", "share of the time")
    steps, all_time = run["interval_seconds"]
    if not steps or not sum(all_time):
        absent(axes, "not recorded")
        return
    parts = groups(len(steps), BARS)
    begins = [0.0, *steps]
    left = [begins[part.start] for part in parts]
    widths = [max(steps[part.stop - 1] - begin, 1.0) for part, begin in zip(parts, left, strict=True)]
    times = [max(sum(all_time[part]), 1e-9) for part in parts]
    bottom, named = [0.0] * len(parts), 0.0
    for name in PARTS:
        values = run[f"{name}_seconds"][1]
        shares = [sum(values[part]) / time for part, time in zip(parts, times, strict=True)]
        share = sum(values) / sum(all_time)
        axes.bar(left, shares, widths, bottom, align="edge", color=PART_COLORS[name], label=f"{name} {share:.1%}",
                 linewidth=0)  # fmt: skip
        bottom, named = [a + b for a, b in zip(bottom, shares, strict=True)], named + share
    rest = [max(0.0, 1.0 - share) for share in bottom]
    axes.bar(left, rest, widths, bottom, align="edge", color=REST, label=f"other {max(0.0, 1 - named):.1%}",
             linewidth=0)  # fmt: skip
    axes.set_ylim(0, max(1.0, *bottom))
    axes.set_xlim(left[0], left[-1] + widths[-1])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(False)
    legend(axes, loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)


def _memory(axes: Axes, run: Curves) -> None:
    style(axes, "Memory", "GiB")
    drawn = []
    for name, label, color in (
        ("resident_memory_bytes", "process", TRAIN),
        ("peak_memory_bytes", "process, highest", OTHER),
        ("gpu_memory_bytes", "GPU", EXTRA),
        ("gpu_peak_memory_bytes", "GPU, highest", HELD_OUT),
    ):
        steps, values = run[name]
        if steps:
            drawn += [value / 2**30 for value in values]
            curve(axes, steps, [value / 2**30 for value in values], color, label, smooth=False)
    if not drawn:
        absent(axes, "not recorded")
        return
    axes.set_ylim(0, 1.3 * max(drawn))
    legend(axes, loc="upper right", ncols=2)
