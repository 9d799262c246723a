"""Plots in which something is lost, or stuck, or not where it seems to be."""

from __future__ import annotations

from ..openings import ask_reader, bedtime, introduce
from ..telling import Telling
from ..world import TOYS

PAUSES = (
    ("eat a plum", "the plum"),
    ("watch a line of ants", "the ants"),
    ("look at a snail", "the snail"),
    ("pick three daisies", "the daisies"),
    ("listen to a bee", "the bee"),
    ("drink some water", "the cold water"),
    ("count the clouds", "the clouds"),
)
SNOW_PAUSES = (
    ("catch a snowflake", "the snowflake"),
    ("make a snow angel", "the snow angel"),
    ("break an icicle", "the icicle"),
    ("count the clouds", "the clouds"),
)


def lost_toy(w: Telling) -> None:
    """A toy is lost. Either its owner remembers where, or follows its thread, or it was in the wash."""
    w.hero()
    w.settle()
    w.spots(3)
    way = w.pick((_remembered, _thread, _washed))
    if way is _remembered:
        toy = w.pick(TOYS)
    elif way is _thread:
        toy = w.pick([toy for toy in TOYS if toy.name in ("elephant", "teddy bear", "lion", "doll", "scarf")])
    else:
        toy = w.pick([toy for toy in TOYS if toy.name in ("elephant", "teddy bear", "lion")])
    w.thing("toy", toy)
    w.put(call='"{Toy}, [{toy}|dear {toy}|my {toy}], where are you?"')
    introduce(w)
    w.say(
        "{He} had {a_toy}.",
        "Best of all, {N} loved {his} {full_toy}.",
        "{N} had {a_toy}<2+ , and {he} took {toy_them} everywhere>.",
    )
    w.more(
        3,
        "{N} took {toy_them} to breakfast, and {N} took {toy_them} to bed.",
        "Where {N} went, the {toy} went too.",
        "Without the {toy}, {N} could not sleep at all.",
    )
    way(w)
    bedtime(w, 0.2)
    w.about(
        ("The Lost {Toy}", "{N} and the {Toy}", "{Toy}, {Toy}, Where Are You?", "{N} Looks Everywhere"),
        ("{Namekind} loses {a_toy} and finds {toy_them} again.", "{N} looks everywhere for {his} {toy}."),
    )
    w.ask("What did {N} lose?", "{his} {toy}", [f"{{his}} {other.name}" for other in TOYS if other is not toy])


def _search(w: Telling) -> None:
    """Places in which the toy is not, with a call that repeats."""
    w.say(
        "{He} looked {in1} and found only {finds1}.",
        "{He} looked {in1}. {He} found {finds1}, but no {toy}.",
        "{In1} there was no {toy}, only {finds1}.",
    )
    w.say("{call} called {N}.", "{call} {N} called.")
    w.more(
        3,
        "{He} looked {in2} and found only {finds2}.",
        "Then {he} looked {in2}. {He} found {finds2}, but no {toy}.",
        "And {in2}? <2+ There too> {he} found only {finds2}.",
    )
    w.more(3, "{call}", "{call} called {N} again.")


