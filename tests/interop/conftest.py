"""What the tests of other formats share."""

from __future__ import annotations

import pytest

from gpt_oss_stories.tokenization import StoryVocabulary
from support.small_models import small_vocabulary


@pytest.fixture(scope="session")
def story_vocabulary() -> StoryVocabulary:
    return small_vocabulary()
