"""What the tests of whole runs share: stories, folders to run in, and runs that go on side by side."""

from __future__ import annotations

import itertools
import json
import random
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
TINY_STORIES = PROJECT.parent / "shared" / "data" / "tinystories-train.jsonl"
STORIES = 200

NAMES = ("Mia", "Tom", "Anna", "Ben", "Lily", "Max", "Ida", "Otto", "Zoe", "Finn")
THINGS = ("ball", "kite", "boat", "drum", "cake")
PLACES = ("in the garden", "by the sea", "under the bridge", "on the hill")


SEEN = re.findall(
    r"\w+",
    "bee bell bird box bridge bush cat cloud cow crow dog door duck fence fish flag flower fox frog gate goat hat hen "
    "hill horse hut leaf log mill mouse nest owl pig pond puddle road rock rose shoe snail spoon star stick sun tree",
)


def told() -> list[str]:
    """200 short stories, different enough that none is taken for a copy of another."""
    draw = random.Random(0)
    stories = []
    for name, thing, place in itertools.product(NAMES, THINGS, PLACES):
        seen = [f"a {word}" for word in draw.sample(SEEN, 8)]
        way = f"On the way there {name} saw {', '.join(seen[:4])}, and then {', '.join(seen[4:])} too."
        stories.append(f"Once upon a time {name} lost a {thing} {place}.\n\n{way} At last the {thing} was there.")
    return stories


@pytest.fixture(scope="session")
def story_lines() -> str:
    """200 stories as JSON lines: TinyStories where they lie beside the checkout, made-up ones elsewhere."""
    if TINY_STORIES.is_file():
        with open(TINY_STORIES, encoding="utf-8") as file:
            return "".join(next(file) for _ in range(STORIES))
    warnings.warn(f"no {TINY_STORIES.name} beside the checkout: made-up stories take their place", stacklevel=2)
    return "".join(json.dumps({"text": text}) + "\n" for text in told())


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory: pytest.TempPathFactory, story_lines: str):
    """Makes folders in which the README's commands can be typed: with `src`, and with stories of one's own."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        (folder / "src").symlink_to(PROJECT / "src")
        (folder / "my_stories.jsonl").write_text(story_lines, encoding="utf-8")
        (folder / "my_stories.txt").write_text("\n<|endoftext|>\n".join(told()), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def side_by_side() -> Iterator[ThreadPoolExecutor]:
    """Runs two things at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)
