"""Small models to send out and take back."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.model import StoryTransformer
from gpt_oss_stories.model.model_file import save_model
from gpt_oss_stories.tokenization import (
    StoryVocabulary,
    Vocabulary,
    build_story_vocabulary,
    count_tokens,
    harmony_vocabulary,
)

TEXTS = (
    "Once upon a time there was a fox named Ella. She didn't like the rain.",
    "“Why not?” asked the owl.\n\nThe fox laughed, and 12 frogs jumped into the pond.",
)
PROVENANCE = {
    "program_version": "0.1.0",
    "step": 12,
    "tokens_seen": 3456,
    "validation_loss_nats": 2.5,
    "training_config": {"max_iters": 12},
}


@cache
def small_vocabulary() -> StoryVocabulary:
    return build_story_vocabulary(count_tokens(harmony_vocabulary(), TEXTS))


def small_config(vocabulary: Vocabulary, **changes: object) -> ModelConfig:
    config = ModelConfig(
        vocab_size=vocabulary.size,
        n_layer=2,
        n_head=4,
        n_kv_head=2,
        n_embd=32,
        head_dim=16,
        intermediate_size=64,
        block_size=128,
        num_experts=4,
        sliding_window=8,
    )
    return config.replace(**changes)


def small_model(config: ModelConfig, seed: int = 1) -> StoryTransformer:
    """A model with random weights in which every parameter matters: biases, sinks and norms are drawn too."""
    model = StoryTransformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2 or name.endswith("_bias"):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * (1.0 if name.endswith("sinks") else 0.2))
            elif name.startswith("unembedding"):
                parameter.mul_(8.0)  # so that the model has opinions, and its greedy story is no tie
            elif name.endswith(("down_weight", "out.weight")):
                parameter.mul_(4.0)  # so that a model with tied tables does not just repeat what it reads
    return model


def saved(path: Path, config: ModelConfig, vocabulary: Vocabulary, seed: int = 1) -> Path:
    save_model(path, small_model(config, seed), vocabulary, PROVENANCE)
    return path
