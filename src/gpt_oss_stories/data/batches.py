"""Batches of packed rows: whole stories side by side, in an order that is a pure function of seed and epoch.

A row of `length` tokens holds whole stories, the first of which begins at its first token; what is left of the row is
padding. Only a story longer than a row is cut, into windows of a row that are packed like stories of their own. A
window after the first begins with the last `overlap` tokens of the one before it, which are there to be read and not to
be predicted: so each token of a story but the first is a target once, and has at least `overlap` tokens before it in
every window but the first. Documents are numbered within a row; the model counts positions from the start of each.

The order: the pieces of all stories are shuffled by (seed, epoch) and dealt into groups. The pieces of a group fill
rows (`fill_rows`), and the group's rows are shuffled. Rows of all epochs form one endless sequence, and batch number i
is a fixed stretch of it. So any batch can be made again from its number alone, by any number of processes.

An epoch is planned as a whole. For 2.5 million stories that takes one core a second and a half, and memory of 20 bytes
for each story, while the plan is made 100 (`benchmarks/batches.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from .shards import TokenShard
from .sources import DataError

ORDER = 2
"""Version of the order of rows. A position in one order means nothing in another."""

GROUP_PIECES = 4096
"""Pieces that are packed together, at the least. More waste less padding; fewer take less time."""

GROUP_ROWS = 128
"""Rows' worth of tokens that are packed together, at the least: one row of each group stays partly empty."""

SAMPLE_PIECES = 4096
"""Pieces of which every rule in `RULES` makes rows; the best one then makes all rows."""

LARGEST_OVERLAP = 256
"""Most tokens that a window repeats unless told otherwise: twice the keys that a layer with a sliding window sees, for
a sixteenth more work on long stories in rows of 4,096 tokens."""

COMPILED_FROM_PIECES = 1_000_000
"""Pieces from which on compiled loops fill the rows, in a tenth of the time. Fewer are done sooner than numba is
imported; and once in an installation compiling takes five seconds."""

PADDING = -1
"""Document number of padding."""


@dataclass(frozen=True)
class Rule:
    """How `fill_rows` goes on with a row that has some pieces already."""

    slack: float
    """Share of a row that the longest piece that fits may leave empty; if it would leave more, two pieces are looked
    for that leave less."""
    in_line: bool
    """If there are no such two: whether the next piece in line is taken, if it fits, or the longest that fits."""


RULES = (Rule(0, True), Rule(0, False), Rule(1 / 32, False), Rule(4 / 32, False), Rule(5 / 32, False),
         Rule(6 / 32, False), Rule(1, False))  # fmt: skip
"""What is tried, the preferred ones first. Which wastes least depends on how many stories make a row, and of what
lengths: long rows can be filled in the order of the line up to the last two pieces, while in rows of two or three
stories pairs must not use up the short ones. The last rule is first-fit decreasing."""

PAIR_SLACK = 1 / 32
"""Share of a row that two pieces may leave empty, but no more than `PAIR_SLACK_TOKENS`."""

PAIR_SLACK_TOKENS = 128
"""What two pieces may leave empty in a long row: so many sums are looked for."""


@dataclass(frozen=True)
class Batch:
    """Packed rows. B rows, T tokens in each."""

    tokens: torch.Tensor
    """(B, T) int64 ids; 0 in padding."""
    documents: torch.Tensor
    """(B, T) int64: number of the story within its row, from 0; -1 in padding. Nothing may be attended to or predicted
    across a change of number, and positions count from it."""
    trained: torch.Tensor
    """(B, T) bool: whether the token is one to predict; False in padding and where a window repeats the one before."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.tokens.to(device, non_blocking=non_blocking),
            self.documents.to(device, non_blocking=non_blocking),
            self.trained.to(device, non_blocking=non_blocking),
        )

    @classmethod
    def without_targets(cls, rows: int, length: int) -> Batch:
        """Rows that a model can go through, but of which nothing is to be predicted."""
        tokens = torch.zeros((rows, length), dtype=torch.int64)
        return cls(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool))

    def split(self, rows: int) -> Iterator[Batch]:
        """The batch in parts of at most `rows` rows."""
        for begin in range(0, len(self.tokens), rows):
            part = slice(begin, begin + rows)
            yield Batch(self.tokens[part], self.documents[part], self.trained[part])


@dataclass(frozen=True)
class Pieces:
    """Whole stories, and the windows of those that are longer than a row."""

    starts: NDArray[np.int64]
    """[pieces] position of each piece's first token in the shard."""
    lengths: NDArray[np.int64]
    """[pieces] tokens of each piece."""
    continued: NDArray[np.bool_]
    """[pieces] whether the piece is a later window, which begins with `overlap` tokens of the one before it."""
    overlap: int

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, index: NDArray[np.int64]) -> Pieces:
        """Some of them, in this order."""
        return Pieces(self.starts[index], self.lengths[index], self.continued[index], self.overlap)


