"""Plots in which something is made, grown, broken or given."""

from __future__ import annotations

from ..openings import ask_reader, introduce
from ..telling import Telling

BUILDINGS = (
    # what is built, first failure, second failure, advice, the good way, the test
    (
        "bridge over the stream",
        "{N} laid one thin stick across. Snap! It broke",
        "{N} took a thicker stick. It rolled, and plop, {N} sat in the water",
        "One stick rolls. Three sticks tied together do not",
        "{N} laid three sticks side by side and tied them with grass",
        "{N} walked across. The bridge held",
    ),
    (
        "tower of stones",
        "{N} began with a small round stone. Clack! The tower fell",
        "{N} was quick, much too quick. Clack, clack! It fell again",
        "Put the big flat ones at the bottom",
        "{N} put the biggest, flattest stone at the bottom and the tiniest on top",
        "{N} blew at the tower as hard as {he} could. It did not move",
    ),
    (
        "hut of branches",
        "{N} leaned two branches together. Whoosh! The wind took them",
        "{N} leaned them on a bush. The bush bent, and crash, there lay the hut",
        "A hut needs something strong to lean on",
        "{N} leaned the branches on a thick old tree and put leaves on top",
        "The wind blew, but the hut did not even shake",
    ),
    (
        "raft of planks",
        "{N} sat on a plank in the water. Glug! It went down",
        "{N} tied two planks together. The knot came loose, and glug, {N} was wet again",
        "Put something under it that is full of air",
        "{N} tied four empty bottles under the planks, with good double knots",
        "{N} sat on the raft. It rocked, but it did not go down",
    ),
    (
        "wall of snow",
        "{N} made it of dry snow. Puff! It fell down",
        "{N} made it high and thin. Puff! Down it came",
        "Make it thick at the bottom, and put a little water on the snow",
        "{N} made the wall thick at the bottom and put a little water on the snow",
        "{N} leaned on the wall. It was as hard as stone",
    ),
)
SNOW_BUILDINGS = (BUILDINGS[-1], BUILDINGS[2])

BUILDERS = (
    ("spider", "a thin old spider"),
    ("beaver", "a busy old beaver"),
    ("stork", "an old white stork"),
    ("swallow", "a small black swallow"),
)


def building(w: Telling) -> None:
    """What is built falls twice; somebody who builds well gives advice; the third time it stands."""
    w.hero(without=("penguin", "otter", "duckling"))
    w.settle(wild=not w.kind.human)
    snow = w.setting.snow
    name, first, second, advice, way, test = w.pick(SNOW_BUILDINGS if snow else BUILDINGS[:-1])
    w.put(building=name, thing=name.split()[0], first=first, second=second, advice=advice, way=way, test=test)
    builder, a_builder = w.pick(BUILDERS)
    w.put(builder=builder, a_builder=a_builder)
    w.know(a_builder)
    if w.grade > 1 and w.chance(0.25):
        w.turn('"I will build a {building}!" said {N}, a {look} {kind} who lived {where}.')
        w.feature("starts in the middle of the action")
    else:
        introduce(w)
        w.say(
            "{Day}, {he} wanted to build a {building}.",
            '{Day}, {N} said, "I will build a {building}."',
            "{N} had a plan: a {building}.",
        )
    w.turn("{First}.", "{N} set to work. {First}.")
    w.say(
        '\n"Again," said {N}.',
        '\n"Once more," said {N}.',
        '\n"Well," said {N}. "That was one."',
        "\n{N} said a word that had no letters.",
    )
    w.also(2, "{Second}.")
    w.more(
        3,
        "{N} lay on {his} back and looked at the sky. The sky had no ideas either.",
        "{N} stamped {his} foot. It hurt, and that did not help.",
    )
    w.turn(
        "Nearby sat {a_builder} <2+ and worked, bit by bit>. Nothing fell down there.",
        "Not far away {a_builder} was at work. <2+ It did not hurry, and nothing fell.> <1 Nothing fell.>",
    )
    w.say(
        '\n"How do you do that?" asked {N}.',
        '\n{N} watched for a long time. <2+ "How do you do it?" {he} asked at last.>',
    )
    w.say('\n"{advice}," said the {builder}. <3+ "And do not hurry.">')
    w.turn("So {N} began <2+ for the third time> <1 again>. {Way}.", "{Way}. <2+ It took all day.>")
    w.more(2, "{He} stuck out {his} tongue while {he} worked.", '"Slowly," {he} told {himself}. "Slowly."')
    w.rhyme(2, '"Slow, slow, that is how we go," sang {N}.', '"Bit by bit, and all of it fit," sang {N}.')
    w.turn("<2+ Then came the test.> {Test}.", "{Test}!")
    w.say('\n"It works!" cried {N}.', "\n{N} danced around it.", '\n"Good work," said the {builder}.')
    if w.grade > 1:
        w.turn(
            "In the evening everybody came to look. {N} told them all how to do it.",
            "It stood there all winter." if snow else "It stood there all summer.",
            "{N} sat next to the {thing} until it was dark. Somebody had to look at it.",
            "And if you walk that way one day, you can see it. It is still there.",
        )
        w.feature("a list of three tries")
    w.teach("Ask somebody who knows how.")
    ask_reader(w, "What would you like to build?")
    w.about(
        ("{N} Builds a {Thing}", "The Third {Thing}", "Once More", "{N} and the {Builder}"),
        ("{Namekind} builds a {building}, which <1 falls down, and then> <2+ fails twice and the third time> holds.",),
    )
    w.ask("What did {N} build?", "a {building}", [f"a {other[0]}" for other in BUILDINGS if other[0] != name])
    w.ask("Who told {N} how to do it?", "the {builder}", ("the wind", "a fox", "a farmer", "a fish"))
    if w.grade > 1:
        w.ask("How many times did it fail?", "two times", ("one time", "five times", "ten times"))


