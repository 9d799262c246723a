"""Publishing: a folder that is ready for the Hugging Face Hub, and its upload when asked.

`prepare_publication` works without a network and leaves a folder that can be looked at, opened and changed by hand
before anybody else sees it. `upload_publication` sends such a folder, after a check that it is complete and as it was
prepared, and afterwards asks the Hub whether it holds the same files. Sums and sizes stand in the export's own
`gpt_oss_stories.json` (`manifest.py`), which is uploaded too.

The token is given to `huggingface_hub` and to nobody else: no message of this module contains it, whatever a server
answers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ..config import GenerationConfig
from ..device import choose_device
from ..errors import StoryError
from ..files import sha256_of_file, staged_directory, write_text_atomically
from ..generation.engine import DEFAULT_PROMPT, GenerationError, Storyteller
from ..generation.output import harmless
from ..model.model_file import save_weights
from ..tokenization import Vocabulary
from .checkpoints import HUGGINGFACE, Checkpoint, open_checkpoint
from .export import MAX_SHARD_BYTES, expanded, export_huggingface
from .manifest import MANIFEST_FILE, read_manifest, write_manifest
from .model_card import CARD_NAME, gguf_file_name, model_card, public_provenance

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LICENSE_NAME = "LICENSE"
ORIGINAL_NAME = "best_model.pt"

SAMPLE_TOKENS = 400
SAMPLE_SEED = 0

CONNECT_SECONDS = 15.0
ANSWER_SECONDS = 300.0
"""How long to wait for a connection, and for an answer. `huggingface_hub` itself would wait for ever. The Hub takes
a minute or two to check a commit of many files."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
"""Files that `transformers` would load: one left over from an earlier upload would be taken for the model."""

_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})\b")
"""How the client of the storage by Xet tells what a server answered."""

_RESUMES = "what has arrived is not sent again"
_LEFT_BY_THE_SYSTEM = {".DS_Store"}
_MAX_MESSAGE_CHARACTERS = 500

Say = Callable[[str], None]


class PublishError(StoryError):
    """A folder cannot be prepared or uploaded; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of a publication."""

    name: str
    size: int
    """In bytes."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A folder that is ready to be uploaded."""

    directory: Path
    files: tuple[PublishedFile, ...]
    notes: tuple[str, ...]
    """What the export left out or changed, and what else its owner should know."""

    def describe(self) -> list[str]:
        """Lines for the console: each file with its size, and all of them together."""
        width = max(len(file.name) for file in self.files)
        lines = [f"  {file.name:<{width}}  {_size(file.size):>10}" for file in self.files]
        total = sum(file.size for file in self.files)
        return [*lines, f"{len(self.files)} files, {_size(total)}"]


