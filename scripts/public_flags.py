"""List every flag of every command: the public surface that changes only on purpose.

python scripts/public_flags.py            prints the list
python scripts/public_flags.py --write    stores it in tests/fixtures/public_flags.txt, which a test compares with
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

PROJECT = Path(__file__).resolve().parents[1]
STORED = PROJECT / "tests" / "fixtures" / "public_flags.txt"


def public_flags() -> str:
    """One line for each command and for each of its parameters: names, type and choices, in the order of `--help`."""
    from gpt_oss_stories.cli import stories

    lines = []
    for name, command in sorted(stories.commands.items()):
        lines.append(f"stories {name}")
        for parameter in command.params:
            names = "/".join([*parameter.opts, *parameter.secondary_opts])
            kind = "|".join(parameter.type.choices) if isinstance(parameter.type, click.Choice) else parameter.type.name
            lines.append(f"  {names} {kind}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT / "src"))
    if "--write" in sys.argv[1:]:
        STORED.write_text(public_flags(), encoding="utf-8")
    else:
        print(public_flags(), end="")
