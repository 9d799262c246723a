"""Measure the child-safety filter on labelled samples, and look at what it flags in files of stories.

    python scripts/safety_check.py                          the labelled samples
    python scripts/safety_check.py stories.jsonl tales/     and what is flagged in these
    python scripts/safety_check.py stories.jsonl --write    and write docs/safety.md, without any sentence of the files

The open samples were looked at while the tables were written; the held-out ones were not (docs/safety.md says how).
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from time import perf_counter

import click

from gpt_oss_stories.data.safety import (
    DEFAULT_POLICY,
    OLD_TALES_POLICY,
    REQUEST_POLICY,
    YOUNG_POLICY,
    Category,
    SafetyPolicy,
    find_unsafe,
)
from gpt_oss_stories.data.sources import read_stories

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "tests" / "fixtures" / "safety_samples.jsonl"
DOCUMENT = ROOT / "docs" / "safety.md"
POLICIES = {"default": DEFAULT_POLICY, "young": YOUNG_POLICY, "request": REQUEST_POLICY, "old-tales": OLD_TALES_POLICY}
SAFE = "safe"
ORDER = [*(category.value for category in Category), SAFE]


@dataclass(frozen=True)
class Judged:
    """A labelled sample and what the filter says about it."""

    label: str
    batch: str
    held_out: bool
    found: frozenset[str]
    reason: str
    """The category of the gravest finding, or "safe"."""


def judged_samples() -> list[Judged]:
    """All labelled samples, judged by the default policy."""
    rows = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    judged = []
    for row in rows:
        findings = find_unsafe(row["text"] if "text" in row else codecs.decode(row["rot13"], "rot13"))
        worst = min(findings, key=lambda f: (-f.severity, ORDER.index(f.category.value)), default=None)
        judged.append(
            Judged(
                row["label"],
                row["batch"],
                row["held_out"],
                frozenset(finding.category.value for finding in findings),
                worst.category.value if worst else SAFE,
            )
        )
    return judged


def share(part: int, whole: int) -> str:
    return f"{part}/{whole} ({100 * part / whole:.0f}%)" if whole else "none"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(judged: list[Judged]) -> str:
    """Unsafe or not, by batch."""
    rows = []
    groups = dict.fromkeys((sample.batch, sample.held_out) for sample in judged)
    for batch, held_out in sorted(groups, key=lambda group: group[1]):
        group = [sample for sample in judged if (sample.batch, sample.held_out) == (batch, held_out)]
        rows.append([f"{batch} batch, {'held out' if held_out else 'open'}", *rates(group)])
    return table(["samples", "unsafe ones found", "safe ones flagged", "precision"], rows)


def rates(group: list[Judged]) -> list[str]:
    unsafe = [sample for sample in group if sample.label != SAFE]
    flagged = [sample for sample in group if sample.found]
    right = sum(sample.label != SAFE for sample in flagged)
    return [
        share(right, len(unsafe)),
        share(len(flagged) - right, len(group) - len(unsafe)),
        share(right, len(flagged)),
    ]


def by_category(group: list[Judged]) -> str:
    """Per category: found at all, found under its own name, and of what is called so, what is."""
    rows = []
    for name in ORDER[:-1]:
        labelled = [sample for sample in group if sample.label == name]
        called = [sample for sample in group if sample.reason == name]
        rows.append(
            [
                name,
                share(sum(bool(sample.found) for sample in labelled), len(labelled)),
                share(sum(name in sample.found for sample in labelled), len(labelled)),
                share(sum(sample.label == name for sample in called), len(called)),
                share(sum(sample.label != SAFE for sample in called), len(called)),
            ]
        )
    return table(
        ["category", "found", "found under this name", "precision of the name", "precision as unsafe"],
        rows,
    )


def confusion(group: list[Judged]) -> str:
    """Label by row, given reason by column."""
    counts = Counter((sample.label, sample.reason) for sample in group)
    rows = [[label, *(str(counts[label, reason] or "") for reason in ORDER)] for label in ORDER]
    return table(["label", *ORDER], rows)


def policy_table() -> str:
    rows = [
        [field.name, *(str(getattr(policy, field.name)) for policy in POLICIES.values())]
        for field in fields(SafetyPolicy)
    ]
    return table(["category", *POLICIES], rows)


def look_at(path: Path, policy: SafetyPolicy, *, show: bool) -> list[str]:
    """One row of the table of files; prints what is flagged."""
    reader = read_stories(path)
    flagged = stories = characters = 0
    reasons: Counter[str] = Counter()
    seconds = 0.0
    for record in reader:
        begun = perf_counter()
        findings = find_unsafe(record.text, policy)
        seconds += perf_counter() - begun
        stories += 1
        characters += len(record.text)
        flagged += bool(findings)
        reasons.update({finding.category.value for finding in findings})
        for finding in findings if show else ():
            sentence = " ".join(finding.sentence.split())
            what = f"{finding.category} {finding.severity} [{' / '.join(finding.words)}]"
            print(f"{path.name}#{stories - 1}: {what} {sentence}")
    reader.require_stories()
    return [
        path.name,
        f"{stories:,}",
        f"{characters // stories:,}",
        f"{flagged} ({100 * flagged / stories:.2f}%)",
        ", ".join(f"{name} {count}" for name, count in reasons.most_common()) or "none",
        f"{seconds / characters * 900 * 1e6:.0f}",
    ]


FILE_HEAD = ["file", "stories", "characters each", "flagged", "stories by category", "µs per 900 characters"]

TEXT = """\
# Child safety

Written by `python scripts/safety_check.py FILES --write`; the text is in that script.

