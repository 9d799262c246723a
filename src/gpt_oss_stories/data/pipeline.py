"""From stories to token shards: read or write stories, tokenize them once, drop copies, split, number the vocabulary.

Everything about a story depends on the story alone: whether it is held out, whether it is told as a conversation and
which fields of its request are dropped are drawn from a hash of its text. So the result is the same, byte for byte, for
any number of workers and any order of files. The steps:

1. Each story is cleaned, hashed, rendered and tokenized with the harmony vocabulary; worker processes take a few
   hundred stories at a time, and this process collects the tokens, in order, in a temporary file.
2. Copies are dropped and the held-out stories chosen, both by the hash of the story's letters and digits in lower case:
   copies that differ in punctuation or capitals are never on both sides.
3. The story vocabulary is built from the tokens of the training part. Held-out stories with a token that it lacks, and
   stories with tokens rarer than `min_token_count`, are spelled anew; all others only change their numbers.
4. The shards and the manifest are written to a temporary folder, which then gets its name.

Every story that is left out is counted under its reason. This module does not import torch: workers start faster so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import string
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import DataConfig
from ..files import FileWriteError, sha256_of_file
from ..tokenization import (
    Question,
    StoryRequest,
    TokenizationError,
    Vocabulary,
    build_story_vocabulary,
    harmony_vocabulary,
    render_conversation,
    render_story,
    vocabulary_from_dict,
)
from ..tokenization.harmony import RANKS_SHA256
from .originals import ORIGINAL_STORIES_SHA256, original_stories
from .records import StoryRecord
from .shards import ShardCounts, ShardWriter, TokenShard, new_directory, read_manifest, write_manifest
from .sources import DataError, ReadReport, StoryReader, clean_text, read_stories
from .storybook import mix, write_first_reader, write_story

PREPARATION_VERSION = 1
"""To be raised when the same stories and settings would give other shards; older ones are then prepared again."""

QUESTIONS_SHARE = 0.5
"""Share of the stories told as conversations, where there are questions, that some of them follow."""

TASK_STORIES = 256
"""Stories that a worker handles at a time."""

POOL_FROM_STORIES = 4_000
POOL_FROM_BYTES = 24_000_000
"""Less than this is done before worker processes have started."""

Progress = Callable[[str, int, int | None], None]
"""Called with a stage, how much of it is done, and of how much, where that is known."""


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A prepared data set, opened."""

    directory: Path
    vocabulary: Vocabulary
    train: TokenShard
    """At least one story."""
    validation: TokenShard
    """Held-out stories. Empty (`len(validation) == 0`) only if the data set has a single story."""
    fingerprint: str
    """Hash of the stories, the settings and the version of the program that made it."""
    summary: str
    """Lines for the console: what was read, what was dropped and why, what came out."""
    reused: bool = False
    """It was found prepared, not prepared now."""


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """The settings that decide what becomes of one story."""

    request_fraction: float
    max_story_characters: int
    data_seed: int


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Stories for one worker: given ones, or numbers of storybook stories and first readers to write."""

    rules: _Rules
    records: tuple[StoryRecord, ...] = ()
    storybook_seed: int = 0
    numbers: range = range(0)
    first_readers: range = range(0)
    repeats: int = 1

    def stories(self) -> Iterator[StoryRecord]:
        yield from self.records
        for number in self.numbers:
            yield write_story(mix(self.storybook_seed, number))
        for number in self.first_readers:
            yield write_first_reader(mix(self.storybook_seed, number))


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """What a task becomes. S stories, each rendered R = `repeats` times, N tokens in all."""

    taken: int
    """Stories of the task, dropped ones included."""
    repeats: int
    digests: list[bytes]
    """[S]"""
    text_bytes: NDArray[np.int64]
    """[S] UTF-8 bytes of each story's text."""
    lengths: NDArray[np.int64]
    """[S * R] tokens of each rendering, a story's renderings together."""
    tokens: NDArray[np.uint32]
    """[N] harmony ids."""
    trained: NDArray[np.bool_]
    """[N]"""
    on_request: NDArray[np.bool_]
    """[S * R] whether the rendering is a conversation."""
    dropped: Counter[str]


