"""The child-safety filter: words in their context, disguises, policies; its fast way finds what its slow way does."""

from __future__ import annotations

import codecs
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt_oss_stories.data.safety import (
    DEFAULT_POLICY,
    OLD_TALES_POLICY,
    REQUEST_POLICY,
    YOUNG_POLICY,
    Category,
    SafetyError,
    SafetyPolicy,
    find_unsafe,
    policy_for,
    reason_unsafe,
)
from gpt_oss_stories.data.safety import finder as finder_module
from gpt_oss_stories.data.safety.finder import find_unsafe_slowly
from gpt_oss_stories.data.safety.patterns import Pattern, noun_forms, parse_pattern, verb_forms
from gpt_oss_stories.data.safety.slurs import SLURS, SLURS_IN_CONTEXT, slur_hash
from gpt_oss_stories.data.safety.spelling import undisguised
from gpt_oss_stories.data.safety.terms import CLASSES, HARMLESS, TERMS

SAMPLES = Path(__file__).parents[1] / "fixtures" / "safety_samples.jsonl"
ROOT = Path(__file__).parents[2]
EVERY_MENTION = SafetyPolicy(**{category.name.lower(): 1 for category in Category})
POLICIES = (DEFAULT_POLICY, YOUNG_POLICY, REQUEST_POLICY, OLD_TALES_POLICY, EVERY_MENTION)


def rot13(text: str) -> str:
    return codecs.decode(text, "rot13")


def samples() -> list[dict[str, object]]:
    rows = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    return [row | {"text": row["text"] if "text" in row else rot13(row["rot13"])} for row in rows]


def found(text: str, policy: SafetyPolicy = DEFAULT_POLICY) -> set[str]:
    return {finding.category.value for finding in find_unsafe(text, policy)}


# --- what it is measured on


def test_samples_are_many_labelled_and_partly_held_out():
    rows = samples()
    names = {category.value for category in Category} | {"safe"}
    assert len(rows) >= 400
    assert {row["label"] for row in rows} == names
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    labels = Counter(row["label"] for row in rows)
    assert labels["safe"] >= 250
    assert len(rows) - labels["safe"] >= 150
    assert min(labels.values()) >= 14
    held = [row for row in rows if row["held_out"]]
    assert len(held) >= 200
    assert {row["label"] for row in held} == names


def test_open_samples_are_found_and_harmless_ones_are_left_alone():
    """Only the samples that the tables were written with; `scripts/safety_check.py` reports the others."""
    missed: list[object] = []
    wrong: list[object] = []
    unsafe = 0
    for row in samples():
        if row["held_out"]:
            continue
        categories = found(str(row["text"]))
        if row["label"] == "safe":
            wrong += [(row["text"], categories)] if categories else []
        else:
            unsafe += 1
            missed += [] if categories else [row["text"]]
    assert not wrong
    assert len(missed) <= 0.03 * unsafe, missed


KEPT = """
She was warm and ran toward the reward with great skill, forward to Hollywood.
The wolf was killed.
He shot her a look, and that killed two birds with one stone.
I am dying to see you hit the ball.
Take your water gun and your toy gun to the drug store.
The battery died.
The killer whale drank root beer and ate a blood orange.
The cock crowed, and all were gay.
The ass spoke to the fox.
The dam broke, and the naked branches shook.
The robin's breast was red.
That is a queer tale.
Smoke rose from the chimney while they drank their wine.
Her grandfather died peacefully.
Nobody was hurt, and nobody was killed.
He did not stab the man.
""".strip().splitlines()


@pytest.mark.parametrize("text", KEPT)
def test_words_with_a_harmless_meaning_are_kept(text):
    assert find_unsafe(text) == []
    assert reason_unsafe(text) is None


def test_a_slur_with_another_sense_is_kept_in_that_sense():
    assert find_unsafe(rot13("Gur byq zna pneevrq n snttbg bs fgvpxf, naq yvtug pnzr guebhtu n puvax.")) == []
    assert found(rot13("Ur pnyyrq gur obl n snttbg.")) == {"hate"}


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Blood poured from his throat.", Category.VIOLENCE),
        ("She stabbed the boy in the chest.", Category.VIOLENCE),
        ("His father beat the boy with a belt until he bled.", Category.ABUSE),
        ("She committed suicide.", Category.SELF_HARM),
        ("They had sex.", Category.SEXUAL),
        ("Being drunk was great fun, and they all got drunk again.", Category.DRUGS),
        ("He pointed the gun at her head.", Category.WEAPONS),
        ("What the fuck, said the frog.", Category.PROFANITY),
        ("The zombie ate his brains.", Category.HORROR),
        ("Playing with matches is fun, said the fox.", Category.IMITATION),
        ("The maggots crawled over the rotting corpse.", Category.DEATH),
        ("They shouted: we hate Jews!", Category.HATE),
        (rot13("Lbh avttre, ur fubhgrq."), Category.HATE),
        (rot13("Gur obl jnf n qvegl snttbg, ur fnvq."), Category.HATE),
    ],
    ids=lambda value: value.name if isinstance(value, Category) else "text",
)
def test_each_category_is_found(text, category):
    assert category in {finding.category for finding in find_unsafe(text)}


