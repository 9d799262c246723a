"""Reading stories from files: good lines are taken whole, bad ones are skipped and counted, nothing crashes."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.data.records import length_of
from gpt_oss_stories.data.sources import DataError, clean_text, is_blank, read_stories

KITE = "Mina had a red kite. The wind took it over the wall."
TORTOISE = "A small tortoise wanted to see the top of the hill."


def line(**values) -> bytes:
    return json.dumps(values).encode() + b"\n"


GOOD = line(text=KITE)

# name of the file, content, stories, skipped, part of the reason
MINIATURES = [
    ("cut-json.jsonl", GOOD + b'{"text": "A small tor\n' + GOOD[:-9], 1, 2, "not JSON"),
    ("no-text.jsonl", line(story=KITE) + b"{}\n" + line(Text=KITE) + GOOD, 1, 3, "no key 'text'"),
    ("null.jsonl", line(text=None) + GOOD, 1, 1, "not a text"),
    ("numbers.jsonl", b'{"text": 42}\n{"text": 3.5e10}\n{"text": true}\n' + GOOD, 1, 3, "not a text"),
    ("nan.jsonl", b'{"text": NaN}\n{"text": "x", "score": -Infinity}\n' + GOOD, 1, 2, "not JSON"),
    ("containers.jsonl", line(text=["a"]) + line(text={"text": KITE}) + GOOD, 1, 2, "not a text"),
    ("no-object.jsonl", b'"a"\n[1]\n17\nnull\n' + GOOD, 1, 4, "not a JSON object"),
    ("blank-text.jsonl", line(text="") + line(text=" \n\t") + line(text="\u200b") + GOOD, 1, 3, "blank"),
    ("blank-lines.jsonl", b"\n   \n" + GOOD + b"\n\t\n" + GOOD, 2, 0, ""),
    ("empty.jsonl", b"", 0, 0, ""),
    ("nul.jsonl", b'{"text": "A fox\0"}\n\0\0\0\n{"text": "A hen\\u0000"}\n' + GOOD, 1, 3, "NUL"),
    ("latin1.jsonl", b'{"text": "caf\xe9"}\n{"text": "\xff\xfe"}\n{"text": "\xc0\xaf"}\n' + GOOD, 1, 3, "not UTF-8"),
    ("surrogates.jsonl", b'{"text": "half \\ud83d"}\n{"text": "whole \\ud83d\\ude00"}\n', 1, 1, "surrogate"),
    ("bom.jsonl", b"\xef\xbb\xbf" + GOOD + GOOD, 2, 0, ""),
    ("late-bom.jsonl", GOOD + b"\xef\xbb\xbf" + GOOD, 1, 1, "not JSON"),
    ("utf16.jsonl", ('{"text": "A"}\n' * 2).encode("utf-16"), 0, 2, "UTF-16"),
    ("crlf.jsonl", GOOD.replace(b"\n", b"\r\n") * 2, 2, 0, ""),
    ("cr.jsonl", GOOD.replace(b"\n", b"\r") * 2, 0, 1, "old Mac"),
    ("separators.jsonl", '{"text": "one\u2028two\u2029three\u0085four"}\n'.encode(), 1, 0, ""),
    ("deep.jsonl", b'{"text": "x", "y": ' + b"[" * 20000 + b"]" * 20000 + b"}\n" + GOOD, 1, 1, "nested"),
    ("long-number.jsonl", b'{"text": "x", "n": ' + b"9" * 6000 + b"}\n" + GOOD, 1, 1, "number"),
    ("twice.jsonl", b'{"text": "first", "text": "second"}\n' + GOOD, 1, 1, "twice"),
    ("gzip.jsonl", b"\x1f\x8b\x08\0\0\n\n" + bytes(20), 0, 1, "gzip"),
    ("gzip.txt", b"\x1f\x8b\x08\0\0\n\n" + bytes(20), 0, 1, "gzip"),
    ("picture.png", b"\x89PNG\r\n\x1a\n\0\0", 0, 1, "PNG"),
    ("utf16.txt", "A story.".encode("utf-16"), 0, 1, "UTF-16"),
    ("notes.md", b"text\nA story\n", 0, 1, "not a .txt, .jsonl, .json, .csv or .parquet file"),
    ("questions-null.jsonl", line(text=KITE, questions=None) + line(text=KITE, questions="what?"), 0, 2, "not a list"),
    ("questions-empty.jsonl", line(text=KITE, questions=[{}]), 0, 1, "cannot be used"),
    (
        "questions-index.jsonl",
        line(text=KITE, questions=[{"question": "Who?", "answer": "b", "choices": ["a", "b"], "answer_index": -1}])
        + line(text=KITE, questions=[{"question": "Who?", "answer": "b", "choices": ["a", "b"], "answer_index": 1}]),
        1,
        1,
        "cannot be used",
    ),
    ("request.jsonl", line(text=KITE, request={"age": "five"}) + line(text=KITE, request={"age": 5}), 1, 1, "request"),
]


@pytest.mark.parametrize(("name", "content", "good", "bad", "reason"), MINIATURES, ids=[row[0] for row in MINIATURES])
def test_spoiled_files_are_counted(tmp_path, name, content, good, bad, reason):
    file = tmp_path / name
    file.write_bytes(content)
    reader = read_stories(file)
    stories = list(reader)
    assert (len(stories), reader.report.stories, reader.report.bad) == (good, good, bad)
    if bad:
        assert all(reason in found for found in reader.report.skipped)
        assert name in next(iter(reader.report.skipped.values())).first[0]
    for story in stories:
        assert "\ufffd" not in story.text
        assert "\r" not in story.text
    if not good:
        with pytest.raises(DataError, match=f"no stories in .*{re.escape(name)}") as error:
            reader.require_stories()
        assert "\n" not in str(error.value)


AWKWARD = [
    "The owl wrote <|endoftext|> on a leaf, then <|start|>assistant<|message|>, and nobody could read it.<|end|>",
    "</s> <pad> [INST] ### Response: said the robot.",
    "<script>alert('hen')</script> &amp; the goose ate ${7*7} {{7*7}} %s {0} `ls`; DROP TABLE eggs; --",
    "=1+1",
    '-2,"3"\n@4;\t+5',
    "../..\\..\\file|con:nul?",
    "היה היה ארנב. كان يا ما كان. 从前有一只猫。",
    "A bear 🐻, a family 👨\u200d👩\u200d👧 and a hand 👋🏽 went home.",
    "\u202eeht fo tuo\u202c and \u2067back\u2069, and z\u0335\u0321\u034e stacked.",
    "w" * 100_000,
    "The turtle walked on. " * 90_000 + "The end.",
]


def test_awkward_but_sound_stories_come_letter_for_letter(tmp_path):
    file = tmp_path / "awkward.jsonl"
    file.write_bytes(b"".join(line(text=text) for text in AWKWARD))
    reader = read_stories(file)
    assert [story.text for story in reader] == AWKWARD
    assert reader.report.bad == 0


def test_positions_name_file_and_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"oops\n" * 7)
    reader = read_stories(tmp_path)
    list(reader)
    skipped = reader.report.skipped["not JSON"]
    assert skipped.count == 7
    assert skipped.first == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "a.jsonl:5", "a.jsonl:6"]
    assert any("skipped 7: not JSON (a.jsonl:2, " in text for text in reader.report.describe())


def test_reading_again_counts_anew(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"oops\n")
    reader = read_stories(tmp_path)
    assert [len(list(reader)), len(list(reader))] == [1, 1]
    assert (reader.report.stories, reader.report.bad, reader.report.files) == (1, 1, 1)


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_line_over_the_limit_is_skipped_and_the_next_one_is_read(tmp_path, kind):
    file = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        file.write_bytes(line(text="x" * 5000) + GOOD)
    else:
        file.write_text("x" * 5000 + "\n<|endoftext|>\n" + KITE + "\n<|endoftext|>\n" + "y\n" * 600)
    reader = read_stories(file, max_line_bytes=1000)
    assert [story.text for story in reader] == [KITE]
    assert reader.report.bad == (1 if kind == "jsonl" else 2)
    assert all("longer than 1,000" in reason for reason in reader.report.skipped)


def test_text_exactly_at_the_limit_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    assert len(list(read_stories(tmp_path / "a.jsonl", max_line_bytes=len(GOOD)))) == 1
    (tmp_path / "b.txt").write_text(KITE)
    assert len(list(read_stories(tmp_path / "b.txt", max_line_bytes=len(KITE)))) == 1
    assert not list(read_stories(tmp_path / "b.txt", max_line_bytes=len(KITE) - 1))


TEXT_FILES = [
    ("One.\n\nOn.\n<|endoftext|>\nTwo.\n\n\n\nOn.\n<|endoftext|>\n", ["One.\n\nOn.", "Two.\n\nOn."], "by lines of"),
    ("One.\n\nOn.\n\n\nTwo.\n \n\t\n\n\nThree.\n", ["One.\n\nOn.", "Two.", "Three."], "two or more blank lines"),
    ("\n\n\nOne.\n\nStill one.\n\n\n\n", ["One.\n\nStill one."], "one story"),
    ("He wrote <|endoftext|> on it.\nIt stayed.", ["He wrote <|endoftext|> on it.\nIt stayed."], "one story"),
    ("One.\r\n<|endoftext|>\r\nTwo.\r\nEnd.\r\n", ["One.", "Two.\nEnd."], "separated by lines of"),
    ("One.\r\r\rTwo.\rEnd.\r", ["One.", "Two.\nEnd."], "two or more blank lines"),
    ("\ufeffOne.\n <|endoftext|> \n\n<|endoftext|>\nTwo.", ["One.", "Two."], "separated by lines of"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "stories", "layout"), TEXT_FILES)
def test_text_files_are_divided_and_the_report_says_how(tmp_path, content, stories, layout):
    (tmp_path / "tales.txt").write_bytes(content.encode())
    reader = read_stories(tmp_path / "tales.txt")
    assert [story.text for story in reader] == stories
    assert layout in next(iter(reader.report.layouts))
    assert not reader.report.bad
    assert any(layout in text for text in reader.report.describe())


def test_one_bad_story_of_a_text_file_does_not_spoil_the_others(tmp_path):
    content = b"One.\n<|endoftext|>\ncaf\xe9\n<|endoftext|>\nA\0B\n<|endoftext|>\n\xe2\x80\x8b\n<|endoftext|>\nTwo.\n"
    (tmp_path / "tales.txt").write_bytes(content)
    reader = read_stories(tmp_path / "tales.txt")
    assert [story.text for story in reader] == ["One.", "Two."]
    assert {reason: skipped.first for reason, skipped in reader.report.skipped.items()} == {
        "not UTF-8": ["tales.txt:3"],
        "NUL character": ["tales.txt:5"],
        "blank story": ["tales.txt:7"],
    }


def test_folders_are_read_in_the_order_of_names_through_their_folders(tmp_path):
    for name, text in {"b.jsonl": "b", "a/z.txt": "a z", "a/b/c.txt": "a b c", "c.TXT": "c"}.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(line(text=text) if name.endswith("l") else text.encode())
    (tmp_path / "notes.md").write_text("not a story")
    (tmp_path / ".hidden.txt").write_text("not a story")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "description.txt").write_text("not a story")
    reader = read_stories(tmp_path)
    assert [(story.text, story.source) for story in reader] == [
        ("a b c", "a/b/c.txt"), ("a z", "a/z.txt"), ("b", "b.jsonl"), ("c", "c.TXT"),
    ]  # fmt: skip
    assert reader.report.files == 4
    assert reader.report.ignored_files == 1


def test_missing_path_and_empty_folder_are_one_clear_line(tmp_path):
    with pytest.raises(DataError, match=r"does not exist; give a \.txt or \.jsonl file"):
        read_stories(tmp_path / "nowhere.jsonl")
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(DataError, match=r"no \.txt, .* or \.parquet files in the folder .*\(1 other file\)"):
        read_stories(tmp_path)


def test_what_was_skipped_is_in_the_error_about_no_stories(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": null}\n{oops}\n{oops}\n')
    reader = read_stories(tmp_path / "a.jsonl")
    list(reader)
    with pytest.raises(DataError, match=r"1 'text' is not a text \(a.jsonl:1\); 2 not JSON \(a.jsonl:2\)"):
        reader.require_stories()


def test_all_known_fields_are_read(tmp_path):
    questions = [{"question": "Who?", "answer": "Mina", "attribute": "character", "sections": [1]}]
    row = line(
        text=KITE, title="The Kite", summary="A kite.", source="us", license="CC0-1.0", questions=questions, age=4,
        hero={"name": "Mina", "kind": "girl"}, companions=["her brother"], setting="a hill", theme="wind", lesson=None,
        words=["take"], features=["dialogue"], id="7",
    )  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(row)
    (story,) = read_stories(tmp_path)
    assert (story.title, story.summary, story.source, story.license) == ("The Kite", "A kite.", "us", "CC0-1.0")
    assert [(question.question, question.answer) for question in story.questions] == [("Who?", "Mina")]
    assert story.request.to_dict() == {
        "age": 4, "hero_name": "Mina", "hero_kind": "girl", "companions": ["her brother"], "setting": "a hill",
        "theme": "wind", "words": ["take"], "features": ["dialogue"], "length": length_of(KITE),
    }  # fmt: skip


def test_fields_of_another_shape_are_ignored_and_counted(tmp_path):
    row = line(text=KITE, title=["x"], age="five", hero="Mina", words="take, go", features=[1], setting="a hill")
    (tmp_path / "a.jsonl").write_bytes(row * 2)
    reader = read_stories(tmp_path)
    story, _ = reader
    assert story.title is None
    assert story.request.to_dict() == {"setting": "a hill", "length": "short"}
    assert reader.report.ignored_fields == {"title": 2, "age": 2, "hero": 2, "words": 2, "features": 2}
    assert not reader.report.bad


def test_a_story_without_fields_has_no_request(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(line(text=KITE, source="x", lesson=None, words=[]))
    (story,) = read_stories(tmp_path)
    assert story.request is None


def test_cleaning_keeps_what_makes_a_story():
    text = "“Let’s meet at 3:30,” it said — café…\n\n  'Why?'\tasked   Zoë. 🐻"
    assert clean_text(text) == text
    assert clean_text("\ufb01n") == "\ufb01n"  # compatibility characters stay
    assert clean_text("  a\r\nb\rc\n ") == "a\nb\nc"
    assert clean_text("cafe\u0301") == "caf\u00e9"


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text):
    assert clean_text(clean_text(text)) == clean_text(text)


@given(st.text(alphabet=" \n\u200b\ufeff\x07\u2028a", max_size=6))
def test_blank_means_nothing_to_read(text):
    assert is_blank(text) == ("a" not in text)


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=300) | st.text(max_size=200).map(str.encode),
    kind=st.sampled_from(["txt", "jsonl"]),
    limit=st.integers(1, 400),
)
def test_arbitrary_bytes_never_crash_the_reader(tmp_path_factory, content, kind, limit):
    file = tmp_path_factory.mktemp("bytes") / f"a.{kind}"
    file.write_bytes(content)
    for story in read_stories(file, max_line_bytes=limit):
        story.text.encode("utf-8")
        assert story.text == clean_text(story.text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "title",
    "summary",
    "source",
    "license",
    "questions",
    "request",
    "age",
    "hero",
    "companions",
    "words",
    "features",
]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON_VALUES, max_size=5))
def test_arbitrary_fields_are_used_skipped_or_ignored(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("json") / "a.jsonl"
    file.write_bytes(json.dumps({"text": KITE, **values}).encode() + b"\n" + GOOD)
    reader = read_stories(file)
    stories = list(reader)
    assert len(stories) + reader.report.bad == 2
    assert stories[-1].text == KITE


def test_memory_stays_small_on_a_line_without_end(tmp_path):
    import tracemalloc

    file = tmp_path / "a.jsonl"
    with open(file, "wb") as out:
        for _ in range(40):
            out.write(b"x" * 2**20)
    tracemalloc.start()
    reader = read_stories(file, max_line_bytes=2**20)
    assert not list(reader)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.report.bad == 1
    assert peak < 8 * 2**20
