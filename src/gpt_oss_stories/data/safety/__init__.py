"""Child safety: which sentences of a story, or of a request for one, are unsafe for children, and why.

    find_unsafe(text)               findings with category, severity, words, place and sentence
    reason_unsafe(text)             "unsafe: graphic violence", or None
    policy_for("story", age=4)      from which severity on each category counts

It finds words in their context by hand-written tables (`terms`); it does not understand a text. `docs/safety.md` says
how well it does and what it cannot do.
"""

from __future__ import annotations

from .finder import Finding, find_unsafe, reason_unsafe
from .policy import (
    DEFAULT_POLICY,
    OLD_TALES_POLICY,
    REQUEST_POLICY,
    YOUNG_POLICY,
    Category,
    SafetyError,
    SafetyPolicy,
    policy_for,
)

__all__ = [
    "DEFAULT_POLICY",
    "OLD_TALES_POLICY",
    "REQUEST_POLICY",
    "YOUNG_POLICY",
    "Category",
    "Finding",
    "SafetyError",
    "SafetyPolicy",
    "find_unsafe",
    "policy_for",
    "reason_unsafe",
]