def test_a_finding_says_what_was_found_and_where():
    text = "It was a sunny day. The man stabbed the guard in the chest!\nThe end."
    (finding,) = (one for one in find_unsafe(text) if one.category is Category.VIOLENCE)
    assert finding.sentence == "The man stabbed the guard in the chest!"
    assert finding.words[0] == "stabbed"
    assert finding.severity >= 3
    assert text[finding.start : finding.end].startswith("stabbed")
    assert reason_unsafe(text) == "unsafe: graphic violence"


def test_the_reason_is_the_most_severe_one():
    assert reason_unsafe("They had sex. Blood poured from his throat.") == "unsafe: sexual content"
    assert reason_unsafe("Blood poured from his throat. What the fuck!") == "unsafe: profanity"  # severity 4 against 3


# --- context


def test_a_negation_lowers_only_what_it_belongs_to():
    assert "graphic violence" in found("He stabbed the man.")
    assert "graphic violence" not in found("He never stabbed the man.")
    assert "graphic violence" in found("He did not smile, and he stabbed the man.")
    assert "graphic violence" in found("She said no, he stabbed the man.")
    assert "profanity" in found("He did not say fuck.")


def test_villains_of_the_tales_may_die_without_gore():
    assert found("The hero stabbed the dragon.") == set()
    assert found("The hero stabbed the baker.") != set()
    assert found("The hero stabbed the dragon, and blood poured from its throat.") != set()


def test_pretence_lowers():
    assert found("He stabbed the man.") != set()
    assert found("They pretended that he stabbed the man.") == set()


def test_a_danger_counts_when_it_is_made_light_of_and_not_when_it_is_warned_of():
    assert found("They jumped off the roof.") == set()
    assert found("They jumped off the roof. It was so much fun!") == {"dangerous imitation"}
    assert found("They jumped off the roof. It was dangerous, and they never did it again.") == set()


def test_rough_things_add_up_in_a_sentence():
    assert found("He killed the farmer.") == set()
    assert found("He killed the farmer and strangled the cook.") != set()


# --- disguises


@pytest.mark.parametrize(
    "word",
    [
        "fuck",
        "f*ck",
        "f**k",
        "fu¢k",
        "FuCk",
        "fuuuuck",
        "f u c k",
        "f.u.c.k",
        "f-u-c-k",
        "fuсk",
        "ｆｕｃｋ",
        "f\u200buck",
        "fück",
    ],
)
def test_disguises_are_undone(word):
    expected = set() if word == "fu¢k" else {"profanity"}  # not every sign is known
    assert found(f"Oh {word}, said the frog.") == expected


@pytest.mark.parametrize("word", ["avttre", "a1ttre", "AVTTRE", "avttref"])
def test_disguised_slurs_are_found(word):
    assert found(f"He was a {rot13(word)}, they said.") == {"hate"}


def test_disguises_do_not_make_words_out_of_numbers_and_names():
    for token in ("455", "1st", "2nd", "r2d2", "b612", "4b", "$5", "Wow!Then", "s33", "h3llo", "a5s"):
        assert find_unsafe(f"It said {token} on the door.") == []
    assert undisguised("sh1t", frozenset(["shit"])) == "shit"
    assert undisguised("shit", frozenset(["shit"])) is None
    assert undisguised("привет", frozenset(["shit"])) is None


def test_spelled_words_are_harmless():
    assert find_unsafe("A b c d e f g h i j k l m n o p, they sang. C-a-t is cat, and S H I P is ship.") == []


def test_slurs_are_not_spelled_out_in_the_package():
    """The words of the package itself, hashed, are no slur but those that have a harmless sense too."""
    folder = Path(finder_module.__file__).parent
    words = {word for file in folder.glob("*.py") for word in re.findall(r"[a-z]+", file.read_text("utf-8").lower())}
    assert not {word for word in words if slur_hash(word) in SLURS}
    assert len(SLURS) > 50
    assert not SLURS & SLURS_IN_CONTEXT


