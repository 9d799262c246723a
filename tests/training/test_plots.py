"""Training curves."""

from __future__ import annotations

import dataclasses
import json

import matplotlib.figure
import pytest

from gpt_oss_stories.training.metrics import MetricsError, MetricsFile, StepRecord
from gpt_oss_stories.training.plots import GROUPS, groups, plot_training_curves, smoothed


def write(path, records):
    file = MetricsFile(path, resumed_step=0)
    for record in records:
        file.write(record)
    file.close()


def full(step):
    return StepRecord(
        step=step,
        tokens_seen=step,
        loss_nats=5 / step,
        multi_token_loss_nats=(6 / step,),
        learning_rate=1e-3,
        matrix_learning_rate=0.02,
        grad_norm=1.0 / step,
        expert_load=((0.75, 0.25), (0.5, 0.5), (0.4, 0.6)),
        expert_load_entropy=(0.81, 1.0, 0.97),
        expert_load_max_over_mean=1.5,
        expert_load_min_over_mean=0.5,
        tokens_per_second=100.0,
        model_flops_utilization=0.4,
        skipped_steps=step // 50,
        interval_seconds=2.0,
        data_seconds=0.1,
        forward_seconds=0.5,
        backward_seconds=1.0,
        optimizer_seconds=0.1,
        evaluation_seconds=0.0,
        saving_seconds=0.0,
        resident_memory_bytes=2**30,
        peak_memory_bytes=2**31,
        gpu_memory_bytes=2**29,
        gpu_peak_memory_bytes=2**30,
        validation_accuracy=0.4 if step % 10 == 0 else None,
        validation_multi_token_accuracy=(0.3,) if step % 10 == 0 else (),
        validation_loss_nats=5.5 / step if step % 10 == 0 else None,
        validation_bits_per_byte=1.0,
    )


@pytest.mark.parametrize(
    "records",
    [
        [full(step) for step in range(1, 121)],
        [StepRecord(step=1, tokens_seen=1, loss_nats=3.0)],
        [StepRecord(step=0, tokens_seen=0, validation_loss_nats=3.0)],
        [StepRecord(step=1, tokens_seen=1)],
        [full(1)],
        [StepRecord(step=step, tokens_seen=step, loss_nats=1.0, expert_load_max_over_mean=2.0) for step in (1, 2)],
        [StepRecord(step=step, tokens_seen=step, interval_seconds=0.0, loss_nats=1.0) for step in (1, 2)],
        [dataclasses.replace(full(step), expert_load=((1 / 64,) * 64,) * 48) for step in (10, 20)],
    ],
    ids=[
        "everything",
        "one step",
        "validation only",
        "nothing known",
        "everything of one step",
        "version 1",
        "no time",
        "many layers",
    ],
)
def test_any_run_becomes_a_picture(tmp_path, records):
    write(tmp_path / "metrics.jsonl", records)
    picture = plot_training_curves(tmp_path / "metrics.jsonl", tmp_path / "plots" / "curves.png")
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) > 10_000
    assert [path.name for path in picture.parent.iterdir()] == ["curves.png"]


def test_an_empty_record_is_an_error(tmp_path):
    write(tmp_path / "metrics.jsonl", [])
    with pytest.raises(MetricsError, match="no steps"):
        plot_training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_smoothing_is_a_trailing_mean_that_begins_narrow():
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 3.0, 5.0, 6.0]
    values = [float(value) for value in range(1000)]
    means = smoothed(values, 25)
    assert means[-1] == pytest.approx(sum(values[-25:]) / 25)
    assert means[40] == pytest.approx(sum(values[30:41]) / 11)
    assert smoothed([], 5) == []


@pytest.mark.parametrize("count", [1, 2, 7, 48, 49, 1000])
def test_groups_cover_everything_once(count):
    parts = groups(count, 48)
    assert [place for part in parts for place in range(count)[part]] == list(range(count))
    assert len(parts) == min(count, 48)
    assert groups(0, 48) == []


def drawn(tmp_path, monkeypatch, records):
    """Titles of the plots, and for each its lines' labels and points."""
    found = {}

    def look(figure, *args, **kwargs):
        for axes in figure.get_axes():
            lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}
            found[axes.get_title(loc="left")] = lines
            found[axes.get_title(loc="left"), "texts"] = [text.get_text() for text in axes.texts]

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", look)
    write(tmp_path / "metrics.jsonl", records)
    plot_training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    return found


def test_the_curves_are_those_of_the_record(tmp_path, monkeypatch):
    found = drawn(tmp_path, monkeypatch, [full(step) for step in range(1, 31)])
    held = {label: points for label, points in found["Loss"].items() if label.startswith("held-out")}
    (label,) = held
    assert held[label] == [(10.0, 0.55), (20.0, 0.275), (30.0, pytest.approx(5.5 / 30))]
    assert f"best {5.5 / 30:.3f}" in label
    assert list(found["Accuracy on held-out stories"]) == ["next token: 40.0%", "token 2 ahead: 30.0%"]
    assert set(found["Entropy of the load; 1 is even"]) == {"1", "2", "3"}
    assert found["Expert load at step 30; 1 is even", "texts"] == ["1.50", "0.50", "1.00", "1.00", "0.80", "1.20"]


def test_a_dense_model_says_so(tmp_path, monkeypatch):
    found = drawn(tmp_path, monkeypatch, [StepRecord(step=step, tokens_seen=1, loss_nats=1.0) for step in (1, 2)])
    assert found["Expert load, relative to even", "texts"] == ["one expert: no routing"]
    assert found["Entropy of the load; 1 is even", "texts"] == ["one expert: no routing"]


def test_a_long_run_is_thinned_without_losing_a_peak(tmp_path, monkeypatch):
    steps = range(1, 6001)
    path = tmp_path / "metrics.jsonl"
    line = json.loads(full(7).to_line())
    with path.open("w") as file:
        for step in steps:
            file.write(json.dumps(line | {"step": step, "grad_norm": 99.0 if step == 3456 else 1.0}) + "\n")
    found = {}

    def look(figure, *args, **kwargs):
        for axes in figure.get_axes():
            found[axes.get_title(loc="left")] = [line.get_ydata() for line in axes.get_lines()]

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", look)
    plot_training_curves(path, tmp_path / "curves.png")
    assert max(max(values) for values in found["Gradient norm before clipping"]) == 99.0
    assert max(len(values) for lines in found.values() for values in lines) <= 2 * GROUPS
