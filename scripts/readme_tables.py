"""Make the README's tables of sizes and presets from the settings, so that they cannot drift apart.

python scripts/readme_tables.py            prints the tables
python scripts/readme_tables.py --write    puts them between the marks in README.md, which a test compares with
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
README = PROJECT / "README.md"

PURPOSES = {
    "story": "the first model, in minutes on two cores",
    "debug": "quick testing",
    "fast": "rapid prototyping",
    "standard": "normal training",
    "production": "high-quality models",
}


def millions(count: int) -> str:
    """A parameter count in millions, with a decimal below a thousand."""
    return f"{count / 1e6:,.0f}M" if count >= 1e9 else f"{count / 1e6:.1f}M"


def size_table() -> str:
    """The shapes of the model sizes."""
    from gpt_oss_stories.config import DEFAULT_VOCABULARY, MODEL_SIZES, model_config

    lines = [
        "| size | layers | query heads | width | context in tokens | experts (2 active) | vocabulary |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in MODEL_SIZES:
        config = model_config(size)
        lines.append(
            f"| `{size}` | {config.n_layer} | {config.n_head} | {config.n_embd} | {config.block_size:,} "
            f"| {config.num_experts} | {DEFAULT_VOCABULARY.get(size, 'harmony')} |"
        )
    return "\n".join(lines)


def parameter_table() -> str:
    """The four parameter numbers of each size, and the figure by which the sizes are named."""
    from gpt_oss_stories.config import DEFAULT_VOCABULARY, MODEL_SIZES, model_config

    lines = [
        "| size | total | active per token | embedding | non-embedding | active outside the embeddings |",
        "|---|---|---|---|---|---|",
    ]
    for size in MODEL_SIZES:
        config = model_config(size)
        report = config.parameters()
        numbers = [millions(count) for count in (report.total, report.active, report.embedding, report.non_embedding)]
        if DEFAULT_VOCABULARY.get(size, "harmony") == "story":
            row, rows = config.n_embd, report.embedding // config.vocab_size
            numbers = [
                f"{millions(report.non_embedding)} + {rows} V",
                f"{millions(report.active_non_embedding)} + {row} V",
                f"{rows} V",
                millions(report.non_embedding),
            ]
        lines.append(f"| `{size}` | {' | '.join(numbers)} | {millions(report.active_non_embedding)} |")
    return "\n".join(lines)


def preset_table() -> str:
    """The training presets."""
    from gpt_oss_stories.config import TRAINING_PRESETS, training_config

    lines = ["| preset | steps | batch size | optimizer | for |", "|---|---|---|---|---|"]
    for preset in TRAINING_PRESETS:
        config = training_config(preset)
        lines.append(
            f"| `{preset}` | {config.max_iters:,} | {config.batch_size} | {config.optimizer} | {PURPOSES[preset]} |"
        )
    return "\n".join(lines)


TABLES = {"sizes": size_table, "parameters": parameter_table, "presets": preset_table}
"""The marked tables, by the name in their marks."""


def with_tables(readme: str) -> str:
    """The README's text with every table made anew between its marks."""
    for name, make in TABLES.items():
        table = make()
        begin, end = f"<!-- {name}: made by scripts/readme_tables.py -->", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        readme, found = pattern.subn(lambda _, b=begin, t=table, e=end: f"{b}\n{t}\n{e}", readme)
        if found != 1:
            raise SystemExit(f"error: README.md has {found} places marked {begin!r}, expected 1")
    return readme


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT / "src"))
    if "--write" in sys.argv[1:]:
        README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(*(make() for make in TABLES.values()), sep="\n\n")
