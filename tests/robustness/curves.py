"""The loss curve does not depend on how many processes train, nor on how they share the model.

    python tests/robustness/curves.py --steps 50

The same small run, in float32 and with the same global batch, is trained by one process, by 2 and 4 with
DistributedDataParallel, by 2 with FSDP2, and by numbers of processes that change twice on the way (the run is stopped
by SIGTERM and gone on with). The largest difference of training and validation loss from the curve of one process is
told.

Progress goes to standard error, the result as JSON to standard output. The exit code is 1 if a difference is too large.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from support.trainings import (  # noqa: E402
    Trainings,
    after_step,
    furthest_apart,
    send,
    training_words,
    write_stories,
)

TOLERANCE = 1e-4
ROWS = 4
WAYS: dict[str, tuple[tuple[str, int], ...]] = {
    "1 process": (("ddp", 1),),
    "DDP, 2 processes": (("ddp", 2),),
    "DDP, 4 processes": (("ddp", 4),),
    "FSDP, 2 processes": (("fsdp", 2),),
    "DDP, 1 process, then 2, then 1": (("ddp", 1), ("ddp", 2), ("ddp", 1)),
    "DDP, 2 processes, then 1, then 4": (("ddp", 2), ("ddp", 1), ("ddp", 4)),
    "FSDP, 2 processes, then 1, then 2": (("fsdp", 2), ("fsdp", 1), ("fsdp", 2)),
    "DDP, then FSDP, then DDP, 2 processes": (("ddp", 2), ("fsdp", 2), ("ddp", 2)),
}
"""How the model is shared, and by how many processes, in each part of a run."""


def run(trainings: Trainings, folder: Path, parts: list[tuple[list[str], int]], steps: int) -> None:
    """Train in parts of about the same length, each with a command and a number of processes."""
    for index, (words, ranks) in enumerate(parts):
        job = trainings.start(words, folder, ranks=ranks)
        last = index == len(parts) - 1
        if not last:
            send(after_step(job, folder, steps * (index + 1) // len(parts)), signal.SIGTERM)
        if (job.finish(600) == 0) != last:
            raise SystemExit(f"a part with {ranks} process(es) failed:\n{job.said[-3000:]}")


def main() -> int:
    """Compare the ways to train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon"], choices=["adamw", "muon"])
    parser.add_argument("--accumulation", type=int, default=2, help="passes in a step")
    given = parser.parse_args()
    largest: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="curves-") as name, Trainings(Path(name)) as trainings:
        data = Path(name) / "stories.jsonl"
        write_stories(data)
        tasks = [(optimizer, way) for optimizer in given.optimizers for way in WAYS]
        for optimizer, way in track(tasks, console=Console(stderr=True)):
            parts = [
                (
                    training_words(
                        data,
                        steps=given.steps,
                        ranks=ranks,
                        sharing=sharing,
                        rows=ROWS,
                        accumulation=given.accumulation,
                        more=["--optimizer", optimizer, "--save-interval", "20", "--eval-interval", "25"],
                    ),
                    ranks,
                )
                for sharing, ranks in WAYS[way]
            ]
            folder = Path(name) / optimizer / way
            run(trainings, folder, parts, given.steps)
            alone = Path(name) / optimizer / next(iter(WAYS))
            largest.setdefault(optimizer, {})[way] = furthest_apart(alone, folder)
    result: dict[str, Any] = {
        "steps": given.steps,
        "global_batch_rows": ROWS * given.accumulation,
        "tolerance_nats": TOLERANCE,
        "equal": all(value < TOLERANCE for ways in largest.values() for value in ways.values()),
        "largest_difference_nats": largest,
    }
    print(json.dumps(result, indent=1))
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
