"""Small training jobs of one or several processes that start quickly, can be killed as a whole, and are compared.

A server imports everything once and forks each job from itself. Several processes are those of torchrun's own agent
(`torch.distributed.launcher`), forked as well; `torchrun=True` runs the program torchrun instead, whose processes take
seconds to start.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]

NAMES, THINGS = ("Mia", "Tom", "Anna", "Ben", "Lily", "Max"), ("ball", "kite", "boat", "drum", "cake")
PLACES = ("in the garden", "by the sea", "under the bridge")


def write_stories(path: Path, count: int = 45) -> None:
    """Short stories in JSON lines, about four to a row of 64 tokens: a run of a dozen steps goes through them often.

    Args:
        path: the file to write.
        count: stories, at most 90.
    """
    combinations = [(name, thing, place) for place in PLACES for thing in THINGS for name in NAMES]
    with path.open("w", encoding="utf-8") as file:
        for name, thing, place in combinations[:count]:
            text = f"One day {name} lost a {thing} {place}. {name} looked and looked. At last the {thing} was there, "
            print(json.dumps({"text": f"{text}and {name} was glad."}), file=file)


NARROW = shlex.split(
    "--training-preset debug --learning-rate 3e-3 --n-layer 1 --n-head 2 --n-kv-head 1 --head-dim 8 --n-embd 16 "
    "--num-experts 2 --block-size 64 --sliding-window 16 --eval-iters 2 --log-interval 1 --device cpu "
    "--no-mixed-precision"
)
"""A model with a handful of parameters, in float32."""

EXACT = (
    "step",
    "tokens_seen",
    "loss_nats",
    "multi_token_loss_nats",
    "balance_loss",
    "router_z_loss",
    "grad_norm",
    "learning_rate",
    "matrix_learning_rate",
    "validation_loss_nats",
    "validation_multi_token_loss_nats",
    "validation_bits_per_byte",
)
"""What a record holds of training itself, as opposed to time and memory."""

SERVER = """
import json, os, sys, threading
import matplotlib.backends.backend_agg, matplotlib.figure, torch._dynamo
import gpt_oss_stories.generation.engine, gpt_oss_stories.training.trainer
import torch.distributed.checkpoint, torch.distributed.fsdp, torch.distributed.tensor, torch.distributed.run
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
import faulthandler, signal; faulthandler.register(signal.SIGUSR1)
from gpt_oss_stories import cli
from gpt_oss_stories.cli import main

cli._sample_story = lambda model, vocabulary, step: None  # telling one takes longer than the training here

def work(words):
    if code := main(words):
        sys.stderr.flush()
        sys.exit(code)

def job(order):
    words, ranks = order["words"], order["ranks"]
    os.environ.update(order["variables"])
    if order["file_bytes"] is not None:
        import resource
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"],) * 2)
    if order["torchrun"]:
        sys.argv[0] = "torchrun"
        torch.distributed.run.main([*order["torchrun"], order["script"], *words[1:]])
        return 0
    if ranks == 1:
        return main(words)
    elastic_launch(LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=order["name"], rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=order["restarts"], start_method="fork", logs_specs=DefaultLogsSpecs(),
        local_addr="localhost",
    ), work)(words)
    return 0

def wait(child, order):
    _, status = os.waitpid(child, 0)
    with open(order["log"] + ".part", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(status)))
    os.replace(order["log"] + ".part", order["log"] + ".code")

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(order["folder"])
        code = 1
        try:
            code = job(order)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
    threading.Thread(target=wait, args=(child, order), daemon=True).start()
    print(child, flush=True)
