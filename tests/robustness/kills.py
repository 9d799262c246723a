"""Training that is killed again and again ends with the very bits of an undisturbed run.

    python tests/robustness/kills.py --kills 20

Small runs of every combination of optimizer, vocabulary and number of processes, with accumulation and through several
epochs, are killed with SIGKILL: all processes at a random moment, all while a state is being written, or one process of
several. The same command goes on each time, until the run is over. Then weights, optimizer, generators, counters,
metrics and the best model are compared with those of a run that was left alone, and nothing temporary may be there.

Progress goes to standard error, the result as JSON to standard output. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from support.trainings import (  # noqa: E402
    Job,
    Trainings,
    differences,
    hidden,
    moments_of_saving,
    training_words,
    write_stories,
)

STEPS, ROWS, ACCUMULATION = 12, 4, 2
SETTINGS = ["--save-interval", "2", "--eval-interval", "5", "--keep-states", "2"]
END_SECONDS = 30.0
"""So soon a job must end when one of its processes was killed."""

HOW = ("at random", "at random", "while saving", "one process")


@dataclass
class Report:
    """What became of one combination."""

    optimizer: str
    vocabulary: str
    processes: int
    sharing: str
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HOW, 0))
    kills_in_saving: int = 0
    """Kills that left a half-written state behind."""
    runs: int = 0
    """Runs that came to their end."""
    slowest_end_seconds: float = 0.0
    """Longest time until a job ended of which one process was killed."""
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Kills of all kinds."""
        return sum(self.kills.values())


def killed(job: Job, how: str, folder: Path, longest: float, draw: random.Random, report: Report) -> bool:
    """Kill a job; False if it came to its end before."""
    if how == "while saving":
        wanted = draw.randint(1, 40)  # looks at a folder that is being written
        for count, _ in enumerate(moments_of_saving(folder, job), 1):
            if count == wanted:
                break
        else:
            return False
    else:
        moment = time.monotonic() + draw.uniform(0.0, longest)
        while time.monotonic() < moment and job.code is None:
            time.sleep(0.002)
    if job.code is not None:
        return False
    workers = job.processes()
    if how == "one process" and len(workers) > 1:
        draw.choice(workers).kill()
        began = time.monotonic()
        job.finish(2 * END_SECONDS)
        took = time.monotonic() - began
        report.slowest_end_seconds = max(report.slowest_end_seconds, took)
        if took > END_SECONDS:
            report.differences.append(f"the job ended only {took:.0f} seconds after one process was killed")
    else:
        job.kill()
    report.kills_in_saving += any((folder / "checkpoints").glob(".saving-*"))
    return True


def combination(
    trainings: Trainings, folder: Path, report: Report, kills: int, draw: random.Random, progress: Progress
) -> None:
    """Kill runs of one combination until there were so many kills, and let the last one end."""
    began, data = time.monotonic(), folder.parent / "stories.jsonl"
    name = f"{report.optimizer}, {report.vocabulary}, {report.processes} process(es)"
    task = progress.add_task(name, total=kills)
    words = training_words(
        data,
        steps=STEPS,
        vocabulary=report.vocabulary,
        ranks=report.processes,
        sharing=report.sharing,
        rows=ROWS,
        accumulation=ACCUMULATION,
        more=[*SETTINGS, "--optimizer", report.optimizer, "--log-interval", str(draw.choice([1, 3]))],
    )
    left_alone, longest = folder / "left-alone", 0.0
    for place in (folder / "first", left_alone):  # the first one prepares the stories
        started = time.monotonic()
        code, said = trainings.run(words, place, ranks=report.processes)
        if code:
            report.differences.append(f"an undisturbed run failed: {said[-500:]}")
            return
        longest = time.monotonic() - started
    report.differences += [f"two undisturbed runs: {line}" for line in differences(folder / "first", left_alone)]
    while not report.differences:
        place = folder / f"run-{report.runs}"
        while True:
            job = trainings.start(words, place, ranks=report.processes)
            how = draw.choice(HOW[: 4 if report.processes > 1 else 3])
            if report.total < kills and killed(job, how, place, longest, draw, report):
                report.kills[how] += 1
                progress.update(task, completed=report.total)
                continue
            break
        if job.finish() != 0:
            report.differences.append(f"a run failed: {job.said[-500:]}")
        elif "damaged" in job.said:
            report.differences.append("a state was damaged")
        else:
            report.runs += 1
            report.differences += differences(place, left_alone)
            report.differences += [f"left behind: {name}" for name in hidden(place)]
        if report.total >= kills:
            break
    report.seconds = time.monotonic() - began


def main() -> int:
    """Run the combinations that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="kills of each combination")
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon"], choices=["adamw", "muon"])
    parser.add_argument("--vocabularies", nargs="+", default=["story", "harmony"], choices=["story", "harmony"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--sharing", default="ddp", choices=["ddp", "fsdp"], help="how several processes share a model")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    reports: list[Report] = []
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as name,
        Trainings(Path(name)) as trainings,
        Progress(console=Console(stderr=True)) as progress,
    ):
        write_stories(Path(name) / "stories.jsonl")
        for number, (optimizer, vocabulary, processes) in enumerate(
            product(given.optimizers, given.vocabularies, given.processes)
        ):
            report = Report(optimizer, vocabulary, processes, given.sharing if processes > 1 else "none")
            reports.append(report)
            combination(trainings, Path(name) / str(number), report, given.kills, draw, progress)
    result: dict[str, Any] = {
        "steps": STEPS,
        "kills": sum(report.total for report in reports),
        "equal": all(not report.differences for report in reports),
        "combinations": [asdict(report) for report in reports],
    }
    print(json.dumps(result, indent=1))
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
