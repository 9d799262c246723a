"""What makes a small model keep a hero's name: first readers among the stories, and one table for both embeddings.

    python benchmarks/name_copying.py              three variants, 300 steps each: some minutes on two cores
    python benchmarks/name_copying.py --steps 600

Trains nano models from one seed with the preset `story` and measures, on held-out stories of the storybook, the loss
of all tokens and that of repeated names: a hero's name after its first mention. Guessing among the names that fit
costs about four nats there. Prints a table and, last, one JSON object whose `ratio` is the repeated-name loss without
first readers over that of the nano size as it is.
"""

from __future__ import annotations

import json
import tempfile

import click
import torch

from gpt_oss_stories.config import ModelConfig, data_config, model_config, training_config
from gpt_oss_stories.data.batches import BatchStream
from gpt_oss_stories.data.pipeline import PreparedData, prepare
from gpt_oss_stories.data.storybook import mix, write_story
from gpt_oss_stories.data.storybook.lexicon import HEROES
from gpt_oss_stories.model import StoryTransformer
from gpt_oss_stories.training.optimizer import StoryOptimizer
from gpt_oss_stories.training.schedule import Schedule

HELD_OUT_SEED = 987_654_321
HELD_OUT_STORIES = 100
VARIANTS = {
    "stories only, two tables": (0, False),
    "with first readers, two tables": (20_000, False),
    "with first readers, one table (nano)": (20_000, True),
}


def train(config: ModelConfig, data: PreparedData, steps: int) -> StoryTransformer:
    """A model after some steps of the preset `story`."""
    training = training_config("story", max_iters=steps)
    model = StoryTransformer(config, seed=1)
    model.compute_dtype = torch.bfloat16
    optimizer = StoryOptimizer(model, training, matrix_dtype=torch.bfloat16)
    stream = BatchStream(data.train, training.batch_size, config.block_size, seed=1)
    schedule = Schedule.from_config(training)
    for step in range(steps):
        batch = stream.batch(step)
        model.loss(batch.tokens, batch.documents, batch.trained).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
        optimizer.step(schedule.factor(step, 0.0))
        optimizer.zero_grad()
    return model


@torch.inference_mode()
def losses(model: StoryTransformer, data: PreparedData) -> tuple[float, float]:
    """Mean nats of all tokens and of repeated names, in stories that no variant was trained on."""
    vocabulary = data.vocabulary
    forms = {vocabulary.encode(form)[0]: name for name in HEROES for form in (name, f" {name}")}
    everything: list[float] = []
    repeated: list[float] = []
    model.compute_dtype = torch.float32
    for number in range(HELD_OUT_STORIES):
        tokens = [vocabulary.special("startoftext"), *vocabulary.encode(write_story(mix(HELD_OUT_SEED, number)).text)]
        logits = model.logits(torch.tensor([tokens]))[0, :-1]
        nats = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none").tolist()
        everything += nats
        seen: set[str] = set()
        for token, nat in zip(tokens[1:], nats, strict=True):
            name = forms.get(token)
            if name in seen:
                repeated.append(nat)
            if name is not None:
                seen.add(name)
    return sum(everything) / len(everything), sum(repeated) / len(repeated)


@click.command()
@click.option("--steps", default=300, show_default=True)
def main(steps: int) -> None:
    """Train the variants and print their losses."""
    results = {}
    print(f"{'variant':38} {'all tokens':>10} {'repeated names':>15}   (nats, after {steps} steps)")
    with tempfile.TemporaryDirectory() as directory:
        for title, (first_readers, tied) in VARIANTS.items():
            data = prepare(data_config("nano", first_readers=first_readers, data_dir=directory))
            config = model_config("nano", vocab_size=data.vocabulary.size, tie_embeddings=tied)
            results[title] = losses(train(config, data, steps), data)
            print(f"{title:38} {results[title][0]:10.3f} {results[title][1]:15.3f}", flush=True)
    names = [repeated for _, repeated in results.values()]
    print(json.dumps({"benchmark": "name_copying", "steps": steps, "ratio": round(names[0] / names[-1], 2)}))


if __name__ == "__main__":
    main()