"""


@dataclass
class Job:
    """A training job that was started."""

    pid: int
    log: Path
    began: float

    @property
    def said(self) -> str:
        """All that its processes have printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def code(self) -> int | None:
        """Its exit code, minus the signal's number for one that was killed; None while it runs."""
        file = self.log.with_name(self.log.name + ".code")
        return int(file.read_text()) if file.exists() else None

    def finish(self, seconds: float = 120) -> int:
        """Wait for its end; one that takes too long is killed, and is an error."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"took longer than {seconds} seconds\n{self.said}")
            time.sleep(0.01)
        code = self.code
        assert code is not None
        return code

    def processes(self) -> list[Any]:
        """Those that train, in the order in which they were started: without torchrun's agent, and without helpers."""
        import psutil

        try:
            agent = psutil.Process(self.pid)
            return sorted(agent.children(), key=lambda process: process.pid) or [agent]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """SIGKILL for all its processes at once."""
        import psutil

        found: dict[int, Any] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            agent = psutil.Process(self.pid)
            agent.suspend()  # or it might start others meanwhile
            found = {process.pid: process for process in [*agent.children(recursive=True), agent]}
        for process in found.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(list(found.values()), timeout=20)


class Trainings:
    """Starts jobs; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        left_out = ("PYTHON", "PYTEST", "WANDB_SERVICE", "TORCHELASTIC", "COV_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        environment |= {
            "PYTHONPATH": str(PROJECT / "src"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "COLUMNS": "300",
        }
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            environment.pop(name, None)
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        ranks: int = 1,
        restarts: int = 0,
        torchrun: Sequence[str] = (),
        file_bytes: int | None = None,
        **variables: str,
    ) -> Job:
        """Start `stories` with some words in a folder.

        Args:
            words: what follows `stories`.
            folder: where to run.
            ranks: processes.
            restarts: how often the agent starts them again when one fails.
            torchrun: arguments of the program torchrun, which starts them instead.
            file_bytes: no file may become longer, as if the disk were full.
            variables: of the environment.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        name = uuid.uuid4().hex[:12]
        log = self._folder / f"{name}.log"
        order = {
            "words": list(words),
            "folder": str(folder),
            "ranks": ranks,
            "restarts": restarts,
            "torchrun": list(torchrun),
            "script": str(PROJECT / "src" / "run_training.py"),
            "file_bytes": file_bytes,
            "variables": variables,
            "name": name,
            "log": str(log),
        }
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return Job(int(self._server.stdout.readline()), log, time.monotonic())

    def run(self, words: Sequence[str], folder: Path, *, seconds: float = 120, **options: Any) -> tuple[int, str]:
        """The exit code, and all that was said."""
        job = self.start(words, folder, **options)
        return job.finish(seconds), job.said

    def __enter__(self) -> Trainings:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.kill()
        self._server.communicate()


