"""Plots about being afraid, and about not being able to do something yet."""

from __future__ import annotations

from ..openings import ask_reader, bedtime, introduce
from ..telling import Telling

SHAPES = (
    # where a thing was left, the thing, what it looks like in the dark
    ("{N} hung {his} wet coat on the door", "coat", "It had long arms and no head"),
    ("{N} left the broom by the wall, with a hat on top", "broom", "It was tall and thin, with a very big head"),
    ("{N} put {his} kite on the chair", "kite", "It had a pointed head and a long, long tail"),
    ("{N} put a fat pillow on the chair", "pillow", "It was round and white and had no face"),
    ("{N} left one big boot by the bed, with a sock in it", "boot", "It had a big foot and a floppy ear"),
    ("{N} stood the umbrella in the corner", "umbrella", "It had black wings, folded up"),
)

FEARLESS = ("bees", "mud", "big dogs", "cold water", "high trees", "loud noises", "spiders")

LIGHTS = ("a small lamp", "a candle in a jar", "a little yellow lamp", "a torch")


def dark(w: Telling) -> None:
    """Something strange stands in the dark room; it is a thing that was put there by day."""
    left, thing, look = w.pick(SHAPES)
    w.hero(without=("penguin", "otter"))
    w.settle()
    alone = w.chance(0.5)
    if not alone:
        w.kin()
    w.put(fearless=w.pick(FEARLESS), light=w.pick(LIGHTS))
    w.put(left=left, shape=thing, seen=look)
    introduce(w)
    w.say(
        "{N} was not afraid of {fearless}. But {he} was afraid of the dark.",
        "{N} was brave, but not in the dark.",
        "{N} did not like the dark<2+ . It was too big and too black>.",
    )
    w.turn(
        "One evening {left}. Then {he} went to bed.",
        "It was bedtime. {Left}. Out went the light.",
        "It was late. {Left}, and {he} jumped into bed.",
    )
    w.more(3, "The stairs said crick. The wind said whoo.", "Outside, {night}. Inside it was black as a boot.")
    w.turn(
        "Something was there! {seen}. <2+ It did not move, and {N} did not move.>",
        "{N} opened one eye. Somebody stood there! {seen}.",
        "<2+ {N} looked, and {his} heart went thump.> Somebody was in the room! {seen}.",
    )
    w.say(
        '\n"Go away," whispered {N}. It did not go away.',
        '\n"Who are you?" asked {N}. It did not answer.',
        '\n"I see you," said {N}, with eyes shut. <2+ It seemed to wait.>',
        "\n{N} pulled the blanket over {his} head. <2+ {He} counted to ten.> It was still there.",
    )
    w.more(
        2,
        '\n"I will count to three," said {N}. "One. Two. Two and a half." Nothing happened.',
        "\n{N} made {himself} very flat. The thing in the dark stayed just as it was.",
    )
    if alone:
        w.turn(
            "By the bed stood {light}. {N} <2+ took a deep breath, put out one {hand} and> lit it.",
            "Then {N} remembered {light} by the bed. {His} {hand} shook<2+  a little>, but {he} lit it.",
        )
    else:
        w.turn(
            '"{Kin}!" called {N}. {Kin} came with {light}.',
            '{N} called as loud as {he} could. "{Kin}!" <2+ Steps came up, and> {kin} came in with {light}.',
        )
    w.also(2, "Now the room was yellow and warm.", "Light ran into every corner.")
    w.turn(
        "And who stood there? <2+ Nobody.> It was only the {shape}!",
        "{N} began to laugh. It was only the {shape}!",
    )
    if alone:
        w.say(
            '"I put you there myself," said {N}.',
            '"You silly old {shape}," said {N}.',
        )
    else:
        w.say(
            '"A dangerous {shape}," said {kin}. <2+ "It has never hurt anybody, as far as I know.">',
            '"I was afraid of that {shape} too, for a moment," said {kin}.',
        )
    w.more(
        3,
        "{N} walked all around the {shape} to make sure. From behind it looked quite friendly.",
        "{N} looked at the other things too: the chair, the shelf, the door. All of them were just themselves.",
    )
    w.turn(
        '"Good night, {shape}," said {N}, and {he} put out the light.',
        (
            '<1 "Good night, {shape}," said {N}.><2+ Then the light went out. The {shape} stood there, and it '
            "was nice to have somebody who stayed awake.>"
        ),
        '<2+ The light went out again.> "You can keep watch," {N} told the {shape}, and {he} fell asleep.',
    )
    w.feature("ends with bedtime")
    w.teach("In the light, most frightening things are small.", aloud=False)
    ask_reader(w, "And what stands in your room at night?")
    w.about(
        ("{N} and the Dark", "Somebody in the Room", "Good Night, {Shape}", "What Stood in the Dark"),
        ("{Namekind} sees somebody strange in the dark, and it is only the {shape}.",),
    )
    w.ask("What was {N} afraid of?", "the dark", ("bees", "big dogs", "spiders", "water"))
    w.ask("What stood in the dark room?", "a {shape}", [f"a {other[1]}" for other in SHAPES if other[1] != thing])
    w.ask(
        "What made the room bright?", "{light}", [*(other for other in LIGHTS if other != w.slots["light"]), "the moon"]
    )


