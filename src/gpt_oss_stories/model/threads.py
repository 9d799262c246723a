"""How many cores a decoding step should use: found out by trying, while stories are told.

Each of a step's products is over in tens of microseconds. Cores that share it must meet after each, which pays on an
idle machine. Where another program keeps one of them busy, all others wait for the one that lost its turn, dozens of
times in a step, and one core alone is several times as fast. Which of the two it is changes while stories are told; and
a small model is fastest on one core anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

TRIES = 3
"""Steps with each number of threads, of which the fastest counts: the first may have to wake sleeping threads."""

WORTHWHILE = 0.9
"""More threads must make a step at least this much shorter."""

HOPELESS = 2.0
"""A number of threads that is this many times slower than a smaller one gets two tries."""

SLOW = 3.0
"""A step that takes this many times as long as those of the last trial starts a new one."""

PATIENCE = 64, 1024
"""Steps with fewer threads than there are before the others get another chance: at first, and at most."""


class ThreadChoice:
    """The number of threads for steps of about the same size.

    Attributes:
        threads: for the next step; `took` must be told how long that was.
    """

    def __init__(self, most: int) -> None:
        self._counts = [1 << power for power in range((most - 1).bit_length())] + [most]
        self._patience = PATIENCE[0]
        self._start_trial()

    def _start_trial(self) -> None:
        self._tried: list[list[float]] = [[]]
        self.threads = self._counts[0]
        self._is_trial = len(self._counts) > 1
        self._fastest, self._held = 0.0, 0

    def took(self, seconds: float) -> None:
        """Learn from a step with `threads` threads."""
        if self._is_trial:
            self._try(seconds)
            return
        self._held += 1
        has_slowed_down = self.threads > 1 and seconds > SLOW * self._fastest
        is_fewer = self.threads < self._counts[-1]
        if has_slowed_down or (is_fewer and self._held >= self._patience):
            self._start_trial()

    def _try(self, seconds: float) -> None:
        times = self._tried[-1]
        times.append(seconds)
        hopeless = len(times) == 2 and any(min(times) > HOPELESS * min(fewer) for fewer in self._tried[:-1])
        if len(times) < TRIES and not hopeless:
            return
        if len(self._tried) < len(self._counts):
            self.threads = self._counts[len(self._tried)]
            self._tried.append([])
            return
        self._fastest = float("inf")
        for count, tried in zip(self._counts, self._tried, strict=True):
            if min(tried) < WORTHWHILE * self._fastest:
                self.threads, self._fastest = count, min(tried)
        self._is_trial = False
        waits_longer = self.threads < self._counts[-1]
        self._patience = min(2 * self._patience, PATIENCE[1]) if waits_longer else PATIENCE[0]


class StepThreads:
    """Sets torch's threads for decoding steps, and back to what they were after each."""

    def __init__(self) -> None:
        self._choices: dict[tuple[int, int], ThreadChoice] = {}

    @contextmanager
    def for_step(self, tokens: int) -> Iterator[None]:
        """A step that reads so many tokens."""
        most = torch.get_num_threads()
        size = tokens.bit_length()
        choice = self._choices.get((size, most))
        if choice is None:
            choice = self._choices[size, most] = ThreadChoice(most)
        began = perf_counter()
        if choice.threads != most:
            torch.set_num_threads(choice.threads)
        try:
            yield
        finally:
            if choice.threads != most:
                torch.set_num_threads(most)
        choice.took(perf_counter() - began)
