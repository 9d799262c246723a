"""The rules of quality drop what is broken and keep what is only playful; each reason can be counted."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss_stories.config import ConfigError
from gpt_oss_stories.data.cleaning import tidy_text
from gpt_oss_stories.data.originals import original_stories
from gpt_oss_stories.data.quality import QualityRules, count_words, find_flaw, has_ending, repetition

RULES = QualityRules()
SHARED = Path(__file__).parents[3] / "shared" / "data"

KITE = (
    "Once upon a time there was a small hen who lived behind the mill. She liked corn and sunshine. One day she found "
    "a silver button near the gate and took it to her friend the goose."
)


def test_a_plain_story_has_no_flaw() -> None:
    assert find_flaw(KITE, RULES) is None


FLAWED = [
    ("", "nothing to read"),
    ("\u200b", "nothing to read"),
    ("The hen sat down.", "shorter than 5 words"),
    (KITE * 7000, "longer than 1,000,000 characters"),
    (KITE.replace("silver", "sil\ufffder"), "has lost characters (U+FFFD)"),
    ("and then " * 100, "repeats itself"),
    (KITE + " She said, " + "and then " * 30, "repeats itself"),
    ("Había una vez una niña que plantó una semilla en el jardín.", "not English (looks like es)"),
    ("从前有一只小兔子，它住在森林里。有一天，小兔子遇到了一只迷路的小鸭。", "not English (looks like zh)"),
    (KITE.removesuffix(" the goose."), "does not end like a story"),
]


@pytest.mark.parametrize(("text", "reason"), FLAWED)
def test_flaws_have_stable_reasons(text: str, reason: str) -> None:
    assert find_flaw(text, RULES) == reason


def test_limits_hold_at_their_borders() -> None:
    five = "The hen sat down there."
    assert find_flaw(five, QualityRules(min_words=5)) is None
    assert find_flaw(five, QualityRules(min_words=6)) == "shorter than 6 words"
    assert find_flaw(KITE, QualityRules(max_characters=len(KITE))) is None
    assert find_flaw(KITE, QualityRules(max_characters=len(KITE) - 1)) == f"longer than {len(KITE) - 1} characters"


@pytest.mark.parametrize(("text", "reason"), FLAWED[2:])
def test_each_rule_can_be_switched_off(text: str, reason: str) -> None:
    off = QualityRules(
        language=None,
        min_words=0,
        max_characters=None,
        require_ending=False,
        max_repetition=None,
        max_loop=None,
        allow_lost_characters=True,
    )
    assert find_flaw(text, off) is None


def test_impossible_rules_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"language='English' .*min_words=-1 .*max_characters=0 .*max_loop=1.5 "):
        QualityRules(language="English", min_words=-1, max_characters=0, max_loop=1.5)


def test_an_unknown_language_is_told_when_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"language='xx' cannot be recognised; known are .*en, .*fr"):
        find_flaw(KITE, QualityRules(language="xx"))


@given(st.text())
def test_any_text_gets_the_same_answer_twice(text: str) -> None:
    rules = QualityRules(min_words=0)
    assert find_flaw(text, rules) == find_flaw(text, rules)


# ---------------------------------------------------------------------------------------------------------- language

TRANSLATED = {
    "fr": [
        "Il était une fois un petit chat qui avait peur de la pluie.",
        "Chaque matin, il regardait le ciel et se cachait sous le lit.",
        "« Viens jouer ! » dit la souris, et ils rirent ensemble jusqu'au soir.",
    ],
    "de": [
        "Es war einmal ein kleiner Bär, der wollte den Mond besuchen.",
        "Er nahm einen langen Stock und stieg auf den höchsten Hügel.",
        "„Gute Nacht“, sagte der Mond und lachte leise.",
    ],
    "es": [
        "Había una vez una niña que plantó una semilla en el jardín.",
        "Todos los días le daba agua y le cantaba una canción.",
        "Al final creció un árbol tan alto que tocaba las nubes.",
    ],
    "it": [
        "C'era una volta un pesciolino che sognava di volare.",
        "Un giorno incontrò un gabbiano gentile vicino alla spiaggia.",
        "Insieme guardarono il tramonto e diventarono amici.",
    ],
    "pt": [
        "Era uma vez um menino que não gostava de dormir.",
        "A sua avó contou-lhe uma história sobre as estrelas.",
        "Ele fechou os olhos e sonhou com um barco de prata.",
    ],
    "nl": [
        "Er was eens een kleine eend die niet kon zwemmen.",
        'Haar broertje zei: "Kom maar, ik help je wel."',
        "Toen we in het bos waren, had hij een stuk van de taart of twee.",
    ],
    "sv": [
        "Det var en gång en liten igelkott som bodde under en gran.",
        "Han tyckte om äpplen och regniga dagar.",
        "En kväll hörde han någon gråta bakom stenen.",
    ],
    "pl": [
        "Dawno, dawno temu żył sobie mały smok, który bał się ognia.",
        "Jego przyjaciółka, mysz, nauczyła go śpiewać.",
        "Od tej pory już nigdy nie był smutny.",
    ],
    "tr": [
        "Bir varmış bir yokmuş, küçük bir kaplumbağa varmış.",
        "Her gün denize bakar ve uzak adaları düşünürmüş.",
        "Sonunda bir yunus onu sırtına almış.",
    ],
    "sw": [
        "Hapo zamani za kale palikuwa na sungura mwerevu.",
        "Alimwambia simba kwamba kisima kina simba mwingine.",
        "Simba aliruka ndani na sungura akacheka sana.",
    ],
    "id": [
        "Pada suatu hari, seekor kancil ingin menyeberangi sungai.",
        "Ia berkata kepada buaya bahwa raja akan membagi makanan.",
        "Buaya berbaris dan kancil melompat di atas punggung mereka.",
    ],
    "ru": [
        "Жил-был маленький ёжик, который очень любил звёзды.",
        "Каждый вечер он поднимался на холм и смотрел в небо.",
        "Однажды медвежонок пришёл к нему в гости.",
    ],
    "zh": ["从前有一只小兔子，它住在森林里。", "有一天，小兔子遇到了一只迷路的小鸭。", "它们一起找到了回家的路。"],
    "hi": [
        "एक समय की बात है, एक छोटा हाथी जंगल में रहता था।",
        "वह हर दिन नदी के किनारे खेलता था।",
        "एक दिन उसे एक नया दोस्त मिला।",
    ],
}


@pytest.mark.parametrize("language", TRANSLATED)
def test_other_languages_are_told_from_a_single_sentence(language: str) -> None:
    for sentence in TRANSLATED[language]:
        flaw = find_flaw(sentence, RULES)
        assert flaw is not None
        assert flaw.startswith("not English (looks like ")
    assert find_flaw(" ".join(TRANSLATED[language]), RULES) == f"not English (looks like {language})"
    assert find_flaw(" ".join(TRANSLATED[language]), QualityRules(language=language)) is None


def test_english_is_no_story_in_another_language() -> None:
    assert find_flaw(KITE, QualityRules(language="fr")) == "not fr (looks like en)"


ODD_ENGLISH = [
    "Boo! Crash! Bang! Splash! Wheee!",
    "Ollie, Lily, Ben and Tim. Ollie! Lily! Ben! Tim!",
    "Zzz. Zzz. Zzz. Zzz. Shh!",
    "Hush-a-bye, Kofi. Hush-a-bye, Ama. Hush-a-bye, Esi.",
    "Moo says Daisy. Oink says Percy. Baa says Lola. Cluck says Hetty.",
    "Tick tock. Tick tock. Cuckoo!",
    "Nozibele picks berries. Sizwe eats mangoes. Thandi laughs.",
    "Ha ha ha! Hee hee hee! Ho ho ho!",
    "Anansi spider, Tiger, Monkey, Goat.",
    "Akinyi's doll. Otieno's ball. Wanjiru's book. Mwangi's shoes.",
    "Big dog. Red ball. Dog runs. Ball rolls. Splash!",
    "“Bonjour!” said Pierre. “Bonjour, Madame!” And they ate a croissant.",
]


@pytest.mark.parametrize("text", ODD_ENGLISH)
def test_names_noises_and_short_english_are_kept(text: str) -> None:
    assert find_flaw(text, RULES) is None


# -------------------------------------------------------------------------------------------------------- repetition


def house_that_jack_built() -> str:
    """The nursery rhyme, of which each verse repeats the one before it."""
    steps = [
        ("the house that Jack built.", ""),
        ("the malt", "That lay in"),
        ("the rat,", "That ate"),
        ("the cat,", "That killed"),
        ("the dog,", "That worried"),
        ("the cow with the crumpled horn,", "That tossed"),
        ("the maiden all forlorn,", "That milked"),
        ("the man all tattered and torn,", "That kissed"),
        ("the priest all shaven and shorn,", "That married"),
        ("the cock that crowed in the morn,", "That waked"),
        ("the farmer sowing his corn,", "That kept"),
    ]
    verses = []
    for last in range(len(steps)):
        chain = [f"{steps[step][1]} {steps[step - 1][0]}" for step in range(last, 0, -1)]
        verses.append("\n".join([f"This is {steps[last][0]}", *chain]))
    return "\n\n".join(verses)


def green_bottles() -> str:
    numbers = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
    return "\n\n".join(
        f"{numbers[left]} green bottles hanging on the wall,\n{numbers[left]} green bottles hanging on the wall,\n"
        f"And if one green bottle should accidentally fall,\n"
        f"There'll be {numbers[left - 1].lower()} green bottles hanging on the wall."
        for left in range(10, 1, -1)
    )


def wheels_on_the_bus() -> str:
    verses = [
        ("wheels on the bus go", "round and round"),
        ("wipers on the bus go", "swish, swish, swish"),
        ("horn on the bus goes", "beep, beep, beep"),
        ("people on the bus go", "up and down"),
        ("baby on the bus goes", "waa, waa, waa"),
    ]
    return "\n\n".join(
        f"The {who} {how},\n{how},\n{how}.\nThe {who} {how},\nall through the town." for who, how in verses
    )


def runaway_bun() -> str:
    """A chase in the manner of the Gingerbread Man: the boast grows with everyone who is left behind."""
    met = [
        "a little old woman",
        "a little old man",
        "a barn full of threshers",
        "a field full of mowers",
        "a cow",
        "a pig",
    ]
    told = ["A little old woman baked a man of gingerbread, but out he jumped and away he ran."]
    for count in range(2, len(met) + 1):
        boast = ", and ".join(f"I have run away from {who}" for who in met[:count])
        told.append(
            f'By and by he met {met[count - 1]}. "Ho! {boast}, and I can run away from you, I can, I can!" '
            "Run, run, as fast as you can! You can't catch me, I'm the Gingerbread Man!"
        )
    return "\n\n".join([*told, "Then a fox took him across the river, and snip, snap, he was gone."])


@pytest.mark.parametrize("tale", [house_that_jack_built, green_bottles, wheels_on_the_bus, runaway_bun])
def test_cumulative_tales_and_songs_pass(tale) -> None:
    text = tale()
    assert repetition(text).repeated_share > 0.4  # each of them would break the limits made for web pages
    assert find_flaw(text, RULES) is None


HAPPY = " He was happy. She was happy."
LOOPS = {
    "one sentence": "The little dog ran to the park. " * 20,
    "two words": "and then " * 100,
    "one word": KITE + " It was very" + " very" * 60 + " big.",
    "a caught ending": KITE + " The goose was very happy." * 8,
    "two sentences": HAPPY * 25,
    "short lines": "\n".join(["Yes."] * 50),
    "the whole story twice": KITE + "\n\n" + KITE,
    "a long story": (KITE + "\n") * 20,
    "capitals": ("The dog ran home. " + "THE DOG RAN HOME. ") * 12,
    "no blanks": "ha" * 500 + " ha ha ha ha.",
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS.keys())
def test_loops_do_not_pass(text: str) -> None:
    assert find_flaw(text.strip(), RULES) == "repeats itself"


@pytest.mark.parametrize(
    "text",
    [
        "No, no, no, no, no, no, no, no! said the hen.",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "Run, rabbit, run! Run, rabbit, run! Run, rabbit, run! And the rabbit ran.",
        KITE + " Knock, knock, knock! Knock, knock, knock! " + "It was the goose. She had baked a cake.",
    ],
)
def test_playful_repetition_passes(text: str) -> None:
    assert find_flaw(text, RULES) is None


def test_shares_by_hand() -> None:
    six = "one two three four five six"
    assert repetition(six).repeated_share == 0.0
    assert repetition(f"{six} X {six}") == repetition(f"{six} x {six.upper()}")
    found = repetition(f"{six} X {six}")
    assert (found.repeated_share, found.loop_share) == (6 / 13, 0.0)  # an X lies between the two
    found = repetition(f"{six} {six}")
    assert (found.repeated_share, found.loop_share) == (0.5, 0.0)  # twice in a row is no loop yet
    found = repetition(f"{six} {six} {six}")
    assert (found.repeated_share, found.loop_share) == (12 / 18, 12 / 18)
    assert repetition("a b " * 20).loop_share == 38 / 40
    assert repetition("").loop_share == 0.0


def test_a_single_repeated_run_can_break_a_strict_limit() -> None:
    text = "one two three four five six x one two three four five six."
    strict = QualityRules(max_repetition=0.3, max_loop=None, language=None)
    assert find_flaw(text.replace("six.", "six ."), strict) == "repeats itself"  # 6 of 14 words, in one run of six
    assert find_flaw(text, strict) is None  # "six." with its dot is another word


def test_only_the_beginning_of_a_library_is_compared() -> None:
    words = [f"word{number}" for number in range(100_000)]
    assert repetition(" ".join([*words, *words])).repeated_share == 0.0
    assert repetition(" ".join([*words[:50_000], *words])).repeated_share == 0.5


def repeated_share_slowly(words: list[str]) -> float:
    """Share of words in a run of six that begins anywhere earlier as well, by looking everywhere."""
    covered: set[int] = set()
    for start in range(len(words) - 5):
        if any(words[earlier : earlier + 6] == words[start : start + 6] for earlier in range(start)):
            covered.update(range(start, start + 6))
    return len(covered) / len(words) if words else 0.0


WORDY = st.lists(st.sampled_from("abc"), max_size=60) | st.builds(
    lambda parts: [word for part in parts for word in part],
    st.lists(st.sampled_from([list("abcdefgh"), list("ijk"), list("lmnopqrst"), ["u"]]), max_size=12),
)


@given(WORDY)
def test_the_repeated_share_equals_its_slow_description(words: list[str]) -> None:
    found = repetition(" ".join(words))
    assert found.repeated_share == pytest.approx(repeated_share_slowly(words))
    assert 0.0 <= found.loop_share <= found.repeated_share


@given(WORDY, st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.93, None]), st.sampled_from([0.0, 0.2, 0.5, None]))
def test_the_quick_look_never_misses_what_the_full_count_finds(
    words: list[str], max_repetition: float | None, max_loop: float | None
) -> None:
    text = " ".join(words)
    rules = QualityRules(
        language=None, min_words=0, require_ending=False, max_repetition=max_repetition, max_loop=max_loop
    )
    found = repetition(text)
    looped = round(found.loop_share * len(words))
    flawed = (max_repetition is not None and found.repeated_share > max_repetition) or (
        max_loop is not None and looped >= 24 and found.loop_share > max_loop
    )
    if words:
        assert find_flaw(text, rules) == ("repeats itself" if flawed else None)


@given(st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=5), min_size=1, max_size=12), st.integers(3, 9))
def test_a_passage_said_over_and_over_is_a_loop(passage: list[str], times: int) -> None:
    copies = passage * times
    if len(copies) - len(passage) >= 24:
        assert find_flaw(" ".join(copies), QualityRules(language=None, require_ending=False)) == "repeats itself"


# ------------------------------------------------------------------------------------------------------------ ending

ENDED = [
    "They went home.",
    "Who was it?",
    "Hooray!",
    "And then... they slept...",
    "And they dreamed…",
    "“Good night,” she said. “Sleep well.”",
    "'Yes.'",
    "He laughed (and so did she.)",
    "He laughed (and so did she).",
    "They all lived happily *ever after.*",
    "They were friends. 😊",
    "They were friends! ❤️👨‍👩‍👧",
    "They were friends.🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "They went home.\n\nThe End",
    "They went home. THE END",
    "They went home.\n*** The End ***",
    "They went home.\n- The very end -",
    "They went home.\n\nFin",
    "They went home together\nThe End",
    "And they lived happily ever after",
    "They went home.\n\nThe end of the story",
    "They lived in joy and contentment.(1)",
    "它们一起找到了回家的路。",
    "「さようなら」",
    "एक दिन उसे एक नया दोस्त मिला।",
    "እነሱም በደስታ ኖሩ።",
    "وعاشوا في سعادة۔",
    "هل عاد إلى البيت؟",
    "Ποιος ήταν;",
    "แล้วพวกเขาก็มีความสุข",
    "„Gute Nacht.“",
    "»Gute Nacht!«",
    "« Bonne nuit ! »",
    "Նրանք ապրեցին երջանիկ։",
]


@pytest.mark.parametrize("text", ENDED)
def test_complete_endings(text: str) -> None:
    assert has_ending(text)


CUT = [
    "They went",
    "They went home,",
    "She said:",
    "They went home -",
    "They went home —",
    "They went home; and then;",
    "She said, “I am",
    "He ran to the end",
    "We walked until, at last, the end",
    "They were friends 😊",
    "A list:\n- one\n- two",
    "The weekend",
    "dolphin",
    "”",
    "",
]


@pytest.mark.parametrize("text", CUT)
def test_cut_off_endings(text: str) -> None:
    assert not has_ending(text)


@given(st.text(string.ascii_letters + " ", min_size=1), st.sampled_from(".!?…。"), st.text("\"'”’)]*»😀 ", max_size=4))
def test_a_closing_mark_counts_whatever_quotes_and_emoji_follow(text: str, mark: str, closers: str) -> None:
    assert has_ending(text + mark + closers)


@given(st.text(string.ascii_letters + " ", min_size=1), st.sampled_from(",:;-–—"), st.text("\"'”’)*😀 ", max_size=4))
def test_marks_that_lead_on_are_no_ending(text: str, mark: str, closers: str) -> None:
    assert not has_ending(text + mark + closers)


def test_words_are_counted_in_scripts_without_blanks() -> None:
    assert count_words("The hen sat down.") == 4
    assert count_words("从前有一只小兔子。") == 5  # 8 letters and a mark
    assert count_words("") == 0
    assert find_flaw("从前有一只小兔子，它住在森林里。", QualityRules(language=None)) is None


# -------------------------------------------------------------------------------------------------------- real stories


def test_no_original_story_is_dropped() -> None:
    stories = original_stories()
    assert len(stories) > 1000
    assert [
        find_flaw(tidy_text(story.text), RULES) for story in stories if find_flaw(tidy_text(story.text), RULES)
    ] == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the stories that lie beside some checkouts")
@pytest.mark.parametrize(
    ("name", "most_dropped"),
    [("tinystories-val", 0), ("african-storybook", 5), ("tf1-fables", 0), ("fairytaleqa-val", 0)],
)
def test_hardly_any_real_story_is_dropped_and_none_for_its_language_or_its_refrain(
    name: str, most_dropped: int
) -> None:
    lines = (SHARED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    flaws = [find_flaw(tidy_text(json.loads(line)["text"]), RULES) for line in lines]
    dropped = [flaw for flaw in flaws if flaw is not None]
    assert len(dropped) <= most_dropped
    assert set(dropped) <= {"does not end like a story"}
