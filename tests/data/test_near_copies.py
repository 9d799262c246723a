"""Near copies and passages of held-out stories: hashes against slow twins and `datatrove`, files, and what is found."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.config import ConfigError
from gpt_oss_stories.data import near_copies as near
from gpt_oss_stories.data import original_stories
from gpt_oss_stories.data.near_copies import (
    MinhashConfig,
    NgramIndex,
    SignatureWriter,
    find_near_copies,
    gram_hashes,
    near_copy_stages,
    read_copies,
    read_near_copies,
    read_removed,
    signatures,
    word_hashes,
)
from gpt_oss_stories.data.sources import DataError
from gpt_oss_stories.files import FileWriteError

CONFIG = MinhashConfig()
PRIME = 2**61 - 1
ALL = 2**64 - 1

# Letters with and without case, marks, digits, apostrophes, invisible characters, scripts without spaces, surrogates.
CHARACTERS = st.one_of(
    st.sampled_from(
        "abzAZ019 \n.,-_'’ʼ`“”éÉßǅİıſΣςσжЖא\u0301\u0308\u0345\u00ad\u200d\ufe0fक\u093fกั日本かナ한글🐻½٣\U00020000"
    ),
    st.characters(),
)
TEXTS = st.text(CHARACTERS, max_size=60)


@pytest.fixture(scope="module")
def stories() -> list[str]:
    return [record.text for record in original_stories()]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """numba compiles the loops before a test is timed."""
    word_hashes("a")
    signatures(["a"], CONFIG)
    NgramIndex.build(["a"]).share("a")


def slow_words(text: str) -> list[str]:
    """The words of a text, one character after the other."""
    compared = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    words: list[str] = []
    inside = ""
    for character in compared:
        category = unicodedata.category(character)
        code = ord(character)
        if character in "'`´ʻʼ‘’‛＇" or (category == "Cf" and code <= 0x323AF) or 0xFE00 <= code <= 0xFE0F:
            continue
        if category[0] == "M" and code <= 0x323AF:
            if inside:
                words[-1] += character
        elif category[0] in "LN" and code <= 0x323AF:
            unspaced = any(begin <= code <= end for begin, end in near._WITHOUT_SPACES)
            kind = "alone" if unspaced and category != "Nd" else "letter"
            if inside == kind == "letter":
                words[-1] += character
            else:
                words.append(character)
            inside = kind
        else:
            inside = ""
    return words


def slow_mixed(number: int) -> int:
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & ALL
    number = (number ^ number >> 27) * 0x94D049BB133111EB & ALL
    return number ^ number >> 31


def slow_word_hash(word: str) -> int:
    value = 0x243F6A8885A308D3
    for character in word:
        value = (value ^ ord(character)) * 0x9E3779B97F4A7C15 & ALL
    return slow_mixed(value)


def slow_grams(text: str, n: int) -> list[int]:
    hashes = [slow_word_hash(word) for word in slow_words(text)]
    grams = []
    for begin in range(max(len(hashes) - n + 1, 1) if hashes else 0):
        value = 0x243F6A8885A308D3
        for word in hashes[begin : begin + n]:
            value = (value ^ word) * 0x9E3779B97F4A7C15 & ALL
            value ^= value >> 32
        grams.append(slow_mixed(value))
    return grams


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the sets of 5-grams, of words as they are."""
    sets = [set(zip(*(slow_words(text)[k:] for k in range(5)), strict=False)) for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


# words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("... — !?\n", []),
        ("🐻🎈 \ufe0f", []),
        ("Don't STOP, don’t stop!", ["dont", "stop", "dont", "stop"]),
        ("‘Well-known’ 3.5_x", ["well", "known", "3", "5", "x"]),
        ("co\u00adoperate\u200b d", ["cooperate", "d"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("ΟΔΟΣ οδος", ["οδοσ", "οδοσ"]),
        ("\u0390 Ϊ\u0301", ["\u0390", "\u0390"]),  # case folding takes it apart
        ("a\ufe0fb ❤\ufe0f", ["ab"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("小熊说abc：好", ["小", "熊", "说", "abc", "好"]),
        ("กั๊ก 12", ["กั๊", "ก", "12"]),
        ("한국어 이야기", ["한국어", "이야기"]),
        ("\ud800a\udfff", ["a"]),
    ],
    ids=repr,
)
def test_words_are_runs_of_letters(text, words):
    assert slow_words(text) == words
    assert word_hashes(text).tolist() == [slow_word_hash(word) for word in words]


@given(TEXTS)
@settings(max_examples=300)
def test_word_hashes_equal_the_slow_ones(text):
    hashes = word_hashes(text)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [slow_word_hash(word) for word in slow_words(text)]


def test_different_words_of_many_stories_have_different_hashes(stories):
    words = {word for story in stories for word in slow_words(story)}
    words |= {a + b for a in "abcdefghijklmnopqrstuvwxyzéж" for b in "abcdefghijklmnopqrstuvwxyzéж0123456789"}
    hashes = word_hashes(" ".join(sorted(words)))
    assert len(hashes) == len(words) > 5000
    assert len(np.unique(hashes)) == len(words)
    # Evenly spread in the upper and in the lower bits.
    for part in (hashes >> np.uint64(60), hashes & np.uint64(15)):
        assert np.bincount(part.astype(np.int64), minlength=16).min() > len(words) / 16 * 0.75


@given(st.text(st.characters(codec="ascii"), max_size=200), st.sampled_from(["upper", "lower", "swapcase", "title"]))
def test_case_and_punctuation_do_not_matter(text, change):
    changed = getattr(text, change)()
    changed = re.sub(r"[.,;:!?]", lambda match: match[0] + "—”", changed).replace("'", "’").replace(" ", "  \n")
    assert word_hashes(changed).tolist() == word_hashes(text).tolist()


@given(TEXTS)
def test_the_form_of_composed_characters_does_not_matter(text):
    assert word_hashes(unicodedata.normalize("NFD", text)).tolist() == word_hashes(text).tolist()


# grams


@given(TEXTS, st.integers(1, 15))
@settings(max_examples=200)
def test_grams_equal_the_slow_ones(text, n):
    assert gram_hashes(text, n).tolist() == slow_grams(text, n)


@pytest.mark.parametrize("n", [1, 2, 5, 13], ids="n={}".format)
def test_grams_are_counted(n):
    words = [f"w{number}" for number in range(20)]
    for count in range(20):
        assert len(gram_hashes(" ".join(words[:count]), n)) == (max(count - n + 1, 1) if count else 0)
    assert gram_hashes(" ".join(words), n).tolist()[0] == gram_hashes(" ".join(words[:n]), n).tolist()[0]


def test_the_order_of_words_matters():
    orders = [
        "a b c",
        "a c b",
        "b a c",
        "b c a",
        "c a b",
        "c b a",
        "a a b",
        "a b b",
        "b a b",
        "a a a",
        "a a",
        "a",
        "aa",
    ]
    grams = [gram_hashes(text, 3).tolist() for text in orders]
    assert len({gram for [gram] in grams}) == len(orders)


def test_a_gram_needs_a_word():
    with pytest.raises(ConfigError, match="at least one word"):
        gram_hashes("a b", 0)
    with pytest.raises(ConfigError, match="at least one word"):
        NgramIndex.build(["a b"], n=0)


# signatures


def library_stage(config: MinhashConfig, folder: Path | None = None):
    """The library's first stage, with our grams and without its tokenizer, which needs spaCy."""
    from datatrove.io import get_datafolder
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    stage = object.__new__(MinhashDedupSignature)
    PipelineStep.__init__(stage)
    stage.config = config.for_datatrove()
    stage.num_hashes = config.hashes
    stage._parameters = None
    stage.skip_existing_sigs = False
    stage.output_folder = get_datafolder(str(folder)) if folder else None
    stage.get_shingles = lambda text: np.asarray(slow_grams(text, config.n), dtype=np.uint64).reshape(-1, 1)
    return stage


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        MinhashConfig(buckets=1, hashes_per_bucket=1, n=1),
        MinhashConfig(buckets=14, hashes_per_bucket=8, seed=9),
    ],
    ids=["usual", "one", "library"],
)
def test_signatures_equal_the_library_s(config, stories):
    stage = library_stage(config)
    texts = [*stories[:30], "", "One", "one two three", "...", "小熊说：你好。" * 5]
    found_SH, has_any_S = signatures(texts, config)
    assert found_SH.dtype == np.uint64
    assert found_SH.shape == (len(texts), config.hashes)
    for text, found_H, has_any in zip(texts, found_SH, has_any_S, strict=True):
        shingles = stage.get_shingles(text)
        assert has_any == (len(shingles) > 0)
        expected = [hash for bucket in stage.get_signature(shingles) for hash in bucket] if has_any else None
        assert found_H.tolist() == (expected or [ALL] * config.hashes)


@given(grams=st.lists(st.integers(0, ALL), min_size=1, max_size=20), extra=st.sampled_from([0, 1, PRIME, 8 * PRIME]))
def test_the_remainder_is_exact(grams, extra):
    """Against whole numbers of any size, also where the sum wraps around or is a multiple of the prime."""
    a_H = np.asarray([1, 3, PRIME - 1, 2**60 + 7], dtype=np.uint64)
    b_H = np.asarray([0, 5, PRIME - 1, 2**59], dtype=np.uint64)
    grams = [*grams, extra]
    smallest_SH = np.full((1, 4), ALL, dtype=np.uint64)
    near._take_smallest(np.asarray(grams, dtype=np.uint64), np.asarray([len(grams)]), a_H, b_H, smallest_SH)
    expected = [
        min((a * gram + b) % 2**64 % PRIME for gram in grams) for a, b in zip(a_H.tolist(), b_H.tolist(), strict=True)
    ]
    assert smallest_SH[0].tolist() == expected


def test_signatures_do_not_depend_on_the_group(stories, monkeypatch):
    texts = [*stories[:40], "", "a"]
    whole = signatures(texts, CONFIG)
    monkeypatch.setattr(near, "_BATCH_CHARACTERS", 3000)
    for one, other in zip(whole, signatures(texts, CONFIG), strict=True):
        assert np.array_equal(one, other)
    assert [len(array) for array in signatures([], CONFIG)] == [0, 0]
    alone = [signatures([text], CONFIG)[0][0] for text in texts]
    assert np.array_equal(whole[0], alone)


def test_the_chance_to_be_found_is_what_the_formula_says():
    """400 pairs of texts of 300 grams each for two similarities; the bounds are 3 standard deviations away."""
    generator = random.Random(5)
    for different, expected in ((17, CONFIG.chance(0.8)), (50, CONFIG.chance(0.5))):
        pairs = []
        for _ in range(400):
            words = [f"w{generator.getrandbits(40):x}" for _ in range(154)]
            # The grams of the first words are in both texts, those of the last `different` ones are not.
            other = words[: 154 - different] + [f"v{generator.getrandbits(40):x}" for _ in range(different)]
            pairs += [" ".join(words), " ".join(other)]
        share = (150 - different) / (150 + different)
        assert abs(share - (0.8 if different == 17 else 0.5)) < 0.01
        bucket_SBR = signatures(pairs, CONFIG)[0].reshape(-1, CONFIG.buckets, CONFIG.hashes_per_bucket)
        found = (bucket_SBR[::2] == bucket_SBR[1::2]).all(axis=2).any(axis=1).mean()
        assert abs(found - expected) < 3 * (expected * (1 - expected) / 400) ** 0.5 + 0.01
    assert CONFIG.chance(0.8) > 0.95
    assert CONFIG.chance(0.5) < 0.1
    assert CONFIG.chance(1.0) == 1.0
    assert CONFIG.chance(0.0) == 0.0


def test_a_config_that_cannot_work_is_refused():
    with pytest.raises(ConfigError, match=r"n=0 is less than 1; hashes_per_bucket=-1 .*; seed=-1"):
        MinhashConfig(n=0, hashes_per_bucket=-1, seed=-1)
    with pytest.raises(ConfigError, match="999"):
        MinhashConfig(buckets=1000)


# signature files


def test_files_equal_the_library_s(tmp_path, stories):
    from datatrove.data import Document

    # Few hashes of few words, so that many records begin alike.
    config = MinhashConfig(n=1, buckets=3, hashes_per_bucket=2)
    texts = [*stories[:60], "", *stories[:5], *stories[60:100], "...", "A bear.", "a bear"]
    stage = library_stage(config, tmp_path / "theirs")
    with near.quiet_datatrove():
        stage.run([Document(text=text, id=str(index)) for index, text in enumerate(texts)], rank=7)
    with SignatureWriter(tmp_path / "ours", 7, config) as writer:
        for begin in range(0, len(texts), 25):
            part = texts[begin : begin + 25]
            writer.add(*signatures(part, config), range(begin, begin + len(part)))
    assert writer.stories == len(texts) - 2
    theirs = sorted(path.relative_to(tmp_path / "theirs") for path in (tmp_path / "theirs").rglob("*.sig"))
    assert [str(path) for path in theirs] == [f"bucket_{bucket:03d}/00007.minhash.sig" for bucket in range(3)]
    assert sorted(p.relative_to(tmp_path / "ours") for p in (tmp_path / "ours").rglob("*") if p.is_file()) == theirs
    for path in theirs:
        content = (tmp_path / "ours" / path).read_bytes()
        assert len(content) == 20 * writer.stories
        assert content == (tmp_path / "theirs" / path).read_bytes()


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), max_size=30))
def test_rows_are_sorted_whole(rows):
    array = np.asarray(rows, dtype=np.uint64).reshape(-1, 3)
    expected = sorted(range(len(rows)), key=lambda index: (rows[index], index))
    assert near._sorted_order(array).tolist() == expected


