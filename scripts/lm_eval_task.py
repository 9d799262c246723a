"""Write a task for lm-evaluation-harness: multiple-choice questions about stories that no training has seen.

    python scripts/lm_eval_task.py FOLDER
    HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 lm_eval --model hf --tasks story_questions --include_path FOLDER \
        --model_args pretrained=DIR,dtype=float32,add_bos_token=False --device cpu

DIR is a model that `stories export --format huggingface` wrote. Nothing is fetched: the folder has the questions in
`story_questions.jsonl` and the task in `story_questions.yaml`, which names the other file by its full path (lm_eval
looks for relative ones where it was started), so write it anew rather than move it.

The stories are from the built-in storybook and from the written stories of the package. A story is held out of training
by a hash of its text alone, and only stories are taken whose hash says so: whatever `--storybook-seed` and number of
stories a model was trained on, it has seen none of them, as long as its `--validation-fraction` was not below the one
given here. What the storybook's stories share with training is their plots and turns of phrase. Questions and wrong
answers are the stories' own, in the order that training shows.

A model is asked in the form of its training: a request, the story as its own answer, then the question with its
choices. `--apply_chat_template` cannot say that, as it makes one message of all; the prompt is therefore spelled out
with its control tokens in the YAML file. Such a conversation does not begin with <|startoftext|>, which the exported
tokenizer would put in front; that is what `add_bos_token=False` is for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click

from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data.originals import original_stories
from gpt_oss_stories.data.preparation.telling import story_digest
from gpt_oss_stories.data.records import StoryRecord
from gpt_oss_stories.data.sources import clean_text
from gpt_oss_stories.data.storybook import write_stories
from gpt_oss_stories.files import write_text_atomically
from gpt_oss_stories.tokenization import StoryRequest, harmony_vocabulary, render_conversation

NAME = "story_questions"

TASK = r"""# Questions about stories that are held out of training: {documents} questions about {stories} stories.
# Written by scripts/lm_eval_task.py, which says how to run it:
#   storybook seed {seed}, validation fraction {fraction}, at most {max_tokens} tokens of harmony
# A guess is right one time in three.
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data_file}
test_split: test
output_type: multiple_choice
num_fewshot: 0
# The conversation that these models are trained on, in which the next words are the answer.
doc_to_text: "\
  <|start|>user<|message|>{{{{request}}}}<|end|>\
  <|start|>assistant<|channel|>final<|message|>{{{{story}}}}<|end|>\
  <|start|>user<|message|>{{{{question}}}}{{% for choice in choices %}}\n- {{{{choice}}}}{{% endfor %}}<|end|>\
  <|start|>assistant<|channel|>final<|message|>"
doc_to_choice: choices
doc_to_target: answer_index
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def is_held_out(text: str, fraction: float) -> bool:
    """Whether data preparation with this validation fraction keeps the story from training (`telling.is_held_out`).

    Args:
        text: of the story, cleaned.
    """
    return int.from_bytes(story_digest(text)[:8], "big") < int(fraction * 2.0**64)


def held_out_stories(count: int, seed: int, fraction: float) -> Iterator[StoryRecord]:
    """All written stories that are held out, then `count` of the storybook's."""
    storybook = write_stories(sys.maxsize, seed)
    for records, most in ((original_stories(), None), (storybook, count)):
        cleaned = (replace(record, text=clean_text(record.text)) for record in records)
        yield from islice((record for record in cleaned if is_held_out(record.text, fraction)), most)


def documents(records: Iterable[StoryRecord], max_tokens: int) -> Iterator[dict[str, Any]]:
    """One document for each question of the stories, but for those whose conversation is longer than `max_tokens`."""
    vocabulary = harmony_vocabulary()
    for number, record in enumerate(records):
        request = record.request or StoryRequest()
        for question in record.questions:
            conversation = render_conversation(vocabulary, request, record.text, [question])
            if question.answer_index is not None and len(conversation.tokens) <= max_tokens:
                yield {
                    "id": f"{record.source}-{number}",
                    "request": request.render(),
                    "story": record.text,
                    "question": question.question,
                    "choices": list(question.choices),
                    "answer_index": question.answer_index,
                }


def write_task(folder: Path, stories: int, seed: int, fraction: float, max_tokens: int) -> list[dict[str, Any]]:
    """Write the two files; returns the documents."""
    found = list(documents(held_out_stories(stories, seed, fraction), max_tokens))
    data_file = (folder / f"{NAME}.jsonl").resolve()
    write_text_atomically(data_file, "".join(json.dumps(document) + "\n" for document in found))
    task = TASK.format(
        name=NAME,
        documents=len(found),
        stories=len({document["id"] for document in found}),
        seed=seed,
        fraction=fraction,
        max_tokens=max_tokens,
        data_file=json.dumps(str(data_file)),
    )
    write_text_atomically(folder / f"{NAME}.yaml", task)
    return found


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--stories", default=200, show_default=True, help="Stories of the storybook, beside the written ones.")
@click.option("--seed", default=1, show_default=True, help="Storybook seed; training's default is 0.")
@click.option(
    "--validation-fraction",
    "fraction",
    default=DataConfig().validation_fraction,
    show_default=True,
    type=click.FloatRange(min=0, max=0.5, min_open=True),
    help="Share of the stories that training holds out, at the least.",
)
@click.option("--max-tokens", default=448, show_default=True, help="Leave out conversations of more harmony tokens.")
def main(folder: Path, stories: int, seed: int, fraction: float, max_tokens: int) -> None:
    """Write the task to FOLDER."""
    found = write_task(folder, stories, seed, fraction, max_tokens)
    print(f"{len(found)} questions about {len({document['id'] for document in found})} held-out stories in {folder}")


if __name__ == "__main__":
    main()
