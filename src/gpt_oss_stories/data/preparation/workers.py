"""Worker processes for the time of a preparation."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext

PRELOADED = "gpt_oss_stories.data.preparation.preload"
"""What every worker needs, and takes a second to import and load."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def may_start_workers() -> bool:
    """Whether worker processes can be started from here."""
    if multiprocessing.current_process().daemon or multiprocessing.parent_process() is not None:
        return False  # a worker of somebody else's: no processes of its own
    script = getattr(sys.modules["__main__"], "__file__", None)
    # A program typed into Python's standard input is one that new processes cannot start from.
    return script is None or os.path.exists(script)


POOL_FROM_BYTES = 24_000_000
"""Less than this is done before worker processes have started."""


def usual_workers(input_bytes: int, asked: int | None) -> int:
    """How many workers a preparation has; 1 means that this process does the work itself.

    Args:
        input_bytes: of stories.
        asked: how many somebody asked for, None if nobody did.
    """
    if not may_start_workers():
        return 1
    if asked is not None:
        return asked
    return available_cores() if input_bytes >= POOL_FROM_BYTES else 1


def _start_worker(prepare: Callable[[], object]) -> None:
    """Get a worker ready: load what it needs, leave Ctrl-C to the parent, and end when the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()  # returns when the parent is gone, killed ones included
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    prepare()
    # What is loaded stays; to look through it for garbage again and again takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(20_000)


@contextmanager
def worker_pool(workers: int, prepare: Callable[[], object]) -> Iterator[ProcessPoolExecutor | None]:
    """Worker processes for the time of a block; none where one would do.

    Args:
        workers: how many.
        prepare: what each does first; also done here, once, so that they do not all unpack the same files.
    """
    if workers <= 1:
        yield None
        return
    prepare()
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_start_worker, initargs=(prepare,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _context() -> BaseContext:
    """How workers start. Forking this process, which may run torch's threads, could hang; where it is possible they are
    forked from a process of their own, which imports once for all of them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    return context


def expect_workers() -> None:
    """Have the process started that workers are forked from, so that it imports while this one does something else."""
    if isinstance(_context(), multiprocessing.context.ForkServerContext):
        from multiprocessing.forkserver import ensure_running

        ensure_running()
