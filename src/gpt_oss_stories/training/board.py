"""Short notes that all processes of a run can read: the store over which they found each other.

Collective operations fail when a process is gone; the store is still there, since torchrun keeps it. Nothing here
fails, or waits for longer than it is told to: the store may be gone too, or the network between.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from torch.distributed.distributed_c10d import Store

PATIENCE_SECONDS = 3.0
"""How long a note may take, to be written or to be read, if nothing else is said."""

FAILED = "somebody says why"
"""The note of the first process that fails."""

_Answer = TypeVar("_Answer")


class Board:
    """Notes of one run's processes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.gone = False
        """The store did not answer when it was last asked. Only those who say how long they wait ask it again."""

    def write(self, note: str, text: str = "", *, patience: float | None = None) -> None:
        """Put up a note; `gone` tells whether that failed. For `patience` see `written`."""
        self._ask(lambda: self._store.set(note, text), patience)

    def read(self, note: str) -> str | None:
        """What a note says; None if it is not there, or the store does not answer."""
        return self._ask(lambda: self._store.get(note).decode()) if self.written(note) else None

    def written(self, note: str, *, patience: float | None = None) -> bool:
        """Whether anybody has put up a note; False if the store does not answer.

        Args:
            patience: seconds to wait for the answer, also of a store that did not answer before; `PATIENCE_SECONDS`
                when not given.
        """
        return bool(self._ask(lambda: self._store.check([note]), patience))

    def is_first(self, note: str) -> bool:
        """Put up a note; whether nobody has before. True if the store does not answer: then nobody can know."""
        number = self._ask(lambda: self._store.add(note, 1))
        return number is None or number == 1

    def _ask(self, question: Callable[[], _Answer], patience: float | None = None) -> _Answer | None:
        """The store's answer, if there is one in time. A call that hangs stays behind in a thread of its own."""
        if self.gone and patience is None:
            return None
        answers: list[_Answer] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):  # the connection is gone
                answers.append(question())

        thread = threading.Thread(target=ask, daemon=True, name="board")
        thread.start()
        thread.join(PATIENCE_SECONDS if patience is None else patience)
        self.gone = not answers
        return answers[0] if answers else None
