"""The question which choices of our training make it better."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import PROJECT, Commands
from gpt_oss_stories.config import ModelConfig

FOLDER = PROJECT / "benchmarks"


@pytest.fixture
def choices(house: ModuleType) -> Any:
    return house.load_file(str(FOLDER / "choices.py"))


def test_each_choice_is_undone_alone(choices: Any, house: ModuleType) -> None:
    model = ModelConfig.from_dict(dict(house.SIZES["nano"]))
    training = choices.time_to_loss.our_training("nano", False)
    as_it_is = {**model.to_dict(), **training.to_dict()}
    seen = []
    for name in choices.CHOICES:
        run = choices.undone(name, model, training)
        changed = {
            field: value
            for field, value in {**run.model.to_dict(), **run.training.to_dict()}.items()
            if value != as_it_is[field]
        }
        assert changed, name
        seen.append(changed)
    assert all(seen.count(changed) == 1 for changed in seen)
    by_name = dict(zip(choices.CHOICES, seen, strict=True))
    assert by_name["adamw"] == {"optimizer": "adamw"}
    assert by_name["half-batch"] == {"batch_size": training.batch_size // 2}
    assert set(by_name["dense"]) == {"num_experts", "experts_per_token", "intermediate_size"}


@pytest.mark.slow
def test_choices_are_compared(commands: Commands, tmp_path: Path) -> None:
    stories = [f"Once upon a time there were {count} cats. They saw a dog and ran home." for count in range(80)]
    path = tmp_path / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(stories))
    words = ("--dataset-path", str(path), "--size", "mini", "--steps", "3", "--repetitions", "1", "--threads", "1")
    done = commands.run(
        [sys.executable, str(FOLDER), "choices", *words, "--skip-warm-up", "--choice", "dense"], tmp_path, seconds=110
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    figures = {name: run["figures"] for name, run in result["contenders"].items()}
    assert list(figures) == ["as it is", "dense"]
    assert all(found["steps"]["values"] == [3] for found in figures.values())
    (own,), (other,) = (found["loss_nats"]["values"] for found in figures.values())
    assert result["difference_by_seed"] == {"dense": [pytest.approx(other - own, abs=1e-3)]}
    assert result["ratio"] == (other > own)