def prepare_publication(
    model_path: str | Path,
    out_dir: str | Path,
    *,
    name: str,
    dtype: str = "bfloat16",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    expand_vocabulary: bool = False,
    gguf: str | None = None,
    with_original: bool = False,
    with_sample: bool = True,
    license: str = "apache-2.0",
    language: str | None = None,
    device: str = "auto",
) -> Publication:
    """Make a folder that can be uploaded as it is: weights and tokenizer for `transformers`, a card and a licence.

    What the model records of its owner's folders, accounts and runs is left out everywhere
    (`model_card.public_provenance`).

    Args:
        model_path: a model of any format that `open_checkpoint` reads.
        out_dir: the folder to make. One that was prepared before and not changed since is replaced.
        name: the model's name, best the repository that it is for, `owner/name`.
        dtype: number format of the weights, as in the export.
        max_shard_bytes: size above which the weights go to several files.
        expand_vocabulary: put a story vocabulary's rows back into the whole harmony table, in all files.
        gguf: type of the weights of an additional GGUF file, such as "F16"; None makes none.
        with_original: add the model as a file of our own format.
        with_sample: let the model tell a story for the card.
        license: identifier of the weights' licence.
        language: code of the stories' language; see `model_card`.
        device: where the story is told.

    Raises:
        PublishError: the name is not one, or something else stands at `out_dir`.
        StoryError: the model cannot be read, exported or asked for a story.
    """
    if not _NAME.fullmatch(name):
        raise PublishError(
            f"name={name!r:.100} is not a name such as story-nano or owner/story-nano (letters, digits, '-', '_', '.')"
        )
    target = Path(out_dir).resolve()
    _check_place(target, Path(model_path).resolve())
    checkpoint = open_checkpoint(model_path)
    checkpoint = replace(checkpoint, provenance=public_provenance(checkpoint.provenance))
    formats, notes = [HUGGINGFACE], list[str]()
    never_told: tuple[int, ...] = ()
    if expand_vocabulary:
        larger = expanded(checkpoint)
        checkpoint, never_told = larger.source, larger.unknown_tokens
        notes += larger.notes
    with staged_directory(target, replace=True) as folder:
        export = export_huggingface(
            checkpoint, folder, dtype=dtype, max_shard_bytes=max_shard_bytes, name=name, never_told=never_told
        )
        notes += export.notes
        vocabulary = checkpoint.vocabulary
        assert vocabulary is not None  # the export has written its tokenizer
        if gguf is not None:
            formats.append("gguf")
            notes += _write_gguf(checkpoint, vocabulary, folder / gguf_file_name(name), gguf, name)
        if with_original:
            formats.append("original")
            weights = dict(checkpoint.weights())
            save_weights(folder / ORIGINAL_NAME, checkpoint.config, weights, vocabulary, checkpoint.provenance)
        sample = None
        if with_sample:
            sample, why_not = _tell_sample(checkpoint, vocabulary, device)
            notes += why_not
        notes = list(dict.fromkeys(notes))  # two formats may leave out the same
        card = model_card(
            checkpoint.config, vocabulary, checkpoint.provenance, name=name, formats=formats, sample=sample,
            license=license, notes=notes, language=language,
        )  # fmt: skip
        write_text_atomically(folder / CARD_NAME, card)
        write_text_atomically(folder / LICENSE_NAME, _license_note(license))
        # The export described its own files; now there are more, and another card.
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        write_manifest(folder, HUGGINGFACE, vocabulary, checkpoint.provenance, notes)
    return check_publication(target)


def check_publication(folder: str | Path, *, edited_card: bool = False) -> Publication:
    """Read a prepared folder and see that each file is there, whole and as it was prepared, and that there is no other.

    Args:
        edited_card: README.md may have been changed by hand.

    Raises:
        PublishError: it is no such folder, or something has changed.
    """
    directory = Path(folder)
    if not directory.is_dir():
        raise PublishError(f"no folder at {directory}: prepare one first (stories publish)")
    manifest = read_manifest(directory)
    if manifest is None or not {CARD_NAME, LICENSE_NAME} <= set(manifest.files):
        raise PublishError(f"{directory} was not prepared by `stories publish`: give a folder that was")
    known = {MANIFEST_FILE, *manifest.files} | _LEFT_BY_THE_SYSTEM
    if extra := sorted(path.name for path in directory.iterdir() if path.name not in known):
        raise PublishError(
            f"{directory} has {_listing(extra)}, which was not there when it was prepared: move it away or prepare the "
            "folder again"
        )
    files = []
    for name, described in sorted(manifest.files.items()):
        path = directory / name
        if not _FILE_NAME.fullmatch(name) or not isinstance(described, dict):
            raise PublishError(f"{directory / MANIFEST_FILE} is damaged: prepare the folder again")
        # A link could lead to any file of the machine.
        if path.is_symlink() or not path.is_file():
            raise PublishError(f"{path} is missing or not a plain file: prepare the folder again")
        size = path.stat().st_size
        if name == CARD_NAME and edited_card:
            files.append(PublishedFile(name=name, size=size, sha256=sha256_of_file(path)))
            continue
        if size != described.get("bytes") or sha256_of_file(path) != described.get("sha256"):
            hint = "; if you edited it on purpose, say --edited-card" if name == CARD_NAME else ""
            raise PublishError(f"{path} has changed since it was prepared: prepare the folder again{hint}")
        files.append(PublishedFile(name=name, size=size, sha256=described["sha256"]))
    path = directory / MANIFEST_FILE
    if path.is_symlink():
        raise PublishError(f"{path} is not a plain file: prepare the folder again")
    files.append(PublishedFile(name=MANIFEST_FILE, size=path.stat().st_size, sha256=sha256_of_file(path)))
    return Publication(directory=directory, files=tuple(files), notes=manifest.notes)


