"""First readers: very short stories in which nearly every sentence names the hero.

    write_first_reader(seed)           one, a pure function of its seed
    write_first_readers(count, seed)   many different ones

They are for a child who reads the first words alone, and for a young model, which has the same thing to learn: that the
name in the first sentence is the one that belongs in the next. Without them a small model tells whole plots long before
it can keep a hero's name (docs/story-model.md has the figures).
"""

from __future__ import annotations

import random as random_module
from collections.abc import Iterator

from ...tokenization.conversation import Question, StoryRequest
from ..records import StoryRecord
from .agreement import HE, SHE, polish, with_article
from .lexicon import BOYS, COLOURS, FRIEND_BOYS, FRIEND_GIRLS, GIRLS, words_for
from .seeds import distinct, mix
from .templates import compile_template, render
from .world import ANIMALS, BOY, GIRL

AGE = 3
LICENSE = "CC0-1.0"


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


THINGS = _list(
    "ball, boat, train, drum, kite, hat, horse, doll, lion, elephant, scarf, balloon, button, flag, spoon, lantern"
)
FRIENDS = _list("mouse, frog, duck, hen, goat, dog, cat, snail, robin, crab, owl, goose, toad, crow")
FOODS = _list("pear, red apple, biscuit, carrot, pancake, cake, bun, big nut")
SPOTS = _list(
    "under the bed, behind the door, in the box, under the tree, behind the wall, in the grass, by the pond, "
    "in the boat, under the chair, in the basket, behind the fence, on the roof, in the cave, by the river, "
    "in the garden, in the hay"
)
DEEDS = tuple(
    pair.split("/") for pair in _list("run/ran, jump/jumped, sing/sang, hop/hopped, dance/danced, climb/climbed")
)
MOODS = ("happy", "brave", "cold", "wet", "tired", "proud", "sleepy")

INTRODUCTIONS = (
    "This is {N}. {N} [is|was] a {look} {kind}.",
    "{N} was a {look} {kind}.",
    "Here is a story about {N}, a {look} {kind}.",
    "Look, here comes {N}! {N} was a {look} {kind}.",
    "A {look} {kind} named {N} woke up.",
    "Hello, {N}! {N} was a {look} {kind}.",
)

# Each line is a template; the lines of a story come in this order, those that begin with "?" only now and then.
LOST = (
    "{N} had {a_colour_thing}. {N} [liked|loved] the {thing}.",
    '"[Oh no|Oh dear]!" said {N}. "Where is my {thing}?"',
    "{N} looked {spot}. No {thing}.",
    "?{N} looked {spot2}. No {thing}.",
    "[{N} looked|Then {N} looked] {spot3}. There was the {thing}!",
    '"[There you are|Here you are|I see you], {thing}," said {N}.',
    "[{N} hugged the {thing}.|{N} took the {thing} home.|{N} held the {thing} tight.]",
)
TRYING = (
    "{N} could {do}. {N} could {do2}.",
    'Could {N} {do3}? "[Watch me|Look at me]," said {N}.',
    "{N} tried. [Bump! {N} fell down.|Plop! {N} sat in the mud.|Oops! {N} rolled over.]",
    '?"Again," said {N}. Bump!',
    '[{N} tried again.|{N} tried once more.|"Once more," said {N}.] {N} {did3}!',
    '"I can {do3}!" [cried|called|sang] {N}.',
    "[{N} {did3} all the way home.|Everybody clapped for {N}.|{N} was very proud.]",
)
SHARING = (
    "{N} had {a_food}. {N} was [hungry|very hungry].",
    "{A_friend} came by. {Friend} looked at {N}. {Friend} looked at the {food}.",
    '"Are you hungry too?" asked {N}. {Friend} nodded.',
    "?{N} thought. {N} looked at the {food}.",
    '{N} broke the {food} in two. "One for you," said {N}, "and one for me."',
    '"Thank you, {N}," said {friend}.',
    "[{N} and {friend} ate and ate.|{N} was happy, and so was {friend}.|Now {N} had a friend.]",
)
HIDING = (
    "{N} [hid|went to hide]. Where was {N}?",
    "Was {N} {spot}? No, {N} was not {spot}.",
    "?Was {N} {spot2}? No, {N} was not there.",
    "Was {N} {spot3}? Yes! There was {N}!",
    '"You found me," [laughed|said] {N}. "Now you hide!"',
    "{N} counted. [One, two, three.|One, two, three, four, five.] And {N} looked for {a_friend}.",
    "[{N} found {friend} {spot}.|{N} saw {friend} at once.]",
)
WEATHER = (
    "It [rained|rained and rained] on {N}. {N} was wet.",
    "{N} had {a_colour_thing}. The {thing} was wet too.",
    '"Come in, {thing}," said {N}. {N} took the {thing} [home|in].',
    '?{A_friend} knocked. "May I come in, {N}?" asked {friend}. "Yes," said {N}.',
    "{N} looked out. [Drip, drop.|Plip, plop.] {N} waited.",
    'Then the sun came out. "[Sun|Hello, sun]!" [cried|called] {N}.',
    "[{N} ran out with the {thing}.|Splash! {N} jumped into a puddle.|{N} was warm and dry.]",
)
GIFT = (
    "{N} had {a_colour_thing}. {A_friend} had no {thing}.",
    "{Friend} looked sad. {N} saw it.",
    '"Here," said {N}. "You can have the {thing}[| today]."',
    '"For me, {N}?" asked {friend}. "For you," said {N}.',
    "?{Friend} hugged {N}. {N} hugged {friend}.",
    "[Next day {friend} came to {N}.|In the morning {friend} came back to {N}.] {Friend} had {a_food}.",
    '"This is for {N}," said {friend}. [{N} laughed.|{N} was happy.]',
)
SLEEPY = (
    "{N} was tired. But {N} was not in bed.",
    "{N} said good night to the {thing}. {N} said good night to {friend}.",
    "?{N} said good night to the moon.",
    '"Now go to bed, {N}," said [Mama|Papa|Grandma|Grandpa].',
    '"I am not tired," said {N}, and {N} yawned.',
    "{N} lay down {spot}. [{N} closed one eye. {N} closed the other eye.|{N} put the {thing} on the pillow.]",
    "[Good night, {N}.|{N} slept.|Then {N} was asleep.]",
)