PLANTS = (
    # its name, how the seed looks, what it becomes
    ("bean", "a white bean", "a bean plant that went up to the window"),
    ("sunflower seed", "a striped seed", "a sunflower as tall as the door"),
    ("pumpkin seed", "a flat white seed", "a pumpkin as round as the moon"),
    ("apple seed", "a small brown seed", "a little tree with nine leaves"),
    ("pea", "a wrinkled green pea", "a pea plant with a hundred small hooks"),
)


def seed(w: Telling) -> None:
    """A seed will not grow: because it needs time, or sun, or because it is no seed at all."""
    name, looks, grown = w.pick(PLANTS)
    w.hero()
    w.settle(warm=True)
    w.kin("Grandma", "Grandpa", "Papa")
    way = w.pick(("time", "sun", "button"))
    w.put(seed=name, a_seed=looks, grown=grown, spot="in a dark corner" if way == "sun" else "by the door")
    introduce(w)
    w.more(2, "{N} was never good at waiting.", "If there was one thing {N} could not do, it was wait.")
    if way == "button":
        w.turn(
            '{Day}, {N} found something small and round. "A seed!" said {N}.',
            '{Day}, something small and round lay on the path. "It is a seed," said {N}.',
        )
    else:
        w.turn(
            '{Day}, {kin} gave {N} {a_seed}. <2+ "It is a {seed}," said {kin}.>',
            "{Day}, there was {a_seed} in {N}'s {hand}. It came from {kin}.",
        )
    w.say(
        "{N} put it into a pot with earth <2+ and set the pot> {spot}.",
        "{N} took a pot with earth <2+ , made a hole> and put it in. The pot stood {spot}.",
    )
    w.turn(
        "The next day {N} looked. Nothing. <2+ {He} gave it water and looked again. Nothing.>",
        "{N} gave it water every day. <2+ One day, two days, three days.> Nothing came up.",
    )
    w.more(
        3,
        '"Grow!" said {N}. The pot said nothing.',
        "{N} moved {his} chair next to the pot, so as to miss nothing. There was nothing to miss.",
        "{N} sang to it. {N} told it a joke. Nothing laughed, and nothing grew.",
    )
    w.rhyme(2, '"Grow, grow, do not be slow," sang {N}.', '"Little green shoot, where is your root?" sang {N}.')
    if way == "time":
        reason, others = _time(w)
    elif way == "sun":
        reason, others = _sun(w)
    else:
        reason, others = _button(w)
    w.turn(
        (
            "And one morning there was something green in the pot<2+ , [no bigger than an ant|as small as a "
            "tooth|very small]>."
        ),
        (
            "One morning {N} bent down. <2+ The earth had a crack, and> out of the <2+ crack> <1 earth> looked a "
            "tiny green nose."
        ),
    )
    w.say('\n"It is here!" shouted {N}. <3+ Everybody had to come and see.>', '\n"Good morning," whispered {N}.')
    if w.grade > 1:
        w.turn(
            "By the end of the summer it was {grown}.",
            "It grew and grew, and in the end it was {grown}.",
        )
    w.more(
        3,
        "{N} showed it to everybody who came by.",
        "{N} sewed the button on {his} coat, where it belonged." if way == "button" else "{N} was not even surprised.",
    )
    w.teach("Growing takes time." if way == "time" else "Look closely before you give up.")
    ask_reader(w, "What would you plant?", "Can you wait as long as {N}?")
    w.about(
        ("The Seed That Would Not Grow", "{N} Waits", "{N}'s Pot", "Something Green"),
        ("{Namekind} plants a seed that will not grow, and finds out why.",),
    )
    w.ask("Why did nothing grow at first?", reason, (*others, "it was too cold"))
    w.ask("Who helped {N}?", "{kin}", ("Mama", "a bee", "the baker", "a mole"))
    w.ask("What did {N} put it in?", "a pot", ("a shoe", "a bag", "a box", "a hat"))