def upload_publication(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    edited_card: bool = False,
    overwrite: bool = False,
    say: Say | None = None,
) -> str:
    """Send a prepared folder to a model repository on the Hub, which is made if there is none.

    Weight files of an earlier upload that are no longer part of the model are deleted in the same commit; other files
    of the repository stay. Nothing is sent before the folder and the repository have been checked.

    Args:
        folder: what `prepare_publication` made.
        repo_id: `owner/name`.
        private: the repository must be private; an existing public one is refused. False leaves it to the Hub.
        token: an access token with permission to write; the one of `hf auth login` or HF_TOKEN when not given.
        endpoint: address of the Hub; https://huggingface.co or HF_ENDPOINT when not given.
        revision: branch to upload to, which is made if there is none; `main` when not given.
        message: what the commit is called.
        edited_card: README.md may have been changed by hand.
        overwrite: replace a model that this program did not publish.
        say: is given lines about what happens; they go to standard error when not given.

    Returns:
        The address of the model's page.

    Raises:
        PublishError: the folder, the repository, the token or the connection are not as they have to be.
    """
    say = say or _say_on_stderr
    hub = _hub()
    _check_repo_id(hub, repo_id)
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise PublishError(f"revision={revision!r:.100} is not the name of a branch")
    title = harmless(message or "Upload a story model").strip()[:_MAX_MESSAGE_CHARACTERS] or "Upload a story model"
    endpoint = _checked_endpoint(endpoint or hub.constants.ENDPOINT)
    publication = check_publication(folder, edited_card=edited_card)
    where = f"{repo_id} on {endpoint}" + (f", branch {revision}" if revision else "")
    for line in [f"to upload to {where}:", *publication.describe()]:
        say(line)
    token = _checked_token(_stored_token(hub) if token is None else token)
    with _told_in_one_line(repo_id, endpoint, token), _bounded_waiting(hub):
        api = hub.HfApi(endpoint=endpoint, token=token, library_name="gpt-oss-stories", library_version=_version())
        api.create_repo(repo_id, repo_type="model", private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type="model", exist_ok=True)
        stale = _check_repository(api, repo_id, revision, publication, private=private, overwrite=overwrite)
        for name in stale:
            say(f"deletes {name}, a weight file of an earlier upload")
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type="model",
            folder_path=publication.directory,
            allow_patterns=[file.name for file in publication.files],
            delete_patterns=stale or None,
            commit_message=title,
            revision=revision,
        )
        _compare(api, repo_id, commit.oid, publication)
    page = f"{endpoint}/{repo_id}"
    return page if revision in (None, "main") else f"{page}/tree/{quote(str(revision), safe='')}"


# Preparing


def _check_place(target: Path, model_path: Path) -> None:
    """Only a folder that this module made, and that nobody has changed since, may be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        check_publication(target)
    except StoryError as error:
        raise PublishError(
            f"{target} is not replaced, because it may hold work of yours ({error}). Choose another folder or move it "
            "away"
        ) from error
    if model_path.is_relative_to(target):
        raise PublishError(f"the model lies in {target}, which would be replaced: choose another folder")


def _write_gguf(checkpoint: Checkpoint, vocabulary: Vocabulary, path: Path, kind: str, name: str) -> list[str]:
    from .gguf_file import write_gguf
    from .tokenizer_files import chat_template

    return write_gguf(
        path, checkpoint.config, vocabulary, dict(checkpoint.weights()), tensor_type=kind, name=name,
        provenance=checkpoint.provenance, chat_template=chat_template(),
    )  # fmt: skip


def _tell_sample(checkpoint: Checkpoint, vocabulary: Vocabulary, device: str) -> tuple[str | None, list[str]]:
    """A story from the model, always the same one on the same machine; one too short to begin one tells none, with a
    line that says so."""
    network = checkpoint.build().to(choose_device(device)).eval()
    settings = GenerationConfig(max_tokens=SAMPLE_TOKENS, seed=SAMPLE_SEED)
    try:
        (story,) = Storyteller(network, vocabulary).tell(DEFAULT_PROMPT, settings)
    except GenerationError as error:
        return None, [f"no sample story: {error}"]
    return story.text, []


def _license_note(license: str) -> str:
    if license == "apache-2.0":
        terms = """Licensed under the Apache License, Version 2.0 (the "License"); you may not use these files except in
compliance with the License. You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, the files are distributed on an "AS IS" BASIS, WITHOUT
WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the specific language governing
permissions and limitations under the License.

SPDX-License-Identifier: Apache-2.0
"""
    else:
        terms = f"""The publisher of this model chose the licence with the identifier "{license}"
