"""Numbers that are the same on every machine, from which the storybook draws everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b

from ..records import StoryRecord

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """One well-spread 64-bit number from several, the same on every machine (splitmix64, Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def distinct(write: Callable[[int], StoryRecord], count: int, seed: int) -> Iterator[StoryRecord]:
    """Records whose texts all differ, written from numbers that `seed` leads to."""
    told: set[bytes] = set()
    index = 0
    while len(told) < count:
        record = write(mix(seed, index))
        index += 1
        digest = blake2b(record.text.encode(), digest_size=12).digest()
        if digest not in told:
            told.add(digest)
            yield record
