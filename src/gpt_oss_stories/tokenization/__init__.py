"""From text to tokens and back: the harmony and story vocabularies and the conversation format.

This is the one place where text becomes tokens. Importing it reads no vocabulary; `harmony_vocabulary()` does.
"""

from __future__ import annotations

from .conversation import (
    Question,
    Rendered,
    RequestError,
    StoryRequest,
    render_conversation,
    render_prompt,
    render_story,
    stop_tokens,
    story_prompt,
)
from .harmony import HarmonyVocabulary, harmony_vocabulary
from .loading import vocabulary_from_dict
from .story_vocabulary import StoryVocabulary, build_story_vocabulary
from .vocabulary import StreamDecoder, TokenizationError, Vocabulary, count_tokens

__all__ = [
    "HarmonyVocabulary",
    "Question",
    "Rendered",
    "RequestError",
    "StoryRequest",
    "StoryVocabulary",
    "StreamDecoder",
    "TokenizationError",
    "Vocabulary",
    "build_story_vocabulary",
    "count_tokens",
    "harmony_vocabulary",
    "render_conversation",
    "render_prompt",
    "render_story",
    "stop_tokens",
    "story_prompt",
    "vocabulary_from_dict",
]
