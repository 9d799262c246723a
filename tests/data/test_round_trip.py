"""From any texts to batches and back: each story comes back as its tidied text, whole, and on one side only."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data import BatchStream, validation_batches
from gpt_oss_stories.data.cleaning import is_blank, tidy_text
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.data.preparation import plan
from gpt_oss_stories.data.preparation.telling import story_digest

UNICODE = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=80)
STORIES = st.lists(
    st.one_of(
        UNICODE,
        st.text(st.sampled_from("Mia's ran, 'to' \n\n “the” pond—2 times!"), max_size=120),
        st.builds(
            lambda text, times: (text + " ") * times, st.text("abc ’.", min_size=1, max_size=9), st.integers(1, 60)
        ),
    ),
    min_size=2,
    max_size=40,
)
LENGTH = 1024
"""Tokens in a row: no story here is longer. Windows of longer ones are tested with the batches."""


def stories_of_batches(batches, vocabulary) -> list[str]:
    """The texts in some batches."""
    return [
        vocabulary.decode(tokens[documents == document].tolist())
        for batch in batches
        for tokens, documents in zip(batch.tokens, batch.documents, strict=True)
        for document in range(int(documents.max()) + 1)
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STORIES, st.sampled_from(["story", "harmony"]), st.booleans())
def test_any_texts_come_back(texts: list[str], kind: str, many: bool) -> None:
    expected: dict[bytes, str] = {}
    for text in texts:
        tidied = tidy_text(text)
        if not is_blank(text) and not is_blank(tidied):
            expected.setdefault(story_digest(tidied), tidied)
    if not expected:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        before, plan.COMPILED_FROM_BYTES = plan.COMPILED_FROM_BYTES, 0 if many else 10**9
        try:
            data = prepare(
                DataConfig(
                    dataset_path=str(folder / "stories.jsonl"),
                    data_dir=str(folder / "data"),
                    vocabulary=kind,
                    validation_fraction=0.3,
                    language="any",
                    min_story_words=0,
                    require_ending=False,
                    drop_repetitive=False,
                    child_safety="off",
                    drop_near_copies=False,
                )
            )
        finally:
            plan.COMPILED_FROM_BYTES = before
        sides = []
        for shard in (data.train, data.validation):
            told = [data.vocabulary.decode(shard.story(index)[0].tolist()) for index in range(len(shard))]
            sides.append({story_digest(text): text for text in told})
            assert len(sides[-1]) == len(told)
        assert not sides[0].keys() & sides[1].keys()
        assert sides[0] | sides[1] == expected

        stream = BatchStream(data.train, 1, LENGTH)
        packed = stories_of_batches((stream.batch(index) for index in range(stream.rows_per_epoch)), data.vocabulary)
        assert sorted(packed) == sorted(sides[0].values())
        held = stories_of_batches(validation_batches(data.validation, 1, LENGTH), data.vocabulary)
        assert sorted(held) == sorted(sides[1].values())