_UNIMPORTANT_ASCII = bytes(code for code in range(128) if chr(code) not in string.ascii_letters + string.digits)
_UNIMPORTANT = re.compile(r"[\W_]+")


def story_digest(text: str) -> bytes:
    """16 bytes that are equal for copies of a story: a hash of its letters and digits in lower case."""
    lower = text.lower()
    if lower.isascii():
        key = lower.encode("ascii").translate(None, _UNIMPORTANT_ASCII)
    else:
        key = _UNIMPORTANT.sub("", lower).encode("utf-8")
    return hashlib.blake2b(key or text.encode("utf-8"), digest_size=16).digest()


def _encode_task(task: _Task) -> _Encoded:
    """Clean, hash, render and tokenize the stories of a task: a pure function, for a worker process or for this one."""
    vocabulary = harmony_vocabulary()
    rules = task.rules
    digests: list[bytes] = []
    text_bytes: list[int] = []
    lengths: list[int] = []
    tokens: list[NDArray[np.uint32]] = []
    trained: list[NDArray[np.bool_]] = []
    dropped: Counter[str] = Counter()
    on_request: list[bool] = []
    taken = 0
    for record in task.stories():
        taken += 1
        text = clean_text(record.text)
        if len(text) > rules.max_story_characters:
            dropped[f"longer than {rules.max_story_characters:,} characters"] += 1
            continue
        digest = story_digest(text)
        try:
            rendered = [
                _render(vocabulary, record, text, random.Random(f"{rules.data_seed} {digest.hex()} {repeat}"), rules)
                for repeat in range(task.repeats)
            ]
        except TokenizationError:
            dropped["cannot be encoded (an absurdly long run of white space)"] += 1
            continue
        digests.append(digest)
        text_bytes.append(len(text.encode("utf-8")))
        for ids, flags, asked in rendered:
            on_request.append(asked)
            lengths.append(len(ids))
            tokens.append(np.asarray(ids, dtype=np.uint32))
            trained.append(np.asarray(flags, dtype=np.bool_))
    return _Encoded(
        taken=taken,
        repeats=task.repeats,
        digests=digests,
        text_bytes=np.asarray(text_bytes, dtype=np.int64),
        lengths=np.asarray(lengths, dtype=np.int64),
        tokens=np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.uint32),
        trained=np.concatenate(trained) if trained else np.zeros(0, dtype=np.bool_),
        on_request=np.asarray(on_request, dtype=np.bool_),
        dropped=dropped,
    )


def _render(
    vocabulary: Vocabulary, record: StoryRecord, text: str, rng: random.Random, rules: _Rules
) -> tuple[list[int], list[bool], bool]:
    """Ids and trained flags of one telling of a story, and whether it is a conversation."""
    request = record.request
    if request is None or not request.given_fields() or rng.random() >= rules.request_fraction:
        rendered = render_story(vocabulary, text)
        return rendered.tokens, rendered.trained, False
    questions: Sequence[Question] = ()
    if record.questions and rng.random() < QUESTIONS_SHARE:
        chosen = rng.sample(range(len(record.questions)), rng.randint(1, len(record.questions)))
        questions = [record.questions[index] for index in sorted(chosen)]
    rendered = render_conversation(vocabulary, request.drop_fields(rng), text, questions)
    return rendered.tokens, rendered.trained, True


