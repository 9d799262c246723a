"""Where a run's time goes: waiting for data, forward, backward, optimizer, evaluation, saving.

On a CPU each part is timed by the clock. A GPU works behind the program's back, so the parts that run on it are timed
by events in its own stream of work: from when the GPU reaches the part to when it is done with it, waiting for the
program included. Events are read when they have passed, so that nothing waits for the GPU because of them. (CUDA's and
MPS's events follow torch's documentation; they were not run on such a device.)

What is in no part (recording, drawing, waiting for other processes to count targets) is in none; the parts of one
stretch of training need not add up to it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

PARTS = ("data", "forward", "backward", "optimizer", "evaluation", "saving")
"""Forward includes the loss and its gradient with respect to what the unembedding reads (see `model.loss`); with
several processes backward and optimizer include waiting for each other's gradients. Saving is what training waits for:
the copy, and the writing where it is not done in the background."""


class TimeSplit:
    """Adds up the seconds of each part since they were last taken."""

    def __init__(
        self,
        device: torch.device,
        *,
        clock: Callable[[], float] = time.monotonic,
        new_event: Callable[[], Any] | None = None,
    ) -> None:
        """
        Args:
            device: where forward, backward and optimizer run.
            clock: seconds that only differences are taken of; one that goes back counts as standing still.
            new_event: makes a device's event; `device_event(device)` if not given. For tests.
        """
        self._clock = clock
        self._new_event = device_event(device) if new_event is None else new_event
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._open: list[str] = []
        self._since = self._taken = clock()
        self._events: deque[tuple[str, Any, Any]] = deque()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block as one of `PARTS`. A part inside another counts for the inner one only."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    @contextmanager
    def device_part(self, name: str) -> Iterator[None]:
        """Time a block whose work is on the device, by the device's events if it has any; holds no other part."""
        if self._new_event is None:
            with self.part(name):
                yield
            return
        begin, end = self._new_event(), self._new_event()
        begin.record()
        try:
            yield
        finally:
            end.record()
            self._events.append((name, begin, end))
            self._read_events(wait=False)

    def take(self) -> tuple[dict[str, float], float]:
        """Seconds of each part, and all seconds that have passed, since they were last taken. Waits for the device."""
        self._charge()
        self._read_events(wait=True)
        taken, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        now = self._clock()
        passed, self._taken = max(0.0, now - self._taken), now
        return taken, passed

    def _charge(self) -> None:
        """Give the time since the last look at the clock to the part that is open."""
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] += max(0.0, now - self._since)
        self._since = now

    def _read_events(self, *, wait: bool) -> None:
        """Add up the parts that the device has passed, in their order."""
        if wait and self._events:
            self._events[-1][2].synchronize()
        while self._events and self._events[0][2].query():
            name, begin, end = self._events.popleft()
            self._seconds[name] += max(0.0, begin.elapsed_time(end) / 1000.0)  # events tell milliseconds


def device_event(device: torch.device) -> Callable[[], Any] | None:
    """What makes events that are timed by a device itself; None where the program's clock tells the same."""
    if device.type == "cuda":
        return lambda: torch.cuda.Event(enable_timing=True)
    if device.type == "mps":
        return lambda: torch.mps.event.Event(enable_timing=True)
    return None