NOISES = (
    # the sound, what is said of it before, who or what it was, how it is seen, what ends it
    (
        "Tap, tap, tap",
        "A branch of the apple tree had grown all the way to the window",
        "the branch",
        "The wind moved the branch, and the branch went tap on the glass",
        "tied the branch back with a ribbon",
    ),
    (
        "Drip, drop",
        "It had rained all day, and there was a hole in the roof",
        "the rain",
        "Water came through the roof and fell into an old pot",
        "put a sponge in the pot",
    ),
    (
        "Scritch, scratch",
        "That day a hedgehog had walked through the garden",
        "a hedgehog",
        "The hedgehog sat in an empty box and could not get out",
        "turned the box over and let the hedgehog go",
    ),
    (
        "Rumble, bumble",
        "{kin} had worked hard and was very tired",
        "{kin}",
        "{Kin} lay on the bench and snored",
        "put a blanket over {kin_him}",
    ),
    (
        "Clink, clank",
        "That day a goat had come to stay in the yard, with a bell on its neck",
        "the goat",
        "The goat was eating the roses, and its bell rang",
        "led the goat back to its straw",
    ),
    (
        "Bump, bump",
        "A round pumpkin lay on the top step",
        "the pumpkin",
        "The pumpkin had rolled down the stairs, step by step",
        "gave the pumpkin a pat and put it back",
    ),
)

MONSTERS = (
    "a bear with big boots",
    "a giant with a sack",
    "a dragon with a cold",
    "a robber with a bag",
    "a wolf in a hat",
)