def _remembered(w: Telling) -> None:
    pauses = SNOW_PAUSES if w.setting.snow else PAUSES
    act, memory = w.pick(pauses)
    w.put(act=act, memory=memory)
    w.wise()
    w.turn(
        "{Day}, {N} took the {toy} for a walk. {In3} {he} stopped to {act}. <2+ Then {he} {ran} home.>",
        "{Day}, {N} and the {toy} went out. {N} stopped {in3} to {act}. <2+ Then {he} {ran} home.>",
    )
    w.turn(
        "But where {toy_was} the {toy}?",
        "At supper {N} reached for the {toy}. {Toy_it} {toy_was} gone!",
        "At home, {N} looked at {his} {hands}. <2+ They were empty.> The {toy} {toy_was} gone!",
    )
    w.more(3, "{N} felt cold inside.", '"Oh no," whispered {N}.', "{His} nose began to prickle.")
    _search(w)
    w.turn(
        '{A_pal} looked up. "What did you do today?" asked {pal}.',
        'On the way {N} met {a_pal}. "<2+ Do not run," said {pal}. "Think. >What did you do today?"',
        'Along came {a_pal}. "<2+ Running does not help," said {pal}. "Think! >What did you do today?"',
    )
    w.turn(
        '"I stopped to {act}," said {N}. "Oh! [Now I know!|I know!]"',
        '{N} <2+ shut {his} eyes and> thought. "I stopped to {act}," {he} said. "Oh!"',
        '{N} thought of the walk and of {memory}. "Now I know!" {he} [cried|shouted].',
    )
    w.turn(
        "{N} {ran} back. And there, {in3}, {toy_was} the {toy}<2+ , just where {he} had put {toy_them}>.",
        "Off went {N}. The {toy} {toy_was} still there, {in3}<2+ , a little damp but not at all cross>.",
        "As fast as {he} could, {N} {ran} back. {In3} {toy_was} the {toy}<2+ , waiting>.",
    )
    w.say(
        "{N} hugged the {toy}<2+  so hard that {his} arms hurt>.",
        '"There you are," said {N}<2+ , and {he} held the {toy} tight>.',
        '"I will never forget you again," said {N}.',
    )
    w.more(
        3,
        "On the way home {he} stopped for nothing, not even for {memory}.",
        "{N} told the {toy} everything about the search, and the {toy} listened, as always.",
        "{He} looked {toy_them} over from top to bottom, and nothing was missing.",
    )
    if w.grade > 1:
        w.turn(
            '"Thank you," {N} said to {pal}. {Pal} only smiled.',
            "{N} gave {pal} half of {his} supper. It was a very good supper.",
            "From then on, {N} always looked back before {he} walked on.",
            '"How did you know?" {N} asked.\n"I lose my glasses every day," said {pal}.',
        )
    w.ask("Where {toy_was} the {toy}?", "{in3}", ("{in1}", "{in2}"))
    w.ask("What did {N} stop to do?", act, [other for other, _ in pauses if other != act])


def _thread(w: Telling) -> None:
    w.creature("pal", ("mouse", "robin", "sparrow", "snail", "toad", "mole"), old=False)
    w.say(
        "A long {colour} thread hung from it<3+ , and every day it grew a little longer>.",
        'It had a loose {colour} thread. <3+ "I will sew that tomorrow," {N} said every day.>',
    )
    w.turn(
        "{Day}, the {toy} was gone.",
        "{Morning}, {N} woke up and the {toy} was gone.",
        (
            "<1 {Day}, the {toy} was gone.><2+ {Day}, {N} left the {toy} on the step for a minute. When {he} "
            "came back, it was gone.>"
        ),
    )
    w.more(3, '"Somebody took it!" said {N}.', '"It cannot walk," said {N}. "Or can it?"')
    _search(w)
    w.turn(
        "Then {N} saw something thin and {colour}. The thread!",
        "Then something tickled {his} foot. It was a long {colour} thread.",
    )
    w.say(
        "It ran <2+ {path}, past the gate and> on and on, right to {spot3}.",
        "{He} followed it<2+  {path}, round a stone, over a puddle,> to {spot3}.",
        "{N} followed the thread {path}<3+ , twice around a bush> and all the way to {spot3}.",
    )
    w.turn(
        "There lay the {toy}. On top of it slept {a_pal}.",
        "There sat {a_pal} with the {toy} for a pillow.",
        "And who had the {toy}? It was {a_pal}<2+ , rolled up on it like a bun>.",
    )
    w.say(
        '"I was so cold," said {pal}. <2+ "And it is so soft.">',
        '"Is it yours?" asked {pal}. "My bed is only leaves."',
        '"Please," said {pal}, "the nights are so long and cold."',
    )
    w.more(
        3,
        "{N} wanted to be angry, but {he} could not.",
        "{N} looked at the {toy}. {He} looked at {pal}, who was shaking a little.",
    )
    w.turn(
        '{N} <2+ {ran} home and> came back with an old warm sock. "This can be your bed," {he} said.',
        (
            '"Wait here," said {N}, and {he} brought an old woolly sock. <2+ {Pal} climbed in, and only two eyes '
            "looked out.>"
        ),
    )
    w.say(
        "So {pal} got the sock, and {N} got the {toy}.",
        "Then both of them were happy, {N} with the {toy} and {pal} with the sock.",
        "So {N} had the {toy} again, and {pal} had <1 a warm bed><2+ the best bed {here}>.",
    )
    w.more(3, "That evening {N} sewed up the thread at last.")
    w.more(
        2,
        "And the other sock? {N} put it out the next day<3+ , for {pal}'s cousin>.",
        '"Good night, sock," said {pal}.',
        "Sometimes, on cold days, {N} brought {pal} a biscuit too.",
    )
    w.teach("Somebody who takes a thing may need it.")
    ask_reader(w, "What would you have done with the other sock?", "And you? What would you have said to {pal}?")
    w.ask("What did {N} follow?", "a thread", ("a bird", "some footprints", "a sound", "a butterfly"))
    w.ask("What did {N} give to {pal}?", "an old sock", ("a hat", "the {toy}", "a pillow", "a blanket"))


