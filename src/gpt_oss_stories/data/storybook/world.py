"""What can be in a story: heroes, companions, places and things.

A place knows what lies in it, who lives near and what it sounds like, so that whatever a story takes from it belongs
there: what is searched can be searched, and what is found was there before.
"""

from __future__ import annotations

from dataclasses import dataclass

from .agreement import HE, IT, SHE, THEY, Pronouns


@dataclass(frozen=True)
class Kind:
    """What a hero is."""

    name: str
    home: str = "house"
    hands: str = "paws"
    run: str = "run"
    ran: str = "ran"
    human: bool = False
    swims: bool = False

    @property
    def hand(self) -> str:
        """One of them: `paw`."""
        return self.hands.removesuffix("s")


GIRL = Kind("girl", hands="hands", human=True)
BOY = Kind("boy", hands="hands", human=True)
ANIMALS = (
    Kind("rabbit", home="burrow", run="hop", ran="hopped"),
    Kind("mouse", run="hurry", ran="hurried"),
    Kind("bear", home="den"),
    Kind("fox", home="den"),
    Kind("hedgehog", run="hurry", ran="hurried"),
    Kind("kitten"),
    Kind("puppy"),
    Kind("squirrel", home="nest"),
    Kind("duckling", home="nest", hands="wings", run="waddle", ran="waddled", swims=True),
    Kind("penguin", hands="wings", run="waddle", ran="waddled", swims=True),
    Kind("monkey", home="tree house", hands="hands"),
    Kind("otter", swims=True),
)
TOWN_ANIMALS = ("mouse", "kitten", "puppy")


@dataclass(frozen=True)
class Animal:
    """A creature that a hero may meet: a wise old one, a small young one, or both."""

    name: str
    old: tuple[str, ...] = ()
    young: tuple[str, ...] = ()


CREATURES = {
    creature.name: creature
    for creature in (
        Animal("mouse", ("old grey",), ("small grey", "tiny brown")),
        Animal("owl", ("old", "wise old"), ("small", "sleepy")),
        Animal("frog", ("fat old", "old"), ("small green", "little")),
        Animal("crow", ("old black", "wise"), ("young",)),
        Animal("goose", ("fat white", "old"), ("small grey",)),
        Animal("hen", ("fat brown", "old"), ("small white",)),
        Animal("duck", ("old", "fat white"), ("small brown",)),
        Animal("goat", ("old white", "old"), ("small", "young")),
        Animal("donkey", ("old grey",), ("young",)),
        Animal("gull", ("old grey", "loud old"), ("small white",)),
        Animal("crab", ("old red",), ("small red", "tiny")),
        Animal("seal", ("fat old", "old grey"), ("young",)),
        Animal("turtle", ("old", "very old"), ("small green",)),
        Animal("snail", ("old",), ("small", "tiny")),
        Animal("squirrel", ("old red",), ("small red", "quick little")),
        Animal("badger", ("old", "fat old"), ("young",)),
        Animal("beaver", ("old brown", "busy old"), ("young",)),
        Animal("robin", ("old",), ("small", "round little")),
        Animal("toad", ("fat brown", "old"), ("small",)),
        Animal("cat", ("old black", "fat old"), ("small white",)),
        Animal("dog", ("old brown", "big old"), ("small white",)),
        Animal("pigeon", ("old", "fat grey"), ("small grey",)),
        Animal("sparrow", ("old",), ("small brown", "cheeky little")),
        Animal("mole", ("old",), ("small black", "shy little")),
        Animal("parrot", ("old green", "loud"), ("small green",)),
        Animal("deer", ("old",), ("young", "shy")),
    )
}


@dataclass(frozen=True)
class Spot:
    """Somewhere to look in or to leave a thing: `under the bridge`, where one finds `an old boot`."""

    place: str
    finds: str

    @property
    def thing(self) -> str:
        """The spot without its preposition: `the bridge`."""
        return self.place[self.place.index("the ") :]


@dataclass(frozen=True)
class Setting:
    """A place to live, with what belongs to it."""

    label: str
    where: str
    here: str
    """Said after the place is known: `in the village`."""
    spots: tuple[Spot, ...]
    creatures: tuple[str, ...]
    details: tuple[str, ...]
    water: str
    path: str
    treasure: tuple[str, ...]
    night: tuple[str, ...]
    town: bool = False
    swim: bool = True

    @property
    def snow(self) -> bool:
        return "snow" in self.label


def _spots(*lines: str) -> tuple[Spot, ...]:
    return tuple(Spot(*line.split(": ")) for line in lines)