SCRIPTS = {
    "something lost": LOST,
    "learning something": TRYING,
    "sharing": SHARING,
    "hide and seek": HIDING,
    "rain": WEATHER,
    "a gift": GIFT,
    "bedtime": SLEEPY,
}
"""What happens in a first reader, by its theme."""

ASIDES = (
    '[{N} was {mood}.|How {mood} {N} was!|"I am {mood}," said {N}.]',
    "{N} [shook {his} head|rubbed {his} eyes|washed {his} face|scratched {his} ear|put on {his} hat]. {He} was {mood}.",
    "{N} [looked at {his} feet|smiled to {himself}|shut {his} eyes], and {he} [was {mood}|waited|laughed].",
)
"""Said now and then between the lines; two of them so that a name and its pronouns are learned together."""


def write_first_reader(seed: int) -> StoryRecord:
    """One first reader with its request and questions; the same seed gives the same one on every machine."""
    random = random_module.Random(mix(seed, 0xF1257))
    girl = random.random() < 0.5
    name = random.choice(GIRLS if girl else BOYS)
    kind = random.choice((*ANIMALS, GIRL if girl else BOY, GIRL if girl else BOY)).name
    theme = random.choice(tuple(SCRIPTS))
    colour, thing, friend, food = (random.choice(pool) for pool in (COLOURS, THINGS, FRIENDS, FOODS))
    pronouns = SHE if girl else HE
    # A friend with a name has the other pronoun, as in the longer stories.
    friend_name = random.choice(FRIEND_BOYS if girl else FRIEND_GIRLS) if random.random() < 0.5 else None
    spots, deeds = random.sample(SPOTS, 3), random.sample(DEEDS, 3)
    look = random.choice(("little", "small", "young", "merry", "cheerful"))
    slots = {
        "N": name, "look": look, "kind": kind, "colour": colour, "thing": thing, "mood": random.choice(MOODS),
        "a_colour_thing": with_article(f"{colour} {thing}"),
        "friend": friend_name or f"the {friend}",
        "a_friend": f"{friend_name} the {friend}" if friend_name else with_article(friend),
        "he": pronouns.subject, "his": pronouns.possessive, "himself": pronouns.reflexive,
        "food": food.rsplit(" ", 1)[-1], "a_food": with_article(food),
        "spot": spots[0], "spot2": spots[1], "spot3": spots[2],
        "do": deeds[0][0], "do2": deeds[1][0], "do3": deeds[2][0], "did3": deeds[2][1],
    }  # fmt: skip

    def line(template: str) -> str:
        out: list[str] = []
        render(compile_template(template, 1), slots, random.random, out)
        return "".join(out)

    lines = [line(random.choice(INTRODUCTIONS))]
    lines += [line(part.removeprefix("?")) for part in SCRIPTS[theme] if part[0] != "?" or random.random() < 0.5]
    if random.random() < 0.8:
        lines.insert(random.randrange(1, len(lines)), line(random.choice(ASIDES)))
    if random.random() < 0.3 and theme != "bedtime":
        lines.append(f"Good night, {name}.")
    # A few sentences on a page.
    pages = [" ".join(lines[start : start + 3]) for start in range(0, len(lines), 3)]
    text = polish("\n".join(pages))
    asked = [("Who is the story about?", name, GIRLS if girl else BOYS)]
    if slots["a_colour_thing"] in text:
        asked.append((f"What colour was the {thing}?", colour, COLOURS))
    return StoryRecord(
        text=text,
        title=f"{name} and the {thing}" if f"the {thing}" in text else f"Here Comes {name}",
        request=StoryRequest(
            age=AGE, hero_name=name, hero_kind=kind, theme=theme, words=words_for(text, random.random), length="short"
        ),
        summary=f"A first reader about {name}, {with_article(f'{look} {kind}')}, and {pronouns.possessive} day.",
        questions=tuple(_question(random, *parts) for parts in asked),
        source="storybook",
        license=LICENSE,
    )


def _question(random: random_module.Random, question: str, answer: str, pool: tuple[str, ...]) -> Question:
    choices = random.sample([choice for choice in pool if choice != answer], 2)
    index = random.randrange(3)
    choices.insert(index, answer)
    return Question(question=question, answer=answer, choices=tuple(choices), answer_index=index)


def write_first_readers(count: int, seed: int) -> Iterator[StoryRecord]:
    """First readers whose texts all differ; see `write_stories`."""
    return distinct(write_first_reader, count, seed)
