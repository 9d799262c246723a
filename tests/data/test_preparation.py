"""What preparation keeps, tells how often, leaves out and says about it; nothing goes missing without being counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data import original_stories
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.data.preparation import copies, plan
from gpt_oss_stories.data.preparation.telling import story_digest, times_told
from gpt_oss_stories.data.report import inconsistencies
from gpt_oss_stories.data.sources import DataError

ORIGINALS = original_stories()


def write_jsonl(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n" for row in rows))
    return str(path)


def told(shard, vocabulary) -> list[str]:
    return [vocabulary.decode(shard.story(index)[0].tolist()) for index in range(len(shard))]


def left_out(data) -> list[dict[str, str]]:
    with gzip.open(data.directory / "left_out.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def rows_of(data, split: str) -> list[dict]:
    return pq.read_table(data.directory / f"{split}.parquet").to_pylist()


@pytest.fixture
def config(tmp_path):
    """Usual settings, with folders of the test's own."""
    return DataConfig(data_dir=str(tmp_path / "data"), vocabulary="story", request_fraction=0.0)


TEXTS = [record.text for record in ORIGINALS[:60]]


def test_each_flaw_is_counted_and_can_be_looked_at(config, tmp_path):
    flawed = {
        "shorter than 5 words": "The end came.",
        "longer than 5,000 characters": TEXTS[3] * 9,
        "repeats itself": "The cat sat on the mat and sang a song. " * 40,
        "not English (looks like de)": "Es war einmal ein kleines Mädchen, das wohnte mit seiner Mutter in einem Haus "
        "am Rand des Waldes. Jeden Morgen ging es zum Bach und holte Wasser für die Blumen im Garten.",
        "does not end like a story": TEXTS[5].rstrip('.!?”"') + " and then the little",
        "has lost characters (U+FFFD)": TEXTS[6].replace("a", "\ufffd", 3),
    }
    path = write_jsonl(tmp_path / "stories.jsonl", [*TEXTS[:3], *flawed.values(), TEXTS[4]])
    data = prepare(config.replace(dataset_path=path, max_story_characters=5000))
    rows = left_out(data)
    assert [row["reason"] for row in rows] == list(flawed)
    assert [row["place"] for row in rows] == [f"stories.jsonl:{line}" for line in range(4, 10)]
    assert [row["text"].split() for row in rows] == [text.split() for text in flawed.values()]
    assert {reason: entry["count"] for reason, entry in data.facts()["left_out"].items()} == dict.fromkeys(flawed, 1)
    assert inconsistencies(data.facts()) == []
    kept = prepare(
        config.replace(
            dataset_path=path, language="any", min_story_words=0, require_ending=False, drop_repetitive=False
        )
    )
    assert [row["reason"] for row in left_out(kept)] == ["has lost characters (U+FFFD)"]


def test_what_is_not_for_children_is_left_out_unless_it_may_stay(config, tmp_path):
    unsafe = "Tom took the knife. He stabbed the man again and again, and blood poured out of his chest onto the floor."
    path = write_jsonl(tmp_path / "stories.jsonl", [*TEXTS[:5], unsafe])
    data = prepare(config.replace(dataset_path=path))
    ((reason, entry),) = data.facts()["left_out"].items()
    assert reason.startswith("unsafe: ")
    assert entry == {"count": 1, "examples": [{"place": "stories.jsonl:6", "text": unsafe}]}
    everything = prepare(config.replace(dataset_path=path, child_safety="off"))
    assert everything.facts()["left_out"] == {}
    assert not (everything.directory / "left_out.jsonl.gz").exists()


def test_of_near_copies_the_first_stays_and_none_is_on_both_sides(config, tmp_path):
    near = [text + " And that was all." for text in TEXTS[:20]]
    path = write_jsonl(tmp_path / "stories.jsonl", [*TEXTS, *near, TEXTS[0].upper()])
    data = prepare(config.replace(dataset_path=path, validation_fraction=0.3))
    stories = told(data.train, data.vocabulary) + told(data.validation, data.vocabulary)
    assert sorted(stories) == sorted(TEXTS)
    copies = data.facts()["copies"]
    assert (copies["exact"], copies["near"]) == (1, 20)
    assert copies["pairs"][0] == {
        "kept": TEXTS[0][:599] + "…" if len(TEXTS[0]) > 600 else TEXTS[0],
        "kept_place": "stories.jsonl:1",
        "dropped": near[0][:599] + "…" if len(near[0]) > 600 else near[0],
        "dropped_place": "stories.jsonl:61",
    }
    reasons = [row["reason"] for row in left_out(data)]
    assert sorted(reasons) == ["copy of another story"] + ["nearly a copy of another story"] * 20
    assert sorted(row["text"] for row in left_out(data)) == sorted([*near, TEXTS[0].upper()])
    assert inconsistencies(data.facts()) == []
    assert len(prepare(config.replace(dataset_path=path, drop_near_copies=False)).train) > len(TEXTS)


