"""What all benchmarks share: contenders in processes of their own, measured in turns, and one way to report.

    python benchmarks                      lists the questions
    python benchmarks QUESTION [OPTIONS]   asks one; so do `stories bench QUESTION` and `python benchmarks/QUESTION.py`

A question is one file beside this one. It names its contenders, lets `compare` measure them, forms its ratios (more is
always better for this program) and gives everything to `report`, which prints a table on standard error and, as the
last line of standard output, one JSON object with `benchmark` and `ratio`.

Each contender lives in a process of its own, which answers one line of JSON on standard input with one on standard
output. So its memory is its own, its imports disturb nobody, all have the same threads, allocator and environment, and
repetitions of several contenders take turns (A B C, B C A, ...) without paying for their start each time: what slows
the machine down for a while slows all of them down. The asking process imports neither torch nor any peer.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import difflib
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import click

import gpt_oss_stories
from gpt_oss_stories.config import HARMONY_VOCABULARY_SIZE, MODEL_SIZES, ModelConfig
from gpt_oss_stories.environment import MALLOC_SETTINGS, let_waiting_threads_sleep, use_huge_pages
from gpt_oss_stories.errors import StoryError

FOLDER = Path(__file__).resolve().parent
HELPERS = frozenset({"__main__", "house"})
"""Files in the folder that are no questions."""

ALLOCATORS = ("tcmalloc_minimal", "tcmalloc", "jemalloc", "mimalloc")
"""Libraries that `--allocator auto` looks for, in this order. Training gives back and takes large buffers all the time;
with these it does not pay for fresh pages each time."""

CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8",
                "asimd", "sve", "bf16", "i8mm")  # fmt: skip
"""What decides how fast matrix products are, as Linux names it."""

STORY_VOCABULARY_SIZE = 8192
"""About what a story vocabulary has."""

MINI: Mapping[str, Any] = {
    "n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 32, "head_dim": 16, "block_size": 64, "num_experts": 4,
    "sliding_window": 16, "tie_embeddings": True,
}  # fmt: skip
"""A size to try a benchmark with; its figures say nothing."""

SIZES: Mapping[str, Mapping[str, Any]] = {"mini": MINI, **MODEL_SIZES}

DTYPES = ("float32", "bfloat16")

USER_ERROR = 2
INTERRUPTED = 130
"""Exit codes, those of `stories`."""

CLEARING_SECONDS = 20.0
"""How long a question may take to end after Ctrl-C; it gives its contender ten."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


class BenchmarkError(StoryError):
    """A benchmark cannot be run, or a contender failed."""


# What runs in a contender's process


@dataclass(frozen=True)
class Workload:
    """What a contender does once it is set up."""

    measure: Callable[[], dict[str, float]]
    """One repetition: its figures by name, units at the end of the name (`_seconds`, `_per_second`, `_bytes`)."""
    warm_up: Callable[[], object] | None = None
    """What to do before the first repetition; one repetition when not given."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else there is to know about the contender; read when it ends."""


def peak_memory_bytes() -> int | None:
    """Most memory that this process has used.

    `ru_maxrss` would do, but on Linux it begins with that of the process which started this one.
    """
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(largest) if sys.platform == "darwin" else int(largest) * 1024


def allocator_loaded(name: str) -> bool:
    """Whether this process has a library of that name; True where nothing tells."""
    try:
        return name in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True


_answers: IO[str] | None = None
"""Where a contender's process answers; None in any other process."""


def tell(text: str) -> None:
    """Let the asking process show a line while a contender is still at work; in any other process it does nothing."""
    _say({"progress": text})


def _say(message: Mapping[str, Any]) -> None:
    if _answers is not None:
        _answers.write(json.dumps(message) + "\n")
        _answers.flush()


