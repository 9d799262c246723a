"""What the tests of full disks, sudden ends and hostile input share: small runs, and processes that start quickly."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from support.trainings import Trainings, write_stories

PROCESS_STARTER = """
import ctypes, json, os, resource, signal, sys, threading
import matplotlib.backends.backend_agg, matplotlib.figure, torch._dynamo  # once for all: importing takes seconds
import gpt_oss_stories.generation.engine, gpt_oss_stories.training.trainer
from gpt_oss_stories.cli import main

def give_up_rights():
    # Root may read and write everything; without two of its capabilities it is a user like any other.
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~0b110
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")

for line in sys.stdin:
    order = json.loads(line)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(order["out"], os.O_WRONLY) if order["out"] else writer, 1)
        os.dup2(writer, 2)
        os.chdir(order["folder"])
        if order["file_bytes"] is not None:
            sys.dont_write_bytecode = True  # Python itself would keep half of what it compiled
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"],) * 2)
        if order["more_memory"] is not None:
            now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + order["more_memory"],) * 2)
        if order["without_rights"] and os.geteuid() == 0:
            give_up_rights()
        code = 70
        try:
            code = main(order["words"])
            sys.stdout.flush()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    timer = threading.Timer(order["kill_after"], os.kill, (child, signal.SIGKILL))
    timer.start()
    with open(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    print(json.dumps([os.waitstatus_to_exitcode(status), said.decode("utf-8", "replace")]), flush=True)
"""


@dataclass
class Starter:
    """Runs the command `stories` in processes of their own, which are forked from one that has imported everything."""

    orders: IO[str]
    answers: IO[str]

    def run(
        self,
        words: str | Sequence[str],
        folder: Path,
        *,
        out: str | None = None,
        file_bytes: int | None = None,
        more_memory: int | None = None,
        without_rights: bool = False,
        kill_after: float = 60,
    ) -> tuple[int, str]:
        """The exit code (minus the signal's number for one that was killed) and all that was said.

        Args:
            words: what follows `stories`.
            folder: where to run.
            out: a file for standard output, which is part of what was said when not given.
            file_bytes: no file may become longer, as if the disk were full.
            more_memory: bytes that may be taken on top of what a process has at its start.
            without_rights: even root is refused what a file's or folder's mode refuses.
            kill_after: seconds before SIGKILL.
        """
        order = {
            "words": shlex.split(words) if isinstance(words, str) else list(words),
            "folder": str(folder),
            "out": out,
            "file_bytes": file_bytes,
            "more_memory": more_memory,
            "without_rights": without_rights,
            "kill_after": kill_after,
        }
        print(json.dumps(order), file=self.orders, flush=True)
        code, said = json.loads(self.answers.readline())
        return code, said


@pytest.fixture(scope="session")
def stories(commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """The command `stories`."""
    process: subprocess.Popen[str] = commands.start(
        [sys.executable, "-c", PROCESS_STARTER], tmp_path_factory.mktemp("run")
    )
    yield Starter(process.stdin, process.stdout)
    commands.finish(process)


SMALL = shlex.split(
    "--storybook-stories 40 --first-readers 20 --original-repeats 0 --training-preset debug --learning-rate 3e-3 "
    "--n-layer 1 --n-head 4 --n-embd 32 --num-experts 2 --block-size 64 --batch-size 2 --eval-iters 1 --log-interval 1"
)


@pytest.fixture(scope="session")
def small() -> list[str]:
    """The command that trains a small model."""
    return ["train", *SMALL]


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Starts training jobs of several processes, too."""
    with Trainings(tmp_path_factory.mktemp("logs")) as started:
        yield started


@pytest.fixture(scope="session")
def story_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What these jobs train on."""
    path = tmp_path_factory.mktemp("stories") / "stories.jsonl"
    write_stories(path)
    return path