@dataclass
class _Spool:
    """All renderings so far, in order: tokens and flags in temporary files, what is known of each story in memory."""

    directory: Path
    stories: int = 0
    on_request: int = 0
    """Renderings that are conversations."""
    dropped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._seen: set[bytes] = set()
        self._keys: list[int] = []
        self._text_bytes: list[NDArray[np.int64]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._owners: list[NDArray[np.int64]] = []
        self._tokens = open(self.directory / "tokens", "wb")  # noqa: SIM115 - closed by `finish`
        self._trained = open(self.directory / "trained", "wb")  # noqa: SIM115

    def add(self, encoded: _Encoded) -> None:
        """Append a task's stories but for copies of earlier ones."""
        new = np.ones(len(encoded.digests), dtype=np.bool_)
        for index, digest in enumerate(encoded.digests):
            if digest in self._seen:
                new[index] = False
            else:
                self._seen.add(digest)
                self._keys.append(int.from_bytes(digest[:8], "big"))
        kept = int(new.sum())
        self.dropped += encoded.dropped
        if kept < len(new):
            self.dropped["copies of another story"] += len(new) - kept
        lengths, tokens, trained = encoded.lengths, encoded.tokens, encoded.trained
        renderings = np.repeat(new, encoded.repeats)
        if kept < len(new):
            places = np.repeat(renderings, lengths)
            tokens, trained, lengths = tokens[places], trained[places], lengths[renderings]
        self._tokens.write(tokens.tobytes())
        self._trained.write(trained.tobytes())
        self._text_bytes.append(encoded.text_bytes[new])
        self._lengths.append(lengths)
        self._owners.append(np.repeat(np.arange(self.stories, self.stories + kept), encoded.repeats))
        self.stories += kept
        self.on_request += int(encoded.on_request[renderings].sum())

    def finish(self) -> None:
        self._tokens.close()
        self._trained.close()
        self._seen.clear()
        empty = np.zeros(0, dtype=np.int64)
        self.text_bytes = np.concatenate([empty, *self._text_bytes])
        """[stories]"""
        self.lengths = np.concatenate([empty, *self._lengths])
        """[renderings]"""
        self.owners = np.concatenate([empty, *self._owners])
        """[renderings] number of the story."""
        self.keys = np.asarray(self._keys, dtype=np.uint64)
        """[stories] evenly spread numbers that depend on the story's text alone."""
        self.offsets = np.concatenate([np.zeros(1, dtype=np.int64), self.lengths.cumsum()])

    def close(self) -> None:
        self._tokens.close()
        self._trained.close()

    def groups(self, renderings: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]]:
        """The chosen renderings, some thousands at a time: their numbers, tokens and flags."""
        tokens = np.memmap(self.directory / "tokens", dtype=np.uint32, mode="r")
        trained = np.memmap(self.directory / "trained", dtype=np.bool_, mode="r")
        for begin in range(0, len(renderings), 4096):
            numbers = renderings[begin : begin + 4096]
            first, end = int(self.offsets[numbers[0]]), int(self.offsets[numbers[-1] + 1])
            chosen = np.zeros(int(numbers[-1] - numbers[0]) + 1, dtype=np.bool_)
            chosen[numbers - numbers[0]] = True
            places = np.repeat(chosen, self.lengths[numbers[0] : numbers[-1] + 1])
            yield numbers, np.asarray(tokens[first:end])[places], np.asarray(trained[first:end])[places]


