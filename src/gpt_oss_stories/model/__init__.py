"""The GPT-OSS transformer, one mechanism per file."""

from .kv_cache import ContextLengthError, KVCache
from .transformer import Losses, StoryTransformer

__all__ = ["ContextLengthError", "KVCache", "Losses", "StoryTransformer"]
