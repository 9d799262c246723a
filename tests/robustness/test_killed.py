"""A run that is killed at any moment: the same command ends it well, with the result of a run that was left alone."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from gpt_oss_stories.model.model_file import load_model_file
from support.trainings import differences, hidden, moments_of_saving, training_words

STEPS, PARTS = 8, 4
MORE = ["--max-iters", str(STEPS), "--save-interval", "2", "--eval-interval", "4"]


@pytest.fixture(scope="module")
def left_alone(stories, small, tmp_path_factory) -> tuple[Path, float]:
    """A run that nothing disturbs, and how many seconds it takes."""
    folder = tmp_path_factory.mktemp("left-alone")
    began = time.monotonic()
    code, said = stories.run([*small, *MORE], folder)
    assert code == 0, said
    return folder, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(PARTS))
def test_a_killed_run_goes_on_with_the_same_command(seed: int, stories, small, left_alone, tmp_path) -> None:
    folder, seconds = left_alone
    # One moment in each part of a run: while stories are prepared, steps are taken, states saved, pictures drawn.
    moment = seconds * (seed + random.Random(seed).random()) / PARTS
    code, said = stories.run([*small, *MORE], tmp_path, kill_after=moment)
    assert code in (-signal.SIGKILL, 0), said
    checkpoints = tmp_path / "checkpoints"
    states = sorted(path.name for path in checkpoints.glob("state-*"))
    had_record = (checkpoints / "metrics.jsonl").exists()

    code, said = stories.run([*small, *MORE], tmp_path)
    assert code == 0, said
    assert "damaged" not in said, "a state is whole or not there"
    if states:
        step = int(states[-1].removeprefix("state-"))
        assert f"resuming from checkpoints/{states[-1]}: step {step}, " in said
    else:
        assert "resuming" not in said
        assert ("another run's files are moved to checkpoints/previous-1 (it has no sound state)" in said) == had_record
    assert ("this run is complete" in said) != (f"done: {STEPS} steps" in said)
    records = [json.loads(line) for line in (checkpoints / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert hidden(tmp_path) == [], "nothing half-written is left"
    picture, record = (checkpoints / name for name in ("plots/training_curves.png", "metrics.jsonl"))
    assert picture.stat().st_mtime_ns >= record.stat().st_mtime_ns, "the curves show all of the record"

    mine, other = (load_model_file(place / "checkpoints" / "best_model.pt") for place in (tmp_path, folder))
    assert mine.provenance["step"] == other.provenance["step"]
    assert mine.weights.keys() == other.weights.keys()
    for name, tensor in mine.weights.items():
        assert torch.equal(tensor, other.weights[name]), name
    story = tmp_path / "story.txt"
    story.touch()
    code, said = stories.run("generate --max-tokens 5 --seed 1", tmp_path, out=str(story))
    assert code == 0, said
    assert story.read_text().startswith("Once upon a time")


def test_what_a_killed_write_of_the_model_left_is_cleared(stories, small, left_alone, tmp_path) -> None:
    """A model file can be gigabytes: what is left of unfinished ones must not pile up."""
    half = tmp_path / "checkpoints" / ".best_model.pt.abcd1234.part"
    half.parent.mkdir()
    half.write_bytes(b"half of a model")
    code, said = stories.run([*small, "--max-iters", "1"], tmp_path)
    assert code == 0, said
    assert hidden(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "ranks"), [("adamw", 1), ("muon", 2)])
def test_a_run_killed_while_it_saves_ends_with_the_same_bits(
    optimizer: str, ranks: int, trainings, story_file, tmp_path
) -> None:
    """With accumulation, through several epochs; `kills.py` does the same more often."""
    more = ["--save-interval", "2", "--eval-interval", "5", "--log-interval", "3", "--optimizer", optimizer]
    words = training_words(story_file, steps=12, ranks=ranks, accumulation=2, more=more)
    code, said = trainings.run(words, tmp_path / "left-alone", ranks=ranks)
    assert code == 0, said
    folder, draw, half_written = tmp_path / "killed", random.Random(optimizer), 0
    for _ in range(4):
        job = trainings.start(words, folder, ranks=ranks)
        for _ in zip(range(draw.randint(1, 8)), moments_of_saving(folder, job), strict=False):
            pass
        assert job.code is None, "it saves in the very end, too"
        job.kill()
        half_written += any((folder / "checkpoints").glob(".saving-*"))
    assert half_written > 0
    code, said = trainings.run(words, folder, ranks=ranks)
    assert code == 0, said
    assert "damaged" not in said
    assert differences(folder, tmp_path / "left-alone") == []
    assert hidden(folder) == []
