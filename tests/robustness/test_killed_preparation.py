"""A preparation that is killed again and again, at any moment, ends with the very files of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data import original_stories, pipeline
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.data.preparation import plan

SOURCE = str(Path(pipeline.__file__).parents[2])

KILLS = 20

PREPARE = """
import json, os, signal, sys, threading, time
from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.data.preparation import plan, stages

plan.SMALLEST_PIECE = 40_000

def kill(seconds):
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    config, workers, seconds = DataConfig.from_dict(json.loads(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
    # The imports are over: from here on the process works.
    threading.Thread(target=kill, args=(seconds,), daemon=True).start()
    prepare(config, workers=workers)
"""


def files_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


def write_stories(path: Path) -> None:
    """Stories with requests and questions, copies, near copies and some lines that are none."""
    originals = original_stories()[:300]
    with open(path, "w", encoding="utf-8") as file:
        for number, record in enumerate(originals):
            request = record.request.to_dict() if record.request else None
            questions = [question.to_dict() for question in record.questions]
            print(json.dumps({"text": record.text, "request": request, "questions": questions}), file=file)
            if number % 10 == 0:
                print(json.dumps({"text": record.text.upper()}), file=file)
                print(json.dumps({"text": record.text + " And that was the end of it."}), file=file)
                print("{ no story", file=file)


@pytest.mark.slow
def test_twenty_kills_leave_what_an_undisturbed_run_makes(tmp_path, monkeypatch) -> None:
    write_stories(tmp_path / "stories.jsonl")
    config = DataConfig(
        dataset_path=str(tmp_path / "stories.jsonl"),
        data_dir=str(tmp_path / "data"),
        vocabulary="story",
        request_fraction=0.5,
        validation_fraction=0.1,
    )
    undisturbed = prepare(config.replace(data_dir=str(tmp_path / "undisturbed")), workers=1)
    assert json.loads((undisturbed.directory / "report.json").read_text())["copies"]["near"] > 20
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    rng = random.Random(os.environ.get("KILL_SEED", "1"))
    killed = finished = 0
    made: set[str] = set()
    while killed < KILLS:
        workers = rng.choice([1, 1, 2])
        # With workers, a second passes before they have started.
        seconds = rng.uniform(0.0, 0.5) if workers == 1 else rng.uniform(0.8, 2.5)
        command = [sys.executable, str(script), json.dumps(config.to_dict()), str(workers), str(seconds)]
        code = subprocess.run(command, env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True).returncode
        assert code in (0, -signal.SIGKILL)
        names = {name for name in os.listdir(config.data_dir) if not name.startswith(".")}
        made |= names
        if code == 0:  # it came to its end before its time: begin anew
            finished += 1
            assert files_of(Path(config.data_dir, *names)) == files_of(undisturbed.directory)
            config = config.replace(data_dir=str(tmp_path / f"data-{finished}"))
            continue
        killed += 1
    last = prepare(config, workers=2)
    assert files_of(last.directory) == files_of(undisturbed.directory)
    assert os.listdir(config.data_dir) == [undisturbed.directory.name]
    assert made <= {undisturbed.directory.name}
    monkeypatch.setattr(plan, "SMALLEST_PIECE", 1)  # as many pieces as there may be
    in_pieces = prepare(config.replace(data_dir=str(tmp_path / "pieces")), workers=1)
    assert files_of(in_pieces.directory) == files_of(undisturbed.directory)
