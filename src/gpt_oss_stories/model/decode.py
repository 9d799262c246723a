"""Decoding steps on a CPU: the same model again, without torch's cost for each call.

A step has a few hundred operations on small arrays, and torch needs microseconds for each before it does anything. A
few tokens, short prompts, one more of each of many rows, or several guessed ahead, are therefore read by compiled loops
(`compiled_step`). Parameters that training changes, and the cache, are the same bytes for them and for torch.

It holds for models with RMSNorm and SwiGLU in float32 on a CPU; everything else is torch's.

Axis letters:  B rows   T new tokens of each   K head width   P positions   V vocabulary
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from .compiled_step import CompiledStep
    from .kv_cache import KVCache
    from .transformer import StoryTransformer

Array = NDArray[np.float32]

MOST_TOKENS = 256
"""Of all rows together: torch is no slower with more."""


class Decoder:
    """Decoding steps of a model; see the module's text.

    Args:
        model: for which `Decoder.suits` holds.
    """

    def __init__(self, model: StoryTransformer) -> None:
        self.config = model.config
        self.model = model
        self.weights = model.decode_weights
        self._owners = [
            (module._parameters, name, parameter)
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._versions = self._count_versions()
        self._cos_PJ = self._sin_PJ = np.empty((0, self.config.head_dim // 2), np.float32)

    @cached_property
    def step(self) -> CompiledStep:
        """The loops; made when they are first needed, since that may take a while."""
        from .compiled_step import CompiledStep

        parameters = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        unembedding = self.model.unembedding_weight.detach()
        return CompiledStep(self.config, parameters, unembedding, in_bytes=self.weights == "int8")

    def would_wait(self, cache: KVCache) -> bool:
        """Whether a prompt is better left to torch: the first word of a process's first story is there sooner if the
        loops are loaded after it."""
        return cache.longest == 0 and "step" not in self.__dict__

    def __deepcopy__(self, memo: object) -> None:
        """A copied model makes a decoder of its own: this one's addresses are those of the original's parameters."""
        return None

    @staticmethod
    def suits(model: StoryTransformer) -> bool:
        """Whether this way of decoding knows such a model."""
        config = model.config
        return (
            config.use_swiglu
            and config.use_rmsnorm
            and model.compute_dtype == torch.float32
            and all(
                parameter.device.type == "cpu" and parameter.dtype == torch.float32 and parameter.is_contiguous()
                for parameter in model.parameters()
            )
        )

    @property
    def is_current(self) -> bool:
        """Whether the model still has the parameters whose addresses these are, and those in bytes their numbers.
        Moving a model keeps the parameters and changes their memory; then the model drops its decoder itself."""
        return (
            self.weights == self.model.decode_weights
            and all(parameters[name] is parameter for parameters, name, parameter in self._owners)
            and (self.weights == "float32" or self._versions == self._count_versions())
        )

    def _count_versions(self) -> int:
        """Grows whenever torch changes a parameter in place."""
        return sum(0 if parameter.is_inference() else parameter._version for _, _, parameter in self._owners)

    @staticmethod
    def can_read(tokens: Tensor, cache: KVCache) -> bool:
        """Whether these (B, T) tokens, none of them padding, are few enough."""
        return 0 < tokens.numel() <= MOST_TOKENS and cache.keys[0].dtype == torch.float32

    def read(self, tokens: Tensor, cache: KVCache, *, every: bool = False) -> Tensor:
        """Read tokens after those in the cache.

        Args:
            tokens: (B, T) int64 for which `can_read` holds.
            cache: grows by them.
            every: whether the logits after each token are wanted, rather than those after each row's last.

        Returns:
            (B, V), or (B, T, V) with `every`: float32, the logits of what follows.

        Raises:
            ContextLengthError: a row would outgrow the cache.
        """
        batch, time = tokens.shape
        cache.check_room(cache.longest + time)
        self._grow_rotation(cache.longest + time)
        wanted_M = np.arange(0 if every else time - 1, batch * time, 1 if every else time)
        logits = torch.from_numpy(self.step.read(tokens, wanted_M, cache, self._cos_PJ, self._sin_PJ))
        return logits.reshape(batch, time, -1) if every else logits

    def _grow_rotation(self, longest: int) -> None:
        """Know cos and sin of positions below `longest`, (P, K / 2) each."""
        if longest > len(self._cos_PJ):
            count = min(2 * longest + 64, self.config.block_size)
            cos, sin = self.model.rope.at(torch.arange(count), count, torch.float32)
            self._cos_PJ, self._sin_PJ = (part.reshape(count, -1).contiguous().numpy() for part in (cos, sin))