def test_what_a_task_adds_is_checked(tmp_path):
    with pytest.raises(ConfigError, match="rank=-1"):
        SignatureWriter(tmp_path, -1, CONFIG)
    writer = SignatureWriter(tmp_path, 0, CONFIG)
    one = signatures(["a b c"], CONFIG)
    writer.add(*one, [4])
    for bad in ([4], [3], [2**32]):
        with pytest.raises(ValueError, match="do not rise"):
            writer.add(*one, bad)
    with pytest.raises(ValueError, match="2 indices"):
        writer.add(*one, [5, 6])
    writer.add(*signatures([], CONFIG), [])
    assert writer.stories == 1


def test_nothing_is_written_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="do not rise"), SignatureWriter(tmp_path / "signatures", 0, CONFIG) as writer:
        writer.add(*signatures(["a b c", "d e f"], CONFIG), [0, 0])
    assert not (tmp_path / "signatures").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    writer = SignatureWriter(tmp_path / "file" / "signatures", 0, CONFIG)
    with pytest.raises(FileWriteError, match=r"cannot write .*minhash\.sig: Not a directory"):
        writer.close()


# near copies


def write_signatures(folder: Path, texts: list[str], ranks: int, config: MinhashConfig = CONFIG) -> list[int]:
    """Signatures of the texts, distributed over so many tasks; returns each task's first story."""
    parts = np.array_split(np.arange(len(texts)), ranks)
    for rank, part in enumerate(parts):
        with SignatureWriter(folder / "signatures", rank, config) as writer:
            writer.add(*signatures([texts[index] for index in part], config), range(len(part)))
    return np.cumsum([0, *(len(part) for part in parts[:-1])]).tolist()