def _time(w: Telling) -> tuple[str, tuple[str, str]]:
    w.turn(
        '"It is broken," said {N}.\n"It is busy," said {kin}. "Wait."',
        '"May I dig it up and look?" asked {N}.\n"No," said {kin}. "Would you like that, in your sleep?"',
    )
    w.say(
        "So {N} waited. <2+ It rained, and the sun shone, and it rained again.>",
        "{N} waited. It was hard<2+ , the hardest thing of all. Seven days went by>.",
    )
    w.more(3, "{He} lost a tooth. {He} learned a song. Once, {he} even forgot to look.")
    return "it needed time", ("it was too dark", "it was a button")


def _sun(w: Telling) -> tuple[str, tuple[str, str]]:
    w.turn(
        '"Why does it not grow?" asked {N}.\n{Kin} looked into the corner. "Where do you sit on a cold day?"',
        '{Kin} came to look. "It is dark here," said {kin}. <2+ "Where would you live, if you were a {seed}?">',
    )
    w.say('\n"In the sun!" said {N}<2+ , and then {he} understood>.')
    w.say("{He} carried the pot to the warm <2+ sunny> step.", "{N} put the pot in the sunny window.")
    w.more(3, "The sun came round the house at ten, and {N} said good morning to both of them.")
    return "it was too dark", ("it was a button", "a bird ate it")


def _button(w: Telling) -> tuple[str, tuple[str, str]]:
    w.feature("a funny mistake")
    w.turn(
        '{Kin} dug it up and began to laugh. "{N}, this is a button!"',
        'Then {kin} dug in the pot with a spoon. "It is a button," said {kin}. "You planted a button!"',
    )
    w.say("{N} <2+ went red, and then {he}> laughed too.", '\n"So a shirt will not grow?" asked {N}.')
    w.say(
        "{Kin} gave {him} {a_seed}<2+ , a real one>, and {N} planted it.",
        "Then {kin} put {a_seed} into {N}'s {hand}<2+ , and they planted that>.",
    )
    return "it was a button", ("it was too dark", "a bird ate it")


BREAKABLES = (
    # the thing, how it looks, what breaks it, what it is mended with, how it is afterwards
    (
        "cup",
        "blue cup with a gold rim",
        "{N} danced with it, and crack, it lay on the floor",
        "glue",
        "with a thin line like a river",
    ),
    (
        "bowl",
        "white bowl with a fish on it",
        "{N} wore it as a hat, and crash, it fell off",
        "glue",
        "and the fish had a scar on its side",
    ),
    (
        "flower pot",
        "flower pot with a red rose",
        "{N} threw a ball, and crash, the pot fell down",
        "string",
        "and the rose did not mind at all",
    ),
    (
        "clock",
        "little clock that sang at noon",
        "{N} wound it too far, and twang, all the wheels fell out",
        "a hairpin",
        "and it sang at noon, a bit too late",
    ),
    (
        "teapot",
        "fat brown teapot",
        "{N} poured tea for a doll, and crack, the spout was off",
        "glue",
        "and it dripped a little on Sundays",
    ),
    (
        "lamp",
        "lamp with a green shade",
        "{N} jumped on the bed, and crash, the lamp fell over",
        "tape",
        "and it stood a bit crooked, like a tired bird",
    ),
)


