"""Which choices of our training make it better? Each is undone alone, in the same time, with several seeds.

    python benchmarks/choices.py --dataset-path stories.jsonl
    python benchmarks/choices.py --choice adamw --choice dense --seconds 300
    python benchmarks/choices.py --choice adamw --choice cosine --steps 500

Trains as `stories train` does, for `--seconds` (loading and steps, not evaluation), once as it is and once with each
choice undone. With `--steps` all take as many steps instead, so that the losses do not depend on how busy the machine
is, and the time that a choice costs does not count. Every repetition has another seed, of initialisation and of the
order of the stories, which is the same for all; they take turns. The figures are losses on the same held-out stories,
computed in float32, in nats per token.

`difference` of a choice is the median, over the seeds, of the loss with the choice undone less the loss as it is: above
0, the choice is good for the model in that time. `ratio` is the smallest number of seeds of any choice, as a share, for
which it was good. What no choice here says anything about: longer training, larger models, other stories.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from house import (
    FOLDER,
    SIZES,
    Conditions,
    Contender,
    Outcome,
    apart,
    compare,
    conditions_options,
    dense_twin,
    given_conditions,
    load_file,
    report,
    start,
    talk,
)

from gpt_oss_stories.config import ModelConfig, TrainingConfig, data_config

time_to_loss = load_file(str(FOLDER / "time_to_loss.py"))
"""The question that trains as this one does, against another program."""

AS_IT_IS = "as it is"

LOSS = "loss_nats"


@dataclass(frozen=True)
class Undone:
    """How training goes without a choice."""

    model: ModelConfig
    training: TrainingConfig


def undone(name: str, model: ModelConfig, training: TrainingConfig) -> Undone:
    """A choice undone, by its name in `CHOICES`."""
    rate = training.learning_rate
    changed_training: dict[str, dict[str, Any]] = {
        "adamw": {"optimizer": "adamw"},
        "adamw-faster": {"optimizer": "adamw", "learning_rate": 2 * rate},
        "cosine": {"learning_rate_schedule": "cosine", "min_learning_rate_ratio": 0.1},
        "half-rate": {"matrix_learning_rate": training.matrix_learning_rate / 2, "learning_rate": rate / 2},
        "double-rate": {"matrix_learning_rate": training.matrix_learning_rate * 2, "learning_rate": rate * 2},
        "half-batch": {"batch_size": max(1, training.batch_size // 2)},
        "double-batch": {"batch_size": 2 * training.batch_size},
    }
    if name in changed_training:
        return Undone(model, training.replace(**changed_training[name]))
    if name == "dense":
        return Undone(dense_twin(model), training)
    changed_model: dict[str, dict[str, Any]] = {
        "untied": {"tie_embeddings": not model.tie_embeddings},
        "full-attention": {"sliding_window": 0},
        "no-sinks": {"use_attention_sinks": False},
        "two-tokens": {"multi_token_predict": 2},
    }
    return Undone(model.replace(**changed_model[name]), training)


CHOICES = (
    "adamw", "adamw-faster", "cosine", "half-rate", "double-rate", "half-batch", "double-batch", "dense", "untied",
    "full-attention", "no-sinks", "two-tokens",
)  # fmt: skip
"""adamw: AdamW instead of Muon for the matrices, and adamw-faster at twice its rate; cosine: instead of the warm-down;
half-rate, double-rate: of both optimizers; half-batch, double-batch: rows of a step; dense: one expert as wide as all
that a token uses; untied: tables tied where they are not, and the other way round; full-attention: no sliding window;
no-sinks; two-tokens: multi-token prediction of the token after the next."""


@click.command(help=(__doc__ or "").partition("\n")[0], context_settings={"default_map": {"repetitions": 3}})
@time_to_loss.stories_options
@click.option(
    "--seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How long each is trained.",
)
@click.option("--steps", type=click.IntRange(1), help="So many steps for each, whatever time they take.")
@click.option(
    "--choice",
    "names",
    multiple=True,
    type=click.Choice(CHOICES),
    default=CHOICES,
    help="What is undone; may be given several times.  [default: each of them]",
)
@click.option("--compile", "compiled", is_flag=True, help="With --compile-model.")
@conditions_options
def main(
    dataset_path: str | None,
    data_dir: str,
    validation_fraction: float,
    held_out_tokens: int,
    size: str,
    seconds: float,
    steps: int | None,
    names: tuple[str, ...],
    compiled: bool,
) -> None:
    conditions: Conditions = given_conditions()
    data = data_config(
        size,
        dataset_path=dataset_path,
        data_dir=data_dir,
        validation_fraction=validation_fraction,
        vocabulary="story",
    )
    prepared = apart(time_to_loss.preparation, {"data": data.to_dict()}, conditions)
    model = ModelConfig.from_dict({**SIZES[size], "vocab_size": prepared["vocab_size"]})
    training = time_to_loss.our_training(size, compiled)
    runs = {AS_IT_IS: Undone(model, training)} | {name: undone(name, model, training) for name in dict.fromkeys(names)}
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="choices-", ignore_cleanup_errors=True) as folder:
        for turn in range(conditions.repetitions):
            seed = training.seed + turn
            order = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
            for name in order:
                talk(f"seed {seed}: {name}", conditions)
                options = {
                    "folder": prepared["folder"],
                    "data": data.to_dict(),
                    "model": runs[name].model.to_dict(),
                    "training": runs[name].training.replace(seed=seed).to_dict(),
                    "held_out_tokens": held_out_tokens,
                    "checkpoint_dir": str(Path(tempfile.mkdtemp(dir=folder))),
                    **({"seconds": seconds} if steps is None else {"steps": steps, "points": 1}),
                }
                once = dataclasses.replace(conditions, repetitions=1)
                found += compare([Contender(name, time_to_loss.ours, options)], once)
    by_name = {outcome.name: outcome for outcome in time_to_loss.merged(found)}
    as_it_is = by_name[AS_IT_IS].figures[LOSS]  # each repetition is a seed, the same for all
    differences = {
        name: [round(other - own, 4) for other, own in zip(by_name[name].figures[LOSS], as_it_is, strict=True)]
        for name in runs
        if name != AS_IT_IS
    }
    report(
        "choices",
        [by_name[name] for name in runs],
        conditions,
        ratio=min(sum(value > 0 for value in values) / len(values) for values in differences.values()),
        difference={name: round(statistics.median(values), 4) for name, values in differences.items()},
        difference_by_seed=differences,
        settings={
            "size": size,
            "vocabulary": prepared["vocab_size"],
            "parameters": model.parameters().total,
            "stories": "built-in" if dataset_path is None else Path(dataset_path).name,
            "training_tokens": prepared["train_tokens"],
            "held_out_tokens": held_out_tokens or "all",
            "seconds": seconds if steps is None else None,
            "steps": steps,
            "compile": compiled,
        },
    )


if __name__ == "__main__":
    start(main)
