"""The stages of a preparation, and running them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from ...config import DataConfig
from ...files import write_text_atomically
from ...tokenization import harmony_vocabulary
from ..sources import DataError
from .copies import FindExactCopies, FindExtremes, FindNearPairs, JoinNearCopies
from .executors import (
    SLURM_OPTIONS,
    LocalExecutor,
    RayExecutor,
    ray_cluster,
    submit_to_slurm,
)
from .finish import Finish
from .numbering import BuildVocabulary, CountTokens, NumberTokens
from .plan import Plan, PreparationSubmittedError, Progress
from .steps import tell_steps
from .workers import usual_workers, worker_pool

JOB_NAME = "slurm-job"
"""File of a work folder that holds the number of the last job."""


@dataclass(frozen=True)
class Stage:
    """One pipeline of a preparation and how often it runs."""

    name: str
    steps: Sequence[PipelineStep]
    tasks: int


def stages_of(work: Path, plan: Plan) -> list[Stage]:
    """The stages in their order; see the package's text."""
    pieces = len(plan.pieces)
    stages = [Stage("tell", tell_steps(work), pieces), Stage("exact", [FindExactCopies(work)], plan.partitions)]
    if plan.seeks_near_copies:
        from ..near_copies import MinhashConfig

        stages.append(Stage("pairs", [FindNearPairs(work)], MinhashConfig().buckets))
        stages.append(Stage("clusters", [JoinNearCopies(work)], 1))
    return [
        *stages,
        Stage("extremes", [FindExtremes(work)], 1),
        Stage("count", [CountTokens(work)], pieces),
        Stage("vocabulary", [BuildVocabulary(work)], 1),
        Stage("number", [NumberTokens(work)], pieces),
        Stage("finish", [Finish(work)], 1),
    ]


def log_path(work: Path, stage: Stage) -> Path:
    """Where a stage keeps what its tasks have done."""
    return work / "stages" / stage.name


def run(work: Path, plan: Plan, told: Progress, config: DataConfig, workers: int | None) -> None:
    """Run all stages that are not done, where the configuration says.

    Args:
        work: folder of the plan and of all that comes between.
        plan: what to do.
        told: is told how far the work is.
        config: whose `executor` and `executor_options` count; those of the plan may be of an earlier attempt.
        workers: tasks at a time; when not given one for each core, or a single one for little data.

    Raises:
        DataError: there are no stories, they cannot be read, or a worker died.
        PreparationSubmittedError: the stages were submitted to Slurm, and are not done yet.
    """
    options = executor_options(config)
    stages = stages_of(work, plan)
    _wait_for_slurm(work, stages)
    if config.executor == "slurm":
        if any(missing_tasks(work, stage) for stage in stages):
            _submit(work, stages, options, workers)
        return
    if config.executor == "ray":
        with ray_cluster(workers, options) as at_a_time:
            for stage in stages:
                executor = RayExecutor(stage.steps, stage.tasks, log_path(work, stage), at_a_time)
                executor.run(_teller(told, stage))
        return
    at_a_time = min(usual_workers(sum(one.input_bytes for one in plan.ingredients), workers), len(plan.pieces))
    with worker_pool(at_a_time, harmony_vocabulary) as pool:
        for stage in stages:
            LocalExecutor(stage.steps, stage.tasks, log_path(work, stage), pool).run(_teller(told, stage))


def _teller(told: Progress, stage: Stage) -> Callable[[int, int], None]:
    return lambda done, total: told(stage.name, done, total)


OPTIONS = {"local": (), "ray": ("address",), "slurm": SLURM_OPTIONS}
"""What `--executor-options` may hold."""


def executor_options(config: DataConfig) -> dict[str, str]:
    """The `--executor-options` by name.

    Raises:
        DataError: one of them is unknown or has no value.
    """
    known = OPTIONS[config.executor]
    options = {}
    for text in filter(None, (config.executor_options or "").split(",")):
        name, equals, value = text.strip().partition("=")
        if name not in known or not equals or not value:
            allowed = ", ".join(f"{one}=..." for one in known) or "none"
            raise DataError(f"--executor-options: {text.strip()!r} is not one of those of {config.executor}: {allowed}")
        options[name] = value
    return options


def missing_tasks(work: Path, stage: Stage) -> int:
    """Tasks of a stage that are not done."""
    return stage.tasks - len(list((log_path(work, stage) / "completions").glob("[0-9]*")))


def _submit(work: Path, stages: Sequence[Stage], options: dict[str, str], workers: int | None) -> None:
    chain = [(stage.steps, stage.tasks, log_path(work, stage)) for stage in stages if missing_tasks(work, stage)]
    job = submit_to_slurm(chain, workers, options, "stories-prepare")
    write_text_atomically(work / JOB_NAME, job)
    raise PreparationSubmittedError(
        f"submitted {len(chain)} stages to Slurm, the last one as job {job}. When it has ended (squeue -j {job}), run "
        f"the same command again: it puts the result in place. Job scripts and logs: {work / 'stages'}"
    )


def _wait_for_slurm(work: Path, stages: Sequence[Stage]) -> None:
    """Refuse to do what jobs of a cluster are at."""
    if not (work / JOB_NAME).exists() or not any(missing_tasks(work, stage) for stage in stages):
        return
    job = (work / JOB_NAME).read_text(encoding="utf-8").strip()
    try:
        queued = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        queued = ""
    if queued:
        done = ", ".join(f"{stage.name} {stage.tasks - missing_tasks(work, stage)}/{stage.tasks}" for stage in stages)
        raise PreparationSubmittedError(f"Slurm is still at it (last job {job}). Tasks done: {done}")
    (work / JOB_NAME).unlink()
