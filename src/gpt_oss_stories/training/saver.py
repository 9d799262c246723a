"""Saving training states while training goes on.

What is saved is copied first, which takes a fraction of the time of writing it; a thread then writes the copy. The
next save, an evaluation's result or the end of the run wait until it is on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from . import checkpoint
from .checkpoint import RunState
from .distributed import Processes

_STAGING = StagingOptions(
    use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
)


class Saver:
    """Writes the states of one run, one at a time; a context manager that waits for the last one."""

    def __init__(self, directory: Path, processes: Processes, *, keep: int, background: bool) -> None:
        """
        Args:
            directory: checkpoint folder.
            processes: who takes part; together.
            keep: newest states that stay.
            background: write a copy while training goes on.
        """
        self._directory, self._keep = directory, keep
        self._processes = processes.over_another_channel() if background else processes
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="saving") if background else None
        self._writing: Future[Path] | None = None

    def save(self, state: RunState, tensors: Mapping[str, Tensor]) -> None:
        """Begin to save a state, when the one before is on the disk; together.

        Raises:
            FileWriteError: this state, or the one before, cannot be written.
        """
        self.wait()
        if self._writer is None:
            checkpoint.save_state(self._directory, state, tensors, self._processes, keep=self._keep)
            return
        copies = DefaultStager(_STAGING).stage(dict(tensors))
        assert isinstance(copies, dict)
        self._writing = self._writer.submit(
            checkpoint.save_state, self._directory, state, copies, self._processes, keep=self._keep
        )

    def wait(self) -> None:
        """Return when all that was to be saved is on the disk.

        Raises:
            FileWriteError: it cannot be written; earlier states are unchanged.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.shutdown()
        if error is None:
            self.wait()
