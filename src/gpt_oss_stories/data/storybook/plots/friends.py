"""Plots between two: sharing, a stranger, a new friend, a quarrel."""

from __future__ import annotations

from ..openings import ask_reader, bedtime, introduce
from ..telling import Telling

SHARED = (
    # the thing, how it looks, what goes wrong alone (twice), how a second one joins, what happens with two
    (
        "see-saw",
        "new wooden see-saw",
        "Bump. It went down and stayed down",
        "{N} sat on the other end. Bump. That end stayed down too",
        "sat down on the other end",
        "Up went {N}, and down went {F}. Down went {N}, and up went {F}",
    ),
    (
        "wagon",
        "{colour} wagon with four wheels",
        "{He} sat in it and waited. It did not move at all",
        "{N} pulled it. It rolled, but now nobody sat in it",
        "took hold of the rope",
        "First {N} pulled and {F} sat in it, and then {F} pulled and {N} sat in it",
    ),
    (
        "boat",
        "little {colour} boat with two oars",
        "{He} pulled at one oar, and the boat went round and round",
        "{N} pulled at the other oar. It went round and round the other way",
        "took the other oar",
        "{N} pulled at one oar and {F} at the other, and the boat went straight ahead",
    ),
    (
        "ball",
        "big {colour} ball",
        "{He} threw it. It rolled away, and nobody threw it back",
        "{N} threw it at a wall. It came back and hit {him} on the nose",
        "stood ready with open arms",
        "{N} threw the ball and {F} caught it, and {F} threw it and {N} caught it",
    ),
    (
        "skipping rope",
        "long {colour} skipping rope",
        "{He} turned one end. The other end lay in the grass",
        "{N} tied it to a post. The post did not want to turn it",
        "took the other end",
        "They turned the rope in the air, swish, swish, and took turns to jump",
    ),
    (
        "drum",
        "{colour} drum with two sticks",
        "Bom, bom, bom. It sounded a little lonely",
        "{N} played louder. Bom, bom! A bird flew off, and that was all",
        "took one of the sticks",
        "Each of them had one stick. Bim, bom, bim, bom! Now it was a song",
    ),
)


def sharing(w: Telling) -> None:
    """A new thing is no fun alone."""
    w.hero(without=("penguin",))
    w.settle(swim=True)
    w.friend()
    thing, full, alone, again, joins, both = w.pick(SHARED)
    w.put(thing=thing, full=full, alone=alone, again=again, joins=joins, both=both)
    if w.grade > 1 and w.chance(0.25):
        w.turn(
            '"Mine!" said {N}, a {look} {kind} who lived {where}. {He} meant the {full}. It was brand new.',
            (
                '"It is mine, mine, mine," sang {N}, a {look} {kind} who lived {where}. {He} had a {full}, and '
                "it was brand new."
            ),
        )
        w.feature("starts in the middle of the action")
    else:
        introduce(w)
        w.say("{Day}, {N} got a {full}.", "{N} had a {full}<2+ , and it was brand new>.")
    w.turn(
        '{A_F} came by. "May I play too?" asked {F}.',
        '"Oh, a {thing}!" said {a_F}. "Can we play together?"',
    )
    w.say('\n"No," said {N}. "It is mine."', '\n"No," said {N}. "Mine." <3+ {He} put both {hands} on it.>')
    w.say(
        "{F} said nothing and sat down by a tree.",
        "{F} <2+ went away and> sat down on a stone.",
        "So {F} sat down by the fence<2+  and looked the other way>.",
    )
    w.turn(
        "{N} began to play. {Alone}.",
        "Now {N} had the {thing} all alone. {Alone}.",
    )
    w.more(2, "{Again}.", "{Again}.")
    w.more(
        3,
        '"This is fun," said {N}, but {his} face did not look like fun.',
        'Nobody laughed. Nobody said, "My turn!" It was very quiet.',
    )
    w.turn(
        "{N} looked at {F}. <2+ {F} looked at the ground.>",
        (
            "<1 {N} looked at {F}.><2+ After a while {N} looked over to {F}, who was drawing a line in the sand "
            "with one toe.>"
        ),
    )
    w.say(
        '\n"{F}," said {N}, "will you play with me?"',
        '\n"I said no," said {N}. "Can I say yes now?"',
        '\n"It is better with two," said {N}.',
    )
    w.say("{F} got up at once and {joins}.", "<3+ {F} thought about it, but not for long.> {F} {joins}.")
    w.turn("{Both}!", "And now it worked. {Both}!")
    w.more(
        2,
        "They laughed so much that {N} got the hiccups.",
        "They played until the sun was low and somebody called them to supper.",
        "They did it ten times, and then ten times more.",
    )
    w.turn(
        '"Whose {thing} is that?" asked a crow on the fence.\n"Ours," said {N}.',
        '"Tomorrow again?" asked {F}.\n"Tomorrow again," said {N}.',
        'That evening {N} did not say "my {thing}." {N} said "our {thing}."',
    )
    w.teach("Many things are more fun with two.")
    ask_reader(w, "What do you like to play with two?", "Have you ever said no like that?")
    w.about(
        ("{N}'s New {Thing}", "Better with Two", "Mine!", "{N} and {F}"),
        ("{N} does not want to share {his} new {thing} with {F}, until playing alone is no fun.",),
    )
    w.ask("What did {N} have that was new?", "a {thing}", [f"a {other[0]}" for other in SHARED if other[0] != thing])
    w.ask("Who wanted to play with {N}?", "{F}", ("Grandma", "the cook", "the postman", "a dog"))
    w.ask("What did {N} say when {F} asked to play?", "no", ("yes", "maybe", "tomorrow", "later"))