def noise(w: Telling) -> None:
    """A sound in the night has a cause that was there by day."""
    sound, before, who, seen, after = w.pick(NOISES)
    w.hero(without=("hedgehog", "penguin", "otter"))
    w.settle(warm=True)
    if "{kin}" in who:
        w.kin("Papa", "Grandpa", "Grandma")
    first, second = w.draw(MONSTERS, 2)
    w.put(monster=first.removeprefix("a "))
    w.put(before=before, who=who, seen=seen, after=after, sound=sound, first=first, second=second)
    in_bed = w.chance(0.3)
    if in_bed:
        w.turn('"{sound}."\n{N}, a {look} {kind} who lived {where}, sat up in bed. What was that?')
        w.feature("starts in the middle of the action")
        w.say("It was the middle of the night. {Before}, but {N} did not think of that now.")
    else:
        introduce(w)
        w.say("{Before}.", "One evening {N} went to bed early. {Before}.")
        w.turn(
            'In the night {N} woke up. "{sound}." What was that?',
            '{N} was nearly asleep. "{sound}." <2+ {N} was not asleep any more.>',
        )
    w.turn(
        '<2+ {N} lay very still. >"It is {first}," {he} thought.',
        '"I think it is {first}," {N} told {his} pillow.',
    )
    w.say('"{sound}."', '"{sound}," it went.')
    if w.grade > 1:
        w.turn(
            '"No," thought {N}. "It is {second}."',
            '{N} pulled up {his} feet. "Or {second}," {he} whispered.',
        )
        w.say('"{sound}," said the night.', '"{sound}."')
    w.turn(
        "{N} took {his} lamp and went to see.<3+  The floor was cold. Every step took a long time.>",
        '"I must know," said {N}. {He} took the lamp and went<2+ , on the tips of {his} toes,> to see.',
        "Then {N} had enough. {He} got up and lit the lamp.",
    )
    w.more(
        3,
        "{He} looked behind the door. {He} looked behind {himself}, twice.",
        "{His} shadow came too. It was much bigger than {N}, and that helped.",
    )
    w.turn(
        "And what did {he} see? {Seen}. It was {who}!",
        "{N} held up the lamp. {Seen}.",
    )
    w.say(
        '\n"So it is only you," said {N}.',
        "\n{N} laughed out loud.",
        "\n{N} let out {his} breath. <2+ It had been a big one.>",
    )
    w.say("{N} {after}.", "Then {he} {after}.")
    w.more(
        2,
        "After that it was quiet. {N} listened a little longer, just in case.",
        "{N} was almost sorry that there was no {monster}.",
    )
    w.turn(
        "Back in bed, {N} smiled. <2+ Outside, {night}.> {He} was asleep in no time.",
        '"{sound}," said {N} in {his} sleep.',
        "And {first}? <2+ Perhaps it was afraid of {N}.> <1 There was none.>",
        '"Good night, everybody," said {N}, <2+ also to the {monster}, just in case> <1 and slept>.',
    )
    w.feature("a sound word that comes back", "ends with bedtime")
    w.about(
        ("{sound}", "A Noise in the Night", "What Was That?", "{N} Wakes Up"),
        ("{Namekind} hears a strange noise at night and finds out that it is {who}.",),
    )
    w.ask(
        "What made the noise?", "{who}", ("the branch", "the rain", "a hedgehog", "the goat", "the pumpkin", "a mouse")
    )
    w.ask(
        "What did {N} think it was at first?", "{first}", [other for other in MONSTERS if other not in (first, second)]
    )
    w.ask("What did {N} take along?", "the lamp", ("a stick", "the broom", "a bell", "a spoon"))


HOMES = (
    # an old thing that becomes a house, why it is there
    ("hat", "{N} had a big old hat that fell over {his} eyes"),
    ("teapot", "In the kitchen stood an old teapot without a lid"),
    ("boot", "By the door stood one old boot. Nobody knew where the other one was"),
    ("basket", "Under the stairs was a basket that nobody used"),
    ("drum", "{N} had a drum with a hole in it"),
    ("flower pot", "On the step lay an empty flower pot"),
)


