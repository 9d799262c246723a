"""Plots of a single day: a promise, a race, a birthday."""

from __future__ import annotations

from ..openings import ask_reader, bedtime, introduce
from ..telling import Telling

TASKS = (
    # the promise, the deed, what is found in the morning
    ("water my pear tree every evening", "watered the pear tree", "one small yellow pear"),
    ("light my lamp every evening", "lit the lamp in the window", "a lost bird that had followed the light"),
    ("feed my hen every evening", "fed the hen", "a warm brown egg"),
    ("feed my fish every evening", "fed the fish", "three tiny new fish"),
    ("shut my gate every evening", "shut the gate", "the tracks of a fox that had turned back"),
    ("wind my clock every evening", "wound the clock", "a clock that was right to the minute"),
)


TOKENS = (
    # what is done so as not to forget, and what it is then called
    ("tied a knot in {his} scarf", "the knot in {his} scarf"),
    ("tied a ribbon around {his} {hand}", "the ribbon around {his} {hand}"),
    ("hung a button around {his} neck", "the button around {his} neck"),
    ("put a stone in {his} bed", "the stone in {his} bed"),
)


def promise(w: Telling) -> None:
    """A promise is nearly forgotten; a knot or a ribbon brings it to mind."""
    asked, deed, reward = w.pick(TASKS)
    w.hero()
    w.settle(warm=True)
    w.wise()
    w.put(asked=asked, deed=deed, reward=reward)
    tie, token = w.pick(TOKENS)
    w.put(tie=tie, token=token)
    w.put(fun="[there was a party|there was music {here}|there was a dance|all the others played outside]")
    introduce(w)
    w.turn(
        '{Day}, {a_pal} came to the door. "I am going away <2+ for three days>. Will you {asked}?"',
        (
            '{Day}, {a_pal} went on a trip. "{N}," said {pal}, "will you {asked}?" <2+ {Pal_he} would be back in '
            "three days.>"
        ),
    )
    w.say('\n"I promise," said {N}. {He} {tie}<2+ , so that {he} would not forget>.')
    w.turn(
        "On the first evening {N} {deed}. <2+ On the second evening, too.> <3+ That was easy.>",
        "The first day {N} {deed}. <2+ The second day it rained, and {N} did it all the same.>",
    )
    w.turn("On the <2+ third> <1 next> evening {fun}.", "But on the <2+ third> <1 second> day {fun}.")
    w.say(
        "{N} laughed and danced and forgot everything <2+ else>.",
        "{N} played until {his} legs were tired.",
    )
    w.more(3, "Then {he} fell into bed.", "It was late when {he} came home, and {he} wanted only one thing: to sleep.")
    w.turn(
        "In bed {N} felt {token}. The promise!",
        (
            "<1 Then {N} looked at {token}. Oh, the promise!><2+ {N} lay down in bed. What was that? It was "
            "{token}. Oh, the promise!>"
        ),
    )
    w.more(
        3,
        '\n"Nobody would know," said the pillow<3+ , as pillows do>.\n"I would know," said {N}.',
        "Outside it was dark, and the wind was cold. {N} looked at {his} warm bed and sighed.",
    )
    w.say(
        "{N} got up <2+ , took a lamp> and went out.",
        "Out of bed {he} jumped<2+ , and out into the night>.",
    )
    w.say("{He} {deed}<2+ , just in time>.", "In the light of the moon {he} {deed}.")
    w.turn(
        "In the morning {pal} came back. And what was there? {Reward}!",
        'The next day {pal} was home again. <2+ "Come and look," said {pal}.> There was {reward}.',
    )
    w.more(
        3,
        '\n"That is because of you," said {pal}.',
        '\n"Thank you," said {pal}. "I knew that you would not forget." {N} looked at {his} toes.',
        '\n"You kept your promise," said {pal}.\n"It was nearly not kept," said {N}, who was honest.',
    )
    if w.grade > 1:
        w.turn(
            "{N} yawned and was proud, both at once.",
            "Then {N} went home and slept until noon.",
            "Never again was it so hard to keep a promise.",
        )
    else:
        w.say("{N} was proud.")
    w.teach("A promise is a promise.")
    ask_reader(w, "Have you ever nearly forgotten a promise?", "Would you have got up?")
    w.about(
        ("{N}'s Promise", "Three Evenings", "The Promise", "Nearly Forgotten"),
        ("{Namekind} makes a promise to {pal} and nearly forgets it.",),
    )
    w.ask("What did {N} promise?", _as_answer(asked), [_as_answer(other[0]) for other in TASKS if other[0] != asked])
    w.ask("What helped {N} to remember?", "{token}", ("a letter", "a bell", "{his} mother", "a song"))
    w.ask("Who went away?", "{pal}", ("Mama", "the postman", "a swan", "a sailor"))


