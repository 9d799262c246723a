"""One decoding step of one row on a CPU, in numpy: the same model again, without torch's cost for each call.

A small model decodes one token with a few hundred operations on tiny arrays. torch needs microseconds for each before
it does anything, numpy a fraction of that (benchmarks/decode_step.py). The arrays are views of torch's own memory:
parameters that training changes, and the cache, are the same bytes for both.

Axis letters:  D model width   Q query heads   H key-value heads   G query heads for each of them   K head width
               S keys in view   E experts   F expert width   V vocabulary

It holds for models with RMSNorm and SwiGLU in float32, and for one token of one row; everything else is torch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from .kv_cache import ContextLengthError

if TYPE_CHECKING:
    from .kv_cache import KVCache
    from .transformer import StoryTransformer

Array = NDArray[np.float32]

LARGE_TABLE = 1 << 22
"""Numbers in an unembedding from which two cores read it faster than one."""


class _Layer:
    """Views of one block's parameters."""

    def __init__(self, parameters: Mapping[str, Tensor], prefix: str) -> None:
        def view(name: str) -> Array:
            return parameters[f"{prefix}.{name}"].detach().numpy()

        self.attention_norm_D = view("attention.norm.weight")
        self.qkv_weight, self.qkv_bias = view("attention.qkv.weight"), view("attention.qkv.bias")
        self.out_weight, self.out_bias = view("attention.out.weight"), view("attention.out.bias")
        self.sinks_Q = view("attention.sinks") if f"{prefix}.attention.sinks" in parameters else None
        self.experts_norm_D = view("experts.norm.weight")
        self.router: tuple[Array, Array] | None = None
        if f"{prefix}.experts.router.weight" in parameters:
            self.router = view("experts.router.weight"), view("experts.router.bias")
        self.gate_up_weight, self.gate_up_bias = view("experts.gate_up_weight"), view("experts.gate_up_bias")
        self.down_weight, self.down_bias = view("experts.down_weight"), view("experts.down_bias")


