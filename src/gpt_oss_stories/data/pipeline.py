"""From stories to token shards: found prepared, or prepared now in stages that a killed run goes on with.

`preparation` describes the stages. Everything about a story depends on the story alone: whether it is held out, whether
it is told as a conversation and which fields of its request are dropped are drawn from a hash of its text. So the
result is the same, byte for byte, for any number of workers, on any executor, and after any interruption.

Every story that is left out is counted under its reason and can be looked at. This module does not import torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..config import DataConfig, flag_name
from ..files import FileWriteError, sha256_of_file
from ..tokenization import (
    Question,
    StoryRequest,
    Vocabulary,
    render_conversation,
    render_story,
    vocabulary_from_dict,
)
from ..tokenization.harmony import RANKS_SHA256
from .originals import ORIGINAL_STORIES_SHA256
from .preparation.plan import (
    APART_NAME,
    FACTS_NAME,
    ORIGINALS,
    PLAN_NAME,
    RESULT_NAME,
    STORYBOOK,
    NoStoriesError,
    PreparationSubmittedError,
    Progress,
    WorkerDiedError,
    is_built_in,
    local_files,
    make_plan,
    mixture,
    read_apart,
    read_plan,
    source_bytes,
    sources_of,
)
from .preparation.workers import expect_workers, usual_workers
from .shards import ShardError, TokenShard, read_manifest
from .sources import DataError, Source, plan_pieces

PREPARATION_VERSION = 2
"""To be raised when the same stories and settings would give other shards; older ones are then prepared again."""

__all__ = ["PreparationSubmittedError", "PreparedData", "Progress", "load_prepared", "prepare", "prepared_folder"]

QUALITY_FIELDS = (
    "repair_text", "language", "min_story_words", "max_story_characters", "require_ending", "drop_repetitive",
    "child_safety", "drop_near_copies",
)  # fmt: skip
"""Settings that decide which stories of a data set are kept; the package's own stories pass as they are."""

NOT_DECIDING_FIELDS = ("data_dir", "process_data", "force_reprocess", "executor", "executor_options", "max_workers")
"""Settings that the result does not depend on."""


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

    def facts(self) -> dict[str, Any]:
        """All that the report tells; see `report`.

        Raises:
            ShardError: the file is missing or damaged.
        """
        path = self.directory / FACTS_NAME
        try:
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ShardError(f"cannot read {path}: {error}. Prepare the data again (--process-data)") from error
        return facts


def prepare(config: DataConfig, progress: Progress | None = None, *, workers: int | None = None) -> PreparedData:
    """Token shards of the stories that a configuration names: found prepared, or prepared now.

    The folder is `data_dir`/NAME-FINGERPRINT. It appears when it is complete. Until then the work stands in a hidden
    folder beside it; after an interruption of any kind the next call goes on with it. A second process that wants the
    same data waits for the first and then finds them.

    Args:
        config: which stories, and how they become tokens. With `process_data` an existing folder is made again; with
            `force_reprocess` an interrupted attempt is not gone on with either.
        progress: is told how far the work is.
        workers: processes at the most; `max_workers` of the configuration when not given, and as many as there are
            cores when that is not given either. The result does not depend on it.

    Raises:
        DataError: there are no stories, or they cannot be read.
        ShardError: the prepared folder is damaged.
        FileWriteError: the folder cannot be written.
        PreparationSubmittedError: the stages were handed to Slurm.
    """
    # multiprocessing starts workers by running the main script again; without the usual guard that would end up here.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            'prepare() was called while a script is imported; call it under `if __name__ == "__main__":`'
        )
    tell = progress or (lambda stage, done, total: None)
    settings, fingerprint, directory = _identified(config, tell)
    again = config.process_data or config.force_reprocess
    if directory.is_dir() and not again:
        return load_prepared(directory, reused=True)
    with _lock(directory.parent, tell):
        if directory.is_dir() and not again:
            return load_prepared(directory, reused=True)
        work = directory.with_name(f".{directory.name}.work").absolute()  # workers may stand elsewhere
        begun = (work / PLAN_NAME).exists()
        try:
            _prepare_in(work, config, settings, fingerprint, tell, workers or config.max_workers)
            _put_in_place(work / RESULT_NAME, directory)
            shutil.rmtree(work)
        except DataError as error:
            if isinstance(error, NoStoriesError) or not (begun or isinstance(error, WorkerDiedError)):
                shutil.rmtree(work, ignore_errors=True)
            raise
        except OSError as error:
            raise FileWriteError(
                f"cannot write prepared data to {config.data_dir}: {error.strerror or error}. Free some space or "
                f"choose another folder (--data-dir); what is done so far is kept in {work}, and gone on with"
            ) from error
    return load_prepared(directory)


