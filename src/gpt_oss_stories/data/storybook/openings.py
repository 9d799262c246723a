"""How stories begin and end, whatever happens between."""

from __future__ import annotations

from .telling import Telling

LOOKS = "[little|small|young|cheerful|curious|little|small|merry|lively]"

TRAITS = (
    "who hummed all day long",
    "who liked to count things",
    "who never walked when {he} could {run}",
    "who asked a hundred questions a day",
    "who always carried a lucky stone",
    "who liked pancakes more than anything",
    "with a laugh like a small bell",
    "with mud up to {his} ears",
    "who could stand on one leg for a very long time",
    "who woke up before the birds",
    "who talked to the clouds",
    "who gave every tree a name",
    "who wore a hat even in bed",
    "who sang in the bath",
)

FIRST_LINES = (
    "Once upon a time, {where}, there was a {look} {kind} named {N}.",
    "Once upon a time there was a {look} {kind} called {N}. {He} lived {where}.",
    "Once upon a time {where} there lived a {look} {kind} named {N}.",
    "Once upon a time there lived a {look} {kind} named {N} {where}.",
    "Once there was a {look} {kind} named {N} <3+ {trait}>. {He} lived {where}.",
    "{N} was a {look} {kind} {trait}. {He} lived {where}.",
    "{N} was a {look} {kind}. {He} lived {where}<2+ {tail}>.",
    "{Where} lived a {look} {kind} named {N}. <3+ {detail}>",
    "{Where} there lived a {kind} {trait}. {His} name was {N}.",
    "There was once a {kind} {trait}. {His} name was {N}<2+ , and {he} lived {where}>.",
    "{Where}, everybody knew {namekind}. {N} was the {kind} {trait}.",
    "{Namekind} lived {where}. {detail}",
    "{Namekind} lived {where}. {N} was a {look} {kind} {trait}.",
    "This is the story of {namekind}, who lived {where}. <3+ {detail}>",
    "{Namekind} sat on the step and [yawned|hummed a little|looked at the sky]. {N} lived {where}. <3+ {detail}>",
    "Not [very far|so far] from here, {where}, lived a {look} {kind}. {His} name was {N}.",
    (
        "Long ago, {where}, a {look} {kind} named {N} [woke up and stretched|opened {his} eyes|looked out of the "
        "{home}]. {detail}"
    ),
    "{detail} That was how the day began for {N}, a {look} {kind} who lived {where}.",
)


SHORT_FIRST_LINES = (
    "{N} was a {look} {kind}. {He} lived {where}.",
    "Once there was a {look} {kind} named {N}.",
    "{Where} lived a {look} {kind} named {N}.",
    "A {look} {kind} named {N} lived {where}.",
    "There was a {kind} {trait}. {His} name was {N}.",
    "Once upon a time there was a {look} {kind} called {N}.",
    "{N} was a {look} {kind} {trait}.",
)


def introduce(w: Telling, look: str = LOOKS, trait: str | None = None) -> None:
    """The first paragraph's beginning: who the hero is and where. The plot goes on within the paragraph."""
    w.put(look=look, trait=trait or w.pick(TRAITS))
    w.turn(*(SHORT_FIRST_LINES if w.grade == 1 else FIRST_LINES))


READER_FEATURE = "a question to the reader at the end"

BEDTIMES = (
    "That night {night}, and {N} slept [like a stone|very well|with a smile].",
    "When the moon came up, {N} was already asleep.",
    'Then it was bedtime. "Good night," said {N} to [the moon|the stars|the dark], and {he} slept.',
    "In bed, {N} thought of it once more. Then {night}, and {he} fell asleep.",
    "Outside, {night}. Inside, {N} was fast asleep.",
)


def bedtime(w: Telling, probability: float = 0.3) -> None:
    """Now and then, a last paragraph that ends in bed."""
    if READER_FEATURE not in w.features and w.chance(probability if w.grade > 1 else probability / 2):
        w.turn(*BEDTIMES)
        w.feature("ends with bedtime")


def ask_reader(w: Telling, *questions: str) -> None:
    """Now and then, a last line that asks whoever listens."""
    if w.grade > 1 and w.chance(0.12):
        w.turn(*questions)
        w.feature(READER_FEATURE)
