"""One decoding step of one token, as machine code that numba makes of the loops below.

A step of a small model is a few hundred operations on a few hundred numbers each: even numpy spends most of such a step
between operations. Here half a layer is one call. Every weight is read once, in float32 or as one of 255 whole numbers
times a scale (`quantized`), and used while it is in a register: one core then reads memory about as fast as it can.
Several cores share what is large: rows of a matrix, experts, and the heads of a long story. Each number is the work of
one core, whatever their count, so that the same story is told on any number of them.

numba compiles the functions when they are first called and keeps the result in a folder beside this file, or in the
user's cache if that cannot be written: about twenty seconds once per installation, and about one in later processes.
Importing this module imports numba, so only a decoder does.

Axis letters:  D model width   O outputs   I inputs   Q query heads   H key-value heads   K head width   J half of it
               S slots of the cache   E experts   C experts chosen   U = 2 F, gate and linear part of F hidden numbers
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numba import njit, prange
from numba.core import event
from numpy.typing import NDArray
from torch import Tensor

from .quantized import quantize

if TYPE_CHECKING:
    from ..config import ModelConfig
    from .kv_cache import KVCache

Array = NDArray[np.float32]

SHARED_WEIGHTS = 1 << 18
"""Weights in a product from which the cores share it: fewer are read sooner than a second core has begun."""

SHARED_SCORES = 1 << 13
"""Numbers in the keys of a layer from which the cores share its heads; per key-value head, they are read by one."""

MOST_CORES = 8
"""Of a step: reading memory gains little from more."""


def _compiler(*, parallel: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for loops: sums in any order, so that they fill vector registers; infinities and NaN mean what they
    always mean."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {
            "parallel": parallel,
            "nogil": True,
            "error_model": "numpy",
            "fastmath": {"reassoc", "contract", "nsz", "arcp"},
        }
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder can be written, as in some containers: compiled anew by each process
            return njit(**options)(function)

    return decorate


_compiled = _compiler(parallel=False)
_compiled_for_cores = _compiler(parallel=True)


@_compiled
def _rows(weight_OI, scale_O, bias_O, x_I, y_O, begin, end):
    """Outputs begin to end of W x + b; W is weight_OI, times scale_O if that is given."""
    for o in range(begin, end):
        total = np.float32(0)
        for i in range(len(x_I)):
            total += np.float32(weight_OI[o, i]) * x_I[i]
        if scale_O is not None:
            total *= scale_O[o]
        if bias_O is not None:
            total += bias_O[o]
        y_O[o] = total


@_compiled_for_cores
def _rows_on_cores(weight_OI, scale_O, bias_O, x_I, y_O, cores):
    for core in prange(cores):
        _rows(weight_OI, scale_O, bias_O, x_I, y_O, len(y_O) * core // cores, len(y_O) * (core + 1) // cores)


@_compiled
def _linear(weight_OI, scale_O, bias_O, x_I, cores):
    """(O,): W x + b."""
    y_O = np.empty(len(weight_OI), np.float32)
    if cores > 1 and weight_OI.size >= SHARED_WEIGHTS:
        _rows_on_cores(weight_OI, scale_O, bias_O, x_I, y_O, cores)
    else:
        _rows(weight_OI, scale_O, bias_O, x_I, y_O, 0, len(y_O))
    return y_O


@_compiled
def _columns(weight_EIO, scale_EO, bias_EO, expert, x_I, y_O):
    """x W + b of an expert, whose matrix stands the other way round: four inputs at a time, to write outputs less
    often."""
    weight_IO = weight_EIO[expert]
    inputs, outputs = weight_IO.shape
    y_O[:] = 0
    whole = inputs - inputs % 4
    for i in range(0, whole, 4):
        a, b, c, d = x_I[i], x_I[i + 1], x_I[i + 2], x_I[i + 3]
        for o in range(outputs):
            y_O[o] += (a * np.float32(weight_IO[i, o]) + b * np.float32(weight_IO[i + 1, o])) + (
                c * np.float32(weight_IO[i + 2, o]) + d * np.float32(weight_IO[i + 3, o])
            )
    for i in range(whole, inputs):
        for o in range(outputs):
            y_O[o] += x_I[i] * np.float32(weight_IO[i, o])
    if scale_EO is not None:
        y_O *= scale_EO[expert]
    y_O += bias_EO[expert]


@_compiled
def _norm(x_D, weight_D, eps):
    """RMSNorm."""
    total = np.float32(0)
    for d in range(len(x_D)):
        total += x_D[d] * x_D[d]
    factor = np.float32(1) / np.float32(math.sqrt(total / np.float32(len(x_D)) + eps))
    normed_D = np.empty_like(x_D)
    for d in range(len(x_D)):
        normed_D[d] = x_D[d] * factor * weight_D[d]
    return normed_D


@_compiled
def _rotate(head_K, cos_J, sin_J):
    """A head's halves (a, b) become (a cos - b sin, b cos + a sin)."""
    half = len(cos_J)
    for j in range(half):
        a, b = head_K[j], head_K[half + j]
        head_K[j] = a * cos_J[j] - b * sin_J[j]
        head_K[half + j] = b * cos_J[j] + a * sin_J[j]