TROUBLES = (
    # what shows in the stranger's cart, what goes wrong for the hero later, how the load helps
    (
        "lantern",
        "a lantern hung on it",
        "a thick fog came up. {N} could not see the path",
        "a light came through the fog. It was {pal} with the lantern",
    ),
    (
        "umbrella",
        "a big umbrella lay on top",
        "the rain came down like a river. {N} was wet to the skin",
        "the rain stopped above {his} head. There stood {pal} with the umbrella",
    ),
    (
        "rope",
        "a long rope hung from it",
        "{N} slid into a deep hole. {He} could not get out",
        "the end of a rope came down. At the other end was {pal}",
    ),
    (
        "horn",
        "an old horn stuck out of it",
        "it grew dark, and {N} lost the path",
        "a horn sounded, toot, toot. {N} ran to it, and there was {pal}",
    ),
    (
        "blanket",
        "a warm blanket lay on top",
        "it began to snow. {N} was so cold that {his} teeth went clack",
        "something soft and warm fell over {him}. It was a blanket, and {pal} held the other end",
    ),
)


def stranger(w: Telling) -> None:
    """Others hurry past a stranger with a heavy load; the hero helps, and what was in the load helps the hero."""
    tool, load, trouble, rescue = w.pick(TROUBLES)
    w.hero()
    w.settle(wild=not w.kind.human, warm=True)
    w.creature("pal", ("turtle", "donkey", "badger", "goose", "mole", "toad"), old=True)
    passing = ("goat", "dog", "deer", "crow", "cat")
    w.creature("one", passing)
    if w.grade > 1:
        w.creature("two", passing)
    w.put(tool=tool, load=load)
    w.put(trouble=trouble, rescue=rescue)
    w.put(errand="[fetch bread|bring soup to {his} aunt|buy milk|visit {his} cousin|post a letter]")
    introduce(w)
    w.turn(
        "{Day}, {N} <1 met><2+ went out to {errand}. On the path stood> {a_pal} with a cart. {Load}.",
        "{Day}, {N} <1 saw><2+ was on {his} way to {errand}. There was> {a_pal} with a heavy cart, and {load}.",
    )
    w.say(
        "One wheel was stuck in the mud.",
        "The cart was stuck<2+  in the mud. It did not go forward, and it did not go back>.",
    )
    w.turn(
        '{A_one} hurried past. "No time," said {one}.',
        'Along came {a_one}. "Poor you," said {one}, and {one_he} went on.',
        "{A_one} stopped, but only to laugh. Then {one_he} was gone.",
    )
    if w.grade > 1:
        w.turn(
            '"I have just washed my feet," said {a_two}, and {two_he} went away.',
            'The next one was {a_two}. "Good luck," said {two}, and looked at the sky.',
            '{A_two} looked at the mud. "Somebody should help you," said {two}, and walked around it.',
        )
    w.more(3, "{N} wanted to go on as well. It was late. But {he} looked back, and that was that.")
    w.turn('"I will push," said {N}.', '"Wait," said {N}. "I can push."', '{N} stopped. "I will help you," {he} said.')
    w.say(
        "They pushed together. <2+ The mud said slurp, and> <1 Slurp!> the wheel came out.",
        "{N} pushed and {pal} pulled. <2+ One, two, three, and the> <1 The> wheel came out.",
        "{He} <2+ put a flat stone under the wheel and> pushed. Plop! The cart was free.",
    )
    w.more(2, '\n"Thank you," said {pal}. "I will not forget it."', "\n{Pal} smiled and went on, very slowly.")
    w.more(3, "{N} had mud up to the ears, and {he} did not mind.", "{N} waved until the cart was gone.")
    w.turn("On the way home, {trouble}.", "But on the way back, {trouble}.")
    w.more(
        3,
        '"Hello!" called {N}. "Is anybody there?" Nobody answered.',
        "{He} sat down on the ground. {N} felt very small.",
    )
    w.say("Then {rescue}.", "All at once, {rescue}.")
    w.turn(
        '"You helped me," said {pal}. "Now I help you."',
        '"I saw your tracks," said {pal}. <2+ "Nobody else walks as you do.">',
        '"I am slow, you know," said {pal}. <2+ "That is good luck for you.">',
        '"It is you!" cried {N}.\n"It is me," said {pal}.',
    )
    w.more(
        2,
        "They went on together, and the way was not long.",
        "They went the rest of the way together.",
        "{Pal} took {N} all the way home, right to the door.",
    )
    if w.grade > 2:
        w.turn(
            "At home there was soup, and {pal} stayed until the pot was empty.",
            "After that day {N} had a friend with a cart, and sometimes {he} was allowed to ride on it.",
            "They were not strangers any more.",
        )
    w.teach("Kindness comes back.")
    ask_reader(w, "Would you have stopped too?", "And you? Would you have pushed?")
    w.about(
        ("The Cart in the Mud", "{N} and the Stranger", "The Stranger's {Tool}", "I Will Push"),
        ("{Namekind} helps a stranger with a cart, and later the stranger helps {N} with a {tool}.",),
    )
    w.ask(
        "What was stuck in the mud?" if w.grade > 1 else "What was stuck?",
        "a cart",
        ("a boat", "a cow", "a shoe", "a bus"),
    )
    w.ask("Who had the cart?", "{a_pal}", ("a farmer", "a young fox", "a baker", "a king"))
    w.ask(
        "What did the stranger help {N} with?", "a {tool}", [f"a {other[0]}" for other in TROUBLES if other[0] != tool]
    )


