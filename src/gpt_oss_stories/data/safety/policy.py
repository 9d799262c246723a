"""What counts as unsafe: categories, how severe a thing is, and from which severity on a policy minds it.

Severities are small whole numbers:

    1  mentioned: "blood", "beer", "he died"
    2  rough, as old tales are: "the hunter killed the wolf", "he was drunk"
    3  not for children of 3 to 8 years: "blood poured from his throat", "being drunk is great fun"
    4  for no child: suicide, sexual acts, slurs, strong profanity
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Literal

from ...errors import StoryError

MENTIONED, ROUGH, UNSUITABLE, SEVERE = 1, 2, 3, 4
NEVER = SEVERE + 1
"""As a policy's least severity: nothing of the category is reported."""


class Category(StrEnum):
    """The kinds of unsafe content, from the gravest to the mildest; the value is the name shown to people."""

    SEXUAL = "sexual content"
    SELF_HARM = "self-harm"
    HATE = "hate"
    ABUSE = "abuse"
    VIOLENCE = "graphic violence"
    DEATH = "graphic death"
    WEAPONS = "weapons"
    HORROR = "horror"
    DRUGS = "alcohol and drugs"
    IMITATION = "dangerous imitation"
    PROFANITY = "profanity"


class SafetyError(StoryError):
    """A safety policy cannot be used; the message says which value and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyPolicy:
    """The least severity that is reported, for each category: 1 (every mention) to 4 (the gravest), 5 (never)."""

    sexual: int = UNSUITABLE
    self_harm: int = UNSUITABLE
    hate: int = UNSUITABLE
    abuse: int = UNSUITABLE
    violence: int = UNSUITABLE
    death: int = UNSUITABLE
    weapons: int = UNSUITABLE
    horror: int = UNSUITABLE
    drugs: int = UNSUITABLE
    imitation: int = UNSUITABLE
    profanity: int = UNSUITABLE

    def __post_init__(self) -> None:
        wrong = [
            f"{field.name}={value!r}"
            for field in fields(self)
            if type(value := getattr(self, field.name)) is not int or not MENTIONED <= value <= NEVER
        ]
        if wrong:
            raise SafetyError(
                f"safety policy: {', '.join(wrong)}; a least severity is a whole number from {MENTIONED} (every "
                f"mention) to {SEVERE} (the gravest), or {NEVER} (never)"
            )

    def least(self, category: Category) -> int:
        """The least severity of this category that is reported."""
        return int(getattr(self, category.name.lower()))


DEFAULT_POLICY = SafetyPolicy()
"""For training data, and for stories for 6 to 8 years: a villain may die as in any tale, but without gore."""

YOUNG_POLICY = SafetyPolicy(
    sexual=ROUGH,
    self_harm=ROUGH,
    hate=ROUGH,
    abuse=ROUGH,
    violence=ROUGH,
    death=ROUGH,
    weapons=ROUGH,
    horror=ROUGH,
    drugs=ROUGH,
    profanity=ROUGH,
)
"""For stories for 3 to 5 years: nobody is killed, drunk or beaten either."""

REQUEST_POLICY = SafetyPolicy(
    sexual=ROUGH, self_harm=ROUGH, hate=ROUGH, abuse=ROUGH, drugs=ROUGH, weapons=ROUGH, profanity=ROUGH
)
"""For what somebody asks a story to be about: a dragon may be slain, but a drunk pirate is not written about."""

OLD_TALES_POLICY = SafetyPolicy(
    abuse=SEVERE, violence=SEVERE, death=SEVERE, weapons=SEVERE, horror=SEVERE, drugs=SEVERE, imitation=SEVERE
)
"""For collections of old tales that are read with an adult: heads roll, as they do in Grimm."""


def policy_for(use: Literal["training", "request", "story"], *, age: int | None = None) -> SafetyPolicy:
    """The policy for training data, for a request or for a story that was written, for readers of an age in years.

    A request for young children must satisfy both `REQUEST_POLICY` and `YOUNG_POLICY`.

    Raises:
        SafetyError: the use is not one of the three, or the age is not a whole number of years from 0 on.
    """
    if use not in ("training", "request", "story"):
        raise SafetyError(f"safety policy for {use!r}: expected 'training', 'request' or 'story'")
    if age is not None and (type(age) is not int or age < 0):
        raise SafetyError(f"safety policy for age={age!r}: expected a whole number of years, or None")
    policy = REQUEST_POLICY if use == "request" else DEFAULT_POLICY
    if age is None or age > 5:
        return policy
    stricter = {
        field.name: min(getattr(policy, field.name), getattr(YOUNG_POLICY, field.name)) for field in fields(policy)
    }
    return replace(policy, **stricter)
