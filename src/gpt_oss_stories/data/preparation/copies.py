"""Copies and near copies among the stories of all tasks.

Exact copies have equal digests. Each task's digests are cut by value into the plan's partitions; a task of the stage
`exact` compares those of one partition, so memory does not grow with the data. Near copies are found by `datatrove`'s
MinHash deduplication. In both cases the story that stands first, by task and by place in it, stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ...files import atomic_write, write_text_atomically
from ..sources import DataError, ReadReport
from .notes import TaskNotes
from .plan import NoStoriesError, Plan, read_plan
from .spool import Spool

EXTREMES_NAME = "extremes.json"


def spools(work: Path, plan: Plan) -> Iterator[tuple[int, Spool]]:
    """The stories of all tasks, in order."""
    for rank in range(len(plan.pieces)):
        yield rank, Spool(work / "spool" / f"{rank:05d}")


def partition_bounds(partitions: int) -> NDArray[np.uint64]:
    """[partitions + 1] where each part of the keys begins; the last number is above all keys but the very last."""
    bounds = [part * 2**64 // partitions for part in range(partitions)] + [2**64 - 1]
    return np.asarray(bounds, dtype=np.uint64)


class FindExactCopies(PipelineStep):
    """Finds the copies among the digests of one partition, and writes their places to a file for each task."""

    type = "STORIES"
    name = "exact copies"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes `exact/PARTITION.npz`: `tasks` and `stories`, the places of copies of earlier stories."""
        plan = read_plan(self.work)
        bounds = partition_bounds(plan.partitions)
        low, high, last = bounds[rank], bounds[rank + 1], rank == plan.partitions - 1
        keys, rests, tasks, stories = [], [], [], []
        for task, spool in spools(self.work, plan):
            key = spool.stories["key"]
            here = np.flatnonzero((key >= low) & ((key <= high) if last else (key < high)))
            keys.append(key[here])
            rests.append(spool.stories["rest"][here])
            tasks.append(np.full(len(here), task, dtype=np.uint32))
            stories.append(here.astype(np.uint32))
        key, rest, task_of, story = map(np.concatenate, (keys, rests, tasks, stories))
        # A stable sort by digest: among equal ones the first place stays first.
        order = np.lexsort((rest, key))
        key, rest = key[order], rest[order]
        copies = order[1:][(key[1:] == key[:-1]) & (rest[1:] == rest[:-1])]
        copies.sort()
        path = self.work / "exact" / f"{rank:05d}.npz"
        with atomic_write(path) as file:
            np.savez(file, tasks=task_of[copies], stories=story[copies])


def exact_copies(work: Path, plan: Plan, rank: int) -> NDArray[np.int64]:
    """The stories of a task that are copies of earlier ones, in order."""
    found = []
    for partition in range(plan.partitions):
        with np.load(work / "exact" / f"{partition:05d}.npz", allow_pickle=False) as places:
            tasks = places["tasks"]
            first, end = np.searchsorted(tasks, [rank, rank + 1])
            found.append(places["stories"][first:end].astype(np.int64))
    return np.sort(np.concatenate(found))


def near_copies(work: Path, plan: Plan, rank: int) -> NDArray[np.int64]:
    """The stories of a task that are nearly copies of others, in order; none if these are not looked for."""
    if not plan.seeks_near_copies:
        return np.zeros(0, dtype=np.int64)
    from ..near_copies import read_copies

    return read_copies(work, rank)["index"].astype(np.int64)


def allow_open_files(count: int) -> None:
    """See to it that this process may open so many files, and a hundred more, at a time.

    Raises:
        DataError: the system does not allow it.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 100
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise DataError(
            f"to find near copies a process opens {count:,} files at a time, and the system allows {hard:,}: raise the "
            "limit (ulimit -Hn), or keep near copies (--no-drop-near-copies)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class FindNearPairs(PipelineStep):
    """Finds stories that share a bucket of their signatures; one task for each bucket, of `datatrove`."""

    type = "STORIES"
    name = "near pairs"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes files of pairs to `pairs`."""
        from ..near_copies import MinhashConfig, near_copy_stages

        allow_open_files(len(read_plan(self.work).pieces))
        for step in near_copy_stages(self.work, MinhashConfig()).pairs:
            step(None, rank, world_size)


class JoinNearCopies(PipelineStep):
    """Joins pairs to clusters, of `datatrove`, and decides that the first story of each stays."""

    type = "STORIES"
    name = "near copies"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes what `near_copies.read_copies` reads."""
        from ..near_copies import MinhashConfig, near_copy_stages, quiet_datatrove

        steps = near_copy_stages(self.work, MinhashConfig(), ranks=len(read_plan(self.work).pieces)).clusters
        with quiet_datatrove():
            for step in steps:
                step(None, rank, world_size)


class FindExtremes(PipelineStep):
    """Finds the lowest and the highest key of the stories that stay: one of them is held out, one is not."""

    type = "STORIES"
    name = "extremes"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes `extremes.json`.

        Raises:
            NoStoriesError: no story stays; the message says what was skipped or left out.
        """
        plan = read_plan(self.work)
        lowest, highest, stay = 2**64 - 1, 0, 0
        for task, spool in spools(self.work, plan):
            keys = np.array(spool.stories["key"])
            keep = np.ones(len(keys), dtype=np.bool_)
            keep[exact_copies(self.work, plan, task)] = False
            keep[near_copies(self.work, plan, task)] = False
            if keep.any():
                lowest, highest = min(lowest, int(keys[keep].min())), max(highest, int(keys[keep].max()))
                stay += int(keep.sum())
        if not stay:
            raise NoStoriesError(why_nothing_is_left(self.work, plan))
        write_text_atomically(
            self.work / EXTREMES_NAME, json.dumps({"lowest": lowest, "highest": highest, "stories": stay})
        )


def why_nothing_is_left(work: Path, plan: Plan) -> str:
    """One line for somebody whose data hold no story to train on."""
    notes = [TaskNotes.read(work, rank) for rank in range(len(plan.pieces))]
    report = ReadReport.merge([*plan.planned, *(one.report for one in notes)])
    if report.stories:
        left_out = sum((one.left_out for one in notes), start=notes[0].left_out.__class__())
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
        return f"no stories to train on: all were left out: {reasons}. `stories prepare --help` shows what decides this"
    return report.why_none(plan.config.dataset_path)
