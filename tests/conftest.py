"""What all tests share: no network, one thread, no windows, nothing kept from the user's own environment."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]

# Before torch is imported: on a machine with few cores, threads that wait for each other make small tests slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
# A test must not see that the test run itself was started by a front door or by torchrun.
for name in ("GPT_OSS_STORIES_SWITCHED_PYTHON", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
    os.environ.pop(name, None)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse connections that leave the machine: a test that needs one would pass here and fail elsewhere."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


@pytest.fixture(autouse=True)
def same_arithmetic() -> Iterator[None]:
    """Undo what a test changed for the whole process: training sets the number of threads."""
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if threads is not None and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that benchmarks share; its folder stays off the path, since files in it have names of packages.
    Questions that a test loads with it are gone after the test."""
    spec = importlib.util.spec_from_file_location("house", PROJECT / "benchmarks" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "house", module)
    before = set(sys.modules)
    spec.loader.exec_module(module)
    yield module
    for name in set(sys.modules) - before:
        if name.startswith("benchmark_"):
            del sys.modules[name]


class Commands:
    """Runs programs as a user in the project's environment would, from a folder of their own."""

    def start(self, words: Sequence[str], folder: Path, **variables: str) -> subprocess.Popen[str]:
        # wandb, used by an earlier test in this process, leaves the address of its service, which a program would join.
        left_out = ("PYTHON", "PYTEST", "WANDB_SERVICE", "WANDB__SERVICE")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        environment |= {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(PROJECT / "src"),
            "COLUMNS": "200",
            **variables,
        }
        return subprocess.Popen(
            list(words),
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(
        self, process: subprocess.Popen[str], *, typed: str = "", seconds: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """What a program said; one that takes too long is ended with all that it started, and fails the test."""
        try:
            out, err = process.communicate(typed, timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"{process.args} took longer than {seconds} seconds\n{out}\n{err}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(
        self, words: Sequence[str], folder: Path, *, typed: str = "", seconds: float = 300, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return self.finish(self.start(words, folder, **variables), typed=typed, seconds=seconds)


@pytest.fixture(scope="session")
def commands() -> Commands:
    """Starts the project's commands, and other programs, for real."""
    return Commands()
