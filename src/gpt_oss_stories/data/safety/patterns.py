"""The small language of the tables in `terms`: patterns of words, their inflections, and how they are matched.

A pattern is words with spaces between them:

    blood               this word
    pool|puddle         one of these words
    kill/v              the verb with its inflections: kill, kills, killed, killing
    knife/n             the noun and its plural: knife, knives
    @person             one of the words of a class (`terms.CLASSES`)
    ?own                a word that may be missing
    ..3                 up to three words of any kind, as few as possible

The search for a pattern begins at the rarest of its words (`common`). Words are compared whole and in lower
case; there is no search for parts of words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .common import SHARE

Classes = Mapping[str, frozenset[str]]

_IRREGULAR_VERBS = {
    "beat": "beat beats beating beaten",
    "bite": "bite bites biting bit bitten",
    "bleed": "bleed bleeds bleeding bled",
    "blow": "blow blows blowing blew blown",
    "break": "break breaks breaking broke broken",
    "burn": "burn burns burning burned burnt",
    "burst": "burst bursts bursting",
    "catch": "catch catches catching caught",
    "cut": "cut cuts cutting",
    "die": "die dies dying died",
    "dig": "dig digs digging dug",
    "drag": "drag drags dragging dragged",
    "drink": "drink drinks drinking drank drunk",
    "drive": "drive drives driving drove driven",
    "drip": "drip drips dripping dripped",
    "drop": "drop drops dropping dropped",
    "drug": "drug drugs drugging drugged",
    "eat": "eat eats eating ate eaten",
    "fall": "fall falls falling fell fallen",
    "feel": "feel feels feeling felt",
    "fight": "fight fights fighting fought",
    "get": "get gets getting got gotten",
    "give": "give gives giving gave given",
    "go": "go goes going went gone",
    "grow": "grow grows growing grew grown",
    "hang": "hang hangs hanging hanged hung",
    "have": "have has having had",
    "hit": "hit hits hitting",
    "hold": "hold holds holding held",
    "hurt": "hurt hurts hurting",
    "keep": "keep keeps keeping kept",
    "light": "light lights lighting lit lighted",
    "make": "make makes making made",
    "nod": "nod nods nodding nodded",
    "pour": "pour pours pouring poured",
    "put": "put puts putting",
    "rip": "rip rips ripping ripped",
    "rub": "rub rubs rubbing rubbed",
    "run": "run runs running ran",
    "say": "say says saying said",
    "scar": "scar scars scarring scarred",
    "sell": "sell sells selling sold",
    "send": "send sends sending sent",
    "set": "set sets setting",
    "shake": "shake shakes shaking shook shaken",
    "shit": "shit shits shitting shat shitted",
    "shoot": "shoot shoots shooting shot",
    "slap": "slap slaps slapping slapped",
    "slay": "slay slays slaying slew slain",
    "slip": "slip slips slipping slipped",
    "slit": "slit slits slitting",
    "split": "split splits splitting",
    "stab": "stab stabs stabbing stabbed",
    "steal": "steal steals stealing stole stolen",
    "step": "step steps stepping stepped",
    "stick": "stick sticks sticking stuck",
    "strike": "strike strikes striking struck stricken",
    "strip": "strip strips stripping stripped",
    "swim": "swim swims swimming swam swum",
    "swing": "swing swings swinging swung",
    "take": "take takes taking took taken",
    "tear": "tear tears tearing tore torn",
    "throw": "throw throws throwing threw thrown",
    "vomit": "vomit vomits vomiting vomited",
    "wear": "wear wears wearing wore worn",
    "whip": "whip whips whipping whipped",
    "win": "win wins winning won",
    "wrap": "wrap wraps wrapping wrapped",
    "write": "write writes writing wrote written",
}
_IRREGULAR_NOUNS = {
    "child": "child children",
    "foot": "foot feet",
    "knife": "knife knives",
    "life": "life lives",
    "man": "man men",
    "tooth": "tooth teeth",
    "wife": "wife wives",
    "wolf": "wolf wolves",
    "woman": "woman women",
}


def verb_forms(verb: str) -> frozenset[str]:
    """A verb's infinitive, third person, past, participles: "stab" gives stab, stabs, stabbing, stabbed."""
    if verb in _IRREGULAR_VERBS:
        return frozenset(_IRREGULAR_VERBS[verb].split())
    if verb.endswith("e"):
        return frozenset((verb, verb + "s", verb[:-1] + "ing", verb + "d"))
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return frozenset((verb, verb[:-1] + "ies", verb + "ing", verb[:-1] + "ied"))
    return frozenset((verb, *_with_s(verb), verb + "ing", verb + "ed"))