def _washed(w: Telling) -> None:
    w.kin("Mama", "Papa", "Grandma")
    w.put(mess="[jam|mud|porridge|soup]")
    w.say(
        "There was {mess} on its [nose|tail|back|ears]<2+ , old {mess} and new {mess}>.",
        "It had so much {mess} on it that it was hard to see the {colour}.",
    )
    w.say(
        '"That {toy} is very dirty," said {kin}.',
        '"Does that {toy} never get a bath?" asked {kin}. <2+ {N} held it tight.>',
    )
    w.turn("{Day}, the {toy} was gone.", "{Day}, {N} came home, and the {toy} was not <1 there><2+ in {his} bed>.")
    _search(w)
    w.more(
        3,
        "{N} sat down on the step. {His} eyes were hot.",
        "Nobody answered. {N} had never known the {home} so quiet.",
    )
    w.turn(
        "Drip. Something wet fell on {his} nose. <2+ Drip, drop.>",
        "Drip. A drop fell on {his} head. <2+ Drip, drop. But the sky was blue!>",
    )
    w.say("{N} looked up.", "Slowly, {N} looked up.")
    w.turn(
        "There was the {toy}, high up on the washing line<2+  between two shirts>, as clean as new.",
        "Two shirts hung on the washing line, and between them hung the {toy}<2+ , as clean as snow>.",
        "High on the washing line hung the {toy}. It was clean<2+ , it was wet,> and it smelled of soap.",
    )
    w.more(
        2,
        '"I washed it," said {kin}. "I wanted to ask you, but you were out."',
        '"It fell into the wash tub all by itself," said {kin}. <3+ {Kin} was not very good at fibs.>',
    )
    w.turn(
        "{N} waited <2+ under the line> until it was dry. <2+ That took all afternoon.>",
        "{N} sat under the {toy} <2+ and kept it company> until it was dry.",
    )
    w.more(
        3,
        "{Kin} brought out bread and butter, and they ate it there, under the shirts.",
        "{Kin} sat down too, and told {N} about a blanket that {kin_he} had loved long ago.",
    )
    w.say(
        "Then {he} hugged it. <2+ It was warm, and it smelled of {mess} again already. Nobody knows how.>",
        (
            '<1 "You smell of soap," {N} told the {toy}.><2+ "You smell strange," {N} told the {toy}. So {he} '
            "gave it one small spot of {mess}<3+ , behind the ear>. Then it was right.>"
        ),
    )
    w.ask("Where was the {toy}?", "on the washing line", ("{in1}", "{in2}", "under the bed"))
    w.ask("What was on the {toy}?", "{mess}", ("jam", "mud", "porridge", "soup", "paint"))


