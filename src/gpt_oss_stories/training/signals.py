"""Ending a run by a signal without losing what it has learnt.

SIGINT is Ctrl-C, SIGTERM what `kill` and batch systems send, and SIGUSR1 what Slurm can be asked to send some time
before a job's limit (`--signal=USR1@120`).
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from .display import Speaker

HANDLED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""SIGUSR1 does not exist on Windows."""


class Signals:
    """Remembers these signals instead of dying of them; a second SIGINT is obeyed at once. A context manager."""

    def __init__(self, say: Speaker) -> None:
        self.received: int | None = None
        """Number of the signal that came last."""
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Nothing is printed here: the signal may have come in the middle of a line that is being printed.
        self.received = number
