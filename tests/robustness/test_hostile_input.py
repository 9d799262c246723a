"""Input that is not what it should be, through the commands: one line, exit code 2, no hanging and nothing damaged."""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt_oss_stories import cli
from gpt_oss_stories.data.storybook import write_story

HOSTILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "hostile"
MEGABYTE = 1_000_000


def the_error(said: str) -> str:
    """The one line of an error that a user can mend; lines about progress may come before it."""
    assert "Traceback" not in said
    *before, last = said.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith("error:") for line in before)
    return last


# Models


def write_directory(path: Path) -> None:
    path.mkdir()


def write_text(path: Path) -> None:
    path.write_text("Once upon a time there was no model.\n")


def write_bomb(path: Path) -> None:
    """A small archive that unpacks to 100 megabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(100 * MEGABYTE))


def write_laughs(path: Path) -> None:
    """Lists of lists of the same lists: two kilobytes that would be endless as text."""
    laughs: list = ["ha"]
    for _ in range(40):
        laughs = [laughs] * 10
    write_model(path, provenance={"laughs": laughs})


def write_depths(path: Path) -> None:
    """A list in a list in a list ..., 100,000 deep: deeper than a pickler of Python's own can write."""
    write_model(path, provenance="DEPTHS")
    stored = b"X\x06\x00\x00\x00DEPTHS"
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if name.endswith("data.pkl"):
                assert stored in content
                content = re.sub(re.escape(stored) + rb"(q.)?", b"]" * 100_000 + b"a" * 99_999, content, flags=re.S)
            archive.writestr(name, content)


def write_model(path: Path, **contents: object) -> None:
    whole = {"format": "gpt_oss_stories.model", "version": 1, "config": {}, "vocabulary": {}, "provenance": {}}
    torch.save({**whole, "weights": {}, "checksum": "0" * 64, **contents}, path)


