"""Decoding steps on a CPU: the same model again, without torch's cost for each call.

A step has a few hundred operations on small arrays. torch needs microseconds for each before it does anything, numpy a
fraction of that, so the small work is numpy's; torch multiplies matrices, which it shares between the cores. The arrays
are views of torch's own memory: parameters that training changes, and the cache, are the same bytes for both.

There are two ways. One token of one row, where every microsecond counts, is read in buffers that are made once
(`_OneToken`). Several tokens, of several rows or guessed ahead for one, are rows of common matrix products
(`_ManyTokens`): the weights are read once for all of them.

Axis letters:  N new tokens: of B rows, T of each   D model width   V vocabulary
               Q query heads   H key-value heads   M queries of each of them: T Q / H   K head width   S slots in view
               E experts   C experts chosen per token   R pairs of token and expert, by expert   F expert width

It holds for models with RMSNorm and SwiGLU in float32 on a CPU; the first reading of prompts, and everything else, is
torch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .kv_cache import ContextLengthError
from .products import Array, ChosenRows, ExpertProduct, LinearProduct, Twin
from .threads import StepThreads

if TYPE_CHECKING:
    from ..config import ModelConfig
    from .kv_cache import CacheStep, KVCache
    from .transformer import StoryTransformer

FEW_SCORES = 1024
"""Up to this many scores for a key-value head, of all rows, numpy attends; torch's flash kernel takes longer to
start."""


class _Layer:
    """One block's parameters."""

    def __init__(self, parameters: Mapping[str, Tensor], prefix: str, *, in_bytes: bool) -> None:
        own = {name.removeprefix(f"{prefix}."): parameters[name] for name in parameters if name.startswith(prefix)}
        self.attention_norm_D: Array = own["attention.norm.weight"].numpy()
        self.qkv = LinearProduct(own["attention.qkv.weight"], own["attention.qkv.bias"], in_bytes=in_bytes)
        self.out = LinearProduct(own["attention.out.weight"], own["attention.out.bias"], in_bytes=in_bytes)
        self.sinks_Q: Array | None = own["attention.sinks"].numpy() if "attention.sinks" in own else None
        self.experts_norm_D: Array = own["experts.norm.weight"].numpy()
        self.router: LinearProduct | None = None
        if "experts.router.weight" in own:
            # Never in 8 bits: rounding would send tokens to other experts.
            self.router = LinearProduct(own["experts.router.weight"], own["experts.router.bias"], in_bytes=False)
        self.gate_up = ExpertProduct(own["experts.gate_up_weight"], own["experts.gate_up_bias"], in_bytes=in_bytes)
        self.down = ExpertProduct(own["experts.down_weight"], own["experts.down_bias"], in_bytes=in_bytes)


class _Weights:
    """A model's parameters as both ways of decoding read them."""

    def __init__(self, model: StoryTransformer) -> None:
        self.config = model.config
        in_bytes = model.decode_weights == "int8"
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self.layers = [_Layer(parameters, f"layers.{n}.", in_bytes=in_bytes) for n in range(model.config.n_layer)]
        self.norm_D: Array = parameters["norm.weight"].numpy()
        self.embedding_VD: Array = parameters["embedding.weight"].numpy()
        self.unembedding = LinearProduct(model.unembedding_weight.detach(), None, in_bytes=in_bytes)