`gpt_oss_stories.data.safety` finds sentences in stories, and in requests for stories, that are unsafe for children.
It is no substitute for an adult's look. It knows words, phrases and what stands beside them; it does not understand a
story. On passages that it had not been fitted to **it missed about half of the unsafe ones** (below), and it is blind
to what has no telling word: a cruel idea in mild words, a story that is frightening as a whole, a bad example that is
never punished, pictures, other languages than English. Use it to clean training data and as the first of several
guards around a model, never as the only one.

```python
from gpt_oss_stories.data.safety import find_unsafe, policy_for, reason_unsafe

reason_unsafe(story)  # None, or "unsafe: graphic violence"
find_unsafe(story, policy_for("story", age=4))  # category, severity, words, place and sentence
```

## What counts

Every pattern of the tables (`data/safety/terms.py`) has a category and a severity: 1 mentioned ("blood", "a beer"),
2 rough as old tales are ("he killed the thief", "he was drunk"), 3 not for children of 3 to 8 years, 4 for no child.
Several patterns in a sentence add up. A negation before a pattern lowers it by two; a villain or beast as the victim,
and pretence, by one. Dangers to imitate and drugs become worse when the sentence or the next one makes light of them,
and milder when it warns. A policy says from which severity on a category is reported; 5 means never:

{policies}

Choices that others may make differently:

- The wolf is killed, the witch burns in her own oven, the giant falls to his death: allowed, without gore. Heads that
  are cut off are not; for collections of old tales that are read with an adult there is a policy that allows them.
- Death told gently, illness, war without gore, fear, ghosts, quarrels between children: allowed.
- Adults may drink wine or smoke a pipe; drunkenness as fun, and children who drink or smoke, are not allowed.
- Warnings ("never play with matches") are allowed. A danger that is only told, without praise and without warning, is
  allowed for training and for stories.
- One slap in a quarrel is allowed; an adult who beats a child is not, even where the tale condemns it. So a good story
  about a child that is beaten and finds help is lost.
- Words that were harmless in old tales (gay, queer, ass, cock, names for a bundle of sticks or a gap in a wall, making
  love as courting when it is told in the past) are kept where the sense is clear.
- Slurs are kept as hashes only. The list is short, and English.

Disguises are undone within reason: `f*ck`, `sh1t`, `k i l l`, look-alike letters of other scripts, stretched letters.
Misspellings, rhyming slang, new slang, split words across lines and emoji are not.

## How well it does

{count} passages of one to four sentences were written for this: {unsafe} unsafe, {safe} safe, most of the safe ones
hard, with the words of unsafe ones in another sense. All are by one author, the author of the tables. They were
written in five batches:

- The first batch was written before the tables; every third passage of it was held out and its errors never looked at.
  But the tables were written with the whole batch freshly in mind, so its held-out part flatters the filter.
- The second, third and fourth batch were each written later, judged once and then used to widen the tables. At that
  first look less than half of their unsafe passages were found.
- The fifth batch was written after the last change of the patterns that finds anything more, and judged as it stands.
  **It is the fairest of the figures here, and small.**

{summary}

Held out, all batches, by category. "Found" counts a passage that was flagged for any reason:

{held}

Open samples by category (fitted to, so this shows only what the tables hold):

{open}

Which reason was given, held-out samples (row: label, column: reason given):

{confusion}

## On real stories

Default policy. Times are of one run on a shared two-core machine, everything included.

{files}

The sentences behind these figures are printed by the script (`--show`), not kept here. Read by hand, about half of the
flagged stories are truly unsuitable to be read alone by children of 3 to 8 years: a wife or child beaten, throats cut,
cannibals, blood. The others are threats that nobody carries out, riddles, a drunken giant, beheaded monsters, or
mistakes ("making love" in its old sense). What is missed in these files was not counted. The filter never sees a
story's illustrations, and says nothing about how sad or how hard a story is.
"""


def document(judged: list[Judged], files: list[list[str]]) -> str:
    held = [sample for sample in judged if sample.held_out]
    unsafe = sum(sample.label != SAFE for sample in judged)
    return TEXT.format(
        policies=policy_table(),
        count=len(judged),
        unsafe=unsafe,
        safe=len(judged) - unsafe,
        summary=summary(judged),
        held=by_category(held),
        open=by_category([sample for sample in judged if not sample.held_out]),
        confusion=confusion(held),
        files=table(FILE_HEAD, files) if files else "No files were given.",
    )


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--policy", "policy_name", type=click.Choice(list(POLICIES)), default="default", show_default=True)
@click.option("--show/--no-show", default=True, show_default=True, help="Print the flagged sentences of the files.")
@click.option("--write", is_flag=True, help="Write docs/safety.md (with the default policy).")
def main(paths: tuple[Path, ...], policy_name: str, show: bool, write: bool) -> None:
    """Measure the child-safety filter on labelled samples, and look at what it flags in files of stories."""
    if write and policy_name != "default":
        raise click.UsageError("--write reports the default policy; leave --policy out")
    judged = judged_samples()
    print(summary(judged), end="\n\n")
    for name, held_out in (("held-out", True), ("open", False)):
        group = [sample for sample in judged if sample.held_out == held_out]
        print(f"{name} samples\n\n{by_category(group)}\n\n{confusion(group)}\n")
    files = [look_at(path, POLICIES[policy_name], show=show) for path in paths]
    if files:
        print("\n" + table(FILE_HEAD, files))
    if write:
        DOCUMENT.write_text(document(judged, files), encoding="utf-8")
        print(f"wrote {DOCUMENT}")


if __name__ == "__main__":
    main()
