"""Batches of packed rows: whole stories side by side, in an order that is a pure function of seed and epoch.

A row of `length` tokens holds whole stories, the first of which begins at its first token; what is left of the row is
padding. Only a story longer than a row is cut, into consecutive pieces that are packed like stories of their own.

The order: the pieces of all stories are shuffled by (seed, epoch) and dealt into windows of `WINDOW_PIECES`. Within a
window each row takes, again and again, the longest piece that still fits (first-fit decreasing), and the window's rows
are shuffled. Rows of all epochs form one endless sequence, and batch number i is a fixed stretch of it. So any batch
can be made again from its number alone, by any number of processes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from .shards import TokenShard
from .sources import DataError

WINDOW_PIECES = 1024
"""Pieces that are packed together. More waste less padding; fewer mix an epoch's stories more freely."""

PADDING = -1
"""Document number of padding."""


@dataclass(frozen=True)
class Batch:
    """Packed rows. B rows, T tokens in each."""

    tokens: torch.Tensor
    """(B, T) int64 ids; 0 in padding."""
    documents: torch.Tensor
    """(B, T) int64: number of the story within its row, from 0; -1 in padding. Nothing may be attended to or predicted
    across a change of number."""
    trained: torch.Tensor
    """(B, T) bool: whether the token is one to predict; False in padding."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.tokens.to(device, non_blocking=non_blocking),
            self.documents.to(device, non_blocking=non_blocking),
            self.trained.to(device, non_blocking=non_blocking),
        )

    def split(self, rows: int) -> Iterator[Batch]:
        """The batch in parts of at most `rows` rows."""
        for begin in range(0, len(self.tokens), rows):
            part = slice(begin, begin + rows)
            yield Batch(self.tokens[part], self.documents[part], self.trained[part])


@dataclass(frozen=True)
class RowPlan:
    """Which pieces of which stories stand in the rows of one epoch.

    Row r holds the pieces first_piece[r] .. first_piece[r + 1] - 1, in this order.
    """

    starts: NDArray[np.int64]
    """[pieces] position of each piece's first token in the shard."""
    lengths: NDArray[np.int64]
    """[pieces] tokens of each piece."""
    first_piece: NDArray[np.int64]
    """[rows + 1]."""

    @property
    def rows(self) -> int:
        return len(self.first_piece) - 1

    def padding_share(self, length: int) -> float:
        """Share of the epoch's places that no token fills; 0 of an empty plan."""
        return 1 - float(self.lengths.sum()) / (self.rows * length) if self.rows else 0.0