def held_out(keys: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Which stories are for validation: those whose key is in the lowest `fraction` of all numbers.

    Of two or more stories at least one is held out and at least one is not: the one with the lowest and the one with
    the highest key. A single story is for training.

    Args:
        keys: [stories] numbers spread evenly over 64 bits, different for different stories.
        fraction: share to hold out.
    """
    held = keys < np.uint64(min(int(fraction * 2.0**64), 2**64 - 1))
    if len(keys):
        held[keys.argmin()] = True
        held[keys.argmax()] = False
    return held


class _Respeller:
    """Turns harmony ids into ids of another vocabulary.

    Args:
        harmony: the vocabulary that the ids are of.
        vocabulary: the one to turn them into.
        is_control: [harmony.size] which ids spell nothing.
    """

    def __init__(self, harmony: Vocabulary, vocabulary: Vocabulary, is_control: NDArray[np.bool_]) -> None:
        self.harmony = harmony
        self.vocabulary = vocabulary
        self._new_ids = np.full(harmony.size, -1, dtype=np.int64)
        self._new_ids[np.asarray(vocabulary.harmony_ids, dtype=np.int64)] = np.arange(vocabulary.size)
        self._is_control = is_control

    def renumber(
        self, tokens: NDArray[Any], trained: NDArray[np.bool_], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], int]:
        """New ids, flags and lengths of some renderings, and how many of these were spelled anew.

        A rendering whose tokens all exist keeps its segmentation: it is what the new vocabulary's own encoder gives
        (see `tokenization.story_vocabulary`). The text of any other is encoded again.
        """
        ids = self._new_ids[tokens]
        missing = np.flatnonzero(ids < 0)
        if not len(missing):
            return ids, trained, lengths, 0
        ends = lengths.cumsum()
        again = np.unique(np.searchsorted(ends, missing, side="right"))
        pieces, flags, sizes, copied = [], [], lengths.copy(), 0
        for rendering in again:
            start, end = int(ends[rendering] - lengths[rendering]), int(ends[rendering])
            new, new_trained = self.respell(tokens[start:end], trained[start:end])
            pieces += [ids[copied:start], new]
            flags += [trained[copied:start], new_trained]
            sizes[rendering], copied = len(new), end
        return np.concatenate([*pieces, ids[copied:]]), np.concatenate([*flags, trained[copied:]]), sizes, len(again)

    def respell(self, tokens: NDArray[Any], trained: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Encode the text between control tokens again, in stretches of equal flag."""
        control = self._is_control[tokens]
        borders = control[1:] | control[:-1] | (trained[1:] != trained[:-1])
        edges = [0, *(np.flatnonzero(borders) + 1).tolist(), len(tokens)]
        ids: list[int] = []
        flags: list[bool] = []
        for start, end in pairwise(edges):
            if control[start]:
                new = [int(self._new_ids[tokens[start]])]
            else:
                new = self.vocabulary.encode(self.harmony.decode(tokens[start:end].tolist()))
            ids += new
            flags += [bool(trained[start])] * len(new)
        return np.asarray(ids, dtype=np.int64), np.asarray(flags, dtype=np.bool_)


def prepare(config: DataConfig, progress: Progress | None = None, *, workers: int | None = None) -> PreparedData:
    """Token shards of the stories that a configuration names: found prepared, or prepared now.

    The folder is `data_dir`/NAME-FINGERPRINT. It appears when it is complete; a run that fails or is killed leaves no
    half of it. A second process that wants the same data waits for the first and then finds them.

    Args:
        config: which stories, and how they become tokens. With `process_data` an existing folder is made again.
        progress: is told how far the work is.
        workers: processes that tokenize; as many as there are cores when not given. The result does not depend on it.

    Raises:
        DataError: there are no stories, or they cannot be read.
        ShardError: the prepared folder is damaged.
        FileWriteError: the folder cannot be written.
    """
    # multiprocessing starts workers by running the main script again; without the usual guard that would end up here.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            'prepare() was called while a script is imported; call it under `if __name__ == "__main__":`'
        )
    tell = progress or (lambda stage, done, total: None)
    settings = _settings(config, tell)
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    directory = Path(config.data_dir) / f"{_name(config)}-{fingerprint[:12]}"
    if directory.is_dir() and not config.process_data:
        return load_prepared(directory, reused=True)
    with _lock(directory.parent, tell):
        if directory.is_dir() and not config.process_data:
            return load_prepared(directory, reused=True)
        with new_directory(directory) as part:
            try:
                _prepare_into(part, config, settings, fingerprint, tell, workers)
            except OSError as error:
                raise FileWriteError(
                    f"cannot write prepared data to {config.data_dir}: {error.strerror or error}. "
                    "Free some space or choose another folder (--data-dir)"
                ) from error
    return load_prepared(directory)


def load_prepared(directory: str | Path, *, reused: bool = False, verify: bool = True) -> PreparedData:
    """Open a prepared data set.

    Args:
        directory: its folder.
        reused: what the result is to say about itself.
        verify: read the shards whole and compare their sha256; without it only their structure is checked.

    Raises:
        ShardError: it is missing or damaged.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    vocabulary = vocabulary_from_dict(manifest["vocabulary"])
    shards = {}
    for split in ("train", "validation"):
        shards[split] = TokenShard(directory / manifest["splits"][split]["file"], fingerprint=vocabulary.fingerprint)
        if verify:
            shards[split].verify(manifest["splits"][split]["sha256"])
    return PreparedData(
        directory=directory,
        vocabulary=vocabulary,
        train=shards["train"],
        validation=shards["validation"],
        fingerprint=manifest["fingerprint"],
        summary="\n".join([*manifest["summary"], f"{'found prepared' if reused else 'written'} in {directory}"]),
        reused=reused,
    )


def _name(config: DataConfig) -> str:
    """What the data are called in their folder's name."""
    if config.dataset_path is None:
        return "storybook"
    return re.sub(r"[^\w.-]+", "-", Path(config.dataset_path).resolve().stem).strip(".-")[:60] or "stories"


