"""What a model remembers of the tokens it has read, so that each new token costs one step.

A full layer keeps the keys and values of all positions; a sliding layer only those of the last window, in a ring where
position p has slot p mod the ring's size. Rows of a batch have their own lengths: prompts of unequal length stand side
by side, padded on the right, and the padding is overwritten by what the row reads next.

Axis letters:  B rows   T new tokens of each   S slots in view   H key-value heads   K head width
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import ModelConfig
from ..errors import StoryError

if TYPE_CHECKING:
    from .decode import Decoder


class ContextLengthError(StoryError):
    """More tokens than the cache, or the model, has room for."""


class KVCache:
    """Keys and values of every layer, for a batch of rows that grow independently."""

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        lookahead: int = 1,
    ) -> None:
        """Allocate an empty cache.

        Args:
            max_length: most tokens in a row, prompt and continuation together.
            lookahead: most tokens of a later step that the rings take in at once, without pushing out keys that the
                first of these tokens still sees; as many can be taken back.

        Raises:
            ContextLengthError: `max_length` is more than the model's block_size.
        """
        if max_length > config.block_size:
            raise ContextLengthError(
                f"{max_length} tokens were asked for, but the model reads {config.block_size} at most (block_size): "
                "shorten the prompt or lower --max-tokens"
            )
        self.max_length, self.lookahead = max_length, lookahead
        self.windows = [min(config.layer_window(layer), max_length) for layer in range(config.n_layer)]
        sizes = [min(window + lookahead - 1, max_length) if window else max_length for window in self.windows]
        shapes = [(batch_size, size, config.kv_heads, config.head_dim) for size in sizes]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.longest = 0
        """The largest of `lengths`, kept on the host so that a step need not ask the device."""
        self._addresses: NDArray[np.int64] | None = None
        self.decoder: Decoder | None = None
        """What read the last tokens, if not torch; it was current when it first did."""

    @property
    def nbytes(self) -> int:
        """Memory of all keys and values in bytes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def select(self, rows: Tensor) -> None:
        """Keep, reorder or repeat rows of the batch; rows: (n,) int64 indices of present rows."""
        self.keys = [tensor.index_select(0, rows) for tensor in self.keys]
        self.values = [tensor.index_select(0, rows) for tensor in self.values]
        self._addresses = None
        self.lengths = self.lengths.index_select(0, rows)
        self.longest = int(self.lengths.max()) if len(rows) else 0

    def take_back(self, count: int) -> None:
        """Forget the last tokens of every row, as if they had not been read.

        Args:
            count: at most `lookahead` and what the last step read; the shortest row has as many.
        """
        if not 0 <= count <= self.lookahead:
            raise ValueError(f"{count} tokens cannot be taken back: the cache has a lookahead of {self.lookahead}")
        self.lengths -= count
        self.longest -= count

    def check_room(self, longest: int) -> None:
        """Refuse a row of more tokens than there is room for.

        Raises:
            ContextLengthError: `longest` is more than `max_length`.
        """
        if longest > self.max_length:
            raise ContextLengthError(
                f"a row would grow to {longest} tokens, but the cache has room for {self.max_length}"
            )

    def grow(self, time: int) -> None:
        """Take note of so many tokens of every row, which the `decoder` has written."""
        self.lengths = self.lengths + time
        self.longest += time

    @property
    def addresses(self) -> NDArray[np.int64]:
        """(layers, 4): where each layer's keys and values are, its slots, and how many keys a query sees at most."""
        if self._addresses is None or self._addresses[0, 0] != self.keys[0].data_ptr():  # or this is a copy
            self._addresses = np.array(
                [
                    (keys.data_ptr(), values.data_ptr(), keys.shape[1], window or keys.shape[1])
                    for keys, values, window in zip(self.keys, self.values, self.windows, strict=True)
                ],
                np.int64,
            )
        return self._addresses

    def begin(self, time: int, counts: Tensor | None) -> CacheStep:
        """Plan the reading of `time` more tokens.

        Args:
            time: width of the new tokens, padding included.
            counts: (B,) int64, valid tokens in each row; None when all are.

        Raises:
            ContextLengthError: a row would grow beyond `max_length`.
        """
        longest = self.longest + time if counts is None else int((self.lengths + counts).max())
        self.check_room(longest)
        positions = self.lengths[:, None] + torch.arange(time, device=self.lengths.device)
        grown = self.lengths + (time if counts is None else counts)
        return CacheStep(self, positions, grown, longest, is_padded=counts is not None)