BABIES = (
    # the little one, its call, what is seen on it, where that comes from, its mother's kind and looks
    ("duckling", "Peep, peep", "its feet were wet", "{water}", "duck", "a brown duck"),
    ("chick", "Cheep, cheep", "there was straw on its back", "the hen house", "hen", "a fat white hen"),
    ("lamb", "Baa, baa", "there was clover in its wool", "the clover field", "sheep", "a big white sheep"),
    ("owlet", "Hoo, hoo", "there was bark on its feathers", "the hollow tree", "owl", "a grey owl"),
    ("kitten", "Mew, mew", "there was a bit of fish in its fur", "the fish shop", "cat", "a striped cat"),
    ("puppy", "Yip, yip", "there was flour on its ears", "the mill", "dog", "a big brown dog"),
    ("piglet", "Oink, oink", "there was mud on its nose", "the mud hole", "pig", "a round pink pig"),
)


def lost_animal(w: Telling) -> None:
    """A very young animal has lost its mother; something on it tells where it belongs."""
    baby, call, clue, place, mother_kind, mother = w.pick(BABIES)
    w.hero(without=(baby, "kitten", "mouse", "duckling", "hedgehog", "squirrel", "otter", "penguin"))
    w.settle(swim=True, wild=not w.kind.human)
    w.put(baby=baby, call=call, clue=clue, place=place, mother=mother, mother_kind=mother_kind)
    w.meet("she")
    neighbours = [name for name in w.setting.creatures if name != mother_kind]
    if w.grade > 1:
        w.creature("pal", neighbours, old=True)
    w.creature("two", neighbours, old=True)
    if w.chance(0.25):
        w.turn('"{call}!"\n{N}, a {look} {kind} who lived {where}, stood still and listened. What was that?')
        w.feature("starts in the middle of the action")
    else:
        introduce(w)
        w.turn(
            '{Day}, {N} heard a small sound. "{call}!"',
            '{Day}, {N} was on the way home when something called. "{call}!"',
            '{Day}, there was a noise behind the fence. "{call}!" <2+ {N} stood still.>',
        )
    w.say(
        "By the path sat a {baby}, all alone.",
        "It was a {baby}, and nobody was with it.",
        "In the grass sat a {baby}. <2+ It was [no bigger than a shoe|very small] and it shook.>",
    )
    w.more(3, '\n"Where is your mother?" asked {N}.\n"{call}," said the {baby}. It did not know any other words.')
    w.say(
        '\n"Do not cry," said {N}. "I will help you."',
        '\n"Come," said {N}. "We will find your mother."',
        "{N} picked it up. <2+ {He} could feel its heart go tick, tick, tick.>",
        '\n"Are you lost?" asked {N}. <2+ "I was lost once, and somebody helped me.">',
    )
    if w.grade > 1:
        w.turn(
            (
                '{N} asked {a_pal}. "Is this your baby?"\n"No," said {pal}. <3+ "[Mine are all grown up|Mine are '
                'at home|I have no children, only a cough].">'
            ),
            'They went to {a_pal} first. "Is this yours?" asked {N}. {Pal} shook {pal_his} head.',
        )
        w.say('\n"{call}," said the {baby}.', '\n"{call}," said the {baby}, a little louder.')
    w.turn(
        '{N} asked {a_two}. "Not mine," said {two}. "But look at it well.<2+  Everybody carries a bit of home.>"',
        '"Hm," said {a_two}. "It is not mine.<2+  Use your eyes!> What has it got on it?"',
        '<1 They met><2+ Next they met> {a_two}. "Not mine," said {two}. "But look at it. What do you see?"',
    )
    w.turn(
        'So {N} looked, and {clue}. "I know!" cried {N}. <2+ "You come from {place}!">',
        '{N} looked. Yes, {clue}! <3+ Where could that come from?> <2+ "From {place}!" said {N}.>',
    )
    w.say("And off they went to {place}.", "They went straight to {place}.", "So they set out for {place}.")
    w.more(
        3,
        "It was a long way for short legs, so {N} carried the {baby} and sang to it.",
        "On the way the {baby} fell asleep, and {N} walked very softly.",
    )
    w.turn(
        "There stood {mother}. <2+ She was calling and calling.>",
        "And who was there? It was {mother}<2+ , and she was looking behind every bush>.",
        'There, {mother} was running up and down. "My baby!" she cried.',
    )
    w.say('"{call}!" shouted the {baby}<2+ , and it jumped out of {N}\'s arms>.')
    w.more(
        3,
        "The {mother_kind} rubbed it with her nose and counted its feet.",
        "Then there was a lot of noise and a lot of cuddling.",
    )
    w.turn(
        "{N} waved and went home. <2+ {He} smiled all the way.>",
        '"Thank you," said the {mother_kind}. "Come again<2+  and play>." <2+ And {N} did.>',
        "{N} went home alone. <2+ The path was a little quiet now.> But Mama was at the door, with open arms.",
    )
    w.more(
        2,
        'The next day a small voice called outside {his} window. "{call}!"',
        'At supper {N} told it all again, and {he} did the voice. "{call}!"',
    )
    w.feature("a sound word that comes back")
    w.about(
        ("The {Baby} Who Was Lost", "{call}!", "{N} and the Lost {Baby}", "Whose {Baby} Is This?"),
        ("{Namekind} finds a lost {baby} and brings it back to its mother.",),
    )
    w.ask("What did {N} find?", "a {baby}", [f"a {other[0]}" for other in BABIES if other[0] != baby])
    w.ask("Where was its mother?", "at {place}", [f"at {other[3]}" for other in BABIES if other[3] != place])
    w.ask("How did {N} know where it came from?", clue, [other[2] for other in BABIES if other[2] != clue])