def _settings(config: DataConfig, tell: Progress) -> dict[str, Any]:
    """All that decides about the result: its hash names the folder."""
    settings: dict[str, Any] = {
        "preparation": PREPARATION_VERSION,
        "tokens": RANKS_SHA256,
        "conversation": _conversation_probe(),
        "vocabulary": config.vocabulary,
        "request_fraction": config.request_fraction,
        "validation_fraction": config.validation_fraction,
        "max_story_characters": config.max_story_characters,
        "data_seed": config.data_seed,
    }
    if config.vocabulary == "story":
        settings["min_token_count"] = config.token_count_floor
    if config.dataset_path is not None:
        reader = read_stories(config.dataset_path)
        settings["files"] = []
        for done, file in enumerate(reader.files):
            tell("checking files", done, len(reader.files))
            name = file.relative_to(reader.path).as_posix() if file != reader.path else file.name
            try:
                settings["files"].append([name, sha256_of_file(file)])
            except OSError as error:
                raise DataError(f"cannot read {file}: {error.strerror or error}") from error
        return settings
    if config.storybook_stories:
        settings["storybook"] = [config.storybook_stories, config.storybook_seed, _storybook_version()]
    if config.first_readers:
        settings["first_readers"] = [config.first_readers, config.storybook_seed, _storybook_version()]
    if config.original_repeats:
        settings["originals"] = [config.original_repeats, ORIGINAL_STORIES_SHA256]
    return settings