PASTIMES = (
    # what the hero likes to do in quiet, how it is done beside the newcomer, how the newcomer joins
    ("draw in the sand", "drew a big fish in the sand", "drew a small fish beside the big one"),
    ("make towers of stones", "put one stone on another, and one more on top", "put a very small stone on the top"),
    ("play the flute", "played a slow tune on the flute", "hummed the last note"),
    ("make chains of flowers", "tied flowers into a chain", "held out one more yellow flower"),
    ("fold boats from paper", "folded a boat from paper", "folded a tiny hat for the boat"),
    ("look at clouds", "looked up at the clouds", "pointed at a cloud that looked like a whale"),
)


def new_friend(w: Telling) -> None:
    """Somebody new is shy; loud ways do not work, a quiet one does."""
    w.hero()
    w.settle(warm=True)
    w.friend()
    hobby, does, joins = w.pick(PASTIMES)
    w.put(hobby=hobby, does=does, joins=joins)
    w.put(hiding="[behind a tree|under the bench|behind a big box|behind the wall]")
    w.put(gift="[a biscuit|an apple|a flower|a shiny button]")
    introduce(w)
    w.say("{N} liked to {hobby}.", "Best of all, {N} liked to {hobby}.", "If it was quiet, {N} liked to {hobby}.")
    w.turn(
        "{Day}, somebody new moved in next door. It was {a_F}.",
        "{Day}, there was a new face next door. It was {a_F}.",
        "{Day}, a cart stopped next door, and out got {a_F}.",
    )
    if w.kind.human:
        w.also(2, "{F} was a {f_kind} with a very quiet voice.")
    w.more(
        3,
        "{F} had come a long way, with one bag and a blanket.",
        "{F} looked at the ground and held on to {f_his} bag.",
    )
    w.turn(
        '"Hello!" shouted {N}. "Shall we play?" {F} hid {hiding}.',
        '{N} jumped over the fence. "Hello, hello!" {he} called. {F} hid {hiding}.',
        '"Catch!" cried {N}, and threw a ball. {F} did not catch it. {F} hid {hiding}.',
    )
    w.more(
        2,
        "The next day {N} brought {gift}. {F} took it with one {hand} and ran inside.",
        "Then {N} put {gift} on the wall. When nobody looked, it was gone, but so was {F}.",
    )
    if w.grade > 1:
        w.put(elder="[Mama|Papa|Grandma]")
        w.turn(
            '"{F} does not like me," said {N}.\n"Perhaps you are too loud for {f_him}," said {elder}.',
            '"What shall I do?" {N} asked {elder}.\n"Nothing," said {elder}. "Try nothing for a while."',
        )
    w.turn(
        "So {N} sat down near the wall and said nothing. {He} {does}.",
        "The next morning {N} did not call and did not shout. {He} sat down and {does}.",
    )
    w.say(
        "Nothing happened for a long time. <3+ A bee came and went.>",
        "{He} did not turn round<2+ , not even when something moved>.",
    )
    w.turn(
        "Then there were steps, as soft as a cat's. {F} sat down too and {joins}.",
        "A shadow fell on the grass. It was {F}. {f_he} {joins}.",
    )
    w.say(
        '\n"Good," said {N}, very softly.', "\n{N} smiled. {F} smiled back.", '\n"That is what was missing," said {N}.'
    )
    w.more(
        3,
        "They stayed there all afternoon and said about ten words. They were good words.",
        '\n"I am {F}," said {F}.\n"I know," said {N}. "I am {N}."',
    )
    if w.grade > 1:
        w.turn(
            "Now two of them liked to {hobby}. <3+ And after a week {F} was the loudest of all.>",
            "The next day {F} knocked at {N}'s door. It was a very small knock, but {N} heard it.",
            "From then on there was a hole in the fence, just big enough for a friend.",
        )
    else:
        w.say("Now {N} had a friend.")
    w.teach("Some friends come when you are quiet.")
    ask_reader(w, "How do you say hello to somebody new?")
    w.about(
        ("{N} and the New Friend", "Somebody New", "A Quiet Hello", "{N} Meets {F}"),
        ("{N} wants to be friends with {F}, who is new and shy, and finds a quiet way.",),
    )
    w.ask("What did {N} like to do?", "{hobby}", [other[0] for other in PASTIMES if other[0] != hobby])
    w.ask("Where did {F} hide?", "{hiding}", ("behind a tree", "under the bench", "behind a big box", "in a boat"))
    w.ask("Who was new next door?", "{F}", ("a baker", "Grandpa", "a tall man", "a twin"))