SETTINGS = (
    Setting(
        "a village by the sea",
        "in a village by the sea",
        "in the village",
        _spots(
            "under the old blue boat: a wet rope",
            "behind the big rock: a little pool of water",
            "behind the fishing nets: two silver buttons",
            "on the harbour wall: a row of gulls",
            "in the long beach grass: an old boot",
        ),
        ("gull", "crab", "seal", "turtle", "cat"),
        ("The air smelled of salt.", "Gulls cried over the roofs.", "The waves went hush, hush on the sand."),
        "the sea",
        "along the beach",
        ("shell", "smooth stone", "white feather"),
        ("the waves went hush, hush", "the boats rocked in the dark"),
    ),
    Setting(
        "a farm",
        "on a farm",
        "on the farm",
        _spots(
            "behind the barn: a rusty bucket",
            "under the hay cart: a long piece of rope",
            "in the hen house: one warm egg",
            "by the garden gate: a muddy boot",
            "behind the apple baskets: six green apples",
        ),
        ("hen", "goose", "goat", "donkey", "dog"),
        ("The barn smelled of warm hay.", "The hens were busy in the yard.", "A cow said moo behind the fence."),
        "the pond",
        "across the yard",
        ("egg", "red apple", "brown feather"),
        ("the hens slept in a row", "the cow sighed in the barn"),
    ),
    Setting(
        "the edge of a forest",
        "at the edge of a forest",
        "in the forest",
        _spots(
            "under the oak tree: a heap of nuts",
            "behind the fallen log: two slow snails",
            "in the tall ferns: a spider web",
            "by the big mushroom: a sleepy beetle",
            "in the hollow tree: some old leaves",
        ),
        ("owl", "squirrel", "badger", "deer", "crow"),
        ("The trees were tall and green.", "It smelled of moss and rain.", "Leaves danced on the path."),
        "the stream",
        "between the trees",
        ("nut", "pine cone", "red leaf"),
        ("the owl called from the oak", "the trees whispered"),
    ),
    Setting(
        "a magical forest",
        "in a magical forest",
        "in the forest",
        _spots(
            "under the silver tree: a ring of stones",
            "behind the moss rock: three glowing mushrooms",
            "in the blue ferns: a very small ladder",
            "by the singing stream: a lost spoon",
            "in the hollow log: a heap of acorn cups",
        ),
        ("owl", "deer", "toad", "badger", "squirrel"),
        ("The leaves shone like silver.", "Small lights danced between the trees.", "Even the stones hummed a little."),
        "the singing stream",
        "between the silver trees",
        ("acorn", "silver leaf", "round stone"),
        ("small lights danced between the trees", "the silver trees hummed in their sleep"),
    ),
    Setting(
        "a village in the mountains",
        "in a village in the mountains",
        "in the village",
        _spots(
            "behind the stone wall: a cold puddle",
            "under the wooden bridge: a shy fish",
            "by the old well: a broken cup",
            "in the goat shed: a lot of straw",
            "on the wood pile: a lost hammer",
        ),
        ("goat", "crow", "dog", "donkey", "owl"),
        ("Goat bells rang on the hill.", "The air was cold and clean.", "There was still snow on the highest tops."),
        "the lake",
        "up the stony path",
        ("blue stone", "goat bell", "yellow flower"),
        ("the goat bells were still", "the stars hung low over the mountain"),
    ),
    Setting(
        "a small town",
        "in a small town",
        "in the town",
        _spots(
            "under the park bench: half a biscuit",
            "behind the bakery: an empty flour sack",
            "by the fountain: an old newspaper",
            "in the flower bed: a busy bee",
            "on the library steps: a lost glove",
        ),
        ("cat", "dog", "pigeon", "sparrow", "crow"),
        ("The street smelled of fresh bread.", "A bell rang somewhere.", "Pigeons walked about in the square."),
        "the pond in the park",
        "down the street",
        ("button", "shiny coin", "chestnut"),
        ("the last bus hummed by", "the lamps shone in the street"),
        town=True,
    ),
    Setting(
        "a house by a river",
        "in a house by a river",
        "by the river",
        _spots(
            "under the willow tree: a patch of mud",
            "in the tall reeds: an empty nest",
            "behind the old mill: an old wheel",
            "under the stone bridge: a rusty can",
            "in the green rowing boat: a puddle of water",
        ),
        ("frog", "duck", "beaver", "turtle", "goose"),
        ("The river was slow and brown.", "Dragonflies zipped over the water.", "The reeds bent in the wind."),
        "the river",
        "along the river",
        ("round stone", "duck feather", "snail shell"),
        ("the river talked to itself", "the frogs sang in the reeds"),
    ),
    Setting(
        "an island",
        "on a small island",
        "on the island",
        _spots(
            "under the palm tree: half a coconut",
            "in the little cave: a lot of echo",
            "behind the sand hill: a line of ants",
            "on the wooden pier: a coil of rope",
            "in the banana leaves: a green lizard",
        ),
        ("parrot", "crab", "turtle", "gull", "seal"),
        ("The sand was warm and white.", "All around was blue water.", "The wind smelled of fruit and salt."),
        "the sea",
        "along the shore",
        ("shell", "blue bead", "coconut"),
        ("the sea glowed a little", "the palm leaves clapped softly"),
    ),
    Setting(
        "a sunny meadow",
        "at the end of a sunny meadow",
        "in the meadow",
        _spots(
            "in the tall grass: a jumpy grasshopper",
            "behind the mole hill: a heap of fresh earth",
            "under the blackberry bush: a bird bath",
            "by the wooden fence: a ladder",
            "in the clover: a hundred bees",
        ),
        ("mole", "robin", "mouse", "toad", "snail"),
        ("Bees hummed in the clover.", "The grass was as high as a chair.", "It smelled of sun and daisies."),
        "the pond",
        "through the grass",
        ("daisy", "clover leaf", "round stone"),
        ("the crickets sang in the grass", "a white mist lay on the meadow"),
    ),
    Setting(
        "a big garden",
        "beside a big garden",
        "in the garden",
        _spots(
            "behind the rose bush: a wet slug",
            "behind the flower pots: a garden glove",
            "in the bean patch: four long beans",
            "by the garden shed: a rake and a spade",
            "under the pear tree: a soft brown pear",
        ),
        ("robin", "snail", "toad", "cat", "mole"),
        ("The beans had climbed right up the fence.", "Bees went in and out of the roses.", "The path was warm."),
        "the pond",
        "down the garden path",
        ("snail shell", "rose leaf", "pear"),
        ("the garden smelled of roses", "a snail crossed the path in the dark"),
    ),
    Setting(
        "a tall house in the city",
        "in a tall house in the city",
        "in the city",
        _spots(
            "under the stairs: a broom and a bucket",
            "behind the big plant: a lot of dust",
            "on the flat roof: a row of wet socks",
            "in the cellar: a sack of potatoes",
            "by the front door: a big black umbrella",
        ),
        ("cat", "pigeon", "mouse", "dog", "sparrow"),
        ("Cars hummed far below.", "From the window you could see a hundred roofs.", "The stairs smelled of soup."),
        "the fountain",
        "down the stairs",
        ("button", "key", "bottle cap"),
        ("the city hummed far below", "a hundred windows went dark, one by one"),
        town=True,
        swim=False,
    ),
    Setting(
        "a snowy valley",
        "in a snowy valley",
        "in the valley",
        _spots(
            "behind the snowman: a carrot",
            "behind the old sled: a blue mitten",
            "by the frozen well: a bucket of ice",
            "in the wood shed: a pile of logs",
            "under the fir tree: three pine cones",
        ),
        ("owl", "goat", "dog", "crow", "deer"),
        ("Snow lay on every roof.", "The snow went crunch, crunch underfoot.", "Smoke rose straight up into the sky."),
        "the frozen lake",
        "through the snow",
        ("pine cone", "icicle", "grey feather"),
        ("the snow shone blue in the moonlight", "new snow fell without a sound"),
        swim=False,
    ),
)


