"""Decoding steps on a CPU: the same model again, without torch's cost for each call.

A step has a few hundred operations on small arrays, and torch needs microseconds for each before it does anything. One
token of one row is read by compiled loops (`one_token`). Several tokens, of several rows or guessed ahead for one, are
rows of common products, for which the weights are read once: torch multiplies, and numpy, which needs a fraction of
torch's time to begin, does the small work between. The arrays are views of torch's own memory: parameters that training
changes, and the cache, are the same bytes for all.

Axis letters:  N new tokens: of B rows, T of each   D model width   I inputs of a matrix, O its outputs
               Q query heads   H key-value heads   M queries of each of them: T Q / H   K head width   S slots in view
               E experts   C experts chosen per token   R rows of the experts' products: pairs of token and expert
               F expert width   V vocabulary

It holds for models with RMSNorm and SwiGLU in float32 on a CPU; the first reading of prompts, and everything else, is
torch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from .kv_cache import CacheStep, KVCache
    from .one_token import OneToken
    from .transformer import StoryTransformer

Array = NDArray[np.float32]

FEW_SCORES = 1024
"""Up to this many scores for a key-value head, of all rows, numpy attends; torch's flash kernel takes longer to
start."""


class _Linear:
    """x W^T + b, on views of a layer's parameters."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self.weight_OI, self.bias_O = weight_OI, bias_O

    def __call__(self, x_NI: Array) -> Array:
        """(N, O), contiguous."""
        # oneMKL needs half the time when the tokens, which are few, are the product's columns and not its rows.
        y_ON = torch.mm(self.weight_OI, torch.from_numpy(x_NI).t())
        y = y_ON.t().contiguous() if self.bias_O is None else y_ON.t() + self.bias_O
        return y.numpy()


class _ExpertLinear:
    """x W[e] + b[e] for chosen experts, on views of a layer's parameters."""

    def __init__(self, weight_EIO: Tensor, bias_EO: Tensor) -> None:
        self.weight_EIO, self.bias_EO = weight_EIO, bias_EO

    def __call__(self, x_RI: Array, experts: list[int], bounds: list[int]) -> Array:
        """(R, O): rows bounds[i] to bounds[i + 1] multiplied with the matrix of experts[i], which rises."""
        y_RO = np.empty((len(x_RI), self.bias_EO.shape[1]), dtype=np.float32)
        x, y = torch.from_numpy(x_RI), torch.from_numpy(y_RO)
        for place, expert in enumerate(experts):
            rows = slice(bounds[place], bounds[place + 1])
            torch.addmm(self.bias_EO[expert], x[rows], self.weight_EIO[expert], out=y[rows])
        return y_RO


class _Layer:
    """One block's parameters."""

    def __init__(self, parameters: Mapping[str, Tensor], prefix: str) -> None:
        own = {
            name.removeprefix(f"{prefix}."): parameters[name] for name in parameters if name.startswith(f"{prefix}.")
        }
        self.attention_norm_D = own["attention.norm.weight"].numpy()
        self.qkv, self.out = (
            _Linear(own[f"{name}.weight"], own[f"{name}.bias"]) for name in ("attention.qkv", "attention.out")
        )
        self.sinks_Q = own["attention.sinks"].numpy() if "attention.sinks" in own else None
        self.experts_norm_D = own["experts.norm.weight"].numpy()
        self.router: _Linear | None = None
        if "experts.router.weight" in own:
            self.router = _Linear(own["experts.router.weight"], own["experts.router.bias"])
        self.gate_up = _ExpertLinear(own["experts.gate_up_weight"], own["experts.gate_up_bias"])
        self.down = _ExpertLinear(own["experts.down_weight"], own["experts.down_bias"])


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


