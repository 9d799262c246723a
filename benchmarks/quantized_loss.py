"""What does `--weights int8` cost in bits per byte?

    python benchmarks/quantized_loss.py --model checkpoints/best_model.pt --dataset-path held-out.jsonl

Scores the same stories with the model's own weights and with those rounded to 8 bits, whole texts in float32: the
rounded numbers are exactly what decoding multiplies with (`model/quantized.py`). Prints a table and, last, one JSON
object; `difference` is positive where rounding costs something. Without `--dataset-path` the stories are the written
ones that ship with the package, which most models were trained on.
"""

from __future__ import annotations

import json
import math

import click
import torch
from torch.nn import functional as F

from gpt_oss_stories.data.originals import original_stories
from gpt_oss_stories.data.sources import read_stories
from gpt_oss_stories.interop.checkpoints import open_checkpoint
from gpt_oss_stories.model.quantized import quantize_for_decoding
from gpt_oss_stories.model.transformer import StoryTransformer


@torch.inference_mode()
def bits_per_byte(model: StoryTransformer, stories: list[list[int]], token_bytes: list[int]) -> float:
    """Mean over all bytes of all stories, of which the first token is given."""
    nats, count = 0.0, 0
    for story in stories:
        tokens = torch.tensor([story])
        logits = model.logits(tokens)[0, :-1]
        nats += float(F.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
        count += sum(token_bytes[token] for token in story[1:])
    return nats / count / math.log(2)


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--model", "path", required=True, type=click.Path(), help="A model of any format.")
@click.option("--dataset-path", type=click.Path(), help="Stories as in `stories train`.  [default: written ones]")
@click.option("--stories", "most", default=100, show_default=True, type=click.IntRange(1), help="How many are scored.")
def main(path: str, dataset_path: str | None, most: int) -> None:
    checkpoint = open_checkpoint(path)
    model, vocabulary = checkpoint.build().eval(), checkpoint.vocabulary
    if vocabulary is None:
        raise click.UsageError(f"{path} has no vocabulary to read stories with")
    records = original_stories() if dataset_path is None else read_stories(dataset_path)
    stories = []
    for record in records:
        tokens = vocabulary.encode(record.text)[: model.config.block_size]
        if len(tokens) > 1:
            stories.append(tokens)
        if len(stories) == most:
            break
    if not stories:
        raise click.UsageError("no story has two tokens: give others with --dataset-path")
    token_bytes = [len(vocabulary.token_bytes(token)) for token in range(vocabulary.size)]
    found = {"float32": bits_per_byte(model, stories, token_bytes)}
    quantize_for_decoding(model)
    found["int8"] = bits_per_byte(model, stories, token_bytes)
    for name, bits in found.items():
        print(f"{name:8} {bits:.5f} bits per byte")
    result = {
        "benchmark": "quantized_loss",
        "difference": round(found["int8"] - found["float32"], 6),
        "bits_per_byte": {name: round(bits, 6) for name, bits in found.items()},
        "stories": len(stories),
        "tokens": sum(map(len, stories)),
        "parameters": model.config.parameters().total,
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
