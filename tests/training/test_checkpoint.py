"""Training states on disk."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from gpt_oss_stories.files import FileWriteError
from gpt_oss_stories.training import checkpoint
from gpt_oss_stories.training.checkpoint import (
    CheckpointError,
    RunState,
    list_states,
    load_tensors,
    read_state,
    save_state,
)
from gpt_oss_stories.training.distributed import Processes


def make_state(step=3, **changes):
    return RunState(
        **{"step": step, "rows_seen": 8 * step, "tokens_seen": 100 * step, "training_seconds": 1.5, **changes}
    )


def make_tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.weight": torch.randn(5, 4, generator=generator),
        "optimizer.step": torch.tensor(7.0),
        "random.0.cpu": torch.get_rng_state(),
        "half": torch.randn(3, generator=generator).bfloat16(),
    }


def save(directory, step=3, keep=5, tensors=None, **changes):
    return save_state(directory, make_state(step, **changes), tensors or make_tensors(), Processes(), keep=keep)


def blank(tensors):
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    state = make_state(identity={"model": {"n_layer": 2}}, best_validation_loss=1.25, trackers={"a": "b"})
    tensors = make_tensors()
    path = save_state(tmp_path, state, tensors, Processes(), keep=2)
    assert path == tmp_path / "state-00000003"
    assert read_state(path) == state
    found = blank(tensors)
    load_tensors(path, found)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert not [p for p in tmp_path.iterdir() if p != path]


def test_a_state_tells_nothing_about_the_machine(tmp_path):
    path = save(tmp_path)
    assert str(tmp_path).encode() not in (path / ".metadata").read_bytes() + (path / "state.json").read_bytes()


def test_only_the_newest_states_are_kept(tmp_path):
    for step in (2, 10, 9, 100):
        save(tmp_path, step, keep=2)
    assert [path.name for path in list_states(tmp_path)] == ["state-00000100", "state-00000010"]


def test_saving_the_same_step_again_replaces_it(tmp_path):
    save(tmp_path, tensors=make_tensors(1))
    path = save(tmp_path, tensors=make_tensors(2), best_validation_loss=0.5)
    found = blank(make_tensors())
    load_tensors(path, found)
    assert torch.equal(found["model.weight"], make_tensors(2)["model.weight"])
    assert read_state(path).best_validation_loss == 0.5


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_any_file_is_found(tmp_path, name, damage):
    path = save(tmp_path)
    file = path / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
    file.unlink()
    if damage != "remove":
        file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"damaged|is not a training state"):
        read_state(path)


def test_a_newer_format_is_refused_by_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
    path = save(tmp_path)
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 1)
    with pytest.raises(CheckpointError, match="format version 2"):
        read_state(path)


def test_counters_can_be_changed_after_saving(tmp_path):
    path = save(tmp_path)
    checkpoint.update_state(path, best_validation_loss=0.75, evaluated_step=3)
    state = read_state(path)
    assert (state.best_validation_loss, state.evaluated_step, state.step) == (0.75, 3, 3)


class _Exploit:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def reseal(path):
    """Make checksums right again, as somebody who plants a file would."""
    state = read_state_unchecked(path)
    (path / "state.json").write_text(checkpoint._to_json(state, path))


def read_state_unchecked(path):
    return RunState(**json.loads((path / "state.json").read_text())["state"])


def test_code_in_the_index_is_refused_and_not_run(tmp_path):
    path, trace = save(tmp_path), tmp_path / "was-run"
    (path / ".metadata").write_bytes(pickle.dumps(_Exploit(trace)))
    reseal(path)
    read_state(path)
    with pytest.raises(CheckpointError, match=r"mkdir.*not run"):
        load_tensors(path, blank(make_tensors()))
    assert not trace.exists()


@pytest.mark.parametrize("reference", ["torch.load", "builtins.eval", "torch.hub.load", "torch.serialization.load"])
def test_nothing_but_records_can_be_named_in_the_index(tmp_path, reference):
    path = save(tmp_path)
    module, _, name = reference.rpartition(".")
    (path / ".metadata").write_bytes(f"c{module}\n{name}\n.".encode())
    reseal(path)
    with pytest.raises(CheckpointError, match="no place in a training state"):
        load_tensors(path, blank(make_tensors()))


def test_items_that_are_not_tensors_are_refused(tmp_path):
    path = save(tmp_path, tensors={**make_tensors(), "extra": {"pickled": "object"}})
    with pytest.raises(CheckpointError, match="is not a tensor"):
        load_tensors(path, blank(make_tensors()))


def test_an_index_cannot_point_outside_of_its_folder(tmp_path):
    path = save(tmp_path)
    index = dcp.FileSystemReader(path).read_metadata()
    for place in index.storage_data.values():
        place.relative_path = "../elsewhere"
    (path / ".metadata").write_bytes(pickle.dumps(index))
    reseal(path)
    with pytest.raises(CheckpointError, match="elsewhere"):
        load_tensors(path, blank(make_tensors()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.weight": torch.zeros(4, 5)}, r"model.weight is \(5, 4\)"),
        ({"model.weight": torch.zeros(5, 4, dtype=torch.float64)}, "float64 is needed"),
        ({"model.other": torch.zeros(1)}, "no tensor model.other"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(tmp_path, change, message):
    path = save(tmp_path)
    tensors = {**blank(make_tensors()), **change}
    with pytest.raises(CheckpointError, match=message):
        load_tensors(path, tensors)
    assert not any(tensor.any() for tensor in tensors.values())


def test_optional_tensors_may_be_absent(tmp_path):
    path = save(tmp_path)
    extra = torch.ones(2)
    load_tensors(
        path, {**blank(make_tensors()), "random.1.cpu": extra}, optional=lambda name: name.startswith("random.")
    )
    assert extra.tolist() == [1.0, 1.0]


def test_a_full_disk_is_one_line_and_leaves_earlier_states(tmp_path, monkeypatch):
    earlier = save(tmp_path, 1)

    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem._write_item", no_space)
    with pytest.raises(FileWriteError, match="No space left on device") as caught:
        save(tmp_path, 2)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [earlier]
    read_state(earlier)


def test_leftovers_of_a_killed_save_are_cleared(tmp_path):
    (tmp_path / ".saving-00000001").mkdir()
    (tmp_path / ".saving-00000001" / "part").write_bytes(b"x")
    assert list_states(tmp_path) == []
    path = save(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_moving_aside_counts_up_and_touches_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for number in (1, 2):
        save(tmp_path, 4)
        (tmp_path / "metrics.jsonl").write_text("{}")
        target = checkpoint.move_aside(tmp_path, ("metrics.jsonl", "best_model.pt", "state-00000004"))
        assert target == tmp_path / f"previous-{number}"
        assert sorted(p.name for p in target.iterdir()) == ["metrics.jsonl", "state-00000004"]
    assert checkpoint.move_aside(tmp_path, ("metrics.jsonl",)) is None
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_random_generators_go_on_where_they_were():
    torch.manual_seed(5)
    states = {name: tensor.clone() for name, tensor in checkpoint.random_state(torch.device("cpu")).items()}
    first = torch.rand(3)
    checkpoint.restore_random_state(states, torch.device("cpu"))
    assert torch.equal(torch.rand(3), first)