def storm(w: Telling) -> None:
    """A storm takes a small one's house; a thing that was no good for anything becomes a new one."""
    thing, before = w.pick(HOMES)
    w.hero()
    w.settle(wild=not w.kind.human, warm=True)
    w.creature("pal", ("mouse", "robin", "sparrow", "snail", "toad"), old=False)
    w.put(thing=thing)
    w.put(before=before)
    w.put(boom="[Boom|Crash|Rumble]")
    introduce(w)
    w.say("{Before}.", '{Before}. <3+ "What is it good for?" {N} often asked.>')
    w.turn(
        "One night a storm came. {boom}, went the thunder. <2+ {N} hid under the blanket.>",
        "One afternoon the sky turned black. Then the rain came down. {boom}! <2+ The whole {home} shook.>",
        "The wind blew, and the rain fell. {boom}! <2+ {N} did not like thunder at all.>",
    )
    w.more(
        3,
        "The trees bent down as if they looked for something.",
        "Somewhere a bucket rolled along the path, all by itself.",
    )
    w.turn(
        "Then somebody knocked, very softly. It was {a_pal}<3+ , wet from top to toe>.",
        "What was that at the door? There stood {a_pal}<3+ , {pal_his} eyes big and round>.",
    )
    w.say(
        '\n"The storm took my house," said {pal}. <3+ "It flew away, with my bed in it.">',
        '\n"My house is gone," said {pal}. "May I come in?"',
    )
    w.say(
        '\n"Come in, quick!" said {N}.',
        '\n"Come in," said {N}, and {he} opened the door wide.',
    )
    w.more(
        2,
        "{N} rubbed {pal} dry with a towel. {boom}! {Pal} shook, and {N} held {pal_him} tight.",
        "{boom}! {Pal} jumped, and {N} jumped too. Then they looked at each other and had to laugh.",
    )
    w.more(
        3,
        'Each time the thunder said boom, {N} said, "[Boom yourself|Same to you|Yes, we heard you]!"',
        "They sang a song. When the storm was loud, they sang louder.",
    )
    w.rhyme(2, '"Boom and crash and bumble, we do not mind a rumble," they sang.')
    w.more(3, "{N} forgot to be afraid. There was no time for it.")
    w.turn(
        "In the morning the sun was back, but {pal} had no house.",
        "Next day every leaf shone. <2+ But {pal}'s place was empty.> <1 But {pal} had no house.>",
    )
    w.say(
        "{N} <2+ thought and thought. Then {he}> thought of the old {thing}.",
        '<2+ Then {N} had an idea.> "Wait!" <2+ {he} cried> <1 said {N}>. "The old {thing}!"',
    )
    w.turn(
        "{N} put it under a bush<2+ , filled it with dry leaves> and made a roof of bark.",
        "They set the {thing} on its side <2+ in the grass>, and {N} filled it with <2+ soft dry> leaves.",
    )
    w.say(
        '{Pal} went in. {Pal} looked out. "It fits!" {pal_he} said.',
        '"Is that for me?" asked {pal}. {Pal_he} went in <2+ and out and in again> <1 at once>.',
    )
    w.more(
        2,
        "That evening a very small light burned in the {thing}.",
        "{N} painted a number on the door. It was number one.",
    )
    if w.grade > 2 or (w.grade > 1 and w.chance(0.5)):
        w.turn(
            "And when the next storm came, {N} and {pal} sat side by side and counted the booms.",
            "{Pal} lived there from then on, and on rainy days {N} came to visit.",
            "From then on {N} had a neighbour, and the {thing} had a name by the door.",
        )
    w.feature("weather that mirrors the mood")
    w.teach("Old things can be of use to somebody.")
    ask_reader(w, "What else could you make from an old {thing}?")
    w.about(
        ("The House in the {Thing}", "{N} and the Storm", "After the Storm", "A Knock at the Door"),
        ("A storm takes a small animal's house, and {N} makes a new one from an old {thing}.",),
    )
    w.ask(
        "What did {N} make a house from?",
        "an old {thing}",
        [f"an old {other[0]}" for other in HOMES if other[0] != thing],
    )
    w.ask("Who knocked at the door?", "{a_pal}", ("a big bear", "a young fox", "a fat cat", "a wet dog"))
    w.ask("What happened to {pal}'s house?", "the storm took it", ("it burned down", "a fox ate it", "it was sold"))


SKILLS = (
    # what is to be learned, two ways to fail, the advice, how it works at last, the need
    (
        "whistle",
        "Only air came out, and a bit of biscuit",
        "It sounded like a kettle with a cold",
        "Make your mouth as small as a pea, and blow as if you cooled soup",
        "made {his} mouth as small as a pea, and blew as if {he} cooled soup",
        "A whistle came out, high and clear",
    ),
    (
        "skip with a rope",
        "The rope hit {him} on the nose",
        "Now both feet were tied up",
        "Do not look at the rope. Listen to it, and jump when it says swish",
        "did not look at the rope. {He} listened, and {he} jumped when it said swish",
        "Swish, hop, swish, hop! Ten times without a stop",
    ),
    (
        "swim",
        "{He} went under like a stone",
        "{He} splashed so much that the fish left",
        "Lie on the water as if it were your bed. It will hold you",
        "lay down on the water as if it were a bed",
        "The water held {him}! {N} kicked, and {he} swam",
    ),
    (
        "ride a bicycle",
        "{He} rode into a bush",
        "{He} rode into the same bush again",
        "Do not look at the bush. Look where you want to go",
        "did not look at the bush. {He} looked far down the path",
        "The wheels went round and round, right past the bush",
    ),
    (
        "climb the big tree",
        "{He} slid down and sat in the grass",
        "{He} got to the first branch and hung there like washing",
        "Look for one good branch, and then for the next. Do not think of the top",
        "looked for one good branch, and then for the next",
        "There was no next branch. {N} was at the top",
    ),
)


