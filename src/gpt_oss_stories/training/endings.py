"""The end of a run of several processes that one of them cannot go on with: one says why, the others end silently.

A process that ends closes its connections, and whatever its fellows exchange with it fails at once. One that has lost
its machine or its network is noticed when `process_timeout` is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from ..errors import StoryError
from .board import FAILED
from .distributed import DistributedError, Processes, address_note

SILENT_CODE = 2
"""Exit code of a process that leaves the last word to another: that of an error which the command line explains."""

NOTICING_SECONDS = 1.5
"""How long others may take to notice that one is gone."""

_SIGNS = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out")


class LostProcessError(DistributedError):
    """Another process has ended, or does not answer."""


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process cannot be reached: torch has a class of its own for few of them."""
    if isinstance(error, CheckpointException):
        return any(is_loss(wrapped[0]) for wrapped in error.failures.values())
    if isinstance(error, StoryError) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def ending_together(processes: Processes, last_state: Callable[[], str]) -> Iterator[None]:
    """Let one process say why a run ends: the first that fails. Blocks may be nested.

    Args:
        processes: who takes part; with one process nothing changes.
        last_state: what remains of the run, in words.

    Raises:
        LostProcessError: another process is gone, and this is the first to notice.
        StoryError: the block's own, in the first process that fails.
        SystemExit: with `SILENT_CODE`; another process says why.
    """
    try:
        yield
    except Exception as error:
        board = processes.board
        lost = is_loss(error)
        if board is None or isinstance(error, LostProcessError):
            raise
        if getattr(error, "told", False):  # by a block within
            raise
        # torchrun ends the others as soon as one has ended: not before the word is out.
        with _deaf_to_termination():
            if lost:
                board.write(_noticed(processes.rank))
            first = board.is_first(FAILED)
            if not lost and not isinstance(error, StoryError):
                raise  # a fault of the program keeps its traceback
            if not first:
                raise SystemExit(SILENT_CODE) from None
            if lost:
                error = LostProcessError(
                    f"{_who_is_gone(processes)} ({_reason(error)}); {last_state()}: start the same command again"
                )
            error.told = True  # type: ignore[attr-defined]
            report_to_torchrun(str(error))
            raise error from None


def _reason(error: BaseException) -> str:
    """torch's words without its source file and advice."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[\S*\] ", "", text).partition(". ")[0][:150]


def _who_is_gone(processes: Processes) -> str:
    """Those of this machine that have ended, and otherwise those of others that do not say soon that they are there."""
    board, count = processes.board, processes.world_size
    assert board is not None
    others = [rank for rank in range(count) if rank != processes.rank]
    began = time.monotonic()
    while not board.gone and time.monotonic() - began < NOTICING_SECONDS:
        ended = [rank for rank in others if _has_ended(board.read(address_note(rank)))]
        if ended:
            return f"process{'es' * (len(ended) > 1)} {', '.join(map(str, ended))} of {count} ended suddenly"
        time.sleep(0.05)
    silent = [rank for rank in others if not board.written(_noticed(rank))]
    if board.gone or not silent:
        return f"another of {count} processes no longer answers"
    if len(silent) == 1:
        return f"process {silent[0]} of {count} no longer answers"
    return f"at least one of the processes {', '.join(map(str, silent))} of {count} no longer answers"


def _noticed(rank: int) -> str:
    return f"process {rank} is there"


def _has_ended(address: str | None) -> bool:
    """Whether a process of this machine has ended; False for one of another machine."""
    import psutil

    host, _, pid = (address or "").rpartition(" ")
    if host != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def report_to_torchrun(message: str) -> None:
    """Put a line into the report that torchrun makes of a failed job; nothing without torchrun."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError):  # the line is printed as well
            extra = {"py_callstack": message, "timestamp": str(int(time.time()))}  # torchrun shows the first
            Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))


@contextlib.contextmanager
def _deaf_to_termination() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
