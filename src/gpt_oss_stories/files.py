"""Writing files so that a reader finds either the old content or the new one, never half of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import StoryError


class FileWriteError(StoryError):
    """A file could not be written: the disk is full, or the place is read-only."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes `path`'s place when the block ends well.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and the file is renamed. After an
    error the temporary file is gone and what stood at `path` before is untouched.

    Raises:
        FileWriteError: the operating system refused (no space, no permission, not a folder).
    """
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _give_usual_rights(temporary, 0o666)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise FileWriteError(
            f"cannot write {target}: {error.strerror or error}; what stood there before is unchanged. "
            "Free some space or choose another folder."
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _give_usual_rights(path: str | Path, rights: int) -> None:
    """What is made under a temporary name may only be read by its owner; give it what a new file would have."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, rights & ~mask)


@contextmanager
def staged_directory(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A new directory that takes `path`'s place when the block ends well; after an error it is gone.

    Args:
        replace: whether a directory that stands there already may be replaced; an empty one always may.

    Raises:
        FileWriteError: something stands at `path` and may not be replaced, or the operating system refused.
    """
    target = Path(path)
    try:
        if target.exists() and not (target.is_dir() and (replace or not any(target.iterdir()))):
            raise FileWriteError(f"{target} exists already and is not replaced: choose another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    except OSError as error:
        raise FileWriteError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield staging
        _give_usual_rights(staging, 0o777)
        old = None
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
            os.replace(target, old)
        os.replace(staging, target)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise FileWriteError(
            f"cannot write {target}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    finally:
        if staging.exists():
            shutil.rmtree(staging, ignore_errors=True)


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file through `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def sha256_of_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
