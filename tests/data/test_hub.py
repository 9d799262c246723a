"""Data sets of the Hub and folders laid out like one, through the real library, without leaving this machine.

The name of a data set is tried against a Hub in miniature: a server on this machine that answers the few requests that
`datasets` makes. The library reads where the Hub is when it is imported, so this is done in a process of its own.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt_oss_stories.data.sources import DataError, Piece, ReadReport, Source, parse_source, plan_pieces, read_piece

SOURCE = Path(__file__).parents[2] / "src"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def lay_out(folder: Path, tables: dict[str, list[dict]], readme: str | None = None) -> Path:
    """Write tables as parquet files, three rows to a row group."""
    for name, rows in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / name, row_group_size=3)
    if readme is not None:
        (folder / "README.md").write_text(readme)
    return folder


def tales(label: str, count: int) -> list[dict]:
    return [{"text": f"The {label} hen number {number} went home."} for number in range(count)]


TINY = {
    "data/train-00000-of-00002-abc.parquet": tales("first", 5),
    "data/train-00001-of-00002-def.parquet": tales("second", 4),
    "data/validation-00000-of-00001-fed.parquet": tales("other", 2),
}


def read(source: Source) -> tuple[list[Piece], list[str], ReadReport]:
    pieces, planned = plan_pieces(0, source)
    reports, stories = [planned], []
    for piece in pieces:
        piece = Piece.from_dict(json.loads(json.dumps(piece.to_dict())))
        reports.append(ReadReport())
        stories += [story.text for story in read_piece(piece, reports[-1])]
    return pieces, stories, ReadReport.merge(reports)


def texts(rows: list[dict]) -> list[str]:
    return [row["text"] for row in rows]


def test_a_folder_laid_out_like_a_data_set_is_read_by_split_and_file(tmp_path):
    lay_out(tmp_path, TINY)
    pieces, stories, report = read(Source(location=str(tmp_path)))
    assert [piece.place for piece in pieces] == [name for name in TINY if "train" in name]
    assert {piece.kind for piece in pieces} == {"hub"}
    assert stories == texts(tales("first", 5) + tales("second", 4))
    assert (report.files, report.stories, report.lines, report.bad) == (2, 9, 9, 0)
    _, stories, _ = read(parse_source(f"{tmp_path}?split=validation"))
    assert stories == texts(tales("other", 2))


README = """---
license: cc0-1.0
configs:
- config_name: default
  data_files:
  - split: train
    path: a/*.parquet
- config_name: long
  data_files:
  - split: train
    path: b/long.parquet
---
Tales.
"""


def test_the_configurations_of_a_readme_are_followed(tmp_path):
    lay_out(
        tmp_path, {"a/x.parquet": tales("x", 1), "a/y.parquet": tales("y", 1), "b/long.parquet": tales("z", 2)}, README
    )
    assert read(Source(location=str(tmp_path)))[1] == texts(tales("x", 1) + tales("y", 1))
    assert read(parse_source(f"{tmp_path}?config=long"))[1] == texts(tales("z", 2))


def test_a_folder_with_an_ordinary_readme_is_an_ordinary_folder(tmp_path):
    lay_out(tmp_path, {"tales.parquet": tales("x", 2)}, "# Tales\n")
    pieces, stories, report = read(Source(location=str(tmp_path)))
    assert [piece.kind for piece in pieces] == ["parquet"]
    assert stories == texts(tales("x", 2))
    assert report.ignored_files == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("?split=test", r"Bad split: test\. Available splits: \['train', 'validation'\]"),
        ("?config=no", r"BuilderConfig 'no' not found\. Available: \['default'\]"),
        ("?column=story", "has no column 'story', only 'text'"),
    ],
)
def test_what_a_data_set_lacks_is_named_in_one_line(options, said, tmp_path):
    lay_out(tmp_path, TINY)
    with pytest.raises(DataError, match=said) as error:
        plan_pieces(0, parse_source(f"{tmp_path}{options}"))
    assert "\n" not in str(error.value)


def test_a_row_without_a_story_is_counted_and_fields_are_read(tmp_path):
    rows = [
        {"prompt": "Write about a hen.", "text": "A hen sat.", "text_token_length": 4},
        {"prompt": None, "text": None, "text_token_length": 0},
        {"prompt": "Write.", "text": "A fox ran.", "text_token_length": 4},
    ]
    lay_out(tmp_path, {"data/train-00000-of-00001.parquet": rows})
    (piece,), report = plan_pieces(0, Source(location=str(tmp_path)))
    stories = list(read_piece(piece, report))
    assert [(story.prompt, story.text) for story in stories] == [
        ("Write about a hen.", "A hen sat."),
        ("Write.", "A fox ran."),
    ]
    assert [story.place.rpartition(":")[2] for story in stories] == ["1", "3"]
    assert report.skipped["'text' is not a text"].first == [f"{piece.place}:2"]


# Made up in the form of TinyStories-Instruct: one row for each line, a story over many rows, and over files.
INSTRUCT = """\
Features: Dialogue, Twist
Words: quilt, boil, sleepy
Summary: A sleepy goat boils a quilt.
Story:

The goat was sleepy. "I shall boil my quilt," she said.

It came out as soup.
<|endoftext|>
Summary: A duck counts.
Random sentence: One was missing.
Story:

The duck counted her eggs. One was missing.
<|endoftext|>
Words: hill
Story:

The hill was high.
Summary: About a hill.
<|endoftext|>
A story without any fields.
<|endoftext|>
""".splitlines()


def check_instruct(stories) -> None:
    goat, duck, hill, plain = stories
    assert goat.text == 'The goat was sleepy. "I shall boil my quilt," she said.\n\nIt came out as soup.'
    assert goat.request.to_dict() == {
        "words": ["quilt", "boil", "sleepy"], "features": ["dialogue", "a twist"], "length": "short"
    }  # fmt: skip
    assert goat.summary == "A sleepy goat boils a quilt."
    assert duck.text == "The duck counted her eggs. One was missing."
    assert duck.request.features == ("the sentence “One was missing.”",)
    assert duck.summary == "A duck counts."
    assert (hill.text, hill.summary, hill.request.words) == ("The hill was high.", "About a hill.", ("hill",))
    assert (plain.text, plain.request, plain.summary) == ("A story without any fields.", None, None)


@pytest.mark.parametrize("cuts", [(), (3,), (9,), (8, 10), (1, 2, 3, 15, 16), (4, 5, 6, 7, 21)], ids=str)
def test_stories_spread_over_rows_are_put_together_across_files(cuts, tmp_path):
    borders = [0, *cuts, len(INSTRUCT)]
    tables = {
        f"data/train-{number:05d}-of-{len(borders) - 1:05d}.parquet": [{"text": row} for row in INSTRUCT[a:b]]
        for number, (a, b) in enumerate(pairwise(borders))
    }
    lay_out(tmp_path, tables)
    pieces, planned = plan_pieces(0, Source(location=str(tmp_path)))
    assert len(pieces) == len(borders) - 1
    reports = [planned]
    stories = []
    for piece in pieces:
        reports.append(ReadReport())
        stories += read_piece(piece, reports[-1])
    check_instruct(stories)
    assert ReadReport.merge(reports).lines == len(INSTRUCT)


def test_stories_spread_over_rows_of_one_file_and_over_lines_of_a_text(tmp_path):
    lay_out(tmp_path, {"rows.parquet": [{"text": row} for row in INSTRUCT]})
    for piece_bytes in (1, 100, 2**20):
        pieces, _ = plan_pieces(0, Source(location=str(tmp_path / "rows.parquet")), piece_bytes=piece_bytes)
        assert (len(pieces) > 1) == (piece_bytes < 2**20)
        check_instruct([story for piece in pieces for story in read_piece(piece, ReadReport())])
    (tmp_path / "lines.txt").write_text("\n".join(INSTRUCT))
    pieces, _ = plan_pieces(0, Source(location=str(tmp_path / "lines.txt")), piece_bytes=1)
    assert len(pieces) == 4
    check_instruct([story for piece in pieces for story in read_piece(piece, ReadReport())])


def test_names_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Source(location="owner/tales").is_hub
    assert Source(location="owner/tales-v1.5").is_hub
    for path in ("owner/tales.jsonl", "owner/tales.txt.gz", "tales", "a/b/c", "/a/b", "./tales", "data/*.txt", "../x"):
        assert not Source(location=path).is_hub
        with pytest.raises(DataError, match=r"does not exist; give|fits the pattern"):
            plan_pieces(0, Source(location=path))
    (tmp_path / "owner" / "tales").mkdir(parents=True)
    assert not Source(location="owner/tales").is_hub


def test_without_a_network_a_name_is_refused_at_once_in_one_line_that_says_what_to_do():
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"owner/tales is no file or folder here, .* out of reach") as error:
        plan_pieces(0, parse_source("owner/tales"))
    assert time.monotonic() - begun < 15
    said = str(error.value)
    assert "\n" not in said
    for way in ("parquet files", ".txt or .jsonl", "built-in stories"):
        assert way in said


class MiniatureHub(http.server.BaseHTTPRequestHandler):
    """Answers for one data set, "owner/tales", whose files are in `folder`."""

    folder: Path
    asked: list[str]

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {self.path}")
        if re.fullmatch(r"/api/datasets/owner/tales(/revision/[\w.]+)?", path):
            if path.endswith("/no"):
                return self.refuse("RevisionNotFound")
            return self.reply(json.dumps({"id": "owner/tales", "sha": COMMIT, "tags": [], "siblings": []}).encode())
        if match := re.fullmatch(r"/api/datasets/owner/tales/tree/\w+(?:/(.*))?", path):
            within = self.folder / (match[1] or "")
            if not within.is_dir():
                return self.refuse("EntryNotFound")
            entries = sorted(within.rglob("*") if "recursive=true" in self.path else within.iterdir())
            listed = [
                {
                    "type": "directory" if entry.is_dir() else "file",
                    "oid": "0" * 40,
                    "size": 0 if entry.is_dir() else entry.stat().st_size,
                    "path": entry.relative_to(self.folder).as_posix(),
                }
                for entry in entries
            ]
            return self.reply(json.dumps(listed).encode())
        if match := re.fullmatch(rf"/datasets/owner/tales/resolve/(?:{COMMIT}|main)/(.*)", path):
            file = self.folder / match[1]
            return self.reply(file.read_bytes()) if file.is_file() else self.refuse("EntryNotFound")
        return self.refuse("RepoNotFound")

    def refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def reply(self, content: bytes) -> None:
        whole, tag = len(content), hashlib.sha256(content).hexdigest()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            begin, end = int(wanted[1]), int(wanted[2] or whole - 1)
            content = content[begin : end + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{min(end, whole - 1)}/{whole}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


PROGRAM = """
import json, sys
from gpt_oss_stories.data.sources import *
for spec in sys.argv[1:]:
    try:
        pieces, _ = plan_pieces(0, parse_source(spec))
        report = ReadReport()
        stories = [[story.text for story in read_piece(piece, report)] for piece in pieces]
        pieces = [piece.to_dict() for piece in pieces]
        print(json.dumps({"pieces": pieces, "stories": stories, "report": report.to_dict()}))
    except DataError as error:
        print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A miniature Hub after several sources were read from it, in one process for which it is the Hub."""
    folder = lay_out(tmp_path_factory.mktemp("repository"), TINY, "---\nlicense: cc0-1.0\n---\nTales.\n")
    handler = type("Handler", (MiniatureHub,), {"folder": folder, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    specs = ("owner/tales?revision=main", "owner/nothing", "owner/tales?revision=no", "owner/tales?split=validation")
    home = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path_factory.mktemp("home"))}
    environment = {**os.environ, **home, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(SOURCE), "NO_PROXY": "127.0.0.1"}

    def run(program: str, *arguments: str, **changes: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**environment, **changes}, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    try:
        results = run(PROGRAM, *specs)
        run("from datasets import load_dataset; load_dataset('owner/tales')")  # into the cache of the library
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    results += run(PROGRAM, "owner/tales?column=text", HF_HUB_OFFLINE="1")
    return folder, handler.asked, dict(zip((*specs, "offline"), map(json.loads, results), strict=True))


def test_the_name_of_a_data_set_goes_the_way_of_a_folder_laid_out_like_it(hub):
    folder, asked, results = hub
    found = results["owner/tales?revision=main"]
    pieces, stories, report = read(Source(location=str(folder)))
    assert [story for part in found["stories"] for story in part] == stories
    assert [piece["place"] for piece in found["pieces"]] == [f"owner/tales/{piece.place}" for piece in pieces]
    for remote, local in zip(found["pieces"], pieces, strict=True):
        assert remote["options"]["revision"] == COMMIT  # pinned when it is planned
        for field in ("kind", "start", "end", "layout"):
            assert remote[field] == getattr(local, field)
    assert found["report"]["stories"] == report.stories == 9
    assert results["owner/tales?split=validation"]["stories"] == [texts(tales("other", 2))]
    assert any("/resolve/" in one and "train" in one for one in asked)


@pytest.mark.parametrize("spec", ["owner/nothing", "owner/tales?revision=no"])
def test_what_the_hub_does_not_have_is_one_line(spec, hub):
    said = hub[2][spec]["error"]
    assert said.startswith(f"the Hub does not give the data set {spec.partition('?')[0]}: ")
    assert "\n" not in said


def test_without_a_network_what_the_library_has_in_its_cache_is_used(hub):
    folder, _, results = hub
    _, stories, _ = read(Source(location=str(folder)))
    assert [story for part in results["offline"]["stories"] for story in part] == stories
