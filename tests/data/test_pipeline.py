"""Preparation: stories come back unchanged, no copy is on both sides, the result never depends on how it was made."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data import pipeline
from gpt_oss_stories.data.cleaning import tidy_text
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.data.preparation import plan
from gpt_oss_stories.data.preparation.telling import is_held_out, story_digest
from gpt_oss_stories.data.shards import ShardError, read_manifest
from gpt_oss_stories.data.sources import DataError
from gpt_oss_stories.files import FileWriteError
from gpt_oss_stories.tokenization import harmony_vocabulary, render_story

SOURCE = str(Path(pipeline.__file__).parents[2])

WORDS = ("Mina", "Otto", "kite", "pond", "hill", "moon", "apple", "ran", "saw", "lost", "gave", "slept", "red", "tiny")


def tale(number: int, words: int = 40) -> str:
    """A made-up text, different for each number."""
    rng = random.Random(number)
    return f"Story {number}. " + " ".join(rng.choice(WORDS) for _ in range(words)) + "."


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n" for row in rows))
    return path


def told(shard, vocabulary) -> list[str]:
    return [vocabulary.decode(shard.story(index)[0].tolist()) for index in range(len(shard))]


def learnt(shard, vocabulary, index: int) -> str:
    """What the trained tokens of a story spell."""
    tokens, trained = shard.story(index)
    return vocabulary.decode(tokens[trained].tolist())


def files_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


KEEP_ALL = {
    "language": "any", "min_story_words": 0, "require_ending": False, "drop_repetitive": False, "child_safety": "off",
    "drop_near_copies": False,
}  # fmt: skip
"""Settings under which the made-up texts of these tests, which are no stories, are kept."""


@pytest.fixture
def config(tmp_path):
    """Settings for stories in tmp_path/stories.jsonl."""
    return DataConfig(
        dataset_path=str(tmp_path / "stories.jsonl"),
        data_dir=str(tmp_path / "data"),
        vocabulary="story",
        validation_fraction=0.2,
        **KEEP_ALL,
    )


ODD_TEXTS = [
    "“Let’s go,” said Zoë — it was 3:30 …\n\n  'Why?'\tasked the bear 🐻.",
    "The parrot said <|endoftext|> and <|start|>assistant<|message|> and flew away.",
    "cafe\u0301 ﬁn 👨‍👩‍👧 פעם אחת 从前有一只小猫。",
    "x" * 5000,
    "one\u2028two\u0085three\x1b[31m\x07",
]


@pytest.mark.parametrize("vocabulary", ["harmony", "story"])
def test_every_story_comes_back_as_its_clean_text(config, vocabulary):
    texts = [tale(number) for number in range(20)] + ODD_TEXTS
    write_jsonl(Path(config.dataset_path), texts)
    data = prepare(config.replace(vocabulary=vocabulary))
    assert data.vocabulary.kind == vocabulary
    back = told(data.train, data.vocabulary) + told(data.validation, data.vocabulary)
    assert sorted(back) == sorted(map(tidy_text, texts))
    start, end = (data.vocabulary.special(name) for name in ("startoftext", "endoftext"))
    for index in range(len(data.train)):
        tokens, trained = data.train.story(index)
        assert (tokens[0], tokens[-1]) == (start, end)
        assert trained.tolist() == [False] + [True] * (len(tokens) - 1)
    assert data.train.counts.text_bytes == sum(len(text.encode()) for text in told(data.train, data.vocabulary))
    assert data.train.counts.trained_bytes == data.train.counts.text_bytes
    assert data.train.counts.trained_tokens == data.train.counts.tokens - data.train.counts.stories


@pytest.mark.parametrize("min_count", [1, 2, 10])
def test_renumbered_ids_are_what_the_story_vocabulary_itself_encodes(config, min_count):
    write_jsonl(Path(config.dataset_path), [tale(number) for number in range(30)] + ODD_TEXTS)
    data = prepare(config.replace(min_token_count=min_count))
    for shard in (data.train, data.validation):
        for index, text in enumerate(told(shard, data.vocabulary)):
            assert shard.story(index)[0].tolist() == render_story(data.vocabulary, text).tokens
    respelled = read_manifest(data.directory)["respelled"]
    assert respelled if min_count > 1 else respelled <= len(data.validation)


def controls(shard, vocabulary, index: int) -> list[int]:
    """The control tokens of a story, as harmony ids."""
    ids = [vocabulary.harmony_ids[token] for token in shard.story(index)[0].tolist()]
    return [id for id in ids if not harmony_vocabulary().token_bytes(id)]


def test_conversations_with_rare_tokens_keep_text_control_tokens_and_flags(config):
    write_jsonl(Path(config.dataset_path), rows_with_requests(40))
    whole = prepare(config.replace(vocabulary="harmony", request_fraction=1.0))
    small = prepare(config.replace(min_token_count=30, request_fraction=1.0))
    assert read_manifest(small.directory)["respelled"] > 30
    for one, other in ((whole.train, small.train), (whole.validation, small.validation)):
        assert told(one, whole.vocabulary) == told(other, small.vocabulary)
        for index in range(len(one)):
            assert learnt(one, whole.vocabulary, index) == learnt(other, small.vocabulary, index)
            assert controls(one, whole.vocabulary, index) == controls(other, small.vocabulary, index)
        assert one.counts.trained_bytes == other.counts.trained_bytes
        assert one.counts.tokens < other.counts.tokens


def test_the_story_vocabulary_is_learnt_from_the_training_part_alone(config):
    secret = " Rumpelstilzchen"
    rare = max(harmony_vocabulary().encode(secret), key=lambda id: len(harmony_vocabulary().token_bytes(id)))
    digests = {number: story_digest(tale(number) + secret) for number in range(1000, 3000)}
    # The keys of the held-out stories are the lowest: the first byte tells the side.
    held = next(number for number, digest in digests.items() if digest[0] == 0)
    kept = next(number for number, digest in digests.items() if digest[0] == 255)
    others = [tale(number) for number in range(40)]
    write_jsonl(Path(config.dataset_path), [*others, tale(held) + secret])
    data = prepare(config)
    assert tale(held) + secret in told(data.validation, data.vocabulary)
    assert rare not in data.vocabulary.harmony_ids
    write_jsonl(Path(config.dataset_path), [*others, tale(kept) + secret])
    data = prepare(config)
    assert tale(kept) + secret in told(data.train, data.vocabulary)
    assert rare in data.vocabulary.harmony_ids


def test_copies_are_dropped_counted_and_never_on_both_sides(config):
    texts = [tale(number) for number in range(60)]
    copies = [text.upper() for text in texts[:10]] + [text.replace(" ", "\n") + "!!" for text in texts[10:30]]
    write_jsonl(Path(config.dataset_path), texts + copies + [texts[0]] * 50)
    data = prepare(config)
    train, validation = told(data.train, data.vocabulary), told(data.validation, data.vocabulary)
    assert sorted(train + validation) == sorted(texts)
    assert validation
    assert not {story_digest(text) for text in train} & {story_digest(text) for text in validation}
    assert read_manifest(data.directory)["dropped"] == {"copy of another story": 80}
    assert "dropped 80: copy of another story" in data.summary


def test_sides_depend_on_the_story_alone(config):
    texts = [tale(number) for number in range(60)]
    write_jsonl(Path(config.dataset_path), texts)
    before = prepare(config)
    write_jsonl(Path(config.dataset_path), [tale(number) for number in range(100, 130)] + texts[::-1])
    after = prepare(config)
    assert after.directory != before.directory
    old, new = (set(told(data.validation, data.vocabulary)) for data in (before, after))
    assert new & set(texts) == old
    assert 0 < len(old) < 30


def held_out(keys, fraction):
    if not len(keys):
        return np.zeros(0, dtype=np.bool_)
    return is_held_out(keys, fraction, int(keys.min()), int(keys.max()))


@given(st.sets(st.integers(0, 2**64 - 1), min_size=2, max_size=40), st.floats(1e-6, 0.5))
def test_both_sides_have_a_story_if_there_are_two(keys, fraction):
    array = np.asarray(sorted(keys, key=str), dtype=np.uint64)
    held = held_out(array, fraction)
    assert 0 < held.sum() < len(keys)
    assert max(array[held]) < min(array[~held])
    below = sum(key < math.floor(fraction * 2.0**64) for key in keys)
    assert held.sum() == min(max(below, 1), len(keys) - 1)


def test_held_out_by_hand():
    quarter = 2**62
    assert held_out(np.asarray([3, 1, 0, 2], dtype=np.uint64) * np.uint64(quarter), 0.5).tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert held_out(np.asarray([3, 1, 2], dtype=np.uint64) * np.uint64(quarter), 0.01).tolist() == [False, True, False]
    assert held_out(np.asarray([3, 1], dtype=np.uint64), 0.5).tolist() == [False, True]
    assert held_out(np.asarray([3], dtype=np.uint64), 0.5).tolist() == [False]
    assert held_out(np.asarray([], dtype=np.uint64), 0.5).tolist() == []


def test_one_story_is_for_training(config):
    write_jsonl(Path(config.dataset_path), [tale(1)])
    data = prepare(config)
    assert (len(data.train), len(data.validation)) == (1, 0)
    write_jsonl(Path(config.dataset_path), [tale(1), tale(2)])
    data = prepare(config)
    assert (len(data.train), len(data.validation)) == (1, 1)


def rows_with_requests(count: int):
    question = {"question": "Who slept?", "answer": "Otto", "choices": ["Mina", "Otto"], "answer_index": 1}
    for number in range(count):
        fields = {"age": 5, "hero": {"name": "Mina", "kind": "girl"}, "setting": "a pond", "words": ["kite", "moon"]}
        yield {"text": tale(number), **fields, "questions": [question, {"question": "What ran?", "answer": "A fox"}]}


def test_requests_become_conversations_in_which_only_story_and_answers_are_learnt(config):
    write_jsonl(Path(config.dataset_path), rows_with_requests(60))
    data = prepare(config.replace(request_fraction=1.0))
    start = data.vocabulary.special("start")
    prompts, endings = set(), set()
    for index in range(len(data.train)):
        tokens, _ = data.train.story(index)
        assert tokens[0] == start
        text, whole = learnt(data.train, data.vocabulary, index), data.vocabulary.decode(tokens.tolist())
        assert text.startswith("Story ")
        story = text[: text.index(".", 9) + 1]
        endings.add(text[len(story) :])
        prompts.add(whole[: whole.index("Story ")])
    # Answers follow some stories only, and a request's fields are dropped at random.
    assert endings == {"", "Otto", "A fox", "OttoA fox"}
    assert len(prompts) > 8
    assert "100% are told on request" in data.summary
    plain = prepare(config.replace(request_fraction=0.0))
    assert all(tokens[0] != start for tokens, _ in map(plain.train.story, range(len(plain.train))))
    some = prepare(config.replace(request_fraction=0.5))
    first = [some.train.story(index)[0][0] == some.vocabulary.special("start") for index in range(len(some.train))]
    assert 0.2 < np.mean(first) < 0.8


def test_the_result_is_the_same_for_any_number_of_workers(config, monkeypatch):
    monkeypatch.setattr(plan, "SMALLEST_PIECE", 20_000)
    rows = [*rows_with_requests(700), *[tale(number) for number in range(500)], *ODD_TEXTS]
    write_jsonl(Path(config.dataset_path), rows)
    alone = prepare(config.replace(min_token_count=2), workers=1)
    before = files_of(alone.directory)
    several = prepare(config.replace(min_token_count=2, process_data=True), workers=4)
    assert several.directory == alone.directory
    assert files_of(several.directory) == before
    assert not several.reused


def test_prepared_data_are_found_again_and_made_again_when_asked(config):
    write_jsonl(Path(config.dataset_path), map(tale, range(20)))
    stages: list[str] = []
    first = prepare(config, lambda stage, done, total: stages.append(stage))
    assert {"tell", "finish"} <= set(stages)
    stages.clear()
    made = (first.directory / "train.shard").stat().st_ino
    again = prepare(config, lambda stage, done, total: stages.append(stage))
    assert not {"tell", "finish"} & set(stages)
    assert (again.directory, again.reused, first.reused) == (first.directory, True, False)
    assert again.vocabulary.fingerprint == first.vocabulary.fingerprint
    assert "found prepared in" in again.summary
    assert "written in" in first.summary
    assert (first.directory / "train.shard").stat().st_ino == made
    prepare(config.replace(process_data=True))
    assert (first.directory / "train.shard").stat().st_ino != made
    assert os.listdir(config.data_dir) == [first.directory.name]


def test_progress_counts_tasks(config, monkeypatch):
    monkeypatch.setattr(plan, "SMALLEST_PIECE", 20_000)
    write_jsonl(Path(config.dataset_path), map(tale, range(600)))
    told_progress: list[tuple[str, int, int | None]] = []
    prepare(config, lambda *progress: told_progress.append(progress), workers=1)
    tasks = told_progress[[stage for stage, _, _ in told_progress].index("tell")][2]
    assert tasks > 3
    assert [row for row in told_progress if row[0] == "tell"] == [("tell", done, tasks) for done in range(tasks + 1)]
    assert told_progress[-1] == ("finish", 1, 1)


@pytest.mark.parametrize(
    "change",
    [{"vocabulary": "harmony"}, {"min_token_count": 2}, {"request_fraction": 0.9}, {"validation_fraction": 0.3},
     {"max_story_characters": 500}, {"data_seed": 1}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_changes_the_result_changes_the_fingerprint(config, change):
    write_jsonl(Path(config.dataset_path), map(tale, range(5)))
    assert prepare(config).fingerprint != prepare(config.replace(**change)).fingerprint


def test_what_does_not_change_the_result_does_not_change_the_fingerprint(config, tmp_path):
    write_jsonl(Path(config.dataset_path), map(tale, range(5)))
    before = prepare(config)
    same = {"data_dir": str(tmp_path / "elsewhere"), "storybook_stories": 7, "storybook_seed": 9, "original_repeats": 3}
    assert prepare(config.replace(**same)).fingerprint == before.fingerprint
    write_jsonl(Path(config.dataset_path), map(tale, range(6)))
    assert prepare(config).fingerprint != before.fingerprint


def test_what_was_skipped_and_dropped_is_told_and_kept(config):
    rows = [tale(number) for number in range(10)] + ["y" * 300, {"story": "no text"}, tale(3)]
    write_jsonl(Path(config.dataset_path), rows)
    data = prepare(config.replace(max_story_characters=299))
    manifest = read_manifest(data.directory)
    assert manifest["dropped"] == {"copy of another story": 1, "longer than 299 characters": 1}
    assert manifest["skipped"] == {"no key 'text'": {"count": 1, "first": ["stories.jsonl:12"]}}
    taken = manifest["splits"]["train"]["stories"] + manifest["splits"]["validation"]["stories"]
    assert taken + 1 + 1 + 1 == len(rows)
    for text in (
        "skipped 1: no key 'text' (stories.jsonl:12)",
        "dropped 1: longer than 299 characters",
        "vocabulary: story",
    ):
        assert text in data.summary


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, r"no stories in .*stories\.jsonl: empty"),
        ([{"text": None}], {}, r"no stories in .*1 'text' is not a text \(stories.jsonl:1\)"),
        (["a long story"], {"max_story_characters": 5}, "no stories to train on: all were left out: 1 longer than 5"),
        ([], {"dataset_path": None, "storybook_stories": 0, "first_readers": 0, "original_repeats": 0}, "are all 0"),
        ([], {"dataset_path": "/nowhere/x.jsonl"}, "/nowhere/x.jsonl does not exist"),
    ],
    ids=["empty", "only bad", "all dropped", "nothing asked for", "missing"],
)
def test_no_stories_is_one_clear_line_and_leaves_nothing(config, rows, changes, message):
    write_jsonl(Path(config.dataset_path), rows)
    with pytest.raises(DataError, match=message) as error:
        prepare(config.replace(**changes))
    assert "\n" not in str(error.value)
    assert not Path(config.data_dir).exists() or not os.listdir(config.data_dir)


def test_original_stories_are_repeated_in_training_only(config):
    data = prepare(
        config.replace(
            dataset_path=None, storybook_stories=0, first_readers=0, original_repeats=2, request_fraction=0.5
        )
    )
    held = len(data.validation)
    assert len(data.train) == 2 * (1299 - held)
    assert 200 < held < 320
    assert data.directory.name.startswith("storybook-")
    tokens = [data.train.story(index)[0].tolist() for index in range(100)]
    # The two tellings of a story stand together, and are not always told in the same way.
    assert sum(tokens[index] == tokens[index + 1] for index in range(0, 100, 2)) < 45
    assert "1,299 original stories, each told 2 times" in data.summary


def test_the_default_is_storybook_and_original_stories(config):
    default = config.replace(dataset_path=None, storybook_stories=60, first_readers=20, storybook_seed=5)
    data = prepare(default)
    assert len(data.train) + len(data.validation) == 60 + 20 + 1299
    assert "60 stories of the storybook (seed 5), 20 first readers, 1,299 original stories" in data.summary
    assert prepare(default.replace(storybook_seed=6)).fingerprint != data.fingerprint
    assert prepare(default.replace(first_readers=21)).fingerprint != data.fingerprint
    assert prepare(default.replace(original_repeats=0)).fingerprint != data.fingerprint


def test_a_damaged_folder_is_one_clear_line_and_can_be_made_again(config):
    write_jsonl(Path(config.dataset_path), map(tale, range(20)))
    data = prepare(config)
    path = data.directory / "train.shard"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ShardError, match=r"train\.shard is damaged: it has .* \(--process-data\)"):
        prepare(config)
    path.write_bytes(whole[:-20] + bytes(20))
    with pytest.raises(ShardError, match="its sha256 does not begin with"):
        prepare(config)
    prepare(config.replace(process_data=True))
    assert path.read_bytes() == whole


def test_an_interrupted_preparation_is_gone_on_with_and_leaves_what_was_there(config):
    write_jsonl(Path(config.dataset_path), map(tale, range(20)))

    def interrupt(stage: str, done: int, total: int | None) -> None:
        if (stage, done) == ("number", 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config, interrupt)
    (unfinished,) = os.listdir(config.data_dir)
    assert unfinished.startswith(".")
    assert unfinished.endswith(".work")
    done_before: list[str] = []
    data = prepare(config, lambda stage, done, total: done_before.append(stage) if (done, total) == (1, 1) else None)
    assert os.listdir(config.data_dir) == [data.directory.name]
    assert done_before == ["tell", "exact", "extremes", "count", "vocabulary", "number", "finish"]
    before = files_of(data.directory)
    with pytest.raises(KeyboardInterrupt):
        prepare(config.replace(process_data=True), interrupt)
    assert sorted(os.listdir(config.data_dir)) == sorted([data.directory.name, unfinished])
    assert files_of(data.directory) == before
    assert prepare(config).reused
    again = prepare(config.replace(force_reprocess=True))
    assert os.listdir(config.data_dir) == [again.directory.name]
    assert files_of(again.directory) == before


KILLED = """
import json, sys, time
from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.data.preparation import plan

