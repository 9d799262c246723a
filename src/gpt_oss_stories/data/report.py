"""What preparing stories did, for people: a table for the console, a page, a picture and a data card.

All four are made from one JSON-able dictionary, the *facts* (format 1), and from nothing else: no clock, no file, no
setting of the machine. The same facts give the same bytes.

Stories come from anybody. On the page everything is escaped, scripts are forbidden by a content security policy, and
characters that cannot be seen (control characters, changes of direction, halves of pairs) are shown by their number,
so that a text can neither run nor hide anything. In the card, texts stand in code spans and code blocks, in which
Markdown and HTML mean nothing, and absolute paths lose their folders, because a card is meant to be published.

A count that is not known is "not known", never 0; counts that do not add up are said so (`inconsistencies`).
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoryError
from ..files import atomic_write, write_text_atomically

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from rich.console import RenderableType
    from rich.table import Table

FACTS_FORMAT = 1
PAGE_NAME, PICTURE_NAME, CARD_NAME = "report.html", "report.png", "DATA_CARD.md"

NOT_KNOWN = "not known"

SAMPLE_CHARACTERS = 6_000
EXAMPLE_CHARACTERS = 1_200
CARD_CHARACTERS = 1_500
"""Longer texts are cut where they are shown, and it is said by how much."""

PAIRS_SHOWN = 20
PROBLEMS_SHOWN = 20
COMPARED_WORDS = 600
"""Words of each text of a pair of copies that are compared; the comparison is quadratic in the worst case."""
ALIKE_WORDS_SHOWN = 30
"""A longer stretch of words that two texts share is shortened to its ends."""

_COLOURS = ("#2f6fb0", "#d9622b", "#3a9a73", "#8a63b5", "#b98a1d", "#c04a7d", "#2f99a3", "#7d8792")
"""Of the sources in order; the last one is for all that have no colour of their own."""
_INK, _MUTED, _GRID = "#22303c", "#6b7a88", "#e4e9ee"

_JOINERS = "\u200c\u200d"
"""Invisible, but part of how some scripts and pictures are spelled."""
_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
"""Control and format characters, those for private use, halves of pairs, separators of lines and paragraphs."""

_HUB_LICENSES = frozenset({
    "afl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "c-uda", "cc",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
    "ecl-2.0", "etalab-2.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "mit",
    "mpl-2.0", "odbl", "odc-by", "openrail", "pddl", "unknown", "unlicense", "wtfpl", "zlib",
})  # fmt: skip
"""Identifiers that the Hub knows for licences (https://huggingface.co/docs/hub/repositories-licenses), as far as they
are used for texts; any other licence is "other" in the metadata and has its own name in the card's table."""

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"),
          (10**12, "100B<n<1T"))  # fmt: skip

_KNOWN_WORKS = (
    ("tinystories", "R. Eldan, Y. Li: TinyStories: How Small Can Language Models Be and Still Speak Coherent English? "
                    "2023, arXiv 2305.07759"),
    ("fairytaleqa", "Y. Xu et al.: Fantastic Questions and Where to Find Them: FairytaleQA, an Authentic Dataset for "
                    "Narrative Comprehension. ACL 2022, arXiv 2203.13947"),
    ("africanstorybook", "African Storybook, www.africanstorybook.org; every story names its author, illustrator and "
                         "translator, and its Creative Commons licence asks to keep these names"),
    ("tf1", "M. Nadas et al.: TF1-EN-3M: Three Million Synthetic Moral Fables for Training Small, Open Language "
            "Models. 2025, arXiv 2504.20605"),
)  # fmt: skip
"""What to cite for sources that are recognised by their name, letters only."""

_ABSOLUTE = re.compile(r"(?<![\w./\\-])(?:~?/(?!/)|[A-Za-z]:\\)(?:[^,;:\"'/\\\n]+[/\\])*")
"""The folders of an absolute path. A URL's host is none: two slashes stand before it."""


class ReportError(StoryError):
    """The facts of a preparation cannot be read: they are of another format or damaged."""


# The four forms


def console_table(facts: Mapping[str, Any]) -> RenderableType:
    """A summary of at most 40 lines for a terminal or a pipe; print it with a rich console.

    Raises:
        ReportError: the facts are of another format or damaged.
    """
    from rich.console import Group
    from rich.text import Text

    facts = _completed(facts)
    train, validation, stories = facts["splits"]["train"], facts["splits"]["validation"], facts["stories"]
    heading = Text(no_wrap=True, overflow="ellipsis")
    heading.append(f"Prepared: {_one_line(facts['name'] or 'stories', 48)}", "bold")
    heading.append(f"  {_one_line(facts['fingerprint'], 12)}", "dim")
    parts: list[RenderableType] = [heading, Text(), _console_sources(facts)]
    reasons = _console_reasons(facts)
    if reasons is not None:
        parts += [Text(), reasons]
    parts.append(Text())
    for split, counts in (("training", train), ("validation", validation)):
        told = f"{_number(counts['stories'])} stories told, {_number(counts['tokens'])} tokens"
        trained = (
            f", {_share(counts['trained_tokens'], counts['tokens'])} of them trained on" if counts["tokens"] else ""
        )
        parts.append(Text(f"{split:11}{told}{trained}"))
    known = [f"{_number(stories['distinct'])} different"]
    known += [f"{_number(stories[key])} {what}" for key, what in (("on_request", "told on request"),
                                                                    ("with_questions", "with questions"))]  # fmt: skip
    parts.append(Text(f"{'stories':11}{', '.join(known)}"))
    words = facts["vocabulary"]
    if words["size"] is not None:
        used = (
            f", {_number(words['tokens_in_text'])} of them in the text" if words["tokens_in_text"] is not None else ""
        )
        parts.append(Text(f"{'vocabulary':11}{_one_line(words['kind'], 20)}, {_number(words['size'])} tokens{used}"))
    parts += [Text(f"attention: {problem}", "bold red") for problem in inconsistencies(facts)[:1]]
    return Group(*parts)


