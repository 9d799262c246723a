"""What is shown while a model trains."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gpt_oss_stories.training import display as display_module
from gpt_oss_stories.training.display import PreparationDisplay, TrainingDisplay, duration, sparkline
from gpt_oss_stories.training.metrics import StepRecord


def show(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with TrainingDisplay(console, 100) as display:
        display.line("a [line] that stays")
        record = StepRecord(step=50, tokens_seen=1, loss_nats=2.25, learning_rate=1e-3, tokens_per_second=1234.0)
        display.step(record, share=0.5, remaining_seconds=65.0)
        display.activity("evaluating")
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_step_loss_speed_and_time_left(terminal):
    shown = show(terminal)
    for expected in ("a [line] that stays", "50/100", "2.250", "1,234", "1m 05s"):
        assert expected in shown
    assert ("\x1b[" in shown) == terminal


def test_plain_lines_are_occasional():
    console = Console(file=io.StringIO(), width=120)
    with TrainingDisplay(console, 100) as display:
        for step in range(1, 50):
            display.step(StepRecord(step=step, tokens_seen=step), share=0.0, remaining_seconds=None)
    assert len(console.file.getvalue().splitlines()) == 1


def test_without_a_console_nothing_happens():
    with TrainingDisplay(None, 10) as display:
        display.line("unseen")
        display.step(StepRecord(step=1, tokens_seen=1), share=0.1, remaining_seconds=None)


@pytest.mark.parametrize("terminal", [True, False])
def test_preparation_names_its_stages(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with PreparationDisplay(console) as progress:
        for done in range(3):
            progress("tokenizing", done, 2)
        progress("shards", 1, None)
    assert "tokenizing" in console.file.getvalue()


def test_sparkline_spans_from_lowest_to_highest():
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == "▁▂▃▄▅▆▇█"
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert len(sparkline(list(range(1000)), width=24)) == 24


def test_durations_read_well():
    assert [duration(s) for s in (4.4, 185, 7620)] == ["4s", "3m 05s", "2h 07m"]


def plain_lines(record):
    console = Console(file=io.StringIO(), width=60)
    with TrainingDisplay(console, 100) as display:
        display.step(record, share=0.5, remaining_seconds=65.0)
    return console.file.getvalue()


def test_a_pipe_gets_whole_lines_without_control_characters():
    console = Console(file=io.StringIO(), width=60)
    with TrainingDisplay(console, 100) as display:
        display.line("a long line that says something about a long path " * 4, "yellow")
        display.step(StepRecord(step=50, tokens_seen=1, loss_nats=2.25), share=0.5, remaining_seconds=65.0)
        display.activity("saving")
    shown = console.file.getvalue()
    assert len(shown.splitlines()) == 2
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_what_is_known_is_shown_and_what_is_not_is_left_out():
    bare = plain_lines(StepRecord(step=50, tokens_seen=1, loss_nats=2.25, skipped_steps=0))
    full = plain_lines(
        StepRecord(
            step=50,
            tokens_seen=1,
            loss_nats=2.25,
            bits_per_byte=0.875,
            grad_norm=1.5,
            skipped_steps=3,
            model_flops_utilization=0.41,
        )
    )
    for expected in ("bits/byte 0.875", "gradient 1.50", "skipped 3", "of the peak 41%"):
        assert expected in full
        assert expected.rpartition(" ")[0] not in bare


def test_a_clock_that_goes_back_does_not_silence_the_lines(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(display_module.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=120)
    with TrainingDisplay(console, 100) as display:
        for step, moment in enumerate((1000.0, 1001.0, 100.0, 105.0, 111.0)):
            now[0] = moment
            display.step(StepRecord(step=step, tokens_seen=1), share=0.0, remaining_seconds=None)
    assert [line.split("/")[0] for line in console.file.getvalue().splitlines()] == ["step 0", "step 2", "step 4"]
