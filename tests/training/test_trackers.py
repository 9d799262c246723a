"""Weights & Biases and TensorBoard."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from gpt_oss_stories.config import TrainingConfig
from gpt_oss_stories.training import trackers
from gpt_oss_stories.training.metrics import StepRecord
from gpt_oss_stories.training.trackers import Tracker, TrackerError, Trackers, require_packages
from support.wandb_file import read_offline_run


def open_trackers(tmp_path, said, *, resumed_step=0, identifiers=None, **config):
    return Trackers.open(
        TrainingConfig(**config),
        {"training": {"seed": 1337, "learning_rate": 0.25}},
        tmp_path,
        resumed_step=resumed_step,
        identifiers=identifiers or {},
        say=said.append,
    )


def complete_record(step):
    """A record in which everything is known, each field with another value."""
    hints = typing.get_type_hints(StepRecord)
    values = {}
    for number, field in enumerate(dataclasses.fields(StepRecord), 1):
        if field.name == "expert_load":
            values[field.name] = ((0.25, 0.75), (0.5, 0.5))
        elif str(hints[field.name]).startswith("tuple"):
            values[field.name] = (number + 0.25, number + 0.5)
        elif field.name not in ("schema", "step", "interim"):
            values[field.name] = number
    return StepRecord(step=step, **values)


def a_picture(tmp_path):
    from PIL import Image

    path = tmp_path / "curves.png"
    Image.new("RGB", (30, 20), (200, 10, 10)).save(path)
    return path


class Faulty(Tracker):
    name = "faulty"

    def __init__(self):
        self.calls = 0

    def log(self, record):
        self.calls += 1
        raise RuntimeError("server\nis gone")

    def close(self, *, failed):
        self.calls += 100


class Recording(Tracker):
    name = "recording"

    def __init__(self):
        self.records = []

    def log(self, record):
        self.records.append(record)

    def close(self, *, failed):
        self.records.append("failed" if failed else None)


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


CALLS = ("log", "text", "picture", "identifier", "close")


@pytest.mark.parametrize("call", CALLS)
def test_a_tracker_that_fails_at_any_call_is_switched_off(tmp_path, monkeypatch, call):
    class Failing(Recording):
        name = "failing"

        def __getattribute__(self, name):
            if name == call:
                raise RuntimeError("gone")
            return super().__getattribute__(name)

    said, good = [], Recording()
    both = Trackers([Failing(), good], said.append)
    record = StepRecord(step=1, tokens_seen=1)
    both.log(record)
    both.text(1, "story")
    both.picture(1, tmp_path)
    both.identifiers()
    both.close()
    assert good.records == [record, None]
    assert said == ["failing failed and is switched off, training goes on: RuntimeError: gone"]


def test_tensorboard_holds_every_metric_the_settings_samples_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    opened = open_trackers(tmp_path, [], use_tensorboard=True)
    for step in (1, 2):
        opened.log(complete_record(step))
    opened.text(2, "Once upon a time\n\nthere was a fox")
    opened.picture(2, a_picture(tmp_path))
    opened.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    known = complete_record(1).known()
    assert len(known) > 40
    for name, value in known.items():
        assert [(event.step, event.value) for event in events.Scalars(name)] == [(1, value), (2, value)], name
    texts = {
        name: b"".join(tensor.tensor_proto.string_val).decode()
        for name in ("settings/text_summary", "sample/text_summary")
        for tensor in events.Tensors(name)
    }
    assert '"learning_rate": 0.25' in texts["settings/text_summary"]
    assert "there was a fox" in texts["sample/text_summary"]
    (image,) = events.Images("training_curves")
    assert (image.step, image.width, image.height) == (2, 30, 20)


def test_a_resumed_run_hides_the_events_that_it_writes_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resumed_step, value, steps in ((0, 1.0, (1, 2, 3)), (2, 5.0, (3, 4))):
        opened = open_trackers(tmp_path, [], resumed_step=resumed_step, use_tensorboard=True)
        for step in steps:
            opened.log(StepRecord(step=step, tokens_seen=1, loss_nats=value))
        opened.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss_nats")] == [(1, 1), (2, 1), (3, 5), (4, 5)]


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(trackers, "_has_wandb_key", lambda: False)


def test_wandb_without_a_key_records_everything_offline_and_a_resumed_run_keeps_its_id(tmp_path, no_key):
    said = []
    opened = open_trackers(tmp_path, said, use_wandb=True)
    opened.log(complete_record(1))
    opened.text(1, "Once upon a <time>")
    opened.picture(1, a_picture(tmp_path))
    identifiers = opened.identifiers()
    opened.close()
    assert len(said) == 1
    assert "offline" in said[0]
    assert "wandb sync" in said[0]
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    run = read_offline_run(path)
    assert identifiers == {"Weights & Biases": run.run_id}
    assert run.config["training"] == {"seed": 1337, "learning_rate": 0.25}
    (row,) = run.history
    assert row["_step"] == 1
    for name, value in complete_record(1).known().items():
        assert row[name] == value, name
    media = {kind: path.parent / "files" / row[f"{kind}.path"] for kind in ("sample", "training_curves")}
    assert "Once upon a &lt;time&gt;" in media["sample"].read_text()
    assert media["training_curves"].read_bytes() == (tmp_path / "curves.png").read_bytes()

    again = open_trackers(tmp_path, said, resumed_step=1, identifiers=identifiers, use_wandb=True)
    again.log(StepRecord(step=2, tokens_seen=2, loss_nats=7.0))
    assert again.identifiers() == identifiers
    again.close()
    (second,) = set(tmp_path.glob("wandb/offline-run-*/run-*.wandb")) - {path}
    run = read_offline_run(second)
    assert run.run_id == identifiers["Weights & Biases"]
    assert [(row["_step"], row["loss_nats"]) for row in run.history] == [(2, 7.0)]


@pytest.mark.parametrize("failed", [False, True])
def test_wandb_learns_whether_a_run_ended_by_an_error(tmp_path, monkeypatch, failed):
    ended = []

    class Run:
        def finish(self, exit_code=None):
            ended.append(exit_code)

    class Wandb:
        Settings = dict

        @staticmethod
        def init(**given):
            return Run()

    monkeypatch.setattr(trackers, "_imported", lambda *package: Wandb)
    open_trackers(tmp_path, [], use_wandb=True).close(failed=failed)
    assert ended == [int(failed)]


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
