"""Publishing against a stand-in for the Hub: what arrives there, and what is said when something goes wrong.

`StandIn` answers what `huggingface_hub` asks when it makes a repository and uploads a folder: creation, the question
how each file is to be sent, the LFS batch with its PUTs, the commit, and what a repository holds. It keeps what
arrives. The client is the real `huggingface_hub`, sent to 127.0.0.1, with its home in a temporary folder and storage by
Xet (which goes through a client of its own) switched off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.utils._http
import pytest
import torch
import yaml
from safetensors.torch import load_file

from gpt_oss_stories.config import DataConfig, TrainingConfig
from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.interop import publish
from gpt_oss_stories.interop.checkpoints import open_checkpoint
from gpt_oss_stories.interop.manifest import MANIFEST_FILE
from gpt_oss_stories.interop.publish import PublishError, check_publication, prepare_publication, upload_publication
from gpt_oss_stories.model.model_file import load_model_file, save_model
from gpt_oss_stories.tokenization import build_story_vocabulary
from support.small_models import small_config, small_model, small_vocabulary

TOKEN = "hf_stand_in_token"
REPO = "someone/story-nano"
HOME = "/home/somebody/private"


# The stand-in


@dataclass
class Repository:
    private: bool
    branches: dict[str, str]
    """Branch to commit."""


@dataclass
class Fault:
    """A wrong answer to the next requests that fit."""

    pattern: str
    status: int
    body: bytes = b'{"error": "a fault of the stand-in"}'
    times: int = 10**6
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    method: str
    path: str
    token: str | None
    body: bytes


class StandIn:
    """Repositories in memory."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        """Commit to the files that it holds."""
        self.messages: list[str] = []
        self.objects: dict[str, bytes] = {}
        """What was PUT, by SHA-256."""
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.ignored: set[str] = set()
        """Files that a .gitignore of the repository names."""
        self.silent: str | None = None
        """Requests that get no answer before the stand-in stops."""
        self.stopped = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def add(self, repo_id: str, files: dict[str, bytes] | None = None, *, private: bool = False) -> None:
        """A repository with a first commit, as the Hub makes them."""
        first = self.commit({".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})})
        self.repositories[repo_id] = Repository(private=private, branches={"main": first})

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[oid] = files
        return oid

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo_id]
        return self.commits[repository.branches.get(revision, revision)]

    def asked(self, pattern: str) -> list[Request]:
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]

    # Each answer is a status and a value that becomes JSON.

    def answer(self, request: Request, host: str) -> tuple[int, Any]:
        address = urlsplit(request.path)
        path, query = unquote(address.path), parse_qs(address.query)
        what = f"{request.method} {path}"
        if match := re.fullmatch(r"PUT /storage/([0-9a-f]{64})", what):
            if hashlib.sha256(request.body).hexdigest() != match[1]:
                return 400, {"error": "the bytes are not those that were announced"}
            self.objects[match[1]] = request.body
            return 200, {}
        if request.token != TOKEN:
            return 401, {"error": "Invalid username or password."}
        if what == "POST /api/repos/create":
            return self._create(json.loads(request.body))
        if what == "POST /api/validate-yaml":
            block = json.loads(request.body)["content"].split("---")[1]
            return (200, {}) if isinstance(yaml.safe_load(block), dict) else (400, {"errors": [{"message": "no"}]})
        if match := re.fullmatch(r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", what):
            return self._batch(json.loads(request.body), host)
        match = re.fullmatch(r"(GET|POST) /api/models/([^/]+/[^/]+)(?:/([a-z]+)(?:/(.+))?)?", what)
        if match is None or match[2] not in self.repositories:
            return 404, {"error": "Repository not found"}
        repository, action = self.repositories[match[2]], f"{match[1]} {match[3] or 'revision'}"
        revision = match[4] or "main"
        if action == "POST branch":
            if revision in repository.branches:
                return 409, {"error": "exists"}
            repository.branches[revision] = repository.branches["main"]
            return 200, {}
        commit = repository.branches.get(revision, revision)
        if commit not in self.commits:
            return 404, {"error": f"Invalid rev id: {revision}"}
        if action == "POST preupload":
            return self._preupload(json.loads(request.body), self.commits[commit])
        if action == "POST commit":
            return self._commit(match[2], repository, revision, request.body)
        if action == "GET revision":
            siblings = [_sibling(name, data, "blobs" in query) for name, data in self.commits[commit].items()]
            return 200, {"id": match[2], "sha": commit, "private": repository.private, "siblings": siblings}
        if action == "GET tree":
            return 200, [
                {"type": "file", "path": name, "size": len(data), "oid": _git_oid(data)}
                for name, data in self.commits[commit].items()
            ]
        return 404, {"error": f"not part of the stand-in: {what}"}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        assert wanted.get("type", "model") == "model"
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.endpoint}/{repo_id}"}
        if repo_id in self.repositories:
            return 409, {"error": "You already created this model repo", **url}
        self.add(repo_id, private=wanted.get("visibility") == "private")
        return 200, url

    def _preupload(self, asked: dict[str, Any], present: dict[str, bytes]) -> tuple[int, Any]:
        files = []
        for file in asked["files"]:
            large = _is_large(file["path"], file["size"])
            described = {"path": file["path"], "uploadMode": "lfs" if large else "regular"}
            described["shouldIgnore"] = file["path"] in self.ignored
            if (data := present.get(file["path"])) is not None:
                described["oid"] = hashlib.sha256(data).hexdigest() if large else _git_oid(data)
            files.append(described)
        return 200, {"files": files}

    def _batch(self, asked: dict[str, Any], host: str) -> tuple[int, Any]:
        assert asked["operation"] == "upload"
        objects = []
        for wanted in asked["objects"]:
            described: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                described["actions"] = {"upload": {"href": f"http://{host}/storage/{wanted['oid']}", "header": {}}}
            objects.append(described)
        return 200, {"transfer": "basic", "objects": objects}

    def _commit(self, repo_id: str, repository: Repository, branch: str, body: bytes) -> tuple[int, Any]:
        files = dict(self.commits[repository.branches[branch]])
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                self.messages.append(value["summary"])
            elif key == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.objects:
                    return 400, {"error": f"no object {value['oid']}"}
                files[value["path"]] = self.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                return 400, {"error": f"unknown key {key}"}
        repository.branches[branch] = oid = self.commit(files)
        return 200, {"commitUrl": f"{self.endpoint}/{repo_id}/commit/{oid}", "commitOid": oid}


def _is_large(name: str, size: int) -> bool:
    return name.endswith((".safetensors", ".pt", ".gguf")) or size > 10_000_000


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sibling(name: str, data: bytes, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": name}
    described: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _git_oid(data)}
    if _is_large(name, len(data)):
        described["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
    return described


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0: a connection for each request, so none outlives the test. Buffered, since an answer in several
        # small packets waits 40 ms for their acknowledgement.
        wbufsize = -1

        def _handle(self) -> None:
            authorization = self.headers.get("authorization")
            request = Request(self.command, self.path, authorization and authorization.split()[-1], self._body())
            stand_in.requests.append(request)
            what = f"{request.method} {request.path}"
            if stand_in.silent is not None and re.search(stand_in.silent, what):
                stand_in.stopped.wait(30)
                self.close_connection = True
                return
            for fault in stand_in.faults:
                if fault.times and re.search(fault.pattern, what):
                    fault.times -= 1
                    self._reply(fault.status, fault.body, fault.headers)
                    return
            status, value = stand_in.answer(request, self.headers["host"])
            self._reply(status, json.dumps(value).encode(), {})

        do_GET = do_POST = do_PUT = _handle  # noqa: N815 - names of the base class

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("transfer-encoding", ""):
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """The stand-in, with `huggingface_hub` kept from the user's home and token, and from waiting between tries."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))  # for the client of the storage by Xet
    stand_in = StandIn()
    constants = huggingface_hub.constants
    home = tmp_path / "hf-home"
    for name, value in {
        "ENDPOINT": stand_in.endpoint, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True, "HF_HOME": str(home), "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", SimpleNamespace(sleep=lambda seconds: None))
    huggingface_hub.utils.disable_progress_bars()
    thread = threading.Thread(target=stand_in.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield stand_in
    stand_in.stopped.set()
    stand_in.server.shutdown()
    stand_in.server.server_close()
    thread.join()
    huggingface_hub.utils.enable_progress_bars()


# Models and prepared folders


def make_model(path: Path) -> Path:
    """A small model of random weights, whose file tells of its owner's folders as training does."""
    vocabulary = small_vocabulary()
    config = small_config(vocabulary, tie_embeddings=True)
    training = TrainingConfig(
        checkpoint_dir=f"{HOME}/checkpoints", wandb_project="secret-project", run_name="secret-run"
    )
    data = DataConfig(dataset_path=f"{HOME}/bedtime.jsonl", data_dir=f"{HOME}/data", vocabulary="story")
    provenance = {
        "program_version": "0.1.0", "step": 12, "tokens_seen": 3456, "validation_loss_nats": 1.25,
        "validation_bits_per_byte": 0.5, "training_config": training.to_dict(), "data_config": data.to_dict(),
    }  # fmt: skip
    save_model(path, small_model(config), vocabulary, provenance)
    return path


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "best_model.pt")