(https://huggingface.co/docs/hub/repositories-licenses). Its text is to be found there.
"""
    return f"""{terms}
This is about the model: its weights, its configuration and its tokenizer. The stories that it was trained on have
licences of their own; {CARD_NAME} says what is known about them.
"""


def _size(count: int) -> str:
    """A number of bytes for reading."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(harmless(name)[:100] for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# Uploading


def _hub() -> Any:
    """The library `huggingface_hub`.

    Raises:
        PublishError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError as error:
        raise PublishError(
            "uploading needs huggingface_hub, which is not installed: pip install 'gpt-oss-stories[interop]'"
        ) from error
    return huggingface_hub


def _version() -> str:
    from .. import __version__

    return __version__


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check_repo_id(hub: Any, repo_id: str) -> None:
    shown = f"repository {repo_id!r:.120}"
    kind, _, rest = repo_id.partition("/")
    if kind in ("datasets", "spaces") and "/" in rest:
        raise PublishError(f"{shown} is not one for models: give owner/name without {kind!r}")
    if "://" in repo_id:
        raise PublishError(f"{shown} is an address: give only owner/name, and the Hub's address by HF_ENDPOINT")
    if repo_id.count("/") != 1:
        raise PublishError(f"{shown} is not owner/name, such as your-name/story-nano")
    try:
        hub.utils.validate_repo_id(repo_id)
    except ValueError as error:
        reason = " ".join(harmless(str(error)).split())[:200]
        raise PublishError(f"{shown} cannot be a name on the Hub: {reason}") from error


def _checked_endpoint(endpoint: str) -> str:
    """The Hub's address, if a token may be sent there.

    Raises:
        PublishError: it is no address, or one without encryption on another machine.
    """
    endpoint = endpoint.rstrip("/")
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if not host or parts.scheme not in ("http", "https") or parts.username or parts.password or parts.query:
        raise PublishError(f"the Hub's address {_without_secret(endpoint)!r:.120} is not like https://huggingface.co")
    if parts.scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
        raise PublishError(
            f"the Hub's address {endpoint!r:.120} has no encryption, so your token could be read on its way: use https://"
        )
    return endpoint


def _without_secret(address: str) -> str:
    return re.sub(r"//[^/]*@", "//", address)


def _stored_token(hub: Any) -> str | None:
    """The token of HF_TOKEN or of `hf auth login`."""
    try:
        found: str | None = hub.get_token()
    except (OSError, ValueError, getattr(hub.errors, "OIDCError", OSError)) as error:
        reason = " ".join(harmless(str(error)).split())[:200]
        raise PublishError(f"the access token for the Hub cannot be read: {reason}") from error
    return found


def _checked_token(token: str | None) -> str:
    token = (token or "").strip()
    if not token:
        raise PublishError(
            "no access token for the Hub: run `hf auth login`, or set HF_TOKEN to a token with permission to write "
            "(https://huggingface.co/settings/tokens)"
        )
    if not re.fullmatch(r"[\x21-\x7e]{1,1000}", token):
        raise PublishError("the access token for the Hub has characters that no token has: copy it again, all of it")
    return token


def _check_repository(
    api: HfApi, repo_id: str, revision: str | None, publication: Publication, *, private: bool, overwrite: bool
) -> list[str]:
    """See that the repository is what its owner thinks it is; give its weight files that have to go.

    Raises:
        PublishError: it is public although it has to be private, or holds another program's model.
    """
    info = api.model_info(repo_id, revision=revision)
    if private and not info.private:
        raise PublishError(
            f"{repo_id} exists already and is public, so nothing was uploaded: make it private in its settings on the "
            "Hub, or choose another name"
        )
    present = {sibling.rfilename for sibling in info.siblings or []}
    ours = {file.name for file in publication.files}
    weights = {name for name in present if _WEIGHTS.fullmatch(name)}
    if MANIFEST_FILE not in present and not overwrite and (foreign := sorted(weights | (present & _TELLING))):
        raise PublishError(
            f"{repo_id} holds a model that this program did not publish ({_listing(foreign)}), so nothing was "
            "uploaded: choose another name, or say --overwrite"
        )
    return sorted(weights - ours)


_TELLING = {"config.json", "tokenizer.json", "pytorch_model.bin", "adapter_config.json", "params.json", ORIGINAL_NAME}
"""Files by which a repository shows that it holds a model."""


def _compare(api: HfApi, repo_id: str, commit: str, publication: Publication) -> None:
    """See that the commit holds each file: rules of the repository can make the Hub leave some out."""
    info = api.model_info(repo_id, revision=commit, files_metadata=True)
    found = {sibling.rfilename: sibling for sibling in info.siblings or []}
    wrong = []
    for file in publication.files:
        there = found.get(file.name)
        if (
            there is None
            or (there.size is not None and there.size != file.size)
            or (there.lfs is not None and there.lfs.sha256 != file.sha256)
        ):
            wrong.append(file.name)
    if wrong:
        raise PublishError(
            f"the upload went through, but {repo_id} does not hold {_listing(wrong)} as it is in "
            f"{publication.directory}: look for a .gitignore in the repository, and upload again"
        )


@contextmanager
def _bounded_waiting(hub: Any) -> Iterator[None]:
    """Connections and answers that do not come end in an error; storage by Xet has limits of its own."""
    session = hub.get_session()
    before = session.timeout
    session.timeout = (CONNECT_SECONDS, ANSWER_SECONDS, ANSWER_SECONDS, CONNECT_SECONDS)
    try:
        yield
    finally:
        session.timeout = before


@contextmanager
def _told_in_one_line(repo_id: str, endpoint: str, token: str) -> Iterator[None]:
    """Turn what can go wrong between here and the Hub into a `PublishError`."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its first base is the error class of the HTTP library, which is another one in other versions.
    network_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except PublishError:
        raise
    except (network_error, OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        # A server's answer can be anything, so answers that the library stumbles over are its fault, not the program's.
        # The cause is left out: it holds the server's words, and a server could repeat the token.
        raise PublishError(_explain(error, repo_id, endpoint, token)) from None


def _words(text: str, token: str) -> str:
    """Somebody else's words on one line, without the token and cut to what is worth reading."""
    # Cut last: half a token must not stay either.
    return " ".join(harmless(text[:10_000]).split()).replace(token, "[token]")[:250]


def _explain(error: BaseException, repo_id: str, endpoint: str, token: str) -> str:
    """Why an upload failed and what to do."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(chain) < 10:
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    words = _words(f"{type(chain[-1]).__name__}: {chain[-1]}", token)
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set, so nothing may be uploaded: unset it (and TRANSFORMERS_OFFLINE) and try again"
    if "xet-write-token" in words and "(404" in words:
        return f"{endpoint} has no storage by Xet: set HF_HUB_DISABLE_XET=1 and try again"
    for link in chain:
        status = getattr(getattr(link, "response", None), "status_code", None)
        if status is None and (told_status := _XET_STATUS.search(str(link))):
            status = int(told_status[1])
        if isinstance(status, int):
            told = _words(str(getattr(link, "server_message", None) or ""), token)
            return _explain_status(status, repo_id, endpoint) + (f" (the Hub says: {told})" if told else "")
    if "TimeoutException" in kinds or any(isinstance(link, TimeoutError) for link in chain):
        return f"{endpoint} did not answer in time: check the connection, then try again; {_RESUMES}"
    if "XetAuthenticationError" in kinds:
        return _explain_status(403, repo_id, endpoint)
    if kinds & {"TransportError", "ConnectionError", "RequestException"}:
        return f"{endpoint} cannot be reached: check the connection and HF_ENDPOINT, then try again ({words})"
    return f"the upload to {repo_id} failed: {words}. Try again; {_RESUMES}"


def _explain_status(status: int, repo_id: str, endpoint: str) -> str:
    owner = repo_id.partition("/")[0]
    if status == 401:
        return (
            f"{endpoint} does not know your access token (401): it may be cut off, expired or revoked. Make one with "
            "permission to write at https://huggingface.co/settings/tokens, then `hf auth login` or HF_TOKEN"
        )
    if status in (402, 403):
        return (
            f"your access token may not write to {repo_id} ({status}): it needs the permission to write, and the right "
            f"to make repositories for {owner!r}"
        )
    if status == 404:
        return (
            f"{endpoint} has no model repository {repo_id} that your token can see (404): it may be a dataset or a "
            "Space, or have been moved; choose another name"
        )
    if status == 409:
        return f"{repo_id} was changed by somebody else at the same time (409): try again"
    if status == 413:
        return f"{endpoint} refuses files of this size (413): prepare with smaller shards, or a smaller dtype"
    if status == 429:
        return f"{endpoint} asks to wait (429, too many requests): try again later"
    if status >= 500:
        return f"{endpoint} has a fault of its own ({status}): try again later; {_RESUMES}"
    return f"{endpoint} refused the upload to {repo_id} ({status})"