# --- policies


def test_policies_differ_in_what_they_mind():
    killed = "The hunter killed the wolf in the end, and the hunter killed the thief."
    assert found(killed) == set()
    assert found(killed, YOUNG_POLICY) == {"graphic violence"}
    drunk = "The pirate was drunk."
    assert found(drunk) == set()
    assert found(drunk, REQUEST_POLICY) == {"alcohol and drugs"}
    head = "The knight cut off the robber's head."
    assert found(head) == {"graphic violence"}
    assert found(head, OLD_TALES_POLICY) == set()
    assert found("They had sex.", OLD_TALES_POLICY) == {"sexual content"}


def test_policy_for_use_and_age():
    assert policy_for("training") == policy_for("story") == policy_for("story", age=8) == DEFAULT_POLICY
    assert policy_for("story", age=4).violence == YOUNG_POLICY.violence < DEFAULT_POLICY.violence
    young_request = policy_for("request", age=4)
    for category in Category:
        assert young_request.least(category) == min(YOUNG_POLICY.least(category), REQUEST_POLICY.least(category))
    with pytest.raises(SafetyError, match="expected 'training'"):
        policy_for("poetry")  # type: ignore[arg-type]
    with pytest.raises(SafetyError, match="whole number of years"):
        policy_for("story", age=-1)


@pytest.mark.parametrize("value", [0, 6, True, 2.0, "3", None])
def test_a_policy_refuses_what_is_no_severity(value):
    with pytest.raises(SafetyError, match="horror="):
        SafetyPolicy(horror=value)


@given(text=st.sampled_from(sorted(str(row["text"]) for row in samples())), category=st.sampled_from(list(Category)))
def test_a_stricter_policy_finds_all_that_a_milder_one_does(text, category):
    milder = {(f.category, f.start) for f in find_unsafe(text, OLD_TALES_POLICY)}
    default = {(f.category, f.start) for f in find_unsafe(text)}
    every = {(f.category, f.start) for f in find_unsafe(text, EVERY_MENTION)}
    assert milder <= default <= every
    never = SafetyPolicy(**{category.name.lower(): 5})
    assert category not in {finding.category for finding in find_unsafe(text, never)}


# --- the fast way and the slow way


def first_words(written: str) -> list[str]:
    """A word for each place of a pattern."""
    return [part.lstrip("?").split("|")[0].split("/")[0] for part in written.split() if part[0] not in ".@%"]


PIECES = """
he she the a his her man boy dog not never and but was it him in of to with on off is are you . , ; Mr. Tom Blood
blood! "kill kill's k1ll k i l l f*ck fuuuck f.u.c.k stabbed, gun drunk; fun dangerous pretended İ ß ﬁ café’s naïve — …
root beer killer whale water gun shot look cut throat knife wolf dead head
"""
WORDS = sorted(
    {
        "\n",
        "\u200bgun\u200b",
        *PIECES.split(),
        *(
            word
            for table in TERMS.values()
            for texts in table.values()
            for text in texts[::9]
            for word in first_words(text)
        ),
        *(word for text in HARMLESS[::5] for word in first_words(text)),
    }
)


@settings(max_examples=400, deadline=None)
@given(
    text=st.lists(st.sampled_from(WORDS), max_size=24).map(" ".join)
    | st.lists(st.sampled_from(WORDS), max_size=24).map("".join)
    | st.text(max_size=60),
    policy=st.sampled_from(POLICIES),
)
@example(text="İ İ İ İ he stabbed the man", policy=DEFAULT_POLICY)
@example(text="", policy=EVERY_MENTION)
@example(text="k  i l l him, he s a i d", policy=EVERY_MENTION)
@example(text="\ud800 stabbed the man", policy=DEFAULT_POLICY)
def test_the_first_round_leaves_out_nothing(text, policy):
    fast = find_unsafe(text, policy)
    assert fast == find_unsafe_slowly(text, policy)
    for finding in fast:
        assert finding.words[0] in text
        assert 0 <= finding.start < finding.end <= len(text)
        assert finding.severity >= policy.least(finding.category)


def test_samples_give_the_same_in_both_ways_and_again():
    for row in samples():
        text = str(row["text"])
        for policy in POLICIES:
            assert find_unsafe(text, policy) == find_unsafe_slowly(text, policy) == find_unsafe(text, policy)


def test_forgetting_changes_nothing(monkeypatch):
    texts = [str(row["text"]) for row in samples()]
    before = [find_unsafe(text) for text in texts]
    memory = finder_module._Memory()
    monkeypatch.setattr(finder_module, "_MEMORY", memory)
    monkeypatch.setattr(finder_module, "MEMORY_LIMIT", 3)
    assert [find_unsafe(text) for text in texts] == before
    assert 0 < len(memory.chunks) + len(memory.plain) <= 3
    assert 0 < len(memory.tokens) <= 3


