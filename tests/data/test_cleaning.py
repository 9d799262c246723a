"""Cleaning loses nothing of a story, and the gate before the repair of encodings never closes on a broken text."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from re import _constants as regex_items  # type: ignore[attr-defined]
from re import _parser as regex_parser  # type: ignore[attr-defined]

import ftfy
import pytest
from ftfy.badness import BADNESS_RE
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss_stories.data import cleaning
from gpt_oss_stories.data.cleaning import clean_text, is_blank, repair_encoding, tidy_text

CLEANED = [
    ("  A fox.\n", "A fox."),
    ("A fox.\r\nA hen.\rAn owl.\n\rA dog.", "A fox.\nA hen.\nAn owl.\n\nA dog."),
    ("A fox. \t\nA hen.\u00a0\nAn owl.", "A fox.\nA hen.\nAn owl."),
    ("One.\n\n\n \n\nTwo.\n\nThree.", "One.\n\nTwo.\n\nThree."),
    ("\ufeffA fox.\ufeff", "A fox."),
    ("but\xadter\xadfly", "butterfly"),
    ("A \x00re\x07d\x1b[31m fox\x7f.\x9d", "A red[31m fox."),
    ("page one\fpage two\vline\x85line\u2028line\u2029paragraph", "page one\npage two\nline\nline\nline\n\nparagraph"),
    ("cafe\u0301", "café"),
    ("e\x07\u0301", "é"),  # removed first, composed then
    (" \n\x00\n\ufeff ", ""),
    ("", ""),
]


@pytest.mark.parametrize(("given_text", "wanted"), CLEANED)
def test_cleaning(given_text: str, wanted: str) -> None:
    assert clean_text(given_text) == wanted


KEPT = [
    "“It’s ‘mine’,” said Tom—“not yours!” ... … « Oui » „Ja“ `x` 'y' \"z\" 3:30–4:00 (a) [b] {c} *d* _e_ ~f~ #g",
    "Tabs\tstay.\n  So does the indent of a verse.\n\nAnd the empty line.",
    "Family 👨‍👩‍👧‍👦, hand 👋🏽, flag 🏴󠁧󠁢󠁳󠁣󠁴󠁿, heart ❤️, keycap 1️⃣",
    "שלום \u200fעולם\u200e مرحبا \u202bيا\u202c 从前，有一只兔子。 むかし「こんにちは」 नमस्ते क्‍ष ไทย አንድ ቀን። Ωραία",
    "warm, toward, reward &amp; <b>bold</b> <|endoftext|> ﬁne ＷＩＤＥ ﷺ x² ½",
]


@pytest.mark.parametrize("text", KEPT)
def test_what_belongs_to_a_story_is_kept(text: str) -> None:
    assert clean_text(text) == text
    assert tidy_text(text) == text


def clean_slowly(text: str) -> str:
    """`clean_text` by its description, one character and one line at a time."""
    text = text.replace("\r\n", "\n").replace("\u2029", "\n\n")
    text = "".join("\n" if c in "\r\v\f\x85\u2028" else c for c in text)
    text = "".join(c for c in text if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in "\xad\ufeff"))
    lines: list[str] = []
    for line in unicodedata.normalize("NFC", text).split("\n"):
        line = line.rstrip()
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip()


AWKWARD = (
    "aé e\u0301\u0301\u0327 \n\n\r\t\v\f\0\x07\x1c\x7f\x80\x85\x9f\xa0\xad\ufeff\u200b\u200d"
    "\u2028\u2029\u2000\u3000©ï’”—😀\u1100\u1161"
)


@given(st.text() | st.text(alphabet=AWKWARD))
def test_cleaning_equals_its_slow_description(text: str) -> None:
    assert clean_text(text) == clean_slowly(text)


def test_each_character_alone_is_cleaned_as_described() -> None:
    for code in (*range(0x3100), *range(0xFB00, 0x10000), *range(0x1F000, 0x1F100)):
        text = f"a{chr(code)}b"
        assert clean_text(text) == clean_slowly(text), hex(code)


@given(st.text() | st.text(alphabet=AWKWARD))
def test_a_cleaned_text_is_clean(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned == cleaned.strip()
    assert all(line == line.rstrip() for line in cleaned.split("\n"))
    assert "\n\n\n" not in cleaned
    assert not [c for c in cleaned if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    cleaned.encode()


@given(st.text() | st.text(alphabet=AWKWARD))
def test_cleaning_loses_and_reorders_nothing_but_what_it_says(text: str) -> None:
    def substance(of: str) -> str:
        return unicodedata.normalize(
            "NFC",
            "".join(c for c in of if not c.isspace() and unicodedata.category(c) != "Cc" and c not in "\xad\ufeff"),
        )

    assert substance(clean_text(text)) == substance(text)


MARKS = "\u0301\u0327\u0344\u0f71\u0f72\u0f73\u0f81\u05b0\u0323\u3099か\u1ebf\uac00従क़"


@given(st.text(alphabet=MARKS + "ae", max_size=12), st.integers(1, 40), st.text(alphabet=MARKS, max_size=12))
def test_many_marks_are_ordered_as_unicode_has_it(begin: str, times: int, more: str) -> None:
    text = begin + more * times
    assert clean_text(text) == unicodedata.normalize("NFC", text)


@pytest.mark.timeout(20)  # it takes a second, and would take twenty minutes with marks ordered one by one
def test_a_million_marks_take_no_time() -> None:
    cleaned = clean_text("a" + "\u0301\u0327" * 500_000)
    assert cleaned == "á" + "\u0327" * 500_000 + "\u0301" * 499_999


def test_lone_surrogates_do_not_stop_it() -> None:
    assert tidy_text("half \ud83d \r\nof it ") == "half \ud83d\nof it"


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b", "\ufeff\x07\u2028", "\x00"])
def test_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", " . ", "\u200b!", "从", "👍"])
def test_not_blank(text: str) -> None:
    assert not is_blank(text)


# ------------------------------------------------------------------------------------------------- broken encodings

REPAIRED = [
    ("â€œIâ€™m here,â€\x9d she said.", "“I’m here,” she said."),
    ("Ã©tÃ©, naÃ¯ve, MÃ¼ller", "été, naïve, Müller"),
    ("Ã¢â‚¬Å“HiÃ¢â‚¬Â\x9d, said the cafÃƒÂ©", "“Hi”, said the café"),
    ("The end â€” or was it?", "The end — or was it?"),
    ("It\x92s \x93mine\x94", "It’s “mine”"),
    ("dot‚Ä¶ and ‚Äúquote‚Äù", "dot… and “quote”"),
    ("ðŸ˜€ and â\x9d¤", "😀 and ❤"),
    # the last byte of a closing quote was lost, or written as U+FFFD or "?"
    ("â€œI am here,â€ she said.", "“I am here,” she said."),
    ("â€œI am here.â€\n\nâ€œGo!â€", "“I am here.”\n\n“Go!”"),
    ("â€œI am here,â€� she said.", "“I am here,” she said."),
    ("â€œI am here,â€? she said.", "“I am here,” she said."),
    ("Did she say â€œnoâ€?", "Did she say “no”?"),
    # a lost byte of any other character cannot be told, and its place is not filled with U+FFFD
    ("cafÃ© and naÃ?ve", "café and naÃ?ve"),
    # what is not broken on one line stays although another line is
    ("Â¡Hola!\nÀ “demain”, çà et là.", "¡Hola!\nÀ “demain”, çà et là."),
]


@pytest.mark.parametrize(("broken", "wanted"), REPAIRED)
def test_repair(broken: str, wanted: str) -> None:
    assert repair_encoding(broken) == wanted
    assert tidy_text(broken) == wanted


SOUND = [
    *KEPT,
    "“He said, ‘Ça va?’” It was naïve—très naïve… Ærøskøbing, Łódź, Ünlü, señor, Ångström, œuvre, cœur",
    "Жил-был ёжик. Ήταν μια φορά. Bir varmış bir yokmuş. Był sobie smok. Þórr, đá, ğ",
    "café” and “été”, Zoë’s, 5£, 20 °C, ¿Qué? ¡Sí! ©2020 ½ × 3 = 1½ ±2",
    "control \x1b[31mred\x1b[0m and &lt;entities&gt; \r\n and ﬁ ＡＢＣ and a\u0308",
]


@pytest.mark.parametrize("text", SOUND)
def test_sound_text_is_not_repaired(text: str) -> None:
    assert repair_encoding(text) == text


STORY = "“It’s the café—Zoë’s favourite!” said Łukasz… ‘Truly?’ Ella smiled; naïve François ran 5 € away. ½ 😀 “No.”\n"
ENCODINGS = ["latin-1", "cp1252", "cp1250", "cp1251", "cp1254", "cp1257", "iso8859-2", "mac-roman", "cp437"]


def misread(text: str, encoding: str) -> str:
    """UTF-8 that a program took for a one-byte encoding; undefined bytes pass as C1 controls, as browsers have it."""
    return "".join(
        bytes([byte]).decode(encoding, "ignore") or bytes([byte]).decode("latin-1") for byte in text.encode()
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("sign", "“”‘’—…éïç")
def test_words_misread_in_any_known_encoding_are_mended(encoding: str, sign: str) -> None:
    text = f"She saw the caf{sign} and laughed."
    broken = misread(text, encoding)
    mended = repair_encoding(broken)
    # ftfy leaves what could be meant ("Ś" may be one); what it can mend, the gate must let through to it.
    assert mended == ftfy.fix_encoding(broken)
    if encoding in ("latin-1", "cp1252", "mac-roman"):
        assert mended == text


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_a_misread_story_comes_back_whole(encoding: str) -> None:
    assert repair_encoding(misread(STORY * 3, encoding)) == STORY * 3
    assert tidy_text(misread(STORY * 3, encoding)) == (STORY * 3).strip()


def repair_without_gate(text: str) -> str:
    return "".join(cleaning._mend_segment(line) for line in cleaning._segments(text))


# Characters that one-byte encodings make of UTF-8, so that hypothesis finds what looks broken.
ONE_BYTE_CHARACTERS = "".join(
    sorted({bytes([byte]).decode(encoding, "ignore") for encoding in ENCODINGS for byte in range(0x80, 0x100)})
)
MISREADABLE = st.text(alphabet=ONE_BYTE_CHARACTERS + "abc .,?!\n\n“”’—…�", max_size=30)
MISREAD = st.builds(misread, st.text(alphabet="ab c\n“”‘’—…éàüñœŁжλ½😀\xa0", max_size=20), st.sampled_from(ENCODINGS))


@given(st.one_of(st.text(), MISREADABLE, MISREAD, st.builds(misread, MISREAD, st.sampled_from(ENCODINGS))))
def test_the_gate_never_closes_on_what_the_repair_would_change(text: str) -> None:
    assert repair_encoding(text) == repair_without_gate(text)


@given(MISREADABLE | MISREAD)
def test_the_mending_is_that_of_ftfy(text: str) -> None:
    text = text.replace("â€", "")  # closing quotes that lost a byte are the one thing that ftfy does otherwise
    config = ftfy.TextFixerConfig(replace_lossy_sequences=False)
    wanted = "".join(ftfy.fix_encoding_and_explain(line, config).text for line in re.findall(r"[^\n]*\n|[^\n]+", text))
    assert repair_encoding(text) == wanted


@given(st.text() | MISREADABLE | MISREAD)
def test_repair_never_puts_a_replacement_character_in_place_of_a_letter(text: str) -> None:
    repaired = repair_encoding(text)
    assert repaired.count("\ufffd") <= text.count("\ufffd")
    repaired.encode()


@given(st.text() | st.text(alphabet=AWKWARD) | MISREADABLE | MISREAD)
def test_tidying_twice_changes_nothing(text: str) -> None:
    tidied = tidy_text(text)
    assert tidy_text(tidied) == tidied
    assert clean_text(tidied) == tidied
    assert repair_encoding(tidied) == tidied


def test_halves_of_a_letter_that_cleaning_brings_together_are_mended() -> None:
    assert tidy_text("itâ\x01€™s") == "it’s"


def test_a_very_long_broken_line_is_repaired_in_pieces() -> None:
    assert repair_encoding("It wasnâ€™t. " * 90_000) == "It wasn’t. " * 90_000


def characters_of(item: tuple[object, object]) -> frozenset[int] | None:
    """The characters that one element of a parsed expression can match; None if that is not a plain set."""
    kind, value = item
    if kind is regex_items.LITERAL:
        return frozenset((value,))
    if kind is not regex_items.IN:
        return None
    found: set[int] = set()
    for part, what in value:
        if part is regex_items.LITERAL:
            found.add(what)
        elif part is regex_items.RANGE:
            found.update(range(what[0], what[1] + 1))
        else:
            return None
    return frozenset(found)


def badness_alternatives() -> list[list[frozenset[int] | None]]:
    """ftfy's test for broken text as lists of what stands one after another."""
    [(kind, (_, branches))] = regex_parser.parse(BADNESS_RE.pattern, BADNESS_RE.flags).data
    assert kind is regex_items.BRANCH
    return [[characters_of(item) for item in branch] for branch in branches]