@_compiled
def _attend_head(query_QK, keys_SHK, values_SHK, sinks_Q, head, newest, size, window, mixed_QK):
    """What the queries of one key-value head see: of all slots given, which are those of a ring of some size that have
    been written, the newest and the window - 1 before it. A sink is one more score, whose value is nothing."""
    slots, kv_heads, width = keys_SHK.shape
    group = len(query_QK) // kv_heads
    scale = np.float32(1 / math.sqrt(width))
    score_S = np.empty(slots, np.float32)
    for query in range(head * group, (head + 1) * group):
        largest = np.float32(-np.inf) if sinks_Q is None else sinks_Q[query]
        for slot in range(slots):
            score = np.float32(0)
            for k in range(width):
                score += query_QK[query, k] * keys_SHK[slot, head, k]
            age = newest - slot if slot <= newest else newest - slot + size
            score_S[slot] = score * scale if age < window else np.float32(-np.inf)
            largest = max(largest, score_S[slot])
        total = np.float32(0) if sinks_Q is None else np.float32(math.exp(sinks_Q[query] - largest))
        mixed_QK[query] = 0
        for slot in range(slots):
            share = np.float32(math.exp(score_S[slot] - largest))
            total += share
            for k in range(width):
                mixed_QK[query, k] += share * values_SHK[slot, head, k]
        mixed_QK[query] /= total


@_compiled_for_cores
def _attend_on_cores(query_QK, keys_SHK, values_SHK, sinks_Q, newest, size, window, mixed_QK):
    for head in prange(keys_SHK.shape[1]):
        _attend_head(query_QK, keys_SHK, values_SHK, sinks_Q, head, newest, size, window, mixed_QK)


@_compiled
def _attend(x_D, eps, attention, keys_SHK, values_SHK, position, window, cos_J, sin_J, cores):
    """(D,): a layer's attention of the new token to itself and to what the cache holds, of which it becomes part."""
    norm_D, qkv, qkv_scale, qkv_bias, out, out_scale, out_bias, sinks_Q = attention
    kv_heads, width = keys_SHK.shape[1:]
    qkv_NK = _linear(qkv, qkv_scale, qkv_bias, _norm(x_D, norm_D, eps), cores).reshape(-1, width)
    turned = len(qkv_NK) - kv_heads
    for head in range(turned):
        _rotate(qkv_NK[head], cos_J, sin_J)
    queries = turned - kv_heads
    size = len(keys_SHK)
    newest = position % size
    keys_SHK[newest] = qkv_NK[queries:turned]
    values_SHK[newest] = qkv_NK[turned:]
    query_QK, mixed_QK = qkv_NK[:queries], np.empty((queries, width), np.float32)
    written = min(position + 1, size)
    keys_SHK, values_SHK = keys_SHK[:written], values_SHK[:written]
    if cores > 1 and keys_SHK.size >= SHARED_SCORES * kv_heads:
        _attend_on_cores(query_QK, keys_SHK, values_SHK, sinks_Q, newest, size, window, mixed_QK)
    else:
        for head in range(kv_heads):
            _attend_head(query_QK, keys_SHK, values_SHK, sinks_Q, head, newest, size, window, mixed_QK)
    return _linear(out, out_scale, out_bias, mixed_QK.reshape(-1), cores)


