"""Ending a run from outside: signals, a limit for the process, and clocks that cannot be believed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from gpt_oss_stories.training import clock, recorder
from gpt_oss_stories.training.checkpoint import read_state
from gpt_oss_stories.training.clock import Stopwatch
from gpt_oss_stories.training.display import Speaker
from gpt_oss_stories.training.metrics import read_metrics
from gpt_oss_stories.training.signals import HANDLED, Signals
from support.records import series
from support.trials import assert_same_weights


@pytest.mark.parametrize("number", HANDLED)
def test_a_signal_is_remembered(number):
    before = signal.getsignal(number)
    with Signals(Speaker(None)) as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number
    assert signal.getsignal(number) == before


def test_a_second_interrupt_is_obeyed_at_once():
    with Signals(Speaker(None)) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_what_slurm_sends_ends_a_run_that_can_be_gone_on_with(trial):
    def hook(model, vocabulary, step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    whole = trial("whole", max_iters=6, eval_interval=3)
    part = trial("parts", max_iters=6, eval_interval=3, hook=hook)
    assert (part.steps, part.complete, part.exit_code) == (3, False, 128 + signal.SIGUSR1)
    assert "SIGUSR1 received: saving" in trial.printed
    assert "the same command goes on" in trial.printed
    assert_same_weights(whole, trial("parts", max_iters=6, eval_interval=3))


class Clock:
    """In place of the module `time` in the program: each look finds the next of the given times, and then the last
    one plus a hundredth of a second for each further look."""

    def __init__(self, times=(0.0,)):
        self.times, self.now = list(times), 0.0

    def monotonic(self):
        self.now = self.times.pop(0) if self.times else self.now + 0.01
        return self.now


def test_a_watch_never_goes_back(monkeypatch):
    monkeypatch.setattr(clock, "time", Clock([100.0, 101.0, 50.0, 50.5, 200.0]))
    watch = Stopwatch(7.0)
    assert [watch.seconds() for _ in range(4)] == [8.0, 8.0, 8.5, 158.0]


def test_a_clock_that_goes_back_makes_no_negative_time_and_no_end(trial, monkeypatch):
    def jump(index):
        """Forward for ten looks, then a thousand seconds back, again and again."""
        return 1e6 + 0.01 * index - 1000.0 * (index // 10)

    for module in (recorder, clock):
        monkeypatch.setattr(module, "time", Clock([jump(index) for index in range(20000)]))
    result = trial(max_iters=8, eval_interval=3, max_seconds=100.0, stop_after=100.0)
    assert result.complete
    assert result.steps == 8
    assert 0.0 < result.training_seconds < 100.0
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    seconds = series(rows, "training_seconds")[1]
    assert seconds == sorted(seconds)
    for name in ("step_seconds", "tokens_per_second", "learning_rate"):
        assert all(value >= 0 for value in series(rows, name)[1]), name


def test_a_clock_that_stands_still_divides_nothing_by_zero(trial, monkeypatch):
    class Still:
        monotonic = staticmethod(lambda: 5.0)

    for module in (recorder, clock):
        monkeypatch.setattr(module, "time", Still)
    result = trial(max_iters=3, max_seconds=10.0)
    assert result.complete
    assert result.training_seconds == 0.0


def test_a_change_of_the_date_changes_nothing(trial, monkeypatch):
    moments = iter(range(10**9, 0, -(10**5)))
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))
    result = trial(max_iters=4, eval_interval=2, max_seconds=1000.0, stop_after=1000.0)
    assert result.complete
    assert 0.0 < result.training_seconds < 1000.0


def test_a_run_stops_after_a_given_time_and_goes_on_as_if_it_had_not(trial, monkeypatch):
    options = {"learning_rate_schedule": "linear", "max_iters": 8}
    whole = trial("whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(clock, "time", Clock([0.0] * 6 + [100.0] * 4 + [500.0] * 1000))
        part = trial("parts", stop_after=400.0, **options)
    assert not part.complete
    assert part.exit_code == 0
    assert 0 < part.steps < 8
    assert "--stop-after: 8m 20s have passed: saving" in trial.printed
    assert f"stopped at step {part.steps} and saved; the same command goes on from" in trial.printed
    assert read_state(part.state).step == part.steps
    rest = trial("parts", stop_after=400.0, **options)
    assert rest.complete
    assert "changed settings" not in trial.printed
    assert_same_weights(whole, rest)
    left, right = (read_metrics(run.checkpoint_dir / "metrics.jsonl") for run in (whole, rest))
    assert series(left, "learning_rate") == series(right, "learning_rate")


def test_a_run_that_is_over_when_its_time_is_up_is_complete(trial, monkeypatch):
    monkeypatch.setattr(clock, "time", Clock([0.0] * 8 + [500.0] * 1000))
    result = trial(max_iters=1, stop_after=400.0)
    assert result.complete
