"""Time that only goes forward."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds that have passed, by the monotonic clock, which a change of the date does not touch.

    A clock that goes backwards all the same (a virtual machine that is moved, a driver's fault) stands still for the
    watch: what it says never falls, and time that passes after the jump counts again.
    """

    def __init__(self, before: float = 0.0) -> None:
        """
        Args:
            before: seconds that count as passed already.
        """
        self._seconds, self._last = before, time.monotonic()

    def seconds(self) -> float:
        """Seconds since the watch was made, and those before."""
        now = time.monotonic()
        self._seconds += max(0.0, now - self._last)
        self._last = now
        return self._seconds
