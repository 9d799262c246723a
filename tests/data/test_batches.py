"""Packing: every token once, no story cut without need, the same batches on any number of processes and resumed."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.data.batches import (
    Batch,
    BatchStream,
    build_batch,
    fill_rows,
    plan_rows,
    split_pieces,
    validation_batches,
)
from gpt_oss_stories.data.shards import ShardWriter, TokenShard
from gpt_oss_stories.data.sources import DataError


def make_shard(path, lengths) -> TokenShard:
    """Stories of these lengths whose tokens are all different: token i of the shard has the id i.

    Every third token is not to be learnt.
    """
    total = sum(lengths)
    writer = ShardWriter(path / "train.shard", vocabulary_size=max(total, 2), fingerprint="ab" * 32)
    writer.add(
        np.arange(total), np.arange(total) % 3 != 0, np.asarray(lengths, dtype=np.int64), text_bytes=0, trained_bytes=0
    )
    writer.close()
    return TokenShard(path / "train.shard")


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "documents", "trained"))


def join(batches) -> Batch:
    batches = list(batches)
    return Batch(*(torch.cat([getattr(one, name) for one in batches]) for name in ("tokens", "documents", "trained")))


def test_a_batch_comes_apart_into_parts_of_equal_rows_and_a_rest():
    numbers = torch.arange(15).reshape(5, 3)
    batch = Batch(numbers, numbers % 2, numbers % 3 == 0)
    parts = list(batch.split(2))
    assert [len(part.tokens) for part in parts] == [2, 2, 1]
    assert equal(join(parts), batch)
    assert equal(next(batch.split(9)), batch)


@pytest.mark.parametrize(
    ("lengths", "batch_size", "world_size", "per_step", "line"),
    [
        # three stories fill a row of 10 but for a place
        ([3] * 90, 2, 1, 1, "one epoch is 15 steps; 10.0% of the batch is padding; no story is cut"),
        ([3] * 90, 2, 2, 3, "one epoch is 2.5 steps; 10.0% of the batch is padding; no story is cut"),
        ([10, 11], 1, 1, 1, "one epoch is 3.0 steps; 30.0% of the batch is padding; "
                            "1 story longer than 10 tokens is cut"),
        ([15, 15], 1, 1, 1, "one epoch is 3.0 steps; 0.0% of the batch is padding; "
                            "2 stories longer than 10 tokens are cut"),
    ],
)  # fmt: skip
def test_the_shape_of_an_epoch_in_words(tmp_path, lengths, batch_size, world_size, per_step, line):
    stream = BatchStream(make_shard(tmp_path, lengths), batch_size, 10, world_size=world_size)
    assert stream.describe(per_step) == line


def test_rows_filled_by_hand():
    # 7 first, nothing but the 3 fits beside it; then 6 and 4; then the two 5s; the 2 is left over.
    assert fill_rows(np.asarray([5, 2, 7, 3, 4, 5, 6]), 10) == [[2, 3], [6, 4], [0, 5], [1]]
    assert fill_rows(np.asarray([10, 10, 1]), 10) == [[0], [1], [2]]
    assert fill_rows(np.asarray([3, 3, 3, 3]), 10) == [[0, 1, 2], [3]]
    assert fill_rows(np.asarray([], dtype=np.int64), 10) == []


def test_stories_longer_than_a_row_are_cut_into_consecutive_pieces():
    starts, lengths = split_pieces(np.asarray([0, 3, 13, 18, 28]), 5)
    assert starts.tolist() == [0, 3, 8, 13, 18, 23]
    assert lengths.tolist() == [3, 5, 5, 5, 5, 5]
    starts, lengths = split_pieces(np.asarray([0, 11]), 5)
    assert (starts.tolist(), lengths.tolist()) == ([0, 5, 10], [5, 5, 1])


def test_a_batch_by_hand(tmp_path):
    """Stories 0-2, 3-6, 7-8 in rows of 6: the longest first, then what fits beside it."""
    shard = make_shard(tmp_path, [3, 4, 2])
    plan = plan_rows(shard.offsets, 6, seed=0, epoch=0)
    batch = build_batch(shard, [(plan, row) for row in range(plan.rows)], 3, 6)
    rows = sorted(zip(batch.tokens.tolist(), batch.documents.tolist(), batch.trained.tolist(), strict=True))
    assert rows == [
        ([0, 0, 0, 0, 0, 0], [-1] * 6, [False] * 6),
        ([0, 1, 2, 0, 0, 0], [0, 0, 0, -1, -1, -1], [False, True, True, False, False, False]),
        ([3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 1, 1], [False, True, True, False, True, True]),
    ]
    assert plan.padding_share(6) == pytest.approx(3 / 12)


def test_types_and_shapes(tmp_path):
    batch = BatchStream(make_shard(tmp_path, [3, 4, 2]), 5, 6).batch(0)
    assert batch.tokens.shape == batch.documents.shape == batch.trained.shape == (5, 6)
    assert (batch.tokens.dtype, batch.documents.dtype, batch.trained.dtype) == (torch.int64, torch.int64, torch.bool)
    moved = batch.to("meta")
    assert {moved.tokens.device.type, moved.documents.device.type, moved.trained.device.type} == {"meta"}
    assert equal(batch.to("cpu"), batch)


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, length=st.integers(1, 20), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_an_epoch_has_every_token_once_in_whole_stories(tmp_path_factory, lengths, length, seed, epoch):
    shard = make_shard(tmp_path_factory.mktemp("shard"), lengths)
    plan = plan_rows(shard.offsets, length, seed=seed, epoch=epoch)
    batch = build_batch(shard, [(plan, row) for row in range(plan.rows)], plan.rows, length)
    real = batch.documents >= 0
    assert sorted(batch.tokens[real].tolist()) == list(range(sum(lengths)))
    assert torch.equal(batch.trained[real], batch.tokens[real] % 3 != 0)
    assert not batch.trained[~real].any()
    assert not batch.tokens[~real].any()
    starts = set(shard.offsets[:-1].tolist())
    story_of = np.repeat(np.arange(len(lengths)), lengths)
    pieces = []
    for tokens, documents in zip(batch.tokens.tolist(), batch.documents.tolist(), strict=True):
        filled = sum(document >= 0 for document in documents)
        assert documents[filled:] == [-1] * (length - filled)
        assert documents[0] == 0
        for number in range(max(documents) + 1):
            piece = [token for token, document in zip(tokens, documents, strict=True) if document == number]
            assert piece == list(range(piece[0], piece[0] + len(piece)))
            pieces.append((piece[0], len(piece)))
    for start, size in pieces:
        story = story_of[start]
        assert story_of[start + size - 1] == story  # a piece never reaches into the next story
        if lengths[story] <= length:
            assert (start in starts, size) == (True, lengths[story])  # no story is cut that fits
        else:
            assert (start - shard.offsets[story]) % length == 0
            assert size == min(length, shard.offsets[story + 1] - start)
    assert len({start for start, _ in pieces}) == len(pieces)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), max_size=60), length=st.integers(20, 40))
def test_no_piece_would_have_fitted_into_an_earlier_row(lengths, length):
    rows = fill_rows(np.asarray(lengths, dtype=np.int64), length)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    free = [length - sum(lengths[index] for index in row) for row in rows]
    assert all(space >= 0 for space in free)
    for earlier in range(len(rows)):
        for row in rows[earlier + 1 :]:
            assert all(lengths[index] > free[earlier] for index in row)


def test_order_depends_on_seed_and_epoch_only(tmp_path):
    shard = make_shard(tmp_path, [5] * 50)
    plan = plan_rows(shard.offsets, 10, seed=1, epoch=2)
    again = plan_rows(shard.offsets.copy(), 10, seed=1, epoch=2)
    assert np.array_equal(plan.starts, again.starts)
    assert not np.array_equal(plan.starts, plan_rows(shard.offsets, 10, seed=1, epoch=3).starts)
    assert not np.array_equal(plan.starts, plan_rows(shard.offsets, 10, seed=2, epoch=2).starts)


def test_batches_run_on_across_the_end_of_an_epoch(tmp_path):
    """Seven rows in an epoch, three in a batch: the third has one row of the first epoch and two of the second."""
    shard = make_shard(tmp_path, [10] * 7)
    stream = BatchStream(shard, 3, 10)
    assert stream.rows_per_epoch == 7
    rows = join(stream.batch(index) for index in range(7)).tokens[:, 0].tolist()
    for epoch in range(3):
        assert sorted(rows[7 * epoch : 7 * epoch + 7]) == [0, 10, 20, 30, 40, 50, 60]
    assert rows[:7] != rows[7:14]
    assert [stream.epoch(index) for index in range(7)] == [0, 0, 0, 1, 1, 2, 2]


def test_tiny_data_fill_a_batch_with_several_epochs(tmp_path):
    batch = BatchStream(make_shard(tmp_path, [4]), 5, 6).batch(3)
    assert batch.tokens.tolist() == [[0, 1, 2, 3, 0, 0]] * 5


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, world_size=st.integers(1, 4), batch_size=st.integers(1, 3), index=st.integers(0, 12))
def test_all_ranks_together_see_what_one_process_sees(tmp_path_factory, lengths, world_size, batch_size, index):
    shard = make_shard(tmp_path_factory.mktemp("shard"), lengths)
    alone = BatchStream(shard, batch_size * world_size, 16, seed=3).batch(index)
    ranks = [BatchStream(shard, batch_size, 16, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert equal(join(stream.batch(index) for stream in ranks), alone)


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, stop=st.integers(0, 12))
def test_resuming_goes_on_exactly(tmp_path_factory, lengths, stop):
    shard = make_shard(tmp_path_factory.mktemp("shard"), lengths)
    undisturbed = list(islice(BatchStream(shard, 2, 16, seed=3), 16))
    first = BatchStream(shard, 2, 16, seed=3)
    for _ in range(stop):
        next(first)
    state = first.state_dict()
    assert all(type(value) is int for value in state.values())
    second = BatchStream(shard, 2, 16, seed=3)
    second.load_state_dict(state)
    assert all(equal(*pair) for pair in zip(islice(second, 16 - stop), undisturbed[stop:], strict=True))


def test_a_batch_can_be_made_again_from_its_number(tmp_path):
    shard = make_shard(tmp_path, list(range(1, 20)))
    stream = BatchStream(shard, 2, 24)
    forward = [stream.batch(index) for index in range(30)]
    for index in (29, 0, 17, 3):
        assert equal(stream.batch(index), forward[index])
        assert equal(BatchStream(shard, 2, 24).batch(index), forward[index])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_size": 3}, "rows_in_batch 2 instead of 3"), ({"length": 8}, "length 16 instead of 8"),
     ({"seed": 9}, "seed 0 instead of 9"), ({"world_size": 2}, "rows_in_batch 2 instead of 4")],
)  # fmt: skip
def test_a_position_of_another_run_is_refused(tmp_path, changes, message):
    shard = make_shard(tmp_path, [5] * 9)
    state = BatchStream(shard, 2, 16).state_dict()
    other = BatchStream(shard, **{"batch_size": 2, "length": 16, **changes})
    with pytest.raises(DataError, match=message):
        other.load_state_dict(state)
    assert other.next_batch == 0


def test_a_position_in_other_stories_or_of_another_shape_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    stream = BatchStream(make_shard(tmp_path, [5] * 9), 2, 16)
    other = BatchStream(make_shard(tmp_path / "other", [5] * 8), 2, 16)
    with pytest.raises(DataError, match="stories 8 instead of 9, tokens 40 instead of 45"):
        stream.load_state_dict(other.state_dict())
    with pytest.raises(DataError, match="has the entries"):
        stream.load_state_dict({"next_batch": 3})


def test_the_same_global_batch_resumes_on_another_number_of_processes(tmp_path):
    shard = make_shard(tmp_path, [5] * 9)
    state = BatchStream(shard, 4, 16).state_dict() | {"next_batch": 3}
    stream = BatchStream(shard, 2, 16, rank=1, world_size=2)
    stream.load_state_dict(state)
    assert torch.equal(next(stream).tokens, BatchStream(shard, 4, 16).batch(3).tokens[2:])


def test_what_was_cut_and_what_is_padding_is_reported(tmp_path):
    stream = BatchStream(make_shard(tmp_path, [3, 16, 17, 40]), 2, 16)
    assert stream.cut_stories == 2
    # pieces of 3, 16, 16 + 1, 16 + 16 + 8 tokens: four full rows and one of 8 + 3 + 1
    assert stream.rows_per_epoch == 5
    assert stream.padding_share == pytest.approx(4 / 80)


def test_an_empty_shard_has_no_training_batches_and_no_validation_batches(tmp_path):
    shard = make_shard(tmp_path, [])
    with pytest.raises(DataError, match="holds no stories"):
        BatchStream(shard, 2, 16)
    assert list(validation_batches(shard, 2, 16)) == []


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"length": 0}, {"rank": 1}, {"seed": -1}])
def test_impossible_streams_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="no such batches"):
        BatchStream(make_shard(tmp_path, [3]), **{"batch_size": 1, "length": 4, **arguments})
    with pytest.raises(IndexError):
        BatchStream(make_shard(tmp_path, [3]), 1, 4).batch(-1)


def test_validation_has_every_story_once_and_always_the_same_batches(tmp_path):
    shard = make_shard(tmp_path, list(range(1, 30)))
    batches = list(validation_batches(shard, 4, 32))
    assert all(batch.tokens.shape == (4, 32) for batch in batches)
    whole = join(batches)
    assert sorted(whole.tokens[whole.documents >= 0].tolist()) == list(range(len(shard.tokens)))
    assert equal(join(validation_batches(shard, 4, 32)), whole)
    assert equal(join(validation_batches(shard, 4, 32, limit=2)), join(batches[:2]))
    assert len(list(validation_batches(shard, 4, 32, limit=100))) == len(batches)
    ranks = [list(validation_batches(shard, 4, 32, limit=3, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(own) for own in ranks] == [2, 1]
    assert equal(ranks[1][0], batches[1])


def test_a_limited_validation_samples_all_parts_of_the_shard(tmp_path):
    """Different sources stand one after the other in a shard; a sample must not be of the first one only."""
    shard = make_shard(tmp_path, [10] * 400)
    (batch,) = validation_batches(shard, 16, 10, limit=1)
    starts = batch.tokens[:, 0]
    assert starts.min() < 1000
    assert starts.max() >= 3000


def test_typical_stories_waste_little(tmp_path):
    lengths = np.random.default_rng(0).normal(200, 50, 3000).clip(20, 500).astype(int).tolist()
    stream = BatchStream(make_shard(tmp_path, lengths), 8, 2048)
    assert stream.cut_stories == 0
    assert stream.padding_share < 0.03


def test_a_late_batch_of_tiny_data_lies_in_a_late_epoch(tmp_path):
    stream = BatchStream(make_shard(tmp_path, [5]), 8, 8)  # one row in each epoch
    assert stream.epoch(500) == 4_000
    assert equal(stream.batch(500), BatchStream(stream.shard, 8, 8).batch(500))
    assert stream.epoch(3) == 24, "going back works too"
