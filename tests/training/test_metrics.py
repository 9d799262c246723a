"""The record of a run."""

from __future__ import annotations

import json
import math

import pytest
import torch

from gpt_oss_stories.training.curves import Curves
from gpt_oss_stories.training.metrics import (
    SCHEMA,
    MetricsError,
    MetricsFile,
    StepRecord,
    gpu_memory,
    process_memory,
    read_metrics,
)
from gpt_oss_stories.training.sums import StepCounts, StepSums, load_shares, relative_entropy
from support.records import series


def record(step, **values):
    return StepRecord(step=step, tokens_seen=step * 10, **values)


def test_unknown_is_null_and_never_zero():
    row = json.loads(record(1).to_line())
    assert row["schema"] == SCHEMA == 2
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
        ('{"step":1,"schema":"x"}\n', "schema x is newer"),
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
    known = record(
        7,
        loss_nats=1.5,
        multi_token_loss_nats=(2.0, math.nan),
        expert_load=((0.25, 0.75), (0.5, 0.5)),
        expert_load_entropy=(0.8, 1.0),
        interim=True,
        skipped_steps=0,
    ).known()
    assert known == {
        "tokens_seen": 70,
        "loss_nats": 1.5,
        "multi_token_loss_nats.2": 2.0,
        "expert_load/layer0.expert0": 0.25,
        "expert_load/layer0.expert1": 0.75,
        "expert_load/layer1.expert0": 0.5,
        "expert_load/layer1.expert1": 0.5,
        "expert_load_entropy/layer0": 0.8,
        "expert_load_entropy/layer1": 1.0,
        "skipped_steps": 0,
    }


VERSION_1 = (
    '{"schema":1,"step":1,"tokens_seen":2048,"training_seconds":0.1,"loss_nats":9.0,"multi_token_loss_nats":[],'
    '"balance_loss":1.1,"router_z_loss":3.0,"expert_load_max_over_mean":1.8,"expert_load_min_over_mean":0.3,'
    '"learning_rate":0.001,"matrix_learning_rate":null,"grad_norm":2.0,"loss_scale":null,"skipped_steps":null,'
    '"step_seconds":0.2,"tokens_per_second":9000.0,"peak_memory_bytes":7,"validation_loss_nats":null,'
    '"validation_bits_per_byte":null,"validation_multi_token_loss_nats":[]}\n'
)


def test_a_file_of_version_1_is_read_and_gone_on_with(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(VERSION_1)
    file = MetricsFile(path, resumed_step=1)
    file.write(record(2, loss_nats=8.0, bits_per_byte=2.0))
    file.close()
    assert path.read_text().startswith(VERSION_1)
    curves = Curves(path)
    assert [list(part) for part in curves["loss_nats"]] == [[1, 2], [9.0, 8.0]]
    assert [list(part) for part in curves["bits_per_byte"]] == [[2], [2.0]]
    assert curves.load is None


@pytest.mark.parametrize("keep", [True, False])
def test_a_line_that_was_written_because_the_run_stopped_makes_room_for_the_whole_one(tmp_path, keep):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, resumed_step=0)
    file.write(record(10, loss_nats=3.0))
    file.write(record(13, loss_nats=2.0, interim=True))
    file.close()
    file = MetricsFile(path, resumed_step=13, keep_interim=keep)
    assert file.last_step == (13 if keep else 10)
    assert file.lines == (2 if keep else 1)
    file.write(record(20, loss_nats=1.0))
    file.close()
    assert [row["step"] for row in read_metrics(path)] == ([10, 13, 20] if keep else [10, 20])


