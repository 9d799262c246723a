"""The data report: every number is on it, nothing in a story can act, the same facts give the same bytes."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gpt_oss_stories.data.report import (
    ALIKE_WORDS_SHOWN,
    COMPARED_WORDS,
    ReportError,
    _completed,
    _public,
    _share,
    _short_number,
    _visible,
    console_table,
    differing_words,
    draw_figure,
    inconsistencies,
    render_card,
    render_html,
    write_report,
)

VOID = {"meta", "br", "rect", "path", "polygon", "polyline"}
"""Elements of the page without an end tag; those of SVG are written as <rect/> or closed."""

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</p></details></main><h1>gone</h1>",
    "{{ 7 * 7 }}{% for x in y %}",
    "=SUM(A1:A9)+cmd|' /C calc'!A0",
    "```\n# A heading\n<b>bold</b>\n````",
    "---\nlicense: mit\n---",
    "one | two | three\n| a | b |",
    "[click](javascript:alert(1)) ![x](http://example.com/x.png)",
    "red \x1b[31m bell \x07 nul \x00\x00\x00 end",
    "\u202eevil\u202c \u2066isolate\u2069 zero\u200bwidth \ufeff soft\u00adhyphen",
    "half \ud800 pair, none \uffff, own \ue000, lines \u2028 \u2029 \x85",
    "שלום \u0645\u0631\u062d\u0628\u0627 👨\u200d👩\u200d👧 z\u0351\u0351\u0351\u0351 日本語",
    "$\\nonsense{$ _hidden_ \\begin{x}",
    "",
    "   \n\n\t",
]


def source(name: str, **given: Any) -> dict[str, Any]:
    return {
        "spec": f"{name}.jsonl", "name": name, "weight": 1.0, "files": 1, "read": 0, "skipped": {}, "layouts": {},
        "ignored_fields": {}, "left_out": {}, "kept": 0, "told": 0, "train_tokens": 0, "words": 0, "licenses": {},
        "repaired": 0,
    } | given  # fmt: skip


def example_facts() -> dict[str, Any]:
    """A mixture of four sources whose numbers all differ, so that each can be looked for."""
    return {
        "format": 1, "name": "evening-mixture", "fingerprint": "3f9a1c2b4d5e6f70", "rejected_file": "rejected.jsonl.gz",
        "program": {"name": "gpt-oss-stories", "version": "0.5.77"},
        "settings": {"dataset_path": "/home/anna/stories/a.jsonl", "vocabulary": "story", "min_token_count": None,
                     "validation_fraction": 0.0213, "max_story_characters": 1000003, "language": "en", "safety": True},
        "command": "stories prepare --dataset-path '/home/anna/my stories/a.jsonl' --vocabulary story",
        "sources": [
            source("TinyStories", files=3, read=12_890, kept=12_811, told=12_544, train_tokens=3_583_211,
                   words=2_452_110, licenses={"unknown": 12_811}, repaired=213,
                   left_out={"repeats itself": 18, "near copy": 61},
                   skipped={"not JSON": {"count": 23, "first": ["a.jsonl:17", "a.jsonl:91"]},
                            "text is null": {"count": 4, "first": ["a.jsonl:31"]}}),
            source("fables", weight=0.57, read=3_501, kept=3_490, told=1_741, train_tokens=572_113, words=413_001,
                   licenses={"CC-BY-4.0": 3_490}, left_out={"near copy": 11}, repaired=31, layouts={"blank lines": 29}),
            source("African Storybook", weight=2.25, read=1_294, kept=1_289, told=2_566, train_tokens=1_241_007,
                   words=907_031, licenses={"CC-BY-4.0": 1_201, "CC-BY-3.0": 88}, ignored_fields={"age": 37},
                   left_out={"not English (looks like af)": 5}),
            source("FairytaleQA", read=932, kept=909, told=889, train_tokens=1_690_121, words=1_480_019,
                   licenses={"Apache-2.0": 909}, left_out={"unsafe: graphic violence": 23}),
        ],
        "left_out": {
            "repeats itself": {"count": 18, "examples": [{"place": "a.jsonl:5", "text": "And then and then."}]},
            "near copy": {"count": 72, "examples": [{"place": "a.jsonl:6", "text": "The fox ran off."}]},
            "not English (looks like af)": {"count": 5, "examples": []},
            "unsafe: graphic violence": {"count": 23, "examples": [{"place": "f.jsonl:8", "text": "The giant."}]},
        },
        "copies": {"exact": 26, "near": 46, "pairs": [
            {"kept": "The red fox ran home.", "dropped": "The red cat ran home.", "kept_place": "a:1",
             "dropped_place": "b:2"}]},
        "splits": {
            "train": {"stories": 17_740, "tokens": 7_086_452, "trained_tokens": 6_901_221, "text_bytes": 26_120_033,
                      "trained_bytes": 26_000_211},
            "validation": {"stories": 376, "tokens": 133_021, "trained_tokens": 131_991, "text_bytes": 529_003,
                           "trained_bytes": 527_009},
        },
        "stories": {"distinct": 18_499, "renderings": 18_116, "on_request": 4_702, "with_questions": 1_204},
        "lengths": {"unit": "tokens", "edges": [0, 64, 128, 256, 512, None], "counts": [107, 4_111, 9_222, 4_333, 726]},
        "levels": {"unit": "Flesch-Kincaid grade", "edges": [-1.5, 0, 1.5, 3, 4.5],
                   "counts": [603, 8_804, 7_905, 1_187]},
        "level_bands": {"ages 3 to 5": 6_711, "ages 6 to 8": 9_781, "older": 2_007},
        "vocabulary": {"kind": "story", "size": 14_337, "tokens_in_text": 14_011,
                       "growth": [{"stories": 19, "distinct_tokens": 891}, {"stories": 2_003, "distinct_tokens": 9_907},
                                  {"stories": 18_499, "distinct_tokens": 13_999}],
                       "most_common_share": [{"tokens": 103, "share": 0.571}, {"tokens": 1_009, "share": 0.863}]},
        "samples": [
            {"source": "TinyStories", "place": "a.jsonl:33", "split": "train", "text": "Once a fox met a hen.",
             "words": 187, "grade": 2.37, "request": "Tell me about a fox.", "questions": 0},
            {"source": "FairytaleQA", "place": "f.jsonl:4", "split": "validation", "text": "A king had three sons.",
             "words": 5_261, "grade": None, "request": None, "questions": 13},
        ],
    }  # fmt: skip


def empty_facts() -> dict[str, Any]:
    return {
        "format": 1, "name": "", "fingerprint": "", "program": {"name": "gpt-oss-stories", "version": "1"},
        "settings": {}, "command": "", "sources": [], "left_out": {}, "copies": {"exact": 0, "near": 0, "pairs": []},
        "splits": {"train": {}, "validation": {}}, "stories": {}, "lengths": None, "levels": None, "level_bands": {},
        "vocabulary": None, "samples": [], "rejected_file": None,
    }  # fmt: skip


class Page(HTMLParser):
    """Checks that every element is closed in order, and gathers texts, elements and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in VOID - {"rect"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> where another element is open"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def shown(facts: dict[str, Any], width: int = 80) -> list[str]:
    """Lines that the console prints in a pipe."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(console_table(facts))
    return out.getvalue().splitlines()


def numbers_in(value: Any, path: str = "") -> list[tuple[str, int | float]]:
    """Every number of the facts with its place."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in numbers_in(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [pair for key, item in enumerate(value) for pair in numbers_in(item, f"{path}[{key}]")]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [(path, value)]
    return []


def has_number(text: str, number: str) -> bool:
    return re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d]|[.,]\d)", text) is not None