PROJECTS = (
    # what they make, the two wishes, how it is settled
    ("paint the gate", "gate", "It must be {c1}", "It must be {c2}", "They painted it with stripes, {c1} and {c2}"),
    ("make a flag", "flag", "It needs a star", "It needs a fish", "They made a fish with a star on its tail"),
    (
        "bake a cake",
        "cake",
        "It needs cherries",
        "It needs nuts",
        "They put cherries on one half and nuts on the other",
    ),
    (
        "build a tree house",
        "tree house",
        "The door must be here",
        "No, there",
        "They made two doors, and you could run right through",
    ),
    (
        "write a song",
        "song",
        "It must be about rain",
        "About pancakes",
        "They wrote a song about a day when it rained pancakes",
    ),
    ("make a puppet", "puppet", "It must be a queen", "It must be a dragon", "They made a dragon with a golden crown"),
)
SNOW_PROJECTS = (
    ("build a snowman", "snowman", "It needs a hat", "It needs a crown", "They put the crown on top of the hat"),
    *PROJECTS[1:3],
)


def quarrel(w: Telling) -> None:
    """Two friends quarrel over something they make, miss each other, and meet halfway."""
    w.hero()
    w.settle()
    project, thing, wish, counter, settled = w.pick(SNOW_PROJECTS if w.setting.snow else PROJECTS)
    w.friend()
    first, second = w.draw(("red", "blue", "green", "yellow", "white"), 2)
    w.put(c1=first, c2=second)
    w.put(project=project, thing=thing, wish=wish, counter=counter, settled=settled)
    if w.grade > 1 and w.chance(0.25):
        w.turn(
            '"{wish}!" said {N}, a {look} {kind} who lived {where}.\n"{counter}!" said {a_F}, {his} best friend.\n'
            "They wanted to {project} together."
        )
        w.feature("starts in the middle of the action")
    else:
        introduce(w)
        w.say("{His} best friend was {a_F}.", "{N} and {a_F} were best friends.")
        w.turn("{Day}, they began to {project}.", "{Day}, {N} and {F} wanted to {project}.")
        w.say('\n"{wish}," said {N}.\n"{counter}," said {F}.')
    w.more(
        2,
        '\n"No!" said {N}.\n"Yes!" said {F}.',
        "They said it again, and louder. A bird flew out of the bush.",
        "{N} went red. {F} went red too. Nobody smiled.",
    )
    w.say(
        '\n"Then I am not your friend," said {N}.',
        '\n"Then do it alone," said {N}<2+ , and {he} stamped {his} foot>.',
    )
    w.say("{F} went home, and {N} went home too.", "Both went home. <2+ Bang, said one door. Bang, said the other.>")
    w.turn(
        "{N} sat on {his} bed. It was much too quiet.",
        "{N} tried to sing a little. It did not sound right.",
        "{N} wanted to do it alone. But it was no fun<3+ , and there was nobody to hold the other end>.",
    )
    w.more(
        2,
        "{N} had a good idea and turned round to tell {F}. There was nobody there.",
        "At supper there were noodles. {F} liked noodles. {N} could not eat one.",
    )
    w.more(
        3,
        '"It does not have to be my way," thought {N}. "It has to be with {F}."',
        "{N} looked out of the window. On the other side, behind another window, there was a small light.",
    )
    w.turn(
        "So {N} <2+ put on {his} hat and> went out. In the middle of the path {he} met {F}.",
        "{N} opened the door and went out. There on the path was {F}<2+ , looking at the ground>.",
        "{N} got up and {ran} to {F}'s house. <2+ But {he} only got halfway, because> {F} was coming the other way.",
    )
    w.say(
        '\n"I am sorry," said {N}.\n"I am sorry," said {F}<2+ , at the very same time>.',
        '\n"Sorry!" they both said at once.',
    )
    w.more(
        3,
        "Then they had to laugh.",
        '\n"You can have your way," said {N}.\n"No, you can have yours," said {F}. It was nearly a quarrel again.',
    )
    w.turn("The next day they did it. {Settled}.", "And what did they do? {Settled}.")
    w.also(
        2,
        "{N} liked it. {F} liked it too.",
        "It was the best {thing} {here}.",
        "Nobody had ever seen a {thing} like it.",
    )
    w.teach("A friend is worth more than being right.")
    ask_reader(w, "And whose idea was the best? What do you think?")
    bedtime(w, 0.1)
    w.about(
        ("{N} and {F}", "Halfway", "The Quarrel", "The Best {Thing}", "Sorry, Said Both"),
        ("{N} and {F} quarrel over a {thing} and make up again.",),
    )
    w.ask("What did {N} and {F} want to do?", "{project}", [other[0] for other in PROJECTS if other[0] != project])
    w.ask("What did they both say in the end?", "sorry", ("good night", "hooray", "never again"))
    w.ask("Who was {N}'s best friend?", "{F}", ("Grandma", "the cook", "the baker", "a snail"))