def broken(w: Telling) -> None:
    """Something of a grown-up's is broken and hidden, and then owned up to."""
    thing, looks, how, tool, mended = w.pick(BREAKABLES)
    w.hero()
    w.settle()
    w.kin()
    w.put(thing=thing, how=how, tool=tool, mended=mended, looks=looks)
    w.put(hide="[under the bed|in a boot|behind the flour sack|in {his} hat|under the stairs]")
    w.put(blamed="[the cat|the wind|the dog]")
    introduce(w)
    w.say(
        "{Kin} had a {looks}. <2+ Nobody was allowed to play with it.>",
        "In the kitchen was {kin}'s {looks}<2+ , which was older than {N}>.",
    )
    w.turn("{Day}, {how}.", "<1 {Day}, {how}.><2+ {Day}, {N} was alone at home. {How}.>")
    w.say(
        "It was broken. <2+ {N} stood very still.>",
        '"Oh no," said {N}. <2+ {He} looked at the pieces, and the pieces looked at {him}.>',
    )
    w.say("{He} hid it {hide}.", "Quickly {he} hid it {hide}<3+  and went away, whistling>.")
    w.turn(
        '"Where is my {thing}?" asked {kin}. <2+ "Was it {blamed}?">',
        '{Kin} came in. "Have you seen my {thing}?"',
    )
    w.say("\n{N} said nothing.", '\n"No," said {N}. <3+ It was a very small word, but it felt heavy.>')
    w.more(
        2,
        "At supper there was {N}'s favourite soup. It tasted of nothing.",
        "{N} had a feeling in {his} tummy, as if {he} had eaten a stone.",
    )
    w.more(
        3,
        "In bed {N} lay on one side, then on the other. Both sides were wrong.",
        "Even the moon seemed to look at {N} in a funny way.",
    )
    w.turn(
        '<2+ At last {N} took the pieces and went to {kin}.> "It was me," <2+ {he}> said <1 {N}>.',
        (
            '<2+ Then {N} could not bear it any more. {He} put the pieces on the table.> "I broke it," <2+ {he}> '
            "said <1 {N}>."
        ),
    )
    w.say("Then it was out.", "{His} voice was very small.", "A tear ran down {his} nose.", "{He} looked at the floor.")
    w.turn(
        '"I know," said {kin}. "I found a piece in the hall.<2+  I waited for you to tell me.>"',
        '<2+ {Kin} was quiet for a while.> "I am sad about the {thing}," said {kin}. "But I am glad that you told me."',
        '{Kin} put an arm around {N}. "That was hard to say," said {kin}. <2+ "Thank you.">',
    )
    w.more(
        3,
        '"Once I broke a window, and I hid for a whole day in a tree."',
        "The stone in {N}'s tummy was gone, just like that." if w.grade < 3 else "{N} felt as light as a feather.",
    )
    w.say("Then they mended it <2+ together,> with {tool}.", "{Kin} fetched {tool}, and {N} helped.")
    w.turn("Now it was whole again, {mended}.", "It was nearly as good as new, {mended}.")
    w.more(
        2,
        "{Kin} said that {kin_he} liked it even better now.",
        "From then on {N} carried it with both {hands}.",
    )
    w.teach("Telling the truth makes you light.")
    ask_reader(w, "Have you ever broken something?", "Would you have told {kin}?")
    w.about(
        ("The Broken {Thing}", "It Was Me", "{N} and the {Thing}", "{Kin}'s {Thing}"),
        ("{Namekind} breaks {kin}'s {thing}, hides it, and then owns up.",),
    )
    w.ask(
        "What did {N} break?", "{kin}'s {thing}", [f"{{kin}}'s {other[0]}" for other in BREAKABLES if other[0] != thing]
    )
    w.ask(
        "Where did {N} hide it?", "{hide}", ("under the bed", "in a boot", "behind the flour sack", "under the stairs")
    )
    w.ask("What did they mend it with?", "{tool}", ("a hammer", "string", "glue", "tape", "mud"))


