"""From logits to stories: sampling, stopping, the engine, and the ways to listen to it."""

from .engine import GenerationError, Story, StoryStream, Storyteller
from .sampling import Sampler, SamplingError

__all__ = [
    "GenerationError",
    "Sampler",
    "SamplingError",
    "Story",
    "StoryStream",
    "Storyteller",
]
