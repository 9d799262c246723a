"""How soon does training reach the held-out loss that `transformers` with AdamW reaches in ten minutes?

    python benchmarks/time_to_loss.py --dataset-path stories.jsonl
    python benchmarks/time_to_loss.py --dataset-path stories.jsonl --peer-learning-rates 6e-4,1e-3,2e-3
    python benchmarks/time_to_loss.py --peer-result peer.json --plot curves.png

Both train the same architecture on the same token shards, on the same threads. Ours is the trainer of `stories train`
with its own choices for the size and a limit of time. The peer is `GptOssForCausalLM` as `transformers` initialises
it, with fused AdamW (0.9, 0.95), weight decay of 0.1 on the matrices, a warm-up and a cosine down to a tenth that ends
where its time ends, gradients clipped at 1, and rows that begin anywhere in the stories one after the other. It
computes in whichever of float32 and bfloat16 is faster in a short trial, and each of the learning rates given has all
of the time; the lowest loss counts.

A schedule that ends must know its end, so that ours is trained once for each of some shorter times, the shortest
first; the first whose final loss is at or below the peer's counts, and nothing is interpolated. `ratio` is the peer's
time over the time that this run took: 0 where none got there.

Seconds are those of the steps with the loading of their data. Setting up, warming up and the evaluations do not count:
those of the peer stand between its steps with its clock stopped; ours is trained to the end without any, and once more
for as many steps, with evaluations, for its curve. All weights are scored by one function in float32, the peer's after
they are renamed to ours, on the same whole held-out stories.

The peer's runs can be kept in a file, so that ours can be measured again without them.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from house import (
    SIZES,
    BenchmarkError,
    Conditions,
    Contender,
    Outcome,
    Workload,
    apart,
    compare,
    conditions_options,
    given_conditions,
    machine_facts,
    peer_dtypes_option,
    report,
    start,
    talk,
    tell,
)

from gpt_oss_stories.config import DataConfig, ModelConfig, TrainingConfig, data_config, training_config

if TYPE_CHECKING:
    from torch import Tensor

    from gpt_oss_stories.data.pipeline import PreparedData
    from gpt_oss_stories.data.shards import TokenShard
    from gpt_oss_stories.training.evaluation import Evaluation
    from gpt_oss_stories.training.trainer import TrainingResult

_Command = TypeVar("_Command", bound=Callable[..., Any])

NO_END = 10**9
"""Steps that no run gets to: where time is the limit, and for what is to happen at the end only."""

PEER_BETAS = (0.9, 0.95)
PEER_WEIGHT_DECAY = 0.1
PEER_CLIP = 1.0
PEER_FLOOR = 0.1
"""The peer's learning rate at its end, as a share of the highest."""

WARM_UP_STEPS = 3
TRIAL_STEPS = 5
"""Steps of each number format in the trial that chooses the peer's."""

SCORED_AT_ONCE = 4096
"""Tokens that are scored in one pass."""

PROGRESS_SECONDS = 10.0

STEP_LINE = re.compile(r"step [\d,]+/")
"""How the trainer's lines about its steps begin."""

UNTRAINED = -100
"""Label of what the peer is not to predict."""


# What both sides do in the same way