FLYERS = (
    # what is stuck, its full look, the line that holds it, what is done with it
    ("kite", "{colour} kite with a long tail", "string", "fly the kite"),
    ("balloon", "big {colour} balloon", "string", "hold the string"),
    ("flag", "{colour} paper flag", "thread", "carry the flag"),
)


def stuck(w: Telling) -> None:
    """Something hangs in a tree; the big ones cannot get it down, the one who was too small can."""
    thing, full, line, use = w.pick(FLYERS)
    w.hero(without=("squirrel", "monkey", "mouse", "duckling", "penguin"))
    w.settle(wild=not w.kind.human, warm=True)
    w.creature("pal", ("mouse", "robin", "sparrow", "squirrel"), old=False)
    w.creature("one", ("goat", "dog", "donkey"), old=True)
    if w.grade > 1:
        w.creature("two", ("deer", "goose", "cat", "frog"), old=True)
    w.put(thing=thing, line=line, use=use, full=full)
    w.put(tree="[apple tree|old oak|fir tree|tall tree|pear tree]")
    introduce(w)
    w.turn(
        '{Day}, {N} had a {full}. "May I help?" asked {a_pal}.',
        '{Day}, {N} took {his} {full} outside. "Let me help!" said {a_pal}.',
    )
    w.say(
        '\n"You are too small," said {N}. <3+ {Pal} went away with {pal_his} head down.>',
        '\n"You?" said {N}. "You are too small." <2+ {Pal} said nothing.>',
    )
    w.turn(
        "Whoosh! A wind came. The {thing} flew up <2+ and up,> and it got stuck in the {tree}.",
        "The wind came round the corner. Whoosh! Up flew the {thing}, right into the {tree}, and there it stuck.",
        (
            "Whoosh! The wind took the {thing}. <2+ It went up, it went round, and it> <1 It> stuck in the top "
            "of the {tree}."
        ),
    )
    w.more(
        3,
        "{N} pulled at the {line}. The {thing} did not move.",
        "{N} jumped. {N} pulled the {line}. Nothing moved but a leaf.",
    )
    w.turn(
        (
            '"Let me try," said {a_one}<2+ , and {one_he} pushed the tree>. [Bump|Thump|Boom]! <2+ Three leaves '
            "fell down, but> <1 But> no {thing} <1 came down>."
        ),
        (
            '"I am strong," said {a_one}. {One_he} ran at the tree. [Bump|Thump]! <2+ Now {one} had a sore head, '
            "and the> <1 The> {thing} was still up there."
        ),
    )
    if w.grade > 1:
        if w.slots["two_kind"] == "cat":
            w.turn('"I will climb," said {a_two}. {Two_he} got up one branch and did not like it there.')
        else:
            w.turn('"I can jump," said {a_two}, and {two_he} jumped [three times|very high]. It was not high enough.')
    w.more(
        3,
        "They all stood under the tree and looked up until their necks hurt.",
        "They sat down in the grass and thought. {One} thought about lunch.",
    )
    w.turn(
        '"May I help now?" asked a small voice. It was {pal}.',
        'Somebody coughed. It was {pal}. "I am still here," {pal_he} said. <3+ "And I am still small.">',
    )
    w.say(
        '\n"Yes, please," said {N}<2+ , and {he} went red>.',
        '\n"Oh, please help," said {N}. <2+ "I am sorry for what I said.">',
    )
    w.turn(
        "Up went {pal}<2+ , to the very thin twigs at the top>. Snip, snap, {pal_he} bit the {line}.",
        (
            "<2+ The top twigs were thin, but {pal} was light.> {Pal_he} went right up to the {thing} and bit "
            "the {line}. Snip!"
        ),
    )
    w.say(
        "Down came the {thing}<2+ , [turning and turning|softly, like a leaf], and landed at {N}'s feet>.",
        "And the {thing} came down <1 to {N}><2+ and landed on {one}'s nose>.",
    )
    w.turn(
        '"Big is good," said {one}. "But small is good too."',
        '"How did you do that?" asked {one}.\n"I am small," said {pal}<2+ , and {pal_he} stood very straight>.',
        '"Who is too small now?" asked {one}.\n"Nobody," said {N}.',
        "Everyone clapped<2+ , and {pal} bowed so low that {pal_he} fell over>.",
    )
    w.more(
        3,
        '"Will you help me {use}?" {N} asked {pal}. And that is what they did.',
        "All afternoon {N} and {pal} played with the {thing}<3+ , and nobody talked about big or small>.",
    )
    w.teach("Small ones can do what big ones cannot.")
    if w.grade > 1:
        w.feature("a list of three tries")
    w.about(
        ("The {Thing} in the Tree", "Too Small to Help", "Small Enough", "{N} and the {Thing}"),
        ("{N}'s {thing} is stuck in a tree, and only the smallest can get it down.",),
    )
    w.ask("What was stuck in the tree?", "a {thing}", ("a kite", "a balloon", "a flag", "a ball", "a hat"))
    w.ask("Who got the {thing} down?", "{pal}", ("{one}", "{N}"))
    w.ask(
        "Why could {pal} reach it?",
        "{pal_he} was small and light",
        ("{pal_he} had a ladder", "{pal_he} was very strong", "{pal_he} had long legs"),
    )


