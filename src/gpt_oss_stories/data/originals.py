"""The original stories that ship in the package: 1,299 of them, written for this project, with requests and questions.

They are in the public domain (CC0 1.0); `assets/README.md` describes their fields.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from functools import cache
from importlib import resources

from .records import StoryRecord
from .sources import DataError, record_of_fields

ORIGINAL_STORIES_SHA256 = "bb0b344670b3a7d57e2a08ed29648f0167520e4e440a3d6e9e47e262290aa408"
"""Hash of the uncompressed file."""

_ASSET = "original_stories.jsonl.gz"


def original_stories() -> list[StoryRecord]:
    """The written stories of the package, each with its request, summary and questions, in their fixed order.

    Raises:
        DataError: the packaged file is missing or is not the one that was packaged.
    """
    return list(_load())


@cache
def _load() -> tuple[StoryRecord, ...]:
    asset = resources.files(__package__) / "assets" / _ASSET
    return parse_original_stories(asset.read_bytes() if asset.is_file() else b"")


def parse_original_stories(compressed: bytes) -> tuple[StoryRecord, ...]:
    """The records in a gzipped file of original stories, after its content's hash was checked.

    Raises:
        DataError: the content is not that of the packaged file.
    """
    try:
        content = gzip.decompress(compressed)
    except (OSError, EOFError, zlib.error):
        content = b""
    if hashlib.sha256(content).hexdigest() != ORIGINAL_STORIES_SHA256:
        raise DataError(
            f"the package's own stories ({_ASSET}) are damaged or missing: the content's sha256 does not begin with "
            f"{ORIGINAL_STORIES_SHA256[:12]}. Install the package again"
        )
    ignored: Counter[str] = Counter()
    rows = (json.loads(line) for line in content.splitlines())
    return tuple(record_of_fields({**row, "license": "CC0-1.0"}, source="original", ignored=ignored) for row in rows)