class Decoder:
    """Decoding steps of a model; see the module's text.

    Args:
        model: for which `Decoder.suits` holds.
    """

    def __init__(self, model: StoryTransformer) -> None:
        self.config = config = model.config
        self.model = model
        self.weights = model.decode_weights
        self._owners = [
            (module._parameters, name, parameter)
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._versions = self._count_versions()
        self._parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self.layers = [_Layer(self._parameters, f"layers.{layer}") for layer in range(config.n_layer)]
        self.norm_D = self._parameters["norm.weight"].numpy()
        self.embedding_VD = self._parameters["embedding.weight"].numpy()
        self.unembedding = _Linear(model.unembedding_weight.detach(), None)
        self._cos = self._sin = np.empty((0, 1, 2, config.head_dim // 2), dtype=np.float32)

    @cached_property
    def one_token(self) -> OneToken:
        """The way of a single token; made when it is first needed, since that may take a while."""
        from .one_token import OneToken

        return OneToken(self.config, self._parameters, self.unembedding.weight_OI, in_bytes=self.weights == "int8")

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
        """Whether the model still has the parameters that the views are of, and those in bytes their numbers. Moving a
        model keeps the parameters and changes their memory; then the model drops its decoder itself."""
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
        """Whether these (B, T) tokens, none of them padding, are a step after a prompt; see `KVCache` for lookahead."""
        return (
            0 < tokens.shape[1] <= cache.lookahead
            and len(tokens) > 0
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
        step = cache.begin(time, None)
        if batch * time == 1:
            position = cache.longest
            self._grow_rotation(step.longest)
            logits = self.one_token.read(int(tokens), self._cos[position, 0, 0], self._sin[position, 0, 1], cache)
            step.finish()
            return logits.reshape(1, 1, -1) if every else logits

        kinds: dict[int, _Places] = {}
        for layer, window in enumerate(cache.windows):
            if window not in kinds:
                kinds[window] = _Places(step, layer, self.config.n_head // self.config.kv_heads)
        self._grow_rotation(step.longest)
        position_N = step.positions.reshape(-1).numpy()
        cos, sin = self._cos[position_N], self._sin[position_N]
        x_ND = self.embedding_VD[tokens.reshape(-1).numpy()]
        # Beyond float32's range torch gives infinities silently; whoever chooses tokens looks for them.
        with np.errstate(over="ignore", invalid="ignore"):
            for index, block in enumerate(self.layers):
                places = kinds[cache.windows[index]]
                held = cache.keys[index].numpy(), cache.values[index].numpy()
                x_ND += self._attend(block, self._norm(x_ND, block.attention_norm_D), cos, sin, held, places)
                x_ND += self._mix(block, self._norm(x_ND, block.experts_norm_D))
        step.finish()
        if time > 1 and not every:
            x_ND = x_ND.reshape(batch, time, -1)[:, -1]
        logits = torch.from_numpy(self.unembedding(self._norm(x_ND, self.norm_D)))
        return logits.reshape(batch, time, -1) if every else logits

    def _grow_rotation(self, longest: int) -> None:
        """Know cos and sin of positions below `longest`, each (positions, 1, 2, K / 2) for both halves of a head."""
        if longest > len(self._cos):
            count = min(2 * longest + 64, self.config.block_size)
            cos, sin = (part.numpy() for part in self.model.rope.at(torch.arange(count), count, torch.float32))
            self._cos, self._sin = np.stack((cos, cos), axis=2), np.stack((-sin, sin), axis=2)

    def _norm(self, x_ND: Array, weight_D: Array) -> Array:
        mean_N = np.vecdot(x_ND, x_ND) * np.float32(1 / x_ND.shape[1])
        normed = x_ND * (1 / np.sqrt(mean_N + np.float32(self.config.norm_eps)))[:, None]
        normed *= weight_D
        return normed

    def _attend(
        self, block: _Layer, x_ND: Array, cos: Array, sin: Array, held: tuple[Array, Array], places: _Places
    ) -> Array:
        """Attention of the new tokens to themselves and to what the cache holds, of which they become part."""
        config = self.config
        heads, kv_heads, width = config.n_head, config.kv_heads, config.head_dim
        qkv = block.qkv(x_ND).reshape(len(x_ND), -1, 2, width // 2)
        # A head's halves (a, b) turn into (a cos - b sin, b cos + a sin).
        turned = qkv[:, : heads + kv_heads]
        rotated = turned * cos
        rotated += turned[:, :, ::-1] * sin
        keys_BSHK, values_BSHK = held
        keys_BSHK[places.rows, places.slots] = rotated[:, heads:].reshape(-1, kv_heads, width)
        values_BSHK[places.rows, places.slots] = qkv[:, heads + kv_heads :].reshape(-1, kv_heads, width)
        batch = len(keys_BSHK)
        # (B, T, H, Q / H, K): all queries of a key-value head are rows of one product.
        query = rotated[:, :heads].reshape(batch, -1, kv_heads, heads // kv_heads, width)
        query_BHMK = query.swapaxes(1, 2).reshape(batch, kv_heads, -1, width)
        attend = _attend_few if batch * query_BHMK.shape[2] * places.seen <= FEW_SCORES else _attend_many
        mixed_BHMK = attend(
            query_BHMK, keys_BSHK[:, : places.seen], values_BSHK[:, : places.seen], block.sinks_Q, places.mask
        )
        mixed = mixed_BHMK.reshape(batch, kv_heads, -1, heads // kv_heads, width).swapaxes(1, 2)
        return block.out(mixed.reshape(len(x_ND), -1))

    def _mix(self, block: _Layer, x_ND: Array) -> Array:
        """The chosen experts' answers, weighed."""
        if block.router is None:
            bounds = [0, len(x_ND)]
            return block.down(self._swiglu(block.gate_up(x_ND, [0], bounds)), [0], bounds)
        logit_NE = block.router(x_ND)
        chosen_NC = np.argsort(-logit_NE, axis=1, kind="stable")[:, : self.config.active_experts]
        weight_NC = logit_NE[np.arange(len(x_ND))[:, None], chosen_NC]
        weight_NC = np.exp(weight_NC - weight_NC[:, :1])
        weight_NC /= weight_NC.sum(1, keepdims=True)
        # Pairs of token and expert, by expert.
        order = chosen_NC.argsort(axis=None, kind="stable")
        expert_R = chosen_NC.reshape(-1)[order]
        begins = [0, *(np.flatnonzero(np.diff(expert_R)) + 1).tolist()]
        experts, bounds = expert_R[begins].tolist(), [*begins, len(order)]
        x_RD = x_ND[order // chosen_NC.shape[1]]
        answer_RD = block.down(self._swiglu(block.gate_up(x_RD, experts, bounds)), experts, bounds)
        answer_NCD = np.empty((*chosen_NC.shape, answer_RD.shape[1]), dtype=np.float32)
        answer_NCD.reshape(len(order), -1)[order] = answer_RD
        answer_NCD *= weight_NC[..., None]
        mixed_ND: Array = answer_NCD.sum(1)
        return mixed_ND

    def _swiglu(self, hidden_RU: Array) -> Array:
        """(R, 2 F), gate and linear part interleaved, to (R, F); overwrites its input."""
        limit = np.float32(self.config.swiglu_limit)
        np.minimum(hidden_RU, limit, out=hidden_RU)
        gate_RF = hidden_RU[:, ::2]
        up_RF = np.maximum(hidden_RU[:, 1::2], -limit)
        up_RF += 1
        up_RF *= gate_RF
        # gate x sigmoid(alpha gate)
        below_RF = gate_RF * np.float32(-self.config.swiglu_alpha)
        np.exp(below_RF, out=below_RF)
        below_RF += 1
        up_RF /= below_RF
        return up_RF


def _attend_few(
    query_BHMK: Array, keys_BSHK: Array, values_BSHK: Array, sinks_Q: Array | None, mask: Tensor | None
) -> Array:
    """Attention in numpy, all scores at once."""
    score_BHMS: Array = query_BHMK @ keys_BSHK.transpose(0, 2, 3, 1)
    score_BHMS *= np.float32(query_BHMK.shape[-1] ** -0.5)
    if mask is not None:
        score_BHMS += mask.numpy()
    largest: Array = score_BHMS.max(-1, keepdims=True)
    sink = None if sinks_Q is None else _sinks_of_queries(sinks_Q, query_BHMK)[..., None]
    if sink is not None:
        largest = np.maximum(largest, sink)
    score_BHMS -= largest
    np.exp(score_BHMS, out=score_BHMS)
    total = score_BHMS.sum(-1, keepdims=True)
    if sink is not None:
        total += np.exp(sink - largest)
    mixed_BHMK: Array = score_BHMS @ values_BSHK.transpose(0, 2, 1, 3)
    mixed_BHMK /= total
    return mixed_BHMK


def _attend_many(
    query_BHMK: Array, keys_BSHK: Array, values_BSHK: Array, sinks_Q: Array | None, mask: Tensor | None
) -> Array:
    """Attention with torch's flash kernel, which shares the rows between the cores; sinks as in `attention`."""
    query, keys, values = (torch.from_numpy(x) for x in (query_BHMK, keys_BSHK, values_BSHK))
    mixed, log_total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys.transpose(1, 2), values.transpose(1, 2), 0.0, False, attn_mask=mask
    )
    mixed_BHMK: Array = mixed.numpy()
    if sinks_Q is not None:
        mixed_BHMK /= 1 + np.exp(_sinks_of_queries(sinks_Q, query_BHMK) - log_total.numpy())[..., None]
    return mixed_BHMK


def _sinks_of_queries(sinks_Q: Array, query_BHMK: Array) -> Array:
    """(H, M): the sink of each query, T times those of a key-value head's."""
    kv_heads, queries = query_BHMK.shape[1:3]
    sinks = sinks_Q.reshape(kv_heads, -1)
    return sinks if sinks.shape[1] == queries else np.tile(sinks, queries // sinks.shape[1])
