"""Token shards: what is written comes back, and nothing but what was written is accepted."""

from __future__ import annotations

import json
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.data.shards import (
    ShardCounts,
    ShardError,
    ShardWriter,
    TokenShard,
    read_manifest,
    token_dtype,
    write_manifest,
)
from gpt_oss_stories.files import FileWriteError, sha256_of_file

FINGERPRINT = "0123456789abcdef" * 4
STORIES = [([5, 1, 2], [0, 1, 1]), ([9], [1]), ([7, 7, 7, 7, 7, 7, 7, 9], [0, 1, 0, 1, 0, 1, 0, 1])]


def write(path: Path, stories, *, vocabulary_size: int = 10, groups: int = 1) -> ShardCounts:
    """A shard of stories given as (ids, flags), added in so many calls."""
    writer = ShardWriter(path, vocabulary_size=vocabulary_size, fingerprint=FINGERPRINT)
    for group in np.array_split(np.arange(len(stories)), groups):
        chosen = [stories[index] for index in group]
        writer.add(
            np.asarray([id for ids, _ in chosen for id in ids], dtype=np.int64),
            np.asarray([flag for _, flags in chosen for flag in flags], dtype=np.bool_),
            np.asarray([len(ids) for ids, _ in chosen], dtype=np.int64),
            text_bytes=3 * len(chosen),
            trained_bytes=2 * len(chosen),
        )
    return writer.close()


def read(shard: TokenShard):
    return [(ids.tolist(), flags.astype(int).tolist()) for ids, flags in map(shard.story, range(len(shard)))]


def test_a_shard_comes_back(tmp_path):
    counts = write(tmp_path / "train.shard", STORIES)
    shard = TokenShard(tmp_path / "train.shard", fingerprint=FINGERPRINT)
    assert read(shard) == STORIES
    assert shard.counts == counts
    assert counts == ShardCounts(stories=3, tokens=12, trained_tokens=7, text_bytes=9, trained_bytes=6)
    assert shard.offsets.tolist() == [0, 3, 4, 12]
    assert shard.lengths().tolist() == [3, 1, 8]
    assert (shard.vocabulary_size, shard.fingerprint) == (10, FINGERPRINT)
    assert os.listdir(tmp_path) == ["train.shard"]


def test_layout_by_hand(tmp_path):
    write(tmp_path / "a.shard", [([1, 2, 9], [0, 1, 1])])
    raw = (tmp_path / "a.shard").read_bytes()
    header = b"STORYTOK" + struct.pack("<IIQQQQQQ", 1, 2, 10, 3, 2, 1, 3, 2) + bytes.fromhex(FINGERPRINT)
    header = header.ljust(124, b"\0")
    assert raw[:128] == header + struct.pack("<I", zlib.crc32(header))
    assert raw[128:144] == struct.pack("<qq", 0, 3)
    assert raw[144:152] == struct.pack("<HHHH", 1, 2, 9, 0)
    assert raw[152:] == bytes([0b01100000])


@settings(max_examples=60, deadline=None)
@given(
    stories=st.lists(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 1)), min_size=1, max_size=20), max_size=20),
    groups=st.integers(1, 5),
)
def test_any_stories_in_any_portions_come_back(tmp_path_factory, stories, groups):
    folder = tmp_path_factory.mktemp("shard")
    stories = [([id for id, _ in story], [flag for _, flag in story]) for story in stories]
    write(folder / "a.shard", stories, vocabulary_size=100, groups=groups)
    write(folder / "b.shard", stories, vocabulary_size=100)
    shard = TokenShard(folder / "a.shard")
    shard.verify(sha256_of_file(folder / "b.shard"))  # portions leave no trace
    assert read(shard) == stories
    flags = [flag for _, flags in stories for flag in flags]
    for start in range(len(flags)):
        assert shard.trained(start, len(flags)).tolist() == [bool(flag) for flag in flags[start:]]


def test_an_empty_shard_can_be_read(tmp_path):
    write(tmp_path / "a.shard", [])
    shard = TokenShard(tmp_path / "a.shard")
    shard.verify()
    assert (len(shard), len(shard.tokens), shard.lengths().tolist()) == (0, 0, [])
    with pytest.raises(IndexError):
        shard.story(0)


@pytest.mark.parametrize(("size", "name"), [(2, "uint16"), (65_536, "uint16"), (65_537, "uint32"), (201_088, "uint32")])
def test_ids_take_two_bytes_where_they_fit(tmp_path, size, name):
    assert token_dtype(size).name == name
    write(tmp_path / "a.shard", [([0, size - 1], [0, 1])], vocabulary_size=size)
    shard = TokenShard(tmp_path / "a.shard")
    assert shard.tokens.dtype.name == name
    assert shard.tokens.tolist() == [0, size - 1]


@pytest.mark.parametrize("ids", [[0, 10], [-1, 3]])
def test_ids_outside_the_vocabulary_are_not_written(tmp_path, ids):
    writer = ShardWriter(tmp_path / "a.shard", vocabulary_size=10, fingerprint=FINGERPRINT)
    with pytest.raises(ValueError, match="do not fit a vocabulary of 10"):
        writer.add(np.asarray(ids), np.ones(2, bool), np.asarray([2]), text_bytes=0, trained_bytes=0)
    writer.abandon()
    assert not os.listdir(tmp_path)


def changed(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :]


def with_header(raw: bytes, at: int, new: bytes) -> bytes:
    """A header changed by somebody who knows how to make its checksum right again."""
    header = changed(raw, at, new)[:124]
    return header + struct.pack("<I", zlib.crc32(header)) + raw[128:]