class _ByteVocabulary(Vocabulary):
    """Bytes as tokens and control tokens by name: shows what the conversation renderer writes."""

    kind = "bytes"

    def __init__(self) -> None:
        self.names: list[str] = []

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def special(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return 256 + self.names.index(name)

    def to_dict(self) -> dict[str, Any]:
        return {}


def _conversation_probe() -> str:
    """Hash of how a full and a small example are rendered: data prepared in another format have another fingerprint."""
    vocabulary = _ByteVocabulary()
    full = StoryRequest(
        age=5, hero_name="Ida", hero_kind="duck", companions=("Tom", "Bo"), setting="a pond", theme="sharing",
        lesson="Share.", words=("swim", "red"), features=("dialogue",), length="short",
    )  # fmt: skip
    question = Question(question="Who?", answer="Ida", choices=("Ida", "Bo"), answer_index=0)
    plain = Question(question="Where?", answer="At the pond.")
    rendered = [
        render_story(vocabulary, "Ida swam."),
        render_conversation(vocabulary, full, "Ida swam.", (question, plain)),
        render_conversation(vocabulary, StoryRequest(age=4), "Ida swam."),
    ]
    content = [vocabulary.names, [[one.tokens, [bool(flag) for flag in one.trained]] for one in rendered]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _storybook_version() -> str:
    """Hash of the generator's source: a change of a single word there makes other stories."""
    digest = hashlib.sha256()

    def visit(folder: Traversable, prefix: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if entry.is_dir() and entry.name != "__pycache__":
                visit(entry, f"{prefix}{entry.name}/")
            elif entry.is_file() and not entry.name.endswith(".pyc"):
                content = entry.read_bytes()
                digest.update(f"{prefix}{entry.name} {len(content)}\n".encode() + content)

    visit(resources.files(__package__) / "storybook", "")
    return digest.hexdigest()


@contextlib.contextmanager
def _lock(folder: Path, tell: Progress) -> Iterator[None]:
    """Only one process at a time prepares data in a folder. The lock ends with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: there two processes would prepare the same data side by side, and one of them fail
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise FileWriteError(f"cannot use {folder} for prepared data: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another process that prepares data", 0, None)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: as on Windows
        yield
    finally:
        os.close(handle)


def _tasks(config: DataConfig, reader: Iterable[StoryRecord] | None) -> Iterator[_Task]:
    """The work in its fixed order."""
    rules = _Rules(
        request_fraction=config.request_fraction,
        max_story_characters=config.max_story_characters,
        data_seed=config.data_seed,
    )
    if reader is not None:
        records = iter(reader)
        while chunk := tuple(islice(records, TASK_STORIES)):
            yield _Task(rules=rules, records=chunk)
        return
    numbers = range(config.storybook_stories)
    for start in range(0, len(numbers), TASK_STORIES):
        yield _Task(rules=rules, storybook_seed=config.storybook_seed, numbers=numbers[start : start + TASK_STORIES])
    numbers = range(config.first_readers)
    for start in range(0, len(numbers), TASK_STORIES):
        chosen = numbers[start : start + TASK_STORIES]
        yield _Task(rules=rules, storybook_seed=config.storybook_seed, first_readers=chosen)
    if config.original_repeats:
        originals = original_stories()
        for start in range(0, len(originals), TASK_STORIES):
            chunk = tuple(originals[start : start + TASK_STORIES])
            yield _Task(rules=rules, records=chunk, repeats=config.original_repeats)


def _prepare_into(
    part: Path, config: DataConfig, settings: dict[str, Any], fingerprint: str, tell: Progress, workers: int | None
) -> None:
    """Fill a new folder with shards and manifest."""
    reader = None if config.dataset_path is None else read_stories(config.dataset_path)
    total = None
    if reader is None:
        total = config.storybook_stories + config.first_readers
        total += len(original_stories()) if config.original_repeats else 0
    spool_directory = part / "spool"
    spool_directory.mkdir()
    spool = _Spool(spool_directory)
    try:
        done = 0
        for encoded in _encode_all(_tasks(config, reader), _workers(workers, total, reader)):
            spool.add(encoded)
            done += encoded.taken
            tell("stories", done, total)
        spool.finish()
        if reader is not None:
            reader.require_stories()
        if not spool.stories:
            raise DataError(f"no stories to train on: {_why_none(config, spool.dropped)}")
        vocabulary, counts, respelled = _write_shards(part, config, spool, tell)
    finally:
        spool.close()
        for file in spool_directory.iterdir():
            file.unlink()
        spool_directory.rmdir()
    report = reader.report if reader is not None else None
    skipped = {} if report is None else {reason: vars(skip) for reason, skip in sorted(report.skipped.items())}
    splits = {
        split: {"file": f"{split}.shard", "sha256": sha256_of_file(part / f"{split}.shard"), **counts[split].to_dict()}
        for split in counts
    }
    write_manifest(
        part,
        {
            "fingerprint": fingerprint,
            "settings": settings,
            "vocabulary": vocabulary.to_dict(),
            "splits": splits,
            "stories": {"distinct": spool.stories, "renderings": len(spool.lengths), "on_request": spool.on_request},
            "dropped": dict(sorted(spool.dropped.items())),
            "skipped": skipped,
            "respelled": respelled,
            "summary": _summary(config, spool, report, vocabulary, counts, respelled),
        },
    )


def _why_none(config: DataConfig, dropped: Counter[str]) -> str:
    if dropped:
        return "all were dropped: " + "; ".join(f"{count:,} {reason}" for reason, count in dropped.items())
    return "storybook_stories, first_readers and original_repeats are all 0"


def _write_shards(
    part: Path, config: DataConfig, spool: _Spool, tell: Progress
) -> tuple[Vocabulary, dict[str, ShardCounts], int]:
    """Split, number and write the spooled renderings; also gives how many were spelled anew."""
    harmony = harmony_vocabulary()
    held = held_out(spool.keys, config.validation_fraction)
    first = np.diff(spool.owners, prepend=-1) > 0
    chosen = {
        "train": np.flatnonzero(~held[spool.owners]),
        "validation": np.flatnonzero(held[spool.owners] & first),  # a repeated story is evaluated once
    }
    vocabulary: Vocabulary = harmony
    if config.vocabulary == "story":
        counts = np.zeros(harmony.size, dtype=np.int64)
        for _, tokens, _ in spool.groups(chosen["train"]):
            counts += np.bincount(tokens, minlength=harmony.size)
        used = np.flatnonzero(counts)
        vocabulary = build_story_vocabulary(
            dict(zip(used.tolist(), counts[used].tolist(), strict=True)), config.token_count_floor
        )
    spelled_bytes = np.asarray([len(harmony.token_bytes(id)) for id in range(harmony.size)], dtype=np.int64)
    respeller = _Respeller(harmony, vocabulary, spelled_bytes == 0)
    total, done, respelled = sum(map(len, chosen.values())), 0, 0
    results = {}
    for split, renderings in chosen.items():
        writer = ShardWriter(
            part / f"{split}.shard", vocabulary_size=vocabulary.size, fingerprint=vocabulary.fingerprint
        )
        try:
            for numbers, tokens, trained in spool.groups(renderings):
                ids, flags, lengths, anew = respeller.renumber(tokens, trained, spool.lengths[numbers])
                writer.add(
                    ids,
                    flags,
                    lengths,
                    text_bytes=int(spool.text_bytes[spool.owners[numbers]].sum()),
                    trained_bytes=int(spelled_bytes[tokens[trained]].sum()),
                )
                respelled += anew
                done += len(numbers)
                tell("shards", done, total)
            results[split] = writer.close()
        finally:
            writer.abandon()
    return vocabulary, results, respelled


def _summary(
    config: DataConfig,
    spool: _Spool,
    report: ReadReport | None,
    vocabulary: Vocabulary,
    counts: dict[str, ShardCounts],
    respelled: int,
) -> list[str]:
    if report is not None:
        lines = report.describe()
    else:
        sources = []
        if config.storybook_stories:
            sources.append(f"{config.storybook_stories:,} stories of the storybook (seed {config.storybook_seed})")
        if config.first_readers:
            sources.append(f"{config.first_readers:,} first readers")
        if config.original_repeats:
            times = f", each told {config.original_repeats} times" if config.original_repeats > 1 else ""
            sources.append(f"{len(original_stories()):,} original stories{times}")
        lines = [", ".join(sources)]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in spool.dropped.most_common()]
    asked = spool.on_request / len(spool.lengths)
    lines.append(f"{spool.stories:,} different stories; {asked:.0%} are told on request")
    for split, count in counts.items():
        lines.append(f"{split}: {count.stories:,} stories, {count.tokens:,} tokens, {count.text_bytes:,} bytes of text")
    lines.append(f"vocabulary: {vocabulary.kind}, {vocabulary.size:,} tokens")
    if respelled:
        lines.append(f"  {respelled:,} stories hold tokens that it leaves out and were spelled with smaller ones")
    return lines


def _workers(asked: int | None, total: int | None, reader: StoryReader | None) -> int:
    """How many worker processes pay; 1 means that this process does the work itself."""
    if multiprocessing.current_process().daemon or multiprocessing.parent_process() is not None:
        return 1  # a worker of somebody else's: no processes of its own
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and not os.path.exists(script):
        return 1  # a program typed into Python's standard input, which new processes cannot start from
    if asked is not None:
        return asked
    if total is not None and total < POOL_FROM_STORIES:
        return 1
    if reader is not None and sum(file.stat().st_size for file in reader.files) < POOL_FROM_BYTES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """Get a worker ready: load the vocabulary, leave Ctrl-C to the parent, and end when the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()  # returns when the parent is gone, killed ones included
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    harmony_vocabulary()


def _encode_all(tasks: Iterator[_Task], workers: int) -> Iterator[_Encoded]:
    """The results of all tasks, in their order; memory holds those of a few tasks only."""
    if workers <= 1:
        yield from map(_encode_task, tasks)
        return
    harmony_vocabulary()  # unpacks the vocabulary file where needed, before several workers want it
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch's threads can hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    waiting: deque[Future[_Encoded]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_encode_task, task))
            if len(waiting) >= 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process that tokenizes stories ended unexpectedly. If the memory is full, free some and try "
            'again; a script of your own must call this under `if __name__ == "__main__":`'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
