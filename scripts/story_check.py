"""Sample stories from a model and count what is easy to count about them.

    python scripts/story_check.py checkpoints/best_model.pt
    python scripts/story_check.py checkpoints/best_model.pt --stories 100 --print 5

Counted, for stories sampled at a temperature: how many end by themselves; in how many the hero (the first name of the
story) is named at least three times; and in how many a second hero of the storybook's names turns up, which means
that the hero's name was lost. Whether a story makes sense is for a reader: --print shows some.
"""

from __future__ import annotations

import re

import click

from gpt_oss_stories.config import GenerationConfig
from gpt_oss_stories.data.storybook.lexicon import HEROES
from gpt_oss_stories.generation.engine import Storyteller

NAME = re.compile(rf"\b({'|'.join(HEROES)})\b")


@click.command()
@click.argument("model_path")
@click.option("--stories", default=20, show_default=True, help="How many to sample.")
@click.option("--prompt", default="Once upon a time", show_default=True, help="How each of them begins.")
@click.option("--temperature", default=0.8, show_default=True)
@click.option("--max-tokens", default=400, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--print", "shown", default=0, show_default=True, help="How many to print.")
def main(
    model_path: str, stories: int, prompt: str, temperature: float, max_tokens: int, seed: int, shown: int
) -> None:
    """Count what is easy to count about stories of a model."""
    config = GenerationConfig(max_tokens=max_tokens, temperature=temperature, num_samples=stories, seed=seed)
    told = Storyteller.open(model_path).tell(prompt, config)
    ended = named = strayed = 0
    for number, story in enumerate(told, start=1):
        names = NAME.findall(story.text)
        others = sorted(set(names) - set(names[:1]))
        ended += story.finish_reason == "end"
        named += len(names) >= 3
        strayed += bool(others)
        if number <= shown:
            remark = f", other heroes: {', '.join(others)}" if others else ""
            print(f"--- {number}: {story.finish_reason}, {story.token_count} tokens{remark}\n{story.text}\n")
    print(f"{stories} stories from {prompt!r} at temperature {temperature}, seed {seed}:")
    print(f"  {ended} end by themselves, {named} name their hero three times or more, {strayed} name a second hero")


if __name__ == "__main__":
    main()