def test_every_number_of_the_facts_is_on_the_page():
    facts = example_facts()
    text = " ".join(Page(render_html(facts)).texts)
    looked_for = numbers_in({key: value for key, value in facts.items() if key != "format"})
    assert len(looked_for) > 100
    for path, value in looked_for:
        if path.endswith(".share"):
            expected = f"{100 * value:.1f}%"
        elif path.startswith(".settings"):
            expected = str(value)
        else:
            expected = f"{value:,}" if not isinstance(value, float) or value % 1 else f"{value:,.0f}"
        assert has_number(text, expected), f"{path} = {expected} is missing"


def test_the_card_has_the_counts_of_sources_steps_splits_and_licences():
    facts = example_facts()
    card = render_card(facts)
    for part in ("sources", "left_out", "splits", "stories", "level_bands"):
        for path, value in numbers_in(facts[part], part):
            if "skipped" in path or "ignored" in path or "layouts" in path or "repaired" in path:
                continue
            if re.search(r"sources\[\d\]\.left_out", path):
                continue
            expected = f"{value:,}" if isinstance(value, int) else f"{value:g}"
            assert has_number(card, expected), f"{path} = {expected} is missing"


def test_the_funnel_gives_found_read_and_kept():
    card = render_card(example_facts())
    assert "| **found** | 18,644 | 100% |" in card
    assert "| could not be read | 27 | 0.1% |" in card
    assert "| **read** | 18,617 | 99.9% |" in card
    assert "| left out: `near copy` | 72 | 0.4% |" in card
    assert "| **kept** | 18,499 | 99.2% |" in card


