"""Where the tasks of a stage run: in this process, in worker processes, on Slurm or on Ray.

All of them are executors of `datatrove`: a task that ended well leaves a mark in the stage's log folder and is not run
again, so a preparation that was killed goes on where it stood. Only the one for Slurm is `datatrove`'s own: its local
and its Ray executor wait for ever for a worker process that was killed.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

from ...errors import StoryError
from ..sources import DataError
from .plan import WorkerDiedError
from .workers import available_cores

Told = Callable[[int, int], None]
"""Called with the tasks of a stage that are done, and of how many."""


class LocalExecutor(PipelineExecutor):
    """Runs a pipeline's tasks in this process or in the workers of a pool, which may serve many pipelines."""

    def __init__(
        self, pipeline: Sequence[PipelineStep], tasks: int, logging_dir: Path, pool: ProcessPoolExecutor | None
    ) -> None:
        super().__init__(list(pipeline), str(logging_dir))
        self.tasks = tasks
        self._pool = pool

    @property
    def world_size(self) -> int:
        """Tasks of this pipeline."""
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        """What steps may ask about the machine."""
        return DistributedEnvVars(
            datatrove_node_ips="",
            datatrove_cpus_per_task="1",
            datatrove_mem_per_cpu="",
            datatrove_gpus_on_node="0",
            datatrove_executor="LOCAL",
        )

    def run(self, told: Told = lambda done, total: None) -> None:
        """Run the tasks that are not done yet.

        Raises:
            WorkerDiedError: a worker process ended unexpectedly.
        """
        ranks = self.get_incomplete_ranks()
        done = self.tasks - len(ranks)
        told(done, self.tasks)
        alone = self.without_pool()
        if self._pool is None or len(ranks) <= 1:
            for rank in ranks:
                alone._run_for_rank(rank)
                done += 1
                told(done, self.tasks)
            return
        waiting: set[Future[None]] = {self._pool.submit(alone._run_for_rank, rank) for rank in ranks}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                    done += 1
                told(done, self.tasks)
        except BrokenProcessPool as error:
            raise WorkerDiedError(
                "a worker process that prepares stories ended unexpectedly. If the memory is full, free some or use "
                "fewer workers (--max-workers) and try again: what is done already is kept. A script of your own must "
                'call this under `if __name__ == "__main__":`'
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def without_pool(self) -> LocalExecutor:
        """The same tasks for one process, as a worker is given them."""
        return LocalExecutor(self.pipeline, self.tasks, Path(self.logging_dir.path), None)

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> None:
        """Run one task, as the base class does but without a log file and lines on the console for each."""
        logger.disable("datatrove")
        pipeline = deepcopy(self.pipeline)  # a step counts what it sees in itself
        data: Any = None
        for step in pipeline:
            data = step(data, rank, self.world_size)
        if data:
            deque(data, maxlen=0)
        with self.logging_dir.open(f"stats/{rank:05d}.json", "w") as file:
            PipelineStats(pipeline).save_to_disk(file)
        self.mark_rank_as_completed(rank)


class RayExecutor(LocalExecutor):
    """Runs a pipeline's tasks as tasks of a Ray cluster that `ray.init` has connected to.

    A task whose worker died is run again by Ray, `RETRIES` times at the most. All nodes must see the same work folder.

    Args:
        workers: tasks that run at a time.
    """

    RETRIES = 3

    def __init__(self, pipeline: Sequence[PipelineStep], tasks: int, logging_dir: Path, workers: int) -> None:
        super().__init__(pipeline, tasks, logging_dir, None)
        self.workers = workers

    def run(self, told: Told = lambda done, total: None) -> None:
        """Run the tasks that are not done yet.

        Raises:
            WorkerDiedError: a task's workers died again and again.
        """
        import ray
        from ray.exceptions import RayTaskError, WorkerCrashedError

        ranks = deque(self.get_incomplete_ranks())
        done = self.tasks - len(ranks)
        told(done, self.tasks)
        run_task = ray.remote(num_cpus=1, max_retries=self.RETRIES)(_run_task)
        alone = ray.put(self.without_pool())
        waiting: list[Any] = []
        try:
            while ranks or waiting:
                while ranks and len(waiting) < self.workers:
                    waiting.append(run_task.remote(alone, ranks.popleft()))
                ended, waiting = ray.wait(waiting, num_returns=1)
                ray.get(ended)
                done += len(ended)
                told(done, self.tasks)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, StoryError | OSError) else error from None
        except WorkerCrashedError as error:
            raise WorkerDiedError(
                f"a Ray worker that prepares stories died {self.RETRIES + 1} times. If the memory of its node is full, "
                "use fewer workers (--max-workers) and try again: what is done already is kept"
            ) from error
        finally:
            for task in waiting:
                ray.cancel(task, force=True)


