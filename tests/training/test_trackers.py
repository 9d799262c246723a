"""Weights & Biases and TensorBoard."""

from __future__ import annotations

import pytest

from gpt_oss_stories.config import TrainingConfig
from gpt_oss_stories.training import trackers
from gpt_oss_stories.training.metrics import StepRecord
from gpt_oss_stories.training.trackers import Tracker, TrackerError, Trackers, require_packages


def open_trackers(tmp_path, said, **config):
    return Trackers.open(
        TrainingConfig(**config), {"seed": 1}, tmp_path, resumed_step=0, identifiers={}, say=said.append
    )


class Faulty(Tracker):
    name = "faulty"

    def __init__(self):
        self.calls = 0

    def log(self, record):
        self.calls += 1
        raise RuntimeError("server\nis gone")

    def close(self):
        self.calls += 100


class Recording(Tracker):
    name = "recording"

    def __init__(self):
        self.records = []

    def log(self, record):
        self.records.append(record)

    def close(self):
        self.records.append(None)


def test_a_tracker_that_fails_is_switched_off_with_one_line_and_the_others_go_on():
    said, faulty, good = [], Faulty(), Recording()
    both = Trackers([faulty, good], said.append)
    record = StepRecord(step=1, tokens_seen=1)
    both.log(record)
    both.log(record)
    both.close()
    assert faulty.calls == 1
    assert good.records == [record, record, None]
    assert len(said) == 1
    assert "faulty" in said[0]
    assert "RuntimeError: server" in said[0]
    assert "\n" not in said[0]


@pytest.mark.parametrize(("flag", "module"), [("use_wandb", "wandb"), ("use_tensorboard", "torch.utils.tensorboard")])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, flag, module):
    real = trackers.importlib.import_module

    def absent(name):
        if name == module:
            raise ImportError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(trackers.importlib, "import_module", absent)
    with pytest.raises(TrackerError, match=r"pip install -e \.\[tracking\]"):
        require_packages(TrainingConfig(**{flag: True}))
    with pytest.raises(TrackerError, match=r"pip install -e \.\[tracking\]"):
        open_trackers(tmp_path, [], **{flag: True})


def test_a_package_that_is_there_but_broken_is_a_line_and_no_error(tmp_path, monkeypatch):
    def broken(name):
        raise AttributeError("module 'numpy' has no attribute 'float_'")

    monkeypatch.setattr(trackers.importlib, "import_module", broken)
    require_packages(TrainingConfig(use_wandb=True, use_tensorboard=True))
    said = []
    open_trackers(tmp_path, said, use_wandb=True, use_tensorboard=True)
    assert len(said) == 2
    assert all("switched off: AttributeError" in line for line in said)


def test_nothing_is_imported_that_was_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib, "import_module", lambda name: pytest.fail(f"imported {name}"))
    require_packages(TrainingConfig())
    open_trackers(tmp_path, []).close()


def test_a_tracker_that_cannot_start_is_a_line(tmp_path, monkeypatch):
    def broken(*args):
        raise OSError("disk on fire")

    monkeypatch.setattr(trackers.TensorBoardTracker, "__init__", broken)
    said = []
    open_trackers(tmp_path, said, use_tensorboard=True).log(StepRecord(step=1, tokens_seen=1))
    assert len(said) == 1
    assert "disk on fire" in said[0]


def test_tensorboard_events_are_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    opened = open_trackers(tmp_path, [], use_tensorboard=True)
    for step in (1, 2):
        opened.log(StepRecord(step=step, tokens_seen=step, loss_nats=1.0 / step, validation_loss_nats=0.5))
    opened.text(2, "Once upon a time")
    opened.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss_nats")] == [(1, 1.0), (2, 0.5)]
    assert "validation_loss_nats" in events.Tags()["scalars"]


def test_wandb_without_a_key_records_offline(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(trackers, "_has_wandb_key", lambda: False)
    said = []
    opened = open_trackers(tmp_path, said, use_wandb=True)
    opened.log(StepRecord(step=1, tokens_seen=1, loss_nats=1.0))
    identifiers = opened.identifiers()
    opened.close()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb")), said
    assert identifiers["Weights & Biases"]
    assert len(said) == 1
    assert "offline" in said[0]
    assert "wandb sync" in said[0]


def test_a_key_is_looked_for_in_the_environment_and_in_netrc(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert not trackers._has_wandb_key()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert trackers._has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert not trackers._has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert trackers._has_wandb_key()