GIFTS = (
    # what it was meant to be, what went wrong, what it became
    (
        "a scarf",
        "knitted a scarf",
        "It got too long. It went out of the door and down the steps",
        "There was enough scarf for two, and they wore it together",
    ),
    (
        "a picture",
        "painted a picture of a house",
        "{Pal} walked right over it with wet feet",
        "All the footprints looked like flowers around the house",
    ),
    (
        "a cake",
        "baked a cake",
        "It did not rise. It was as flat as a plate",
        "{N} had cut it into stars, and they were the best biscuits in the world",
    ),
    (
        "a pot of clay",
        "made a pot of clay",
        "It fell over and got a dent on one side",
        "With the dent it looked like a bird, and flowers stood in its beak",
    ),
    (
        "a necklace",
        "made a necklace of red berries",
        "The string broke, and the berries rolled into the grass",
        "Birds came for the berries and sang under the window all day",
    ),
)


def gift(w: Telling) -> None:
    """A present made by hand goes wrong and becomes something better."""
    name, making, wrong, became = w.pick(GIFTS)
    w.hero()
    w.settle(warm=True)
    w.kin()
    w.small()
    w.put(gift=name, making=making)
    w.put(wrong=wrong, became=became)
    introduce(w)
    w.say("The next day was {kin}'s birthday.", "It was the day before {kin}'s birthday.")
    w.also(
        2,
        "{N} wanted to give {kin_him} something, but {he} had no money.",
        "{N} looked for a present. In {his} money box was one button.",
        "{N} had thought about a present for a whole week, and still had none.",
    )
    w.turn(
        '"What can I give?" asked {N}.\n"Make something," said {a_pal}.',
        '"What can I give to {kin}?" {N} asked {a_pal}.\n"Something that you make," said {pal}.',
    )
    w.say("So {N} {making}.", "That was a good idea. {N} {making}.")
    w.more(
        2,
        "{He} worked so hard that {he} forgot to eat.",
        "{He} did not stop, not even when it got dark.",
        "{He} hummed while {he} worked, and {pal} hummed too.",
    )
    w.turn("But oh dear! {Wrong}.", "Then it happened. {Wrong}.")
    w.say(
        '\n"It is spoiled," said {N}.',
        '\n"Oh no," said {N}. "And the birthday is tomorrow!"',
        '\n"Now I have nothing," said {N}<2+ , and {he} sat down under the table>.',
    )
    w.more(
        2,
        '\n"Wait," said {pal}. "Look at it from over there."',
        '\n{Pal} put {pal_his} head on one side. "I would keep it," said {pal}.',
    )
    w.more(
        3,
        "{N} looked at it for a long time, first with one eye and then with the other.",
        "That night {N} did not sleep much. {He} turned over and over, like a pancake.",
    )
    w.turn(
        "In the morning {N} took it to {kin} and held {his} breath.",
        '"Happy birthday," said {N} the next day, very quietly.',
        'When {kin} woke up, {N} was there. "It went a bit wrong," {he} said.',
    )
    w.say("{Became}.", "And look! {Became}.")
    w.turn(
        '"How did you think of that?" asked {kin}.\n"It thought of itself," said {N}.',
        '"It is the best present of all," said {kin}<2+ , and {kin_he} meant it>.',
        "{Kin} laughed and laughed. <2+ It was a very happy birthday.>",
    )
    w.more(
        2,
        "Only {pal} was not surprised.",
        "Afterwards all three of them had tea and bread with honey.",
        "{N} looked at {pal}, and {pal} looked at the ceiling.",
    )
    w.feature("a twist near the end")
    w.teach("A mistake can turn into something good.")
    w.about(
        ("A Present for {Kin}", "It Went a Bit Wrong", "{N} Makes a Present", "The Best Present"),
        ("{Namekind} makes {kin} a present that goes wrong and turns out even better.",),
    )
    w.ask("Whose birthday was it?", "{kin}'s", ("{N}'s", "the baker's", "the cat's"))
    w.ask("What did {N} make?", "{gift}", [other[0] for other in GIFTS if other[0] != name])
    w.ask("Who told {N} to make something?", "{pal}", ("a friend at school", "the wind", "a fish", "the teacher"))