@dataclass(frozen=True)
class Kin:
    """A grown-up of the hero's family."""

    name: str
    pronouns: Pronouns


KIN = (Kin("Mama", SHE), Kin("Papa", HE), Kin("Grandma", SHE), Kin("Grandpa", HE))


@dataclass(frozen=True)
class Thing:
    """A thing that is somebody's: `kite`, in full `red kite with a long tail`."""

    name: str
    full: str
    soft: bool = False
    pronouns: Pronouns = IT

    @property
    def was(self) -> str:
        return "were" if self.pronouns is THEY else "was"


TOYS = (
    Thing("elephant", "{colour} cloth elephant", soft=True),
    Thing("teddy bear", "{colour} teddy bear", soft=True),
    Thing("doll", "rag doll in a {colour} dress", soft=True),
    Thing("lion", "woolly lion with {colour} eyes", soft=True),
    Thing("scarf", "long {colour} scarf", soft=True),
    Thing("mittens", "pair of {colour} mittens", soft=True, pronouns=THEY),
    Thing("boat", "{colour} boat with a white sail"),
    Thing("train", "{colour} wooden train"),
    Thing("drum", "small {colour} drum"),
    Thing("kite", "{colour} kite with a long tail"),
    Thing("ball", "big {colour} ball"),
    Thing("hat", "{colour} hat with a feather"),
    Thing("horse", "wooden horse with a {colour} saddle"),
    Thing("boots", "pair of {colour} boots", pronouns=THEY),
)
