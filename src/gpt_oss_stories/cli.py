"""The command `stories`: train, generate, prepare, export, import, publish, inspect, runs, bench and verify.

Each command reads its flags, builds the configurations and calls one function of a package below. Heavy imports stay
inside the commands, so that `--help` and a refused flag take no longer than they must. Results go to standard output,
talk about them to standard error. Whatever a user can mend is one line, `error: ...`, and exit code 2.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from . import __version__
from .config import (
    DEFAULT_VOCABULARY,
    MODEL_SIZES,
    TRAINING_PRESETS,
    Config,
    ConfigError,
    DataConfig,
    GenerationConfig,
    ModelConfig,
    TrainingConfig,
    check_run,
    data_config,
    model_config,
    training_config,
    without_effect,
)
from .device import DEVICE_NAMES
from .environment import keep_freed_memory, let_waiting_threads_sleep, use_huge_pages
from .errors import StoryError
from .options import GroupedCommand, config_options, given_values, option

if TYPE_CHECKING:
    from .model.transformer import StoryTransformer
    from .model.transplant import WeightSource
    from .tokenization import Vocabulary

PROGRAM = "stories"
USER_ERROR = 2
INTERRUPTED = 130
READER_GONE = 141
"""Exit codes: what the user gave cannot be used; Ctrl-C and a closed pipe (128 + the signal's number)."""

DEFAULT_SIZE = "nano"
DEFAULT_MODEL_PATH = "checkpoints/best_model.pt"
SAMPLE_TOKENS = 120
"""Length of the story that is shown after each evaluation."""

DATA_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    size: {"vocabulary": DEFAULT_VOCABULARY.get(size, "harmony")} for size in MODEL_SIZES
}

_size_option = option(
    "--model-size",
    choices=MODEL_SIZES,
    default=DEFAULT_SIZE,
    help=f"How large the model is; any flag of the model below may change a part of it.  [default: {DEFAULT_SIZE}]",
)


def default_preset(size: str) -> str:
    """The training preset of a model size when none is asked for."""
    return "story" if size == "nano" else "fast"


class StoriesGroup(click.Group):
    """The commands, with an exit code of its own for a reader that has left (`stories inspect | head -1`)."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command; its result is what `main` gets."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python flushes once more when it shuts down: nothing may be left that it could fail to write.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return READER_GONE
        return result


@click.group(cls=StoriesGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def stories() -> None:
    """Language models of the GPT-OSS architecture that tell children's stories."""