class Decoder:
    """Decoding steps of a model; see the module's text.

    Args:
        model: for which `Decoder.suits` holds.
    """

    def __init__(self, model: StoryTransformer) -> None:
        self.model = model
        self._decode_weights = model.decode_weights
        self._owners = [
            (module._parameters, name, parameter)
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._versions = self._count_versions()
        # Buffers made in inference mode could not be written outside of it.
        with torch.inference_mode(mode=False), torch.no_grad():
            weights = _Weights(model)
            self._one, self._many = _OneToken(weights), _ManyTokens(weights)
        self._threads = StepThreads()
        self._lock = Lock()
        self._cos = self._sin = np.empty((0, 1, 2, model.config.head_dim // 2), dtype=np.float32)

    def __deepcopy__(self, memo: object) -> None:
        """A copied model makes a decoder of its own: copied arrays would no longer be views of its parameters."""
        return None

    @staticmethod
    def suits(model: StoryTransformer) -> bool:
        """Whether this way of decoding knows such a model."""
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
        """Whether the model still has the parameters that the views are of, and those in 8 bits their numbers. Moving a
        model keeps the parameters and changes their memory; then the model drops its decoder itself."""
        return (
            self._decode_weights == self.model.decode_weights
            and all(parameters[name] is parameter for parameters, name, parameter in self._owners)
            and (self._decode_weights == "float32" or self._versions == self._count_versions())
        )

    def _count_versions(self) -> int:
        """Grows whenever torch changes a parameter in place."""
        return sum(0 if parameter.is_inference() else parameter._version for _, _, parameter in self._owners)

    @staticmethod
    def can_read(tokens: Tensor, cache: KVCache) -> bool:
        """Whether (B, T) tokens, none of them padding, are a step after a prompt; see `KVCache` for the lookahead."""
        return (
            0 < tokens.shape[1] <= cache.lookahead
            and tokens.shape[0] > 0
            and cache.longest > 0
            and cache.keys[0].dtype == torch.float32
        )

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
        # Beyond float32's range torch gives infinities silently; whoever chooses tokens looks for them.
        with self._lock, self._threads.for_step(batch * time), np.errstate(over="ignore", invalid="ignore"):
            if batch * time == 1 and cache.lookahead == 1:
                position = cache.longest
                if position >= cache.max_length:
                    raise ContextLengthError(
                        f"a row would grow to {position + 1} tokens, but the cache has room for {cache.max_length}"
                    )
                cos, sin = self._rotation(position + 1)
                logits_NV = self._one.read(int(tokens), position, cos[position], sin[position], cache)
                cache.lengths = cache.lengths + 1
                cache.longest += 1
            else:
                step = cache.begin(time, None)
                cos, sin = self._rotation(step.longest)
                position_N = step.positions.reshape(-1).numpy()
                x_ND = self._many.read(tokens.reshape(-1).numpy(), cos[position_N], sin[position_N], step)
                step.finish()
                if not every:
                    x_ND = x_ND[time - 1 :: time]
                logits_NV = self._many.unembed(x_ND)
        return logits_NV.reshape(batch, time, -1) if every else logits_NV

    def _rotation(self, longest: int) -> tuple[Array, Array]:
        """cos and sin for positions below `longest` and a few more, (positions, 1, 2, K / 2) for a head's halves."""
        if longest > len(self._cos):
            count = min(2 * longest + 64, self.model.config.block_size)
            cos, sin = (part.numpy() for part in self.model.rope.at(torch.arange(count), count, torch.float32))
            self._cos, self._sin = np.stack((cos, cos), axis=2), np.stack((-sin, sin), axis=2)
        return self._cos, self._sin


class _OneToken:
    """A step of one token."""

    def __init__(self, weights: _Weights) -> None:
        self.weights = weights
        config = self.config = weights.config
        heads, kv_heads, width, chosen = config.n_head, config.kv_heads, config.head_dim, config.active_experts
        self.normed_D = Twin.empty(config.n_embd)
        self.written_D = Twin.empty(config.n_embd)
        # Queries, keys and values one after the other; the first two are rotated, half heads with half heads.
        self.qkv = Twin.empty((heads + 2 * kv_heads) * width)
        halves = self.qkv.array.reshape(-1, 2, width // 2)
        self.turned, self.value_HK = halves[: heads + kv_heads], halves[heads + kv_heads :].reshape(kv_heads, width)
        self.swapped = self.turned[:, ::-1]
        self.rotated, self.product = np.empty_like(self.turned), np.empty_like(self.turned)
        self.query_BHMK = self.rotated[:heads].reshape(1, kv_heads, -1, width)
        self.key_HK = self.rotated[heads:].reshape(kv_heads, width)
        self.logit_E = Twin.empty(config.num_experts)
        self.weight_C1 = np.empty((chosen, 1), dtype=np.float32)
        self.normed_CD = ChosenRows(self.normed_D.tensor.expand(chosen, -1))
        self.hidden_CU = ChosenRows(torch.empty(chosen, 2 * config.expert_width))
        self.activated_CF = ChosenRows(torch.empty(chosen, config.expert_width))
        self.answer_CD = ChosenRows(torch.empty(chosen, config.n_embd))

    def read(self, token: int, position: int, cos: Array, sin: Array, cache: KVCache) -> Tensor:
        """Logits (1, V) of what follows a token; cos and sin are its position's, (1, 2, K / 2)."""
        weights = self.weights
        x_D = weights.embedding_VD[token].copy()
        for layer, keys, values in zip(weights.layers, cache.keys, cache.values, strict=True):
            self._norm(x_D, layer.attention_norm_D)
            x_D += self._attend(layer, position, cos, sin, keys.numpy(), values.numpy())
            self._norm(x_D, layer.experts_norm_D)
            x_D += self._mix(layer)
        self._norm(x_D, weights.norm_D)
        logits_V = Twin.empty(len(weights.embedding_VD))
        weights.unembedding.one(self.normed_D, logits_V)
        return logits_V.tensor[None]

    def _norm(self, x_D: Array, weight_D: Array) -> None:
        mean = float(x_D.dot(x_D)) / len(x_D)
        np.multiply(x_D, 1 / math.sqrt(mean + self.config.norm_eps), out=self.normed_D.array)
        self.normed_D.array *= weight_D

    def _attend(
        self, layer: _Layer, position: int, cos: Array, sin: Array, keys_BSHK: Array, values_BSHK: Array
    ) -> Array:
        """Attention of the new token to itself and to what the cache holds, of which it becomes part."""
        layer.qkv.one(self.normed_D, self.qkv)
        # A head's halves (a, b) turn into (a cos - b sin, b cos + a sin).
        np.multiply(self.turned, cos, out=self.rotated)
        np.multiply(self.swapped, sin, out=self.product)
        self.rotated += self.product
        # A ring of the window's size: the oldest key makes room, and the order of keys does not matter to a softmax.
        size = keys_BSHK.shape[1]
        keys_BSHK[0, position % size] = self.key_HK
        values_BSHK[0, position % size] = self.value_HK
        seen = min(position + 1, size)
        mixed = _attend(self.query_BHMK, keys_BSHK[:, :seen], values_BSHK[:, :seen], layer.sinks_Q, None)
        layer.out.one(Twin(torch.from_numpy(mixed.reshape(-1))), self.written_D)
        return self.written_D.array

    def _mix(self, layer: _Layer) -> Array:
        """The chosen experts' answers, weighed."""
        experts = [0]
        if layer.router is not None:
            layer.router.one(self.normed_D, self.logit_E)
            logits = self.logit_E.array.tolist()
            best = sorted(range(len(logits)), key=logits.__getitem__, reverse=True)
            experts = sorted(best[: self.config.active_experts])
            self.weight_C1[:, 0] = [math.exp(logits[expert] - logits[best[0]]) for expert in experts]
        layer.gate_up.one(self.normed_CD, experts, self.hidden_CU)
        _swiglu(self.config, self.hidden_CU.array, self.activated_CF.array)
        layer.down.one(self.activated_CF, experts, self.answer_CD)
        if layer.router is None:
            return self.answer_CD.array[0]
        self.weight_C1 /= self.weight_C1.sum()
        self.answer_CD.array *= self.weight_C1
        mixed_D: Array = np.add.reduce(self.answer_CD.array, axis=0)
        return mixed_D


class _Places:
    """Where a step's new tokens are written in the layers of one kind, and what they see there.

    Attributes:
        rows, slots: (N,) indices of the new tokens in a layer's keys, (B, slots, H, K).
        seen: S.
        mask: (B, 1, M, S) additive; None where every query sees all slots in view.
    """

    def __init__(self, step: CacheStep, layer: int, queries: int) -> None:
        places = step.places(layer)
        self.rows, self.slots = places.rows.reshape(-1).numpy(), places.slots.reshape(-1).numpy()
        self.seen, self.mask = places.seen, None
        if not bool(places.visible.all()):
            mask_BTS = torch.zeros(places.visible.shape).masked_fill_(~places.visible, -torch.inf)
            self.mask = mask_BTS.repeat_interleave(queries, dim=1)[:, None]


class _ManyTokens:
    """A step of several tokens."""

    def __init__(self, weights: _Weights) -> None:
        self.weights, self.config = weights, weights.config

    def read(self, token_N: NDArray[np.int64], cos: Array, sin: Array, step: CacheStep) -> Array:
        """What the last norm reads, (N, D); cos and sin are those of the tokens' positions, (N, 1, 2, K / 2)."""
        config, weights, cache = self.config, self.weights, step.cache
        kinds: dict[int, _Places] = {}
        x_ND = weights.embedding_VD[token_N]
        for index, layer in enumerate(weights.layers):
            window = cache.windows[index]
            if window not in kinds:
                kinds[window] = _Places(step, index, config.n_head // config.kv_heads)
            held = cache.keys[index].numpy(), cache.values[index].numpy()
            x_ND += self._attend(layer, self._norm(x_ND, layer.attention_norm_D), cos, sin, held, kinds[window])
            x_ND += self._mix(layer, self._norm(x_ND, layer.experts_norm_D))
        return x_ND

    def unembed(self, x_ND: Array) -> Tensor:
        """Logits, (N, V)."""
        return torch.from_numpy(self.weights.unembedding.many(self._norm(x_ND, self.weights.norm_D)))

    def _norm(self, x_ND: Array, weight_D: Array) -> Array:
        mean_N1 = np.vecdot(x_ND, x_ND)[:, None] / np.float32(x_ND.shape[1])
        normed_ND = x_ND / np.sqrt(mean_N1 + np.float32(self.config.norm_eps))
        normed_ND *= weight_D
        return normed_ND

    def _attend(
        self, layer: _Layer, x_ND: Array, cos: Array, sin: Array, held: tuple[Array, Array], places: _Places
    ) -> Array:
        """Attention of the new tokens to themselves and to what the cache holds, of which they become part."""
        config = self.config
        heads, kv_heads, width = config.n_head, config.kv_heads, config.head_dim
        halves = layer.qkv.many(x_ND).reshape(len(x_ND), -1, 2, width // 2)
        turned = halves[:, : heads + kv_heads]
        rotated = turned * cos
        rotated += turned[:, :, ::-1] * sin
        keys_BSHK, values_BSHK = held
        keys_BSHK[places.rows, places.slots] = rotated[:, heads:].reshape(-1, kv_heads, width)
        values_BSHK[places.rows, places.slots] = halves[:, heads + kv_heads :].reshape(-1, kv_heads, width)
        # From (B, T, H, Q / H, K): all queries of a row for a key-value head are rows of one product.
        batch = len(keys_BSHK)
        query = rotated[:, :heads].reshape(batch, -1, kv_heads, heads // kv_heads, width)
        query_BHMK = query.swapaxes(1, 2).reshape(batch, kv_heads, -1, width)
        seen = places.seen
        mixed_BHMK = _attend(query_BHMK, keys_BSHK[:, :seen], values_BSHK[:, :seen], layer.sinks_Q, places.mask)
        mixed = mixed_BHMK.reshape(batch, kv_heads, -1, heads // kv_heads, width).swapaxes(1, 2)
        return layer.out.many(mixed.reshape(len(x_ND), -1))

    def _mix(self, layer: _Layer, x_ND: Array) -> Array:
        """The chosen experts' answers, weighed."""
        if layer.router is None:
            return self._answer(layer, x_ND, [0], [0, len(x_ND)])
        logit_NE = layer.router.many(x_ND)
        chosen_NC = np.argsort(-logit_NE, axis=1, kind="stable")[:, : self.config.active_experts]
        weight_NC = np.take_along_axis(logit_NE, chosen_NC, axis=1)
        weight_NC = np.exp(weight_NC - weight_NC[:, :1])
        weight_NC /= weight_NC.sum(1, keepdims=True)
        # Pairs of token and expert, those of an expert one after the other.
        order = chosen_NC.argsort(axis=None, kind="stable")
        expert_R = chosen_NC.reshape(-1)[order]
        begins = [0, *(np.flatnonzero(np.diff(expert_R)) + 1).tolist()]
        x_RD = x_ND[order // chosen_NC.shape[1]]
        answer_NCD = np.empty((*chosen_NC.shape, x_ND.shape[1]), dtype=np.float32)
        answer_NCD.reshape(len(order), -1)[order] = self._answer(
            layer, x_RD, expert_R[begins].tolist(), [*begins, len(order)]
        )
        answer_NCD *= weight_NC[..., None]
        mixed_ND: Array = answer_NCD.sum(1)
        return mixed_ND

    def _answer(self, layer: _Layer, x_RD: Array, experts: list[int], bounds: list[int]) -> Array:
        """(R, D): what experts say to their rows, see `ExpertProduct.many`."""
        hidden_RU = layer.gate_up.many(x_RD, experts, bounds)
        activated_RF = np.empty((len(x_RD), self.config.expert_width), dtype=np.float32)
        _swiglu(self.config, hidden_RU, activated_RF)
        return layer.down.many(activated_RF, experts, bounds)


def _swiglu(config: ModelConfig, hidden_RU: Array, activated_RF: Array) -> None:
    """(R, 2 F), gate and linear part interleaved, to (R, F); overwrites both."""
    limit = np.float32(config.swiglu_limit)
    np.minimum(hidden_RU, limit, out=hidden_RU)
    gate_RF, linear_RF = hidden_RU[:, ::2], hidden_RU[:, 1::2]
    np.maximum(linear_RF, -limit, out=linear_RF)
    linear_RF += 1
    linear_RF *= gate_RF
    # gate x sigmoid(alpha gate), times the linear part
    np.multiply(gate_RF, np.float32(-config.swiglu_alpha), out=activated_RF)
    np.exp(activated_RF, out=activated_RF)
    activated_RF += 1
    np.divide(linear_RF, activated_RF, out=activated_RF)


def _attend(
    query_BHMK: Array, keys_BSHK: Array, values_BSHK: Array, sinks_Q: Array | None, mask: Tensor | None
) -> Array:
    """Attention to the slots in view, (B, H, M, K); `mask` as in `_Places`."""
    batch, kv_heads, queries, width = query_BHMK.shape
    slots = keys_BSHK.shape[1]
    sinks_HM = None
    if sinks_Q is not None:
        sinks_HM = sinks_Q.reshape(kv_heads, -1)
        if sinks_HM.shape[1] < queries:  # the heads of several tokens
            sinks_HM = np.tile(sinks_HM, queries // sinks_HM.shape[1])
    if batch * queries * slots > FEW_SCORES:
        return _attend_many(query_BHMK, keys_BSHK, values_BSHK, sinks_HM, mask)
    # A sink is one more score whose value is dropped.
    score = np.empty((batch, kv_heads, queries, slots + (sinks_HM is not None)), dtype=np.float32)
    score_BHMS = score[..., :slots]
    np.matmul(query_BHMK, keys_BSHK.transpose(0, 2, 3, 1), out=score_BHMS)
    score_BHMS *= width**-0.5
    if mask is not None:
        score_BHMS += mask.numpy()
    if sinks_HM is not None:
        score[..., slots] = sinks_HM
    score -= np.maximum.reduce(score, axis=-1, keepdims=True)
    np.exp(score, out=score)
    mixed_BHMK: Array = score_BHMS @ values_BSHK.transpose(0, 2, 1, 3)
    mixed_BHMK /= np.add.reduce(score, axis=-1, keepdims=True)
    return mixed_BHMK


def _attend_many(
    query_BHMK: Array, keys_BSHK: Array, values_BSHK: Array, sinks_HM: Array | None, mask: Tensor | None
) -> Array:
    """The same with torch's flash kernel, which shares the rows between the cores; sinks as in `attention`."""
    query, keys, values = (torch.from_numpy(x) for x in (query_BHMK, keys_BSHK, values_BSHK))
    mixed, log_total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys.transpose(1, 2), values.transpose(1, 2), 0.0, False, attn_mask=mask
    )
    mixed_BHMK: Array = mixed.numpy()
    if sinks_HM is not None:
        mixed_BHMK /= 1 + np.exp(sinks_HM - log_total.numpy())[..., None]
    return mixed_BHMK