plan.SMALLEST_PIECE = 20_000

def progress(stage, done, total):
    if stage == sys.argv[2]:
        print(stage, flush=True)
        time.sleep(60)

if __name__ == "__main__":
    prepare(DataConfig.from_dict(json.loads(sys.argv[1])), progress, workers=int(sys.argv[3]))
"""


@pytest.mark.parametrize(("stage", "workers"), [("exact", 2), ("finish", 1)])
def test_a_killed_preparation_leaves_no_workers_and_is_gone_on_with(config, tmp_path, stage, workers):
    write_jsonl(Path(config.dataset_path), map(tale, range(600)))
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), json.dumps(config.to_dict()), stage, str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": SOURCE})
    assert process.stdout.readline() == f"{stage}\n".encode()
    children = psutil.Process(process.pid).children(recursive=True)
    assert bool(children) == (workers > 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert all(name.startswith(".") and name.endswith(".work") for name in os.listdir(config.data_dir))
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    data = prepare(config)
    assert os.listdir(config.data_dir) == [data.directory.name]
    undisturbed = prepare(config.replace(data_dir=str(tmp_path / "undisturbed")))
    assert files_of(data.directory) == files_of(undisturbed.directory)


WORKER_KILLED = """
import json, os, signal, sys
import psutil
from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.data.preparation import plan
from gpt_oss_stories.errors import StoryError

