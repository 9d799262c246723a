"""The storybook's plots, by theme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..telling import Telling
from . import days, feelings, finding, friends, making


@dataclass(frozen=True)
class Plot:
    """A kind of story: its name, what a request would call its theme, and the function that tells it."""

    name: str
    theme: str
    tell: Callable[[Telling], None]


PLOTS = (
    Plot("lost toy", "a lost toy", finding.lost_toy),
    Plot("lost animal", "bringing somebody home", finding.lost_animal),
    Plot("stuck", "being small in a big world", finding.stuck),
    Plot("moon", "imagination", finding.moon),
    Plot("dark", "being afraid of the dark", feelings.dark),
    Plot("noise", "a strange noise at night", feelings.noise),
    Plot("storm", "a storm", feelings.storm),
    Plot("skill", "learning something new", feelings.skill),
    Plot("sharing", "sharing", friends.sharing),
    Plot("stranger", "helping a stranger", friends.stranger),
    Plot("new friend", "making a friend", friends.new_friend),
    Plot("quarrel", "a quarrel and an apology", friends.quarrel),
    Plot("building", "building something", making.building),
    Plot("seed", "patience", making.seed),
    Plot("broken", "owning up", making.broken),
    Plot("gift", "a gift made by hand", making.gift),
    Plot("promise", "a promise", days.promise),
    Plot("race", "a race where winning is not the point", days.race),
    Plot("surprise", "a surprise", days.surprise),
)