def noun_forms(noun: str) -> frozenset[str]:
    """A noun and its plural."""
    if noun in _IRREGULAR_NOUNS:
        return frozenset(_IRREGULAR_NOUNS[noun].split())
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return frozenset((noun, noun[:-1] + "ies"))
    return frozenset((noun, *_with_s(noun)))


def _with_s(word: str) -> tuple[str]:
    return (word + "es",) if word.endswith(("s", "x", "z", "ch", "sh")) else (word + "s",)


def forms(words: str, classes: Classes) -> frozenset[str]:
    """All forms of the alternatives in one element of a pattern, such as "gun/n|@blade"."""
    found: set[str] = set()
    for word in words.split("|"):
        if word.startswith("@"):
            found |= classes[word[1:]]
        elif word.endswith("/v"):
            found |= verb_forms(word[:-2])
        elif word.endswith("/n"):
            found |= noun_forms(word[:-2])
        else:
            found.add(word)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Element:
    """One place of a pattern."""

    forms: frozenset[str]
    gap: int = 0
    """How many words of any kind may stand before it."""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Pattern:
    """A sequence of words to look for; see the module's text for how it is written."""

    written: str
    elements: tuple[Element, ...]
    key: int
    """Index of the element at which the search begins."""

    @property
    def keys(self) -> frozenset[str]:
        return self.elements[self.key].forms

    def match(self, words: Sequence[str], at: int) -> tuple[int, ...] | None:
        """The places of the pattern's words, in rising order, when its key is the word at index `at`; else None.

        Fewer words between are preferred, and an optional word is taken where it stands.
        """
        if words[at] not in self.keys:
            return None
        after = _follow(self.elements, self.key + 1, words, at)
        if after is None:
            return None
        before = _precede(self.elements, self.key, self.elements[self.key].gap, words, at)
        return None if before is None else (*before, at, *after)


def _follow(elements: Sequence[Element], number: int, words: Sequence[str], at: int) -> tuple[int, ...] | None:
    """Places of the elements from `number` on, all after the word at `at`."""
    if number == len(elements):
        return ()
    element = elements[number]
    for place in range(at + 1, min(at + 2 + element.gap, len(words))):
        if words[place] in element.forms:
            rest = _follow(elements, number + 1, words, place)
            if rest is not None:
                return (place, *rest)
    return _follow(elements, number + 1, words, at) if element.optional else None


def _precede(
    elements: Sequence[Element], number: int, gap: int, words: Sequence[str], at: int
) -> tuple[int, ...] | None:
    """Places of the elements before `number`, all before the word at `at`, the last at most `gap` words away."""
    if number == 0:
        return ()
    element = elements[number - 1]
    for place in range(at - 1, max(at - 2 - gap, -1), -1):
        if words[place] in element.forms:
            rest = _precede(elements, number - 1, element.gap, words, place)
            if rest is not None:
                return (*rest, place)
    return _precede(elements, number - 1, gap, words, at) if element.optional else None


def parse_pattern(written: str, classes: Classes) -> Pattern:
    """The pattern for its written form.

    Raises:
        ValueError: all its words may be missing, or a gap stands at its end or before a word that may be missing.
        KeyError: it names a class that is not there.
    """
    elements: list[Element] = []
    gap = 0
    for part in written.split():
        if part.startswith(".."):
            gap = int(part[2:])
            continue
        if part.startswith("?") and gap:
            raise ValueError(f"pattern {written!r} has a gap before a word that may be missing")
        elements.append(Element(forms(part.removeprefix("?"), classes), gap, part.startswith("?")))
        gap = 0
    required = [number for number, element in enumerate(elements) if not element.optional]
    if gap or not required:
        raise ValueError(f"pattern {written!r} ends with a gap or needs no word at all")
    return Pattern(written, tuple(elements), min(required, key=lambda number: cost(elements[number].forms)))


def cost(words: frozenset[str]) -> float:
    """How often a search that begins at one of these words is begun: about how many times per hundred stories."""
    return sum(SHARE.get(word, 0.2) for word in words)
