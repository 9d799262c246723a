"""Check an installation with a miniature model: forward, backward, optimizer steps and a story that comes out right.

The model learns one short story by heart. Telling it again word for word takes the whole chain: vocabulary,
conversation format, experts, attention with its cache, gradients, optimizer and sampling. A broken link shows as a
failed check.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable

import torch

from .config import GenerationConfig, ModelConfig
from .errors import StoryError
from .generation.engine import Storyteller
from .model.transformer import StoryTransformer
from .tokenization import build_story_vocabulary, harmony_vocabulary, render_story

STORY = (
    "Once upon a time, a little fox was lost in the fog. A kind owl saw her and lit a lamp. The fox found her way home."
)
PROMPT = "Once upon a time"
STEPS = 30
LEARNING_RATE = 1e-2


class VerificationError(StoryError):
    """The installation does not do what it should; the message says what was found and what was expected."""


def verify_installation(say: Callable[[str], object]) -> None:
    """Run every check and report each as a line.

    Args:
        say: called with one line of text after each check.

    Raises:
        VerificationError: a check failed.
        TokenizationError: the harmony vocabulary could not be loaded.
    """
    started = time.perf_counter()
    say(f"Python {platform.python_version()}, torch {torch.__version__} with {torch.get_num_threads()} threads")

    harmony = harmony_vocabulary()
    vocabulary = build_story_vocabulary(Counter(harmony.encode(STORY)))
    rendered = render_story(vocabulary, STORY)
    _check(vocabulary.decode(rendered.tokens) == STORY, "the story does not survive the way to tokens and back")
    say(f"Vocabulary: {harmony.size:,} harmony tokens; {vocabulary.size:,} in a story vocabulary for one story")

    config = ModelConfig(
        vocab_size=vocabulary.size,
        n_layer=2,
        n_head=4,
        n_embd=64,
        head_dim=16,
        block_size=64,
        num_experts=4,
        sliding_window=16,
        multi_token_predict=2,
    )
    model = StoryTransformer(config, seed=0)
    tokens, trained = torch.tensor([rendered.tokens]), torch.tensor([rendered.trained])
    first = model.loss(tokens, trained=trained)
    _check(bool(torch.isfinite(first.total)), f"the first loss is {first.total.item()}, expected a finite number")
    say(f"Forward: {config.parameters().describe()}; loss {first.next_token.item():.2f} nats per token")

    first.total.backward()
    bad = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    _check(not bad, f"no finite gradient for {', '.join(bad)}")
    say(f"Backward: finite gradients for all {len(list(model.parameters()))} tensors")

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model.loss(tokens, trained=trained).total.backward()
        optimizer.step()
    with torch.no_grad():
        last = model.loss(tokens, trained=trained).next_token.item()
    _check(last < 0.1, f"the loss went from {first.next_token.item():.2f} to {last:.2f}, expected below 0.1")
    say(f"Optimizer: {STEPS} steps bring the loss to {last:.3f}")

    settings = GenerationConfig(max_tokens=config.block_size - 8, temperature=0.0)
    (story,) = Storyteller(model.eval(), vocabulary).tell(PROMPT, settings)
    _check(story.text == STORY, f"the model tells {story.text!r}, expected {STORY!r}")
    say(f"Generation: {story.text}")
    say(f"Everything works ({time.perf_counter() - started:.1f} s)")


def _check(holds: bool, failure: str) -> None:
    if not holds:
        raise VerificationError(f"verification failed: {failure}. Run ./setup.sh verify again, or report this line.")
