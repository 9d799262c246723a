"""What a model remembers of the tokens it has read, so that each new token costs one step.

A full layer keeps the keys and values of all positions; a sliding layer only those of the last window, in a ring where
position p has slot p mod window. Rows of a batch have their own lengths: prompts of unequal length stand side by side,
padded on the right, and the padding is overwritten by what the row reads next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import StoryError


class ContextLengthError(StoryError):
    """More tokens than the cache, or the model, has room for."""


class KVCache:
    """Keys and values of every layer, for a batch of rows that grow independently."""

    def __init__(
        self, config: ModelConfig, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate an empty cache.

        Args:
            max_length: most tokens in a row, prompt and continuation together.

        Raises:
            ContextLengthError: `max_length` is more than the model's block_size.
        """
        if max_length > config.block_size:
            raise ContextLengthError(
                f"{max_length} tokens were asked for, but the model reads {config.block_size} at most (block_size): "
                "shorten the prompt or lower --max-tokens"
            )
        self.max_length = max_length
        self.windows = [min(config.layer_window(layer), max_length) for layer in range(config.n_layer)]
        sizes = [window or max_length for window in self.windows]
        shapes = [(batch_size, size, config.kv_heads, config.head_dim) for size in sizes]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.longest = 0
        """The largest of `lengths`, kept on the host so that a step need not ask the device."""

    @property
    def nbytes(self) -> int:
        """Memory of all keys and values in bytes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def select(self, rows: Tensor) -> None:
        """Keep, reorder or repeat rows of the batch; rows: (n,) int64 indices of present rows."""
        self.keys = [tensor.index_select(0, rows) for tensor in self.keys]
        self.values = [tensor.index_select(0, rows) for tensor in self.values]
        self.lengths = self.lengths.index_select(0, rows)
        self.longest = int(self.lengths.max()) if len(rows) else 0

    def begin(self, time: int, counts: Tensor | None) -> CacheStep:
        """Plan the reading of `time` more tokens.

        Args:
            time: width of the new tokens, padding included.
            counts: (batch,) int64, valid tokens in each row; None when all are.

        Raises:
            ContextLengthError: a row would grow beyond `max_length`.
        """
        longest = self.longest + time if counts is None else int((self.lengths + counts).max())
        if longest > self.max_length:
            raise ContextLengthError(
                f"a row would grow to {longest} tokens, but the cache has room for {self.max_length}"
            )
        positions = self.lengths[:, None] + torch.arange(time, device=self.lengths.device)
        grown = self.lengths + (time if counts is None else counts)
        return CacheStep(
            cache=self,
            positions=positions,
            grown=grown,
            longest=longest,
            is_first=self.longest == 0,
            one_each=time == 1 and counts is None,
        )


@dataclass
class CacheStep:
    """The places of a step's new tokens, shared by all layers. B rows, T new tokens, S keys in view."""

    cache: KVCache
    positions: Tensor
    """(B, T) int64: positions of the new tokens in their rows."""
    grown: Tensor
    """(B,) int64: lengths after the step."""
    longest: int
    is_first: bool
    """Nothing is in the cache yet: new tokens need only look at themselves."""
    one_each: bool
    """Every row reads exactly one token: the usual decoding step."""

    def finish(self) -> None:
        """Make the new tokens part of the cache, after every layer has written."""
        self.cache.lengths = self.grown
        self.cache.longest = self.longest

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store new keys and values, (B, T, H, K) each."""
        cache = self.cache
        keys, values, window = cache.keys[layer], cache.values[layer], cache.windows[layer]
        time = k.shape[1]
        if self.one_each:
            rows = torch.arange(len(k), device=k.device)
            slots = self.positions[:, 0] % window if window else self.positions[:, 0]
            keys[rows, slots], values[rows, slots] = k[:, 0], v[:, 0]
        elif not window:
            # Padding may reach beyond the cache; what it would write there belongs to no row.
            rows = torch.arange(len(k), device=k.device)[:, None].expand_as(self.positions)
            inside = self.positions < self.grown[:, None]
            keys[rows[inside], self.positions[inside]] = k[inside]
            values[rows[inside], self.positions[inside]] = v[inside]
        else:
            newest = self._newest_position(window, self.grown)
            fresh = newest >= cache.lengths[:, None]
            source = (newest - cache.lengths[:, None]).clamp(0, time - 1)[..., None, None].expand(-1, -1, *k.shape[2:])
            fresh = fresh[..., None, None]
            keys.copy_(torch.where(fresh, k.gather(1, source), keys))
            values.copy_(torch.where(fresh, v.gather(1, source), values))

    def write_and_read(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store new keys and values and give all that the new tokens may look at.

        Returns:
            keys and values (B, S, H, K), and which of them each query sees, (B, T, S) bool.
        """
        cache, window = self.cache, self.cache.windows[layer]
        if not window:
            self.write(layer, k, v)
            keys, values = cache.keys[layer][:, : self.longest], cache.values[layer][:, : self.longest]
            seen = torch.arange(keys.shape[1], device=k.device)
            return keys, values, seen <= self.positions[..., None]
        if self.one_each:
            self.write(layer, k, v)
            held = self._newest_position(window, self.grown)[:, None]
            # After one token the ring holds exactly the window that ends with it.
            return cache.keys[layer], cache.values[layer], held >= 0
        held = self._newest_position(window, cache.lengths)
        seen = torch.cat((held, self.positions), dim=1)[:, None]
        distance = self.positions[..., None] - seen
        visible = (seen >= 0) & (distance >= 0) & (distance < window)
        keys, values = torch.cat((cache.keys[layer], k), dim=1), torch.cat((cache.values[layer], v), dim=1)
        self.write(layer, k, v)
        return keys, values, visible

    @staticmethod
    def _newest_position(window: int, lengths: Tensor) -> Tensor:
        """(B, window): the last position before `lengths` that belongs in each slot of a ring; negative: none yet."""
        last = lengths[:, None] - 1
        return last - (last - torch.arange(window, device=lengths.device)) % window