plan.SMALLEST_PIECE = 20_000

def progress(stage, done, total):
    if (stage, done) == ("tell", 1):
        for child in psutil.Process().children(recursive=True):
            if not child.children() and child.parent().pid != os.getpid():  # workers, forked from a process in between
                child.send_signal(signal.SIGKILL)

if __name__ == "__main__":
    try:
        prepare(DataConfig.from_dict(json.loads(sys.argv[1])), progress, workers=2)
    except StoryError as error:
        print(error)
"""


def test_a_worker_that_dies_is_one_clear_line_and_costs_only_its_task(config, tmp_path):
    write_jsonl(Path(config.dataset_path), map(tale, range(600)))
    script = tmp_path / "killed.py"
    script.write_text(WORKER_KILLED)
    command = [sys.executable, str(script), json.dumps(config.to_dict())]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": SOURCE})
    assert ended.stdout.startswith("a worker process that prepares stories ended unexpectedly"), ended.stderr
    assert ended.stdout.count("\n") == 1
    (work,) = Path(config.data_dir).iterdir()
    assert len(list((work / "stages" / "tell" / "completions").iterdir())) >= 1
    data = prepare(config)
    undisturbed = prepare(config.replace(data_dir=str(tmp_path / "undisturbed")))
    assert files_of(data.directory) == files_of(undisturbed.directory)


@pytest.mark.skipif(sys.platform == "win32", reason="needs file locks")
def test_who_comes_second_waits_and_finds_the_data_prepared(config):
    write_jsonl(Path(config.dataset_path), map(tale, range(20)))
    entered, released = threading.Event(), threading.Event()
    results, stages = [], []

    def hold(stage: str, done: int, total: int | None) -> None:
        entered.set()
        if stage == "tell":
            assert released.wait(30)

    def tell(stage: str, done: int, total: int | None) -> None:
        stages.append(stage)
        if stage.startswith("waiting"):
            released.set()

    first = threading.Thread(target=lambda: results.append(prepare(config, hold)))
    first.start()
    assert entered.wait(30)
    while not Path(config.data_dir).is_dir() or not os.listdir(config.data_dir):
        time.sleep(0.01)
    second = prepare(config, tell)
    first.join()
    assert second.reused
    assert not results[0].reused
    assert "tell" not in stages


def test_a_data_folder_that_cannot_be_written_is_one_clear_line(config, tmp_path):
    write_jsonl(Path(config.dataset_path), map(tale, range(3)))
    with pytest.raises(FileWriteError, match=r"stories\.jsonl"):
        prepare(config.replace(data_dir=str(tmp_path / "stories.jsonl" / "data")))


def test_preparing_does_not_need_torch():
    code = "import sys, gpt_oss_stories.data.pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE}).returncode == 0


@given(st.text())
def test_copies_have_equal_digests(text):
    assert story_digest(text) == story_digest(text)
    spelled = "".join(character for character in text if character.isalnum())
    if spelled:
        assert story_digest(text) == story_digest(f" -{text}… ")
        assert story_digest(text) != story_digest(text + "b")


def test_digest_by_hand():
    assert story_digest("Don't  stop, Zoë!") == story_digest("dont stop zoË")
    assert story_digest("The cat.") == story_digest("the-cat")
    assert story_digest("The cat.") != story_digest("The cats.")
    assert story_digest("?!") != story_digest("!?")  # without letters and digits the text itself counts