def preparation(options: dict[str, Any]) -> Workload:
    """Token shards of the stories; for `apart`."""
    from gpt_oss_stories.data.pipeline import prepare

    last = time.monotonic()

    def progress(stage: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            tell(f"{stage} {done:,}" + ("" if total is None else f" of {total:,}"))

    data = prepare(DataConfig.from_dict(options["data"]), progress)
    if not len(data.validation):
        raise BenchmarkError("a single story: none can be held out")
    return Workload(
        measure=dict,
        facts={
            "folder": str(data.directory.resolve()),
            "fingerprint": data.fingerprint,
            "vocab_size": data.vocabulary.size,
            "train_tokens": data.train.counts.tokens,
            "held_out_stories": len(data.validation),
        },
    )


def open_data(options: dict[str, Any]) -> PreparedData:
    """The shards that `preparation` made."""
    from gpt_oss_stories.data.pipeline import load_prepared

    return load_prepared(options["folder"], reused=True, verify=False)


def score(config: ModelConfig, weights: Mapping[str, Tensor], data: PreparedData, most_tokens: int) -> Evaluation:
    """Loss of a model on held-out stories, computed in float32.

    Args:
        config: the model's.
        weights: our parameters' names to their values, which are left as they are.
        data: its held-out stories; only those longer than the model's context are cut.
        most_tokens: about how many tokens of them, always the same; 0 for all.

    Raises:
        BenchmarkError: there is nothing to predict, or the loss is not a number.
    """
    import torch

    from gpt_oss_stories.model.model_file import build_model
    from gpt_oss_stories.training.distributed import Processes
    from gpt_oss_stories.training.evaluation import evaluate

    rows = max(1, SCORED_AT_ONCE // config.block_size)
    sizes = [len(data.vocabulary.token_bytes(token)) for token in range(data.vocabulary.size)]
    found = evaluate(
        build_model(config, weights, "the model"),
        data.validation,
        torch.tensor(sizes),
        batch_size=rows,
        length=config.block_size,
        most_batches=max(1, most_tokens // (rows * config.block_size)) if most_tokens else NO_END,
        rows_at_once=rows,
        processes=Processes(),
    )
    if found is None:
        raise BenchmarkError("nothing in the held-out stories is to be predicted")
    if not math.isfinite(found.loss_nats):
        raise BenchmarkError(f"the held-out loss is {found.loss_nats}")
    return found


def figures(seconds: float, steps: int, tokens: int, evaluation: Evaluation) -> dict[str, float]:
    """What is known of a run at its end."""
    bits = {} if evaluation.bits_per_byte is None else {"bits_per_byte": evaluation.bits_per_byte}
    return {"seconds": seconds, "loss_nats": evaluation.loss_nats, **bits, "steps": steps, "tokens": tokens}


# The peer


class Rows:
    """Endless batches of rows that begin anywhere in the stories, which stand one after the other."""

    def __init__(self, shard: TokenShard, batch: int, length: int, seed: int) -> None:
        import numpy as np

        self._shard, self._batch, self._length = shard, batch, length
        self._places = shard.counts.tokens - length + 1
        if self._places < 1:
            raise BenchmarkError(f"all stories together have {shard.counts.tokens:,} tokens, a row {length:,}")
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def next(self) -> tuple[Tensor, Tensor]:
        """Tokens (batch, length) int64, and the same with `UNTRAINED` for those that are not to be predicted."""
        import numpy as np
        import torch

        starts = self._generator.integers(0, self._places, self._batch)
        tokens = np.stack([self._shard.tokens[start : start + self._length] for start in starts]).astype(np.int64)
        trained = np.stack([self._shard.trained(int(start), int(start) + self._length) for start in starts])
        return torch.from_numpy(tokens), torch.from_numpy(np.where(trained, tokens, UNTRAINED))


class Peer:
    """A model of `transformers` that is being trained.

    Args:
        options: `model` (our configuration), `seed`, `learning_rate`, `experts`, `batch` and `length`.
        data: the stories.
        autocast: compute in bfloat16 where autocast does, else in float32.
    """

    def __init__(self, options: dict[str, Any], data: PreparedData, autocast: bool) -> None:
        import torch
        import transformers

        from gpt_oss_stories.interop.configs import write_huggingface_config

        self.config = ModelConfig.from_dict(options["model"])
        no_tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        settings = write_huggingface_config(self.config, "float32", no_tokens)
        choices = {"experts_implementation": options["experts"]} if options["experts"] else {}
        torch.manual_seed(options["seed"])
        self.model = transformers.AutoModelForCausalLM.from_config(
            transformers.GptOssConfig.from_dict(settings), attn_implementation="eager", dtype=torch.float32, **choices
        ).train()
        self.learning_rate: float = options["learning_rate"]
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.model.named_parameters()), lr=self.learning_rate, betas=PEER_BETAS, fused=True
        )
        self.rows = Rows(data.train, options["batch"], options["length"], options["seed"])
        self.autocast = autocast

    def step(self, factor: float) -> float:
        """Take a step at a share of the highest learning rate; the training loss before it."""
        import torch

        tokens, labels = self.rows.next()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            loss = self.model(input_ids=tokens, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), PEER_CLIP)
        self.optimizer.step()
        return float(loss.detach())

    def weights(self) -> dict[str, Tensor]:
        """Its weights under the names of ours."""
        from gpt_oss_stories.interop.layouts import huggingface_layout

        state = self.model.state_dict()
        layout = huggingface_layout(self.config, quantized=lambda name: False)
        return {
            entry.ours: entry.read(*(state[name] for name in entry.theirs))
            for entry in layout
            if entry.ours is not None
        }