def serve(path: str, function: str) -> None:
    """Answer requests until the asking process closes standard input."""
    global _answers
    _answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print is no answer
    sys.modules["house"] = sys.modules[__name__]
    workload: Workload | None = None

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal workload
        match request["do"]:
            case "set up":
                allocator = request["allocator"]
                if allocator and not allocator_loaded(allocator):
                    raise BenchmarkError(f"the allocator {allocator} was not loaded: choose another --allocator")
                workload = getattr(load_file(path), function)(request["options"])
            case "warm up":
                assert workload is not None
                (workload.warm_up or workload.measure)()
            case "measure":
                assert workload is not None
                return {"figures": workload.measure(), "peak_memory_bytes": peak_memory_bytes()}
            case "facts":
                assert workload is not None
                torch = sys.modules.get("torch")
                threads = {} if torch is None else {"torch_threads": torch.get_num_threads()}
                return {"facts": {**threads, **workload.facts}}
        return {}

    for line in sys.stdin:
        try:
            said = answer(json.loads(line))
        except StoryError as error:
            said = {"error": str(error)}
        _say(said)


def load_file(path: str) -> Any:
    """A question's file as a module, without its folder on the path of imports: a file there may have a peer's name."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# What asks them


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    `make` is a function of a question's file: called in the contender's own process with `options` (plain values, as
    they go through JSON), it imports what it needs, sets up and returns a `Workload`.
    """

    name: str
    make: Callable[[dict[str, Any]], Workload]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    """Packages of the extra `benchmarks` without which it cannot run."""


@dataclass(frozen=True)
class Conditions:
    """What is the same for all contenders of a run."""

    repetitions: int
    threads: int
    allocator: str | None
    """A library to preload, or None for the system's own allocator."""
    as_json: bool = False
    skip_warm_up: bool = False
    load_average: float | None = None
    """Of the machine before anything was measured: from about 0.5 on, others were using it."""

    def environment(self) -> dict[str, str]:
        """The environment of the contenders' processes."""
        let_waiting_threads_sleep()
        use_huge_pages()
        package = str(Path(gpt_oss_stories.__file__).resolve().parents[1])
        search = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        values = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "OPENBLAS_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join(search),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        values.pop("LD_PRELOAD", None)
        if self.allocator is not None:
            values["LD_PRELOAD"] = self.allocator
        else:  # as `keep_freed_memory` does for our commands, and here for everybody
            values |= {name: str(setting) for name, (_, setting) in MALLOC_SETTINGS.items()}
        return values


