"""Saving in the background: what is saved is what was there when it was asked for, and errors are not lost."""

from __future__ import annotations

import threading

import pytest
import torch

from gpt_oss_stories.files import FileWriteError
from gpt_oss_stories.training import checkpoint
from gpt_oss_stories.training.checkpoint import RunState
from gpt_oss_stories.training.distributed import Processes
from gpt_oss_stories.training.saver import Saver


def state(step):
    return RunState(step=step, rows_seen=step, tokens_seen=0, training_seconds=0.0)


@pytest.fixture
def slow(monkeypatch):
    """Lets writing begin only when the event that it returns is set."""
    go, write = threading.Event(), checkpoint.save_state

    def wait_and_write(*args, **options):
        assert go.wait(60)
        return write(*args, **options)

    monkeypatch.setattr(checkpoint, "save_state", wait_and_write)
    return go


def test_what_changes_after_the_call_is_not_in_the_state(tmp_path, slow):
    base = torch.arange(8.0)
    tensors = {"a": base, "b": base[2:4], "c": torch.tensor(3)}
    with Saver(tmp_path, Processes(), keep=2, background=True) as saver:
        saver.save(state(1), tensors)
        assert checkpoint.list_states(tmp_path) == [], "it has not been written yet"
        base.zero_()
        slow.set()
        saver.wait()
        assert checkpoint.list_states(tmp_path) == [checkpoint.state_path(tmp_path, 1)]
    found = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
    checkpoint.load_tensors(checkpoint.state_path(tmp_path, 1), found)
    assert found["a"].tolist() == list(range(8))
    assert found["b"].tolist() == [2, 3]
    assert found["c"] == 3


def test_states_are_written_one_after_the_other_and_the_last_one_is_waited_for(tmp_path):
    tensors = {"a": torch.zeros(3)}
    with Saver(tmp_path, Processes(), keep=2, background=True) as saver:
        for step in range(1, 5):
            saver.save(state(step), tensors)
    assert [path.name for path in checkpoint.list_states(tmp_path)] == ["state-00000004", "state-00000003"]


@pytest.fixture
def full(monkeypatch):
    """Nothing can be written."""

    def refuse(*args, **options):
        raise FileWriteError("no space left")

    monkeypatch.setattr(checkpoint, "save_state", refuse)


def save_and(then, folder, *, background):
    with Saver(folder, Processes(), keep=2, background=background) as saver:
        saver.save(state(1), {"a": torch.zeros(3)})
        then(saver)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("then", [Saver.wait, lambda saver: None], ids=["wait", "end"])
def test_a_state_that_cannot_be_written_is_an_error_at_the_next_call(tmp_path, background, then):
    with pytest.raises(FileWriteError, match="no space left"):
        save_and(then, tmp_path, background=background)


@pytest.mark.usefixtures("full")
def test_another_error_is_not_hidden_by_that_of_saving(tmp_path):
    with pytest.raises(ZeroDivisionError):
        save_and(lambda saver: 1 / 0, tmp_path, background=True)