def test_every_alternative_of_ftfys_test_opens_the_gate() -> None:
    ascii_characters, typography = frozenset(range(0x80)), frozenset(map(ord, cleaning._TYPOGRAPHY))
    alternatives = badness_alternatives()
    assert len(alternatives) > 25
    for items in alternatives:
        # some element is neither ASCII nor typography, so a text of these alone can be passed over
        assert any(item is not None and not item & (ascii_characters | typography) for item in items)
        # and it is a character that opens the gate alone, or has a neighbour with which it does
        alone = any(item is not None and all(cleaning._SUSPECT.search(chr(code)) for code in item) for item in items)
        together = any(
            one is not None
            and two is not None
            and not (one | two) & ascii_characters
            and not (one & typography and two & typography)
            for one, two in pairwise(items)
        )
        assert alone or together, items


@pytest.mark.parametrize("pair", ["éé", "é”", "”é", "–é", "€™", "ÃÂ"])
def test_two_characters_together_open_the_gate(pair: str) -> None:
    assert cleaning._SUSPECT.search(f"a{pair}b")


@pytest.mark.parametrize("text", ["é e", "”—", "a”", "é", "ß.", "‘“a”’…"])
def test_sound_typography_does_not_open_the_gate(text: str) -> None:
    assert not cleaning._SUSPECT.search(text)
