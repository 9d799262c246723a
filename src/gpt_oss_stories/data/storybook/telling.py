"""One story while it is told: the world's state, the text so far, and what is known about it.

A plot is a function that takes a `Telling`, casts its hero and companions, fixes the facts in slots, and says its beats
in order. All randomness comes from the telling's own generator.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from .agreement import HE, SHE, Pronouns, polish, title_case, with_article
from .levels import ReadingLevel
from .lexicon import BOYS, COLOURS, FRIEND_BOYS, FRIEND_GIRLS, GIRLS
from .templates import compile_template, render
from .world import (
    ANIMALS,
    BOY,
    CREATURES,
    GIRL,
    KIN,
    SETTINGS,
    TOWN_ANIMALS,
    Kin,
    Kind,
    Setting,
    Thing,
)

T = TypeVar("T")

_MARKED = re.compile(r"[{\[<]").search

DAYS = (
    "[one day|one [sunny|windy|warm|grey|bright] [morning|day|afternoon]|on [Monday|Sunday|Friday] morning|"
    "on the first day of [spring|summer]|one morning in [spring|May|autumn]|early one morning]"
)
MORNINGS = (
    "[one morning|one [sunny|windy|warm|grey|bright] morning|on [Monday|Sunday|Friday] morning|"
    "one morning in [spring|May|autumn]|early one morning]"
)
SNOW_MORNINGS = (
    "[one morning|one [cold|bright|grey|frosty] morning|on [Monday|Sunday|Friday] morning|one winter morning]"
)
HOME_TAIL = ", in a [small|round|crooked|snug] {home} with a [red|blue|green|round] door"
SNOW_DAYS = (
    "[one day|one [cold|bright|grey|frosty] [morning|day|afternoon]|on [Monday|Sunday|Friday] morning|one winter day]"
)

LESSON_LINES = (
    "That day {N} learned something: {lesson}",
    "{N} never forgot it: {lesson}",
    'And if you ask {N}, {he} will tell you: "{said_lesson}"',
)

LOOKALIKES = {"puppy": "dog", "kitten": "cat", "duckling": "duck"}

HUMAN_SHARE = 0.45
"""How many of the heroes are children rather than animals."""


class Telling:
    """The state of one story; see the module's text."""

    def __init__(self, seed: int, age: int, level: ReadingLevel) -> None:
        self.random = Random(seed).random
        self.age = age
        self.level = level
        self.grade = level.grade
        self.slots: dict[str, str] = {}
        self.companions: list[str] = []
        self.pronouns: set[str] = set()
        """Subject pronouns of everybody in the story who has one."""
        self.features: list[str] = []
        self.lesson: str | None = None
        self.title = ""
        self.summary = ""
        self.asked: list[tuple[str, str, tuple[str, ...]]] = []
        self.setting: Setting = SETTINGS[0]
        self.kind: Kind = GIRL
        self.hero_pronouns = SHE
        self.hero_name = ""
        self._out: list[str] = []
        self._polished: str | None = None

    # Drawing.

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def draw(self, options: Sequence[T], count: int) -> list[T]:
        """Several different options, in random order."""
        rest = list(options)
        return [rest.pop(int(self.random() * len(rest))) for _ in range(count)]

    # The world.

    def put(self, **values: str) -> None:
        """Fill slots. A value may itself be a template; it is worded now, once, so that it stays the same."""
        for key, value in values.items():
            self.slots[key] = self.word(value)

    def word(self, template: str) -> str:
        """The words of one template, chosen now."""
        if not _MARKED(template):
            return template
        out: list[str] = []
        render(compile_template(template, self.grade), self.slots, self.random, out)
        return "".join(out)

    def hero(self, *, without: Sequence[str] = (), animals: bool = True) -> None:
        """Cast the hero: name, kind and pronouns."""
        if not animals or self.random() < HUMAN_SHARE:
            self.kind = GIRL if self.random() < 0.5 else BOY
            girl = self.kind is GIRL
        else:
            self.kind = self.pick(ANIMALS)
            while self.kind.name in without:
                self.kind = self.pick(ANIMALS)
            girl = self.random() < 0.5
        kind, pronouns = self.kind, SHE if girl else HE
        name = self.pick(GIRLS if girl else BOYS)
        self.pronouns.add(pronouns.subject)
        self.hero_pronouns, self.hero_name = pronouns, name
        self.slots.update(
            N=name,
            he=pronouns.subject,
            him=pronouns.object,
            his=pronouns.possessive,
            himself=pronouns.reflexive,
            kind=kind.name,
            namekind=name if kind.human else f"{name} the {kind.name}",
            home=kind.home,
            hands=kind.hands,
            hand=kind.hand,
            run=kind.run,
            ran=kind.ran,
            colour=self.pick(COLOURS),
            look="little",
        )

    def settle(self, *, swim: bool = False, wild: bool = False, warm: bool = False) -> None:
        """Choose where the story happens: where the hero can live, with water to swim in, out of town, without snow."""
        townsfolk = self.kind.human or self.kind.name in TOWN_ANIMALS
        while True:
            setting = self.pick(SETTINGS)
            if setting.town and (wild or not townsfolk):
                continue
            if (swim and not setting.swim) or (warm and setting.snow):
                continue
            if self.kind.name == "penguin" and not ("sea" in setting.water or setting.snow):
                continue
            break
        self.setting = setting
        self.slots.update(
            where=setting.where,
            here=setting.here,
            water=setting.water,
            path=setting.path,
            detail=self.pick(setting.details),
            night=self.pick(setting.night),
            treasure=self.pick(setting.treasure),
            morning=self.word(SNOW_MORNINGS if setting.snow else MORNINGS),
            tail="" if "house" in setting.where else self.word(HOME_TAIL),
            day=self.word(SNOW_DAYS if setting.snow else DAYS),
        )

    def spots(self, count: int) -> None:
        """Choose places of the setting: {in1}, the place itself {spot1}, what one finds there {finds1}, and so on."""
        for index, spot in enumerate(self.draw(self.setting.spots, count), start=1):
            self.slots[f"in{index}"] = spot.place
            self.slots[f"spot{index}"] = spot.thing
            self.slots[f"finds{index}"] = spot.finds

    def thing(self, key: str, thing: Thing) -> None:
        """A thing under its name: {toy}, {a_toy} in full, {toy_it}, {toy_was}."""
        full = self.word(thing.full)
        self.slots.update(
            {
                key: thing.name,
                f"full_{key}": full,
                f"a_{key}": with_article(full),
                f"{key}_it": thing.pronouns.subject,
                f"{key}_them": thing.pronouns.object,
                f"{key}_was": thing.was,
            }
        )

    def wise(self, key: str = "pal") -> None:
        """Cast an old animal of the neighbourhood, one that gives advice."""
        self.creature(key, self.setting.creatures, old=True)

    def small(self, key: str = "pal") -> None:
        """Cast a small young animal of the neighbourhood."""
        self.creature(key, self.setting.creatures, old=False)

    def creature(self, key: str, among: Sequence[str], *, old: bool | None = None) -> None:
        """Cast one of several animals: {pal}, {a_pal} with its looks, {pal_he}"""
        creature = CREATURES[self.pick(self.free(among))]
        look = self.pick(creature.old if old or (old is None and self.chance(0.5)) else creature.young)
        self._companion(key, f"the {creature.name}", with_article(f"{look} {creature.name}"), self.other_pronouns())
        self.slots[f"{key}_kind"] = creature.name

    def free(self, names: Sequence[str]) -> list[str]:
        """Those of some animals that are not in the story yet, and not easily taken for the hero."""
        taken = {self.kind.name, LOOKALIKES.get(self.kind.name, "")}
        taken.update(companion.split()[-1] for companion in self.companions)
        return [name for name in names if name not in taken]

    def know(self, companion: str) -> None:
        """Note a companion for whom the text uses no pronoun but `it`."""
        self.companions.append(companion)

    def meet(self, subject_pronoun: str) -> None:
        """Note that somebody else comes in for whom this pronoun is used."""
        self.pronouns.add(subject_pronoun)

    def other_pronouns(self) -> Pronouns:
        """Those that the hero does not have. Who meets the hero gets them, so a pronoun always tells who is meant."""
        return HE if self.hero_pronouns is SHE else SHE

    def friend(self, key: str = "F") -> str:
        """Cast a friend with a name, a child if the hero is one, else another animal."""
        pronouns = self.other_pronouns()
        girl = pronouns is SHE
        name = self.pick(FRIEND_GIRLS if girl else FRIEND_BOYS)
        if self.kind.human:
            kind = "girl" if girl else "boy"
        else:
            kind = self.pick([animal.name for animal in ANIMALS if animal.name not in (self.kind.name, "penguin")])
        self._companion(key, name, f"{name} the {kind}" if not self.kind.human else name, pronouns)
        self.slots[f"{key.lower()}_kind"] = kind
        self.companions[-1] = f"{name} the {kind}" if not self.kind.human else f"a {kind} named {name}"
        return name

    def kin(self, *names: str) -> Kin:
        """Cast a grown-up of the family."""
        kin = self.pick([kin for kin in KIN if not names or kin.name in names])
        other = kin.pronouns is not self.hero_pronouns
        self._companion("kin", kin.name, kin.name, kin.pronouns)
        self.companions[-1] = kin.name
        # One pronoun for two people confuses; then the name is said again.
        self.slots["kin_he"] = kin.pronouns.subject if other else kin.name
        self.slots["kin_him"] = kin.pronouns.object if other else kin.name
        self.slots["kin_his"] = kin.pronouns.possessive if other else f"{kin.name}'s"
        return kin

    def _companion(self, key: str, name: str, introduced: str, pronouns: Pronouns) -> None:
        self.companions.append(introduced)
        self.pronouns.add(pronouns.subject)
        self.slots.update(
            {
                key: name,
                f"a_{key}": introduced,
                f"{key.lower()}_he": pronouns.subject,
                f"{key.lower()}_him": pronouns.object,
                f"{key.lower()}_his": pronouns.possessive,
                f"{key.lower()}_himself": pronouns.reflexive,
            }
        )

    # The text.

    def say(self, *options: str) -> None:
        """Tell one beat, in one of several wordings, within the paragraph."""
        option = options[int(self.random() * len(options))] if len(options) > 1 else options[0]
        out = self._out
        if out and option[0] != "\n":
            out.append(" ")
        render(compile_template(option, self.grade), self.slots, self.random, out)

    def turn(self, *options: str) -> None:
        """Begin a new paragraph with a beat."""
        if self._out:
            self._out.append("\n")
        option = options[int(self.random() * len(options))] if len(options) > 1 else options[0]
        render(compile_template(option, self.grade), self.slots, self.random, self._out)

    def more(self, grade: int, *options: str) -> None:
        """A beat within the paragraph for reading levels from `grade` up, on which it is told more often than not."""
        if self.grade >= grade and self.random() < (0.9 if self.grade > grade else 0.6):
            self.say(*options)

    def also(self, grade: int, *options: str) -> None:
        """A beat within the paragraph that is always told on reading levels from `grade` up."""
        if self.grade >= grade:
            self.say(*options)

    def text(self) -> str:
        """The finished story, with articles and capitals in order."""
        if self._polished is None:
            self._polished = polish("".join(self._out))
        return self._polished

    # What is known about it.

    def about(self, title: Sequence[str], summary: Sequence[str]) -> None:
        """Title and one-sentence summary, each one of several wordings."""
        self.title = polish(title_case(self.word(self.pick(title))))
        self.summary = polish(self.word(self.pick(summary)))

    def feature(self, *features: str) -> None:
        self.features.extend(feature for feature in features if feature not in self.features)

    def teach(self, lesson: str, *, aloud: bool = True) -> None:
        """What the story shows. Now and then it is said aloud, and sometimes nobody would have asked for it."""
        said = aloud and self.grade > 1 and self.random() < 0.15
        if said:
            self.put(lesson=lesson[0].lower() + lesson[1:], said_lesson=lesson)
            self.turn(*LESSON_LINES)
        if said or self.random() < 0.5:
            self.lesson = lesson

    def rhyme(self, grade: int, *options: str) -> None:
        """Now and then, a beat that rhymes."""
        if self.grade >= grade and self.random() < 0.3:
            self.say(*options)
            self.feature("a rhyme somewhere in it")

    def ask(self, question: str, answer: str, wrong: Sequence[str]) -> None:
        """A question whose answer the story holds; `wrong` are answers that could be but are not. All are templates."""
        self.asked.append((question, answer, tuple(wrong)))