def test_the_page_needs_nothing_from_outside_and_runs_nothing():
    page = Page(render_html(example_facts()))
    assert not {"script", "img", "iframe", "link", "object", "embed", "form", "base", "a"} & set(page.elements)
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not {"src", "href", "srcdoc"} & names
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'") in set(
        page.attributes
    )
    assert "prefers-color-scheme: dark" in page.text
    assert ("name", "viewport") in page.attributes


def filled_with(text: str) -> dict[str, Any]:
    """Facts in which every text that comes from outside is this one."""
    facts = example_facts()

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(item) for key, item in value.items()}
        if isinstance(value, list):
            return [put(item) for item in value]
        return text if isinstance(value, str) else value

    for key in (
        "name",
        "fingerprint",
        "program",
        "settings",
        "command",
        "copies",
        "samples",
        "rejected_file",
        "sources",
    ):
        facts[key] = put(facts[key])
    for entry in facts["sources"]:
        entry |= {"left_out": {text: 18}, "licenses": {text: 7}, "layouts": {text: 3}, "ignored_fields": {text: 2},
                  "skipped": {text: {"count": 5, "first": [text]}}, "attributions": {text: 3}}  # fmt: skip
    facts["left_out"] = {text: {"count": 18, "examples": [{"place": text, "text": text}]}}
    facts["level_bands"] = {text: 4}
    facts["settings"] = {text: text}
    facts["vocabulary"]["kind"] = facts["lengths"]["unit"] = facts["levels"]["unit"] = text
    return facts


def skeleton(page: str) -> list[str]:
    """The elements in order, without the marks of unseen characters and without those that depend on a text's words."""
    return [element for element in Page(page).elements if element not in ("span", "mark", "br", "small")]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_changes_the_page(text: str):
    page = render_html(filled_with(text))
    page.encode("utf-8")
    harmless = render_html(filled_with("Once upon a time." if text.strip() else text))
    assert skeleton(page) == skeleton(harmless)
    if text.strip():
        assert _visible(text) in re.sub(r"\[?(U\+[0-9A-F]{4,6}(?: ×\d+)?)\]?", r"[\1]", Page(page).text)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_changes_the_card(text: str):
    from markdown_it import MarkdownIt

    card = render_card(filled_with(text))
    metadata, body = read_card(card)
    assert metadata["license"] in (["other"], ["unknown"])
    assert metadata["task_categories"] == ["text-generation"]
    rendered = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))
    assert set(rendered.elements) <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "ul",
                                      "li", "strong"}  # fmt: skip
    headings = re.findall(r"^## .*", render_card(example_facts()), re.MULTILINE)
    assert rendered.elements.count("h1") == 1
    assert rendered.elements.count("h2") == len(headings)
    tables = re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE)
    assert len(tables) >= 6
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_disturbs_the_console(text: str):
    for line in shown(filled_with(text)):
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\u200c\u200d" for c in line)