@pytest.fixture(scope="module")
def prepared(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publication in several shards; not to be changed."""
    folder = tmp_path_factory.mktemp("prepared") / "folder"
    prepare_publication(
        model_path, folder, name=REPO, dtype="float32", max_shard_bytes=100_000, with_original=True, device="cpu"
    )
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the publication, to be changed."""
    return Path(shutil.copytree(prepared, tmp_path / "folder"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def one_line(error: pytest.ExceptionInfo[StoryError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 800
    assert TOKEN not in text
    return text


# Preparing


def test_a_prepared_folder_is_a_model_and_says_what_it_is(prepared: Path, model_path: Path) -> None:
    checkpoint, model = open_checkpoint(prepared), load_model_file(model_path)
    assert checkpoint.config.parameters() == model.config.parameters()
    assert checkpoint.vocabulary is not None
    assert checkpoint.vocabulary.fingerprint == model.vocabulary.fingerprint
    weights = dict(checkpoint.weights())
    assert set(weights) == set(model.weights)
    for name, tensor in model.weights.items():
        assert torch.equal(weights[name], tensor), name
    assert len(list(prepared.glob("model-*.safetensors"))) > 1
    card = (prepared / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["model-index"][0]["name"] == REPO
    assert "Once upon a time" in card
    assert "stories generate --model-path best_model.pt" in card
    assert "Apache License" in (prepared / "LICENSE").read_text()


def test_the_original_beside_it_has_the_same_weights(prepared: Path, model_path: Path) -> None:
    theirs, ours = load_model_file(prepared / "best_model.pt"), load_model_file(model_path)
    assert theirs.config == ours.config
    assert all(torch.equal(theirs.weights[name], tensor) for name, tensor in ours.weights.items())
    assert theirs.provenance["step"] == 12
    assert TrainingConfig.from_dict(theirs.provenance["training_config"]).checkpoint_dir == "checkpoints"


def test_nothing_in_the_folder_tells_of_the_owner(prepared: Path, model_path: Path) -> None:
    assert HOME.encode() in model_path.read_bytes()
    for name, data in contents(prepared).items():
        for secret in (HOME, "secret-project", "secret-run"):
            assert secret.encode() not in data, name
    assert "bedtime.jsonl" in (prepared / "README.md").read_text()


def test_the_cards_own_lines_work(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = (prepared / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    script = "".join(blocks).replace("max_new_tokens=300", "max_new_tokens=5")
    script, found = re.subn(r'^MODEL = ".*"', lambda match: f"MODEL = {str(prepared)!r}", script, flags=re.MULTILINE)
    assert found == 1
    names: dict[str, Any] = {}
    exec(script, names)  # noqa: S102 - the lines are our own
    assert capsys.readouterr().out.startswith("Once upon a time")
    told = names["tokenizer"].decode(names["request"]["input_ids"][0])
    assert "Hero: Ida, a duck." in told
    assert 1 <= names["story"].shape[1] - names["request"]["input_ids"].shape[1] <= 5


def test_a_gguf_file_goes_beside_it(model_path: Path, tmp_path: Path) -> None:
    publication = prepare_publication(
        model_path, tmp_path / "out", name=REPO, dtype="float32", gguf="F32", with_sample=False, device="cpu"
    )
    assert "story-nano.gguf" in {file.name for file in publication.files}
    from_gguf = dict(open_checkpoint(tmp_path / "out/story-nano.gguf").weights())
    for name, tensor in load_model_file(model_path).weights.items():
        assert torch.equal(from_gguf[name], tensor), name
    card = (tmp_path / "out/README.md").read_text()
    assert 'Llama("story-nano.gguf"' in card
    assert "A story that it told" not in card


def test_a_model_too_short_for_a_story_is_published_without_one(tmp_path: Path) -> None:
    vocabulary = build_story_vocabulary({0: 1})  # spells nearly everything byte by byte
    config = small_config(vocabulary, block_size=8)
    save_model(tmp_path / "short.pt", small_model(config), vocabulary, {})
    publication = prepare_publication(tmp_path / "short.pt", tmp_path / "out", name="short", device="cpu")
    assert any(note.startswith("no sample story: the prompt has") for note in publication.notes)


def test_an_unchanged_publication_is_replaced(folder: Path, model_path: Path) -> None:
    publication = prepare_publication(model_path, folder, name="other-name", with_sample=False, device="cpu")
    assert {file.name for file in publication.files} == {path.name for path in folder.iterdir()}
    assert "best_model.pt" not in contents(folder)
    assert not list(folder.parent.glob(".folder*"))


def _edit_card(folder: Path) -> None:
    (folder / "README.md").write_text("my own words")


def _add_file(folder: Path) -> None:
    (folder / "diary.txt").write_text("dear diary")


def _export_only(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    del manifest["files"]["LICENSE"]
    plain = {name: value for name, value in manifest.items() if name != "checksum"}
    manifest["checksum"] = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    (folder / "LICENSE").unlink()


def _no_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()


@pytest.mark.parametrize("change", [_edit_card, _add_file, _export_only, _no_manifest])
def test_a_folder_that_may_hold_somebodys_work_is_not_replaced(
    change: Callable[[Path], None], folder: Path, model_path: Path
) -> None:
    change(folder)
    before = contents(folder)
    with pytest.raises(PublishError, match="may hold work of yours") as error:
        prepare_publication(model_path, folder, name=REPO, with_sample=False, device="cpu")
    one_line(error)
    assert contents(folder) == before


def test_a_folder_with_the_model_in_it_is_not_replaced(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(PublishError, match="the model lies in"):
        prepare_publication(folder / "best_model.pt", folder, name=REPO, device="cpu")
    assert contents(folder) == before


def test_a_failure_leaves_the_old_folder_and_no_other(folder: Path, model_path: Path) -> None:
    before = contents(folder)
    with pytest.raises(StoryError, match="license"):
        prepare_publication(
            model_path, folder, name=REPO, license="All rights\nreserved", with_sample=False, device="cpu"
        )
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("name", ["", "a/b/c", "../up", "a b", "-x", "x" * 200, "a\nb"])
def test_a_name_that_cannot_be_one_is_refused(name: str, model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="is not a name") as error:
        prepare_publication(model_path, tmp_path / "out", name=name)
    one_line(error)
    assert not list(tmp_path.iterdir())


# Checking a folder


def test_a_sound_folder_lists_its_files_with_sizes(prepared: Path) -> None:
    publication = check_publication(prepared)
    assert {file.name: file.size for file in publication.files} == {
        path.name: path.stat().st_size for path in prepared.iterdir()
    }
    for file in publication.files:
        assert hashlib.sha256((prepared / file.name).read_bytes()).hexdigest() == file.sha256
        assert any(line.split()[0] == file.name for line in publication.describe())


def _flip_a_weight(folder: Path) -> None:
    path = next(folder.glob("model-*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _remove_a_shard(folder: Path) -> None:
    next(folder.glob("model-*.safetensors")).unlink()


def _cut_the_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-1])


def _link_out(folder: Path) -> None:
    secret = folder.parent / "secret.txt"
    secret.write_bytes((folder / "LICENSE").read_bytes())
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").symlink_to(secret)


def _add_folder(folder: Path) -> None:
    (folder / "more").mkdir()


def _other_manifest(folder: Path) -> None:
    path = folder / MANIFEST_FILE
    path.write_text(path.read_text().replace("huggingface", "hugginggface", 1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_flip_a_weight, "has changed since"),
        (_remove_a_shard, "missing"),
        (_cut_the_tokenizer, "has changed since"),
        (_edit_card, "--edited-card"),
        (_add_file, "diary.txt"),
        (_add_folder, "more"),
        (_link_out, "not a plain file"),
        (_no_manifest, "was not prepared"),
        (_other_manifest, "checksum"),
    ],
)
def test_a_changed_folder_is_refused_before_anything_is_sent(
    change: Callable[[Path], None], told: str, folder: Path, hub: StandIn
) -> None:
    change(folder)
    with pytest.raises(StoryError, match=told) as error:
        upload_publication(folder, REPO, token=TOKEN, endpoint=hub.endpoint, say=lambda line: None)
    one_line(error)
    assert not hub.requests


def test_a_card_may_be_edited_if_its_owner_says_so(folder: Path, hub: StandIn) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nThanks to my cat.\n")
    (folder / ".DS_Store").write_bytes(b"of the system")
    upload_publication(folder, REPO, token=TOKEN, edited_card=True, say=lambda line: None)
    assert hub.files(REPO)["README.md"] == card.read_bytes()
    assert ".DS_Store" not in hub.files(REPO)
    (folder / "config.json").write_text("{}")
    with pytest.raises(PublishError, match=r"config\.json has changed"):
        check_publication(folder, edited_card=True)


# Uploading


def send(folder: Path, hub: StandIn, repo_id: str = REPO, **options: Any) -> tuple[str, list[str]]:
    lines: list[str] = []
    return upload_publication(folder, repo_id, token=TOKEN, say=lines.append, **options), lines


def test_what_arrives_is_what_was_prepared(prepared: Path, hub: StandIn, tmp_path: Path) -> None:
    page, lines = send(prepared, hub, message="The first model")
    assert page == f"{hub.endpoint}/{REPO}"
    arrived = hub.files(REPO)
    assert arrived.pop(".gitattributes")
    assert arrived == contents(prepared)
    assert hub.messages == ["The first model"]
    assert not hub.repositories[REPO].private
    for file in check_publication(prepared).files:
        assert any(file.name in line for line in lines)
    # The storage is another machine in real life: it must not get the token.
    assert {request.token for request in hub.asked("PUT /storage")} == {None}
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for name, data in arrived.items():
        (downloaded / name).write_bytes(data)
    tensors: dict[str, torch.Tensor] = {}
    for path in downloaded.glob("*.safetensors"):
        tensors |= load_file(path)
    assert "model.embed_tokens.weight" in tensors
    before, after = dict(open_checkpoint(prepared).weights()), dict(open_checkpoint(downloaded).weights())
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_nothing_is_sent_twice(prepared: Path, hub: StandIn) -> None:
    send(prepared, hub)
    commits, objects = dict(hub.commits), len(hub.asked("PUT"))
    page, _ = send(prepared, hub)
    assert page == f"{hub.endpoint}/{REPO}"
    assert hub.commits == commits
    assert len(hub.asked("PUT")) == objects


def test_old_weights_go_and_other_files_stay(prepared: Path, hub: StandIn, model_path: Path, tmp_path: Path) -> None:
    send(prepared, hub)
    branches = hub.repositories[REPO].branches
    branches["main"] = hub.commit({**hub.files(REPO), "picture.png": b"a fox", "model.safetensors.bak": b"mine"})
    prepare_publication(model_path, tmp_path / "whole", name=REPO, with_sample=False, device="cpu")
    _, lines = send(tmp_path / "whole", hub)
    arrived = hub.files(REPO)
    assert {name for name in arrived if "safetensors" in name} == {"model.safetensors", "model.safetensors.bak"}
    assert arrived["picture.png"] == b"a fox"
    assert any("deletes model-00001-of-" in line for line in lines)


def test_another_programs_model_is_replaced_only_on_request(prepared: Path, hub: StandIn) -> None:
    theirs = {"config.json": b"{}", "model.safetensors": b"their weights", "README.md": b"their card"}
    hub.add(REPO, theirs)
    with pytest.raises(PublishError, match=r"did not publish.*--overwrite") as error:
        send(prepared, hub)
    assert "config.json" in one_line(error)
    assert not hub.asked("commit|PUT|preupload")
    send(prepared, hub, overwrite=True)
    arrived = hub.files(REPO)
    assert "model.safetensors" not in arrived
    assert arrived["README.md"] == (prepared / "README.md").read_bytes()


def test_a_repository_with_only_a_card_is_free(prepared: Path, hub: StandIn) -> None:
    hub.add(REPO, {"README.md": b"coming soon"})
    send(prepared, hub)
    assert hub.files(REPO)["README.md"] == (prepared / "README.md").read_bytes()


def test_private_means_private(prepared: Path, hub: StandIn) -> None:
    send(prepared, hub, private=True)
    assert hub.repositories[REPO].private
    hub.add("someone/public")
    with pytest.raises(PublishError, match="public, so nothing was uploaded") as error:
        send(prepared, hub, "someone/public", private=True)
    one_line(error)
    assert set(hub.files("someone/public")) == {".gitattributes"}
    assert not hub.asked("someone/public.*(preupload|commit)")


def test_a_branch_is_made_and_filled(prepared: Path, hub: StandIn) -> None:
    page, _ = send(prepared, hub, revision="try/2")
    assert page == f"{hub.endpoint}/{REPO}/tree/try%2F2"
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert contents(prepared).items() <= hub.files(REPO, "try/2").items()


def test_a_file_that_the_hub_left_out_is_missed(prepared: Path, hub: StandIn) -> None:
    hub.ignored = {"best_model.pt"}
    with pytest.raises(PublishError, match=r"does not hold best_model\.pt.*gitignore") as error:
        send(prepared, hub)
    one_line(error)


def test_the_owner_of_a_shared_repository_need_not_be_allowed_to_make_one(prepared: Path, hub: StandIn) -> None:
    hub.add(REPO)
    hub.faults = [Fault("POST /api/repos/create", 403)]
    send(prepared, hub)
    assert contents(prepared).items() <= hub.files(REPO).items()


# What can go wrong


@pytest.mark.parametrize(
    ("where", "status", "told"),
    [
        ("POST /api/repos/create", 401, r"does not know your access token \(401\).*hf auth login"),
        ("POST /api/repos/create", 403, r"may not write to someone/story-nano \(403\)"),
        ("POST /api/repos/create", 500, r"fault of its own \(500\)"),
        ("POST /api/repos/create", 429, r"asks to wait \(429"),
        ("GET /api/models", 404, r"no model repository someone/story-nano.*dataset"),
        ("preupload", 401, r"\(401\)"),
        ("preupload", 404, r"\(404\)"),
        ("preupload", 503, r"fault of its own \(503\).*not sent again"),
        ("validate-yaml", 400, r"refused .* \(400\)"),
        ("objects/batch", 403, r"may not write"),
        ("PUT /storage", 403, r"may not write"),
        ("PUT /storage", 500, r"fault of its own \(500\)"),
        ("/commit/", 403, r"may not write"),
        ("/commit/", 409, r"changed by somebody else"),
        ("/commit/", 413, r"files of this size"),
        ("/commit/", 418, r"refused the upload to someone/story-nano \(418\)"),
    ],
)
def test_a_refusal_is_one_line(where: str, status: int, told: str, prepared: Path, hub: StandIn) -> None:
    hub.faults = [Fault(where, status)]
    with pytest.raises(PublishError, match=told) as error:
        send(prepared, hub)
    assert "the Hub says: a fault of the stand-in" in one_line(error)
    assert hub.asked(where)
    assert not hub.messages


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("POST /api/repos/create", b"<html>a captive portal</html>"),
        ("POST /api/repos/create", b"{}"),
        ("GET /api/models", b"[]"),
        ("preupload", b'{"files": 3}'),
        ("preupload", b'{"files": []}'),
        ("objects/batch", b'{"objects": [{}]}'),
        ("/commit/", b"null"),
        ("validate-yaml", b"[]"),
    ],
)
def test_an_answer_without_sense_is_one_line(where: str, body: bytes, prepared: Path, hub: StandIn) -> None:
    hub.faults = [Fault(where, 200, body)]
    with pytest.raises(PublishError, match="the upload to someone/story-nano failed") as error:
        send(prepared, hub)
    one_line(error)


@pytest.mark.parametrize("where", ["preupload", "objects/batch", "PUT /storage"])
def test_a_passing_fault_is_waited_out(where: str, prepared: Path, hub: StandIn) -> None:
    hub.faults = [Fault(where, 500, times=1)]
    send(prepared, hub)
    assert contents(prepared).items() <= hub.files(REPO).items()


def test_a_server_that_repeats_the_token_is_not_quoted(prepared: Path, hub: StandIn, capfd: Any) -> None:
    # The second one would be cut in the middle, and half a token is too much as well.
    body = json.dumps({"error": f"bad \x1b[31m token {TOKEN} {'x' * 208} {TOKEN}"}).encode()
    hub.faults = [Fault("POST /api/repos/create", 401, body)]
    with pytest.raises(PublishError) as error:
        send(prepared, hub)
    assert "[token]" in one_line(error)
    assert str(error.value).count(TOKEN[:4]) == 0
    assert "\x1b" not in str(error.value)
    assert error.value.__cause__ is None
    assert TOKEN not in "".join(capfd.readouterr())


def test_the_token_is_not_printed(prepared: Path, hub: StandIn, capfd: Any) -> None:
    upload_publication(prepared, REPO, token=TOKEN)
    out, err = capfd.readouterr()
    assert "model-00001-of-" in err
    assert TOKEN not in out + err


def test_an_unknown_token_is_told(prepared: Path, hub: StandIn) -> None:
    with pytest.raises(PublishError, match=r"\(401\)") as error:
        upload_publication(prepared, REPO, token="hf_of_somebody_else", say=lambda line: None)
    assert "hf_of_somebody_else" not in one_line(error)
    assert not hub.repositories


def test_without_a_token_nothing_is_asked(prepared: Path, hub: StandIn) -> None:
    with pytest.raises(PublishError, match=r"no access token.*hf auth login.*HF_TOKEN") as error:
        upload_publication(prepared, REPO, say=lambda line: None)
    one_line(error)
    assert not hub.requests


@pytest.mark.parametrize("token", ["hf_ä", "two words", "new\nline", "x" * 2000])
def test_a_token_that_is_none_is_refused_without_showing_it(token: str, prepared: Path, hub: StandIn) -> None:
    with pytest.raises(PublishError, match="characters that no token has") as error:
        upload_publication(prepared, REPO, token=token, say=lambda line: None)
    assert token not in one_line(error)
    assert not hub.requests


def test_the_token_of_the_environment_is_used(prepared: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    upload_publication(prepared, REPO, say=lambda line: None)
    assert contents(prepared).items() <= hub.files(REPO).items()


def test_offline_mode_is_respected(prepared: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set") as error:
        send(prepared, hub)
    one_line(error)
    assert not hub.requests


def test_nobody_listening_is_told(prepared: Path, hub: StandIn) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(PublishError, match=r"cannot be reached.*HF_ENDPOINT") as error:
        send(prepared, hub, endpoint=f"http://127.0.0.1:{port}")
    one_line(error)


@pytest.mark.parametrize("where", ["POST /api/repos/create", "/commit/"])
def test_a_silent_server_is_not_waited_for_for_ever(
    where: str, prepared: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ANSWER_SECONDS", 0.4)
    before = huggingface_hub.get_session().timeout
    hub.silent = where
    with pytest.raises(PublishError, match="did not answer in time") as error:
        send(prepared, hub)
    one_line(error)
    assert huggingface_hub.get_session().timeout == before


def test_a_hub_without_xet_storage_is_told(prepared: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(PublishError, match="HF_HUB_DISABLE_XET=1") as error:
        send(prepared, hub)
    one_line(error)
    assert not hub.messages


@pytest.mark.parametrize(
    ("repo_id", "told"),
    [
        ("datasets/someone/stories", "not one for models"),
        ("spaces/someone/stories", "not one for models"),
        ("https://huggingface.co/someone/nano", "is an address"),
        ("nano", "is not owner/name"),
        ("a/b/c", "is not owner/name"),
        ("someone/", "cannot be a name"),
        ("someone/a--b", "cannot be a name"),
        ("someone/na no", "cannot be a name"),
        ("someone/nano.git", "cannot be a name"),
        ("some\x1b[31mone/nano", "cannot be a name"),
        ("someone/" + "x" * 5000, "cannot be a name"),
    ],
)
def test_a_repository_that_cannot_be_is_refused(repo_id: str, told: str, prepared: Path, hub: StandIn) -> None:
    with pytest.raises(PublishError, match=told) as error:
        send(prepared, hub, repo_id)
    assert "\x1b" not in one_line(error)
    assert not hub.requests


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("http://hub.example.org", "no encryption"),
        ("ftp://huggingface.co", "is not like"),
        ("huggingface.co", "is not like"),
        ("https://user:secret@hub.example.org", "is not like"),
        ("http://[::1", "is not like"),
    ],
)
def test_the_token_goes_to_no_unsafe_address(endpoint: str, told: str, prepared: Path, hub: StandIn) -> None:
    with pytest.raises(PublishError, match=told) as error:
        send(prepared, hub, endpoint=endpoint)
    assert "secret" not in one_line(error)


@pytest.mark.parametrize("revision", ["", "a b", "../x", "-x", "a..b"])
def test_a_branch_that_cannot_be_is_refused(revision: str, prepared: Path, hub: StandIn) -> None:
    with pytest.raises(PublishError, match="not the name of a branch"):
        send(prepared, hub, revision=revision)
    assert not hub.requests


def test_without_the_library_the_extra_is_named(prepared: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PublishError, match=r"gpt-oss-stories\[interop\]") as error:
        upload_publication(prepared, REPO, token=TOKEN)
    one_line(error)