@dataclass(frozen=True)
class RowPlan:
    """Which pieces of which stories stand in the rows of one epoch, or of its beginning.

    Row r holds the pieces first_piece[r] .. first_piece[r + 1] - 1, in this order.
    """

    rule: Rule
    """How the rows were filled."""
    pieces: Pieces
    first_piece: NDArray[np.int64]
    """[rows + 1]."""

    @property
    def rows(self) -> int:
        return len(self.first_piece) - 1

    def padding_share(self, length: int) -> float:
        """Share of the epoch's places that no token fills; 0 of an empty plan."""
        return 1 - float(self.pieces.lengths.sum()) / (self.rows * length) if self.rows else 0.0

    def repeated_share(self, length: int) -> float:
        """Share of the epoch's places in which a window repeats the one before; 0 of an empty plan."""
        return self.pieces.overlap * float(self.pieces.continued.sum()) / (self.rows * length) if self.rows else 0.0


def usual_overlap(length: int) -> int:
    """Tokens that a window repeats unless told otherwise: a quarter of a row, at most `LARGEST_OVERLAP`.

    At least one, so that a window's first new token has something to be predicted from, where rows are that long.
    """
    return min(max(1, length // 4), LARGEST_OVERLAP, length - 1)


def split_pieces(offsets: NDArray[np.int64], length: int, overlap: int) -> Pieces:
    """The pieces of all stories, in order: one for each story that fits into a row, else windows of a row.

    Args:
        offsets: [stories + 1] positions, as in `TokenShard`.
        length: tokens in a row; no piece is longer.
        overlap: tokens at the start of a story's second and later windows that are also in the window before, less
            than `length`. With none, the first token of a later window is no target.
    """
    sizes = np.diff(offsets)
    step = length - overlap
    count = 1 + np.maximum(0, -(-(sizes - length) // step))
    if len(count) == count.sum():
        return Pieces(offsets[:-1].astype(np.int64), sizes, np.zeros(len(sizes), dtype=np.bool_), overlap)
    story = np.repeat(np.arange(len(sizes)), count)
    # number of the piece within its story: its overall number less that of the story's first piece
    within = np.arange(len(story)) - np.repeat(count.cumsum() - count, count)
    starts = offsets[:-1][story] + within * step
    return Pieces(starts, np.minimum(length, offsets[1:][story] - starts), within > 0, overlap)


def _slack(rule: Rule, length: int) -> tuple[int, int]:
    """Places of a row that the longest piece, and that two pieces may leave empty."""
    return int(rule.slack * length), min(int(PAIR_SLACK * length), PAIR_SLACK_TOKENS)


def fill_rows(lengths: NDArray[np.int64], length: int, rule: Rule) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put pieces into few rows.

    A row takes the longest piece that waits. Then, as long as any fits: if the longest that fits would leave more than
    `rule.slack` of the row empty, but two pieces together leave less than it and at most `PAIR_SLACK` (of the row, or
    `PAIR_SLACK_TOKENS`), those two (the ones that leave least and, of these, the most alike); else one piece by the
    rule.

    Args:
        lengths: [pieces] tokens of each, from 1 to `length`, in the order of the line.
        length: places in a row.

    Returns:
        [pieces] the indices of the pieces, row after row, each index once; and [rows] the number of pieces in each
        row. Pieces of equal length keep their order.
    """
    slack, pair_slack = _slack(rule, length)
    waiting: dict[int, list[int]] = {}
    for index in range(len(lengths) - 1, -1, -1):
        waiting.setdefault(int(lengths[index]), []).append(index)
    longest = max(waiting, default=0)
    # Bit n is set while a piece of n tokens waits: the longest that fits is the highest bit of the masked number. In
    # the mirrored number it is bit `longest` - n, so that shifted against each other the two show pairs of one sum.
    present = sum(1 << size for size in waiting)
    mirrored = sum(1 << (longest - size) for size in waiting)
    line = lengths.tolist()
    gone = bytearray(len(line))
    front = 0
    order: list[int] = []
    rows: list[int] = []

    def most_alike(total: int) -> int:
        """The larger one of the two sizes nearest to each other that wait and have this sum; 0 if there are none."""
        shift, half = longest - total, (total + 1) // 2
        larger = (present & (mirrored >> shift if shift >= 0 else mirrored << -shift)) >> half
        if larger & 1 and 2 * half == total and len(waiting[half]) < 2:
            larger ^= 1
        return half + (larger & -larger).bit_length() - 1 if larger else 0

    while present:
        free, before = length, len(order)
        taken = [present.bit_length() - 1]
        while taken:
            for size in taken:
                index = waiting[size].pop()
                order.append(index)
                gone[index] = 1
                if not waiting[size]:
                    present ^= 1 << size
                    mirrored ^= 1 << (longest - size)
                free -= size
            fitting = present & ((2 << free) - 1)
            size = fitting.bit_length() - 1
            taken = [size] if fitting else []
            if fitting and free - size > slack:
                for total in range(min(free, 2 * size), max(size, free - pair_slack - 1), -1):
                    if larger := most_alike(total):
                        taken = [larger, total - larger]
                        break
                else:
                    if rule.in_line:
                        while gone[front]:
                            front += 1
                        if line[front] <= free:
                            taken = [line[front]]
        rows.append(len(order) - before)
    return np.asarray(order, dtype=np.int64), np.asarray(rows, dtype=np.int64)


def _fill(
    line: NDArray[np.int64],
    length: int,
    slack: int,
    pair_slack: int,
    in_line: bool,
    sizes: NDArray[np.int64],
    size_of: NDArray[np.int64],
    sorted_line: NDArray[np.int64],
    ends: NDArray[np.int64],
    order: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> int:
    """`fill_rows` for numba, by other means; returns the number of rows.

    Args:
        line: [pieces] their lengths.
        sizes: [D] the different lengths, rising.
        size_of: [pieces] each piece's place in `sizes`.
        sorted_line: [pieces] their indices by length, those of equal length in order.
        ends: [D] where each length ends in `sorted_line`.
        order, rows: [pieces] are filled.
    """
    different = len(sizes)
    heads = np.zeros(different, dtype=np.int64)
    heads[1:] = ends[:-1]
    # The lengths that still wait as a chain: where the next smaller and the next larger one are.
    smaller = np.arange(-1, different - 1)
    larger = np.arange(1, different + 1)
    low, high = 0, different - 1
    gone = np.zeros(len(line), dtype=np.bool_)
    front = done = row = 0
    while high >= 0:
        free, before = length, done
        one, two = high, -1
        longest = high
        while one >= 0:
            for taken in (one, two):
                if taken >= 0:
                    index = sorted_line[heads[taken]]
                    heads[taken] += 1
                    order[done] = index
                    gone[index] = True
                    done += 1
                    free -= sizes[taken]
                    if heads[taken] == ends[taken]:
                        below, above = smaller[taken], larger[taken]
                        if below >= 0:
                            larger[below] = above
                        else:
                            low = above
                        if above < different:
                            smaller[above] = below
                        else:
                            high = below
            one = two = -1
            if high < 0 or sizes[low] > free:
                break
            # Within a row it only becomes smaller. From a length of which none waits any more, the chain leads to one.
            while sizes[longest] > free or heads[longest] == ends[longest]:
                longest = smaller[longest]
            one = longest
            if free - sizes[one] <= slack:
                continue
            # From both ends of the chain towards each other: the largest sum that fits, last the most alike of it.
            least, best, below, above = max(sizes[one], free - pair_slack - 1), -1, low, one
            first = second = -1
            if 2 * sizes[one] <= least:
                above = -1
            while below < above or (below == above and heads[below] + 1 < ends[below]):
                total = sizes[below] + sizes[above]
                if total > free:
                    above = smaller[above]
                    if above < 0:
                        break
                else:
                    if total > least and total >= best:
                        best, first, second = total, above, below
                    below = larger[below]
                    if below >= different:
                        break
            if first >= 0:
                one, two = first, second
            elif in_line:
                while gone[front]:
                    front += 1
                if line[front] <= free:
                    one = size_of[front]
        rows[row] = done - before
        row += 1
    return row


@cache
def _compiled_fill() -> Callable[..., int]:
    from ..model.machine import compiled  # numba takes a moment to be imported

    function: Callable[..., int] = compiled(_fill)
    return function


def fill_rows_compiled(
    lengths: NDArray[np.int64], length: int, rule: Rule
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same as `fill_rows`, some ten times as fast, by loops that numba compiles."""
    sizes, size_of, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    order, rows = np.empty_like(lengths), np.empty_like(lengths)
    slack, pair_slack = _slack(rule, length)
    found = _compiled_fill()(
        lengths, length, slack, pair_slack, rule.in_line,
        sizes, size_of, np.argsort(size_of, kind="stable"), counts.cumsum(), order, rows,
    )  # fmt: skip
    return order, rows[:found]


def choose_rule(lengths: NDArray[np.int64], length: int) -> Rule:
    """The first of `RULES` that puts a sample of these pieces into the fewest rows, the last row the emptiest.

    Args:
        lengths: [pieces] tokens of each.
        length: places in a row.
    """
    if len(lengths) > SAMPLE_PIECES:
        generator = np.random.Generator(np.random.PCG64(0))
        lengths = lengths[generator.integers(0, len(lengths), SAMPLE_PIECES)]

    def places(rule: Rule) -> int:
        order, rows = fill_rows(lengths, length, rule)
        return (len(rows) - 1) * length + int(lengths[order[len(order) - rows[-1] :]].sum()) if len(rows) else 0

    return min(RULES, key=places)


def plan_rows(
    offsets: NDArray[np.int64],
    length: int,
    *,
    seed: int,
    epoch: int,
    overlap: int | None = None,
    rule: Rule | None = None,
    most_rows: int | None = None,
) -> RowPlan:
    """The rows of one epoch; every token of the shard is new in exactly one place.

    Args:
        offsets: [stories + 1] positions, as in `TokenShard`.
        length: tokens in a row.
        seed, epoch: what the order depends on.
        overlap: see `split_pieces`; None for the usual one.
        rule: how rows are filled; None for the best one for these stories (`choose_rule`), whatever seed and epoch are.
        most_rows: when to stop: at this many rows, or somewhat more; None plans all.
    """
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    pieces = split_pieces(offsets, length, usual_overlap(length) if overlap is None else overlap)
    order = generator.permutation(len(pieces))
    rule = choose_rule(pieces.lengths, length) if rule is None else rule
    if not len(order):
        return RowPlan(rule, pieces, np.zeros(1, dtype=np.int64))
    fill = fill_rows if len(order) < COMPILED_FROM_PIECES else fill_rows_compiled
    group = max(GROUP_PIECES, GROUP_ROWS * length * len(order) // int(pieces.lengths.sum()))
    placed = np.zeros_like(order)
    counts: list[NDArray[np.int64]] = []
    planned = end = 0
    for begin in range(0, len(order), group):
        if most_rows is not None and planned >= most_rows:
            break
        line = order[begin : begin + group]
        filled, rows = fill(pieces.lengths[line], length, rule)
        shuffled = generator.permutation(len(rows))
        firsts = (rows.cumsum() - rows)[shuffled]
        rows = rows[shuffled]
        # The rows' pieces in their new order: from each row's first one on.
        within = np.arange(len(line)) - np.repeat(rows.cumsum() - rows, rows)
        end = begin + len(line)
        placed[begin:end] = line[filled[np.repeat(firsts, rows) + within]]
        counts.append(rows)
        planned += len(rows)
    first_piece = np.concatenate([np.zeros(1, dtype=np.int64), *counts]).cumsum()
    return RowPlan(rule, pieces.take(placed[:end]), first_piece)


def build_batch(shard: TokenShard, rows: list[tuple[RowPlan, int]], batch_size: int, length: int) -> Batch:
    """Gather rows, each a plan and a row number in it, into a batch of `batch_size` rows; missing rows are padding.

    Raises:
        ShardError: the shard holds an id that is not in its vocabulary.
    """
    tokens = np.zeros((batch_size, length), dtype=np.int64)
    documents = np.full((batch_size, length), PADDING, dtype=np.int64)
    trained = np.zeros((batch_size, length), dtype=np.bool_)
    for index, (plan, row) in enumerate(rows):
        part = slice(plan.first_piece[row], plan.first_piece[row + 1])
        sizes = plan.pieces.lengths[part]
        filled = int(sizes.sum())
        documents[index, :filled] = np.repeat(np.arange(len(sizes)), sizes)
        column = 0
        for start, size, continued in zip(
            plan.pieces.starts[part].tolist(), sizes.tolist(), plan.pieces.continued[part].tolist(), strict=True
        ):
            tokens[index, column : column + size] = shard.tokens[start : start + size]
            known = plan.pieces.overlap if continued else 0
            trained[index, column + known : column + size] = shard.trained(start + known, start + size)
            column += size
    shard.check_tokens(tokens)  # an id beyond a table would end a GPU's process without a word that helps
    return Batch(torch.from_numpy(tokens), torch.from_numpy(documents), torch.from_numpy(trained))


class BatchStream:
    """The endless batches of a training run, for one of `world_size` processes.

    Batch i consists of the rows from i * batch_size * world_size on, in the sequence of all epochs' rows; this process
    takes `batch_size` of them, the ones of rank 0 first. All ranks together therefore see exactly what one process with
    batches of batch_size * world_size rows sees. An epoch's last batch goes on with the rows of the next one.

    With gradient accumulation, optimizer step s consists of the batches s * accumulation .. (s + 1) * accumulation - 1.

    Args:
        shard: the stories; at least one.
        batch_size: rows in a batch of this process.
        length: tokens in a row.
        seed: seed of the order.
        rank, world_size: this process among all.
        overlap: tokens that a later window of a story longer than a row repeats; None for the usual number. Where a
            model predicts several tokens at once, it should be at least that many.

    Raises:
        DataError: the shard is empty.
    """

    def __init__(
        self,
        shard: TokenShard,
        batch_size: int,
        length: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        overlap: int | None = None,
    ) -> None:
        if batch_size < 1 or length < 1 or not 0 <= rank < world_size or seed < 0:
            raise ValueError(f"{batch_size=}, {length=}, {seed=}, {rank=}, {world_size=}: no such batches")
        if overlap is not None and not 0 <= overlap < length:
            raise ValueError(f"{overlap=}: no such batches in rows of {length} tokens")
        if not len(shard):
            raise DataError(f"{shard.path} holds no stories to make batches of")
        self.shard = shard
        self.batch_size = batch_size
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.overlap = usual_overlap(length) if overlap is None else overlap
        self._row_ends = [0]  # rows before each epoch, as far as known
        self._plans: dict[int, RowPlan] = {}
        self._rule: Rule | None = None

    @property
    def cut_stories(self) -> int:
        """Stories that are longer than a row and therefore come in windows."""
        return int((self.shard.lengths() > self.length).sum())

    @property
    def padding_share(self) -> float:
        """Share of the first epoch's places that are padding."""
        return self._plan(0).padding_share(self.length)

    @property
    def repeated_share(self) -> float:
        """Share of the first epoch's places in which a window repeats the one before."""
        return self._plan(0).repeated_share(self.length)

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
        cuts = (
            f"{stories} longer than {self.length:,} tokens {'is' if cut == 1 else 'are'} cut into windows that "
            f"overlap by {self.overlap:,}"
        )
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

    def stories(self, index: int) -> list[list[int]]:
        """The stories, by number in the shard, that stand in each row of batch `index`: in the rows of all processes,
        those of rank 0 first."""
        first, count = index * self.world_size * self.batch_size, self.world_size * self.batch_size
        rows = [self._row(number) for number in range(first, first + count)]
        starts = [plan.pieces.starts[plan.first_piece[row] : plan.first_piece[row + 1]] for plan, row in rows]
        return [(np.searchsorted(self.shard.offsets, part, side="right") - 1).tolist() for part in starts]

    def _plan(self, epoch: int) -> RowPlan:
        if epoch not in self._plans:
            self.shard.check_offsets()
            plan = plan_rows(
                self.shard.offsets, self.length, seed=self.seed, epoch=epoch, overlap=self.overlap, rule=self._rule
            )
            self._rule = plan.rule  # the same for all epochs, and to be looked for only once
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
    shard: TokenShard,
    batch_size: int,
    length: int,
    limit: int | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    overlap: int | None = None,
) -> Iterator[Batch]:
    """Batches for evaluation: always the same ones, a fixed sample of the stories when there is a limit.

    Each story appears once, and each of its tokens but the first is a target once. The last batch has its missing rows
    filled with padding, so that shapes repeat; it then has fewer targets, which a mean over targets takes care of. With
    several processes each takes every `world_size`-th batch.

    Args:
        shard: the stories; none gives no batches.
        batch_size: rows in a batch.
        length: tokens in a row.
        limit: most batches, of all processes together; None gives all.
        rank, world_size: this process among all.
        overlap: as for `BatchStream`.
    """
    most_rows = None if limit is None else limit * batch_size
    shard.check_offsets()
    plan = plan_rows(shard.offsets, length, seed=0, epoch=0, overlap=overlap, most_rows=most_rows)
    batches = -(-plan.rows // batch_size)
    for index in range(rank, batches if limit is None else min(limit, batches), world_size):
        rows = range(index * batch_size, min((index + 1) * batch_size, plan.rows))
        yield build_batch(shard, [(plan, row) for row in rows], batch_size, length)
