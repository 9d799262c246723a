"""Several processes that train one model: the same curve as one, and an end in seconds when one of them is lost."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from gpt_oss_stories.training.checkpoint import read_state
from support.trainings import (
    Job,
    Trainings,
    after_step,
    differences,
    furthest_apart,
    hidden,
    newest_state,
    send,
    training_words,
)

pytestmark = pytest.mark.slow
END_SECONDS = 30
TOLERANCE = 1e-4
STEPS, SAVED = 14, 3
OFTEN = ["--save-interval", str(SAVED), "--eval-interval", "7"]
CURVE = 50
"""Steps over which the curves of one and of several processes are compared."""


def words(data: Path, ranks: int) -> list[str]:
    return training_words(data, steps=STEPS, ranks=ranks, accumulation=2, more=OFTEN)


@pytest.fixture(scope="module")
def together(trainings: Trainings, story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing disturbs."""
    folder = tmp_path_factory.mktemp("together")
    code, said = trainings.run(words(story_file, 2), folder, ranks=2)
    assert code == 0, said
    return folder


def errors(job: Job) -> list[str]:
    return [line for line in job.said.splitlines() if line.startswith("error:")]


def test_two_processes_follow_the_curve_of_one_also_when_their_number_changes(trainings, story_file, tmp_path) -> None:
    for name, parts in {"alone": [(1, None)], "changing": [(2, 15), (1, 30), (2, None)]}.items():
        for ranks, until in parts:
            job = trainings.start(training_words(story_file, steps=CURVE, ranks=ranks), tmp_path / name, ranks=ranks)
            if until is not None:
                send(after_step(job, tmp_path / name, until), signal.SIGTERM)
            assert (job.finish() == 0) == (until is None), job.said
    assert "saved by 1 process(es), going on with 2" in job.said
    assert furthest_apart(tmp_path / "alone", tmp_path / "changing") < TOLERANCE
    states = [read_state(newest_state(tmp_path / name)) for name in ("alone", "changing")]
    assert [state.rows_seen for state in states] == [CURVE * 4] * 2
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "rank"),
    [(signal.SIGTERM, None), (signal.SIGINT, 1)],
    ids=["SIGTERM to torchrun", "SIGINT to one process"],
)
def test_a_signal_to_one_stops_all_with_one_state(number, rank, trainings, story_file, together, tmp_path) -> None:
    job = trainings.start(words(story_file, 2), tmp_path, ranks=2)
    send(after_step(job, tmp_path, 4), number, rank=rank)
    assert job.finish(END_SECONDS) != 0
    assert job.said.count(f"{number.name} received: saving") == 1
    assert job.said.count("stopped at step") == 1
    assert errors(job) == []
    state = newest_state(tmp_path)
    assert f"the same command goes on from checkpoints/{state.name}" in job.said
    code, said = trainings.run(words(story_file, 2), tmp_path, ranks=2)
    assert code == 0, said
    assert f"resuming from checkpoints/{state.name}: " in said
    assert "damaged" not in said
    assert differences(tmp_path, together) == []
    assert hidden(tmp_path) == []


def test_a_killed_process_ends_all_with_one_line(trainings, story_file, together, tmp_path) -> None:
    job = trainings.start(words(story_file, 2), tmp_path, ranks=2)
    after_step(job, tmp_path, 7)
    began = time.monotonic()
    send(job, signal.SIGKILL, rank=0)
    assert job.finish(END_SECONDS) != 0
    assert time.monotonic() - began < END_SECONDS
    (line,) = errors(job)
    assert "process 0 of 2 ended suddenly" in line
    assert f"the last state is checkpoints/{newest_state(tmp_path).name}: start the same command again" in line
    assert "RuntimeError" not in job.said, "no traceback of a process that has only lost its fellow"
    code, said = trainings.run(words(story_file, 2), tmp_path, ranks=2)
    assert code == 0, said
    assert differences(tmp_path, together) == []


def test_torchrun_starts_a_job_again_whose_processes_are_killed(trainings, story_file, together, tmp_path) -> None:
    job = trainings.start(words(story_file, 2), tmp_path, ranks=2, restarts=3)
    for rank, step in ((1, 7), (0, 11)):
        after_step(job, tmp_path, step)
        before = [process.pid for process in job.processes()]
        send(job, signal.SIGKILL, rank=rank)
        while [process.pid for process in job.processes()] == before:
            assert job.code is None, job.said
            time.sleep(0.01)
    assert job.finish() == 0, job.said
    assert len(errors(job)) == 2
    assert job.said.count("resuming from checkpoints/state-") == 2
    assert differences(tmp_path, together) == []
    assert hidden(tmp_path) == []


def test_the_processes_of_two_torchruns_meet_again_after_a_kill(trainings, story_file, together, tmp_path) -> None:
    """Each counts its own restarts, so what one attempt has left in the store must not mislead the next one."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    options = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=two",
               f"--rdzv-endpoint=localhost:{port}", "--local-addr=localhost"]  # fmt: skip
    jobs = [trainings.start(words(story_file, 2), tmp_path, ranks=2, torchrun=options) for _ in range(2)]
    after_step(jobs[0], tmp_path, 7)
    jobs[1].processes()[0].kill()
    assert [job.finish() for job in jobs] == [0, 0], "\n".join(job.said for job in jobs)
    assert len([*errors(jobs[0]), *errors(jobs[1])]) == 1, "the first attempt after it succeeds"
    assert differences(tmp_path, together) == []


def test_an_error_in_all_processes_is_told_by_one(trainings, story_file, together, tmp_path) -> None:
    size = max(path.stat().st_size for path in newest_state(together).iterdir())
    job = trainings.start(words(story_file, 2), tmp_path, ranks=2, file_bytes=size // 2)
    assert job.finish(END_SECONDS) != 0
    (line,) = errors(job)
    assert f"cannot save the training state checkpoints/state-{SAVED:08d}: {os.strerror(errno.EFBIG)};" in line
    assert hidden(tmp_path) == []
    assert not list((tmp_path / "checkpoints").glob("state-*"))