def decay_groups(parameters: Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for norms, sinks and biases (those of experts have two dimensions)."""
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in parameters:
        (decayed if parameter.dim() >= 2 and not name.endswith("bias") else others).append(parameter)
    return [{"params": decayed, "weight_decay": PEER_WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def trial(options: dict[str, Any]) -> Workload:
    """Which number format the peer trains faster in; for `apart`."""
    data = open_data(options)
    peers = {dtype: Peer(options, data, dtype == "bfloat16") for dtype in options["dtypes"]}
    warm_up, steps = (WARM_UP_STEPS, TRIAL_STEPS) if options["warm"] else (0, 1)
    seconds: dict[str, list[float]] = {dtype: [] for dtype in peers}
    for _ in range(warm_up + steps):
        for dtype, peer in peers.items():
            began = time.perf_counter()
            peer.step(0.0)
            seconds[dtype].append(time.perf_counter() - began)
    return Workload(measure=dict, facts={dtype: min(values[warm_up:]) for dtype, values in seconds.items()})


def theirs(options: dict[str, Any]) -> Workload:
    """The peer, from its first step to the end of its time."""
    from gpt_oss_stories.training.schedule import Schedule

    data = open_data(options)
    config = ModelConfig.from_dict(options["model"])
    autocast = options["computes_in"] == "bfloat16"
    limit, points = options["seconds"], options["points"]
    schedule = Schedule(kind="cosine", max_iters=NO_END, max_seconds=limit, floor=PEER_FLOOR)
    facts: dict[str, Any] = {
        name: options[name] for name in ("learning_rate", "seed", "computes_in", "trial_step_seconds")
    }

    def warm_up() -> None:
        peer = Peer(options, data, autocast)
        for _ in range(WARM_UP_STEPS):
            peer.step(0.0)

    def measure() -> dict[str, float]:
        peer = Peer(options, data, autocast)
        facts["parameters"] = sum(parameter.numel() for parameter in peer.model.parameters())
        facts["experts_implementation"] = peer.model.config._experts_implementation
        curve: list[list[float]] = []
        seconds, steps, next_point, shown = 0.0, 0, 1, 0.0

        def scored() -> Evaluation:
            found = score(config, peer.weights(), data, options["held_out_tokens"])
            curve.append([round(seconds, 3), round(found.loss_nats, 6)])
            tell(f"{seconds:.0f} of {limit:.0f} s, step {steps:,}: held-out loss {found.loss_nats:.4f}")
            return found

        while seconds < limit:
            began = time.perf_counter()
            loss = peer.step(schedule.factor(steps, seconds))
            seconds += time.perf_counter() - began
            steps += 1
            if not math.isfinite(loss):
                raise BenchmarkError(f"step {steps:,}: its loss is {loss}; leave this learning rate out")
            if points and seconds >= next_point * limit / points:
                next_point = int(seconds * points / limit) + 1
                if seconds < limit:
                    scored()
            if seconds - shown >= PROGRESS_SECONDS:
                shown = seconds
                tell(f"{seconds:.0f} of {limit:.0f} s, step {steps:,}: training loss {loss:.4f}")
        evaluation = scored()
        facts["curve"] = curve
        return figures(seconds, steps, steps * options["batch"] * options["length"], evaluation)

    return Workload(measure, warm_up, facts)


# Ours


def our_training(size: str, compiled: bool) -> TrainingConfig:
    """How `stories train` trains a model of the size, without what it does beside training."""
    from gpt_oss_stories.cli import default_preset

    preset = default_preset("nano" if size == "mini" else size)
    return training_config(
        preset,
        max_iters=NO_END,
        eval_interval=NO_END,
        eval_iters=1,
        save_interval=NO_END,
        keep_states=1,
        compile_model=compiled,
        device="cpu",
        resume="never",
    )


class StepLines(io.StringIO):
    """What the trainer says; the asking process shows its lines about steps."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(STEP_LINE.match, lines):
            tell(line)
        return len(text)


def ours(options: dict[str, Any]) -> Workload:
    """The trainer for `seconds`, or, for a curve of `points` evaluations, for `steps` steps."""
    import torch
    from rich.console import Console

    from gpt_oss_stories.model.pointwise import compile_kernels
    from gpt_oss_stories.training.metrics import METRICS_FILE, read_metrics
    from gpt_oss_stories.training.precision import choose_precision
    from gpt_oss_stories.training.trainer import train

    data = open_data(options)
    config = ModelConfig.from_dict(options["model"])
    training = TrainingConfig.from_dict(options["training"])
    folder = Path(options["checkpoint_dir"])
    device = torch.device(training.device)
    precision = choose_precision(device, training.use_mixed_precision)
    facts: dict[str, Any] = {"seed": training.seed, "compute": precision.describe()}
    if training.compile_model:
        compile_kernels(device, precision.dtype)  # where that does not work, the trainer would go on without

    def run(name: str, shown: bool, **changes: Any) -> tuple[TrainingResult, dict[int, Evaluation]]:
        scores: dict[int, Evaluation] = {}

        def scored(model: Any, vocabulary: Any, step: int) -> None:
            weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
            scores[step] = score(config, weights, data, options["held_out_tokens"])
            if shown:
                tell(f"step {step:,}: held-out loss {scores[step].loss_nats:.4f}")

        result = train(
            config,
            training.replace(checkpoint_dir=str(folder / name), **changes),
            DataConfig.from_dict(options["data"]),
            console=Console(file=StepLines() if shown else io.StringIO(), width=200),
            on_evaluation=scored,
        )
        if not result.complete or result.steps not in scores:
            raise BenchmarkError(f"stopped after {result.steps:,} steps")
        return result, scores

    def warm_up() -> None:
        run("warm-up", shown=False, max_iters=WARM_UP_STEPS)

    def to_the_end() -> dict[str, float]:
        result, scores = run("run", shown=True, max_seconds=options["seconds"])
        return figures(result.training_seconds, result.steps, result.tokens_seen, scores[result.steps])

    def for_its_curve() -> dict[str, float]:
        interval = -(-options["steps"] // options["points"])
        result, scores = run("curve", shown=True, max_iters=options["steps"], eval_interval=interval)
        seconds = step_seconds(read_metrics(folder / "curve" / METRICS_FILE))
        facts["curve"] = [[round(seconds[step], 3), round(found.loss_nats, 6)] for step, found in scores.items()]
        return figures(seconds[result.steps], result.steps, result.tokens_seen, scores[result.steps])

    return Workload(for_its_curve if "points" in options else to_the_end, warm_up, facts)


def step_seconds(rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Seconds of all steps up to each recorded one: what a run took without evaluating and saving.

    Args:
        rows: records of a run from its first step on, as in `metrics.jsonl`.
    """
    seconds, before, known = 0.0, 0, {}
    for row in rows:
        seconds += (row["step"] - before) * (row["step_seconds"] or 0.0)
        before = row["step"]
        known[before] = seconds
    return known


# What asks them


class KeptRuns:
    """The peer's runs by learning rate and seed, in a file if there is one.

    Args:
        path: the file; None keeps nothing beyond this process.
        settings: what a run depends on besides its learning rate and seed.

    Raises:
        BenchmarkError: the file's runs were made with other settings, or it is another kind of file.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = path, dict(settings)
        self._runs: dict[tuple[float, int], Outcome] = {}
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            settings = dict(content["settings"])
            for run in content["runs"]:
                outcome = Outcome(**run["outcome"])
                if not outcome.figures["loss_nats"] or not outcome.facts["curve"]:
                    raise ValueError("a run without an end")
                self._runs[float(run["learning_rate"]), int(run["seed"])] = outcome
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchmarkError(
                f"--peer-result {path}: not a peer's result ({type(error).__name__}): move it away or name another file"
            ) from error
        wanted = json.loads(json.dumps(self._settings))
        if different := [
            f"{name} {settings.get(name)} instead of {wanted.get(name)}"
            for name in sorted(settings.keys() | wanted.keys())
            if settings.get(name) != wanted.get(name)
        ]:
            raise BenchmarkError(
                f"--peer-result {path} was made with {', '.join(different)}: "
                "give the same settings, or name another file"
            )

    def get(self, learning_rate: float, seed: int) -> Outcome | None:
        return self._runs.get((learning_rate, seed))

    def put(self, learning_rate: float, seed: int, outcome: Outcome) -> None:
        """Keep a run; the file is replaced as a whole."""
        from gpt_oss_stories.files import write_text_atomically

        self._runs[learning_rate, seed] = outcome
        if self._path is None:
            return
        runs = [
            {"learning_rate": rate, "seed": number, "outcome": dataclasses.asdict(run)}
            for (rate, number), run in self._runs.items()
        ]
        content = {"benchmark": "time-to-loss", "settings": self._settings, "runs": runs}
        write_text_atomically(self._path, json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class Race:
    """One repetition: the peer's runs, then ours."""

    peers: list[Outcome]
    """One for each learning rate."""
    ours: list[Outcome]
    """From the shortest time on; only the last one may have reached the target."""

    @property
    def peer(self) -> Outcome:
        """The peer's run with the lowest loss at its end."""
        return min(self.peers, key=loss)

    @property
    def reached(self) -> Outcome | None:
        """Our run that counts, None if none got there."""
        return next((run for run in self.ours if loss(run) <= loss(self.peer)), None)

    def ratio(self, seconds: float) -> float:
        """The peer's time over ours."""
        return 0.0 if self.reached is None else seconds / self.reached.figures["seconds"][0]

    def peer_was_there(self) -> float:
        """When the peer's loss was first seen at or below the target: before its end if it then forgot again."""
        return next(second for second, value in self.peer.facts["curve"] if value <= round(loss(self.peer), 6))

    def to_dict(self, seconds: float) -> dict[str, Any]:
        reached = self.reached
        return {
            "target_loss_nats": round(loss(self.peer), 6),
            "peer": self.peer.name,
            "peer_was_there_after_seconds": self.peer_was_there(),
            "ours": None if reached is None else reached.name,
            "reached_in_seconds": None if reached is None else round(reached.figures["seconds"][0], 3),
            "ratio": round(self.ratio(seconds), 4),
        }


def loss(run: Outcome) -> float:
    """A single run's held-out loss at its end."""
    (value,) = run.figures["loss_nats"]
    return value


@dataclass(kw_only=True)
class Runner:
    """Lets each side run, in a process of its own."""

    conditions: Conditions
    common: Mapping[str, Any]
    """Options of all contenders."""
    data: DataConfig
    training: TrainingConfig
    """Ours; its seed is that of the first repetition."""
    peer_options: Mapping[str, Any]
    """The peer's, but for its learning rate, seed and number format."""
    peer_dtypes: Sequence[str]
    kept: KeptRuns
    folder: Path
    """For what our trainer writes."""
    trial_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of a step of the peer in each number format, as soon as that was tried."""

    def peer(self, learning_rate: float, seed: int) -> Outcome:
        """A run of the peer, or the one that was kept."""
        if (run := self.kept.get(learning_rate, seed)) is not None:
            talk(f"{run.name}, seed {seed}: kept from an earlier run", self.conditions)
            return run
        options = {**self.common, **self.peer_options, "learning_rate": learning_rate, "seed": seed}
        if not self.trial_seconds:
            talk("trying which number format transformers trains faster in", self.conditions)
            asked = {**options, "dtypes": self.peer_dtypes, "warm": not self.conditions.skip_warm_up}
            found = apart(trial, asked, self.conditions)
            self.trial_seconds.update({dtype: round(found[dtype], 6) for dtype in self.peer_dtypes})
        options["computes_in"] = min(self.trial_seconds, key=self.trial_seconds.__getitem__)
        options["trial_step_seconds"] = self.trial_seconds
        run = self._run(Contender(f"transformers, AdamW {learning_rate:g}", theirs, options, ("transformers",)))
        self.kept.put(learning_rate, seed, run)
        return run

    def ours(self, seconds: float, seed: int) -> Outcome:
        """Our trainer for some seconds."""
        return self._run(Contender(f"ours, {seconds:.4g} s", ours, self._ours(seed) | {"seconds": seconds}))

    def our_curve(self, run: Outcome, points: int) -> list[list[float]]:
        """Seconds and losses of our trainer on its way to as many steps as a run has taken."""
        options = self._ours(run.facts["seed"]) | {"steps": int(run.figures["steps"][0]), "points": points}
        curve: list[list[float]] = self._run(Contender(f"{run.name}, for its curve", ours, options)).facts["curve"]
        return curve

    def _ours(self, seed: int) -> dict[str, Any]:
        return {
            **self.common,
            "data": self.data.to_dict(),
            "training": self.training.replace(seed=seed).to_dict(),
            "checkpoint_dir": tempfile.mkdtemp(dir=self.folder),
        }

    def _run(self, contender: Contender) -> Outcome:
        (outcome,) = compare([contender], dataclasses.replace(self.conditions, repetitions=1))
        return outcome

    def race(self, learning_rates: Sequence[float], seconds: Sequence[float], seed: int) -> Race:
        """All learning rates of the peer, and then ours, until one of it is at or below the peer's lowest loss.

        Args:
            seconds: how long ours is trained, from the shortest time on.
        """
        done = Race(peers=[self.peer(learning_rate, seed) for learning_rate in learning_rates], ours=[])
        for limit in seconds:
            done.ours.append(self.ours(limit, seed))
            if done.reached is not None:
                break
        return done


def merged(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The runs of all repetitions by name; further facts are those of the first repetition."""
    together: dict[str, Outcome] = {}
    for outcome in outcomes:
        if (before := together.get(outcome.name)) is None:
            together[outcome.name] = dataclasses.replace(
                outcome, figures={name: list(values) for name, values in outcome.figures.items()}
            )
            continue
        for name, values in outcome.figures.items():
            before.figures.setdefault(name, []).extend(values)
        before.peak_memory_bytes = max(
            filter(None, (before.peak_memory_bytes, outcome.peak_memory_bytes)), default=None
        )
    return list(together.values())


def comment(done: Race, seconds: float, conditions: Conditions) -> None:
    """Say what a repetition came to, and what is odd about it."""
    target = f"{loss(done.peer):.4f} nats, which {done.peer.name} reached in {seconds:.0f} s"
    if done.reached is None:
        talk(f"none of ours reached {target}: try longer ones with smaller --ratios", conditions)
    else:
        talk(f"{done.reached.name}: {loss(done.reached):.4f} nats, at or below {target}", conditions)
    if (there := done.peer_was_there()) < 0.99 * seconds:
        talk(f"the peer was there after {there:.0f} s already: give it less time (--seconds)", conditions)


def draw(path: str, done: Race, seconds: float) -> None:
    """Draw the held-out losses over the seconds of training into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from gpt_oss_stories.files import atomic_write
    from gpt_oss_stories.training.plots import GRID, HELD_OUT, INK, MUTED, TRAIN

    figure = Figure(figsize=(10, 5.6), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    target = loss(done.peer)
    axes.axhline(target, color=MUTED, linewidth=0.9, linestyle="--")
    for peer in done.peers:
        best = peer is done.peer
        label = f"{peer.name} ({loss(peer):.3f} after {seconds:.0f} s)"
        axes.plot(*zip(*peer.facts["curve"], strict=True), color=HELD_OUT, alpha=1.0 if best else 0.35, label=label,
                  linewidth=1.8 if best else 1.2, marker="o", markersize=4)  # fmt: skip
    for run in done.ours:
        counts = run is done.reached
        label = f"{run.name} ({loss(run):.3f})" + (f": {done.ratio(seconds):.1f} times sooner" if counts else "")
        alpha = 1.0 if counts else 0.5
        axes.plot(run.figures["seconds"], run.figures["loss_nats"], "s", color=TRAIN, alpha=alpha, label=label)
        if curve := run.facts.get("curve"):
            axes.plot(*zip(*curve, strict=True), color=TRAIN, alpha=alpha, linewidth=1.8, marker="o", markersize=4)
    axes.set_title("Loss on held-out stories", loc="left", fontsize=13, color=INK, weight="bold")
    axes.set_ylabel("nats per token", fontsize=9, color=MUTED)
    axes.set_xlabel("seconds of training", fontsize=9, color=MUTED)
    axes.set_xlim(left=0)
    axes.tick_params(labelsize=8.5, colors=MUTED)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def positive_numbers(context: click.Context, parameter: click.Parameter, value: str) -> list[float]:
    """A list of different numbers above 0, in the order given."""
    try:
        numbers = list(dict.fromkeys(float(word) for word in value.split(",")))
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise click.BadParameter(f"{value!r} is not a list of numbers above 0, such as {parameter.default}")
    return numbers


def writable(context: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    """A file to write later, which would be a pity to find out about after ten minutes."""
    if value is None:
        return None
    path = folder = Path(value).absolute()
    while not folder.exists() or folder == path:
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.BadParameter(f"{value}: no file can be written there") from error
    return path


def stories_options(command: _Command) -> _Command:
    """Give a question about training the options that say what is trained on which stories."""
    for option in reversed(
        (
            click.option(
                "--dataset-path",
                type=click.Path(exists=True),
                help="Stories as in `stories train`.  [default: the built-in ones]",
            ),
            click.option(
                "--data-dir", default=DataConfig().data_dir, show_default=True, help="Where token shards are kept."
            ),
            click.option(
                "--validation-fraction",
                default=DataConfig().validation_fraction,
                show_default=True,
                help="Share of the stories that is held out.",
            ),
            click.option(
                "--held-out-tokens",
                default=65_536,
                show_default=True,
                type=click.IntRange(0),
                help="About how many of their tokens are scored; 0: all.",
            ),
            click.option("--size", type=click.Choice(list(SIZES)), default="nano", show_default=True),
        )
    ):
        command = option(command)
    return command


@click.command(help=(__doc__ or "").partition("\n")[0], context_settings={"default_map": {"repetitions": 1}})
@stories_options
@click.option(
    "--seconds",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How long the peer is trained.",
)
@click.option(
    "--ratios",
    default="12,9,6",
    show_default=True,
    callback=positive_numbers,
    help="Ours is trained for the peer's seconds over each of these, until the target is reached.",
)
@click.option("--compile", "compiled", is_flag=True, help="Ours with --compile-model.")
@click.option(
    "--peer-learning-rates",
    default="1e-3",
    show_default=True,
    callback=positive_numbers,
    help="Each is tried with all of the peer's seconds; the best counts.",
)
@click.option("--peer-batch", type=click.IntRange(1), help="Rows in a batch of the peer.  [default: as many as ours]")
@click.option(
    "--length", type=click.IntRange(8), help="Tokens in a row of the peer.  [default: 512, or the context if shorter]"
)
@click.option(
    "--experts",
    metavar="NAME",
    help="How transformers computes experts (eager, grouped_mm, batched_mm).  [default: its own choice]",
)
@peer_dtypes_option
@click.option("--peer-result", callback=writable, metavar="FILE", help="Keeps the peer's runs, and gives them again.")
@click.option(
    "--points",
    default=10,
    show_default=True,
    type=click.IntRange(0),
    help="Evaluations of a curve; ours is run once more for them. 0: only the ends.",
)
@click.option("--plot", callback=writable, metavar="FILE", help="Draw the curves of the first repetition (PNG).")
@conditions_options
def main(
    dataset_path: str | None,
    data_dir: str,
    validation_fraction: float,
    held_out_tokens: int,
    size: str,
    seconds: float,
    ratios: list[float],
    compiled: bool,
    peer_learning_rates: list[float],
    peer_batch: int | None,
    length: int | None,
    experts: str | None,
    peer_dtypes: tuple[str, ...],
    peer_result: Path | None,
    points: int,
    plot: Path | None,
) -> None:
    conditions: Conditions = given_conditions()
    config = ModelConfig.from_dict(dict(SIZES[size]))
    length = min(512, config.block_size) if length is None else length
    if length > config.block_size:
        raise BenchmarkError(f"--length {length}: the context of {size} is {config.block_size} tokens")
    data = data_config(
        size,
        dataset_path=dataset_path,
        data_dir=data_dir,
        validation_fraction=validation_fraction,
        vocabulary="story",
    )
    training = our_training(size, compiled)
    batch = training.batch_size if peer_batch is None else peer_batch
    prepared = apart(preparation, {"data": data.to_dict()}, conditions)
    config = config.replace(vocab_size=prepared["vocab_size"])
    machine = machine_facts(conditions)
    peer_settings = {
        "stories": prepared["fingerprint"],
        **{f"model {name}": value for name, value in config.to_dict().items()},
        "seconds": seconds,
        "batch": batch,
        "length": length,
        "number formats": sorted(set(peer_dtypes)),
        "experts": experts,
        "held-out tokens": held_out_tokens,
        "warm-up": not conditions.skip_warm_up,
        **{name: machine[name] for name in ("cpu", "cores", "threads", "allocator")},
        **{name: machine["versions"].get(name) for name in ("torch", "transformers")},
    }
    kept = KeptRuns(peer_result, peer_settings)
    races: list[Race] = []
    with tempfile.TemporaryDirectory(prefix="time-to-loss-", ignore_cleanup_errors=True) as folder:
        runner = Runner(
            conditions=conditions,
            common={"folder": prepared["folder"], "model": config.to_dict(), "held_out_tokens": held_out_tokens},
            data=data,
            training=training,
            peer_options={"batch": batch, "length": length, "experts": experts, "seconds": seconds, "points": points},
            peer_dtypes=list(dict.fromkeys(peer_dtypes)),
            kept=kept,
            folder=Path(folder),
        )
        limits = [seconds / ratio for ratio in sorted(ratios, reverse=True)]
        for repetition in range(conditions.repetitions):
            done = runner.race(peer_learning_rates, limits, training.seed + repetition)
            races.append(done)
            if repetition == 0 and points:
                shown = done.reached or done.ours[-1]
                shown.facts["curve"] = runner.our_curve(shown, points)
            comment(done, seconds, conditions)
    values = [done.ratio(seconds) for done in races]
    reached = [done.reached.figures["seconds"][0] for done in races if done.reached is not None]
    report(
        "time-to-loss",
        merged(run for done in races for run in (*done.ours, *done.peers)),
        conditions,
        ratio=statistics.median(values),
        ratio_spread=[round(min(values), 4), round(max(values), 4)],
        target_loss_nats=statistics.median(loss(done.peer) for done in races),
        reached_in_seconds=statistics.median(reached) if len(reached) == len(races) else None,
        by_repetition=[done.to_dict(seconds) for done in races],
        settings={
            "size": size,
            "vocabulary": config.vocab_size,
            "parameters": config.parameters().total,
            "stories": "built-in" if dataset_path is None else Path(dataset_path).name,
            "training_tokens": prepared["train_tokens"],
            "held_out_stories": prepared["held_out_stories"],
            "held_out_tokens": held_out_tokens or "all",
            "seconds": seconds,
            "peer_batch": batch,
            "peer_length": length,
            "our_batch": training.batch_size,
            "our_length": training.train_length or config.block_size,
            "our_optimizer": training.optimizer,
            "our_schedule": training.learning_rate_schedule,
            "compile": compiled,
        },
    )
    if plot is not None:
        draw(str(plot), races[0], seconds)


if __name__ == "__main__":
    start(main)