class NumpyDecoder:
    """Decoding steps of a model; see the module's text.

    Args:
        model: for which `NumpyDecoder.suits` holds.
    """

    def __init__(self, model: StoryTransformer) -> None:
        self.config = config = model.config
        self.model = model
        parameters = dict(model.named_parameters())
        self._places = [
            (module._parameters, name, parameter)
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self.layers = [_Layer(parameters, f"layers.{layer}") for layer in range(config.n_layer)]
        self.norm_D = parameters["norm.weight"].detach().numpy()
        self.embedding_VD = parameters["embedding.weight"].detach().numpy()
        self._cos = self._sin = np.empty((0, config.head_dim // 2), dtype=np.float32)

    def __deepcopy__(self, memo: object) -> None:
        """A copied model makes a decoder of its own: copied arrays would no longer be views of its parameters."""
        return None

    @staticmethod
    def suits(model: StoryTransformer) -> bool:
        """Whether a model is one that numpy can decode."""
        config = model.config
        return (
            config.use_swiglu
            and config.use_rmsnorm
            and model.compute_dtype == torch.float32
            # All parameters are of one kind and in one place, which need not be asked of each at every step.
            and model.embedding.weight.device.type == "cpu"
            and model.embedding.weight.dtype == torch.float32
        )

    @property
    def is_current(self) -> bool:
        """Whether the model still has the parameters that the views are of. Moving a model keeps them and changes their
        memory; then the model drops its decoder itself."""
        return all(parameters[name] is parameter for parameters, name, parameter in self._places)

    def step(self, token: int, cache: KVCache) -> Tensor:
        """Read one token after those in a cache of one row.

        Returns:
            (1, V) float32: the logits of what follows.

        Raises:
            ContextLengthError: the cache is full.
        """
        position = cache.longest
        if position >= cache.max_length:
            raise ContextLengthError(
                f"a row would grow to {position + 1} tokens, but the cache has room for {cache.max_length}"
            )
        cos, sin = self._rotation(position)
        x_D = self.embedding_VD[token].copy()
        with _one_blas_thread():
            for layer, tensor_keys, tensor_values in zip(self.layers, cache.keys, cache.values, strict=True):
                keys, values = tensor_keys.numpy()[0], tensor_values.numpy()[0]
                x_D += self._attend(layer, self._norm(x_D, layer.attention_norm_D), cos, sin, keys, values, position)
                x_D += self._mix(layer, self._norm(x_D, layer.experts_norm_D))
        cache.lengths += 1
        cache.longest += 1
        return self._unembed(self._norm(x_D, self.norm_D))

    def _unembed(self, x_D: Array) -> Tensor:
        table = self.model.unembedding_weight
        if table.numel() < LARGE_TABLE:
            with _one_blas_thread():
                return torch.from_numpy(table.detach().numpy() @ x_D)[None]
        # torch shares a large product between the cores.
        return torch.mv(table.detach(), torch.from_numpy(x_D))[None]

    def _rotation(self, position: int) -> tuple[Array, Array]:
        """cos and sin of a position, each (K / 2,)."""
        if position >= len(self._cos):
            count = min(2 * position + 64, self.config.block_size)
            table = self.model.rope.at(torch.arange(count)[None], count, torch.float32)
            self._cos, self._sin = (part.reshape(count, -1).numpy() for part in table)
        return self._cos[position], self._sin[position]

    def _norm(self, x_D: Array, weight_D: Array) -> Array:
        return x_D * np.float32(1.0 / np.sqrt(x_D @ x_D / len(x_D) + self.config.norm_eps)) * weight_D

    def _attend(
        self, layer: _Layer, x_D: Array, cos: Array, sin: Array, keys_SHK: Array, values_SHK: Array, position: int
    ) -> Array:
        """Attention of the new token to itself and to what the cache holds, of which it becomes part."""
        config = self.config
        heads, kv_heads, width = config.n_head, config.kv_heads, config.head_dim
        qkv = (layer.qkv_weight @ x_D + layer.qkv_bias).reshape(-1, width)
        pairs = qkv[: heads + kv_heads].reshape(-1, 2, width // 2)
        first, second = pairs[:, 0], pairs[:, 1]
        rotated = np.empty_like(pairs)
        np.subtract(first * cos, second * sin, out=rotated[:, 0])
        np.add(second * cos, first * sin, out=rotated[:, 1])
        rotated = rotated.reshape(-1, width)
        # A ring of the window's size: the oldest key makes room, and the order of keys does not matter to a softmax.
        size = len(keys_SHK)
        keys_SHK[position % size] = rotated[heads:]
        values_SHK[position % size] = qkv[heads + kv_heads :]
        seen = min(position + 1, size)
        query_HGK = rotated[:heads].reshape(kv_heads, -1, width)
        score_HGS = query_HGK @ keys_SHK[:seen].transpose(1, 2, 0)
        score_HGS *= np.float32(width**-0.5)
        largest = score_HGS.max(-1, keepdims=True)
        if layer.sinks_Q is None:
            np.exp(score_HGS - largest, out=score_HGS)
            total = score_HGS.sum(-1, keepdims=True)
        else:
            sink = layer.sinks_Q.reshape(kv_heads, -1, 1)
            largest = np.maximum(largest, sink)
            np.exp(score_HGS - largest, out=score_HGS)
            total = score_HGS.sum(-1, keepdims=True) + np.exp(sink - largest)
        mixed_HGK = (score_HGS @ values_SHK[:seen].transpose(1, 0, 2)) / total
        return layer.out_weight @ mixed_HGK.reshape(-1) + layer.out_bias

    def _mix(self, layer: _Layer, x_D: Array) -> Array:
        """The chosen experts' answers, weighed."""
        if layer.router is None:
            return self._expert(layer, 0, x_D)
        weight_ED, bias_E = layer.router
        logit_E = weight_ED @ x_D + bias_E
        chosen = np.argsort(-logit_E, kind="stable")[: self.config.active_experts]
        weight = np.exp(logit_E[chosen] - logit_E[chosen[0]])
        weight /= weight.sum()
        answer_D = weight[0] * self._expert(layer, chosen[0], x_D)
        for place in range(1, len(chosen)):
            answer_D += weight[place] * self._expert(layer, chosen[place], x_D)
        return answer_D

    def _expert(self, layer: _Layer, expert: int | np.intp, x_D: Array) -> Array:
        hidden = x_D @ layer.gate_up_weight[expert] + layer.gate_up_bias[expert]
        limit = self.config.swiglu_limit
        gate_F = np.minimum(hidden[::2], limit)
        up_F = np.maximum(np.minimum(hidden[1::2], limit), -limit)  # np.clip takes twice as long for so few values
        gate_F /= 1.0 + np.exp(np.float32(-self.config.swiglu_alpha) * gate_F)
        return (gate_F * (up_F + 1.0)) @ layer.down_weight[expert] + layer.down_bias[expert]


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def _one_blas_thread() -> AbstractContextManager[object]:
    """numpy's products of a small model on one thread: to wake a second one takes longer than such a product."""
    limited: AbstractContextManager[object] = _blas().limit(limits=1)
    return limited
