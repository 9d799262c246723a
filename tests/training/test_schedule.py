"""The learning rate over a run."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss_stories.config import TrainingConfig
from gpt_oss_stories.training.schedule import Schedule, decay, run_share

KINDS = ("cosine", "linear", "constant", "warmdown")


def test_warmup_rises_in_equal_parts_and_reaches_the_peak():
    schedule = Schedule(kind="constant", max_iters=100, warmup_iters=4)
    assert [schedule.factor(step, 0.0) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_default_warmup_is_two_percent_of_the_steps():
    schedule = Schedule(kind="constant", max_iters=1000)
    assert schedule.factor(19, 0.0) < 1.0
    assert schedule.factor(20, 0.0) == 1.0


def test_a_time_limit_shortens_the_warmup():
    # 2% of the steps would be 2,000; in a run of 100 seconds the warm-up is over after 2 of them.
    schedule = Schedule(kind="constant", max_iters=100_000, max_seconds=100.0)
    assert schedule.factor(50, 1.0) == pytest.approx(0.5)
    assert schedule.factor(100, 2.0) == 1.0


def test_an_explicit_warmup_is_kept_under_a_time_limit():
    schedule = Schedule(kind="constant", max_iters=1000, max_seconds=10.0, warmup_iters=99)
    assert schedule.factor(49, 9.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("cosine", [1.0, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)), 0.55, 0.1]),
        ("linear", [1.0, 0.775, 0.55, 0.1]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("warmdown", [1.0, 1.0, 1.0, 0.1]),
    ],
)
def test_shapes_at_start_quarter_half_and_end(kind, values):
    found = [decay(kind, share, floor=0.1, warmdown_fraction=0.5) for share in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx(values)


def test_warmdown_falls_linearly_over_its_fraction():
    assert decay("warmdown", 0.8, floor=0.0, warmdown_fraction=0.4) == pytest.approx(0.5)


def test_decay_follows_the_larger_share_of_steps_and_time():
    assert run_share(10, 100, 5.0, None) == pytest.approx(0.1)
    assert run_share(10, 100, 80.0, 100.0) == pytest.approx(0.8)
    assert run_share(90, 100, 10.0, 100.0) == pytest.approx(0.9)
    assert run_share(0, 0, 0.0, None) == 1.0
    timed = Schedule(kind="linear", max_iters=10**9, max_seconds=60.0, floor=0.0)
    assert timed.factor(200, 60.0) == 0.0


@given(
    kind=st.sampled_from(KINDS),
    step=st.integers(0, 500),
    seconds=st.floats(0, 200),
    limit=st.none() | st.floats(1, 100),
    warmup=st.none() | st.integers(0, 600),
    fraction=st.floats(0.01, 1.0),
    floor=st.floats(0, 1),
)
def test_factor_stays_between_zero_and_one(kind, step, seconds, limit, warmup, fraction, floor):
    schedule = Schedule(
        kind=kind, max_iters=400, max_seconds=limit, warmup_iters=warmup, warmdown_fraction=fraction, floor=floor
    )
    assert 0.0 <= schedule.factor(step, seconds) <= 1.0 + 1e-12


@given(kind=st.sampled_from(KINDS), a=st.floats(0, 1), b=st.floats(0, 1), fraction=st.floats(0.01, 1.0))
def test_decay_never_rises(kind, a, b, fraction):
    early, late = sorted((a, b))
    first = decay(kind, early, floor=0.1, warmdown_fraction=fraction)
    assert decay(kind, late, floor=0.1, warmdown_fraction=fraction) <= first + 1e-12


def test_every_configurable_schedule_is_known():
    config = TrainingConfig()
    for kind in KINDS:
        assert Schedule.from_config(config.replace(learning_rate_schedule=kind)).factor(config.max_iters // 2, 0.0) > 0


STEPS = 40


def torch_rates(make):
    """Learning rates of the steps that torch's own scheduler gives, as shares of the first one."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(STEPS + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("kind", "twin"),
    [
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1)),
        ("linear", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, STEPS)),
        ("constant", lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
    ],
)
def test_decays_equal_those_of_torch(kind, twin):
    schedule = Schedule(kind=kind, max_iters=STEPS, warmup_iters=0, floor=0.1)
    assert [schedule.factor(step, 0.0) for step in range(STEPS + 1)] == pytest.approx(torch_rates(twin), rel=1e-9)


def test_cosine_is_equation_5_of_sgdr():
    """eta_min + (eta_max - eta_min) (1 + cos(pi T_cur / T_i)) / 2, arXiv 1608.03983."""
    schedule = Schedule(kind="cosine", max_iters=STEPS, warmup_iters=0, floor=0.25)
    expected = [0.25 + 0.5 * (1 - 0.25) * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS + 1)]
    assert [schedule.factor(step, 0.0) for step in range(STEPS + 1)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("warmup", "fraction", "floor"), [(0, 0.5, 0.0), (4, 0.25, 0.1), (7, 0.6, 0.0)])
def test_warmdown_is_warmup_stable_decay(warmup, fraction, floor):
    """Section 4 of arXiv 2404.06395 with a linear decay: up, flat up to the decay, then down to the end. Its warm-up
    counts from 1 here, so that the first step is not lost, and reaches the peak one step after its last."""
    schedule = Schedule(kind="warmdown", max_iters=STEPS, warmup_iters=warmup, warmdown_fraction=fraction, floor=floor)
    decay_begins = STEPS * (1 - fraction)
    for step in range(STEPS + 1):
        if step < warmup:
            expected = (step + 1) / (warmup + 1)
        elif step < decay_begins:
            expected = 1.0
        else:
            expected = 1.0 - (1.0 - floor) * (step - decay_begins) / (STEPS - decay_begins)
        assert schedule.factor(step, 0.0) == pytest.approx(expected, rel=1e-9, abs=1e-12), step
