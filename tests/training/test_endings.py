"""How a run of several processes ends that one of them cannot go on with: who speaks, and what is said."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.training import board as boards
from gpt_oss_stories.training import endings
from gpt_oss_stories.training.board import Board
from gpt_oss_stories.training.distributed import Processes, address_note, attempt_name
from gpt_oss_stories.training.endings import SILENT_CODE, LostProcessError, ending_together, is_loss

GLOO = "[/w/third_party/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:9. This is typically caused by."


@pytest.fixture
def store():
    return dist.HashStore()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(endings, "NOTICING_SECONDS", 0.2)
    monkeypatch.setattr(boards, "PATIENCE_SECONDS", 0.3)


def process(store, rank=0, world_size=3):
    return Processes(rank, rank, world_size, board=Board(store))


def ended(processes, error):
    """How a block ends in which something is raised."""
    with pytest.raises((Exception, SystemExit)) as caught, ending_together(processes, lambda: "the last state is S"):
        raise error
    return caught.value


class Hanging:
    """A store whose host is gone: nothing answers."""

    def __getattr__(self, name):
        return lambda *given: time.sleep(60)


class Broken:
    """A store whose connection is closed."""

    def __getattr__(self, name):
        def refuse(*given):
            raise dist.DistNetworkError("Broken pipe")

        return refuse


def test_only_what_torch_says_of_other_processes_is_a_loss():
    assert is_loss(RuntimeError(GLOO))
    assert is_loss(dist.DistBackendError("NCCL error"))
    assert is_loss(CheckpointException("save", {1: (RuntimeError(GLOO), None)}))
    assert not is_loss(CheckpointException("save", {1: (OSError(28, "full"), None)}))
    assert not is_loss(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_loss(StoryError("Timed out"))
    assert not is_loss(ValueError("gloo"))


def test_the_first_that_notices_a_loss_speaks_and_the_others_are_silent(store):
    first = ended(process(store, 0), RuntimeError(GLOO))
    assert isinstance(first, LostProcessError)
    assert str(first) == (
        "at least one of the processes 1, 2 of 3 no longer answers (Connection closed by peer [::1]:9); "
        "the last state is S: start the same command again"
    )
    other = ended(process(store, 2), RuntimeError(GLOO))
    assert isinstance(other, SystemExit)
    assert other.code == SILENT_CODE


def test_who_does_not_say_that_it_is_there_is_named(store):
    Board(store).write("process 2 is there")
    assert "process 1 of 3 no longer answers" in str(ended(process(store, 0), RuntimeError(GLOO)))


@pytest.mark.skipif(sys.platform == "win32", reason="needs children that are not waited for")
def test_a_process_of_this_machine_that_has_ended_is_named_at_once(store, monkeypatch):
    monkeypatch.setattr(endings, "NOTICING_SECONDS", 60)
    child = subprocess.Popen([sys.executable, "-c", ""])
    Board(store).write(address_note(2), f"{socket.gethostname()} {child.pid}")
    Board(store).write(address_note(1), f"{socket.gethostname()} {os.getpid()}")
    Board(store).write(address_note(0), f"elsewhere {child.pid}")
    try:
        assert "process 2 of 3 ended suddenly (" in str(ended(process(store, 1), RuntimeError(GLOO)))
    finally:
        child.wait()


def test_an_error_of_a_process_is_told_by_it_and_by_nobody_else(store):
    mine = StoryError("the shard is damaged")
    assert ended(process(store, 1), mine) is mine
    assert isinstance(ended(process(store, 0), RuntimeError(GLOO)), SystemExit)
    assert isinstance(ended(process(store, 2), StoryError("the shard is damaged")), SystemExit)


def test_a_fault_of_the_program_keeps_its_traceback_in_every_process(store):
    for rank in (0, 1):
        fault = KeyError("name")
        assert ended(process(store, rank), fault) is fault
    assert isinstance(ended(process(store, 2), RuntimeError(GLOO)), SystemExit), "its traceback says why"


def test_blocks_may_be_nested(store):
    processes, mine = process(store), StoryError("no")
    with pytest.raises(StoryError) as caught, ending_together(processes, str), ending_together(processes, str):
        raise mine
    assert caught.value is mine
    lost = process(dist.HashStore())
    with pytest.raises(LostProcessError), ending_together(lost, str), ending_together(lost, str):
        raise RuntimeError(GLOO)


def test_one_process_changes_nothing():
    error = RuntimeError(GLOO)
    assert ended(Processes(), error) is error


@pytest.mark.parametrize("broken", [Hanging(), Broken()], ids=["silent", "closed"])
def test_without_the_store_each_speaks_and_soon(broken):
    began = time.monotonic()
    error = ended(Processes(1, 1, 2, board=Board(broken)), RuntimeError(GLOO))
    assert "another of 2 processes no longer answers" in str(error)
    assert time.monotonic() - began < 2


def test_the_line_is_in_the_report_of_torchrun(store, tmp_path, monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    ended(process(store), StoryError("no space"))
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(tmp_path / "error.json"))
    assert failure.message["extraInfo"]["py_callstack"] == "no space"
    assert abs(failure.timestamp - time.time()) < 60
    assert json.loads(Path(tmp_path / "error.json").read_text())["message"]["message"] == "no space"


def test_a_termination_does_not_cut_the_word_short(store, monkeypatch):
    heard = []
    monkeypatch.setattr(endings, "report_to_torchrun", lambda line: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda *given: heard.append(given))
    try:
        assert isinstance(ended(process(store), StoryError("no space")), StoryError)
        assert heard == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(heard) == 1, "afterwards it is as before"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_processes_wait_for_the_main_one_and_hear_of_its_failure(store):
    main, other = process(store, 0), process(store, 1)
    main.wait_for_main("preparing")
    other.wait_for_main("preparing")
    ended(main, StoryError("no stories"))
    with pytest.raises(dist.DistError, match="main process has ended: counting"):
        other.wait_for_main("counting")
    Processes().wait_for_main("anything")


def agree(store, names, ranks):
    """The processes of an attempt, as threads, each of which leaves the name that it finds."""

    def join(rank):
        names[rank] = attempt_name(store, rank, 3, timeout=timedelta(seconds=20))

    threads = [threading.Thread(target=join, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    return threads


def test_each_attempt_finds_a_name_of_its_own_whatever_the_one_before_has_left(store):
    found = []
    for late in (2, 0, 1):
        names = {}
        threads = agree(store, names, [rank for rank in range(3) if rank != late])
        time.sleep(0.3)
        assert names == {}, "what a process of the attempt before has left does not stand for one that is still to come"
        for thread in [*threads, *agree(store, names, [late])]:
            thread.join()
        assert len(names) == 3
        assert len(set(names.values())) == 1
        found.append(names[0])
    assert len(set(found)) == 3


def test_an_attempt_in_which_a_process_is_missing_is_given_up(store):
    store.set("words", "a b c")
    with pytest.raises(RuntimeError, match="no agreement after 0 seconds"):
        attempt_name(store, 1, 3, timeout=timedelta(seconds=0.2))


class Slow:
    """A store that answers after some seconds."""

    def __init__(self, store, seconds):
        self.store, self.seconds = store, seconds

    def __getattr__(self, name):
        def answer(*given):
            time.sleep(self.seconds)
            return getattr(self.store, name)(*given)

        return answer


def test_a_slow_answer_does_not_end_the_waiting_for_the_main_process(store):
    slow = Slow(store, 0.5)  # longer than the usual patience
    main, other = process(slow, 0), process(slow, 1)
    other.board.write(address_note(1))
    assert other.board.gone
    main.wait_for_main("preparing")
    assert store.check(["preparing"])
    other.wait_for_main("preparing")
    assert not other.board.gone


@pytest.mark.parametrize("rank", [0, 1])
def test_waiting_for_the_main_process_ends_when_the_board_is_silent_for_the_timeout(rank):
    began = time.monotonic()
    one = dataclasses.replace(process(Hanging(), rank), timeout=timedelta(seconds=0.6))
    with pytest.raises(dist.DistError, match="preparing"):
        one.wait_for_main("preparing")
    assert 0.6 <= time.monotonic() - began < 5


def test_without_a_board_all_wait_for_the_main_process_in_the_group_of_the_caller(monkeypatch):
    waited = []
    monkeypatch.setattr(dist, "barrier", lambda group: waited.append(group))
    Processes(1, 1, 2).wait_for_main("preparing")
    assert waited == [None]
