"""What somebody could have asked for to be told a story: the story's own facts, as a request."""

from __future__ import annotations

from ...tokenization.conversation import StoryRequest
from ..records import length_of
from .lexicon import words_for
from .telling import Telling


def request_for(w: Telling, theme: str, text: str) -> StoryRequest:
    """The request that this story fulfils."""
    features = list(w.features)
    features.append("dialogue" if '"' in text else "no dialogue at all")
    return StoryRequest(
        age=w.age,
        hero_name=w.hero_name,
        hero_kind=w.kind.name,
        companions=tuple(w.companions),
        setting=w.setting.label,
        theme=theme,
        lesson=w.lesson,
        words=words_for(text, w.random),
        features=tuple(features),
        length=length_of(text),
    )
