"""What has to be right about the process before torch is imported: which Python runs, how its threads wait, in which
pages its memory comes, and what becomes of memory that it frees.

`python3 src/run_training.py` should work for a person who ran `./setup.sh` and never heard of virtual environments.
This module imports only the standard library, since it runs before anything else can be imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from pathlib import Path

NEEDED = ("torch", "click", "rich", "openai_harmony")
"""Libraries without which no command works; one that is missing means this is not the project's environment."""

SWITCHED = "GPT_OSS_STORIES_SWITCHED_PYTHON"
"""Environment variable that marks the second start, so that a broken environment cannot start itself forever."""

SPIN_COUNT = "2000"
"""Rounds that a thread of GNU OpenMP, which torch uses on Linux, waits busily before it sleeps."""


MALLOC_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 27),
    "MALLOC_TRIM_THRESHOLD_": (-1, (1 << 31) - 1),
    "MALLOC_TOP_PAD_": (-2, 1 << 26),
}
"""GNU malloc: hand out blocks below 128 MiB from the heap, and give none of it back to the system while less than 2 GiB
stand free. Larger ones, tables of 200,000 tokens, would leave holes that nothing else fits into. Environment variables
with numbers of parameters, as in malloc.h, and values in bytes."""

HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""torch's setting to ask Linux for pages of 2 MB rather than 4 kB, for tensors that large."""


def keep_freed_memory() -> None:
    """Let the C library keep what the process frees, for the next time.

    By default large blocks come from the system each time, which clears every page of them: in a training step, which
    makes and drops gigabytes of intermediate results, that costs more than many of the results themselves. What the
    user has set stays; elsewhere than with GNU malloc nothing is changed.
    """
    if any(name in os.environ for name in MALLOC_SETTINGS):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (an AttributeError elsewhere)
        for parameter, value in MALLOC_SETTINGS.values():
            library.mallopt(parameter, value)


def use_huge_pages() -> None:
    """Ask for large pages, of which a table takes few; call this before torch is imported.

    The processor finds them sooner, and the system clears them faster. What the user has set stays, and systems without
    such pages ignore it.
    """
    for name, value in HUGE_PAGES.items():
        os.environ.setdefault(name, value)


def let_waiting_threads_sleep() -> None:
    """Keep threads that wait for each other from using up the cores; call this before torch is imported.

    By default they wait busily for milliseconds. When another program needs a core, the thread that everybody waits for
    gets none, and a training step takes many times as long. What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def missing_libraries() -> list[str]:
    """The libraries of `NEEDED` that the running Python cannot find, without importing any."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def use_project_environment(project: Path) -> None:
    """Go on in `project`/.venv when the running Python lacks the libraries; return when it has them.

    Starting anew keeps the arguments and the environment, torchrun's variables included, so each of its processes may
    switch by itself.

    Raises:
        SystemExit: there is no environment to switch to, or it lacks the libraries too.
    """
    missing = missing_libraries()
    if not missing:
        os.environ.pop(SWITCHED, None)  # programs started from here choose for themselves
        return
    lacks = f"{sys.executable} has no {', '.join(missing)}"
    python = project / ".venv" / "bin" / "python"
    if os.environ.get(SWITCHED) or Path(sys.prefix) == python.parent.parent:
        raise SystemExit(f"error: {lacks}: the environment in {project / '.venv'} is incomplete; run ./setup.sh")
    if not python.exists():
        raise SystemExit(f"error: {lacks}, and there is no environment in {project / '.venv'}; run ./setup.sh first")
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {lacks}; going on with {python}", file=sys.stderr, flush=True)
    os.environ[SWITCHED] = "1"
    os.execv(python, [str(python), *sys.argv])
