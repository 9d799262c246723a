"""Every format of story files: what comes out, what is counted, and that pieces give what the whole file gives."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import pickle
import random
import re
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.data.cleaning import tidy_text
from gpt_oss_stories.data.sources import (
    DataError,
    Piece,
    Place,
    ReadReport,
    Source,
    StoryReader,
    parse_source,
    plan_pieces,
    read_piece,
    read_stories,
    source_files,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"

KITE = "Mina had a red kite. The wind took it over the wall."
TORTOISE = "A small tortoise wanted to see the top of the hill."
LONG = 16 * 2**20


def read_in_pieces(path, piece_bytes=2**63, limit=LONG, **options):
    """The pieces of a source, its stories, and the report on all of it."""
    pieces, planned = plan_pieces(0, Source(location=str(path), **options), piece_bytes=piece_bytes)
    stories, reports = [], [planned]
    for piece in pieces:
        assert Piece.from_dict(json.loads(json.dumps(piece.to_dict()))) == piece
        assert pickle.loads(pickle.dumps(piece)) == piece  # noqa: S301 - our own bytes
        report = ReadReport()
        stories += read_piece(piece, report, max_line_bytes=limit)
        reports.append(ReadReport.from_dict(json.loads(json.dumps(report.to_dict()))))
        assert reports[-1] == report
    return pieces, stories, ReadReport.merge(reports)


# Sources as texts


def test_sources_are_parsed():
    assert parse_source("a/b.jsonl") == Source(location="a/b.jsonl")
    assert parse_source(" data/*.txt?weight=2&layout=lines ") == Source(
        location="data/*.txt", weight=2.0, layout="lines"
    )
    assert parse_source("owner/tales?split=validation&column=story&revision=v1&config=big") == Source(
        location="owner/tales", split="validation", column="story", revision="v1", config="big"
    )
    assert parse_source("data/?.txt") == Source(location="data/?.txt")
    assert parse_source("data/?.txt?weight=0.5") == Source(location="data/?.txt", weight=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.txt?wieght=2", "unknown option 'wieght'; the options are weight, split, column, revision, config, layout"),
        ("a.txt?weight=x", "weight='x' is not a number above 0"),
        ("a.txt?weight=0", "weight=0.0 is not a number above 0"),
        ("a.txt?weight=nan", "weight=nan is not a number above 0"),
        ("a.txt?weight=-1", "weight=-1.0 is not"),
        ("a.txt?weight=1&weight=1", "the option 'weight' appears twice"),
        ("a.txt?layout=words", "layout='words' is not one of separator, blank-lines, lines, file"),
        ("a.txt?column=", "the option 'column' has no value"),
        ("", "no file, folder or name is given"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(text, said):
    with pytest.raises(DataError, match=re.escape(said)) as error:
        parse_source(text)
    assert "\n" not in str(error.value)


def test_a_file_with_a_question_mark_in_its_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("who?weight=2").mkdir()
    Path("who?weight=2/a.txt").write_text(KITE)
    assert parse_source("who?weight=2").location == "who?weight=2"
    assert [story.text for story in read_stories("who?weight=2")] == [KITE]


def test_patterns_give_files_in_order_with_names_below_their_folder(tmp_path):
    for name in ("b/2.txt", "b/10.txt", "a/1.txt", "a/notes.md", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    source = Source(location=str(tmp_path / "*" / "*"))
    assert [file.relative_to(tmp_path).as_posix() for file in source_files(source)] == [
        "a/1.txt",
        "b/10.txt",
        "b/2.txt",
    ]
    pieces, _, report = read_in_pieces(source.location)
    assert [piece.place for piece in pieces] == ["a/1.txt", "b/10.txt", "b/2.txt"]
    assert report.ignored_files == 1
    deep = Source(location=str(tmp_path / "**" / "*.txt"))
    assert len(source_files(deep)) == 4
    with pytest.raises(DataError, match="fits the pattern"):
        source_files(Source(location=str(tmp_path / "*.jsonl")))
    assert source_files(Source(location="owner/tales")) == []


# One piece and many


def text_content() -> st.SearchStrategy[bytes]:
    """Texts with borders of every kind, line ends of every kind, and bytes that are no text."""
    ends = st.sampled_from([b"\n", b"\r\n", b"\n", b"\r"])
    lines = st.sampled_from(
        [b"", b"", b" ", b"\t", b"<|endoftext|>", b" <|endoftext|> ", b"One day.", b"It ended.", b"caf\xc3\xa9",
         b"\xff", b"\xe2\x80\xa8", b"\0", b"x" * 100, b"He wrote <|endoftext|> here.", b"<|endoftext|", b" " * 90,
         b"\xc2\xa0", b"\xef\xbb\xbfOne.", b"\xef\xbb\xbf"]
    )  # fmt: skip
    joined = st.lists(st.tuples(lines, ends), max_size=40).map(lambda parts: b"".join(a + b for a, b in parts))
    return st.tuples(st.sampled_from([b"", b"\xef\xbb\xbf"]), joined, st.sampled_from([b"", b"The end"])).map(b"".join)


def jsonl_content() -> st.SearchStrategy[bytes]:
    lines = st.sampled_from(
        [b"", b" ", b'{"text": "One day."}', b'{"text": "caf\xc3\xa9", "age": "five"}', b"{oops", b'{"text": 3}',
         b"\xff", b'{"text": "\xe2\x80\xa8"}', b'{"text": "' + b"x" * 100 + b'"}', b"\0", b'{"text": "a\r"}',
         b'{"text": "b"}\r', b'\xef\xbb\xbf{"text": "c"}']
    )  # fmt: skip
    ends = st.sampled_from([b"\n", b"\r\n"])
    joined = st.lists(st.tuples(lines, ends), max_size=30).map(lambda parts: b"".join(a + b for a, b in parts))
    last = st.sampled_from([b"", b'{"text": "last"}', b'{"text": "cu'])
    return st.tuples(st.sampled_from([b"", b"\xef\xbb\xbf"]), joined, last).map(b"".join)


def check_pieces(file, piece_bytes, limit, layout=None) -> int:
    """Read a file in one piece and in many, compare, and give the number of pieces."""
    (_,), whole, report = read_in_pieces(file, limit=limit, layout=layout)
    pieces, parts, merged = read_in_pieces(file, piece_bytes, limit, layout=layout)
    assert parts == whole
    assert merged == report
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end is None
    for reason, skipped in report.skipped.items():
        assert merged.skipped[reason].first == skipped.first
    return len(pieces)


@settings(max_examples=300, deadline=None)
@given(
    content=text_content(),
    piece_bytes=st.integers(1, 120),
    limit=st.sampled_from([1, 5, 12, 30, 79, 95, LONG]),
    layout=st.sampled_from([None, "separator", "blank-lines", "lines", "file"]),
)
def test_pieces_of_a_text_give_what_the_whole_gives(tmp_path_factory, content, piece_bytes, limit, layout):
    file = tmp_path_factory.getbasetemp() / "pieces.txt"
    file.write_bytes(content)
    check_pieces(file, piece_bytes, limit, layout)


def test_a_byte_order_mark_where_a_piece_begins_is_no_beginning_of_a_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "One."}\n\xef\xbb\xbf{"text": "Two."}\n')
    assert check_pieces(tmp_path / "a.jsonl", 1, LONG) == 2
    assert len(read_in_pieces(tmp_path / "a.jsonl", 1)[1]) == 1
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne.\n<|endoftext|>\n\xef\xbb\xbfTwo.\n")
    assert check_pieces(tmp_path / "a.txt", 1, LONG) == 2
    assert [story.text for story in read_in_pieces(tmp_path / "a.txt", 1)[1]] == ["One.", "\ufeffTwo."]


@settings(max_examples=200, deadline=None)
@given(content=jsonl_content(), piece_bytes=st.integers(1, 120), limit=st.sampled_from([1, 30, LONG]))
def test_pieces_of_json_lines_give_what_the_whole_gives(tmp_path_factory, content, piece_bytes, limit):
    file = tmp_path_factory.getbasetemp() / "pieces.jsonl"
    file.write_bytes(content)
    check_pieces(file, piece_bytes, limit)


@pytest.mark.parametrize(
    ("layout", "border", "name"),
    [
        (None, "\n<|endoftext|>\n", "a.txt"), (None, "\r\n<|endoftext|>\r\n", "a.txt"), (None, "\n\n\n", "a.txt"),
        (None, "\r\n\r\n \r\n", "a.txt"), ("lines", "\n", "a.txt"), (None, "\n", "a.jsonl"), (None, "\r\n", "a.jsonl"),
    ],
)  # fmt: skip
def test_large_files_are_cut_into_pieces_of_about_the_size_asked_for(layout, border, name, tmp_path):
    stories = [f"Story {number} was told. " + "It went on. " * (number % 7) + "The end." for number in range(400)]
    if name.endswith("jsonl"):
        stories = [json.dumps({"text": story}) for story in stories]
    content = border.join(stories).encode()
    (tmp_path / name).write_bytes(content)
    pieces = check_pieces(tmp_path / name, 2000, LONG, layout)
    assert len(content) / 2400 < pieces <= len(content) / 2000 + 1
    assert len(read_in_pieces(tmp_path / name, 2000, layout=layout)[1]) == 400


def test_files_that_cannot_be_cut_are_one_piece(tmp_path):
    for name, content in {
        "mac.txt": "One.\r\r\rTwo.\r\r\rThree.\r" * 20,
        "one.txt": "One.\n\nOn and on.\n" * 20,
        "long.jsonl": '{"text": "' + "x" * 1000 + '"}',
    }.items():
        (tmp_path / name).write_bytes(content.encode())
        assert check_pieces(tmp_path / name, 10, LONG) == 1


def test_places_of_merged_reports_count_from_the_beginning_of_each_file(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_bytes(b'{"text": "One."}\noops\n' * 3)
    reports = []
    for index, folder in enumerate(("x", "y")):
        pieces, planned = plan_pieces(index, Source(location=str(tmp_path / folder)), piece_bytes=1)
        reports.append(planned)
        for piece in pieces:
            reports.append(ReadReport())
            list(read_piece(piece, reports[-1]))
    merged = ReadReport.merge(reports)
    assert merged.skipped["not JSON"].places == [
        Place(0, "a.jsonl", 2), Place(0, "a.jsonl", 4), Place(0, "a.jsonl", 6),
        Place(1, "a.jsonl", 2), Place(1, "a.jsonl", 4),
    ]  # fmt: skip
    assert (merged.files, merged.stories, merged.bad, merged.lines) == (2, 6, 6, 12)
    half = ReadReport.merge([ReadReport.merge(reports[:4]), ReadReport.merge(reports[4:])])
    assert half == dataclasses.replace(merged, path=half.path)


def test_records_say_where_they_stand(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\n\n\nTwo.\nOn.\n\n\nThree.")
    _, stories, _ = read_in_pieces(tmp_path / "a.txt")
    assert [story.place for story in stories] == ["a.txt:1", "a.txt:5", "a.txt:9"]


# Layouts of texts

TALE = (
    "Once upon a time there was a hen named Ida who lived behind the mill. Every morning she walked to the pond to "
    "look at the ducks, and every evening she walked home again. One day the pond was frozen. Ida slid right over "
    "it, and the ducks laughed until they fell over too. Then they all went home and had warm soup together, and Ida "
    "told it again."
)


@pytest.mark.parametrize(
    ("content", "layout", "count"),
    [
        ("\n".join([TALE] * 12), "one story per line", 12),
        ("\n".join([TALE] * 12) + "\n\n", "one story per line", 12),
        ("\n".join(["Once upon a time there was a cat who sat on every mat in town."] * 9), "one story per", 9),
        ("\n".join([TALE] * 7), "the whole file is one story", 1),
        ("\n\n".join([TALE] * 12), "the whole file is one story", 1),
        ("\n".join([TALE, '"Who is there?" said Ida.', '"I am," said the fox.'] * 12), "the whole file is", 1),
        ("\n".join([TALE.rstrip(".")] * 12), "the whole file is one story", 1),
        ("\n\n\n".join([TALE] * 12), "two or more blank lines", 12),
        ("\n".join([TALE] * 12) + "\n<|endoftext|>\n", "by lines of", 1),
    ],
)  # fmt: skip
def test_layouts_are_found_out_and_reported(content, layout, count, tmp_path):
    (tmp_path / "a.txt").write_text(content)
    _, stories, report = read_in_pieces(tmp_path / "a.txt")
    assert len(stories) == count
    assert [layout in found for found in report.layouts] == [True]
    assert any(layout in line for line in report.describe())


def test_the_layout_can_be_given(tmp_path):
    (tmp_path / "a.txt").write_text("One.\nTwo.\n\n\nThree.\n<|endoftext|>\nFour.")
    for layout, count in {"separator": 2, "blank-lines": 3, "lines": 4, "file": 1}.items():
        _, stories, report = read_in_pieces(tmp_path / "a.txt", layout=layout)
        assert len(stories) == count
        assert list(report.layouts.values()) == [1]


def test_a_separator_behind_the_part_that_is_looked_at_still_ends_a_story(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt_oss_stories.data.sources.text.LOOK_CHARACTERS", 20)
    (tmp_path / "a.txt").write_text("One.\n\n\nTwo is long enough.\n\n\nThree.\n<|endoftext|>\nFour.\n")
    _, stories, report = read_in_pieces(tmp_path / "a.txt")
    assert [story.text for story in stories] == ["One.", "Two is long enough.", "Three.", "Four."]
    assert list(report.layouts) == ["stories separated by two or more blank lines"]


def test_texts_come_as_their_source_has_them_and_tidied_from_a_reader(tmp_path):
    text = "The bell said \a, the pen wrote \x1b[31mred\x1b[0m, the cafe\u0301 wasnâ€™t open.\n\n\n\nEnd."
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text + "\r\n", "title": "â€™"}))
    ((record,), (tidied,)) = read_in_pieces(tmp_path / "a.jsonl")[1], StoryReader(tmp_path / "a.jsonl")
    assert record.text == text
    assert tidied.text == tidy_text(text)
    assert "wasn’t" in tidied.text
    assert record.title == "’"


# Compression


def compress(content: bytes, kind: str) -> bytes:
    return gzip.compress(content, mtime=0) if kind == "gz" else zstandard.ZstdCompressor().compress(content)


CONTENTS = {
    "txt": "\n<|endoftext|>\n".join([KITE, TORTOISE] * 5).encode(),
    "jsonl": b"".join(json.dumps({"text": text}).encode() + b"\n" for text in [KITE, TORTOISE] * 5),
    "json": json.dumps([{"text": text} for text in [KITE, TORTOISE] * 5]).encode(),
    "csv": ("id,text\n" + "".join(f'1,"{text}"\n' for text in [KITE, TORTOISE] * 5)).encode(),
}


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("form", CONTENTS)
def test_compressed_files_give_what_plain_ones_give(form, kind, tmp_path):
    (tmp_path / f"a.{form}").write_bytes(CONTENTS[form])
    plain = read_in_pieces(tmp_path / f"a.{form}")[1]
    assert [story.text for story in plain] == [KITE, TORTOISE] * 5
    name = f"b.{form}.{kind}"
    (tmp_path / name).write_bytes(compress(CONTENTS[form], kind))
    pieces, stories, report = read_in_pieces(tmp_path / name, piece_bytes=1)
    assert [story.text for story in stories] == [story.text for story in plain]
    assert (len(pieces), report.bad) == (1, 0)
    # Several compressed parts behind each other are one file.
    middle = len(CONTENTS[form]) // 2
    parts = [compress(part, kind) for part in (CONTENTS[form][:middle], CONTENTS[form][middle:])]
    (tmp_path / name).write_bytes(b"".join(parts))
    assert [story.text for story in read_in_pieces(tmp_path / name)[1]] == [story.text for story in plain]


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("form", CONTENTS)
def test_cut_and_damaged_compressed_files_give_whole_stories_and_a_count(form, kind, tmp_path):
    # Lines that compress badly, so that a part of the file is a part of the stories.
    rng = random.Random(7)
    texts = ["".join(rng.choices("abcdefghij ", k=400)).strip() + "." for _ in range(500)]
    content = {
        "txt": "\n<|endoftext|>\n".join(texts),
        "jsonl": "\n".join(json.dumps({"text": text}) for text in texts),
        "json": json.dumps([{"text": text} for text in texts]),
        "csv": "text\n" + "\n".join(texts),
    }[form].encode()
    whole = compress(content, kind)
    assert len(whole) > 50_000
    for damage in (whole[: len(whole) * 2 // 3], whole + b"not compressed"):
        (tmp_path / f"a.{form}.{kind}").write_bytes(damage)
        _, stories, report = read_in_pieces(tmp_path / f"a.{form}.{kind}")
        if damage.startswith(whole) and kind == "gz":
            pass  # the module gzip refuses what stands behind, after all was read
        assert [story.text for story in stories] == texts[: len(stories)]
        assert len(stories) >= 100
        assert report.bad >= 1
        assert any("damaged" in reason for reason in report.skipped)


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_small_file_that_unpacks_to_a_huge_one_is_read_in_little_memory(kind, tmp_path):
    raw = b"x" * 2**20
    content = b"".join(compress(raw, kind) for _ in range(40)) + compress(b"\n<|endoftext|>\nThe end.", kind)
    assert len(content) < 2**18
    (tmp_path / f"a.txt.{kind}").write_bytes(content)
    read_in_pieces(tmp_path / f"a.txt.{kind}", limit=2**16)
    tracemalloc.start()
    _, stories, report = read_in_pieces(tmp_path / f"a.txt.{kind}", limit=2**16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [story.text for story in stories] == ["The end."]
    assert list(report.skipped) == ["story longer than 65,536 characters"]
    assert peak < 10 * 2**20


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt.gz", b"A story.", "not gzip data, though its name says so"),
        ("a.txt.zst", gzip.compress(b"A story.", mtime=0), "not zstd data, though its name says so"),
        ("a.jsonl.gz", gzip.compress(b"\x89PNG\r\n\x1a\n", mtime=0), "a PNG picture, not text"),
        ("a.json", gzip.compress(b"[]", mtime=0), "gzip data, not text"),
        ("a.csv", b"PAR1....", "a parquet table, not text"),
        ("a.csv", "text\nOne.".encode("utf-16"), "UTF-16, not UTF-8"),
        ("a.parquet", b"text\nOne.", "not a parquet table, though its name says so"),
        ("a.parquet", b"PK\x03\x04....", "a zip archive, not text"),
        ("a.parquet", b"PAR1" + bytes(100) + b"PAR1", "a damaged parquet table"),
        ("a.parquet", b"", "not a parquet table, though its name says so"),
        ("a.gz", gzip.compress(b"A story.", mtime=0), "gzip data, not text"),
    ],
)
def test_content_that_does_not_fit_the_name_is_recognised(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    pieces, stories, report = read_in_pieces(tmp_path / name)
    assert (pieces, stories) == ([], [])
    assert {reason: skipped.first for reason, skipped in report.skipped.items()} == {reason: [name]}
    assert report.files == 1


# JSON


@pytest.mark.parametrize(
    ("content", "texts", "reasons"),
    [
        ('[{"text": "A."}, {"text": "B."}]', ["A.", "B."], {}),
        ('\ufeff \n[\n {"text": "A, [b] {c} \\" d"}\n]\n', ['A, [b] {c} " d'], {}),
        ("[]", [], {}),
        ("", [], {}),
        (" \n", [], {}),
        ('{"data": [{"text": "A."}, {"text": "B."}], "version": [1, [2], "]"], "x": [ ], "y": []}', ["A.", "B."], {}),
        ('{"data": [{"text": "A."}][0], "more": [{"text": "B."}]}', ["A."], {"not JSON": 1}),
        ('{"version": {"a": [1]}, "rows": [{"text": "A."}], "more": [{"text": "B."}]}', ["A.", "B."], {}),
        ('{"text": "A.", "tags": [1, {"text": "no"}]}', ["A."], {}),
        ('{"questions": [{"question": "Who?", "answer": "Ida"}], "text": "A."}', ["A."], {}),
        ('{"info": 3}', [], {"neither a story with a key 'text' nor a list of stories": 1}),
        ("17", [], {"neither a list nor an object": 1}),
        ('[{"text": 3}, 4, {"text": "B."}]', ["B."], {"'text' is not a text": 1, "not a JSON object": 1}),
        ('[{"text": "A."}, {oops}, {"text": "B."}]', ["A.", "B."], {"not JSON": 1}),
        ('[{"text": "A."},, {"text": "B."},]', ["A.", "B."], {"not JSON": 1}),
        ('[{"text": "A."}, {"text": "B', ["A."], {"not JSON": 1, "the list has no end (is the file cut off?)": 1}),
        ('[{"text": "A."}', ["A."], {"the list has no end (is the file cut off?)": 1}),
        ('[{"text": "A."}] []', ["A."], {"something behind the end of the JSON text": 1}),
        ('{"rows": [{"text": "A."}]', ["A."], {"the object has no end (is the file cut off?)": 1}),
        ('{"rows"', [], {"the object has no end (is the file cut off?)": 1}),
        ('{"text": "A.", "text": "B."}', [], {"a key appears twice": 1}),
        ('[{"text": "A.", "text": "B."}, {"text": NaN}]', [], {"a key appears twice": 1, "not JSON": 1}),
        ('[' * 60_000, [], {"nested too deeply": 1, "the list has no end (is the file cut off?)": 1}),
        ('[{"x": ' + "[" * 20_000 + "]" * 20_000 + '}, {"text": "B."}]', ["B."], {"nested too deeply": 1}),
        ('[{"text": "A.", "n": ' + "9" * 6000 + '}, {"text": "B."}]', ["B."], {"a number too long to read": 1}),
        ('{"text": "A."}\n{"text": "B."}\n', ["A.", "B."], {}),
        ('{"text": "A."}\n\n{"text": \n{"text": "B."}', ["A.", "B."], {"not JSON": 1}),
    ],
)  # fmt: skip
def test_json_files_hold_lists_objects_or_lines(content, texts, reasons, tmp_path):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    _, stories, report = read_in_pieces(tmp_path / "a.json")
    assert [story.text for story in stories] == texts
    assert {reason: skipped.count for reason, skipped in report.skipped.items()} == reasons


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    items=st.lists(
        st.one_of(JSON_VALUES, st.fixed_dictionaries({"text": st.text(min_size=1, max_size=20), "other": JSON_VALUES})),
        max_size=6,
    ),
    indent=st.sampled_from([None, 1]),
    plain=st.booleans(),
    key=st.sampled_from([None, "rows", '"[{'] ),
    chunk=st.integers(1, 50),
)  # fmt: skip
def test_items_of_a_json_file_are_those_that_json_finds(tmp_path_factory, items, indent, plain, key, chunk):
    """The splitter, at any size of its buffer, against the module `json` and the reader of lines."""
    file = tmp_path_factory.getbasetemp() / "items.json"
    items = items if key is None else [{"text": "First."}, *items]
    whole = items if key is None else {"before": {"text": "[no]"}, key: items, "after": ["]", 1]}
    file.write_text(json.dumps(whole, ensure_ascii=plain, indent=indent), encoding="utf-8", errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt_oss_stories.data.sources.json_items._CHUNK", chunk)
        _, stories, report = read_in_pieces(file)
    file.with_suffix(".jsonl").write_text(
        "".join(json.dumps(item, ensure_ascii=plain) + "\n" for item in items), encoding="utf-8", errors="surrogatepass"
    )
    _, expected, expected_report = read_in_pieces(file.with_suffix(".jsonl"))
    assert [story.text for story in stories] == [story.text for story in expected]
    assert {reason: s.count for reason, s in report.skipped.items()} == {
        reason: s.count for reason, s in expected_report.skipped.items()
    }
    assert report.lines == len(items)


def test_an_item_over_the_limit_is_skipped_and_the_next_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 300_000}, {"text": "A."}]))
    _, stories, report = read_in_pieces(tmp_path / "a.json", limit=1000)
    assert [story.text for story in stories] == ["A."]
    assert {reason: skipped.first for reason, skipped in report.skipped.items()} == {
        "item longer than 1,000 bytes": ["a.json:1"]
    }
    (tmp_path / "b.json").write_text(json.dumps({"text": "x" * 300_000, "title": "x"}))
    assert list(read_in_pieces(tmp_path / "b.json", limit=1000)[2].skipped) == ["item longer than 1,000 bytes"]


@pytest.mark.parametrize(("name", "content"), [
    ("a.json", b'[{"text": "'), ("a.csv", b'text\n"'), ("a.csv", b"text\n"), ("a.json", b'{"rows": {"a'),
])  # fmt: skip
def test_memory_is_bounded_where_a_quote_never_ends(name, content, tmp_path):
    with open(tmp_path / name, "wb") as out:
        out.write(content)
        for _ in range(40):
            out.write(b"x, y " * 2**18)
    pieces, _ = plan_pieces(0, Source(location=str(tmp_path / name)))
    report = ReadReport()
    tracemalloc.start()
    stories = [story for piece in pieces for story in read_piece(piece, report, max_line_bytes=2**18)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not stories
    assert report.bad
    assert peak < 8 * 2**20


# CSV


@pytest.mark.parametrize(
    ("content", "texts", "reasons"),
    [
        ("text\nA.\nB.\n", ["A.", "B."], {}),
        ("\ufefftext\r\nA.\r\nB.", ["A.", "B."], {}),
        ("text\rA.\rB.\r", ["A.", "B."], {}),
        ('id,text\n1,"A, ""b"".\n\nC."\n\n2,D.\n', ['A, "b".\n\nC.', "D."], {}),
        ("id;text\n1;A, b.\n", ["A, b."], {}),
        ("id\ttext\n1\tA, b.\n", ["A, b."], {}),
        ("text,id\nA, b,1\nC.\nD.,2\n", ["D."], {"more cells than columns": 1, "fewer cells than columns": 1}),
        ("text\n=1+1\n@cmd\n-2\n+3\n", ["=1+1", "@cmd", "-2", "+3"], {}),
        ('text\n"A.\nB.\n', [], {"not CSV: quotes that do not fit": 1}),
        ('text\n"He said "stop" now\nC, more"\nD.\n', ["D."], {"not CSV: quotes that do not fit": 1}),
        ('text,id\n5" pipe.,1\nB.,2\n', ['5" pipe.', "B."], {}),
        ("text\nA.\n\ufffe\n\0\n", ["A.", "\ufffe"], {"NUL character": 1}),
        ('text,id\n"",1\n"  ",2\n', [], {"blank story": 2}),
        ("", [], {}),
        ("text\n", [], {}),
    ],
)
def test_csv_files(content, texts, reasons, tmp_path):
    (tmp_path / "a.csv").write_bytes(content.encode("utf-8", "surrogatepass"))
    _, stories, report = read_in_pieces(tmp_path / "a.csv")
    assert [story.text for story in stories] == texts
    assert {reason: skipped.count for reason, skipped in report.skipped.items()} == reasons


def test_bytes_that_are_no_utf8_spoil_one_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,caf\xe9.\n2,B.\n")
    _, stories, report = read_in_pieces(tmp_path / "a.csv")
    assert [story.text for story in stories] == ["B."]
    assert report.skipped["not UTF-8"].first == ["a.csv:2"]


def test_cells_with_json_in_them_become_fields(tmp_path):
    row = {
        "story": KITE, "age": "4", "words": '["kite", "wall"]', "title": "", "prompt": "Tell of a kite.",
        "questions": json.dumps([{"question": "Who?", "answer": "Mina"}]), "features": "dialogue",
    }  # fmt: skip
    with open(tmp_path / "a.csv", "w", newline="") as out:
        writer = csv.DictWriter(out, list(row))
        writer.writeheader()
        writer.writerow(row)
    _, (story,), report = read_in_pieces(tmp_path / "a.csv", column="story")
    assert story.request.to_dict() == {"age": 4, "words": ["kite", "wall"], "length": "short"}
    assert (story.text, story.title, story.prompt) == (KITE, None, "Tell of a kite.")
    assert [question.answer for question in story.questions] == ["Mina"]
    assert report.ignored_fields == {"features": 1}


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.text(max_size=5), st.text(max_size=30), st.text(max_size=5)).map(
            lambda row: tuple(cell.replace("\0", "").replace("\r", "") for cell in row)
        ),
        max_size=8,
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    limit=st.sampled_from([40, 60, LONG]),
)
def test_rows_of_a_csv_file_are_those_that_were_written(tmp_path_factory, rows, end, quoting, limit):
    file = tmp_path_factory.getbasetemp() / "rows.csv"
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end, quoting=quoting)
    writer.writerow(["a", "text", "b"])
    lengths = []
    for row in rows:
        begin = out.tell()
        writer.writerow(row)
        lengths.append(out.tell() - begin - len(end))
    file.write_bytes(out.getvalue().encode("utf-8", "surrogatepass"))
    _, stories, report = read_in_pieces(file, limit=limit)
    assert len(stories) + report.bad == len(rows)
    (tmp_path_factory.getbasetemp() / "rows.jsonl").write_text(
        "".join(json.dumps({"text": row[1]}) + "\n" for row, n in zip(rows, lengths, strict=True) if n <= limit)
    )
    expected = read_in_pieces(tmp_path_factory.getbasetemp() / "rows.jsonl")[1]
    assert [story.text for story in stories] == [story.text for story in expected]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("id,story", "a.csv has no column 'text', only 'id', 'story'; name the one with the stories with ?column=NAME"),
        ("text,text", "a.csv has two columns 'text'"),
        ("A story without a header.", "a.csv has no column 'text', only 'A story without a header.'"),
    ],
)
def test_a_table_without_the_column_is_refused_in_one_line(header, said, tmp_path):
    (tmp_path / "a.csv").write_text(header + "\n1,2\n")
    with pytest.raises(DataError, match=re.escape(said)) as error:
        plan_pieces(0, Source(location=str(tmp_path / "a.csv")))
    assert "\n" not in str(error.value)


# Parquet


def test_parquet_files_are_read_by_row_groups(tmp_path):
    rows = [{"text": f"Story {number}. " + "x" * 100, "id": number, "title": None} for number in range(50)]
    rows[7]["text"] = None
    rows[30]["text"] = " "
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=4)
    (_,), whole, report = read_in_pieces(tmp_path / "a.parquet")
    assert [story.text for story in whole] == [row["text"] for row in rows if row["text"] and row["text"].strip()]
    assert {reason: skipped.first for reason, skipped in report.skipped.items()} == {
        "'text' is not a text": ["a.parquet:8"], "blank story": ["a.parquet:31"],
    }  # fmt: skip
    for piece_bytes in (1, 900, 5000):
        pieces, stories, merged = read_in_pieces(tmp_path / "a.parquet", piece_bytes)
        assert len(pieces) > 1
        assert stories == whole
        assert merged == report
    assert [story.place for story in whole[:2]] == ["a.parquet:1", "a.parquet:2"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_texts_of_any_string_type_and_nested_fields_are_read(kind, tmp_path):
    question = {"question": "Who?", "answer": "Mina", "choices": None, "answer_index": None}
    table = pa.table(
        {"story": pa.array([KITE, TORTOISE], kind), "questions": [[question], None], "prompt": ["Tell.", None]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    _, (kite, tortoise), report = read_in_pieces(tmp_path / "a.parquet", column="story")
    assert (kite.text, kite.prompt, kite.questions[0].answer) == (KITE, "Tell.", "Mina")
    assert (tortoise.text, tortoise.prompt, tortoise.questions) == (TORTOISE, None, ())
    assert not report.bad


def test_rows_that_are_no_text_are_counted_and_a_missing_column_refused(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert read_in_pieces(tmp_path / "a.parquet")[2].skipped["'text' is not a text"].count == 2
    with pytest.raises(DataError, match=r"a\.parquet has no column 'story', only 'text'"):
        plan_pieces(0, Source(location=str(tmp_path / "a.parquet"), column="story"))
    spoiled = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\x02\0\0\0\x04\0\0\0"), pa.py_buffer(b"\xff\xfeB.")]
    )
    pq.write_table(pa.table({"text": spoiled}), tmp_path / "b.parquet")
    _, (story,), report = read_in_pieces(tmp_path / "b.parquet")
    assert story.text == "B."
    assert report.skipped["not UTF-8"].first == ["b.parquet:1"]
    _, stories, report = read_in_pieces(tmp_path / "b.parquet", limit=1)
    assert not stories
    assert report.skipped["story longer than 1 characters"].count == 1


def test_a_parquet_file_that_is_damaged_in_the_middle_gives_what_comes_before(tmp_path):
    file = tmp_path / "a.parquet"
    texts = [f"Story {number} was told to nobody." for number in range(3000)]
    pq.write_table(pa.table({"text": texts}), file, row_group_size=500, compression="gzip", use_dictionary=False)
    content = bytearray(file.read_bytes())
    place = len(content) // 2
    content[place : place + 200] = bytes(200)
    file.write_bytes(content)
    _, stories, report = read_in_pieces(file)
    assert [story.text for story in stories] == texts[: len(stories)]
    assert 500 <= len(stories) < 3000
    assert list(report.skipped) == ["a damaged parquet table: what follows is lost"]


# Fields


def test_questions_of_the_shape_of_fairytaleqa_become_questions(tmp_path):
    questions = [
        {"question": "Who had a kite?", "answer": "Mina", "answers": ["Mina", "the girl"], "attribute": "character",
         "scope": "local", "explicit": True, "sections": [1]},
        {"question": "Where did it go?", "answers": ["over the wall", "away"], "attribute": "action", "sections": [1]},
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": KITE, "questions": questions, "section_starts": [[1, 0]]}))
    _, (story,), report = read_in_pieces(tmp_path / "a.jsonl")
    assert [(q.question, q.answer) for q in story.questions] == [
        ("Who had a kite?", "Mina"), ("Where did it go?", "over the wall"),
    ]  # fmt: skip
    assert not report.bad


def test_prompts_and_attributions_are_read_and_another_column_can_be_named(tmp_path):
    row = {"tale": KITE, "prompt": " Write of a kite.\r\n", "attribution": "Text: Us", "text": "not this"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"text": KITE}))
    _, (story,), report = read_in_pieces(tmp_path / "a.jsonl", column="tale")
    assert (story.text, story.prompt, story.attribution) == (KITE, "Write of a kite.", "Text: Us")
    assert list(report.skipped) == ["no key 'tale'"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Story: time, said the owl.\nAnd so it was.", None),
        ("He asked for a\nStory: a long one.\n", None),
        ("Words: a, b\nThe owl had no tale.", None),
    ],
)
def test_texts_that_only_look_a_little_like_instructions_stay_whole(text, expected, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    _, (story,), _ = read_in_pieces(tmp_path / "a.txt", layout="file")
    assert story.request is expected
    assert story.text == (text.removeprefix("Story: ").strip() if text.startswith("Story:") else text.strip())


# Anything at all


@settings(max_examples=250, deadline=None)
@given(
    content=st.binary(max_size=300)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.sampled_from(list(CONTENTS.values())).flatmap(
        lambda whole: st.tuples(st.integers(0, len(whole)), st.binary(max_size=3)).map(
            lambda cut: whole[: cut[0]] + cut[1] + whole[cut[0] + len(cut[1]) :]
        )
    ),
    form=st.sampled_from(["txt", "jsonl", "json", "csv", "parquet"]),
    compressed=st.sampled_from(["", ".gz", ".zst", "squeezed.gz", "squeezed.zst"]),
    limit=st.integers(1, 400),
)
def test_arbitrary_bytes_never_crash(tmp_path_factory, content, form, compressed, limit):
    if form == "parquet":
        compressed = ""
        content = b"PAR1" + content + b"PAR1"
    squeezed, _, ending = compressed.rpartition(".")
    if squeezed:
        content = compress(content, ending)
    file = tmp_path_factory.getbasetemp() / (f"any.{form}.{ending}" if ending else f"any.{form}")
    file.write_bytes(content)
    try:
        _, stories, report = read_in_pieces(file, piece_bytes=50, limit=limit)
    except DataError:
        assert form == "csv"  # its first line does not name the column
        return
    assert len(stories) == report.stories
    for story in stories:
        story.text.encode("utf-8")
        assert "\r" not in story.text


@pytest.mark.skipif(not SHARED.is_dir(), reason="no data beside the checkout")
def test_every_hostile_file_gives_the_good_and_bad_lines_that_its_readme_states():
    table = (SHARED / "hostile" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| [\d,]+ \| (\d+) \| (\d+) \|", table, re.M)
    assert len(rows) >= 30
    found = {}
    for name, _, _ in rows:
        _, stories, report = read_in_pieces(SHARED / "hostile" / name, piece_bytes=500)
        found[name] = (len(stories), report.bad)
    expected = {name: (int(good), int(bad)) for name, good, bad in rows}
    assert found == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="no data beside the checkout")
def test_the_data_beside_the_checkout_are_read_whole():
    counts = dict(
        re.findall(r"^\| `([\w/.-]+\.jsonl)` \| ([\d,]+) \| [\d,]+ \|", (SHARED / "README.md").read_text(), re.M)
    )
    questions = dict(
        re.findall(r"^\| `([\w/.-]+\.jsonl)` \| [\d,]+ \| ([\d,]+) \|", (SHARED / "README.md").read_text(), re.M)
    )
    for name, count in counts.items():
        _, stories, report = read_in_pieces(SHARED / name, piece_bytes=100_000)
        assert (len(stories), report.bad) == (int(count.replace(",", "")), 0)
        assert sum(len(story.questions) for story in stories) == int(questions[name].replace(",", ""))
        assert all(story.prompt for story in stories) == ("fables" in name)
        assert all(story.attribution for story in stories) == ("african" in name)