def test_stories_that_share_a_passage_with_those_kept_apart_are_left_out(config, tmp_path):
    apart = write_jsonl(tmp_path / "apart.jsonl", TEXTS[:2])
    half = TEXTS[0][: len(TEXTS[0]) // 2].rsplit(".", 1)[0] + ". Then everybody went home and slept."
    path = write_jsonl(tmp_path / "stories.jsonl", [half, *TEXTS[2:30]])
    data = prepare(config.replace(dataset_path=path, decontaminate=apart))
    assert [(row["reason"], row["text"]) for row in left_out(data)] == [
        ("shares a passage with the stories to keep apart", half)
    ]
    before = data.fingerprint
    write_jsonl(Path(apart), TEXTS[40:42])
    after = prepare(config.replace(dataset_path=path, decontaminate=apart))
    assert after.fingerprint != before
    assert len(after.train) + len(after.validation) == 29
    write_jsonl(Path(apart), [])
    with pytest.raises(DataError, match=r"no stories in .*apart\.jsonl: empty"):
        prepare(config.replace(dataset_path=path, decontaminate=apart))


def test_weights_say_how_often_a_source_is_told(config, tmp_path):
    one = write_jsonl(tmp_path / "one.jsonl", TEXTS[:20])
    two = write_jsonl(tmp_path / "two.jsonl", TEXTS[20:40])
    half = write_jsonl(tmp_path / "half.jsonl", TEXTS[40:60])
    data = prepare(config.replace(dataset_path=f"{one}, {two}?weight=2.5,{half}?weight=0.5", validation_fraction=0.2))
    train, validation = told(data.train, data.vocabulary), told(data.validation, data.vocabulary)
    held = set(validation)
    assert len(validation) == len(held)
    for texts, weight in ((TEXTS[:20], 1), (TEXTS[20:40], 2.5), (TEXTS[40:60], 0.5)):
        for text in texts:
            expected = 0 if text in held else times_told(weight, story_digest(text))
            assert train.count(text) == expected
    counts = [train.count(text) for text in TEXTS[20:40] if text not in held]
    assert {2, 3} == set(counts)
    facts = data.facts()
    assert [source["weight"] for source in facts["sources"]] == [1.0, 2.5, 0.5]
    assert [source["told"] for source in facts["sources"]] == [
        sum(map(train.count, texts)) for texts in (TEXTS[:20], TEXTS[20:40], TEXTS[40:60])
    ]
    assert facts["sources"][2]["left_out"]["not drawn (weight below 1)"] > 3
    assert inconsistencies(facts) == []


def test_chance_of_a_weight_is_even_and_apart_from_the_split():
    digests = [story_digest(f"story {number}") for number in range(4000)]
    assert {times_told(2.0, digest) for digest in digests} == {2}
    drawn = np.asarray([times_told(0.25, digest) for digest in digests])
    assert 0.22 < drawn.mean() < 0.28
    held = np.asarray([digest[0] < 128 for digest in digests])
    assert abs(drawn[held].mean() - drawn[~held].mean()) < 0.05


def test_the_packages_stories_can_be_an_ingredient(config, tmp_path):
    path = write_jsonl(tmp_path / "mine.jsonl", ["Mina had a kite. It flew over the pond. Then it came home again."])
    data = prepare(config.replace(dataset_path=f"{path},originals?weight=2,storybook", storybook_stories=30))
    assert "30 stories of the storybook (seed 0)" in data.summary
    facts = data.facts()
    assert [source["kept"] for source in facts["sources"]] == [1, len(ORIGINALS), 30]
    assert facts["sources"][1]["licenses"] == {"CC0-1.0": len(ORIGINALS)}
    assert inconsistencies(facts) == []
    other = prepare(config.replace(dataset_path=f"{path},originals?weight=2,storybook", storybook_stories=31))
    assert other.fingerprint != data.fingerprint


def test_a_prompt_is_what_the_user_says(config, tmp_path):
    rows = [{"text": text, "prompt": f"Write about number {number}."} for number, text in enumerate(TEXTS[:20])]
    data = prepare(config.replace(dataset_path=write_jsonl(tmp_path / "rows.jsonl", rows), request_fraction=1.0))
    texts = {row["text"]: row["prompt"] for row in rows}
    for index in range(len(data.train)):
        tokens, trained = data.train.story(index)
        learnt = data.vocabulary.decode(tokens[trained].tolist())
        assert texts[learnt] in data.vocabulary.decode(tokens[~trained].tolist())


def test_lists_stand_beside_the_shards_story_for_story(config, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SMALLEST_PIECE", 5000)
    rows = [
        {"text": text, "title": f"Title {number}", "license": "CC-BY-4.0", "attribution": f"Writer {number % 3}"}
        for number, text in enumerate(TEXTS)
    ]
    path = write_jsonl(tmp_path / "stories.jsonl", rows)
    data = prepare(config.replace(dataset_path=f"{path}?weight=1.5", validation_fraction=0.2))
    by_text = {row["text"]: (number, row) for number, row in enumerate(rows)}
    for split, shard in (("train", data.train), ("validation", data.validation)):
        texts, at = told(shard, data.vocabulary), 0
        for entry in rows_of(data, split):
            same = texts[at : at + entry["tellings"]]
            assert len(set(same)) == 1
            number, row = by_text[same[0]]
            assert entry["place"] == f"stories.jsonl:{number + 1}"
            assert (entry["title"], entry["license"], entry["attribution"]) == (
                row["title"], row["license"], row["attribution"],
            )  # fmt: skip
            assert entry["words"] == len(row["text"].split()) or entry["words"] > 20
            at += entry["tellings"]
        assert at == len(shard)
    assert data.facts()["sources"][0]["attributions"].keys() == {"Writer 0", "Writer 1", "Writer 2"}
    assert inconsistencies(data.facts()) == []


def test_broken_encodings_are_mended_and_counted(config, tmp_path):
    good = "Ida said, “Let’s go to the pond.” They went there and saw the moon in the water."
    broken = good.encode("utf-8").decode("windows-1252", errors="ignore")
    path = write_jsonl(tmp_path / "stories.jsonl", [broken, *TEXTS[:5]])
    data = prepare(config.replace(dataset_path=path))
    assert good in told(data.train, data.vocabulary) + told(data.validation, data.vocabulary)
    assert data.facts()["sources"][0]["repaired"] == 1
    as_it_is = prepare(config.replace(dataset_path=path, repair_text=False))
    assert good not in told(as_it_is.train, as_it_is.vocabulary) + told(as_it_is.validation, as_it_is.vocabulary)


@pytest.mark.parametrize("pieces", [1, 64 * 2**20])
def test_places_count_from_the_beginning_of_a_file(config, tmp_path, monkeypatch, pieces):
    monkeypatch.setattr(plan, "SMALLEST_PIECE", pieces)
    lines = [json.dumps({"text": text}) for text in TEXTS[:10]]
    lines.insert(7, "{ no story")
    lines.insert(9, json.dumps({"text": "Too short."}))
    (tmp_path / "stories.jsonl").write_text("\n".join(lines) + "\n")
    data = prepare(config.replace(dataset_path=str(tmp_path / "stories.jsonl")))
    (source,) = data.facts()["sources"]
    assert source["skipped"] == {"not JSON": {"count": 1, "first": ["stories.jsonl:8"]}}
    assert [row["place"] for row in left_out(data)] == ["stories.jsonl:10"]


def test_files_may_be_opened_or_one_line_says_why_not():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
        copies.allow_open_files(150)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (250, hard)
        copies.allow_open_files(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (250, hard)
        if hard != resource.RLIM_INFINITY:
            with pytest.raises(DataError, match=r"opens .* files at a time, and the system allows"):
                copies.allow_open_files(hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_mixture_that_cannot_be_understood_is_one_clear_line(config, tmp_path):
    path = write_jsonl(tmp_path / "one.jsonl", TEXTS[:5])
    with pytest.raises(DataError, match="has an empty part; separate sources with single commas"):
        prepare(config.replace(dataset_path=f"{path},,{path}"))
    with pytest.raises(DataError, match="weight"):
        prepare(config.replace(dataset_path=f"{path}?weight=-1"))