MODELS: dict[str, Callable[[Path], None]] = {
    "directory": write_directory,
    "text": write_text,
    "bomb": write_bomb,
    "laughs": write_laughs,
    "depths": write_depths,
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("command", ["generate --model-path", "inspect"])
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_no_model_is_refused_in_one_line(kind: str, command: str, stories, tmp_path) -> None:
    path = tmp_path / "model.pt"
    MODELS[kind](path)
    before = path.stat()
    code, said = stories.run(f"{command} model.pt", tmp_path, more_memory=400 * MEGABYTE, kill_after=30)
    assert code == 2, said
    assert said.count("\n") == 1
    assert "model.pt" in the_error(said)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


# Stories


def jsonl(*texts: object) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


NO_STORIES = {
    "garbage.jsonl": (bytes(range(256)) * 200, "200 NUL character (garbage.jsonl:1); 1 not UTF-8 (garbage.jsonl:201)"),
    "garbage.txt": (bytes(range(256)) * 200, "1 NUL character (garbage.txt:1)"),
    "latin.txt": ("Das Mädchen.\n\n\nDie Bäume.".encode("latin-1"), "2 not UTF-8 (latin.txt:1)"),
    "blank.jsonl": (jsonl("", " \n", "\u200b"), "3 blank story (blank.jsonl:1)"),
    "types.jsonl": (jsonl(3, None, ["a"], {"b": 1}, True), "5 'text' is not a text (types.jsonl:1)"),
    "long.jsonl": (jsonl("x" * (MEGABYTE + 1)), "1 longer than 1,000,000 characters"),
    "long.txt": (b"x" * (MEGABYTE + 1), "1 longer than 1,000,000 characters"),
}


@pytest.mark.parametrize("command", ["prepare", "train"])
@pytest.mark.parametrize("name", NO_STORIES)
def test_files_without_a_story_are_refused_in_one_line(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content, reason = NO_STORIES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert cli.main([command, "--dataset-path", name]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    error = the_error(captured.err)
    assert "no stories " in error
    assert reason in error
    assert (tmp_path / name).read_bytes() == content
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == sorted(["data", name])


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_line_of_a_megabyte_is_a_story(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = " ".join(write_story(seed).text for seed in range(1500)).encode("ascii", "ignore").decode()
    text = " ".join(told.split())[: MEGABYTE - 1].rstrip() + "."
    text += "." * (MEGABYTE - len(text))
    (tmp_path / f"long.{kind}").write_bytes(jsonl(text) if kind == "jsonl" else text.encode())
    assert cli.main(["prepare", "--dataset-path", f"long.{kind}"]) == 0
    manifest = json.loads((tmp_path / capfd.readouterr().out.strip() / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["splits"]["train"]["stories"], manifest["splits"]["train"]["text_bytes"]) == (1, MEGABYTE)


@pytest.mark.parametrize("path", ["pipe.jsonl", "/dev/zero", "/dev/stdin"])
@pytest.mark.parametrize("command", ["prepare", "train"])
def test_what_never_ends_is_not_read(path: str, command: str, stories, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    if not os.path.exists(tmp_path / path):
        pytest.skip(f"this system has no {path}")
    code, said = stories.run(f"{command} --dataset-path {path}", tmp_path, kill_after=30)
    assert code == 2, said
    assert f"{path} is neither a file nor a folder" in the_error(said)
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.skipif(not HOSTILE.is_dir(), reason="no hostile files beside the checkout")
def test_a_folder_of_spoiled_files_is_read_to_its_end_and_trained_on(stories, small, tmp_path) -> None:
    table = (HOSTILE / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+\.(?:jsonl|txt))` \| [\d,]+ \| (\d+) \| (\d+) \|", table, re.M)
    good, bad = (sum(int(row[column]) for row in rows) for column in (1, 2))
    code, said = stories.run([*small, "--max-iters", "1", "--dataset-path", str(HOSTILE)], tmp_path)
    assert code == 0, said
    assert f"read {good} stories from {len(rows)} files" in said
    assert sum(int(count) for count in re.findall(r"^  skipped (\d+): ", said, re.M)) == bad
    dropped = sum(int(count) for count in re.findall(r"^  dropped (\d+): ", said, re.M))
    assert f"\n{good - dropped} different stories" in said


# Folders and files that may not be entered, read or written


CLOSED = [
    ("train --checkpoint-dir unreadable", "unreadable"),
    ("train --checkpoint-dir unreadable/run", "unreadable/run"),
    ("train --checkpoint-dir readonly", "readonly"),
    ("train --checkpoint-dir readonly/run", "readonly/run"),
    ("train --data-dir unreadable", "unreadable"),
    ("train --data-dir readonly", "readonly"),
    ("prepare --data-dir unreadable", "unreadable"),
    ("prepare --data-dir readonly", "readonly"),
    ("prepare --dataset-path unreadable", "unreadable"),
    ("prepare --dataset-path unreadable/stories.jsonl", "unreadable/stories.jsonl"),
    ("prepare --dataset-path unreadable.jsonl", "unreadable.jsonl"),
    ("prepare --dataset-path half", "half/unreadable"),
    ("generate --model-path unreadable.jsonl", "unreadable.jsonl"),
    ("generate --model-path unreadable/best_model.pt", "unreadable/best_model.pt"),
    ("inspect unreadable/best_model.pt", "unreadable/best_model.pt"),
]


@pytest.fixture
def closed(tmp_path: Path):
    """A folder with things in it that their owner has closed to himself."""
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "open.jsonl").write_bytes(jsonl("Once there was a fox."))
    closed = {tmp_path / "unreadable": 0, tmp_path / "half" / "unreadable": 0, tmp_path / "readonly": 0o500}
    for folder in closed:
        folder.mkdir()
        (folder / "stories.jsonl").write_bytes(jsonl("Once there was a hen."))
    closed[tmp_path / "unreadable.jsonl"] = 0
    (tmp_path / "unreadable.jsonl").write_bytes(jsonl("Once there was a cat."))
    for path, mode in closed.items():
        path.chmod(mode)
    yield tmp_path
    for path in closed:
        path.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
@pytest.mark.skipif(sys.platform != "linux" and getattr(os, "geteuid", int)() == 0, reason="root may do everything")
@pytest.mark.parametrize(("words", "named"), CLOSED, ids=[words for words, _ in CLOSED])
def test_what_is_closed_to_the_user_is_named_in_one_line(words: str, named: str, stories, small, closed) -> None:
    more = small[1:] if words.startswith("train") else []
    if words.startswith("prepare --data-dir"):
        more = small[1 : small.index("--training-preset")]
    code, said = stories.run([*words.split(), *more], closed, without_rights=True)
    assert code == 2, said
    error = the_error(said)
    assert named in error
    assert "Permission denied" in error
    for path in (closed / "unreadable", closed / "readonly"):
        path.chmod(0o700)
        assert [entry.name for entry in path.iterdir()] == ["stories.jsonl"]


def test_data_that_were_prepared_before_need_not_be_writable(stories, small, tmp_path) -> None:
    prepare = ["prepare", *small[1 : small.index("--training-preset")]]
    code, said = stories.run(prepare, tmp_path)
    assert code == 0, said
    folders = [tmp_path / "data", *(path for path in (tmp_path / "data").iterdir() if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        code, said = stories.run([*small, "--max-iters", "1"], tmp_path, without_rights=True)
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert code == 0, said
    assert "found prepared in data/" in said