def test_another_process_finds_the_same():
    """Nothing depends on Python's random hashes."""
    program = (
        "import json, sys\n"
        "from gpt_oss_stories.data.safety import find_unsafe\n"
        "texts = json.load(sys.stdin)\n"
        "found = [[(f.category, f.severity, f.words, f.start, f.end) for f in find_unsafe(text)] for text in texts]\n"
        "print(json.dumps(found))\n"
    )
    texts = json.dumps([row["text"] for row in samples()][::3])
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=texts,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


# --- patterns


def twin(pattern: Pattern, words: list[str], at: int) -> bool:
    """Whether a pattern matches with its key at a place, by a regular expression over the joined words."""
    before = after = ""
    for number, element in enumerate(pattern.elements):
        alternatives = "|".join(sorted(map(re.escape, element.forms), key=len, reverse=True))
        gap = rf"(?:\S+ ){{0,{element.gap}}}" if number else ""
        part = rf"{gap}(?:{alternatives}) "
        if number == pattern.key:
            before += gap
            after += rf"(?:{alternatives}) "
        elif number < pattern.key:
            before += rf"(?:{part})?" if element.optional else part
        else:
            after += rf"(?:{part})?" if element.optional else part
    # The words before the key must end exactly where it begins.
    head, tail = "".join(word + " " for word in words[:at]), "".join(word + " " for word in words[at:])
    return (
        re.search(rf"(?:^| ){before}$", " " + head if before else "") is not None and re.match(after, tail) is not None
    )


ALPHABET = ["red", "blue", "a", "b", "c", "knife", "knives"]
ELEMENT = st.sampled_from(["red", "blue", "a", "b|c", "knife/n"])


@st.composite
def written_patterns(draw) -> str:
    parts = [draw(ELEMENT)]
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["", "?", "..1 ", "..2 "]))
        parts.append(kind + draw(ELEMENT))
    return " ".join(parts)


@settings(max_examples=500, deadline=None)
@given(written=written_patterns(), words=st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=9))
@example(written="red ..2 blue ?a b", words=["red", "c", "blue", "b"])
def test_patterns_match_as_a_regular_expression_does(written, words):
    pattern = parse_pattern(written, {})
    for at in range(len(words)):
        places = pattern.match(words, at)
        assert (places is not None) == twin(pattern, words, at)
        if places is not None:
            assert at in places
            assert list(places) == sorted(set(places))


@pytest.mark.parametrize("written", ["?a ?b", "a ..2", "a ..1 ?b c"])
def test_patterns_that_cannot_be_are_refused(written):
    with pytest.raises(ValueError, match="pattern"):
        parse_pattern(written, {})


def test_inflections():
    assert verb_forms("stab") == {"stab", "stabs", "stabbing", "stabbed"}
    assert verb_forms("slice") == {"slice", "slices", "slicing", "sliced"}
    assert verb_forms("crush") == {"crush", "crushes", "crushing", "crushed"}
    assert verb_forms("bury") == {"bury", "buries", "burying", "buried"}
    assert noun_forms("knife") == {"knife", "knives"}
    assert noun_forms("baby") == {"baby", "babies"}
    assert noun_forms("boy") == {"boy", "boys"}


def test_every_pattern_of_the_tables_can_match():
    """Each finds a text made of its own first words: no dead pattern, no misspelt class."""
    for written in [*HARMLESS, *(text for table in TERMS.values() for texts in table.values() for text in texts)]:
        pattern = parse_pattern(written, CLASSES)
        words = [min(element.forms) for element in pattern.elements]
        assert pattern.match(words, pattern.key) is not None, written


def test_tables_hold_no_pattern_twice():
    for category, table in TERMS.items():
        written = [text for texts in table.values() for text in texts]
        twice = {text for text, times in Counter(written).items() if times > 1}
        assert not twice, category


# --- stories


def test_the_packaged_stories_have_no_finding():
    from gpt_oss_stories.data.originals import original_stories

    for story in original_stories():
        assert find_unsafe(story.text) == [], story.title


def test_long_and_strange_texts_take_no_long_time():
    for text in ("a" * 300_000, "kill " * 20_000, "k " * 50_000, "." * 100_000, "gun\n" * 20_000, "*$@!" * 20_000):
        begun = perf_counter()
        find_unsafe(text)
        assert perf_counter() - begun < 20