def prepared_folder(config: DataConfig, progress: Progress | None = None) -> Path:
    """Where the shards of the stories that a configuration names stand, or will when they are prepared.

    To find that out, files are read whole and hashed, and the Hub is asked about its data sets.

    Raises:
        DataError: there are no stories, or they cannot be read.
    """
    return _identified(config, progress or (lambda stage, done, total: None))[2]


def _identified(config: DataConfig, tell: Progress) -> tuple[dict[str, Any], str, Path]:
    """All that decides about the result, its hash, and the folder that it names."""
    settings = _settings(config, tell)
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return settings, fingerprint, Path(config.data_dir) / f"{_name(config)}-{fingerprint[:12]}"


def _prepare_in(
    work: Path, config: DataConfig, settings: dict[str, Any], fingerprint: str, tell: Progress, workers: int | None
) -> None:
    """Plan, or find the plan of an earlier attempt, and run all stages that are not done."""
    input_bytes = sum(source_bytes(source, config) for _, source in sources_of(config))
    if config.executor == "local" and usual_workers(input_bytes, workers) > 1:
        expect_workers()
    from .preparation.stages import run  # datatrove, half a second that finding prepared data need not wait for

    if config.force_reprocess:
        shutil.rmtree(work, ignore_errors=True)
    if not (work / PLAN_NAME).exists():
        shutil.rmtree(work, ignore_errors=True)
        plan = make_plan(config, settings, fingerprint, _deciding(config), _command(config))
        if config.decontaminate is not None:
            from .near_copies import NgramIndex

            tell("stories to keep apart", 0, None)
            NgramIndex.build(record.text for record in read_apart(config)).save(work / APART_NAME)
        plan.write(work)
    run(work, read_plan(work), tell, config, workers)


def _put_in_place(result: Path, target: Path) -> None:
    """Give a finished folder its name; what stood there goes once it has it."""
    if target.exists():
        # Between these two renames there is no `target`: after a crash the next call renames `result` again.
        old = result.with_name("old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
    os.replace(result, target)


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
    sources = [source for _, source in sources_of(config)]
    first = sources[0].location
    stem = Path(first).resolve().stem if not sources[0].is_hub else first
    name = re.sub(r"[^\w.-]+", "-", stem).strip(".-")[:60] or "stories"
    return name if len(sources) == 1 else f"{name}-and-{len(sources) - 1}-more"


def _settings(config: DataConfig, tell: Progress) -> dict[str, Any]:
    """All that decides about the result: its hash names the folder."""
    settings: dict[str, Any] = {
        "preparation": PREPARATION_VERSION,
        "tokens": RANKS_SHA256,
        "conversation": _conversation_probe(),
        "vocabulary": config.vocabulary,
        "request_fraction": config.request_fraction,
        "validation_fraction": config.validation_fraction,
        "data_seed": config.data_seed,
    }
    if config.vocabulary == "story":
        settings["min_token_count"] = config.token_count_floor
    if config.dataset_path is not None:
        settings |= {name: getattr(config, name) for name in QUALITY_FIELDS}
    if config.decontaminate is not None:
        settings["decontaminate"] = [_source_identity(source, config, tell) for source in mixture(config.decontaminate)]
    settings["sources"] = [_source_identity(source, config, tell) for _, source in sources_of(config)]
    return settings


def _source_identity(source: Source, config: DataConfig, tell: Progress) -> list[Any]:
    """What tells a source's stories from all others."""
    if is_built_in(source):
        if source.location == ORIGINALS:
            return [ORIGINALS, source.weight, ORIGINAL_STORIES_SHA256]
        count = config.storybook_stories if source.location == STORYBOOK else config.first_readers
        return [source.location, source.weight, count, config.storybook_seed, _storybook_version()]
    options = [source.weight, source.split, source.column, source.config, source.layout]
    if source.is_hub:
        # The pieces name the data set's files and its revision.
        return ["hub", *options, source.location, [piece.to_dict() for piece in plan_pieces(0, source)[0]]]
    files = local_files(source)
    root = Path(source.location)
    identity = []
    for done, file in enumerate(files):
        tell("checking files", done, len(files))
        name = file.relative_to(root).as_posix() if file.is_relative_to(root) and file != root else file.name
        try:
            identity.append([name, sha256_of_file(file)])
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    return ["files", *options, identity]


def _deciding(config: DataConfig) -> tuple[str, ...]:
    """Names of the fields that the result depends on."""
    built_in = ("storybook_stories", "first_readers", "storybook_seed", "original_repeats")
    passed = (*NOT_DECIDING_FIELDS, *(QUALITY_FIELDS if config.dataset_path is None else built_in))
    return tuple(field.name for field in dataclasses.fields(config) if field.name not in passed)


def _command(config: DataConfig) -> str:
    """The command that prepares the same data, but for where they are put."""
    words = ["stories", "prepare"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default or field.name in NOT_DECIDING_FIELDS:
            continue
        flag = flag_name(field)
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return shlex.join(words)


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
