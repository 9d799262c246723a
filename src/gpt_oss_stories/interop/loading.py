"""One door to every kind of model: ours, a `transformers` directory, an OpenAI directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from ..generation.engine import Storyteller
from ..model.model_file import ModelFileError, load_model_file
from ..model.transformer import StoryTransformer
from ..tokenization import Vocabulary
from .foreign import load_foreign_directory


class LoadedModel:
    """A model ready to be asked.

    Attributes:
        network: the transformer itself, in float32 on the CPU.
        vocabulary: its tokenizer; None for foreign checkpoints, whose ids are what their own tokenizer makes.
    """

    def __init__(self, network: StoryTransformer, vocabulary: Vocabulary | None) -> None:
        self.network = network.eval()
        self.vocabulary = vocabulary
        self._storyteller = Storyteller(network, vocabulary)

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.network.config

    @torch.inference_mode()
    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits at every position.

        Args:
            tokens: (batch, time) int64, each row one document.

        Returns:
            (batch, time, vocab_size) float32.
        """
        return self.network.logits(tokens)

    def generate_tokens(self, prompt_ids: Sequence[int], max_new_tokens: int, temperature: float = 0.0) -> list[int]:
        """Prompt and continuation; temperature 0 always takes the likeliest token."""
        return self._storyteller.generate_tokens(prompt_ids, max_new_tokens, temperature=temperature)


def load_model(path: str | Path) -> LoadedModel:
    """Open a model.

    Args:
        path: a model file of ours (`best_model.pt`), or a directory in the layout of `transformers` or of OpenAI.

    Raises:
        ModelFileError, CheckpointError: it is missing, damaged, or not a GPT-OSS model; one line says which.
    """
    path = Path(path)
    if path.is_dir():
        return LoadedModel(load_foreign_directory(path), None)
    if not path.exists():
        raise ModelFileError(f"no model at {path}: give a model file or a checkpoint directory")
    file = load_model_file(path)
    return LoadedModel(file.build(), file.vocabulary)