def _run_task(executor: LocalExecutor, rank: int) -> None:
    executor._run_for_rank(rank)


@contextmanager
def ray_cluster(workers: int | None, options: Mapping[str, str]) -> Iterator[int]:
    """A connection to Ray for the time of a block: the cluster at `address`, or one of this machine.

    Args:
        workers: tasks at a time; as many as the cluster has cores when not given.
        options: `address` of a cluster ("auto" for the one that this machine belongs to).

    Yields:
        Tasks at a time.

    Raises:
        DataError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise DataError("--executor ray needs the package ray: pip install 'gpt-oss-stories[cluster]'") from None
    address = options.get("address")
    here: dict[str, Any] = {} if address else {"num_cpus": workers or available_cores(), "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DataError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from error
    try:
        yield workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
    finally:
        ray.shutdown()


SLURM_OPTIONS = ("partition", "time", "mem_per_cpu_gb", "qos", "account", "job_name")


def submit_to_slurm(
    stages: Sequence[tuple[Sequence[PipelineStep], int, Path]],
    workers: int | None,
    options: Mapping[str, str],
    job_name: str,
) -> str:
    """Submit pipelines to Slurm, each to begin when the one before it has ended well.

    Every job script stands as `launch_script.slurm` in its pipeline's log folder.

    Args:
        stages: steps, tasks and log folder of each pipeline.
        workers: tasks of a pipeline that run at a time; no limit when not given.
        options: by the names in `SLURM_OPTIONS`; `partition` and `time` are needed.
        job_name: what `squeue` shows.

    Returns:
        The number of the last job.

    Raises:
        DataError: an option is missing, or Slurm did not take a job.
    """
    from datatrove.executor.slurm import SlurmPipelineExecutor

    if missing := [name for name in ("partition", "time") if name not in options]:
        raise DataError(
            f"--executor slurm needs {' and '.join(missing)}: "
            "--executor-options partition=NAME,time=HOURS:MINUTES:SECONDS"
        )
    logger.disable("datatrove")
    last = None
    for steps, tasks, logs in stages:
        last = SlurmPipelineExecutor(
            list(steps),
            tasks=tasks,
            time=options["time"],
            partition=options["partition"],
            mem_per_cpu_gb=int(options.get("mem_per_cpu_gb", "4")),
            qos=options.get("qos", ""),
            sbatch_args={"account": options["account"]} if "account" in options else {},
            workers=workers or -1,
            job_name=options.get("job_name", job_name),
            env_command=f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
            logging_dir=str(logs.resolve()),
            depends=last,
        )
    assert last is not None
    try:
        last.run()
    except FileNotFoundError as error:
        raise DataError(
            f"Slurm's command {error.filename} is not on this machine: run this on a node of the cluster from which "
            "jobs are submitted, or use --executor local"
        ) from error
    except subprocess.CalledProcessError as error:
        raise DataError(f"Slurm did not take a job: {error.cmd[0]} ended with code {error.returncode}") from error
    return str(last.job_id)
