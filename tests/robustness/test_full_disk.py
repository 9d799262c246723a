"""A disk that is full: one line says so, what was there before stays as it was, and nothing half-written is left.

The system's limit on the length of a file stands for the full disk: a write beyond it is refused in the same way, with
half of the data written and the rest not.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_oss_stories.training.checkpoint import list_states, read_state
from support.trainings import after_step, differences, hidden, newest_state, training_words

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs limits on the length of files")

REFUSED = os.strerror(errno.EFBIG)
TELL = "generate --max-tokens 20 --temperature 0 --json"


@pytest.fixture(scope="module")
def trained(stories, small, tmp_path_factory) -> Path:
    """A folder with a run of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    code, said = stories.run([*small, "--max-iters", "2"], folder)
    assert code == 0, said
    return folder


def files_in(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder, hidden ones included; None stands for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def the_error(code: int, said: str) -> str:
    """The one line of an error that a user can mend."""
    assert code == 2, said
    assert "Traceback" not in said
    *before, last = said.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith("error:") for line in before)
    return last


def story(stories, folder: Path) -> str:
    code, said = stories.run(TELL, folder)
    assert code == 0, said
    return json.loads(said)["text"]


@pytest.mark.parametrize(
    ("name", "share"), [("state-00000004", 0.3), ("state-00000004", 0.99), ("metrics.jsonl", None)]
)
def test_training_that_cannot_write_leaves_the_earlier_model(
    name: str, share: float | None, stories, small, trained, tmp_path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    checkpoints = folder / "checkpoints"
    state, record = checkpoints / "state-00000002" / "__0_0.distcp", checkpoints / "metrics.jsonl"
    if name == "metrics.jsonl":  # longer than all other files, so that it is the one that may not grow
        first, *others = record.read_text().splitlines()
        longer = json.dumps({**json.loads(first), "note": "x" * 2 * state.stat().st_size}, separators=(",", ":"))
        record.write_text("\n".join([longer, *others]) + "\n")
    before = files_in(folder)
    told = story(stories, folder)
    words = [*small, "--max-iters", "4"]
    most = record.stat().st_size + 100 if name == "metrics.jsonl" else int(share * state.stat().st_size)
    error = the_error(*stories.run(words, folder, file_bytes=most))
    assert f"checkpoints/{name}" in error
    assert REFUSED in error

    after = files_in(folder)
    assert after.keys() == before.keys(), "nothing temporary is left"
    changed = {path for path, content in before.items() if after[path] != content}
    assert changed <= {"checkpoints/metrics.jsonl", "checkpoints/run.json"}
    assert story(stories, folder) == told

    code, said = stories.run(words, folder)
    assert code == 0, said
    assert "resuming from checkpoints/state-00000002: step 2, " in said
    steps = [json.loads(line)["step"] for line in (checkpoints / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_preparation_that_cannot_write_leaves_no_half_data_and_is_gone_on_with(stories, tmp_path) -> None:
    words = "prepare --storybook-stories 30 --first-readers 0 --original-repeats 0"
    error = the_error(*stories.run(words, tmp_path, file_bytes=2000))
    assert "prepared data" in error
    assert REFUSED in error
    (work,) = (tmp_path / "data").iterdir()
    assert work.name.startswith(".storybook-")
    assert work.name.endswith(".work")
    assert f"what is done so far is kept in {work}" in error
    code, said = stories.run(words, tmp_path)
    assert code == 0, said
    (made,) = (tmp_path / "data").iterdir()
    assert not made.name.startswith(".")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [TELL, "generate --max-tokens 5", "inspect", "train --dry-run", "prepare", "--help"])
def test_output_that_nobody_can_keep_is_an_error(words: str, stories, trained) -> None:
    if words == "prepare":
        words += " --storybook-stories 40 --first-readers 20 --original-repeats 0"
        assert stories.run(words, trained)[0] == 0  # the report, which training has no use for
    before = files_in(trained)
    assert os.strerror(errno.ENOSPC) in the_error(*stories.run(words, trained, out="/dev/full"))
    assert files_in(trained) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with a disk of its own, of 8 MiB, as its checkpoint folder."""
    place = tmp_path / "run" / "checkpoints"
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk in memory")
    yield place.parent
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_in_mid_save_loses_nothing(trainings, story_file, small_disk: Path, tmp_path) -> None:
    words = training_words(story_file, steps=60, more=["--save-interval", "3", "--eval-interval", "30"])
    job = trainings.start(words, small_disk)
    after_step(job, small_disk, 7)
    ballast = small_disk / "checkpoints" / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    size = sum(path.stat().st_size for path in newest_state(small_disk).iterdir())
    os.truncate(ballast, ballast.stat().st_size - size // 2)
    error = the_error(job.finish(), job.said)
    assert "cannot save the training state checkpoints/state-" in error
    assert os.strerror(errno.ENOSPC) in error
    assert hidden(small_disk) == [], "nothing half-written is left"
    states = list_states(small_disk / "checkpoints")
    assert states
    for state in states:
        read_state(state)  # checks every file
    ballast.unlink()
    code, said = trainings.run(words, small_disk)
    assert code == 0, said
    assert f"resuming from checkpoints/{states[0].name}: " in said
    code, said = trainings.run(words, tmp_path / "left-alone")
    assert code == 0, said
    assert differences(small_disk, tmp_path / "left-alone") == []
