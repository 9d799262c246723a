"""How much faster is one compiled decoding step than the same step in torch?

    python benchmarks/decode_step.py --model checkpoints/best_model.pt

Both are this program's own (`model/compiled_step.py` and `StoryTransformer.next_logits`); the greedy story of one
prompt is decoded by each in turns, and the tokens are compared. Prints a table and, last, one JSON object; `ratio` is
the median speed of the compiled loops over that of torch. Without `--model` the weights are random, of the size
`--size`.
"""

from __future__ import annotations

import json
import statistics
import time

import click
import torch

from gpt_oss_stories.config import MODEL_SIZES, model_config
from gpt_oss_stories.interop.checkpoints import open_checkpoint
from gpt_oss_stories.model.transformer import StoryTransformer

PROMPT = 8
RANDOM_VOCABULARY = 8192


@torch.inference_mode()
def decode(model: StoryTransformer, tokens: int, *, compiled: bool) -> tuple[float, list[int]]:
    """Tokens per second of a greedy continuation, and its tokens."""
    cache = model.new_cache(1, PROMPT + tokens)
    logits = model.next_logits(torch.arange(PROMPT)[None], cache)
    chosen = []
    began = time.perf_counter()
    for _ in range(tokens):
        chosen.append(int(logits.argmax()))
        # With counts given, torch does the step.
        counts = None if compiled else torch.ones(1, dtype=torch.int64)
        logits = model.next_logits(torch.tensor([chosen[-1:]]), cache, counts)
    return tokens / (time.perf_counter() - began), chosen


@click.command()
@click.option("--model", "path", help="A trained model; random weights when not given.")
@click.option("--size", type=click.Choice(list(MODEL_SIZES)), default="nano", show_default=True)
@click.option("--tokens", default=150, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(path: str | None, size: str, tokens: int, rounds: int) -> None:
    """Compare the two ways of decoding one token."""
    config = model_config(size).replace(vocab_size=RANDOM_VOCABULARY)
    model = (StoryTransformer(config) if path is None else open_checkpoint(path).build()).eval()
    speeds: dict[bool, list[float]] = {True: [], False: []}
    stories = {compiled: decode(model, tokens, compiled=compiled)[1] for compiled in speeds}
    for _ in range(rounds):
        for compiled, found in speeds.items():
            found.append(decode(model, tokens, compiled=compiled)[0])
    medians = {compiled: statistics.median(found) for compiled, found in speeds.items()}
    for compiled, name in ((True, "compiled"), (False, "torch")):
        found = speeds[compiled]
        print(f"{name}  {medians[compiled]:8.0f} tokens/s  ({min(found):.0f} to {max(found):.0f})")
    result = {
        "benchmark": "decode_step",
        "ratio": round(medians[True] / medians[False], 2),
        "compiled_tokens_per_second": round(medians[True], 1),
        "torch_tokens_per_second": round(medians[False], 1),
        "same_tokens": stories[True] == stories[False],
        "parameters": model.config.parameters().total,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