def _as_answer(asked: str) -> str:
    """`water my pear tree` as the hero would say what was promised."""
    return "to " + asked.replace("my ", "the ")


STOPS = (
    # who is in trouble, the trouble, the help
    ("a beetle", "lay on its back and waved its legs", "turned it over with a leaf"),
    ("a bee", "sat in a puddle with wet wings", "lifted it out with a blade of grass"),
    ("a baby bird", "had fallen out of its nest", "put it back, very gently"),
    ("a small fish", "lay in a puddle that was nearly dry", "carried it to {water}"),
    ("a butterfly", "was caught in a web", "set it free, thread by thread"),
    ("a snail", "was stuck in the middle of the path", "carried it to the grass"),
)


def race(w: Telling) -> None:
    """A race in which the hero stops to help and comes last; the winner has seen nothing at all."""
    who, trouble, help_ = w.pick(STOPS)
    w.hero()
    w.settle(warm=True)
    w.friend()
    w.put(who=who, trouble=trouble, help=help_)
    w.put(tiny=who.split()[-1])
    w.put(prize="[a honey cake|a plum cake|a big bun|a basket of cherries|a red ribbon]")
    edible = "ribbon" not in w.slots["prize"]
    w.put(goal="[the old oak|the red flag|the long fence|the big stone|the bell|the white gate]")
    introduce(w)
    w.say("{N} was fast<2+ , nearly as fast as the wind>.", "{N} loved to run.", "Nobody {here} ran as much as {N}.")
    w.turn(
        "{Day}, there was a race to {goal}. The prize was {prize}.",
        "{Day}, everybody came to see the race. <2+ Who would be first at {goal}?> The prize was {prize}.",
    )
    w.say('\n"I will win," said {a_F}.\n"We will see," said {N}.', "\n{N} stood next to {a_F}.")
    w.turn(
        "One, two, three, go! <2+ Off they ran.> {N} was in front.",
        '"Go!" <2+ They ran so fast that the dust flew.> {N} was first.',
    )
    w.say(
        "Then {N} saw {who}. It {trouble}.",
        "But what was that? There was {who}. It {trouble}.",
    )
    w.more(
        3,
        "{N} looked at {goal}. {He} looked at the {tiny}. {F} ran past.",
        "{N} ran three more steps. Then {he} turned round.",
    )
    w.turn('{N} stopped. <2+ "Wait, I will help you," {he} said.> {He} {help}.', "{N} knelt down and {help}.")
    w.more(
        2,
        "Feet went past, a lot of feet. Then the path was empty.",
        '"Run!" somebody shouted. But {N} took {his} time. The {tiny} was so small.',
    )
    w.turn(
        "When {N} came to {goal}, {F} had won.",
        "{N} was the very last one at {goal}. {F} had won.",
    )
    w.say(
        '\n"Where were you?" asked {F}. {N} told everything.',
        '\n"What took you so long?" asked {F}. So {N} told about the {tiny}.',
    )
    w.more(
        3,
        '\n"I saw no {tiny}," said {F} slowly. "I saw nothing at all. I only saw my feet."',
        "\nEverybody listened. It was a better story than the race.",
    )
    if edible:
        w.turn(
            "{F} looked at the prize <2+ for a while. Then {f_he}> <1 and> gave half of it to {N}.",
            '"Half of it is for you," said {F}. <2+ "You were first too, in a way.">',
        )
        w.more(2, "A few crumbs they left in the grass, for somebody small.")
    else:
        w.turn(
            "{F} <2+ looked at the ribbon for a while. Then {f_he}> cut it in two and gave one half to {N}.",
            '"Half of it is for you," said {F}. <2+ "You were first too, in a way.">',
        )
        w.more(2, "They both wore it until it fell apart.")
    if w.grade > 2 or (w.grade > 1 and w.chance(0.5)):
        w.turn(
            "On the way home they walked slowly, and they saw a lot of things.",
            "The next race was a slow one. Whoever saw the most things won.",
            "And somewhere, not far away, {who} was having a very good day.",
        )
    w.teach("Some things matter more than coming first.")
    ask_reader(w, "Would you have stopped too?", "Who was the real winner? What do you think?")
    w.about(
        ("The Race to {goal}", "Last of All", "{N} Stops", "{N} and the {Tiny}"),
        ("{Namekind} stops in a race to help {who} and comes last.",),
    )
    w.ask("Why did {N} stop?", "to help {who}", ("to tie a shoe", "to drink water", "to have a rest"))
    w.ask("Who won the race?", "{F}", ("{N}", "nobody", "a horse"))
    w.ask(
        "What was the prize?",
        "{prize}",
        ("a honey cake", "a plum cake", "a big bun", "a basket of cherries", "a gold cup"),
    )