class CacheStep:
    """One reading of new tokens, shared by all layers.

    Attributes:
        positions: (B, T) int64, of the new tokens in their rows.
        grown: (B,) int64, lengths after the step.
        longest: the largest of `grown`.
        is_first: nothing is in the cache yet, so new tokens need only look at themselves.
    """

    def __init__(self, cache: KVCache, positions: Tensor, grown: Tensor, longest: int, *, is_padded: bool) -> None:
        self.cache, self.positions, self.grown, self.longest = cache, positions, grown, longest
        self.is_first = cache.longest == 0
        self._is_padded = is_padded
        self._places: dict[int, Places] = {}

    def finish(self) -> None:
        """Make the new tokens part of the cache, after every layer has written."""
        self.cache.lengths = self.grown
        self.cache.longest = self.longest

    def places(self, layer: int) -> Places:
        """Where the new tokens go in a layer; worked out once for all layers of a kind."""
        window = self.cache.windows[layer]
        if window not in self._places:
            self._places[window] = Places(self, window, self.cache.keys[layer].shape[1], is_padded=self._is_padded)
        return self._places[window]

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store new keys and values, (B, T, H, K) each."""
        places = self.places(layer)
        places.write(self.cache.keys[layer], k)
        places.write(self.cache.values[layer], v)

    def write_and_read(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store new keys and values and give all that the new tokens may look at.

        Returns:
            keys and values (B, S, H, K), and which of them each query sees, (B, T, S) bool.
        """
        cache, places = self.cache, self.places(layer)
        if places.fit:
            self.write(layer, k, v)
            return cache.keys[layer][:, : places.seen], cache.values[layer][:, : places.seen], places.visible
        keys, values = torch.cat((cache.keys[layer], k), dim=1), torch.cat((cache.values[layer], v), dim=1)
        self.write(layer, k, v)
        return keys, values, places.visible


class Places:
    """The slots of a step's new tokens in the layers of one kind, and what these tokens see there.

    Args:
        step: the reading.
        window: keys that a query may see, its own included; 0 for all.
        size: slots of such a layer.
    """

    def __init__(self, step: CacheStep, window: int, size: int, *, is_padded: bool) -> None:
        # Not the step itself, which holds its places: a circle would keep whole caches until Python looks for circles.
        self._positions, self._before, self._grown = step.positions, step.cache.lengths, step.grown
        self._window, self._size = window, size
        positions = step.positions
        rows, time = positions.shape
        self.fit = not window or size == step.cache.max_length or time <= size - window + 1
        """Whether the new tokens push out nothing that one of them sees."""
        self.seen = min(step.longest, size)
        """S: slots in view once the tokens are written."""
        self.rows = torch.arange(rows, device=positions.device)[:, None].expand_as(positions)
        self.slots = positions % size
        self._kept: Tensor | None = None
        if is_padded or time > size:
            # Padding belongs to no row, and of a token that is pushed out at once nothing must remain.
            end = step.grown[:, None]
            self._kept = (positions < end) & (positions >= end - size)
            self.rows, self.slots = self.rows[self._kept], self.slots[self._kept]

    def write(self, held: Tensor, new: Tensor) -> None:
        """Put new keys or values (B, T, H, K) into a layer's (B, slots, H, K)."""
        held[self.rows, self.slots] = new if self._kept is None else new[self._kept]

    @cached_property
    def visible(self) -> Tensor:
        """(B, T, S) bool: what each query sees of the slots in view; where the tokens do not fit, of all slots as they
        were before and then of the new tokens."""
        query = self._positions[..., None]
        if self.fit:
            key = self._newest(self._grown)[:, None, : self.seen]
        else:
            key = torch.cat((self._newest(self._before), self._positions), dim=1)[:, None]
        visible = (key >= 0) & (key <= query)
        return visible & (query - key < self._window) if self._window else visible

    def _newest(self, lengths: Tensor) -> Tensor:
        """(B, slots): the last position before `lengths` that belongs in each slot; negative: none yet."""
        last = lengths[:, None] - 1
        return last - (last - torch.arange(self._size, device=lengths.device)) % self._size
