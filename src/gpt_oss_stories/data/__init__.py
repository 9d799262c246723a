"""From stories to batches: sources, cleaning, token shards, packing, and the built-in storybook.

    prepare(DataConfig(...))    stories to shards (`pipeline`), reused when they are there
    BatchStream(shard, ...)     shards to packed batches (`batches`)
    read_stories(path)          checked stories from files (`sources`)

The names below are imported when they are first used: only `batches` needs torch, which takes a second to load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Batch, BatchStream, validation_batches
    from .originals import original_stories
    from .pipeline import PreparedData, load_prepared, prepare
    from .records import StoryRecord
    from .shards import ShardError, TokenShard
    from .sources import DataError, StoryReader, read_stories

_HOMES = {
    "Batch": "batches",
    "BatchStream": "batches",
    "DataError": "sources",
    "PreparedData": "pipeline",
    "ShardError": "shards",
    "StoryReader": "sources",
    "StoryRecord": "records",
    "TokenShard": "shards",
    "load_prepared": "pipeline",
    "original_stories": "originals",
    "prepare": "pipeline",
    "read_stories": "sources",
    "validation_batches": "batches",
}

__all__ = [
    "Batch",
    "BatchStream",
    "DataError",
    "PreparedData",
    "ShardError",
    "StoryReader",
    "StoryRecord",
    "TokenShard",
    "load_prepared",
    "original_stories",
    "prepare",
    "read_stories",
    "validation_batches",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
