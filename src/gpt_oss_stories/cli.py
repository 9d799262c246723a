"""The command `stories`: train, generate, prepare, inspect and verify.

Each command reads its flags, builds the configurations and calls one function of a package below. Heavy imports stay
inside the commands, so that `--help` and a refused flag take no longer than they must. Results go to standard output,
talk about them to standard error. Whatever a user can mend is one line, `error: ...`, and exit code 2.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

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
    data_config,
    model_config,
    training_config,
)
from .environment import let_waiting_threads_sleep
from .errors import StoryError
from .options import GroupedCommand, config_options, given_values, option

if TYPE_CHECKING:
    from .model.transformer import StoryTransformer
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
@config_options(ModelConfig, "Model", presets=MODEL_SIZES)
@config_options(TrainingConfig, "Training", presets=TRAINING_PRESETS)
@config_options(DataConfig, "Data", presets=DATA_DEFAULTS)
def train(model_size: str, training_preset: str | None, dry_run: bool, **values: Any) -> int:
    """Train a model on stories.

    The model's size and the training preset set most values; a flag that you give replaces that value only.
    Everything is written to --checkpoint-dir: best_model.pt, training state, metrics and pictures of the curves.
    """
    preset = training_preset or default_preset(model_size)
    model, training, data = resolve_training(model_size, preset, values)
    if dry_run:
        click.echo(describe_training(model_size, preset, model, training, data))
        return 0
    from .training.trainer import train as run

    return run(model, training, data, on_evaluation=_sample_story).exit_code


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
    help=f"A trained model: a .pt file of `stories train`.  [default: {DEFAULT_MODEL_PATH}]",
)
@option("--prompt", default=None, help="How the stories begin.  [default: Once upon a time]")
@option("--interactive", is_flag=True, help="Ask for one beginning after the other and stream each story.")
@option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@option("--json", "as_json", is_flag=True, help="Print one JSON object for each story.")
@config_options(GenerationConfig, "Generation")
def generate(model_path: str, prompt: str | None, interactive: bool, device: str, as_json: bool, **values: Any) -> int:
    """Tell stories with a trained model.

    Stories go to standard output, remarks to standard error.
    """
    generation = GenerationConfig.from_dict(given_values(GenerationConfig, values))
    from .generation.command import run_generate

    return run_generate(
        model_path=model_path,
        config=generation,
        prompt=prompt,
        interactive=interactive,
        as_json=as_json,
        device=device,
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

    from .data.pipeline import prepare as run
    from .training.display import PreparationDisplay

    with PreparationDisplay(Console(stderr=True)) as progress:
        prepared = run(data, progress)
    click.echo(prepared.summary, err=True)
    click.echo(prepared.directory)


@stories.command(cls=GroupedCommand)
@click.argument("path", default=DEFAULT_MODEL_PATH)
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(path: str, as_json: bool) -> None:
    """Show what PATH holds: a model file (its settings, size, vocabulary and origin) or a folder of prepared stories.

    PATH is checkpoints/best_model.pt when not given.
    """
    facts = _prepared_facts(path) if os.path.isdir(path) else _model_facts(path)
    if as_json:
        click.echo(json.dumps(facts, default=str))
        return
    click.echo(path)
    for heading, values in facts.items():
        click.echo("\n" + "\n".join(_section(heading, values)))


def _model_facts(path: str) -> dict[str, dict[str, Any]]:
    """What a model file holds, by heading."""
    from .model.model_file import load_model_file

    found = load_model_file(path)
    report = found.config.parameters()
    # The settings of the run are mappings of their own: each becomes a section.
    origin = {name: value for name, value in found.provenance.items() if not isinstance(value, Mapping)}
    settings = {name: dict(value) for name, value in found.provenance.items() if isinstance(value, Mapping)}
    return {
        "parameters": {
            "total": report.total,
            "active_per_token": report.active,
            "embedding": report.embedding,
            "non_embedding": report.non_embedding,
        },
        "vocabulary": _vocabulary_facts(found.vocabulary),
        "model_config": found.config.to_dict(),
        "provenance": origin,
        **settings,
    }


def _prepared_facts(path: str) -> dict[str, dict[str, Any]]:
    """What a folder of prepared stories holds, by heading."""
    from .data.pipeline import load_prepared

    prepared = load_prepared(path, reused=True)
    splits = {"train": prepared.train, "validation": prepared.validation}
    return {
        "stories": {name: len(shard) for name, shard in splits.items()},
        "vocabulary": _vocabulary_facts(prepared.vocabulary),
        "provenance": {"fingerprint": prepared.fingerprint},
        "summary": {str(number): line for number, line in enumerate(prepared.summary.splitlines(), 1)},
    }


def _vocabulary_facts(vocabulary: Vocabulary) -> dict[str, Any]:
    return {"kind": vocabulary.kind, "size": vocabulary.size, "fingerprint": vocabulary.fingerprint}


@stories.command(cls=GroupedCommand)
def verify() -> None:
    """Check the installation with a miniature model: forward, backward, training steps and a story."""
    from .verify import verify_installation

    verify_installation(click.echo)


def resolve_training(
    size: str, preset: str, values: Mapping[str, Any]
) -> tuple[ModelConfig, TrainingConfig, DataConfig]:
    """The configurations of a training run: the size, the preset, and over both the flags that were given.

    Raises:
        ConfigError: with the problems of all three configurations.
    """
    results: list[Config] = []
    problems: list[str] = []
    for build, name, config_class in (
        (model_config, size, ModelConfig),
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
    try:
        code = stories.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.Abort:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except click.ClickException as error:
        return _refuse(error.format_message())
    except StoryError as error:
        return _refuse(str(error))
    return code if isinstance(code, int) else 0  # the commands return nothing or an exit code


def _refuse(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return USER_ERROR
