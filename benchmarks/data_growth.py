"""How do the memory and the time of `stories prepare` grow with the stories?

    python benchmarks/data_growth.py --megabytes 10,100,2000

Stories of so many megabytes (1,000,000 bytes of text) are made of sentences of the package's written stories, drawn at
random, and prepared with the usual settings in a process of their own. Memory is the private memory (what is not a
mapping of a file) of that process and of all that it starts, added up ten times a second, at its highest; so many
workers as `--threads`. The rate is that of the whole command, starts included.

`ratio` is the memory of the largest over that of the smallest: 1 would be memory that does not depend on the data.
Part of it is memory that is given back only when a process ends, and small data are prepared without workers: compare
sizes that have them.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import psutil
from house import (
    BenchmarkError,
    Conditions,
    Contender,
    Workload,
    compare,
    conditions_options,
    given_conditions,
    report,
    start,
    talk,
)

COMMAND = "import sys; from gpt_oss_stories.cli import main; sys.exit(main())"
"""What the installed script `stories` does."""

SENTENCES = 12
"""In a story."""

SECONDS_BETWEEN = 0.1


def write_stories(path: Path, megabytes: float) -> int:
    """Write stories as JSON lines; returns how many."""
    from gpt_oss_stories.data import original_stories

    sentences = [
        sentence
        for record in original_stories()
        for sentence in re.findall(r"[A-Z][^.!?\n\"“”]{20,80}\.(?=\s)", record.text)
    ]
    rng = random.Random(0)
    written = stories = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            text = " ".join(rng.choices(sentences, k=SENTENCES))
            written += len(text.encode("utf-8"))
            stories += 1
            file.write(json.dumps({"text": text}) + "\n")
    return stories


def private_bytes(process: psutil.Process) -> int:
    """Private memory of a process and of all that it started."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            memory = one.memory_info()
            # What a process shares with the one that it was forked from counts for both in parts, where Linux says so.
            parts = re.search(r"^Pss_Anon: +(\d+) kB$", Path(f"/proc/{one.pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(parts[1]) * 1024 if parts else memory.rss - memory.shared
        except FileNotFoundError:
            total += memory.rss - memory.shared
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return total


def preparation(options: dict[str, Any]) -> Workload:
    """Prepares stories with the command, again and again; for a contender."""
    folder = Path(options["folder"])
    path = folder / f"{options['megabytes']:g}.jsonl"
    facts: dict[str, Any] = {"stories": write_stories(path, options["megabytes"]), "file_bytes": path.stat().st_size}

    def measure() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=folder) as data:
            words = ["prepare", "--vocabulary", "story", "--dataset-path", str(path), "--data-dir", data]
            words += ["--max-workers", str(options["workers"])]
            began = time.perf_counter()
            process = psutil.Popen([sys.executable, "-c", COMMAND, *words], stdout=-3, stderr=-3)
            highest = 0
            while process.poll() is None:
                highest = max(highest, private_bytes(process))
                time.sleep(SECONDS_BETWEEN)
            seconds = time.perf_counter() - began
            if process.returncode:
                raise BenchmarkError(f"stories {' '.join(words)} ended with code {process.returncode}")
            (made,) = (Path(entry.path) for entry in os.scandir(data))
            facts["prepared_bytes"] = sum(file.stat().st_size for file in made.iterdir())
        return {"private_bytes": float(highest), "text_megabytes_per_second": options["megabytes"] / seconds}

    return Workload(measure, warm_up=lambda: None, facts=facts)


def sizes(context: click.Context, parameter: click.Parameter, value: str) -> list[float]:
    """Megabytes, at least two and rising."""
    try:
        found = [float(part) for part in value.split(",")]
    except ValueError:
        found = []
    if len(found) < 2 or found != sorted(set(found)) or found[0] <= 0:
        raise click.BadParameter(f"{value!r} is not a rising list of two or more numbers, such as 10,100,2000")
    return found


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--megabytes", default="10,100,500", show_default=True, callback=sizes, help="Sizes of the stories.")
@conditions_options
def main(megabytes: list[float]) -> None:
    conditions: Conditions = given_conditions()
    with tempfile.TemporaryDirectory() as folder:
        talk(f"stories of {', '.join(f'{size:g}' for size in megabytes)} MB are written to {folder}", conditions)
        contenders = [
            Contender(f"{size:g} MB", preparation, {"megabytes": size, "folder": folder, "workers": conditions.threads})
            for size in megabytes
        ]
        outcomes = compare(contenders, conditions, one_at_a_time=True)
    memory = [outcome.median("private_bytes") for outcome in outcomes]
    report(
        "data-growth",
        outcomes,
        conditions,
        ratio=memory[-1] / memory[0],
        settings={"megabytes": megabytes, "workers": conditions.threads},
    )


if __name__ == "__main__":
    start(main)
