"""What has to be right about the process before torch is imported: which Python runs, and how its threads wait.

`python3 src/run_training.py` should work for a person who ran `./setup.sh` and never heard of virtual environments.
This module imports only the standard library, since it runs before anything else can be imported.
"""

from __future__ import annotations

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