CLUES = (
    ("there was flour on {kin}'s nose", "a cake"),
    ("there was a ladder in the hall, and nobody said why", "paper stars on strings"),
    ("something under the table moved, and {kin} coughed", "a drum and a horn"),
    ("{kin} quickly hid something long and thin", "a kite"),
    ("a door was shut that was never shut", "a room full of neighbours"),
)


def surprise(w: Telling) -> None:
    """Everybody seems to have forgotten a birthday."""
    w.hero()
    w.settle()
    w.kin()
    w.spots(1)
    first, second = w.draw(CLUES, 2)
    w.put(clue1=first[0], clue2=second[0], what1=first[1], what2=second[1])
    w.small()
    if w.chance(0.4):
        w.turn('"Today is the day!" said {N}, a {look} {kind} who lived {where}. It was {his} birthday.')
        w.feature("starts in the middle of the action")
    else:
        introduce(w)
        w.say("{Morning}, {N} was the first one up. It was {his} birthday.", "And today was {his} birthday!")
    w.turn(
        '{N} {ran} into the kitchen. "Good morning," said {kin}. <2+ "Eat your porridge."> That was all.',
        '"Good morning!" said {N}, and waited.\n"Good morning," said {kin}. "Did you wash your ears?"',
    )
    w.say("{Clue1}.", "How strange! {Clue1}.", "And {clue1}.")
    w.more(2, "{Clue2}. {N} did not ask.", "And that was not all. {Clue2}.")
    if w.grade > 1:
        w.turn(
            '"Go and play outside," said {kin}. "Until supper, please."',
            '{Kin} opened the door. "It is a nice day to be outside," said {kin}.',
        )
    w.turn(
        '{N} went out and sat {in1}. "They have forgotten me," {he} said.',
        'So {N} sat {in1}, all alone. "<1 They have forgotten me><2+ Nobody knows that it is my birthday>," {he} said.',
    )
    w.more(
        3,
        "{He} sang the birthday song to {himself}. It is a short song if you sing it alone.",
        "{N} gave {himself} a present. It was a {treasure}.",
    )
    w.say(
        '\n{A_pal} came by. "Come home," said {pal}. "Quick!"',
        '\n"There you are!" It was {a_pal}. "Come home, quick," said {pal}. <2+ "It is important.">',
    )
    w.more(
        2,
        '"Is something wrong?" asked {N}. {Pal} made a very odd face.',
        "{Pal} giggled all the way and would not say why.",
    )
    w.turn(
        "The {home} was dark <2+ and still>. {N} opened the door.",
        "{N} pushed the door open. It was dark inside<2+ , as dark as in a sack>.",
    )
    w.say(
        '\n"Surprise!" The lights went on. <2+ Everybody was there.>',
        '\n"SURPRISE!" <2+ {N} jumped a foot into the air.>',
    )
    w.say(
        "The first thing that {N} saw was {what1}.",
        "{N} saw {what1}<2+ , and {what2} as well>. <3+ So that was it!>",
    )
    w.more(
        2,
        '\n"We were afraid that you knew," said {kin}.\n"I knew nothing," said {N}. "Nothing at all."',
        "\nNow {N} understood about the morning.",
    )
    w.turn(
        "It was the best birthday ever.",
        'That evening {N} asked, "Can you forget my birthday again next year?"',
        "And when the last guest had gone, {N} was still smiling.",
    )
    bedtime(w, 0.2)
    w.feature("a twist near the end")
    w.about(
        ("{N}'s Birthday", "Surprise!", "Everybody Forgot", "The Forgotten Birthday"),
        ("{Namekind} thinks that everybody has forgotten {his} birthday, but there is a surprise.",),
    )
    w.ask("What day was it?", "{N}'s birthday", ("the first day of school", "Christmas", "market day"))
    w.ask("Where did {N} sit all alone?", "{in1}", [spot.place for spot in w.setting.spots])
    w.ask("Who came to fetch {N}?", "{a_pal}", ("a tall man", "{his} teacher", "a policeman"))