def test_no_text_disturbs_the_picture(tmp_path: Path):
    facts = example_facts()
    facts["name"] = " ".join(HOSTILE)
    facts["sources"] = [source(text, read=9, kept=8, told=7, train_tokens=6, left_out={text: 1}) for text in HOSTILE]
    facts["left_out"] = {text: {"count": 1, "examples": []} for text in HOSTILE[::-1]}
    for key in ("lengths", "levels"):
        facts[key]["unit"] = HOSTILE[10]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_figure(facts, tmp_path / "x.png")
        facts["sources"] = facts["sources"][-6:]
        facts["left_out"] = {text: {"count": 1, "examples": []} for text in HOSTILE[-8:]}
        draw_figure(facts, tmp_path / "y.png")
    assert (tmp_path / "y.png").read_bytes().startswith(b"\x89PNG")


@settings(max_examples=25, deadline=None)
@given(text=st.text(st.characters(), max_size=60))
def test_any_text_is_shown_and_inert(text: str):
    facts = example_facts()
    facts["samples"][0] |= {"text": text, "request": text, "source": text}
    page, card = render_html(facts), render_card(facts)
    for result in (page, card):
        result.encode("utf-8")
        assert not [c for c in result if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
                    and c not in "\n\t\u200c\u200d"]  # fmt: skip
    with_plain = copy.deepcopy(facts)
    with_plain["samples"][0] |= dict.fromkeys(("text", "request", "source"), "fox" if text else "")
    assert skeleton(page) == skeleton(render_html(with_plain))


@given(text=st.text(st.characters()))
def test_visible_texts_say_what_was_there(text: str):
    seen = _visible(text)
    back = re.sub(r"\[U\+([0-9A-F]{4,6})(?: ×([\d,]+))?\]",
                  lambda found: chr(int(found[1], 16)) * int((found[2] or "1").replace(",", "")), seen)  # fmt: skip
    if "[U+" not in text:
        assert back == text
    assert _visible(seen) == seen


def test_a_browser_would_read_the_same_page_as_lxml():
    from lxml import html

    page = render_html(example_facts())
    document = html.document_fromstring(page)
    assert document.xpath("string(//h1)") == "evening-mixture"
    assert len(document.xpath("//section")) == page.count("<section")
    assert [mark.text for mark in document.xpath("//mark")] == ["fox", "cat"]


def read_card(card: str) -> tuple[dict[str, Any], str]:
    begin, metadata, body = card.split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(metadata), body


def test_the_card_begins_with_metadata_that_the_hub_reads():
    metadata, _ = read_card(render_card(example_facts()))
    assert metadata == {
        "pretty_name": "evening-mixture", "language": ["en"],
        "license": ["apache-2.0", "cc-by-3.0", "cc-by-4.0", "unknown"], "size_categories": ["10K<n<100K"],
        "task_categories": ["text-generation"], "tags": ["children", "stories"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stories", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (2_500_000, "1M<n<10M"), (10**12, "n>1T")],
)
def test_size_categories(stories: int, category: str):
    facts = example_facts()
    facts["stories"]["distinct"] = stories
    assert read_card(render_card(facts))[0]["size_categories"] == [category]


def test_a_licence_the_hub_does_not_know_is_other_and_stands_in_the_table():
    facts = example_facts()
    facts["sources"][0]["licenses"] = {"Village-Licence-2": 5}
    card = render_card(facts)
    assert "other" in read_card(card)[0]["license"]
    assert "`Village-Licence-2`" in card


def test_no_language_is_claimed_that_no_setting_says():
    facts = example_facts()
    del facts["settings"]["language"]
    card = render_card(facts)
    assert "language" not in read_card(card)[0]
    assert "The settings name no language" in card


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/home/anna/my stories/a.jsonl?weight=2", "a.jsonl?weight=2"),
        ("~/books/*.txt", "*.txt"),
        ("C:\\Users\\anna\\b.txt", "b.txt"),
        ("data/part/a.jsonl", "data/part/a.jsonl"),
        ("../shared/a.jsonl", "../shared/a.jsonl"),
        ("roneneldan/TinyStories?split=train", "roneneldan/TinyStories?split=train"),
        ("https://example.org/a/b.jsonl", "https://example.org/a/b.jsonl"),
    ],
)
def test_the_card_tells_nothing_of_the_owners_folders(given: str, expected: str):
    facts = example_facts()
    facts["sources"][0]["spec"] = facts["settings"]["dataset_path"] = given
    public = _public(_completed(facts))
    assert public["sources"][0]["spec"] == public["settings"]["dataset_path"] == expected
    card = render_card(facts)
    assert "anna" not in card
    assert "--dataset-path a.jsonl" in card
    assert "anna" in render_html(facts)


