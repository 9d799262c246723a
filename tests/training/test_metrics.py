"""The record of a run."""

from __future__ import annotations

import json
import math

import pytest

from gpt_oss_stories.training.metrics import (
    MetricsError,
    MetricsFile,
    StepRecord,
    peak_memory_bytes,
    read_metrics,
    series,
)


def record(step, **values):
    return StepRecord(step=step, tokens_seen=step * 10, **values)


def test_unknown_is_null_and_never_zero():
    row = json.loads(record(1).to_line())
    assert row["schema"] == 1
    assert row["loss_nats"] is None
    assert row["validation_loss_nats"] is None
    assert row["peak_memory_bytes"] is None
    assert 0 not in [value for name, value in row.items() if not isinstance(value, list)]


def test_numbers_that_are_not_finite_become_null():
    row = json.loads(record(1, loss_nats=math.nan, grad_norm=math.inf, multi_token_loss_nats=(1.0, math.nan)).to_line())
    assert row["loss_nats"] is None
    assert row["grad_norm"] is None
    assert row["multi_token_loss_nats"] == [1.0, None]


def test_what_is_written_is_read(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", resumed_step=0)
    file.write(record(1, loss_nats=2.5))
    file.write(record(2))
    file.write(record(3, loss_nats=2.0, multi_token_loss_nats=(3.0,)))
    file.close()
    rows = read_metrics(file.path)
    assert series(rows, "loss_nats") == ([1, 3], [2.5, 2.0])
    assert rows[2]["multi_token_loss_nats"] == [3.0]


def test_resuming_drops_later_lines_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, resumed_step=0)
    for step in range(1, 6):
        file.write(record(step, loss_nats=float(step)))
    file.close()
    path.write_text(path.read_text() + '{"schema":1,"st')
    file = MetricsFile(path, resumed_step=3)
    assert file.lines == 3
    file.write(record(4, loss_nats=40.0))
    file.close()
    assert series(read_metrics(path), "loss_nats") == ([1, 2, 3, 4], [1.0, 2.0, 3.0, 40.0])


def test_what_is_found_out_later_about_the_last_step_goes_into_its_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, resumed_step=0)
    for step in (1, 2):
        file.write(record(step, loss_nats=float(step), multi_token_loss_nats=(4.0,)))
    file.write(record(2, validation_loss_nats=7.0))
    assert file.lines == 2
    file.close()
    file = MetricsFile(path, resumed_step=2)
    file.write(record(2, validation_loss_nats=8.0))
    file.write(record(3))
    file.close()
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[1] == json.loads(
        record(2, loss_nats=2.0, multi_token_loss_nats=(4.0,), validation_loss_nats=8.0).to_line()
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('garbage\n{"step":1}\n', "line 1: not JSON"),
        ('{"loss":1}\n', "line 1: has no step"),
        ('{"step":1,"schema":99}\n', "schema 99 is newer"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(MetricsError, match=message):
        read_metrics(path)
    assert path.read_text() == content


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n\xff\n')
    with pytest.raises(MetricsError, match="cannot be read"):
        MetricsFile(path, resumed_step=1)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(MetricsError, match="is not there"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_trackers_get_flat_known_numbers():
    known = record(7, loss_nats=1.5, multi_token_loss_nats=(2.0, 3.0)).known()
    assert known == {
        "tokens_seen": 70,
        "loss_nats": 1.5,
        "multi_token_loss_nats.2": 2.0,
        "multi_token_loss_nats.3": 3.0,
    }


def test_peak_memory_is_in_bytes():
    measured = peak_memory_bytes("cpu")
    assert measured is not None
    assert 50 * 2**20 < measured < 2**40