def render_html(facts: Mapping[str, Any]) -> str:
    """The page: one HTML file that needs no network and no scripts.

    Raises:
        ReportError: the facts are of another format or damaged.
    """
    facts = _completed(facts)
    totals = _totals(facts)
    return _page().render(
        facts=facts,
        headlines=_headlines(facts),
        problems=inconsistencies(facts),
        problems_shown=PROBLEMS_SHOWN,
        funnel=_funnel(facts, most=14),
        totals=totals,
        mixture=_mixture(facts),
        sources=[
            source
            | {
                "skipped_count": sum(skip["count"] for skip in source["skipped"].values()),
                "left_out_count": sum(source["left_out"].values()),
                "token_share": _share(source["train_tokens"], totals["train_tokens"]),
            }
            for source in facts["sources"]
        ],
        lengths=_histogram(facts["lengths"]),
        levels=_histogram(facts["levels"]),
        bands=_bars(facts["level_bands"].items()),
        growth=_curve([(point["stories"], point["distinct_tokens"]) for point in facts["vocabulary"]["growth"]]),
        pairs=[_pair(pair) for pair in facts["copies"]["pairs"][:PAIRS_SHOWN]],
        pairs_known=len(facts["copies"]["pairs"]),
        reasons=[
            (reason, entry, [(source["name"], source["left_out"].get(reason, 0)) for source in facts["sources"]])
            for reason, entry in _by_count(facts["left_out"])
        ],
        skipped=_skipped(facts),
        licenses=_bars(_licenses(facts).most_common()),
        settings=[(flag, _setting(value)) for flag, value in facts["settings"].items()],
        percent=lambda value: NOT_KNOWN if value is None else _share(value, 1),
        sample_characters=SAMPLE_CHARACTERS,
        example_characters=EXAMPLE_CHARACTERS,
    )


