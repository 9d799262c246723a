"""The GPT-OSS transformer: embedding, alternating sliding and full blocks, unembedding, and its losses.

A block adds attention and then experts to the residual stream, each reading it through a norm. Parameters are float32;
`compute_dtype` is what activations and products are in, and weights are cast to it where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..config import ModelConfig
from .attention import Attention
from .decode import Decoder
from .experts import Experts, Routing
from .kv_cache import CacheStep, KVCache
from .layers import Embedding, Linear
from .layout import DocumentLayout
from .loss import linear_cross_entropy
from .multi_token import MultiTokenModule, shift_left, targets_at_depth
from .norm import Norm
from .rope import RotaryEmbedding


@dataclass(frozen=True)
class Losses:
    """The losses of one batch. Token losses are sums over the batch divided by the given target counts, in nats."""

    total: Tensor
    """Scalar, differentiable: what training minimises."""
    next_token: Tensor
    """Scalar, detached."""
    multi_token: tuple[Tensor, ...]
    """Scalars, detached: the tokens after the next, one for each depth beyond it."""
    accuracy: tuple[Tensor, ...] | None
    """Scalars, one for each depth: targets whose logit is the highest, divided like the losses. None with gradients:
    looking for the highest logit would take some per cent of a training step."""
    balance: Tensor
    """Scalar, detached: mean over the layers, 1.0 for even routing; 0 for a dense model."""
    router_z: Tensor
    """Scalar, detached: mean over the layers."""
    expert_load: Tensor
    """(layers with a router, experts) float32: token-expert pairs, the modules of multi-token prediction last."""
    targets: int
    """Tokens that `next_token` counts in this batch."""


class Block(nn.Module):
    """One layer: attention and experts, each added to the residual stream."""

    def __init__(self, config: ModelConfig, window: int) -> None:
        super().__init__()
        self.attention = Attention(config, window)
        self.experts = Experts(config)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], layout: DocumentLayout | None, counted: Tensor | None
    ) -> tuple[Tensor, Routing | None]:
        """x: (batch, time, n_embd); see `Attention.forward` and `Experts.forward` for the rest."""
        x = x + self.attention(x, rotation, layout)
        mixed, routing = self.experts(x, counted)
        return x + mixed, routing

    def extend(self, x: Tensor, rotation: tuple[Tensor, Tensor], step: CacheStep, layer: int) -> Tensor:
        """New tokens after those in a cache; see `Attention.extend`."""
        x = x + self.attention.extend(x, rotation, step, layer)
        return x + self.experts(x, with_routing=False)[0]


class StoryTransformer(nn.Module):
    """A language model of the GPT-OSS architecture."""

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        """Build the model and initialise it from a seed; on the meta device nothing is allocated or drawn."""
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.recompute_blocks = False
        """Recompute each block in the backward pass instead of keeping its activations: less memory, a third more
        time."""
        self.decode_weights: Literal["float32", "int8"] = "float32"
        """What tokens are decoded from on a CPU; `quantized.quantize_for_decoding` sets it to int8."""
        self._decoder: Decoder | None = None
        self.embedding = Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(Block(config, config.layer_window(layer)) for layer in range(config.n_layer))
        self.norm = Norm(config)
        self.unembedding = None if config.tie_embeddings else Linear(config.n_embd, config.vocab_size, bias=False)
        self.multi_token = nn.ModuleList(
            MultiTokenModule(config, Block(config, config.layer_window(config.n_layer + depth)))
            for depth in range(config.multi_token_predict - 1)
        )
        self.rope = RotaryEmbedding(config)
        if not self.embedding.weight.is_meta:
            self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw the parameters: matrices with variance 1 / inputs, those that write to the residual stream smaller by
        sqrt(2 n_layer) (GPT-2); the embedding with a deviation of 0.3, so that what the first blocks write does not
        drown which token it is, the unembedding with 0.02, one table for both with 0.1; norms 1, biases and sinks 0."""
        generator = torch.Generator().manual_seed(seed)

        def draw(parameter: Tensor, std: float) -> None:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

        residual = (2 * self.config.n_layer) ** -0.5
        for name, parameter in self.named_parameters():
            module_name, _, leaf = name.rpartition(".")
            if module_name == "embedding":
                draw(parameter, 0.1 if self.config.tie_embeddings else 0.3)
            elif module_name == "unembedding":
                draw(parameter, 0.02)
            elif leaf in ("gate_up_weight", "down_weight"):
                draw(parameter, parameter.shape[1] ** -0.5 * (residual if leaf == "down_weight" else 1.0))
            elif parameter.dim() == 2 and leaf == "weight":
                draw(parameter, parameter.shape[1] ** -0.5 * (residual if module_name.endswith(".out") else 1.0))
            elif leaf == "weight":
                parameter.fill_(1.0)
            else:
                parameter.zero_()

    @property
    def unembedding_weight(self) -> Tensor:
        """(vocab_size, n_embd); the embedding table itself where the two are tied."""
        return self.embedding.weight if self.unembedding is None else self.unembedding.weight

    def _apply(self, *arguments: Any, **options: Any) -> StoryTransformer:
        """Move or convert the parameters: what looks at their old memory is forgotten."""
        self._decoder = None
        return super()._apply(*arguments, **options)

    def _fast_decoder(self) -> Decoder | None:
        """The faster way to read a few more tokens, where there is one."""
        if not Decoder.suits(self):
            return None
        if self._decoder is None or not self._decoder.is_current:
            self._decoder = Decoder(self)
        return self._decoder

    def _embed(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.embedding.weight).to(self.compute_dtype)

    def _rotation(self, positions: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        return self.rope.at(positions, longest, self.compute_dtype)

    def _run(self, block: nn.Module, *arguments: object) -> tuple[Tensor, Routing | None]:
        if self.recompute_blocks and torch.is_grad_enabled():
            recomputed: tuple[Tensor, Routing | None] = checkpoint(block, *arguments, use_reentrant=False)
            return recomputed
        result: tuple[Tensor, Routing | None] = block(*arguments)
        return result

    def _trunk(
        self,
        tokens: Tensor,
        rotation: tuple[Tensor, Tensor],
        layout: DocumentLayout | None,
        counted: Tensor | None,
    ) -> tuple[Tensor, list[Routing]]:
        """Hidden states (batch, time, n_embd) before the last norm, and each layer's routing."""
        x = self._embed(tokens)
        routings = []
        for layer in self.layers:
            x, routing = self._run(layer, x, rotation, layout, counted)
            if routing is not None:
                routings.append(routing)
        return x, routings

    def _check_length(self, tokens: Tensor) -> None:
        if tokens.shape[1] > self.config.block_size:
            raise ValueError(f"{tokens.shape[1]} tokens in a row, but block_size is {self.config.block_size}")

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of whole sequences; see `logits`."""
        return self.logits(tokens)

    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits at every position.

        Args:
            tokens: (batch, time) int64, each row one document.

        Returns:
            (batch, time, vocab_size) float32.

        Raises:
            ValueError: a row is longer than block_size.
        """
        return self._unembed(self.final_hidden(tokens))

    def final_hidden(self, tokens: Tensor) -> Tensor:
        """What the unembedding reads: (batch, time, n_embd), after the last norm; arguments as `logits`."""
        self._check_length(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        hidden, _ = self._trunk(tokens, self._rotation(positions, tokens.shape[1]), None, None)
        normed: Tensor = self.norm(hidden)
        return normed

    def _unembed(self, normed: Tensor) -> Tensor:
        logits = F.linear(normed, self.unembedding_weight.to(normed.dtype))
        return logits if logits.dtype == torch.float64 else logits.float()

    def count_targets(self, documents: Tensor | None, trained: Tensor | None) -> tuple[int, ...]:
        """Targets of a batch at each depth; documents, trained: (batch, time), of which one may be None."""
        given = documents if documents is not None else trained
        if given is None:
            raise ValueError("count_targets needs documents or trained to know the batch's shape")
        tokens = torch.zeros(given.shape, dtype=torch.int64, device=given.device)
        depths = range(self.config.multi_token_predict)
        return tuple(int(targets_at_depth(tokens, depth, documents, trained)[1].sum()) for depth in depths)

    def loss(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        trained: Tensor | None = None,
        *,
        balance_coef: float = 0.01,
        z_coef: float = 0.001,
        multi_token_weight: float = 0.3,
        target_counts: tuple[float, ...] | None = None,
        aux_share: float = 1.0,
    ) -> Losses:
        """The training losses of a batch of packed rows.

        Args:
            tokens: (batch, time) int64.
            documents: (batch, time) int64, the document of each token, -1 for padding: attention, positions and
                targets stay within it. None where each row is one document.
            trained: (batch, time) bool, the tokens worth predicting; None for all.
            balance_coef, z_coef: weights of the router's losses.
            multi_token_weight: weight of the mean loss of all depths beyond the next token.
            target_counts: what the sums of token losses are divided by, for each depth; the batch's own counts when
                not given. Pass the counts of a whole optimizer step and its micro-batches' losses add up.
            aux_share: this batch's part of the step, by which the router's losses are scaled.

        Raises:
            ValueError: a row is longer than block_size.
        """
        self._check_length(tokens)
        depths = 1 + len(self.multi_token)
        shifted = [targets_at_depth(tokens, depth, documents, trained) for depth in range(depths)]
        own_counts = [int(counts.sum()) for _, counts in shifted]
        divisors = own_counts if target_counts is None else target_counts
        layout, counted = None, None
        if documents is not None:
            layout = DocumentLayout.from_documents(documents)
            counted = documents >= 0
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None] if layout is None else layout.positions
        rotation = self._rotation(positions, tokens.shape[1])

        hidden, routings = self._trunk(tokens, rotation, layout, counted)
        predictors = [self.norm(hidden).flatten(0, 1)]
        for depth, module in enumerate(self.multi_token, start=1):
            assert isinstance(module, MultiTokenModule)
            embedded = self._embed(shift_left(tokens, depth))
            hidden, routing = self._run(module, hidden, embedded, rotation, layout, counted)
            predictors.append(module.norm(hidden).flatten(0, 1))
            if routing is not None:
                routings.append(routing)

        loss_weights = [1.0] + [multi_token_weight / max(depths - 1, 1)] * (depths - 1)
        per_token = [
            counts.flatten().float() * (weight / max(divisor, 1))
            for (_, counts), weight, divisor in zip(shifted, loss_weights, divisors, strict=True)
        ]
        token_loss, nll, right = linear_cross_entropy(
            torch.cat(predictors),
            self.unembedding_weight,
            torch.cat([targets.flatten() for targets, _ in shifted]),
            torch.cat(per_token),
        )

        def means(values: Tensor) -> tuple[Tensor, ...]:
            return tuple(
                (part * counts.flatten()).sum() / max(divisor, 1)
                for part, (_, counts), divisor in zip(values.chunk(depths), shifted, divisors, strict=True)
            )

        token_means = means(nll)
        zero = torch.zeros((), device=tokens.device)
        balance = torch.stack([routing.balance for routing in routings]).mean() if routings else zero
        router_z = torch.stack([routing.router_z for routing in routings]).mean() if routings else zero
        load = [routing.load.float() for routing in routings]
        return Losses(
            total=token_loss + aux_share * (balance_coef * balance + z_coef * router_z),
            next_token=token_means[0],
            multi_token=token_means[1:],
            accuracy=None if right is None else means(right),
            balance=balance.detach(),
            router_z=router_z.detach(),
            expert_load=torch.stack(load) if load else torch.zeros(0, self.config.num_experts, device=tokens.device),
            targets=own_counts[0],
        )

    def router_bias_directions(self, expert_load: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Balance without a loss: raise the router's bias of experts with less than the mean load, lower the others'.

        The bias is the model's own, which also weighs the mixture, so that the checkpoint stays plain GPT-OSS.

        Args:
            expert_load: (layers with a router, experts), as in `Losses`, summed over the step.

        Returns:
            Each router's bias, (experts,), and 1, 0 or -1 for each of them, to be added times a small rate after each
            step (0.001 in arXiv 2408.15664).
        """
        routers = [
            module.router for module in self.modules() if isinstance(module, Experts) and module.router is not None
        ]
        return [
            (router.bias, torch.sign(load.mean() - load)) for router, load in zip(routers, expert_load, strict=True)
        ]

    def new_cache(
        self, batch_size: int, max_length: int, dtype: torch.dtype | None = None, *, lookahead: int = 1
    ) -> KVCache:
        """An empty cache for `next_logits`; see `KVCache`."""
        device = self.embedding.weight.device
        return KVCache(self.config, batch_size, max_length, dtype or self.compute_dtype, device, lookahead=lookahead)

    def next_logits(
        self, tokens: Tensor, cache: KVCache, counts: Tensor | None = None, *, every: bool = False
    ) -> Tensor:
        """Read tokens after those in the cache and predict what follows.

        Args:
            tokens: (batch, time) int64, rows padded on the right.
            cache: grows by the tokens read.
            counts: (batch,) int64, valid tokens in each row, at least 1; None when all are valid.
            every: whether the logits after each token are wanted, to check guessed ones.

        Returns:
            (batch, vocab_size) float32, the logits after each row's last valid token; with `every`
            (batch, time, vocab_size), those after padding without meaning.

        Raises:
            ContextLengthError: a row would outgrow the cache.
        """
        if counts is None and not torch.is_grad_enabled() and Decoder.can_read(tokens, cache):
            # Whether it is current is asked once per story: that takes longer than a layer of a small model.
            if cache.decoder is None or cache.decoder is not self._decoder:
                cache.decoder = self._fast_decoder()
            if cache.decoder is not None and not cache.decoder.would_wait(cache):
                return cache.decoder.read(tokens, cache, every=every)
        step = cache.begin(tokens.shape[1], counts)
        # Padding may stand beyond the longest row; its angle does not matter.
        rotation = self._rotation(step.positions.clamp(max=step.longest - 1), step.longest)
        x = self._embed(tokens)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Block)
            x = layer.extend(x, rotation, step, index)
        step.finish()
        if not every:
            x = x[:, -1] if counts is None else x[torch.arange(len(x), device=x.device), counts - 1]
        return self._unembed(self.norm(x))
