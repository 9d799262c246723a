"""What the tests of whole training runs share: tiny stories, and runs whose pictures are not drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.trials import Trial, drawn_quickly, write_stories


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of tiny stories."""
    return write_stories(tmp_path_factory.mktemp("stories"))


@pytest.fixture
def trial(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Starts small runs, whose curves are not drawn."""
    from gpt_oss_stories.training import recorder

    monkeypatch.setattr(recorder, "plot_training_curves", drawn_quickly)
    return Trial(stories, tmp_path)