def training_words(
    data: Path,
    *,
    steps: int,
    vocabulary: str = "story",
    ranks: int = 1,
    sharing: str = "ddp",
    rows: int = 4,
    accumulation: int = 1,
    more: Sequence[str] = (),
) -> list[str]:
    """What follows `stories` for a small run.

    Args:
        data: a file of stories; they are prepared in a folder beside it.
        steps: optimizer steps.
        vocabulary: story or harmony.
        ranks: processes.
        sharing: ddp or fsdp, for more than one.
        rows: rows of all processes in one pass.
        accumulation: passes in a step.
        more: other flags.
    """
    assert rows % ranks == 0
    words = [
        "train",
        *["--dataset-path", str(data), "--data-dir", str(data.parent / "prepared"), "--vocabulary", vocabulary],
        *["--validation-fraction", "0.1"],
        *NARROW,
        *["--max-iters", str(steps)],
        *["--batch-size", str(rows // ranks)],
        *["--gradient-accumulation-steps", str(accumulation)],
    ]
    if ranks > 1:
        words += ["--use-ddp"] if sharing == "ddp" else ["--parallelism", sharing]
    return [*words, *more]


def newest_state(folder: Path) -> Path:
    """The newest state of the run in a folder."""
    from gpt_oss_stories.training.checkpoint import list_states

    return list_states(folder / "checkpoints")[0]


def tensors_of(state: Path) -> dict[str, Any]:
    """All tensors of a state, by name."""
    import torch
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from gpt_oss_stories.training import checkpoint

    index = checkpoint._Reader(state).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(item.size, dtype=item.properties.dtype)
        for name, item in index.items()
        if isinstance(item, TensorStorageMetadata)
    }
    checkpoint.load_tensors(state, tensors)
    return tensors


def records(folder: Path, names: Sequence[str] = EXACT) -> list[dict[str, Any]]:
    """What the metrics say about training itself."""
    from gpt_oss_stories.training.metrics import read_metrics

    rows = read_metrics(folder / "checkpoints" / "metrics.jsonl")
    return [{name: row.get(name) for name in names} for row in rows]


def hidden(folder: Path) -> list[str]:
    """Temporary files and folders."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".metadata"]


def differences(folder: Path, other: Path) -> list[str]:
    """How two finished runs differ, bit for bit: weights, optimizer, generators, counters, metrics, best model."""
    import torch

    from gpt_oss_stories.model.model_file import load_model_file
    from gpt_oss_stories.training.checkpoint import read_state

    found = []
    mine, others = (tensors_of(newest_state(place)) for place in (folder, other))
    if mine.keys() != others.keys():
        found.append(f"other tensors: {sorted(mine.keys() ^ others.keys())}")
    found += [name for name in mine.keys() & others.keys() if not _same(mine[name], others[name])]
    states = [read_state(newest_state(place)) for place in (folder, other)]
    for name in ("step", "rows_seen", "tokens_seen", "skipped_steps", "best_validation_loss", "evaluated_step"):
        if getattr(states[0], name) != getattr(states[1], name):
            found.append(f"{name}: {getattr(states[0], name)} and {getattr(states[1], name)}")
    left, right = records(folder), records(other)
    if left != right:
        steps = [row["step"] for row in left], [row["step"] for row in right]
        unequal = [a["step"] for a, b in zip(left, right, strict=False) if a != b]
        found.append(f"metrics: steps {steps[0]} and {steps[1]}" if steps[0] != steps[1] else f"metrics: {unequal}")
    models = [load_model_file(place / "checkpoints" / "best_model.pt") for place in (folder, other)]
    if models[0].provenance["step"] != models[1].provenance["step"]:
        found.append("best model: of another step")
    found += [f"best model: {n}" for n, t in models[0].weights.items() if not torch.equal(t, models[1].weights[n])]
    return found


def _same(left: Any, right: Any) -> bool:
    """Equal in every bit: torch's own comparison calls 0 and -0 equal, and no NaN equal to itself."""
    import torch

    return (
        left.shape == right.shape
        and left.dtype == right.dtype
        and torch.equal(left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8))
    )


def after_step(job: Job, folder: Path, step: int, *, seconds: float = 120) -> Job:
    """A job that has recorded a step of the run in a folder."""
    metrics = folder / "checkpoints" / "metrics.jsonl"
    deadline = time.monotonic() + seconds
    while not metrics.exists() or f'"step":{step},' not in metrics.read_text():
        assert job.code is None, f"it ended before step {step}\n{job.said}"
        assert time.monotonic() < deadline, f"step {step} is not reached\n{job.said}"
        time.sleep(0.005)
    return job


def furthest_apart(one: Path, other: Path) -> float:
    """Largest difference in nats between the curves of two runs, both of which must have recorded all steps."""
    names = ("step", "loss_nats", "validation_loss_nats")
    left, right = records(one, names), records(other, names)
    steps = [row["step"] for row in left]
    assert steps == [row["step"] for row in right] == list(range(1, len(left) + 1))
    assert steps
    pairs = [(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in names[1:]]
    assert all((a is None) == (b is None) for a, b in pairs)
    return float(max(abs(a - b) for a, b in pairs if a is not None))


def moments_of_saving(folder: Path, job: Job) -> Iterator[None]:
    """Yields whenever a folder of a state that is being written is there; ends with the job."""
    checkpoints = folder / "checkpoints"
    while job.code is None:
        if checkpoints.is_dir() and any(path.name.startswith(".saving-") for path in checkpoints.iterdir()):
            yield
        time.sleep(0.0005)


def send(job: Job, number: int, *, rank: int | None = None) -> None:
    """Send a signal to torchrun's agent, or to one of its processes."""
    pid = job.pid if rank is None else job.processes()[rank].pid
    os.kill(pid, number)