def removed(folder: Path, begins: list[int]) -> list[int]:
    """Numbers of the removed stories, counted through all tasks."""
    return [begin + int(index) for rank, begin in enumerate(begins) for index in read_removed(folder, rank)]


def edited(story: str, generator: random.Random) -> str:
    """The story with another word in one place, an added sentence, other punctuation and capitals."""
    words = story.split()
    words[generator.randrange(len(words) // 4)] = "Zebulon"
    sentences = re.split(r"(?<=[.!?])\s", " ".join(words))
    sentences.insert(generator.choice([0, len(sentences)]), "Then the teller of this tale took a sip of tea.")
    return " ".join(sentences).replace(",", " -").upper()


@pytest.fixture(scope="module")
def mixed(stories) -> tuple[list[str], list[int]]:
    """Stories with edited copies among them, and for each the number of the story it is a copy of, or its own."""
    generator = random.Random(11)
    # Some stories twice and thrice; the copies come before or after any of the others.
    entries = [(number, stories[number]) for number in range(150)]
    entries += [(number, edited(stories[number], generator)) for number in range(0, 150, 3)]
    entries += [(number, edited(stories[number], generator)) for number in range(0, 150, 9)]
    entries += [(-1, "The End!"), (-1, "the end"), (-2, "The very end"), (-3, ""), (-4, "...")]
    generator.shuffle(entries)
    first: dict[int, int] = {}
    owners = [first.setdefault(number, index) for index, (number, _) in enumerate(entries)]
    return [text for _, text in entries], owners


def test_the_edits_are_near_and_the_stories_are_not(mixed):
    """What the next test relies on."""
    texts, owners = mixed
    pairs = [
        (texts[index], texts[owner]) for index, owner in enumerate(owners) if owner < index and len(texts[index]) > 20
    ]
    copies = [similarity(*pair) for pair in pairs]
    assert sum(share < 1 for share in copies) > 60
    assert 0.72 < min(copies) < 0.85
    firsts = [texts[index] for index, owner in enumerate(owners) if index == owner and len(texts[index]) > 20]
    assert max(similarity(firsts[0], other) for other in firsts[1:30]) < 0.05


@pytest.mark.parametrize("ranks", [1, 2, 5], ids="ranks={}".format)
def test_near_copies_are_found_and_the_first_stays(mixed, ranks, tmp_path):
    texts, owners = mixed
    begins = write_signatures(tmp_path, texts, ranks)
    found = find_near_copies(tmp_path, CONFIG, ranks=ranks)
    expected = [index for index, owner in enumerate(owners) if owner != index]
    assert removed(tmp_path, begins) == expected
    assert found.removed == len(expected)
    assert found.clusters == len({owners[index] for index in expected})
    assert found.stories == found.clusters + found.removed
    assert read_near_copies(tmp_path) == found
    kept = {
        begins[rank] + int(copy["index"]): begins[copy["kept_rank"]] + int(copy["kept_index"])
        for rank in range(ranks)
        for copy in read_copies(tmp_path, rank)
    }
    assert kept == {index: owners[index] for index in expected}


@pytest.mark.parametrize("seed", range(5), ids="seed={}".format)
def test_clusters_are_chains_and_their_first_stays(seed, tmp_path):
    """Against a slow union of all pairs with a common bucket, for signatures that often agree."""
    generator = np.random.default_rng(seed)
    config = MinhashConfig(buckets=3, hashes_per_bucket=2)
    signature_SH = generator.integers(0, 9, size=(60, 6), dtype=np.uint64)
    lowest = list(range(60))
    for _ in range(60):
        for one in range(60):
            for other in range(one):
                same = (signature_SH[one] == signature_SH[other]).reshape(3, 2).all(axis=1).any()
                if same:
                    lowest[one] = lowest[other] = min(lowest[one], lowest[other])
    begins = [0, 0, 25, 26, 60]  # the first and the last task have no stories
    for rank, (begin, end) in enumerate(pairwise([*begins, 60])):
        with SignatureWriter(tmp_path / "signatures", rank, config) as writer:
            writer.add(signature_SH[begin:end], np.ones(end - begin, dtype=np.bool_), range(end - begin))
    found = find_near_copies(tmp_path, config, ranks=5)
    expected = [index for index in range(60) if lowest[index] != index]
    assert removed(tmp_path, begins) == expected
    sizes = np.bincount(lowest)
    assert max(sizes) > 2
    assert found.clusters == (sizes > 1).sum()


def test_tasks_without_stories_do_no_harm(tmp_path):
    for texts in ([""], []):
        write_signatures(tmp_path, texts, 3)
        assert all(path.stat().st_size == 0 for path in (tmp_path / "signatures").rglob("*.sig"))
        assert find_near_copies(tmp_path, CONFIG, ranks=3) == near.NearCopies(clusters=0, stories=0, removed=0)
        assert read_removed(tmp_path, 2).tolist() == []
        assert read_removed(tmp_path, 2).dtype == np.int64


def test_the_steps_run_in_the_library_s_executor(mixed, tmp_path):
    from datatrove.executor import LocalPipelineExecutor

    texts, owners = mixed
    begins = write_signatures(tmp_path, texts, 2)
    stages = near_copy_stages(tmp_path, CONFIG, ranks=2)
    with near.quiet_datatrove():
        for task in range(stages.pair_tasks):
            stages.pairs[0].run(rank=task, world_size=stages.pair_tasks)
        LocalPipelineExecutor(stages.clusters, tasks=1, logging_dir=str(tmp_path / "logs")).run()
    assert removed(tmp_path, begins) == [index for index, owner in enumerate(owners) if owner != index]


def test_the_library_is_quiet(mixed, tmp_path, capsys):
    import datatrove.utils.logging  # removes all sinks when it is imported
    from loguru import logger

    assert datatrove.utils.logging.logger is logger
    write_signatures(tmp_path, mixed[0], 1)
    messages: list[str] = []
    sink = logger.add(messages.append)
    try:
        find_near_copies(tmp_path, CONFIG)
        assert messages == []
        near_copy_stages(tmp_path, CONFIG).pairs[0].run(rank=0, world_size=CONFIG.buckets)
        assert messages != []  # it has its voice back
    finally:
        logger.remove(sink)
    assert "Reading dup files" not in "".join(capsys.readouterr())


def test_what_a_killed_task_left_is_no_signature(mixed, tmp_path, monkeypatch):
    texts, owners = mixed

    def killed(*arguments):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(near.os, "replace", killed)
        patch.setattr(near.os, "unlink", lambda path: None)  # a killed process removes nothing
        with pytest.raises(SystemExit):
            write_signatures(tmp_path, texts, 1)
    assert [path.suffix for path in (tmp_path / "signatures").rglob("*") if path.is_file()] == [".part"]
    begins = write_signatures(tmp_path, texts, 1)
    find_near_copies(tmp_path, CONFIG, ranks=1)
    assert removed(tmp_path, begins) == [index for index, owner in enumerate(owners) if owner != index]


def test_missing_signatures_are_missed(stories, tmp_path):
    with pytest.raises(DataError, match="of 0 tasks: the tasks that write them"):
        find_near_copies(tmp_path, CONFIG)
    write_signatures(tmp_path, stories[:10], 2)
    with pytest.raises(DataError, match="of 2 tasks instead of 3"):
        find_near_copies(tmp_path, CONFIG, ranks=3)
    with pytest.raises(DataError, match="bucket_013"):
        find_near_copies(tmp_path, MinhashConfig(buckets=14))
    assert not (tmp_path / "pairs").exists()
    (tmp_path / "signatures" / "bucket_004" / "00001.minhash.sig").unlink()
    with pytest.raises(DataError, match="bucket_004 are not whole"):
        find_near_copies(tmp_path, CONFIG)
    with pytest.raises(DataError, match="were not looked for"):
        read_removed(tmp_path, 0)


def test_damaged_results_are_refused(mixed, tmp_path):
    write_signatures(tmp_path, mixed[0], 2)
    find_near_copies(tmp_path, CONFIG)
    assert len(read_removed(tmp_path, 0)) > 0
    path = tmp_path / "removed" / "00000.removed"
    content = path.read_bytes()
    for bad in (content[:-12], content[:-1], content + content[:12], content[:5] + b"\xff" + content[6:]):
        path.write_bytes(bad)
        with pytest.raises(DataError, match="checksum"):
            read_removed(tmp_path, 0)
    path.unlink()
    with pytest.raises(DataError, match="cannot read"):
        read_removed(tmp_path, 0)
    summary = tmp_path / "removed" / "near_copies.json"
    for bad_text in ("", "[]", '{"format": 2}', "{", "[" * 100_000):
        summary.write_text(bad_text)
        with pytest.raises(DataError, match=r"near_copies\.json"):
            read_removed(tmp_path, 0)
    summary.write_text(json.dumps({"format": 1, "clusters": 3}))
    with pytest.raises(DataError, match="lacks counts"):
        read_near_copies(tmp_path)


def test_clusters_of_another_run_are_refused(mixed, tmp_path):
    write_signatures(tmp_path, mixed[0], 2)
    find_near_copies(tmp_path, CONFIG)
    last = near.KeepFirst(tmp_path)
    last()  # as they are, they are sound
    file = tmp_path / "clusters" / "000000.clusters"
    content = file.read_bytes()
    shutil.copy(file, tmp_path / "clusters" / "000007.clusters")
    last()  # nothing new in it, so this cannot be seen
    for bad in (content[:-1], content[8:], content + struct.pack("<2I", 2**31, 2**31), content * 2):
        file.write_bytes(bad)
        with pytest.raises(DataError, match="damaged, or is left from another run"):
            last()
    with pytest.raises(ConfigError, match="in 1 task, not in 2"):
        last(None, 0, 2)


# held-out passages


@pytest.fixture(scope="module")
def held_out(stories) -> list[str]:
    return stories[:100]


@pytest.fixture(scope="module")
def index(held_out) -> NgramIndex:
    return NgramIndex.build(held_out)


@given(
    held=st.lists(st.text("ab c", max_size=40), max_size=5),
    texts=st.lists(st.text("ab c", max_size=40), max_size=5),
    n=st.integers(1, 4),
)
def test_matches_equal_the_slow_ones(held, texts, n):
    known = {gram for text in held for gram in slow_grams(text, n)}
    found = NgramIndex.build(held, n=n)
    assert found.known.tolist() == sorted(known)
    assert len(found) == len(known)
    grams = [slow_grams(text, n) for text in texts]
    assert found.matches(texts)[0].tolist() == [sum(gram in known for gram in text) for text in grams]
    assert found.matches(texts)[1].tolist() == [len(text) for text in grams]
    for text, of_text in zip(texts, grams, strict=True):
        assert found.share(text) == (sum(gram in known for gram in of_text) / len(of_text) if of_text else 0)
        assert found.contaminates(text, share=0.0) == any(gram in known for gram in of_text)


@given(known=st.sets(st.integers(0, ALL), max_size=40), grams=st.lists(st.integers(0, ALL), max_size=20))
def test_lookup_finds_any_number(known, grams):
    """Also the lowest and the highest, and several with the same upper bits."""
    known |= {gram ^ 1 for gram in grams[:5]} | set(grams[::3]) | {0}
    index = NgramIndex(np.asarray(sorted(known), dtype=np.uint64), 13)
    grams = [*grams, 0, 1, ALL]
    found_S = np.empty(1, dtype=np.int64)
    near._count_known(
        np.asarray(grams, dtype=np.uint64), np.asarray([len(grams)]), index.known, index._first, index._shift, found_S
    )
    assert found_S.tolist() == [sum(gram in known for gram in grams)]


def test_held_out_stories_are_found_edited_and_inside_others(stories, held_out, index):
    generator = random.Random(3)
    assert index.contaminating(held_out).all()
    assert index.contaminating(edited(story, generator) for story in held_out).all()
    inside = [" ".join(stories[200:260]) + story + " ".join(stories[260:300]) for story in held_out[:5]]
    assert max(map(index.share, inside)) < near.CONTAMINATED_SHARE  # it is their number that counts
    assert index.contaminating(inside).all()
    others = stories[100:]
    assert not index.contaminating(others).any()
    assert not index.contaminates(" ".join(others[:20]))


def test_a_single_passage_is_enough_if_wanted(stories, held_out, index):
    passage = " ".join(held_out[5].split()[20:34])
    story = stories[150] + " " + passage + " " + stories[151]
    assert not index.contaminates(story)
    assert index.contaminates(story, share=0.0)
    assert index.contaminates(story, grams=1)
    assert 0 < index.share(story) < 0.02


def test_short_held_out_texts_are_found_whole():
    index = NgramIndex.build(["The bear slept.", "", "..."])
    assert len(index) == 1
    assert index.contaminates("the BEAR slept")
    assert not index.contaminates("the bear slept well")
    assert not index.contaminates("")
    assert not NgramIndex.build([]).contaminates("the bear slept", share=0.0)


def test_an_index_does_not_depend_on_the_groups(held_out, index, monkeypatch):
    monkeypatch.setattr(near, "_BATCH_CHARACTERS", 200)
    other = NgramIndex.build(held_out)
    assert np.array_equal(other.known, index.known)
    assert all(np.array_equal(*pair) for pair in zip(other.matches(held_out), index.matches(held_out), strict=True))


def test_too_large_an_index_is_refused(held_out, index, tmp_path, monkeypatch):
    index.save(tmp_path / "index")
    monkeypatch.setattr(near, "MOST_GRAMS", len(index) - 1)
    with pytest.raises(DataError, match="hold out fewer stories"):
        NgramIndex.build(held_out)
    with pytest.raises(DataError, match="hold out fewer stories"):
        NgramIndex.load(tmp_path / "index")


@pytest.mark.parametrize("texts", [[], ["a"], ["one two three four"] * 2], ids=len)
def test_an_index_comes_back(texts, tmp_path):
    index = NgramIndex.build(texts, n=2)
    index.save(tmp_path / "index")
    found = NgramIndex.load(tmp_path / "index")
    assert found.n == 2
    assert found.known.tolist() == index.known.tolist()
    assert found.contaminates("one two three four") == (len(texts) == 2)
    assert (tmp_path / "index").stat().st_size == 32 + 8 * len(index)


def test_a_damaged_index_is_refused(tmp_path):
    path = tmp_path / "index"
    NgramIndex.build(["once there was a bear who slept"], n=2).save(path)
    content = path.read_bytes()
    assert len(content) == 32 + 6 * 8
    with pytest.raises(DataError, match="cannot read the index"):
        NgramIndex.load(tmp_path / "other")
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(DataError, match="index"):
            NgramIndex.load(path)
    for bad in (b"", content[:31], content[:-1], content[:-8], content + b"\0"):
        path.write_bytes(bad)
        with pytest.raises(DataError, match="index"):
            NgramIndex.load(path)


# real stories that others wrote, where they are at hand


def test_published_stories(tmp_path):
    file = Path(__file__).parents[3] / "shared" / "data" / "tinystories-train.jsonl"
    if not file.exists():
        pytest.skip("the published stories are not at hand")
    with open(file, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    generator = random.Random(1)
    copies = {index: edited(texts[index], generator) for index in range(0, len(texts), 40)}
    begins = write_signatures(tmp_path, [*texts, *copies.values()], 3)
    find_near_copies(tmp_path, CONFIG, ranks=3)
    found = set(removed(tmp_path, begins))
    originals = {index for index in found if index < len(texts)}
    assert len(originals) <= 3
    long = [len(texts) + k for k, index in enumerate(copies) if similarity(texts[index], copies[index]) >= 0.8]
    assert len(long) > 40
    assert len(found & set(long)) >= 0.95 * len(long)