@_compiled
def _expert(x_D, experts, expert, alpha, limit, answer_D):
    """One expert's answer: clamped SwiGLU, gate and linear part interleaved."""
    gate_up_EDU, gate_up_scale_EU, gate_up_bias_EU, down_EFD, down_scale_ED, down_bias_ED = experts
    hidden_U = np.empty(gate_up_EDU.shape[2], np.float32)
    _columns(gate_up_EDU, gate_up_scale_EU, gate_up_bias_EU, expert, x_D, hidden_U)
    active_F = np.empty(len(hidden_U) // 2, np.float32)
    for f in range(len(active_F)):
        gate = min(hidden_U[2 * f], limit)
        linear = min(max(hidden_U[2 * f + 1], -limit), limit)
        active_F[f] = (linear + np.float32(1)) * gate / (np.float32(1) + np.float32(math.exp(-alpha * gate)))
    _columns(down_EFD, down_scale_ED, down_bias_ED, expert, active_F, answer_D)


@_compiled_for_cores
def _experts_on_cores(x_D, experts, chosen_C, alpha, limit, answer_CD):
    for place in prange(len(chosen_C)):
        _expert(x_D, experts, chosen_C[place], alpha, limit, answer_CD[place])


@_compiled
def _choose(logit_E, count):
    """The experts with the largest logits, falling, the first of equals first; and their softmax."""
    chosen_C, weight_C = np.empty(count, np.int64), np.empty(count, np.float32)
    left_E = logit_E.copy()
    for place in range(count):
        best = 0
        for expert in range(len(left_E)):
            if left_E[expert] > left_E[best]:
                best = expert
        chosen_C[place] = best
        weight_C[place] = math.exp(logit_E[best] - logit_E[chosen_C[0]])
        left_E[best] = -np.inf
    weight_C /= weight_C.sum()
    return chosen_C, weight_C


@_compiled
def _mix(x_D, eps, mixture, experts, count, alpha, limit, cores):
    """(D,): the chosen experts' answers, weighed."""
    norm_D, router, router_bias = mixture
    normed_D = _norm(x_D, norm_D, eps)
    chosen_C, weight_C = _choose(_linear(router, None, router_bias, normed_D, 1), count)
    answer_CD = np.empty((len(chosen_C), len(x_D)), np.float32)
    if cores > 1 and len(chosen_C) > 1 and experts[0][0].size >= SHARED_WEIGHTS:
        _experts_on_cores(normed_D, experts, chosen_C, alpha, limit, answer_CD)
    else:
        for place in range(len(chosen_C)):
            _expert(normed_D, experts, chosen_C[place], alpha, limit, answer_CD[place])
    mixed_D = np.zeros(len(x_D), np.float32)
    for place in range(len(chosen_C)):
        for d in range(len(mixed_D)):
            mixed_D[d] += weight_C[place] * answer_CD[place, d]
    return mixed_D


@_compiled
def _unembed(x_D, norm_D, eps, weight_VD, scale_V, cores):
    """(V,) logits."""
    return _linear(weight_VD, scale_V, None, _norm(x_D, norm_D, eps), cores)


class _Remark(event.Listener):
    """Says once per process that compiling takes its time."""

    said = False

    def on_start(self, event: event.Event) -> None:
        if not self.said and event.data["dispatcher"] in (_attend, _mix, _unembed):
            self.said = True
            logging.getLogger(__name__).warning("Compiling the decoding step for this machine takes some 20 s ...")

    def on_end(self, event: event.Event) -> None:
        pass


_remark = _Remark()
event.register("numba:compile", _remark)

_cores_are_free = Lock()
"""numba's own thread pool, where there is no OpenMP, ends the process if two threads use it at once."""


class OneToken:
    """Steps of one token of one row.

    Args:
        config: of a model that `Decoder.suits`.
        parameters: the model's, by name, as views that later changes show in.
        unembedding_VD: its unembedding.
        in_bytes: multiply with `quantize`d copies of all matrices but the routers', which decide between experts.
    """

    def __init__(
        self, config: ModelConfig, parameters: Mapping[str, Tensor], unembedding_VD: Tensor, *, in_bytes: bool
    ) -> None:
        def array(name: str) -> Array | None:
            return parameters[name].numpy() if name in parameters else None

        def matrix(weight: Tensor) -> tuple[Any, Array | None]:
            return quantize(weight) if in_bytes else (weight.numpy(), None)

        self.layers: list[tuple[tuple[Any, ...], ...]] = []
        for layer in range(config.n_layer):
            attention, experts = f"layers.{layer}.attention.", f"layers.{layer}.experts."
            router, router_bias = array(experts + "router.weight"), array(experts + "router.bias")
            if router is None:  # a dense model: its only expert is always chosen
                router, router_bias = np.zeros((1, config.n_embd), np.float32), np.zeros(1, np.float32)
            self.layers.append(
                (
                    (
                        array(attention + "norm.weight"),
                        *matrix(parameters[attention + "qkv.weight"]),
                        array(attention + "qkv.bias"),
                        *matrix(parameters[attention + "out.weight"]),
                        array(attention + "out.bias"),
                        array(attention + "sinks"),
                    ),
                    (array(experts + "norm.weight"), router, router_bias),
                    (
                        *matrix(parameters[experts + "gate_up_weight"]),
                        array(experts + "gate_up_bias"),
                        *matrix(parameters[experts + "down_weight"]),
                        array(experts + "down_bias"),
                    ),
                )
            )
        self.unembedding = matrix(unembedding_VD)
        self.norm_D, self.embedding_VD = parameters["norm.weight"].numpy(), parameters["embedding.weight"].numpy()
        self.eps = np.float32(config.norm_eps)
        self.count = config.active_experts
        self.alpha, self.limit = np.float32(config.swiglu_alpha), np.float32(config.swiglu_limit)

    def read(self, token: int, cos_J: Array, sin_J: Array, cache: KVCache) -> Tensor:
        """Read a token after those in the cache, which has room for it.

        Args:
            cos_J, sin_J: of the token's position.

        Returns:
            (1, V) float32, the logits of what follows.
        """
        position = cache.longest
        cores = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, MOST_CORES)  # type: ignore[attr-defined]
        x_D = self.embedding_VD[token].copy()
        with _cores_are_free:
            before = numba.get_num_threads()
            numba.set_num_threads(cores)
            try:
                for layer, keys, values, window in zip(
                    self.layers, cache.keys, cache.values, cache.windows, strict=True
                ):
                    attention, mixture, experts = layer
                    keys_SHK, values_SHK = keys[0].numpy(), values[0].numpy()
                    window = window or len(keys_SHK)
                    x_D += _attend(
                        x_D, self.eps, attention, keys_SHK, values_SHK, position, window, cos_J, sin_J, cores
                    )
                    x_D += _mix(x_D, self.eps, mixture, experts, self.count, self.alpha, self.limit, cores)
                logits_V = _unembed(x_D, self.norm_D, self.eps, *self.unembedding, cores)
            finally:
                numba.set_num_threads(before)
        return torch.from_numpy(logits_V)[None]