@stories.command(cls=GroupedCommand)
@_size_option
@option(
    "--training-preset",
    choices=TRAINING_PRESETS,
    default=None,
    help="How the model is trained; any flag of the training below may change a part of it."
    "  [default: story for nano, fast for the other sizes]",
)
@option("--dry-run", is_flag=True, help="Show what would be trained, and stop.")
@option(
    "--check",
    is_flag=True,
    group="Before a run",
    help="See in seconds whether it can run: settings, data, memory, disk, device, and what it would resume.",
)
@option(
    "--estimate",
    is_flag=True,
    group="Before a run",
    help="Show memory, operations, traffic and disk that it would take, and stop; any size, also for GPUs elsewhere.",
)
@option(
    "--devices",
    type=click.IntRange(min=1),
    group="Before a run",
    help="For --estimate: processes that train together, each on a device.  [default: 1, or those of torchrun]",
)
@option("--device-memory", metavar="SIZE", group="Before a run", help="For --estimate: of each device, such as 24GiB.")
@option("--gpu", metavar="NAME", group="Before a run", help="For --estimate: GPUs, such as H100 or 'RTX 4090'.")
@option("--json", "as_json", is_flag=True, group="Before a run", help="For --estimate and --check: one JSON object.")
@config_options(ModelConfig, "Model", presets=MODEL_SIZES)
@config_options(TrainingConfig, "Training", presets=TRAINING_PRESETS)
@config_options(DataConfig, "Data", presets=DATA_DEFAULTS)
def train(
    model_size: str,
    training_preset: str | None,
    dry_run: bool,
    check: bool,
    estimate: bool,
    devices: int | None,
    device_memory: str | None,
    gpu: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Train a model on stories.

    The model's size and the training preset set most values; a flag that you give replaces that value only.
    Everything is written to --checkpoint-dir: best_model.pt, training state, metrics and pictures of the curves.
    """
    size_given = click.get_current_context().get_parameter_source("model_size") != ParameterSource.DEFAULT
    preset = training_preset or default_preset(model_size)
    initial = None
    if (path := values.get("TrainingConfig__init_from")) is not None:
        if size_given:
            raise ConfigError(f"--model-size {model_size} and --init-from {path}: the size is that of the given model")
        from .interop.checkpoints import open_checkpoint

        initial = open_checkpoint(path)
        if initial.vocabulary is not None and values["DataConfig__vocabulary"] is None:
            values["DataConfig__vocabulary"] = initial.vocabulary.kind
    model, training, data = resolve_training(model_size, preset, values, None if initial is None else initial.config)
    given = {name for kind in (ModelConfig, TrainingConfig, DataConfig) for name in given_values(kind, values)}
    for sentence in without_effect(model, training, data, given):
        click.echo(f"note: {sentence}", err=True)
    _refuse_flags_without_use(
        {"--devices": devices, "--device-memory": device_memory, "--gpu": gpu}, estimate, "--estimate"
    )
    _refuse_flags_without_use({"--json": as_json or None}, estimate or check, "--estimate and --check")
    if dry_run:
        click.echo(describe_training(model_size if initial is None else str(path), preset, model, training, data))
        return 0
    if estimate:
        _show_estimate(model, training, data, devices, device_memory, gpu, as_json)
        return 0
    if check:
        return _show_check(model, training, data, initial, as_json)
    from .training.trainer import train as run

    return run(model, training, data, on_evaluation=_sample_story, initial=initial).exit_code


def _refuse_flags_without_use(flags: Mapping[str, Any], useful: bool, place: str) -> None:
    if not useful and (given := [flag for flag, value in flags.items() if value is not None]):
        raise ConfigError(f"{', '.join(given)}: only for {place}")


def _show_estimate(
    model: ModelConfig,
    training: TrainingConfig,
    data: DataConfig,
    devices: int | None,
    device_memory: str | None,
    gpu: str | None,
    as_json: bool,
) -> None:
    from rich.console import Console

    from .training.distributed import launched_processes
    from .training.estimate import estimate_run, parse_bytes

    rank, _, processes = launched_processes()
    if rank:
        return
    result = estimate_run(
        model,
        training,
        data,
        devices=devices or processes,
        device_memory=None if device_memory is None else parse_bytes(device_memory),
        gpu=gpu,
    )
    if as_json:
        click.echo(result.to_json())
    else:
        click.echo("\n".join([*result.lines(), ""]))
        Console().print(result.table())


def _show_check(
    model: ModelConfig, training: TrainingConfig, data: DataConfig, initial: WeightSource | None, as_json: bool
) -> int:
    from rich.console import Console

    from .training.preflight import preflight

    found = preflight(model, training, data, initial=initial)
    if not found.is_main:
        for check in found.checks:
            if check.verdict == "problem":
                click.echo(f"process {os.environ.get('RANK')}: {check.name}: {check.words}", err=True)
    elif as_json:
        click.echo(found.to_json())
    else:
        Console().print(found.table())
    return found.exit_code


def _sample_story(model: StoryTransformer, vocabulary: Vocabulary, step: int) -> str:
    """What the model tells while it is being trained: the same beginning and the same seed each time."""
    from .generation.engine import DEFAULT_PROMPT, Storyteller
    from .generation.output import harmless

    settings = GenerationConfig(max_tokens=SAMPLE_TOKENS, seed=0)
    (story,) = Storyteller(model, vocabulary).tell(DEFAULT_PROMPT, settings)
    return harmless(story.text)


@stories.command(cls=GroupedCommand)
@option(
    "--model-path",
    default=DEFAULT_MODEL_PATH,
    metavar="PATH",
    help=f"A trained model: a .pt file of `stories train`, a transformers or OpenAI directory, or a .gguf file."
    f"  [default: {DEFAULT_MODEL_PATH}]",
)
@option("--prompt", default=None, help="How the stories begin.  [default: Once upon a time]")
@option("--interactive", is_flag=True, help="Ask for one beginning after the other and stream each story.")
@option("--device", default="auto", help=f"{DEVICE_NAMES}.  [default: auto]")
@option(
    "--weights",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    help="int8 rounds matrices to bytes, a quarter to read for each token on a CPU.  [default: float32]",
)
@option("--json", "as_json", is_flag=True, help="Print one JSON object for each story.")
@config_options(GenerationConfig, "Generation")
def generate(
    model_path: str, prompt: str | None, interactive: bool, device: str, weights: str, as_json: bool, **values: Any
) -> int:
    """Tell stories with a trained model.

    Stories go to standard output, remarks to standard error.
    """
    generation = GenerationConfig.from_dict(given_values(GenerationConfig, values))
    from .generation.command import run_generate
    from .interop.loading import open_storyteller

    return run_generate(
        open_storyteller=open_storyteller,
        model_path=model_path,
        config=generation,
        prompt=prompt,
        interactive=interactive,
        as_json=as_json,
        device=device,
        in_bytes=weights == "int8",
    )


@stories.command(cls=GroupedCommand)
@_size_option
@config_options(DataConfig, "Data", presets=DATA_DEFAULTS)
def prepare(model_size: str, **values: Any) -> None:
    """Turn stories into token shards, as training does before it starts.

    The model's size only decides which vocabulary is the default.
    """
    data = data_config(model_size, **given_values(DataConfig, values))
    from rich.console import Console

    from .data.pipeline import PreparationSubmittedError
    from .data.pipeline import prepare as run
    from .data.report import PAGE_NAME, console_table, write_report
    from .training.display import PreparationDisplay

    console = Console(stderr=True)
    with PreparationDisplay(console) as progress:
        try:
            prepared = run(data, progress)
        except PreparationSubmittedError as submitted:
            click.echo(submitted, err=True)
            return
    facts = prepared.facts()
    console.print(console_table(facts))
    page = prepared.directory / PAGE_NAME
    if not page.exists():
        write_report(prepared.directory, facts)
    click.echo(f"{prepared.summary.splitlines()[-1]}\nreport: {page}", err=True)
    click.echo(prepared.directory)


_model_path_option = option(
    "--model-path",
    default=DEFAULT_MODEL_PATH,
    metavar="PATH",
    help=f"The model, in any format that `stories inspect` shows.  [default: {DEFAULT_MODEL_PATH}]",
)


@stories.command(cls=GroupedCommand)
@_model_path_option
@option(
    "--format",
    "layout",
    choices=("huggingface", "openai", "gguf"),
    default="huggingface",
    help="huggingface: for transformers; openai: gpt-oss's own layout; gguf: for llama.cpp and Ollama."
    "  [default: huggingface]",
)
@option("--out", required=True, metavar="DIR", help="The new directory.")
@option(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="Precision of the weights (huggingface and openai).  [default: float32]",
)
@option(
    "--gguf-type",
    default="F16",
    metavar="TYPE",
    help="Precision of the matrices in a GGUF file: F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1, Q4_0, ...  [default: F16]",
)
@option("--mxfp4", is_flag=True, help="Keep the experts' matrices in four bits, as gpt-oss does (openai).")
@option(
    "--expand-vocabulary",
    is_flag=True,
    help="Put a story vocabulary's rows back into the table of 201,088 tokens, for the stock harmony tokenizer.",
)
@option("--name", default="", help="Name of the model, for its card and files.  [default: that of the directory]")
@option(
    "--max-shard-gib",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    help="Largest weight file; larger models are split.  [default: 5]",
)
@option("--overwrite", is_flag=True, help="Replace the directory if an earlier export made it.")
def export(
    model_path: str,
    layout: str,
    out: str,
    dtype: str,
    gguf_type: str,
    mxfp4: bool,
    expand_vocabulary: bool,
    name: str,
    max_shard_gib: float,
    overwrite: bool,
) -> None:
    """Write a model in the format of other tools.

    What the format cannot hold is left out, with a line that says so. The directory's files are printed.
    """
    if mxfp4 and layout != "openai":
        raise ConfigError(f"--mxfp4 is for --format openai; --format {layout} has --gguf-type or --dtype")
    from .interop import export as formats
    from .interop.checkpoints import open_checkpoint

    source = open_checkpoint(model_path)
    notes: tuple[str, ...] = ()
    never_told: tuple[int, ...] = ()
    if expand_vocabulary:
        larger = formats.expanded(source)
        source, notes, never_told = larger.source, larger.notes, larger.unknown_tokens
    shard_bytes = int(max_shard_gib * 2**30)
    if layout == "huggingface":
        done = formats.export_huggingface(
            source,
            out,
            dtype=dtype,
            max_shard_bytes=shard_bytes,
            name=name,
            never_told=never_told,
            overwrite=overwrite,
        )
    elif layout == "openai":
        done = formats.export_openai(
            source, out, dtype=dtype, mxfp4=mxfp4, max_shard_bytes=shard_bytes, overwrite=overwrite
        )
    else:
        done = formats.export_gguf(source, out, tensor_type=gguf_type, name=name, overwrite=overwrite)
    for note in [*notes, *done.notes]:
        click.echo(f"note: {note}", err=True)
    for path in done.files:
        click.echo(f"{path}  {path.stat().st_size:,} bytes")


@stories.command(name="import", cls=GroupedCommand)
@click.argument("path")
@option("--out", required=True, metavar="FILE", help="The new model file, such as checkpoints/imported.pt.")
@option(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="Precision of the weights in the file.  [default: float32]",
)
@option(
    "--vocabulary-of",
    metavar="PATH",
    help="Move the model to the vocabulary of this model or folder of prepared stories.",
)
@option("--overwrite", is_flag=True, help="Replace the file if there is one.")
def import_model(path: str, out: str, dtype: str, vocabulary_of: str | None, overwrite: bool) -> None:
    """Make a model file of ours from PATH: a transformers or OpenAI directory, or a .gguf file.

    `stories train --init-from` starts from PATH directly; this is for keeping, moving and telling stories.
    """
    from .interop.checkpoints import open_checkpoint
    from .interop.importing import import_checkpoint

    vocabulary = None if vocabulary_of is None else _vocabulary_of(vocabulary_of)
    source = open_checkpoint(path)
    for note in import_checkpoint(source, out, dtype=dtype, vocabulary=vocabulary, overwrite=overwrite):
        click.echo(f"note: {note}", err=True)
    click.echo(f"{out}  {os.path.getsize(out):,} bytes")


def _vocabulary_of(path: str) -> Vocabulary:
    from .interop.checkpoints import open_checkpoint

    if _is_prepared(path):
        from .data.pipeline import load_prepared

        return load_prepared(path, reused=True).vocabulary
    vocabulary = open_checkpoint(path).vocabulary
    if vocabulary is None:
        raise ConfigError(f"--vocabulary-of {path}: its vocabulary is not known")
    return vocabulary


def _is_prepared(path: str) -> bool:
    """A folder of prepared stories, as opposed to a model: it may be a broken one of either kind."""
    return os.path.isdir(path) and not any(name == "config.json" or name.endswith(".gguf") for name in os.listdir(path))


@stories.command(cls=GroupedCommand)
@click.argument("path", default=DEFAULT_MODEL_PATH)
@option("--tensors", is_flag=True, help="List every tensor of a model.")
@option("--verify", "check", is_flag=True, help="Read all of an exported model and hold it to its checksums.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(path: str, tensors: bool, check: bool, as_json: bool) -> None:
    """Show what PATH holds: a model of any format, or a folder of prepared stories.

    A model may be a .pt file, a transformers or OpenAI directory, or a .gguf file: its settings, size, vocabulary,
    origin, checksums and tensors. PATH is checkpoints/best_model.pt when not given.
    """
    if _is_prepared(path):
        facts = _prepared_facts(path)
    else:
        from .interop.checkpoints import open_checkpoint
        from .interop.inspection import checkpoint_facts

        facts = checkpoint_facts(open_checkpoint(path), tensors=tensors, verify=check)
    if as_json:
        click.echo(json.dumps(facts, default=str))
        return
    from .generation.output import harmless

    click.echo(path)
    for heading, values in facts.items():
        # Files of others may say anything about themselves, also things that steer a terminal.
        click.echo(harmless("\n" + "\n".join(_section(heading, values))))


def _prepared_facts(path: str) -> dict[str, dict[str, Any]]:
    """What a folder of prepared stories holds, by heading."""
    from .data.pipeline import load_prepared
    from .interop.inspection import vocabulary_facts

    prepared = load_prepared(path, reused=True)
    splits = {"train": prepared.train, "validation": prepared.validation}
    return {
        "stories": {name: len(shard) for name, shard in splits.items()},
        "vocabulary": vocabulary_facts(prepared.vocabulary),
        "provenance": {"fingerprint": prepared.fingerprint},
        "summary": {str(number): line for number, line in enumerate(prepared.summary.splitlines(), 1)},
    }


@stories.command(cls=GroupedCommand)
@_model_path_option
@option("--out", required=True, metavar="DIR", help="The folder to make, or with --prepared the one to upload.")
@option("--name", default="", help="The model's name.  [default: --upload's, or that of the folder]")
@option(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="bfloat16",
    help="Precision of the weights.  [default: bfloat16]",
)
@option("--expand-vocabulary", is_flag=True, help="Give a model with a story vocabulary all 201,088 tokens.")
@option("--gguf-type", metavar="TYPE", help="Add a GGUF file of this type, such as F16 or Q8_0.")
@option("--with-original", is_flag=True, help="Add the model as a .pt file of this program.")
@option("--no-sample", is_flag=True, help="No story by the model in its card.")
@option("--license", default="apache-2.0", help="Identifier of the weights' licence.  [default: apache-2.0]")
@option("--language", help="Code of the stories' language.  [default: en for the built-in stories]")
@option("--device", default="auto", help=f"Where the sample story is told: {DEVICE_NAMES}.  [default: auto]")
@option(
    "--max-shard-gib",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    help="Largest weight file; larger models are split.  [default: 5]",
)
@option("--upload", metavar="OWNER/NAME", group="Upload", help="Send the folder to this repository on the Hub.")
@option("--prepared", is_flag=True, group="Upload", help="Upload DIR as it was prepared before.")
@option("--private", is_flag=True, group="Upload", help="The repository must be private; a new one is made so.")
@option("--revision", metavar="BRANCH", group="Upload", help="Branch to upload to.  [default: main]")
@option("--message", group="Upload", help="What the commit is called.")
@option("--edited-card", is_flag=True, group="Upload", help="README.md was changed by hand since it was prepared.")
@option("--overwrite", is_flag=True, group="Upload", help="Replace a model that this program did not publish.")
def publish(
    model_path: str,
    out: str,
    name: str,
    dtype: str,
    expand_vocabulary: bool,
    gguf_type: str | None,
    with_original: bool,
    no_sample: bool,
    license: str,
    language: str | None,
    device: str,
    max_shard_gib: float,
    upload: str | None,
    prepared: bool,
    private: bool,
    revision: str | None,
    message: str | None,
    edited_card: bool,
    overwrite: bool,
) -> None:
    """Prepare a folder for the Hugging Face Hub, and upload it when asked.

    The folder holds the model for transformers, its tokenizer, a card with its data, figures and limits, and a licence.
    Look at it before you publish it. With --upload it is sent; the access token is that of `hf auth login` or of the
    variable HF_TOKEN.
    """
    from .interop.publish import prepare_publication, upload_publication

    if prepared and upload is None:
        raise ConfigError("--prepared is for --upload OWNER/NAME: without it there is nothing to do")
    if not prepared:
        publication = prepare_publication(
            model_path,
            out,
            name=name or upload or os.path.basename(os.path.abspath(out)),
            dtype=dtype,
            max_shard_bytes=int(max_shard_gib * 2**30),
            expand_vocabulary=expand_vocabulary,
            gguf=gguf_type,
            with_original=with_original,
            with_sample=not no_sample,
            license=license,
            language=language,
            device=device,
        )
        for note in publication.notes:
            click.echo(f"note: {note}", err=True)
        click.echo("\n".join(publication.describe()))
    if upload is not None:
        page = upload_publication(
            out,
            upload,
            private=private,
            revision=revision,
            message=message,
            edited_card=edited_card,
            overwrite=overwrite,
            say=lambda line: click.echo(line, err=True),
        )
        click.echo(page)


@stories.command(cls=GroupedCommand)
@click.argument("folders", nargs=-1, metavar="[FOLDER]...")
@option(
    "--sort",
    choices=("name", "started", "size", "steps", "tokens", "loss", "bits", "speed", "duration"),
    default="started",
    help="What comes first: the lowest loss or bits per byte, or the largest of the others.  [default: started]",
)
@option("--compare", nargs=2, metavar="A B", help="Two runs' folders: settings that differ, and how both went.")
@option("--plot", metavar="PATH", help="Draw the runs' losses into this PNG file.")
@option("--by", choices=("step", "time", "tokens"), default="step", help="What they are drawn over.  [default: step]")
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def runs(
    folders: tuple[str, ...], sort: str, compare: tuple[str, str] | None, plot: str | None, by: str, as_json: bool
) -> None:
    """List training runs: those in the given folders and below, or below this one.

    A run is a folder with a metrics.jsonl. "best loss", "bits/byte" and "right" (share of tokens that greedy decoding
    would get right) are of held-out stories.
    """
    if compare and folders:
        raise ConfigError(f"--compare {' '.join(compare)} names its two runs itself; leave out {' '.join(folders)}")
    import dataclasses

    from rich.console import Console

    from .training.runs import RunsError, differences, find_runs, sort_runs, summarise
    from .training.runs_view import comparison_table, plot_runs, runs_table

    if compare:
        for folder in compare:
            if not Path(folder, "metrics.jsonl").is_file():
                raise RunsError(f"--compare: {folder} is not a run; it has no metrics.jsonl")
        found = [summarise(Path(folder)) for folder in compare]
    else:
        found = sort_runs([summarise(path) for path in find_runs(folders or (".",))], sort)
    for run in found:
        if run.problem is not None:
            click.echo(f"note: {run.problem}", err=True)
    if as_json:
        facts: dict[str, Any] = {"runs": [dataclasses.asdict(run) for run in found]}
        if compare:
            facts["differences"] = {name: [a, b] for name, a, b in differences(*found)}
        click.echo(json.dumps(facts))
    else:
        console = Console()
        if not console.is_terminal:  # nobody's window limits the lines
            console = Console(width=1000)
        console.print(comparison_table(*found) if compare else runs_table(found), crop=False)
    if plot is not None:
        path, left_out = plot_runs(found, plot, by=by)
        for line in left_out:
            click.echo(f"note: not drawn: {line}", err=True)
        click.echo(f"picture: {path}", err=True)


@stories.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="QUESTION [OPTIONS]...")
def bench(words: tuple[str, ...]) -> int:
    """Measure this program against others; without a question, list the questions."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    if not (folder / "house.py").is_file():
        raise ConfigError(
            "the benchmarks are part of the repository, not of the installed package: clone it, run "
            "pip install -e '.[benchmarks]' there, and ask again"
        )
    return subprocess.run([sys.executable, str(folder), *words], check=False).returncode


@stories.command(cls=GroupedCommand)
def verify() -> None:
    """Check the installation with a miniature model: forward, backward, training steps and a story."""
    from .verify import verify_installation

    verify_installation(click.echo)


def resolve_training(
    size: str, preset: str, values: Mapping[str, Any], initial: ModelConfig | None = None
) -> tuple[ModelConfig, TrainingConfig, DataConfig]:
    """The configurations of a training run: the size, the preset, and over both the flags that were given.

    Args:
        initial: the architecture of the model that training starts from, in place of that of the size.

    Raises:
        ConfigError: with the problems of all three configurations, or of their combination.
    """

    def initial_model(name: str, **overrides: Any) -> ModelConfig:
        return model_config(name, **overrides) if initial is None else initial.replace(**overrides)

    results: list[Config] = []
    problems: list[str] = []
    for build, name, config_class in (
        (initial_model, size, ModelConfig),
        (training_config, preset, TrainingConfig),
        (data_config, size, DataConfig),
    ):
        try:
            results.append(build(name, **given_values(config_class, values)))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    model, training, data = results
    assert isinstance(model, ModelConfig)
    assert isinstance(training, TrainingConfig)
    assert isinstance(data, DataConfig)
    check_run(model, training)
    return model, training, data


def describe_training(size: str, preset: str, model: ModelConfig, training: TrainingConfig, data: DataConfig) -> str:
    """What `--dry-run` shows: the parameters, and every setting as it would be used."""
    lines = [f"model size {size}, training preset {preset}", ""]
    report = model.parameters()
    if data.vocabulary == "harmony":
        counts = {
            "total": report.total,
            "active per token": report.active,
            "embedding": report.embedding,
            "non-embedding": report.non_embedding,
        }
        lines += _section("parameters", counts)
    else:
        # The story vocabulary's size V is only known from the stories: what depends on it stays a formula.
        row, rows = model.n_embd, report.embedding // model.vocab_size
        lines += _section(
            "parameters, V being the size of the story vocabulary, known when the data is prepared",
            {
                "total": f"{report.non_embedding:,} + {rows} V",
                "active per token": f"{report.active_non_embedding:,} + {row} V",
                "embedding": f"{rows} V",
                "non-embedding": f"{report.non_embedding:,}",
            },
        )
    for heading, config in (("model", model), ("training", training), ("data", data)):
        hidden = {field for field in ("vocab_size",) if data.vocabulary != "harmony"}
        settings = {name: value for name, value in config.to_dict().items() if name not in hidden}
        lines += ["", *_section(heading, settings)]
    return "\n".join(lines)


def _section(heading: str, values: Mapping[str, Any]) -> list[str]:
    width = max(map(len, values), default=0)
    return [heading, *(f"  {name:<{width}}  {_shown(value)}" for name, value in values.items())]


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: words after the program's name; those of this process when not given.
    """
    let_waiting_threads_sleep()
    keep_freed_memory()
    use_huge_pages()
    try:
        code = stories.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.Abort:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except click.ClickException as error:
        return _refuse(error.format_message())
    except StoryError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(_refused_by_the_system(error))
    return code if isinstance(code, int) else 0  # the commands return nothing or an exit code


def _refused_by_the_system(error: OSError) -> str:
    """What a full disk, or a folder that is closed to the user, did where nothing nearer has words for it."""
    if error.filename is None and error.errno == errno.ENOSPC:
        # Python flushes once more when it shuts down: nothing may be left that it could fail to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return f"{error.filename or 'the output cannot be written'}: {error.strerror or error}"


def _refuse(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return USER_ERROR
