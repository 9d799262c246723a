"""Which program made a model: its version, its commit and what it ran on."""

from __future__ import annotations

import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .. import __version__


def program_facts() -> dict[str, Any]:
    """What a model file records about the program that saves it, and when."""
    return {
        "program_version": __version__,
        "git_commit": git_commit(),
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_commit() -> str | None:
    """Commit of the program's own checkout, None if it is not one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    found = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