class Worker:
    """A contender's process."""

    def __init__(self, contender: Contender, conditions: Conditions) -> None:
        self.name = contender.name
        self._conditions = conditions
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        path = sys.modules[contender.make.__module__].__file__
        words = [sys.executable, "-P", str(FOLDER / "house.py"), "serve", str(path), contender.make.__name__]
        self._process = subprocess.Popen(
            words,
            env=conditions.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        allocator = None if conditions.allocator is None else Path(conditions.allocator).name
        try:
            self.ask("set up", options=dict(contender.options), allocator=allocator)
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Let it do something and wait for what it says; what it tells meanwhile is shown.

        Raises:
            BenchmarkError: it failed; the message ends with the last line that it wrote.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": what, **more}) + "\n")
            self._process.stdin.flush()
        said: dict[str, Any] = {"progress": ""}
        while "progress" in said:
            line = self._process.stdout.readline()
            if not line:
                code = self._process.wait()
                if code == -9:
                    raise BenchmarkError(f"{self.name}: killed, most likely because the machine ran out of memory")
                raise BenchmarkError(f"{self.name} ended with code {code}: {self._last_line()}")
            said = json.loads(line)
            if "progress" in said:
                talk(f"{self.name}: {said['progress']}", self._conditions)
        if "error" in said:
            raise BenchmarkError(f"{self.name}: {said['error']}")
        return said

    def _last_line(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass
class Outcome:
    """What was measured of one contender."""

    name: str
    figures: dict[str, list[float]] = field(default_factory=dict)
    """A value for each repetition, by the figure's name."""
    peak_memory_bytes: int | None = None
    setup_seconds: float = 0.0
    """From the start of its process to the end of its warm-up."""
    facts: dict[str, Any] = field(default_factory=dict)

    def median(self, figure: str) -> float:
        return statistics.median(self.figures[figure])

    def to_dict(self) -> dict[str, Any]:
        figures = {
            name: {
                "median": short(statistics.median(values)),
                "min": short(min(values)),
                "max": short(max(values)),
                "values": [short(value) for value in values],
            }
            for name, values in self.figures.items()
        }
        return {
            "figures": figures,
            "peak_memory_bytes": self.peak_memory_bytes,
            "setup_seconds": short(self.setup_seconds),
            **({"facts": self.facts} if self.facts else {}),
        }


@dataclass(frozen=True)
class Ratio:
    """How many times better one contender is than another."""

    median: float
    """Ratio of the two medians."""
    low: float
    high: float
    """Least and largest ratio of two values of the same repetition."""

    def to_list(self) -> list[float]:
        return [short(self.low), short(self.high)]


def ratio(ours: Outcome, peer: Outcome, figure: str) -> Ratio:
    """How many times better `ours` is by a figure: less of seconds and bytes, more of everything else."""
    less_is_better = figure.endswith(("seconds", "bytes"))
    mine, theirs = (peer, ours) if less_is_better else (ours, peer)
    pairs = [a / b for a, b in zip(mine.figures[figure], theirs.figures[figure], strict=True)]
    return Ratio(mine.median(figure) / theirs.median(figure), min(pairs), max(pairs))


def best(outcomes: Sequence[Outcome], figure: str) -> Outcome:
    """The contender with the best median."""
    less_is_better = figure.endswith(("seconds", "bytes"))
    return (min if less_is_better else max)(outcomes, key=lambda outcome: outcome.median(figure))


def short(value: float) -> float:
    """The value in six digits, which is more than a clock is good for."""
    return float(f"{value:.6g}")


def compare(contenders: Sequence[Contender], conditions: Conditions, *, one_at_a_time: bool = False) -> list[Outcome]:
    """Measure contenders in turns, each repetition in another order.

    Args:
        contenders: who is compared; names are different.
        conditions: threads, allocator and number of repetitions.
        one_at_a_time: start each contender anew for each repetition and end it after it. Takes longer, but never holds
            two of them in memory.

    Raises:
        BenchmarkError: a package is missing, or a contender failed.
    """
    for contender in contenders:
        require(contender.needs)
    outcomes = {contender.name: Outcome(contender.name) for contender in contenders}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        if not one_at_a_time:
            for contender in contenders:
                talk(f"setting up {contender.name}", conditions)
                workers[contender.name] = stack.enter_context(_ready(contender, conditions, outcomes[contender.name]))
        for turn in range(conditions.repetitions):
            first = turn % len(contenders)
            for contender in [*contenders[first:], *contenders[:first]]:
                outcome = outcomes[contender.name]
                talk(f"repetition {turn + 1} of {conditions.repetitions}: {contender.name}", conditions)
                with contextlib.ExitStack() as own:
                    worker = workers.get(contender.name)
                    if worker is None:
                        worker = own.enter_context(_ready(contender, conditions, outcome))
                    said = worker.ask("measure")
                    for name, value in said["figures"].items():
                        outcome.figures.setdefault(name, []).append(value)
                    if said["peak_memory_bytes"] is not None:
                        outcome.peak_memory_bytes = max(outcome.peak_memory_bytes or 0, said["peak_memory_bytes"])
                    outcome.facts |= worker.ask("facts")["facts"]
    return list(outcomes.values())


@contextlib.contextmanager
def _ready(contender: Contender, conditions: Conditions, outcome: Outcome) -> Iterator[Worker]:
    """A worker that is set up and warm."""
    began = time.perf_counter()
    with Worker(contender, conditions) as worker:
        if not conditions.skip_warm_up:
            worker.ask("warm up")
        outcome.setup_seconds = time.perf_counter() - began
        yield worker


def apart(
    make: Callable[[dict[str, Any]], Workload], options: Mapping[str, Any], conditions: Conditions
) -> dict[str, Any]:
    """The facts of a workload that is only set up, in a process that ends with it: to prepare what contenders need."""
    with Worker(Contender("preparation", make, options), conditions) as worker:
        facts: dict[str, Any] = worker.ask("facts")["facts"]
        return facts


def require(packages: Sequence[str]) -> None:
    """Refuse to go on without a peer.

    Raises:
        BenchmarkError: a package is not installed.
    """
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise BenchmarkError(f"this needs {', '.join(missing)}, which is not installed: pip install -e '.[benchmarks]'")


# Options and circumstances


def usual_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_allocator(wanted: str) -> str | None:
    """The library to preload.

    Args:
        wanted: auto takes what LD_PRELOAD names already, or else the first of `ALLOCATORS` that is installed, or none;
            none is the system's own; anything else is a name of a library, such as tcmalloc_minimal, or its path.

    Raises:
        BenchmarkError: it is not there.
    """
    if wanted == "none":
        return None
    if wanted == "auto":
        if given := os.environ.get("LD_PRELOAD"):
            return given
        return next(filter(None, map(_library, ALLOCATORS)), None) if sys.platform == "linux" else None
    if sys.platform != "linux":
        raise BenchmarkError(f"--allocator {wanted}: only Linux can preload one; use --allocator none")
    if os.sep in wanted and Path(wanted).is_file():
        return str(Path(wanted).resolve())
    if (found := _library(wanted)) is None:
        raise BenchmarkError(f"--allocator {wanted}: no such library is installed; auto and none always work")
    return found


def _library(name: str) -> str | None:
    """A shared library that the system's loader finds, or one that lies in the environment of this Python."""
    if found := ctypes.util.find_library(name):
        return found
    own = sorted((Path(sys.prefix) / "lib").glob(f"lib{name}.so*"))
    return str(own[0]) if own else None


def conditions_options(command: _Command) -> _Command:
    """Give a question's command the options that all have; it gets them as `conditions`."""

    def collect(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        context.ensure_object(dict)[parameter.name] = value
        return value

    for option in reversed(
        (
            click.option(
                "--repetitions", default=5, show_default=True, type=click.IntRange(1),
                expose_value=False, callback=collect, help="How often each contender is measured.",
            ),
            click.option(
                "--threads", default=usual_threads(), show_default=True, type=click.IntRange(1),
                expose_value=False, callback=collect, help="Threads of each contender.",
            ),
            click.option(
                "--allocator", default="auto", show_default=True, metavar="NAME",
                expose_value=False, callback=collect,
                help=f"What gives all contenders their memory: none is the system's own, auto the first installed one "
                f"of {', '.join(ALLOCATORS)}.",
            ),
            click.option(
                "--skip-warm-up", is_flag=True, expose_value=False, callback=collect,
                help="To try a benchmark out: its figures then say nothing.",
            ),
            click.option(
                "--json", "as_json", is_flag=True, expose_value=False, callback=collect,
                help="Print the JSON object only, without progress and table.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def given_conditions() -> Conditions:
    """The values of `conditions_options` in the running command."""
    given = click.get_current_context().ensure_object(dict)
    return Conditions(
        repetitions=given["repetitions"],
        threads=given["threads"],
        allocator=find_allocator(given["allocator"]),
        as_json=given["as_json"],
        skip_warm_up=given["skip_warm_up"],
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def machine_facts(conditions: Conditions) -> dict[str, Any]:
    """On what and with what was measured."""
    versions = {"gpt-oss-stories": gpt_oss_stories.__version__, "python": platform.python_version()}
    for package in ("torch", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    model, flags = _processor()
    return {
        "versions": versions,
        "cpu": model,
        "cpu_features": [name for name in CPU_FEATURES if name in flags],
        "cores": usual_threads(),
        "threads": conditions.threads,
        "allocator": "the system's, keeping freed memory"
        if conditions.allocator is None
        else Path(conditions.allocator).name,
        "load_average": conditions.load_average,
    }


def _processor() -> tuple[str, frozenset[str]]:
    """Its name and features, as far as the system tells."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = frozenset(value.split())
                break
    return name, flags


# Reporting


def talk(text: str, conditions: Conditions) -> None:
    """A line for whoever waits."""
    if not conditions.as_json:
        print(text, file=sys.stderr, flush=True)


def report(
    benchmark: str,
    outcomes: Sequence[Outcome],
    conditions: Conditions,
    *,
    ratio: float,
    settings: Mapping[str, Any],
    **more: Any,
) -> None:
    """Print the table and the JSON object.

    Args:
        benchmark: the question's name.
        outcomes: what was measured.
        conditions: how.
        ratio: the answer; more is better for this program.
        settings: sizes and the like.
        more: further figures of the answer, by name.
    """
    machine = machine_facts(conditions)
    answer = {name: short(value) if isinstance(value, float) else value for name, value in more.items()}
    if not conditions.as_json:
        _print_table(benchmark, outcomes, {"ratio": short(ratio), **answer}, settings, machine)
    result = {
        "benchmark": benchmark,
        "ratio": short(ratio),
        **answer,
        "settings": dict(settings),
        "repetitions": conditions.repetitions,
        "warm": not conditions.skip_warm_up,
        "contenders": {outcome.name: outcome.to_dict() for outcome in outcomes},
        "machine": machine,
    }
    print(json.dumps(result, allow_nan=False), flush=True)


def _print_table(
    benchmark: str,
    outcomes: Sequence[Outcome],
    answer: Mapping[str, Any],
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> None:
    from rich.console import Console
    from rich.table import Table

    figures = list(dict.fromkeys(name for outcome in outcomes for name in outcome.figures))
    table = Table(title=f"{benchmark}: medians (least to most)", title_justify="left")
    table.add_column("")
    for name in figures:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("peak memory, MiB", justify="right")
    for outcome in outcomes:
        cells = [_cell(outcome.figures.get(name)) for name in figures]
        peak = outcome.peak_memory_bytes
        table.add_row(outcome.name, *cells, "-" if peak is None else f"{peak / 2**20:,.0f}")
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table)
    for facts in (settings, machine, answer):
        listed = (f"{name.replace('_', ' ')} {_plain(value)}" for name, value in facts.items())
        console.print("; ".join(listed), markup=False)


def _cell(values: Sequence[float] | None) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return _number(values[0])
    return f"{_number(statistics.median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return " ".join(map(_plain, value)) if isinstance(value, list) else str(value)


# Models to measure with


def model_options(command: _Command) -> _Command:
    """The options `--size` and `--vocabulary`."""
    size = click.option("--size", type=click.Choice(list(SIZES)), default="tiny", show_default=True)
    vocabulary = click.option(
        "--vocabulary",
        type=click.Choice(["story", "harmony"]),
        default="story",
        show_default=True,
        help=f"{STORY_VOCABULARY_SIZE:,} or {HARMONY_VOCABULARY_SIZE:,} tokens.",
    )
    return size(vocabulary(command))


def peer_dtypes_option(command: _Command) -> _Command:
    """The option `--peer-dtype`."""
    return click.option(
        "--peer-dtype",
        "peer_dtypes",
        multiple=True,
        type=click.Choice(DTYPES),
        default=DTYPES,
        show_default=True,
        help="What transformers computes in; may be given twice, the better one counts.",
    )(command)


def model_config(size: str, vocabulary: str, length: int) -> ModelConfig:
    """The configuration of a size, with a context of at least `length` tokens."""
    tokens = HARMONY_VOCABULARY_SIZE if vocabulary == "harmony" else STORY_VOCABULARY_SIZE
    config = ModelConfig.from_dict({**SIZES[size], "vocab_size": tokens})
    return config.replace(block_size=max(config.block_size, length))


def dense_twin(config: ModelConfig) -> ModelConfig:
    """The model whose only expert is as wide as all that a token of `config` uses together."""
    return config.replace(
        num_experts=1, experts_per_token=1, intermediate_size=config.expert_width * config.active_experts
    )


def write_model(options: dict[str, Any]) -> Workload:
    """Write a model for all contenders, in our format and that of `transformers`; for `apart`.

    Args:
        options: `folder` to write to; `model`, the path of a given one, or None; `size`, `vocabulary` and `length` of a
            random one.
    """
    import torch

    from gpt_oss_stories.interop.checkpoints import open_checkpoint
    from gpt_oss_stories.interop.export import export_huggingface
    from gpt_oss_stories.model.model_file import save_model
    from gpt_oss_stories.model.transformer import StoryTransformer

    folder = Path(options["folder"])
    ours, theirs = folder / "model.pt", folder / "transformers"
    given = options["model"]
    if given is None:
        config = model_config(options["size"], options["vocabulary"], options["length"])
        vocabulary = vocabulary_of(config.vocab_size)
        model = StoryTransformer(config, seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("bias", "sinks")):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        save_model(ours, model, vocabulary, {})
        given = ours
    checkpoint = open_checkpoint(given)
    export_huggingface(checkpoint, theirs)
    return Workload(
        measure=dict,
        facts={
            "ours": str(Path(given).resolve()),
            "transformers": str(theirs),
            "vocab_size": checkpoint.config.vocab_size,
            "block_size": checkpoint.config.block_size,
            "parameters": checkpoint.config.parameters().total,
        },
    )


def vocabulary_of(size: int) -> Any:
    """A vocabulary of exactly `size` tokens: all of harmony's, or a story vocabulary of its first ones."""
    from gpt_oss_stories.tokenization import build_story_vocabulary, harmony_vocabulary

    if size == HARMONY_VOCABULARY_SIZE:
        return harmony_vocabulary()
    kept = size
    for _ in range(20):
        # Besides the tokens that are asked for it has those of requests, and of which tokens are made.
        vocabulary = build_story_vocabulary(dict.fromkeys(range(kept), 1))
        if vocabulary.size == size:
            return vocabulary
        kept -= vocabulary.size - size
    raise BenchmarkError(f"no story vocabulary of {size} tokens was found")


# The command


def questions() -> dict[str, Path]:
    """The benchmarks by name."""
    return {_spelled(path.stem): path for path in sorted(FOLDER.glob("*.py")) if path.stem not in HELPERS}


def _spelled(name: str) -> str:
    """A question's name as it is listed: time-to-loss is answered by time_to_loss.py."""
    return name.replace("_", "-")


def run(question: str | None, arguments: Sequence[str] = ()) -> int:
    """Ask a question, as `stories bench QUESTION [ARGUMENTS]` does, in a process of its own.

    Args:
        question: name of a file beside this one, without its ending, dashes for underscores or not; None lists them.
        arguments: what that file's command is given.

    Returns:
        its exit code: 0, 2 where something given cannot be used, 130 after Ctrl-C.

    Raises:
        BenchmarkError: there is no such question.
    """
    known = questions()
    if question is None:
        width = max(map(len, known))
        for name, path in known.items():
            print(f"{name:{width}}  {_first_line(path)}")
        return 0
    if (name := _spelled(question)) not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise BenchmarkError(f"no benchmark answers {question!r}: {hint}")
    process = subprocess.Popen([sys.executable, str(known[name]), *arguments])
    try:
        return process.wait()
    except KeyboardInterrupt:  # it reaches the question's process too, which ends its contenders and clears up
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(CLEARING_SECONDS)
        process.kill()
        return INTERRUPTED


def _first_line(path: Path) -> str:
    """The first line of a file's docstring, which is the question."""
    with open(path, encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def start(command: click.Command) -> None:
    """Run a question's command; what the user can mend is one line."""
    try:
        code = command.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        _refuse(error.format_message())
    except StoryError as error:
        _refuse(str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(USER_ERROR)


if __name__ == "__main__":
    _, what, path, function = sys.argv
    assert what == "serve"
    serve(path, function)
