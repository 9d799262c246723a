"""A disk that is full: one line says so, what was there before stays as it was, and nothing half-written is left.

The system's limit on the length of a file stands for the full disk: a write beyond it is refused in the same way, with
half of the data written and the rest not.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

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
    ("name", "share"),
    [("best_model.pt", 0.5), ("state-00000004", 0.3), ("state-00000004", 0.99), ("metrics.jsonl", 1.1)],
)
def test_training_that_cannot_write_leaves_the_earlier_model(
    name: str, share: float, stories, small, trained, tmp_path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = files_in(folder)
    told = story(stories, folder)
    checkpoints = folder / "checkpoints"
    sizes = {
        "best_model.pt": (checkpoints / "best_model.pt").stat().st_size,
        "state-00000004": (checkpoints / "state-00000002" / "__0_0.distcp").stat().st_size,
        "metrics.jsonl": (checkpoints / "metrics.jsonl").stat().st_size,
    }
    # An evaluation before the end finds a better model before a state is saved.
    words = [*small, "--max-iters", "4", *(["--eval-interval", "3"] if name == "best_model.pt" else [])]
    error = the_error(*stories.run(words, folder, file_bytes=int(sizes[name] * share)))
    assert f"checkpoints/{name}" in error
    assert REFUSED in error

    after = files_in(folder)
    assert after.keys() == before.keys(), "nothing temporary is left"
    changed = {path for path, content in before.items() if after[path] != content}
    assert changed <= {"checkpoints/metrics.jsonl"}
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
