"""Stored training states: those of earlier versions are gone on from, and damaged ones are passed over with a line."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console

from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.training import checkpoint
from gpt_oss_stories.training.checkpoint import list_states, read_state
from gpt_oss_stories.training.display import Speaker
from gpt_oss_stories.training.metrics import read_metrics
from gpt_oss_stories.training.resume import StartingPoint, starting_point
from gpt_oss_stories.training.trainer import train

FIXTURES = Path(__file__).parents[1] / "fixtures"
VERSIONS = sorted(path.name for path in (FIXTURES / "states").iterdir())
LOSS_TOLERANCE = 1e-4
"""Other processors and other versions of torch add in another order."""


def maker() -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_state", FIXTURES / "make_state.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", VERSIONS)
def test_the_state_of_an_earlier_version_is_gone_on_from(version: str, tmp_path, monkeypatch) -> None:
    make_state, stored = maker(), FIXTURES / "states" / version
    monkeypatch.chdir(tmp_path)
    Path("stories.jsonl").write_text(make_state.stories())
    state = f"state-{make_state.SAVED:08d}"
    shutil.copytree(stored / state, Path("checkpoints") / state)
    with Path("said").open("w") as file:
        result = train(*make_state.settings(), console=Console(file=file, width=300))
    assert f"resuming from checkpoints/{state}: step {make_state.SAVED}, " in Path("said").read_text()
    assert result.complete
    losses = json.loads((stored / "losses.json").read_text())
    found = {row["step"]: row["loss_nats"] for row in read_metrics(Path("checkpoints") / "metrics.jsonl")}
    expected = range(make_state.SAVED + 1, make_state.STEPS + 1)
    assert [step for step in found if step > make_state.SAVED] == list(expected)
    for step in expected:
        assert abs(found[step] - losses[str(step)]) < LOSS_TOLERANCE, step


Damage = Callable[[Path, Path, random.Random], None]
"""What is done to the newest state, with the one before it and a source of chance."""


def flipped(name: str) -> Damage:
    def damage(newest: Path, before: Path, draw: random.Random) -> None:
        content = bytearray((newest / name).read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (newest / name).write_bytes(content)

    return damage


def cut(name: str) -> Damage:
    def damage(newest: Path, before: Path, draw: random.Random) -> None:
        content = (newest / name).read_bytes()
        (newest / name).write_bytes(content[: draw.randrange(len(content))])

    return damage


def removed(name: str) -> Damage:
    return lambda newest, before, draw: (newest / name).unlink()


def swapped(*names: str) -> Damage:
    def damage(newest: Path, before: Path, draw: random.Random) -> None:
        for name in names:
            shutil.copy(before / name, newest / name)

    return damage


def emptied(newest: Path, before: Path, draw: random.Random) -> None:
    for path in newest.iterdir():
        path.unlink()


def of_a_newer_format(newest: Path, before: Path, draw: random.Random) -> None:
    content = json.loads((newest / "state.json").read_text())
    del content["checksum"]
    content["format_version"] = checkpoint.FORMAT_VERSION + 1
    (newest / "state.json").write_text(checkpoint._sealed(content))


FILES = ("state.json", ".metadata", "__0_0.distcp")
DAMAGES: dict[str, tuple[Damage, str]] = {
    **{f"bit of {name}, {n}": (flipped(name), "damaged") for name in FILES for n in range(4)},
    **{f"{name} cut short, {n}": (cut(name), "damaged") for name in FILES for n in range(2)},
    "state.json removed": (removed("state.json"), "is not a training state"),
    ".metadata removed": (removed(".metadata"), "damaged: .metadata is missing"),
    "tensors removed": (removed("__0_0.distcp"), "damaged: __0_0.distcp is missing"),
    "empty folder": (emptied, "is not a training state"),
    "newer format": (of_a_newer_format, f"has format version {checkpoint.FORMAT_VERSION + 1}"),
    "tensors of the state before": (swapped("__0_0.distcp"), "damaged: __0_0.distcp is not what was written"),
    "index of the state before": (swapped(".metadata"), "damaged: .metadata is not what was written"),
    "record of the state before": (swapped("state.json"), "damaged: "),
    "all of the state before": (swapped(*FILES), "holds the state after step 4"),
}


@pytest.fixture
def two_states(tmp_path: Path) -> Path:
    """A checkpoint folder with two states of a run."""
    from gpt_oss_stories.training.checkpoint import RunState, save_state
    from gpt_oss_stories.training.distributed import Processes

    for step in (4, 6):
        tensors = {f"model.weight{'s' * (step == 6)}": torch.full((40,), float(step)), "random.0.cpu": torch.zeros(16)}
        state = RunState(step=step, rows_seen=step, tokens_seen=step, training_seconds=1.0, identity={"seed": 1})
        save_state(tmp_path, state, tensors, Processes(), keep=5)
    return tmp_path


def chosen(directory: Path) -> tuple[StartingPoint, list[str]]:
    """Where a run begins, and what is said."""
    path = directory.parent / "said"
    with path.open("w") as file:
        say = Speaker(Console(file=file, width=1000))
        start = starting_point(directory, "auto", {"seed": 1}, ("metrics.jsonl",), say)
    return start, path.read_text().splitlines()


@pytest.mark.parametrize("name", DAMAGES)
def test_the_state_before_a_damaged_one_is_used_with_a_line(name: str, two_states: Path) -> None:
    damage, words = DAMAGES[name]
    newest, before = list_states(two_states)
    damage(newest, before, random.Random(name))
    start, said = chosen(two_states)
    assert start.state == before
    assert start.step == 4
    (line,) = said
    assert newest.name in line
    assert words in line
    assert line.endswith("; trying the state before it")
    start.clear_the_way(two_states, Speaker(None))
    assert read_state(before).step == 4
    assert list_states(two_states) == [before]
    assert (two_states / "previous-1" / newest.name).is_dir(), "what cannot be used is kept, out of the way"


def test_without_damage_the_newest_is_used_and_nothing_said(two_states: Path) -> None:
    start, said = chosen(two_states)
    assert (start.state, start.step, start.aside, said) == (two_states / "state-00000006", 6, (), [])


def test_if_all_are_damaged_the_run_begins_anew_with_a_line_for_each(two_states: Path) -> None:
    for path in list_states(two_states):
        (path / "state.json").write_text("{}")
    start, said = chosen(two_states)
    assert start.state is None
    assert set(start.aside) == {"state-00000004", "state-00000006", "metrics.jsonl"}
    assert len(said) == 2


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_state_that_is_asked_for_is_refused_in_one_line(name: str, two_states: Path) -> None:
    newest, before = list_states(two_states)
    DAMAGES[name][0](newest, before, random.Random(name))
    with pytest.raises(StoryError) as caught:
        starting_point(two_states, str(newest), {"seed": 1}, (), Speaker(None))
    assert "\n" not in str(caught.value)
