"""torchrun starts a job again whose processes are killed, and it ends with the bits of an undisturbed one.

    python tests/robustness/elastic.py --jobs 5

Each job is `torchrun --nproc-per-node=N --max-restarts=3`. Three times a process of it is killed with SIGKILL, one that
is drawn at a moment that is drawn; the job must end well nevertheless, with the weights and losses of a job that was
left alone. Before, a job without restarts loses a process, and the seconds until all of it has ended are measured.

Progress goes to standard error, the result as JSON to standard output. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from support.trainings import (  # noqa: E402
    Job,
    Trainings,
    after_step,
    differences,
    hidden,
    training_words,
    write_stories,
)

STEPS, RESTARTS = 60, 3
END_SECONDS = 30.0


def lines_of_errors(job: Job) -> list[str]:
    """What our own processes say of it; torchrun's report repeats it."""
    return [line for line in job.said.splitlines() if line.startswith("error: ")]


def lose_one(trainings: Trainings, words: list[str], folder: Path, ranks: int, draw: random.Random) -> dict[str, Any]:
    """What a job without restarts does when it loses a process."""
    rank = draw.randrange(ranks)
    job = trainings.start(words, folder, ranks=ranks, torchrun=["--standalone", f"--nproc-per-node={ranks}"])
    after_step(job, folder, draw.randint(5, STEPS // 2))
    time.sleep(draw.random() / 4)
    job.processes()[rank].kill()
    began = time.monotonic()
    code = job.finish(4 * END_SECONDS)
    return {
        "killed": rank,
        "seconds": round(time.monotonic() - began, 2),
        "exit_code": code,
        "errors": lines_of_errors(job),
        "tracebacks_of_ours": job.said.count("[rank"),
    }


def main() -> int:
    """Run the jobs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=5, help="of each kind")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sharing", default="ddp", choices=["ddp", "fsdp"])
    parser.add_argument("--seed", type=int, default=0, help="of who is killed, and when")
    given = parser.parse_args()
    ranks, draw = given.processes, random.Random(given.seed)
    losses: list[dict[str, Any]] = []
    restarted: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="elastic-") as name, Trainings(Path(name)) as trainings:
        folder, console = Path(name), Console(stderr=True)
        write_stories(folder / "stories.jsonl")
        more = ["--save-interval", "5", "--eval-interval", "20", "--optimizer", "muon"]
        words = training_words(folder / "stories.jsonl", steps=STEPS, ranks=ranks, sharing=given.sharing, more=more)
        code, said = trainings.run(words, folder / "left-alone", ranks=ranks, seconds=300)
        if code:
            raise SystemExit(said)
        for number in track(range(given.jobs), "processes lost", console=console):
            losses.append(lose_one(trainings, words, folder / f"lost-{number}", ranks, draw))
        for number in track(range(given.jobs), "jobs started again", console=console):
            place = folder / f"again-{number}"
            options = ["--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={RESTARTS}"]
            job = trainings.start(words, place, ranks=ranks, torchrun=options)
            kills = []
            for step in sorted(draw.sample(range(6, STEPS - 4), RESTARTS)):
                after_step(job, place, step)
                time.sleep(draw.random() / 4)
                workers = job.processes()
                if job.code is None and len(workers) == ranks:
                    kills.append({"step": step, "killed": (rank := draw.randrange(ranks))})
                    workers[rank].kill()
                    while job.code is None and {worker.pid for worker in job.processes()} & {w.pid for w in workers}:
                        time.sleep(0.01)
            code = job.finish(300)
            found = [f"exit code {code}"] if code else differences(place, folder / "left-alone")
            found += [f"left behind: {hidden_file}" for hidden_file in hidden(place)]
            restarted.append({"kills": kills, "differences": found, "lines": lines_of_errors(job)})
    in_time = all(loss["seconds"] < END_SECONDS and loss["exit_code"] for loss in losses)
    one_line = all(len(loss["errors"]) == 1 and not loss["tracebacks_of_ours"] for loss in losses)
    result: dict[str, Any] = {
        "ended_in_time": in_time,
        "one_line_each": one_line,
        "equal_after_restarts": all(not job["differences"] for job in restarted),
        "lost": losses,
        "restarted": restarted,
    }
    print(json.dumps(result, indent=1))
    return 0 if in_time and one_line and result["equal_after_restarts"] else 1


if __name__ == "__main__":
    sys.exit(main())
