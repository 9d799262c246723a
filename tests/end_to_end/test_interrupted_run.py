"""One run from the first step to the last story: trained, stopped, resumed, asked and looked into, by commands only."""

from __future__ import annotations

import json
import re
import shlex
import signal
from pathlib import Path

import pytest

from gpt_oss_stories.model.model_file import load_model_file

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMAND = "stories train --dataset-path my_stories.txt"
STEPS = 80
TRAIN = shlex.split(
    f"{COMMAND} --max-iters {STEPS} --eval-interval 1000 --save-interval 1000 --log-interval 1 --eval-iters 1 "
    "--batch-size 2 --block-size 64 --n-layer 2 --n-head 4 --n-embd 64 --num-experts 4"
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_run_goes_on_and_its_model_tells_the_same_story_twice(commands, new_folder) -> None:
    assert f"\n{COMMAND}\n" in README
    folder = new_folder("stopped")
    checkpoints = folder / "checkpoints"
    process = commands.start(TRAIN, folder)
    before = ""
    while (line := process.stderr.readline()) and not line.startswith("step "):
        before += line
    process.send_signal(signal.SIGTERM)
    stopped = commands.finish(process)
    assert stopped.returncode == 128 + signal.SIGTERM, before + stopped.stderr
    assert "SIGTERM received" in stopped.stderr
    step = int(re.search(r"stopped at step ([\d,]+) and saved", stopped.stderr)[1])
    assert 0 < step < STEPS
    assert [path.name for path in checkpoints.glob("state-*")] == [f"state-{step:08d}"]
    assert load_model_file(checkpoints / "best_model.pt").provenance["step"] == step

    resumed = commands.run(TRAIN, folder)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming from checkpoints/state-{step:08d}: step {step:,}, " in resumed.stderr
    assert "with changed settings" not in resumed.stderr
    assert f"done: {STEPS:,} steps" in resumed.stderr
    records = [json.loads(text) for text in (checkpoints / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert [record["tokens_seen"] for record in records] == [2 * 64 * step for step in range(1, STEPS + 1)]
    assert records[-1]["loss_nats"] < 0.7 * records[0]["loss_nats"], "it has learnt"

    tell = shlex.split("stories generate --prompt 'Once upon a time' --max-tokens 30 --temperature 0 --json")
    told = [commands.start(tell, folder) for _ in range(2)]
    inspected = commands.run(["stories", "inspect", "--json"], folder)
    assert (inspected.returncode, inspected.stderr) == (0, "")
    facts = json.loads(inspected.stdout)
    assert facts["provenance"]["step"] == STEPS
    assert facts["model_config"]["n_layer"] == 2
    assert facts["data_config"]["dataset_path"] == "my_stories.txt"
    first, second = (json.loads(commands.finish(process).stdout)["text"] for process in told)
    assert first == second
    assert first.startswith("Once upon a time")
    assert len(first.split()) > 8