def split_pieces(offsets: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and length of the pieces of all stories, in order: one for each story that fits into a row, else several.

    Args:
        offsets: [stories + 1] positions, as in `TokenShard`.
        length: tokens in a row; no piece is longer.
    """
    sizes = np.diff(offsets)
    pieces = -(-sizes // length)
    story = np.repeat(np.arange(len(sizes)), pieces)
    # number of the piece within its story: its overall number less that of the story's first piece
    within = np.arange(len(story)) - np.repeat(pieces.cumsum() - pieces, pieces)
    starts = offsets[:-1][story] + within * length
    return starts, np.minimum(length, offsets[1:][story] - starts)


def fill_rows(lengths: NDArray[np.int64], length: int) -> list[list[int]]:
    """Put pieces into as few rows as is easy: each row takes the longest piece that still fits, until none does.

    Args:
        lengths: [pieces] tokens of each, from 1 to `length`.
        length: places in a row.

    Returns:
        For each row the indices of its pieces; each index stands in one row. Pieces of equal length keep their order.
    """
    waiting: dict[int, list[int]] = {}
    for index in range(len(lengths) - 1, -1, -1):
        waiting.setdefault(int(lengths[index]), []).append(index)
    # Bit n is set while a piece of n tokens waits: the longest that fits is the highest bit of the masked number.
    present = sum(1 << size for size in waiting)
    rows = []
    while present:
        row, free = [], length
        while fitting := present & ((2 << free) - 1):
            size = fitting.bit_length() - 1
            row.append(waiting[size].pop())
            if not waiting[size]:
                present ^= 1 << size
            free -= size
        rows.append(row)
    return rows


def plan_rows(offsets: NDArray[np.int64], length: int, *, seed: int, epoch: int) -> RowPlan:
    """The rows of one epoch; every token of the shard stands in exactly one place.

    Args:
        offsets: [stories + 1] positions, as in `TokenShard`.
        length: tokens in a row.
        seed, epoch: what the order depends on.
    """
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    starts, lengths = split_pieces(offsets, length)
    order = generator.permutation(len(starts))
    filled: list[NDArray[np.int64]] = []
    sizes: list[int] = []
    for begin in range(0, len(order), WINDOW_PIECES):
        window = order[begin : begin + WINDOW_PIECES]
        rows = fill_rows(lengths[window], length)
        for number in generator.permutation(len(rows)):
            filled.append(window[rows[number]])
            sizes.append(len(rows[number]))
    pieces = np.concatenate(filled) if filled else np.zeros(0, dtype=np.int64)
    first_piece = np.concatenate([np.zeros(1, dtype=np.int64), np.asarray(sizes, dtype=np.int64)]).cumsum()
    return RowPlan(starts=starts[pieces], lengths=lengths[pieces], first_piece=first_piece)


def build_batch(shard: TokenShard, rows: list[tuple[RowPlan, int]], batch_size: int, length: int) -> Batch:
    """Gather rows, each a plan and a row number in it, into a batch of `batch_size` rows; missing rows are padding."""
    tokens = np.zeros((batch_size, length), dtype=np.int64)
    documents = np.full((batch_size, length), PADDING, dtype=np.int64)
    trained = np.zeros((batch_size, length), dtype=np.bool_)
    for index, (plan, row) in enumerate(rows):
        column = 0
        pieces = range(int(plan.first_piece[row]), int(plan.first_piece[row + 1]))
        for document, piece in enumerate(pieces):
            start, size = int(plan.starts[piece]), int(plan.lengths[piece])
            tokens[index, column : column + size] = shard.tokens[start : start + size]
            documents[index, column : column + size] = document
            trained[index, column : column + size] = shard.trained(start, start + size)
            column += size
    return Batch(torch.from_numpy(tokens), torch.from_numpy(documents), torch.from_numpy(trained))


class BatchStream:
    """The endless batches of a training run, for one of `world_size` processes.

    Batch i consists of the rows from i * batch_size * world_size on, in the sequence of all epochs' rows; this process
    takes `batch_size` of them, the ones of rank 0 first. All ranks together therefore see exactly what one process with
    batches of batch_size * world_size rows sees. An epoch's last batch goes on with the rows of the next one.

    Iterating gives batch after batch; `batch(i)` gives any of them. With gradient accumulation, optimizer step s
    consists of the batches s * accumulation .. (s + 1) * accumulation - 1.

    Args:
        shard: the stories; at least one.
        batch_size: rows in a batch of this process.
        length: tokens in a row.
        seed: seed of the order.
        rank, world_size: this process among all.

    Raises:
        DataError: the shard is empty.
    """

    def __init__(
        self, shard: TokenShard, batch_size: int, length: int, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or length < 1 or not 0 <= rank < world_size or seed < 0:
            raise ValueError(f"{batch_size=}, {length=}, {seed=}, {rank=}, {world_size=}: no such batches")
        if not len(shard):
            raise DataError(f"{shard.path} holds no stories to make batches of")
        self.shard = shard
        self.batch_size = batch_size
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.next_batch = 0
        """Number of the batch that iteration gives next."""
        self._row_ends = [0]  # rows before each epoch, as far as known
        self._plans: dict[int, RowPlan] = {}

    @property
    def cut_stories(self) -> int:
        """Stories that are longer than a row and therefore come in pieces."""
        return int((self.shard.lengths() > self.length).sum())

    @property
    def padding_share(self) -> float:
        """Share of the first epoch's places that are padding."""
        return self._plan(0).padding_share(self.length)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of the first epoch; later ones differ by a few."""
        return self._plan(0).rows

    def describe(self, batches_per_step: int = 1) -> str:
        """The length of an epoch, the padding and the stories that are cut, in one line.

        Args:
            batches_per_step: batches of each process in one optimizer step.
        """
        steps = self.rows_per_epoch / (self.batch_size * self.world_size * batches_per_step)
        count = f"{steps:,.0f}" if steps >= 10 else f"{steps:.1f}"
        cut = self.cut_stories
        stories = "1 story" if cut == 1 else f"{cut:,} stories"
        cuts = f"{stories} longer than {self.length:,} tokens {'is' if cut == 1 else 'are'} cut"
        return (
            f"one epoch is {count} steps; {self.padding_share:.1%} of the batch is padding; "
            f"{cuts if cut else 'no story is cut'}"
        )

    def batch(self, index: int) -> Batch:
        """Batch number `index`, counted from 0: a pure function of the number and of what the stream was made with."""
        if index < 0:
            raise IndexError(f"batch {index}: batches are counted from 0")
        first = (index * self.world_size + self.rank) * self.batch_size
        rows = [self._row(number) for number in range(first, first + self.batch_size)]
        return build_batch(self.shard, rows, self.batch_size, self.length)

    def epoch(self, index: int) -> int:
        """The epoch, counted from 0, in which batch `index` begins on this process."""
        return self._locate((index * self.world_size + self.rank) * self.batch_size)[0]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        batch = self.batch(self.next_batch)
        self.next_batch += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where iteration stands, and what it must be resumed with; the same on every rank."""
        return {"next_batch": self.next_batch, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a state was taken.

        Raises:
            DataError: the state is of other stories or another order, so "going on" would skip and repeat stories.
        """
        expected = self._identity()
        if set(state) != {"next_batch", *expected}:
            raise DataError(
                f"the saved data position has the entries {sorted(state)}, expected next_batch and {sorted(expected)}"
            )
        different = [
            f"{name} {state[name]} instead of {value}" for name, value in expected.items() if state[name] != value
        ]
        if different:
            raise DataError(
                f"the saved data position does not fit this run: it was taken with {', '.join(different)}. "
                "Resume with the same data, batch size, row length and seed, or start anew (--resume never)"
            )
        self.next_batch = state["next_batch"]

    def _identity(self) -> dict[str, int]:
        return {
            "rows_in_batch": self.batch_size * self.world_size,
            "length": self.length,
            "seed": self.seed,
            "stories": self.shard.counts.stories,
            "tokens": self.shard.counts.tokens,
        }

    def _plan(self, epoch: int) -> RowPlan:
        if epoch not in self._plans:
            plan = plan_rows(self.shard.offsets, self.length, seed=self.seed, epoch=epoch)
            # A batch touches two epochs at the most, unless the data are tiny; older plans are made again when needed.
            self._plans = {number: kept for number, kept in self._plans.items() if abs(number - epoch) <= 1}
            self._plans[epoch] = plan
        return self._plans[epoch]

    def _locate(self, row: int) -> tuple[int, int]:
        """Epoch and row within it of a row in the sequence of all epochs."""
        while row >= self._row_ends[-1]:
            self._row_ends.append(self._row_ends[-1] + self._plan(len(self._row_ends) - 1).rows)
        epoch = bisect_right(self._row_ends, row) - 1
        return epoch, row - self._row_ends[epoch]

    def _row(self, number: int) -> tuple[RowPlan, int]:
        epoch, row = self._locate(number)
        return self._plan(epoch), row


def validation_batches(
    shard: TokenShard, batch_size: int, length: int, limit: int | None = None, *, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Batches for evaluation: always the same ones, a fixed sample of the stories when there is a limit.

    Each story appears once. The last batch has its missing rows filled with padding, so that shapes repeat; it then has
    fewer targets, which a mean over targets takes care of. With several processes each takes every `world_size`-th
    batch.

    Args:
        shard: the stories; none gives no batches.
        batch_size: rows in a batch.
        length: tokens in a row.
        limit: most batches, of all processes together; None gives all.
        rank, world_size: this process among all.
    """
    plan = plan_rows(shard.offsets, length, seed=0, epoch=0)
    batches = -(-plan.rows // batch_size)
    for index in range(rank, batches if limit is None else min(limit, batches), world_size):
        rows = range(index * batch_size, min((index + 1) * batch_size, plan.rows))
        yield build_batch(shard, [(plan, row) for row in rows], batch_size, length)