def draw_figure(facts: Mapping[str, Any], path: str | Path) -> Path:
    """Draw what the page's charts show as one PNG picture.

    Raises:
        ReportError: the facts are of another format or damaged.
        FileWriteError: the picture cannot be written.
    """
    import matplotlib
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    facts = _completed(facts)
    # A style file of the machine's must not change the picture, and a dollar sign in a name begins no formula.
    with matplotlib.style.context(["default", {"font.family": "DejaVu Sans", "text.parse_math": False}]):
        figure = Figure(figsize=(12, 11.4), dpi=110, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        # Each row has margins of its own: long names in one need not narrow the others.
        rows: Any = figure.subfigures(4, 1, height_ratios=[1.15, 0.85, 1, 1], hspace=0.04)
        left, right = rows[0].subplots(1, 2, width_ratios=[1, 1.25])
        _draw_stages(left, facts)
        _draw_reasons(right, facts)
        _draw_mixture(rows[1].subplots(), facts)
        left, right = rows[2].subplots(1, 2)
        _draw_histogram(left, "Length of a story", _histogram(facts["lengths"]), _COLOURS[0])
        _draw_histogram(right, "Reading level", _histogram(facts["levels"]), _COLOURS[2])
        left, right = rows[3].subplots(1, 2)
        _draw_growth(left, facts)
        _draw_coverage(right, facts)
        stories, tokens = _number(facts["stories"]["distinct"]), _number(facts["splits"]["train"]["tokens"])
        title = f"{_drawable(facts['name'] or 'Prepared', 34)}: {stories} stories, {tokens} tokens to train on"
        figure.suptitle(title, color=_INK, fontsize=14, weight="bold")
        with atomic_write(path) as file:
            # The metadata would name the version of matplotlib.
            figure.savefig(file, format="png", metadata={"Software": None})
    return Path(path)


def render_card(facts: Mapping[str, Any]) -> str:
    """The data card: Markdown with the metadata that the Hub reads (https://huggingface.co/docs/hub/datasets-cards).

    Raises:
        ReportError: the facts are of another format or damaged.
    """
    facts = _public(_completed(facts))
    sections = [
        _card_metadata(facts),
        f"# {_card_heading(facts['name'])}",
        _card_summary(facts),
        _card_sources(facts),
        _card_licenses(facts),
        _card_steps(facts),
        _card_splits(facts),
        _card_sample(facts),
        _card_limits(facts),
        _card_again(facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def write_report(folder: str | Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write `report.html`, `report.png` and `DATA_CARD.md` into a folder, each complete or not at all.

    Returns:
        The three files.

    Raises:
        ReportError: the facts are of another format or damaged; nothing is written.
        FileWriteError: a file cannot be written.
    """
    folder = Path(folder)
    page, card = render_html(facts), render_card(facts)
    write_text_atomically(folder / PAGE_NAME, page)
    draw_figure(facts, folder / PICTURE_NAME)
    write_text_atomically(folder / CARD_NAME, card)
    return [folder / PAGE_NAME, folder / PICTURE_NAME, folder / CARD_NAME]


def inconsistencies(facts: Mapping[str, Any]) -> list[str]:
    """One sentence for every sum in the facts that does not come out: a story went missing, or was counted twice.

    Every story that was read is kept or left out for one reason, copies among the reasons; the reasons' counts are
    those of the sources together. Where copies are counted apart from the reasons, the sums are looked at with them.

    Raises:
        ReportError: the facts are of another format or damaged.
    """
    facts = _completed(facts)
    problems = []
    sources, copies = facts["sources"], facts["copies"]
    counted_apart = _uncounted(facts) == copies["exact"] + copies["near"] > 0
    for source in sources if not counted_apart else []:
        away = sum(source["left_out"].values())
        if source["read"] != source["kept"] + away:
            problems.append(
                f"{_one_line(source['name'], 60)}: {source['read']:,} stories were read, but {source['kept']:,} kept "
                f"and {away:,} left out make {source['kept'] + away:,}"
            )
    by_reason: Counter[str] = Counter()
    for source in sources:
        by_reason.update(source["left_out"])
    for reason in sorted(by_reason.keys() | facts["left_out"].keys()):
        together = facts["left_out"].get(reason, {"count": 0})["count"]
        if by_reason[reason] != together:
            problems.append(
                f"{_one_line(reason, 60)}: {together:,} stories were left out in all, but {by_reason[reason]:,} by "
                "the sources' own counts"
            )
    return problems


# Reading the facts


_SOURCE_DEFAULTS: Mapping[str, Any] = {"spec": "", "name": "", "weight": 1.0, "files": 0, "read": 0, "skipped": {},
    "layouts": {}, "ignored_fields": {}, "left_out": {}, "kept": 0, "told": 0, "train_tokens": 0, "words": 0,
    "licenses": {}, "attributions": {}, "repaired": 0}  # fmt: skip
_SPLIT_DEFAULTS = dict.fromkeys(("stories", "tokens", "trained_tokens", "text_bytes", "trained_bytes"), 0)
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "program": {"name": "gpt-oss-stories", "version": NOT_KNOWN},
    "settings": {},
    "left_out": {},
    "copies": {"exact": 0, "near": 0, "pairs": []},
    "splits": {"train": {}, "validation": {}},
    "stories": {"distinct": 0, "renderings": 0, "on_request": 0, "with_questions": 0},
    "lengths": {"unit": "tokens", "edges": [], "counts": []},
    "levels": {"unit": "Flesch-Kincaid grade", "edges": [], "counts": []},
    "level_bands": {},
    "vocabulary": {"kind": "", "size": None, "tokens_in_text": None, "growth": [], "most_common_share": []},
}
_SAMPLE_DEFAULTS = {"source": "", "place": "", "split": "", "text": "", "words": None, "grade": None,
                    "request": None, "questions": 0}  # fmt: skip
_PAIR_DEFAULTS = {"kept": "", "dropped": "", "kept_place": "", "dropped_place": ""}


def _completed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with every key: what is absent or null is empty. Histograms are checked."""
    if not isinstance(facts, Mapping) or facts.get("format") != FACTS_FORMAT:
        found = facts.get("format") if isinstance(facts, Mapping) else type(facts).__name__
        raise ReportError(
            f"the facts of a preparation have format {found!r}, this program reads format {FACTS_FORMAT}; prepare the "
            "stories again with --force-reprocess"
        )
    result: dict[str, Any] = {
        key: _filled(default, _as(Mapping, facts.get(key), key)) for key, default in _DEFAULTS.items()
    }
    for key in ("name", "fingerprint", "command"):
        result[key] = str(facts.get(key) or "")
    result["format"], result["rejected_file"] = FACTS_FORMAT, facts.get("rejected_file")
    result["sources"] = [
        _filled(_SOURCE_DEFAULTS, _as(Mapping, source, "sources"))
        for source in _as(Sequence, facts.get("sources"), "sources")
    ]
    for source in result["sources"]:
        source["skipped"] = _reasons(source["skipped"], "first", "sources.skipped")
    result["left_out"] = _reasons(result["left_out"], "examples", "left_out")
    for reason in result["left_out"].values():
        reason["examples"] = [_filled({"place": "", "text": ""}, example) for example in reason["examples"]]
    result["splits"] = {
        split: _filled(_SPLIT_DEFAULTS, _as(Mapping, counts, f"splits.{split}"))
        for split, counts in result["splits"].items()
    }
    samples = _as(Sequence, facts.get("samples"), "samples")
    result["samples"] = [_filled(_SAMPLE_DEFAULTS, _as(Mapping, sample, "samples")) for sample in samples]
    result["copies"]["pairs"] = [_filled(_PAIR_DEFAULTS, pair) for pair in result["copies"]["pairs"]]
    for key in ("lengths", "levels"):
        edges, counts = result[key]["edges"], result[key]["counts"]
        if counts and len(edges) != len(counts) + 1:
            raise ReportError(
                f"the facts are damaged: {key} has {len(edges)} edges for {len(counts)} counts, expected one more; "
                "prepare the stories again"
            )
    return result


def _reasons(raw: Any, places: str, where: str) -> dict[str, dict[str, Any]]:
    return {
        str(reason): _filled({"count": 0, places: []}, _as(Mapping, entry, where))
        for reason, entry in _as(Mapping, raw, where).items()
    }


def _filled(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values, and the default where there is none or null. Nothing of the default is shared."""
    fresh = {key: type(value)(value) if isinstance(value, dict | list) else value for key, value in default.items()}
    return fresh | {key: value for key, value in given.items() if value is not None or default.get(key) is None}


def _as(kind: type, value: Any, where: str) -> Any:
    if value is None:
        return {} if kind is Mapping else []
    if not isinstance(value, kind) or isinstance(value, str):
        raise ReportError(
            f"the facts are damaged: {where} is {type(value).__name__}, expected "
            f"{'an object' if kind is Mapping else 'a list'}; prepare the stories again"
        )
    return value


def _totals(facts: Mapping[str, Any]) -> dict[str, int]:
    """Sums over the sources."""
    sums = {
        key: sum(source[key] for source in facts["sources"])
        for key in ("files", "read", "kept", "told", "train_tokens", "words", "repaired")
    }
    sums["skipped"] = sum(skip["count"] for source in facts["sources"] for skip in source["skipped"].values())
    sums["left_out"] = sum(reason["count"] for reason in facts["left_out"].values())
    return sums


def _uncounted(facts: Mapping[str, Any]) -> int:
    """Stories that were read and neither kept nor left out for a reason."""
    totals = _totals(facts)
    return totals["read"] - totals["kept"] - totals["left_out"]


def _by_count(reasons: Mapping[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return sorted(reasons.items(), key=lambda item: (-item[1]["count"], item[0]))


def _skipped(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Why lines and files could not be read, over all sources, the commonest reason first."""
    found: dict[str, dict[str, Any]] = {}
    for source in facts["sources"]:
        for reason, skip in source["skipped"].items():
            entry = found.setdefault(reason, {"reason": reason, "count": 0, "sources": []})
            entry["count"] += skip["count"]
            entry["sources"].append({"name": source["name"], "count": skip["count"], "first": skip["first"]})
    return sorted(found.values(), key=lambda entry: (-entry["count"], entry["reason"]))


def _licenses(facts: Mapping[str, Any]) -> Counter[str]:
    """Stories by licence, over all sources."""
    licenses: Counter[str] = Counter()
    for source in facts["sources"]:
        licenses.update({str(name): count for name, count in sorted(source["licenses"].items())})
    return licenses


# Making texts visible and numbers readable


def _runs(text: str) -> Iterator[tuple[str, int]]:
    """The text in stretches: (readable text, 0), or (one character that cannot be seen, how often it stands there)."""
    if text.isprintable():
        if text:
            yield text, 0
        return
    readable: list[str] = []
    unseen, times = "", 0
    for character in text:
        if character in "\n\t" or character in _JOINERS or not _cannot_be_seen(character):
            if times:
                yield unseen, times
                unseen, times = "", 0
            readable.append(character)
            continue
        if readable:
            yield "".join(readable), 0
            readable.clear()
        if times and character != unseen:
            yield unseen, times
            times = 0
        unseen, times = character, times + 1
    if times:
        yield unseen, times
    elif readable:
        yield "".join(readable), 0


def _cannot_be_seen(character: str) -> bool:
    code = ord(character)
    if unicodedata.category(character) in _UNSEEN:
        return True
    return 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE  # no characters, and an error in HTML


def _code_point(character: str, times: int) -> str:
    return f"U+{ord(character):04X}" + (f" \u00d7{times:,}" if times > 1 else "")


def _visible(text: str) -> str:
    """The text with "[U+202E]" for what cannot be seen; line breaks, tabs and joiners stay."""
    return "".join(f"[{_code_point(part, times)}]" if times else part for part, times in _runs(text))


def _one_line(text: Any, most: int) -> str:
    """The text made visible on one line, cut to so many characters."""
    line = _visible(" ".join(re.split(r"[ \n\t]+", str(text)[: 4 * most]))).strip()
    return line if len(line) <= most and len(str(text)) <= 4 * most else line[: most - 1] + "…"


def _cut(text: str, most: int) -> tuple[str, int]:
    """The text's beginning, and how many characters were cut off."""
    return text[:most], max(0, len(text) - most)


def _number(value: Any) -> str:
    """A number for reading."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.0f}" if value.is_integer() else f"{value:,.6g}"
    return NOT_KNOWN


def _short_number(value: int) -> str:
    """Three digits and a unit where the number is too long for a column."""
    if abs(value) < 100_000:
        return f"{value:,}"
    scaled = float(value)
    for unit in ("k", "M", "G"):
        scaled /= 1000
        if abs(scaled) < 999.5:
            return f"{scaled:.3g}{unit}" if abs(scaled) < 99.95 else f"{scaled:.0f}{unit}"
    scaled /= 1000
    return f"{scaled:.3g}T" if scaled < 99.95 else f"{scaled:,.0f}T"


def _share(part: float, whole: float) -> str:
    """A percentage that is 0% or 100% only where that is exactly so."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.1f}".removesuffix(".0") + "%"


def _setting(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_setting(item) for item in value) or "none"
    return str(value)


@functools.cache
def _page() -> Template:
    """The page's template: everything escaped, what cannot be seen shown, numbers with thousands separators."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def marked(text: str) -> Markup:
        parts = []
        for part, times in _runs(text):
            if not times:
                parts.append(escape(part))
                continue
            name = unicodedata.name(part, "a character that cannot be seen").lower()
            parts.append(Markup('<span class="unseen" title="{}">{}</span>').format(name, _code_point(part, times)))
        return Markup("").join(parts)

    def finished(value: Any) -> Any:
        if isinstance(value, Markup):
            return value
        if isinstance(value, str):
            return marked(value)
        return NOT_KNOWN if value is None else _number(value)

    def story(text: str, most: int) -> Markup:
        shown, cut = _cut(text, most)
        more = Markup('<span class="more"> … {} characters more</span>').format(f"{cut:,}") if cut else Markup("")
        return marked(shown) + more

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=finished
    )
    environment.filters["attribute"] = lambda text: escape(_visible(str(text)))
    environment.filters["story"] = story
    return environment.from_string(files(__package__).joinpath("assets/report.html.jinja").read_text("utf-8"))


# The page's parts


def _headlines(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(number, what it counts, a remark)."""
    train, validation = facts["splits"]["train"], facts["splits"]["validation"]
    stories, words, totals = facts["stories"], facts["vocabulary"], _totals(facts)
    sources, gone = len(facts["sources"]), totals["read"] - totals["kept"]
    remark = ""
    if train["tokens"]:
        remark = f"{_share(train['trained_tokens'], train['tokens'])} trained on, "
        remark += f"{train['text_bytes'] / train['tokens']:.2f} bytes each"
    result = [
        (_number(stories["distinct"]), "stories", f"from {_number(sources)} source{'' if sources == 1 else 's'}"),
        (_number(train["tokens"]), "training tokens", remark),
        (_number(validation["tokens"]), "validation tokens", f"{_number(validation['stories'])} stories held out"),
        (_number(gone), "stories left out", f"{_share(gone, totals['read'])} of all that were read"),
    ]
    if words["size"] is not None:
        used = words["tokens_in_text"]
        remark = "" if used is None else f"{_number(used)} of them in the text"
        result.append((_number(words["size"]), f"tokens in the {words['kind']} vocabulary", remark))
    if stories["on_request"]:
        result.append(
            (_number(stories["on_request"]), "told on request", f"of {_number(stories['renderings'])} tellings")
        )
    return result


def _funnel(facts: Mapping[str, Any], *, most: int) -> list[dict[str, Any]]:
    """What became of all that was found, from the top down, with the length of each bar in percent.

    Kinds: "stage" (found, read, kept), "skipped", "left_out" and "lost" (counts that do not add up). Stages are drawn
    to one scale, all others to another, because the best data lose only a hair's breadth.
    """
    totals, copies = _totals(facts), facts["copies"]
    skipped, read = totals["skipped"], totals["read"]
    found = read + skipped
    reasons = [(reason, entry["count"]) for reason, entry in _by_count(facts["left_out"]) if entry["count"]]
    if len(reasons) > most:
        rest = reasons[most - 1 :]
        reasons = [*reasons[: most - 1], (f"{len(rest):,} other reasons", sum(count for _, count in rest))]
    uncounted = _uncounted(facts)
    if uncounted and uncounted == copies["exact"] + copies["near"]:
        reasons += [(f"{kind} copies", copies[kind]) for kind in ("exact", "near") if copies[kind]]
        uncounted = 0
    rows = [("found", "stage", found)]
    if skipped:
        rows.append(("could not be read", "skipped", skipped))
    rows.append(("read", "stage", read))
    rows += [(reason, "left_out", count) for reason, count in reasons]
    if uncounted:
        what = "not accounted for" if uncounted > 0 else "counted twice"
        rows.append((what, "lost", abs(uncounted)))
    rows.append(("kept", "stage", totals["kept"]))
    stage = max(found, totals["kept"], 1)
    fallen = max([count for _, kind, count in rows if kind != "stage"], default=1)
    return [
        {
            "label": label,
            "kind": kind,
            "count": count,
            "share": _share(count, found),
            "percent": f"{100 * count / (stage if kind == 'stage' else max(fallen, 1)):.3f}",
        }
        for label, kind, count in rows
    ]


_SHARES = (("kept", "stories kept"), ("told", "tellings in training"), ("train_tokens", "training tokens"))


def _mixture(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of the sources: the names with their colours, and for each measure its shares in the same order."""
    sources = facts["sources"]
    names = [source["name"] for source in sources]
    own = list(range(len(sources)))
    if len(sources) > len(_COLOURS):
        largest = sorted(own, key=lambda index: (-sources[index]["train_tokens"], -sources[index]["kept"], index))
        own = sorted(largest[: len(_COLOURS) - 1])
        names = [*(names[index] for index in own), f"{len(sources) - len(own):,} more sources"]
    bars = []
    for key, label in _SHARES:
        total = sum(source[key] for source in sources)
        counts = [sources[index][key] for index in own]
        if len(own) < len(sources):
            counts.append(total - sum(counts))
        segments = [
            {
                "colour": index,
                "name": names[index],
                "count": count,
                "share": _share(count, total),
                "percent": f"{100 * count / total:.3f}",
                "wide": count >= 0.09 * total,
            }
            for index, count in enumerate(counts)
            if count > 0
        ]
        bars.append({"label": label, "total": total, "segments": segments})
    return {"names": names, "bars": [bar for bar in bars if bar["total"] > 0]}


def _histogram(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Bars of equal width, one for each bin; None when nothing was counted. Lengths are in percent of the plot."""
    edges, counts = raw["edges"], raw["counts"]
    total = sum(counts)
    if not total:
        return None
    bins, top = len(counts), _round_up(max(counts))
    bars = []
    for index, count in enumerate(counts):
        low, high = edges[index], edges[index + 1]
        label = f"{_number(low)} and more" if high is None else f"{_number(low)} to {_number(high)}"
        if low is None:
            label = f"below {_number(high)}"
        bars.append({
            "x": f"{100 * (index + 0.04) / bins:.3f}", "width": f"{92 / bins:.3f}",
            "y": f"{100 - 100 * count / top:.3f}", "height": f"{100 * count / top:.3f}",
            "label": label, "count": count, "share": _share(count, total),
        })  # fmt: skip
    step = max(1, math.ceil(bins / 6))
    ticks = [index for index in range(0, bins, step) if bins - index >= 0.7 * step or index == 0] + [bins]
    middle, passed = "", 0
    for bar, count in zip(bars, counts, strict=True):
        passed += count
        if 2 * passed >= total:
            middle = bar["label"]
            break
    return {
        "unit": raw["unit"],
        "total": total,
        "bars": bars,
        "counts": list(counts),
        "top": top,
        "y_ticks": [top, top / 2, 0],
        "ticks": [(index, f"{100 * index / bins:.3f}", "…" if edges[index] is None else _number(edges[index]))
                  for index in ticks],
        "middle": middle,
    }  # fmt: skip


def _round_up(value: float) -> float:
    """The next number whose half is easy to read, for the top of an axis."""
    if value <= 0:
        return 1
    power = 10.0 ** math.floor(math.log10(value))
    top = next(power * factor for factor in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10, 12) if power * factor >= value)
    return max(2, round(top))


def _curve(points: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    """A line through the origin and the points; None without points. Coordinates are in percent of the plot."""
    points = sorted(points)
    if not points or points[-1][0] <= 0:
        return None
    top = _round_up(max(high for _, high in points))
    right = points[-1][0]
    placed = [(0.0, 100.0), *((100 * x / right, 100 - 100 * y / top) for x, y in points)]
    line = " ".join(f"{x:.3f},{y:.3f}" for x, y in placed)
    return {
        "line": line,
        "area": f"{line} 100,100 0,100",
        "points": points,
        "y_ticks": [top, top / 2, 0],
        "ticks": [(0, "0", "0"), (1, "50", _number(right / 2)), (2, "100", _number(right))],
    }


def _bars(counts: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """Horizontal bars in the given order, relative to the sum."""
    counts = list(counts)
    total = sum(count for _, count in counts)
    return [
        {"label": label, "count": count, "share": _share(count, total), "percent": f"{100 * count / max(total, 1):.3f}"}
        for label, count in counts
    ]


def _pair(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A pair of copies for showing side by side: each text as (kind, text) stretches."""
    kept, dropped = differing_words(str(pair["kept"]), str(pair["dropped"]))
    return {"kept": kept, "dropped": dropped, "kept_place": pair["kept_place"], "dropped_place": pair["dropped_place"]}


def differing_words(one: str, other: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Both texts as stretches of words: ("alike", words), ("own", words that the other text lacks at this place) and
    ("gap", a remark) for what is not shown.

    Only the first `COMPARED_WORDS` words are compared, and long stretches that are alike are shortened.
    """
    words = [re.split(r"[ \n\t]+", text.strip(" \n\t")) for text in (one, other)]
    left, right = (side[:COMPARED_WORDS] for side in words)
    sides: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    operations = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    for number, (kind, left_from, left_to, right_from, right_to) in enumerate(operations):
        places = ((0, left[left_from:left_to]), (1, right[right_from:right_to]))
        for side, stretch in places:
            if not stretch or stretch == [""]:
                continue
            if kind == "equal":
                sides[side].extend(_shortened(stretch, first=number == 0, last=number == len(operations) - 1))
            else:
                sides[side].append(("own", " ".join(stretch)))
    for side, whole in enumerate(words):
        if len(whole) > COMPARED_WORDS:
            sides[side].append(("gap", f"{len(whole) - COMPARED_WORDS:,} words more, not compared"))
    return sides


def _shortened(words: list[str], *, first: bool, last: bool) -> list[tuple[str, str]]:
    half = ALIKE_WORDS_SHOWN // 2
    if len(words) <= ALIKE_WORDS_SHOWN or (first and last):
        return [("alike", " ".join(words))]
    begin, end = (half, half) if not first and not last else (0, ALIKE_WORDS_SHOWN) if first else (ALIKE_WORDS_SHOWN, 0)
    parts = [("alike", " ".join(words[:begin]))] if begin else []
    parts.append(("gap", f"{len(words) - begin - end:,} words alike"))
    if end:
        parts.append(("alike", " ".join(words[-end:])))
    return parts


# The picture's parts


def _drawable(text: Any, most: int) -> str:
    """One line of characters that the picture's font has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    line = "".join(
        character if font.get_char_index(ord(character)) else "\u25a1" for character in _one_line(text, most)
    )
    return f" {line}" if line.startswith("_") else line  # an underscore in front hides a legend's entry


def _style(axes: Axes, title: str, x_unit: str, y_unit: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK, weight="bold")
    axes.set_xlabel(x_unit, fontsize=9, color=_MUTED)
    axes.set_ylabel(y_unit, fontsize=9, color=_MUTED)
    axes.tick_params(labelsize=8.5, colors=_MUTED)
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GRID)


def _absent(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_MUTED, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def _thousands(value: float, _: object = None) -> str:
    return f"{value:,.0f}"


_KIND_COLOURS = {"stage": _COLOURS[0], "skipped": _COLOURS[7], "left_out": _COLOURS[1], "lost": "#c62828"}


def _draw_stages(axes: Axes, facts: Mapping[str, Any]) -> None:
    _style(axes, "What became of the stories", "stories")
    _draw_rows(axes, [row for row in _funnel(facts, most=1) if row["kind"] == "stage"])


def _draw_reasons(axes: Axes, facts: Mapping[str, Any]) -> None:
    _style(axes, "Why some were left out", "stories, or lines that hold none")
    rows = [row for row in _funnel(facts, most=9) if row["kind"] != "stage"]
    if rows:
        _draw_rows(axes, rows)
    else:
        _absent(axes, "none was left out")


def _draw_rows(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    most = max(row["count"] for row in rows) or 1
    for place, row in enumerate(rows):
        axes.barh(place, row["count"], height=0.68, color=_KIND_COLOURS[row["kind"]])
        axes.annotate(f"{row['count']:,}  ({row['share']})", (row["count"], place), xytext=(5, 0),
                      textcoords="offset points", va="center", fontsize=8.5, color=_INK)  # fmt: skip
    axes.set_yticks(range(len(rows)), [_drawable(row["label"], 36) for row in rows])
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.grid(False, axis="y")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.34 * most)
    axes.xaxis.set_major_locator(_few_whole_ticks())
    axes.xaxis.set_major_formatter(_thousands)


def _few_whole_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, integer=True)


def _draw_mixture(axes: Axes, facts: Mapping[str, Any]) -> None:
    from matplotlib.patches import Patch

    _style(axes, "The mixture", "")
    mixture = _mixture(facts)
    if not mixture["bars"]:
        _absent(axes, "no stories")
        return
    for place, bar in enumerate(mixture["bars"]):
        left = 0.0
        for segment in bar["segments"]:
            width = float(segment["percent"])
            axes.barh(place, width, left=left, height=0.7, color=_COLOURS[segment["colour"]], edgecolor="white")
            if segment["wide"]:
                axes.text(left + width / 2, place, segment["share"], ha="center", va="center", color="white",
                          fontsize=9, weight="bold")  # fmt: skip
            left += width
    axes.set_yticks(range(len(mixture["bars"])), [f"{bar['label']}\n{bar['total']:,}" for bar in mixture["bars"]])
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.grid(False)
    axes.set_xlim(0, 100)
    axes.set_ylim(len(mixture["bars"]) - 0.5, -0.5)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    handles = [Patch(color=_COLOURS[index]) for index in range(len(mixture["names"]))]
    labels = [_drawable(name, 23) for name in mixture["names"]]
    axes.legend(handles, labels, frameon=False, fontsize=8.5, labelcolor=_INK, ncols=4, loc="upper left",
                bbox_to_anchor=(0, -0.02))  # fmt: skip


def _draw_histogram(axes: Axes, title: str, histogram: Mapping[str, Any] | None, colour: str) -> None:
    _style(axes, title, "" if histogram is None else _drawable(histogram["unit"], 60), "stories")
    if histogram is None:
        _absent(axes, "not measured")
        return
    axes.bar([index + 0.5 for index in range(len(histogram["counts"]))], histogram["counts"], width=0.92, color=colour)
    axes.set_xticks([index for index, _, _ in histogram["ticks"]], [label for _, _, label in histogram["ticks"]])
    axes.set_xlim(0, len(histogram["counts"]))
    axes.grid(False, axis="x")
    axes.set_ylim(0, histogram["top"])
    axes.yaxis.set_major_locator(_few_whole_ticks())
    axes.yaxis.set_major_formatter(_thousands)


def _draw_growth(axes: Axes, facts: Mapping[str, Any]) -> None:
    _style(axes, "Vocabulary: different tokens in the first stories", "stories", "tokens")
    curve = _curve([(point["stories"], point["distinct_tokens"]) for point in facts["vocabulary"]["growth"]])
    if curve is None:
        _absent(axes, "not measured")
        return
    stories, tokens = zip((0, 0), *curve["points"], strict=True)
    axes.plot(stories, tokens, color=_COLOURS[3], linewidth=1.8, marker="o", markersize=3.5)
    axes.fill_between(stories, tokens, color=_COLOURS[3], alpha=0.12, linewidth=0)
    axes.set_xlim(0, stories[-1])
    axes.set_ylim(0, curve["y_ticks"][0])
    axes.xaxis.set_major_locator(_few_whole_ticks())
    axes.xaxis.set_major_formatter(_thousands)
    axes.yaxis.set_major_formatter(_thousands)


def _draw_coverage(axes: Axes, facts: Mapping[str, Any]) -> None:
    _style(axes, "Text made up of the commonest tokens", "", "% of the text")
    shares = facts["vocabulary"]["most_common_share"]
    if not shares:
        _absent(axes, "not measured")
        return
    for place, entry in enumerate(shares):
        axes.bar(place, 100 * entry["share"], width=0.7, color=_COLOURS[6])
        axes.annotate(_share(entry["share"], 1), (place, 100 * entry["share"]), xytext=(0, 3), ha="center",
                      textcoords="offset points", fontsize=8.5, color=_INK)  # fmt: skip
    axes.set_xticks(range(len(shares)), [f"{entry['tokens']:,}" for entry in shares])
    axes.set_xlabel("commonest tokens", fontsize=9, color=_MUTED)
    axes.grid(False, axis="x")
    axes.set_ylim(0, 112)


# The console's parts

_SOURCE_ROWS, _REASON_ROWS = 9, 8


def _console_grid(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=False)
    for number, heading in enumerate(headings):
        if number:
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=32)
    return table


def _console_sources(facts: Mapping[str, Any]) -> Table:
    from rich.text import Text

    table = _console_grid("source", "weight", "read", "skipped", "left out", "kept", "told", "tokens", "share")
    sources, totals = facts["sources"], _totals(facts)

    def add(name: str, weight: str, rows: Sequence[Mapping[str, Any]], style: str = "") -> None:
        counts = [
            sum(row["read"] for row in rows),
            sum(skip["count"] for row in rows for skip in row["skipped"].values()),
            sum(sum(row["left_out"].values()) for row in rows),
            *(sum(row[key] for row in rows) for key in ("kept", "told", "train_tokens")),
        ]
        cells = [name, weight, *map(_short_number, counts), _share(counts[-1], totals["train_tokens"])]
        table.add_row(*map(Text, cells), style=style)

    shown = sources if len(sources) <= _SOURCE_ROWS else sources[: _SOURCE_ROWS - 1]
    for source in shown:
        add(_one_line(source["name"], 60), f"{source['weight']:.4g}", [source])
    if len(shown) < len(sources):
        add(f"{len(sources) - len(shown):,} more", "", sources[len(shown) :])
    if len(sources) != 1:
        add("together", "", sources, "bold")
    return table


def _console_reasons(facts: Mapping[str, Any]) -> Table | None:
    from rich.text import Text

    rows = [row for row in _funnel(facts, most=_REASON_ROWS) if row["kind"] in ("left_out", "lost")]
    skipped = _skipped(facts)
    if not rows and not skipped:
        return None
    table = _console_grid("left out or skipped", "count", "share")
    table.columns[0].max_width = 56
    for row in rows:
        table.add_row(Text(_one_line(row["label"], 80)), Text(f"{row['count']:,}"), Text(row["share"]))
    shown = skipped if len(skipped) <= 4 else skipped[:3]
    found = sum(_totals(facts)[key] for key in ("read", "skipped"))
    for entry in shown:
        label = Text(f"not read: {_one_line(entry['reason'], 70)}")
        table.add_row(label, Text(f"{entry['count']:,}"), Text(_share(entry["count"], found)))
    if len(shown) < len(skipped):
        rest = sum(entry["count"] for entry in skipped[len(shown) :])
        label = Text(f"not read: {len(skipped) - len(shown)} other reasons")
        table.add_row(label, Text(f"{rest:,}"), Text(_share(rest, found)))
    return table


# The card's parts


def _public(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts without the folders of absolute paths, which are nobody else's business."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, str):
            return _ABSOLUTE.sub("", value)
        if isinstance(value, list | tuple):
            return [cleaned(item) for item in value]
        if isinstance(value, Mapping):
            return {key: cleaned(item) for key, item in value.items()}
        return value

    result = facts | {"settings": cleaned(facts["settings"])}
    result["command"] = _public_command(facts["command"])
    result["sources"] = [
        source | {key: cleaned(source[key]) for key in ("spec", "name")} for source in facts["sources"]
    ]
    result["samples"] = [sample | {key: cleaned(sample[key]) for key in ("source", "place")}
                         for sample in facts["samples"]]  # fmt: skip
    result["name"] = cleaned(facts["name"])
    result["shortened"] = result["command"] != facts["command"]
    return result


def _public_command(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:  # quotes that do not close: cannot come from us, and must not stop a report
        return _ABSOLUTE.sub("", command)
    return shlex.join(_ABSOLUTE.sub("", word) for word in words)


def _code(value: Any, most: int = 120) -> str:
    """A text as a code span, in which Markdown and HTML mean nothing; a bar would end a table's cell even there."""
    text = _one_line(value, most).replace("`", "'").replace("|", "¦") if value is not None else ""
    return f"`{text}`" if text else NOT_KNOWN


def _block(text: str, language: str = "text") -> str:
    """A code block, with a fence that is in none of its lines."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A Markdown table whose first `words` columns are texts and the others numbers."""
    lines = [f"| {' | '.join(heading)} |"]
    lines.append("|" + "|".join("---" if place < words else "---:" for place in range(len(heading))) + "|")
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _quoted(text: str) -> str:
    """A text in YAML: as JSON, which every YAML reader understands."""
    return json.dumps(text)


def _card_heading(name: str) -> str:
    line = _one_line(name, 96)
    plain = "".join(character if character.isalnum() or character in " ._/-" else "-" for character in line)
    return plain.strip(" -").replace("_", "\\_") or "Prepared stories"


def _languages(facts: Mapping[str, Any]) -> list[str]:
    """Codes of the stories' languages, as far as the settings say one."""
    for flag, value in facts["settings"].items():
        if flag.strip("-").replace("-", "_") in ("language", "languages"):
            given = value if isinstance(value, list | tuple) else str(value or "").split(",")
            return [code for code in map(str, given) if re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})?", code)]
    return []


def _card_metadata(facts: Mapping[str, Any]) -> str:
    """The YAML block that the Hub reads."""
    found = {name.lower() for name, count in _licenses(facts).items() if count}
    licenses = sorted({name if name in _HUB_LICENSES else "other" for name in found}) or ["unknown"]
    stories = facts["stories"]["distinct"]
    size = next((category for below, category in _SIZES if stories < below), "n>1T")
    lines = ["---", f"pretty_name: {_quoted(_one_line(facts['name'], 96) or 'Prepared stories')}"]
    if languages := _languages(facts):
        lines += ["language:", *(f"- {_quoted(code)}" for code in languages)]
    lines += ["license:", *(f"- {_quoted(name)}" for name in licenses)]
    lines += ["size_categories:", f"- {_quoted(size)}", "task_categories:", "- text-generation"]
    return "\n".join([*lines, "tags:", "- children", "- stories", "---"])


def _card_summary(facts: Mapping[str, Any]) -> str:
    train, validation, stories = facts["splits"]["train"], facts["splits"]["validation"], facts["stories"]
    program = facts["program"]
    sources = len(facts["sources"])
    text = (
        f"{_number(stories['distinct'])} different children's stories from {_number(sources)} "
        f"{'source' if sources == 1 else 'sources'}, cleaned, told as {_number(train['tokens'])} tokens for training "
        f"and {_number(validation['tokens'])} for validation by {_code(program['name'])} {_code(program['version'])}. "
        f"Of {_number(stories['renderings'])} tellings {_number(stories['on_request'])} answer a request; "
        f"{_number(stories['with_questions'])} of the stories have questions. The data's fingerprint is "
        f"{_code(facts['fingerprint'])}; `{PAGE_NAME}` beside this card shows charts and examples."
    )
    return text


def _card_sources(facts: Mapping[str, Any]) -> str:
    rows = [
        (
            _code(source["name"]),
            _code(source["spec"], 200),
            f"{source['weight']:.6g}",
            *(_number(source[key]) for key in ("files", "read", "kept", "told", "words", "train_tokens")),
        )
        for source in facts["sources"]
    ]
    heading = ("name", "given as", "weight", "files", "stories read", "kept", "told in training", "words", "tokens")
    parts = ["## Sources", _table(heading, rows, words=2) if rows else "There are none."]
    if any(source["weight"] != 1 for source in facts["sources"]):
        parts.append(
            "The weight says how often each story of a source is told in training; below 1 only that share of them is."
        )
    works = []
    for source in facts["sources"]:
        letters = re.sub(r"[^a-z0-9]", "", f"{source['name']} {source['spec']}".lower())
        works += [f"- {_code(source['name'])}: {work}." for known, work in _KNOWN_WORKS if known in letters]
    if works:
        parts.append(
            "What is known about sources of these names, to be cited where they are used:\n\n" + "\n".join(works)
        )
    return "\n\n".join(parts)


def _card_licenses(facts: Mapping[str, Any]) -> str:
    rows, named = [], []
    for source in facts["sources"]:
        for name, count in sorted(source["licenses"].items(), key=lambda item: (-item[1], item[0])):
            rows.append((_code(source["name"]), NOT_KNOWN if name == "unknown" else _code(name), _number(count)))
        named += [f"- {_code(credit, 300)} ({_number(count)} stories)"
                  for credit, count in sorted(source["attributions"].items())]  # fmt: skip
    parts = ["## Licences and attribution"]
    if not rows:
        return "\n\n".join([*parts, "No source says under which licence its stories are."])
    parts.append(_table(("source", "licence, as the source says", "stories"), rows, words=2))
    parts.append(
        "These are statements of the sources, not checked by the program. Licences such as CC-BY ask that authors stay "
        "named wherever the stories are passed on; the sources' own files hold the names."
    )
    if named:
        parts.append("\n".join(named))
    return "\n\n".join(parts)


def _card_steps(facts: Mapping[str, Any]) -> str:
    parts = ["## Processing", "Every story that was found went through these steps. The counts are of stories, or of "
             "lines and files that hold none:"]  # fmt: skip
    rows = []
    for row in _funnel(facts, most=10**9):
        label = {"stage": f"**{row['label']}**", "skipped": row["label"], "lost": row["label"]}.get(row["kind"])
        rows.append((label or f"left out: {_code(row['label'])}", _number(row["count"]), row["share"]))
    parts.append(_table(("step", "count", "share of what was found"), rows))
    if skipped := _skipped(facts):
        parts.append("What could not be read:")
        parts.append(_table(("reason", "count"), [(_code(skip["reason"]), _number(skip["count"])) for skip in skipped]))
    repaired, copies = _totals(facts)["repaired"], facts["copies"]
    lines = [
        f"- The encoding of {_number(repaired)} stories was broken and has been mended.",
        f"- Of two stories that are the same the first one stays: {_number(copies['exact'])} exact copies and "
        f"{_number(copies['near'])} near copies were dropped.",
    ]
    if facts["rejected_file"]:
        lines.append(f"- The stories that were left out are in {_code(facts['rejected_file'])} with their reasons.")
    parts.append("\n".join(lines))
    parts += [f"- {problem}." for problem in map(_escaped, inconsistencies(facts)[:PROBLEMS_SHOWN])]
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    """A sentence in Markdown with the signs that mean something there made harmless."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&$])", r"\\\1", text)


def _card_splits(facts: Mapping[str, Any]) -> str:
    keys = tuple(_SPLIT_DEFAULTS)
    rows = [(split, *(_number(counts[key]) for key in keys)) for split, counts in facts["splits"].items()]
    heading = ("split", "stories told", "tokens", "tokens trained on", "bytes of text", "bytes trained on")
    words = facts["vocabulary"]
    parts = ["## Splits", _table(heading, rows)]
    parts.append("A story's text alone decides which split it belongs to, so that none is in both.")
    if words["size"] is not None:
        parts.append(f"Vocabulary: {_code(words['kind'])}, {_number(words['size'])} tokens, of which "
                     f"{_number(words['tokens_in_text'])} are in the text.")  # fmt: skip
    for key, what in (("lengths", "Length"), ("levels", "Reading level")):
        if (histogram := _histogram(facts[key])) is not None:
            parts.append(f"{what} ({_code(histogram['unit'])}): the median is in the range {histogram['middle']}.")
    if facts["level_bands"]:
        bands = _bars(facts["level_bands"].items())
        rows = [(_code(band["label"]), _number(band["count"]), band["share"]) for band in bands]
        parts.append(_table(("reading level", "stories", "share"), rows))
    return "\n\n".join(parts)


def _card_sample(facts: Mapping[str, Any]) -> str:
    if not facts["samples"]:
        return ""
    sample = min(facts["samples"], key=lambda sample: len(sample["text"]))
    text, cut = _cut(str(sample["text"]), CARD_CHARACTERS)
    more = f"\n… {cut:,} characters more" if cut else ""
    where = f"## One of the stories\n\nFrom {_code(sample['source'])}, split {_code(sample['split'])}:"
    return f"{where}\n\n{_block(_visible(text) + more)}"


def _card_limits(facts: Mapping[str, Any]) -> str:
    licenses, totals = _licenses(facts), _totals(facts)
    lines = [
        "What the filters look for they find by rules and word lists, in most cases and not in all: an adult should "
        "look at what a model trained on these stories tells before a child does.",
        "Near copies are found by MinHash, that is with a probability; a few will have stayed.",
    ]
    if any(facts["levels"]["counts"]):
        lines.append("Reading levels come from a formula over sentence and word lengths, which knows nothing of what "
                     "is told.")  # fmt: skip
    unknown, stated = licenses.get("unknown", 0), sum(licenses.values())
    if unknown:
        lines.append(f"The licence of {_share(unknown, stated)} of the stories ({_number(unknown)}) is not known.")
    for source in facts["sources"]:
        if len(facts["sources"]) > 1 and source["train_tokens"] > 0.5 * totals["train_tokens"]:
            share = _share(source["train_tokens"], totals["train_tokens"])
            lines.append(f"{share} of the training tokens come from {_code(source['name'])}.")
    validation = facts["splits"]["validation"]["stories"]
    if not validation:
        lines.append("No story is held out: what a model learns cannot be measured here.")
    elif validation < 100:
        lines.append(f"Only {_number(validation)} tellings are held out: figures measured on them are rough.")
    if not _languages(facts):
        lines.append("The settings name no language, and the stories were not sorted by it.")
    return "## Known limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _card_again(facts: Mapping[str, Any]) -> str:
    parts = ["## How to make it again"]
    if facts["command"]:
        parts.append(_block(_visible(facts["command"]), "sh"))
        if facts["shortened"]:
            parts.append("Absolute paths stand here without their folders.")
    rows = [(_code(flag), _code(_setting(value), 300)) for flag, value in facts["settings"].items()]
    if rows:
        parts.append(_table(("setting", "value"), rows, words=2))
    program = facts["program"]
    parts.append(f"The same files, settings and program ({_code(program['name'])} {_code(program['version'])}) give "
                 f"the same shards, with the fingerprint {_code(facts['fingerprint'])}.")  # fmt: skip
    return "\n\n".join(parts)