def skill(w: Telling) -> None:
    """Learning something: two failures, one good piece of advice, practice."""
    w.hero(without=("monkey", "squirrel", "penguin", "duckling", "otter", "kitten"))
    w.settle(swim=True)
    name, fail, again, advice, did, success = w.pick(SKILLS)
    w.put(skill=name, fail=fail, again=again, advice=advice, did=did, success=success)
    w.wise()
    introduce(w)
    w.say(
        "More than anything, {N} wanted to {skill}.",
        "Everybody could {skill}, only {N} could not.",
        "{N} wanted to {skill}<2+ , and {he} wanted it today>.",
    )
    w.turn(
        "{Day}, {he} tried. {fail}.",
        "{Day}, {N} tried it for the first time. {fail}.",
        '{Day}, {N} said, "Now I will {skill}." {fail}.',
    )
    w.say('\n"Once more," said {N}.', '\n"That was only practice," said {N}.', '\n"Not yet," said {N}.')
    w.also(2, "{again}.", "{He} tried again. {again}.")
    w.more(
        3,
        "{N} sat down and looked at {his} toes. They looked sorry too.",
        '"I am the only one in the world who cannot {skill}," said {N}.',
    )
    w.turn(
        "{A_pal} had watched it all.",
        '"Hm," said somebody. It was {a_pal}.',
        "{A_pal} came by and sat down.",
    )
    w.say(
        '"{advice}," said {pal}.',
        '"{advice}," said {pal}. <3+ "That is the whole secret.">',
    )
    w.more(
        3,
        '\n"Is that all?" asked {N}.\n"That is all," said {pal}. "But you must do it a hundred times."',
        '\n"How do you know?" asked {N}.\n"I was small too," said {pal}. "It took me a whole summer."',
    )
    w.turn(
        "So {N} {did}. {success}!",
        "{N} tried it. {He} {did}. {success}!",
        "{N} stood up. This time {he} {did}. <3+ One moment nothing happened. Then it did.> {success}!",
    )
    w.say(
        '\n"I can do it!" {he} shouted.', '\n"Look!" cried {N}. "Look at me!"', '\n"Did you see that?" {N} asked {pal}.'
    )
    w.more(
        3,
        "{He} did it again, to see if it was still there. It was.",
        "It did not work every time after that, but it worked most times.",
    )
    w.more(
        2,
        '\n"I saw it," said {pal}, "and I heard it, and so did everybody {here}."',
        "{Pal} nodded and was not surprised at all.",
    )
    if w.grade > 1:
        w.turn(
            "{N} did it all the way until supper, and a little after.",
            (
                'The next day a small one stood there and could not {skill}. {N} sat down next to it. "Shall I '
                'tell you something?" {he} said.'
            ),
            "That evening {his} legs were tired and {his} cheeks were red. It had been a very good day.",
        )
    w.teach("You can learn it if you keep trying.")
    ask_reader(w, "And what are you learning just now?")
    if w.grade > 1:
        w.feature("a list of three tries")
    bedtime(w, 0.2)
    w.about(
        ("{N} Learns to {Skill}", "Once More", "Not Yet", "{N} Tries Again"),
        ("{Namekind} wants to {skill} and learns it with the help of {a_pal}.",),
    )
    w.ask("What did {N} want to do?", "{skill}", [other[0] for other in SKILLS if other[0] != name])
    w.ask("Who helped {N}?", "{a_pal}", ("an old horse", "a tall bear", "a friendly wolf", "{his} uncle"))