DAMAGES = {
    "empty": (lambda raw: b"", "not a token shard"),
    "header cut": (lambda raw: raw[:60], "not a token shard"),
    "other magic": (lambda raw: changed(raw, 0, b"PK\x03\x04"), "not a token shard"),
    "newer format": (lambda raw: with_header(raw, 8, struct.pack("<I", 2)), "shard format 2, this program reads 1"),
    "header bit": (lambda raw: changed(raw, 40, bytes([raw[40] ^ 1])), "header's checksum"),
    "wide tokens": (lambda raw: with_header(raw, 12, struct.pack("<I", 4)), "4 bytes per token do not go with 10 ids"),
    "more tokens": (lambda raw: with_header(raw, 24, struct.pack("<Q", 2**60)), "bytes instead of"),
    "more stories": (lambda raw: with_header(raw, 40, struct.pack("<Q", 4)), "bytes instead of"),
    "cut by one byte": (lambda raw: raw[:-1], "bytes instead of"),
    "cut in the tokens": (lambda raw: raw[: 128 + 32 + 8], "bytes instead of"),
    "longer": (lambda raw: raw + b"\0", "bytes instead of"),
    "offset falls": (lambda raw: changed(raw, 128 + 8, struct.pack("<q", 5)), "offsets do not rise"),
    "offset starts late": (lambda raw: changed(raw, 128, struct.pack("<q", 1)), "offsets do not rise"),
    "offset ends late": (lambda raw: changed(raw, 128 + 24, struct.pack("<q", 13)), "offsets do not rise"),
    "negative offset": (lambda raw: changed(raw, 128 + 8, struct.pack("<q", -1)), "offsets do not rise"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_is_refused_when_it_is_opened(tmp_path, name):
    damage, message = DAMAGES[name]
    path = tmp_path / "train.shard"
    write(path, STORIES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=message) as error:
        TokenShard(path)
    assert "\n" not in str(error.value)
    assert "train.shard" in str(error.value)
    assert "--process-data" in str(error.value)


def test_another_vocabulary_is_refused(tmp_path):
    write(tmp_path / "a.shard", STORIES)
    with pytest.raises(ShardError, match="holds ids of the vocabulary 0123456789ab, expected ffffffffffff"):
        TokenShard(tmp_path / "a.shard", fingerprint="f" * 64)


def test_a_missing_shard_is_one_clear_line(tmp_path):
    with pytest.raises(ShardError, match=r"cannot read the token shard .*No such file"):
        TokenShard(tmp_path / "a.shard")


def test_verify_finds_changed_tokens_and_impossible_ids(tmp_path):
    path = tmp_path / "a.shard"
    write(path, STORIES)
    sha256, raw = sha256_of_file(path), path.read_bytes()
    TokenShard(path).verify(sha256)
    path.write_bytes(changed(raw, 128 + 32, b"\x06"))  # a token that exists, but is another one
    TokenShard(path).verify()
    with pytest.raises(ShardError, match="its sha256 does not begin with"):
        TokenShard(path).verify(sha256)
    path.write_bytes(changed(raw, 128 + 32, b"\x0a"))
    with pytest.raises(ShardError, match="holds the id 10, but the vocabulary has 10 ids"):
        TokenShard(path).verify()


def test_manifest_comes_back_and_changes_are_noticed(tmp_path):
    write_manifest(tmp_path, {"vocabulary": {"kind": "story"}, "summary": ["Zoë"]})
    manifest = read_manifest(tmp_path)
    assert manifest["vocabulary"] == {"kind": "story"}
    assert manifest["summary"] == ["Zoë"]
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace("story", "other"))
    with pytest.raises(ShardError, match="its checksum is wrong"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no prepared data in"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "manifest format None"),
        (json.dumps({"format": 99}).encode(), "manifest format 99, this program reads 1"),
        (json.dumps({"format": 1}).encode(), "checksum"),
    ],
    ids=["missing", "cut", "bytes", "deep", "list", "newer", "no checksum"],
)
def test_a_bad_manifest_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ShardError, match=message):
        read_manifest(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_line(tmp_path):
    writer = ShardWriter(tmp_path / "a.shard", vocabulary_size=10, fingerprint=FINGERPRINT)
    writer._tokens.close()
    writer._tokens = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(FileWriteError, match="No space left on device"):
        writer.add(np.zeros(9, int), np.ones(9, bool), np.asarray([9]), text_bytes=0, trained_bytes=0)
    writer.abandon()
    assert not os.listdir(tmp_path)


def page_faults() -> int:
    """How often this process has touched memory that was not mapped in, which is how mapped files are read."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def test_opening_does_not_read_the_tokens(tmp_path):
    """A shard of a gigabyte of zeros, which takes no room on the disk: hardly a page of it comes into the memory."""
    path = tmp_path / "a.shard"
    tokens, stories = 2**29, 4
    header = b"STORYTOK" + struct.pack("<IIQQQQQQ", 1, 2, 10, tokens, 0, stories, 0, 0) + bytes.fromhex(FINGERPRINT)
    header = header.ljust(124, b"\0")
    with open(path, "wb") as file:
        file.write(header + struct.pack("<I", zlib.crc32(header)))
        file.write(np.linspace(0, tokens, stories + 1).astype("<i8").tobytes())
        file.truncate(128 + 8 * (stories + 1) + 2 * tokens + tokens // 8)
    before = page_faults()
    shard = TokenShard(path)
    assert shard.tokens[tokens - 1] == 0
    assert not shard.trained(tokens - 3, tokens).any()
    # About ten; reading the gigabyte would cost 512 with pages of two megabytes, and more with smaller ones.
    assert page_faults() - before < 200