def test_curves_are_the_columns_of_the_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, resumed_step=0)
    file.write(record(1, loss_nats=3.0, expert_load=((0.5, 0.5),), expert_load_entropy=(1.0,)))
    file.write(record(2, expert_load=((0.1, 0.9),), multi_token_loss_nats=(4.0, math.nan)))
    file.write(record(3, loss_nats=2.0, multi_token_loss_nats=(3.5, 5.0)))
    file.close()
    curves = Curves(path)
    for name in ("loss_nats", "tokens_seen"):
        steps, values = series(read_metrics(path), name)
        assert (list(curves[name][0]), list(curves[name][1])) == (steps, values)
    assert curves.load == (2, [[0.1, 0.9]])
    assert [(list(a), list(b)) for a, b in curves.places("multi_token_loss_nats")] == [
        ([2, 3], [4.0, 3.5]),
        ([3], [5.0]),
    ]
    assert curves["never"] == ((), ())
    assert curves.places("never") == []
    assert curves.last["step"] == 3


def test_memory_is_in_bytes():
    now, most = process_memory()
    assert 50 * 2**20 < now <= most < 2**40
    assert gpu_memory(torch.device("cpu")) == (None, None)


def add(sums, losses, counts=((10.0,), 40.0), load=None, **facts):
    load = torch.tensor([[3.0, 1.0], [2.0, 2.0]]) if load is None else load
    facts = {"seconds": 2.0, "tokens": 16, "grad_norm": 0.5, "factor": 1.0, **facts}
    sums.add(losses, load, StepCounts(*counts), **facts)


def test_sums_are_means_over_steps_and_bits_over_all_bytes():
    sums = StepSums()
    add(sums, [3.0, 1.5, 0.1])
    add(sums, [1.0, 0.5, 0.3], ((30.0,), 200.0), torch.tensor([[1.0, 3.0], [0.0, 4.0]]), grad_norm=0.25, factor=0.5)
    assert sums.mean_losses() == pytest.approx([2.0, 1.0, 0.2])
    assert sums.bits_per_byte() == pytest.approx((3.0 * 10 + 1.0 * 30) / 240 / math.log(2))
    assert sums.load_shares().tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert (sums.steps, sums.seconds, sums.tokens, sums.targets) == (2, 4.0, 32, 40.0)
    assert (sums.grad_norm, sums.factor) == (0.25, 0.5)


def test_a_step_that_is_not_finite_is_in_no_mean_but_in_the_time():
    sums = StepSums()
    add(sums, [3.0, 1.0, 0.1])
    add(sums, [math.nan, 1.0, 0.1], load=torch.full((2, 2), 99.0), grad_norm=None)
    add(sums, [math.inf, 1.0, 0.1], seconds=-5.0)
    assert sums.mean_losses() == [3.0, 1.0, 0.1]
    assert (sums.steps, sums.finite_steps, sums.seconds) == (3, 1, 4.0)
    assert sums.load_shares().tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert sums.bits_per_byte() == pytest.approx(3.0 * 10 / 40 / math.log(2))


def test_sums_of_nothing_are_unknown():
    sums = StepSums()
    assert sums.bits_per_byte() is None
    assert sums.load_shares() is None
    add(sums, [1.0, 0.0, 0.0], ((10.0,), 40.0), torch.zeros(0, 1))
    assert sums.load_shares() is None


def test_sums_go_through_a_state_unchanged():
    sums, whole = StepSums(), StepSums()
    add(sums, [1 / 3, 0.1, 0.7])
    add(whole, [1 / 3, 0.1, 0.7])
    sums = StepSums.from_dict(json.loads(json.dumps(sums.to_dict())))
    for each in (sums, whole):
        add(each, [0.2, 1 / 7, 0.7], ((7.0,), 11.0))
    assert sums.to_dict() == whole.to_dict()
    assert StepSums.from_dict(StepSums().to_dict()) == StepSums()


def test_entropy_equals_its_definition():
    load = torch.tensor([[4.0, 4.0, 4.0, 4.0], [16.0, 0.0, 0.0, 0.0], [8.0, 4.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    shares = load_shares(load)
    for row, got in zip(shares.tolist(), relative_entropy(shares).tolist(), strict=True):
        assert got == pytest.approx(-sum(p * math.log(p) for p in row if p) / math.log(4))
    assert relative_entropy(shares)[:2].tolist() == pytest.approx([1.0, 0.0])
