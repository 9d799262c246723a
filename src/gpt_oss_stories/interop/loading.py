"""A model ready to be asked, from any format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from ..device import choose_device
from ..generation.engine import Storyteller
from ..model.transformer import StoryTransformer
from ..tokenization import Vocabulary
from .checkpoints import open_checkpoint


class LoadedModel:
    """A model ready to be asked.

    Attributes:
        network: the transformer itself, in float32 on the CPU.
        vocabulary: its tokenizer; None for other programs' checkpoints with a tokenizer that is not harmony's.
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


def open_storyteller(path: str | Path, device: str = "auto") -> Storyteller:
    """`Storyteller.open` for models of any format.

    Raises:
        StoryError: there is no sound model at `path`, or the device is not there.
    """
    where = choose_device(device)
    checkpoint = open_checkpoint(path)
    return Storyteller(checkpoint.build().to(where).eval(), checkpoint.vocabulary)


def load_model(path: str | Path) -> LoadedModel:
    """Open a model and load its weights.

    Args:
        path: a model file of ours (`best_model.pt`), a directory in the layout of `transformers` or of OpenAI, or a
            GGUF file.

    Raises:
        StoryError: it is missing, damaged, or not a GPT-OSS model; one line says which.
    """
    checkpoint = open_checkpoint(path)
    return LoadedModel(checkpoint.build(), checkpoint.vocabulary)