def test_files_are_the_same_for_the_same_facts(tmp_path: Path):
    one = write_report(tmp_path / "one", example_facts())
    other = write_report(tmp_path / "other", json.loads(json.dumps(example_facts())))
    assert [path.name for path in one] == ["report.html", "report.png", "DATA_CARD.md"]
    for left, right in zip(one, other, strict=True):
        assert left.read_bytes() == right.read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(path.name for path in one)


def test_files_are_the_same_in_another_process_with_other_hashes_and_settings_of_matplotlib(tmp_path: Path):
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: black\nfont.size: 30\ntext.usetex: False\n")
    (tmp_path / "facts.json").write_text(json.dumps(example_facts()))
    code = (
        "import json, sys; from gpt_oss_stories.data.report import write_report; "
        "write_report(sys.argv[2], json.load(open(sys.argv[1])))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "facts.json"), str(tmp_path / "far")],
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
                          "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    for path in write_report(tmp_path / "near", example_facts()):
        assert path.read_bytes() == (tmp_path / "far" / path.name).read_bytes(), path.name


def test_facts_are_not_changed():
    facts = example_facts()
    for render in (render_html, render_card, inconsistencies, console_table):
        render(facts)
    assert facts == example_facts()


def extremes() -> dict[str, dict[str, Any]]:
    nothing = empty_facts()
    minimal = {"format": 1}
    one_story = empty_facts()
    one_story |= {
        "name": "one", "sources": [source("a.txt", read=1, kept=1, told=1, train_tokens=9, licenses={"unknown": 1})],
        "stories": {"distinct": 1, "renderings": 1, "on_request": 0, "with_questions": 0},
        "splits": {"train": {"stories": 1, "tokens": 9, "trained_tokens": 9, "text_bytes": 30, "trained_bytes": 30},
                   "validation": {}},
        "lengths": {"unit": "tokens", "edges": [9, 9], "counts": [1]},
        "vocabulary": {"kind": "story", "size": 9, "tokens_in_text": 9,
                       "growth": [{"stories": 1, "distinct_tokens": 9}],
                       "most_common_share": [{"tokens": 9, "share": 1.0}]},
        "samples": [{"source": "a.txt", "place": "", "split": "train", "text": "A", "words": 1, "grade": None,
                     "request": None, "questions": 0}],
    }  # fmt: skip
    nothing_left_out = example_facts()
    nothing_left_out |= {"left_out": {}, "rejected_file": None, "copies": {"exact": 0, "near": 0, "pairs": []}}
    for left in nothing_left_out["sources"]:
        left |= {"left_out": {}, "skipped": {}, "read": left["kept"]}
    many = example_facts()
    many["sources"] = [
        source(f"source number {number}", read=number, kept=number, told=2 * number, train_tokens=number * number,
               skipped={f"fault {number}": {"count": 1, "first": ["x:1"]}}) for number in range(100)
    ]  # fmt: skip
    many["left_out"] = {f"reason {number}": {"count": number + 1, "examples": []} for number in range(100)}
    long_names = example_facts()
    for named in long_names["sources"]:
        named["name"] = named["name"] * 30 + "n" * 300
    long_names |= {"name": "w" * 300, "fingerprint": "f" * 300, "command": "c" * 3000}
    long_names["left_out"] = {"r" * 300: {"count": 3, "examples": [{"place": "p" * 300, "text": "t" * 100_000}]}}
    everything_lost = example_facts()
    for lost in everything_lost["sources"]:
        lost |= {"kept": 0, "told": 0, "train_tokens": 0, "words": 0, "licenses": {}}
    everything_lost |= {"splits": {}, "lengths": {"unit": "tokens", "edges": [0, 1], "counts": [0]}}
    huge = example_facts()
    huge["sources"][0] |= {"read": 10**13, "kept": 10**13, "told": 10**13, "train_tokens": 2 * 10**15}
    huge["splits"]["train"] |= {"tokens": 2 * 10**15, "stories": 10**13}
    huge["lengths"]["counts"] = [10**13, 0, 1, 0, 0]
    no_levels = example_facts()
    no_levels |= {"level_bands": {}, "levels": {"unit": "", "edges": [], "counts": []}}
    no_validation = example_facts()
    no_validation["splits"]["validation"] = dict.fromkeys(no_validation["splits"]["validation"], 0)
    return {
        "nothing": nothing, "minimal": minimal, "one story": one_story, "nothing left out": nothing_left_out,
        "many": many, "long names": long_names, "everything lost": everything_lost, "huge": huge,
        "no levels": no_levels, "no validation": no_validation,
    }  # fmt: skip


@pytest.mark.parametrize("name", extremes())
def test_extremes_are_shown_too(name: str, tmp_path: Path):
    facts = extremes()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page, _, card = write_report(tmp_path, facts)
    Page(page.read_text())
    assert read_card(card.read_text())[0]["license"]
    for width in (80, 60):
        lines = shown(facts, width)
        assert 3 <= len(lines) <= 40
        assert max(map(len, lines)) <= width
    assert len(render_html(facts)) < 400_000, "long texts are cut"


def test_a_hundred_sources_all_have_their_row():
    page = Page(render_html(extremes()["many"]))
    assert all(f"source number {number}" in page.text for number in range(100))
    assert "93 more sources" in page.text
    assert "reason 99" in page.text


def test_the_console_names_sources_reasons_and_splits_in_a_pipe():
    lines = shown(example_facts())
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert lines[0].startswith("Prepared: evening-mixture")
    [row] = [line.split() for line in lines if line.startswith("fables")]
    assert row[1:] == ["0.57", "3,501", "0", "11", "3,490", "1,741", "572k", "8.1%"]
    assert re.search(r"near copy +72 +0\.4%", text)
    assert re.search(r"not read: not JSON +23 +0\.1%", text)
    assert "17,740 stories told, 7,086,452 tokens" in text
    assert "376 stories told, 133,021 tokens" in text


def test_counts_that_add_up_are_said_to():
    facts = example_facts()
    assert inconsistencies(facts) == []
    assert "The counts add up" in render_html(facts)
    assert "attention" not in "\n".join(shown(facts))


def test_a_lost_story_is_noticed():
    facts = example_facts()
    facts["sources"][1]["kept"] -= 1
    [problem] = inconsistencies(facts)
    assert problem == "fables: 3,501 stories were read, but 3,489 kept and 11 left out make 3,500"
    page = Page(render_html(facts)).text
    assert "The counts do not add up" in page
    assert problem in page
    assert "not accounted for" in page
    assert "attention: fables: 3,501 stories were read" in "\n".join(shown(facts))
    assert "fables: 3,501 stories were read, but 3,489 kept" in render_card(facts)


def test_a_reason_counted_otherwise_than_by_the_sources_is_noticed():
    facts = example_facts()
    facts["left_out"]["near copy"]["count"] = 71
    assert inconsistencies(facts) == [
        "near copy: 71 stories were left out in all, but 72 by the sources' own counts"
    ]  # fmt: skip


def test_copies_counted_apart_from_the_reasons_are_part_of_the_funnel():
    facts = example_facts()
    del facts["left_out"]["near copy"]
    for entry in facts["sources"]:
        entry["left_out"].pop("near copy", None)
    assert inconsistencies(facts) == []
    card = render_card(facts)
    assert "| left out: `exact copies` | 26 | 0.1% |" in card
    assert "| left out: `near copies` | 46 | 0.2% |" in card


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"format": 2}, "format 2, this program reads format 1"),
        ({"sources": "many"}, "sources is str, expected a list"),
        ({"splits": [1]}, "splits is list, expected an object"),
        ({"lengths": {"unit": "tokens", "edges": [0, 1], "counts": [1, 2]}}, "lengths has 2 edges for 2 counts"),
    ],
)
def test_damaged_facts_give_one_clear_line_and_no_file(damage: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(ReportError, match=re.escape(message)) as raised:
        write_report(tmp_path / "folder", example_facts() | damage)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "folder").exists()