def moon(w: Telling) -> None:
    """The moon seems to have fallen into the water."""
    w.hero()
    w.settle()
    w.put(pail="[well|bucket|tub]" if w.setting.snow else "[pond|well|bucket|puddle|rain barrel]")
    w.put(tool="[soup spoon|fishing net|big ladle|butter pot|old hat]")
    w.small()
    introduce(w)
    w.more(
        2,
        "{N} loved the moon and said good night to it every evening.",
        "Nobody liked the moon as much as {N} did.",
    )
    w.turn(
        "One night {N} looked into the {pail}. The moon was in it<2+ , round and white>!",
        "One night {N} could not sleep and went outside. Something shone in the {pail}. It was the moon!",
        "One night {N} went past the {pail}. {He} stopped. There was the moon, right in the {pail}!",
    )
    w.rhyme(2, '"Moon, moon, come out soon," sang {N}.', '"Moon, moon, I have a spoon," sang {N}.')
    w.say(
        '\n"Help!" called {N}. "The moon has fallen into the {pail}!"',
        '\n"Oh dear," said {N}. "It fell down. Poor moon!<2+  It must be so cold and wet.>"',
    )
    w.say(
        "{A_pal} came to see. <2+ {Pal} looked, and it was true.>",
        '\n{A_pal} came and looked too. "So it has," said {pal}. <3+ "I wondered why it was late.">',
    )
    w.turn(
        "{N} got a {tool} and dipped it in. Splash! The moon broke into a hundred pieces.",
        (
            "{N} took a {tool} and scooped. Splash! <2+ There was no moon any more, only little bits of light.> "
            "<1 The moon broke.>"
        ),
    )
    w.say(
        '\n"What have I done?" whispered {N}.',
        '\n"Now I have broken it," said {N}<3+ , and a tear ran down {his} nose>.',
        '\n"You broke it!" cried {pal}. <2+ {N} wanted to cry.>',
    )
    w.turn(
        (
            "They sat very still. <2+ The water grew still too. The bits came together, and> <1 Then> the moon "
            "was round again."
        ),
        (
            "They did not move. Slowly the water became smooth. <2+ One bit, two bits, and there was the whole "
            "moon again.> <1 There was the moon again.>"
        ),
    )
    w.more(3, '\n"It can mend itself," whispered {pal}.', '\n"Good," said {N}. "But how do we get it home?"')
    w.turn(
        "Then {N} <2+ sat back and> looked up <2+ to think>. And there it was, high in the sky, quite dry.",
        "{N} fell over on {his} back<3+ , tired out>. Up there was the moon, safe in the sky.",
    )
    w.say(
        '\n"It is back!" shouted {N}. <2+ "We did it!">',
        '\n"Look!" said {N}. "We saved it!" <2+ {Pal} danced around the {pail}.>',
        '\n{N} laughed <2+ until {his} tummy hurt>. "It was up there all the time," {he} said.',
    )
    w.more(
        3,
        "{Pal} looked at the sky, then at the water, and said nothing at all.",
        "The moon said nothing. It only shone.",
    )
    if w.grade > 1:
        w.turn(
            "Ever after, when {N} saw the moon in the water, {he} waved twice, once up and once down.",
            '"Good night, moon," said {N}. Then {he} looked down. "And good night, other moon."',
            "{N} put the {tool} back. Then everybody went to bed, first {pal}, then {N}, and last of all the moon.",
        )
    w.feature("a funny mistake")
    w.about(
        ("The Moon in the {Pail}", "{N} Saves the Moon", "How the Moon Got Wet", "Two Moons"),
        ("{Namekind} thinks that the moon has fallen into the {pail} and tries to save it.",),
    )
    w.ask("What did {N} see in the {pail}?", "the moon", ("a fish", "a lamp", "a silver coin", "the sun"))
    w.ask(
        "What did {N} dip into the {pail}?",
        "a {tool}",
        ("a soup spoon", "a fishing net", "a big ladle", "a butter pot", "an old hat"),
    )
    w.ask("Where was the moon really?", "in the sky", ("in the water", "behind the house", "under the bed"))
