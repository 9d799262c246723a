"""Training curves."""

from __future__ import annotations

import pytest

from gpt_oss_stories.training.metrics import MetricsError, MetricsFile, StepRecord
from gpt_oss_stories.training.plots import plot_training_curves, smoothed


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
        expert_load_max_over_mean=1.5,
        expert_load_min_over_mean=0.5,
        tokens_per_second=100.0,
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
    ],
    ids=["everything", "one step", "validation only", "nothing known"],
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


def test_smoothing_is_a_trailing_mean():
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
