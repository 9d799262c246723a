"""What every worker needs, imported and loaded once: by the process that workers are forked from."""

from __future__ import annotations

import contextlib
import logging
from importlib import import_module

from ...errors import StoryError
from ...tokenization import harmony_vocabulary
from . import stages

__all__ = ["stages"]

with contextlib.suppress(ImportError):
    import_module("pandas")  # pyarrow imports it for its first table, where it is installed
import pyarrow.parquet  # noqa: F401

try:
    harmony_vocabulary()
except StoryError as error:  # each worker will say so, where somebody hears it
    logging.getLogger(__name__).debug("%s", error)