def words_of(stretches: list[tuple[str, str]], kinds: tuple[str, ...] = ("alike", "own")) -> list[str]:
    return [word for kind, text in stretches if kind in kinds for word in text.split(" ")]


@given(one=st.lists(st.sampled_from(["fox", "hen", "ran", "home"]), max_size=20),
       other=st.lists(st.sampled_from(["fox", "hen", "ran", "away"]), max_size=20))  # fmt: skip
def test_compared_texts_are_whole_and_agree_where_they_say_so(one: list[str], other: list[str]):
    left, right = differing_words(" ".join(one), "\n".join(other))
    assert words_of(left) == one
    assert words_of(right) == other
    assert words_of(left, ("alike",)) == words_of(right, ("alike",))


def test_differing_words_are_marked():
    left, right = differing_words("The red fox ran home.", "The blue fox ran  home. End.")
    assert left == [("alike", "The"), ("own", "red"), ("alike", "fox ran home.")]
    assert right == [("alike", "The"), ("own", "blue"), ("alike", "fox ran home."), ("own", "End.")]


def test_long_texts_are_shortened_where_they_agree_and_cut_where_they_are_too_long():
    words = [f"w{number}" for number in range(COMPARED_WORDS + 7)]
    changed = [*words[:300], "other", *words[301:]]
    left, right = differing_words(" ".join(words), " ".join(changed))
    assert ("own", "w300") in left
    assert ("own", "other") in right
    assert [text for kind, text in left if kind == "gap"] == [
        f"{300 - ALIKE_WORDS_SHOWN} words alike", f"{COMPARED_WORDS - 301 - ALIKE_WORDS_SHOWN} words alike",
        "7 words more, not compared"]  # fmt: skip
    assert len(words_of(left)) < 3 * ALIKE_WORDS_SHOWN


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(0, 7, "0%"), (7, 7, "100%"), (1, 2, "50%"), (1, 10**6, "<0.1%"), (10**6 - 1, 10**6, ">99.9%"), (1, 3, "33.3%"),
     (3, 0, "–"), (999, 1000, "99.9%"), (9_996, 10_000, ">99.9%")],
)  # fmt: skip
def test_shares_are_all_or_nothing_only_where_they_are(part: int, whole: int, expected: str):
    assert _share(part, whole) == expected


@given(st.integers(0, 10**16))
def test_short_numbers_are_short_and_near(number: int):
    short = _short_number(number)
    scale = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    value = float(short.rstrip("kMGT").replace(",", "")) * scale.get(short[-1], 1)
    assert abs(value - number) <= 0.006 * number
    assert len(short) <= 7


def test_importing_the_module_loads_nothing_that_takes_long():
    code = (
        "import sys, gpt_oss_stories.data.report; "
        "print(sorted({'jinja2', 'matplotlib', 'rich', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    if "torch" not in run.stdout:  # the package itself may load it
        assert run.stdout.strip() == "[]"
