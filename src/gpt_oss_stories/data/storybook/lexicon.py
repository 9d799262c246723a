"""The storybook's words: names, colours, and the verbs, nouns and adjectives that a request may ask for.

Every name of `HEROES` and `FRIENDS` is one token of the harmony vocabulary, at the start of a text as well as after a
space, so that even a very small model can carry a name through a whole story. The two pools share no name: a story's
hero and the hero's friend are never mixed up.
"""

from __future__ import annotations

import re
from collections.abc import Callable


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIRLS = _words(
    "Anna Emma Ruby Ella Lucy Alice Eva Sara Amy Ada Bella Maria Julia Jane Kate Laura Mary Emily Rachel Lisa Beth "
    "Charlotte Claire Helen Jenny Katie Nancy Nova Uma Georgia"
)
BOYS = _words(
    "Tom Ben Sam Max Leo Finn Oscar Theo Adam Ali Kai Ivan Marco Simon Peter Luke Henry George Charlie Billy Oliver "
    "Arthur Ted Juan Carlos Raj Wei Jacob Pedro Ahmed"
)
HEROES = GIRLS + BOYS
FRIEND_GIRLS = ("Susan", "Julie", "Jess", "Sue", "Linda", "Ana")
FRIEND_BOYS = ("Fred", "Jake", "Joe", "Kit", "Bob", "Nick")
FRIENDS = FRIEND_GIRLS + FRIEND_BOYS

COLOURS = ("red", "blue", "green", "yellow", "white", "brown", "orange")

# A verb with the forms in which the stories use it; words that can also be another part of speech are left out.
_VERBS = (
    "look looked, call called, jump jumped, fall fell fallen, push pushed, pull pulled, laugh laughed, "
    "smile smiled, whisper whispered, shout shouted, sleep slept, dance danced, sing sang, carry carried, "
    "climb climbed, throw threw, roll rolled, build built, paint painted, plant planted, bake baked, "
    "knit knitted, fold folded, draw drew, hide hid, wait waited, follow followed, break broke, mend mended, "
    "knock knocked, wave waved, hug hugged, cough coughed, giggle giggled, nod nodded, yawn yawned, "
    "clap clapped, bow bowed, scoop scooped, tie tied, swim swam, skip skipped, ride rode, find found, "
    "listen listened, feed fed, water watered, try tried, wash washed, hum hummed, shake shook, snore snored, "
    "remember remembered, stamp stamped, forget forgot forgotten, blow blew, dig dug, fly flew, hop hopped, "
    "eat ate, count counted, bend bent, lean leaned, share shared, run ran, think thought, ask asked, "
    "open opened"
)
VERB_FORMS = {forms.split()[0]: tuple(forms.split()) for forms in _VERBS.split(", ")}
# Only inflected forms tell a verb for sure: "plant" alone may be a thing in a pot.
_BASE_OF = {form: base for base, forms in VERB_FORMS.items() for form in forms[1:]}

NOUNS = frozenset(
    _words(
        "moon lamp pond river sea kite boat ball drum tree oak branch stone mud wind storm thunder rain snow cake "
        "soup pot seed button sock thread blanket pillow string balloon flag cart wheel rope lantern umbrella "
        "horn fence wall gate door window garden grass nest egg hat boot scarf coat broom cup bowl clock teapot "
        "glue paper flower tower bridge raft hut stick sand puddle bucket spoon ladle bell kitchen bed sack "
        "basket house straw clover flour candle torch birthday race prize ribbon knot pear hen fish tummy nose "
        "wagon song puppet forest island meadow beach roof chair pumpkin hole supper biscuit honey berries "
        "footprints sky night stairs feather shell corner elephant lion doll train horse mushroom"
    )
)
ADJECTIVES = frozenset(
    _words(
        "small old red blue green yellow white brown big tall warm cold wet dry dark quiet loud soft thin thick "
        "heavy empty tiny brave shy proud happy sad tired sore broken new young merry cheerful curious lively "
        "wooden golden strange sleepy busy wise sunny grey clean dirty smooth deep slow flat strong afraid damp "
        "sorry ready bright windy woolly snowy frosty snug crooked safe"
    )
)

_WORD = re.compile(r"[a-z]+")


def words_for(text: str, random: Callable[[], float]) -> tuple[str, ...]:
    """A verb, a noun and an adjective of the text, as a request would name them: the verb in its base form."""
    verbs, nouns, adjectives = [], [], []
    for word in dict.fromkeys(_WORD.findall(text.lower())):
        if word in _BASE_OF:
            verbs.append(_BASE_OF[word])
        elif word in NOUNS:
            nouns.append(word)
        elif word in ADJECTIVES:
            adjectives.append(word)
    return tuple(found[int(random() * len(found))] for found in (verbs, nouns, adjectives) if found)
