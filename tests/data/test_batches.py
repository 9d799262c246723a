"""Packing: every token once, no story cut without need, the same batches on any number of processes and resumed."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.data.batches import (
    ORDER,
    PAIR_SLACK,
    PAIR_SLACK_TOKENS,
    RULES,
    Batch,
    BatchStream,
    Rule,
    build_batch,
    choose_rule,
    fill_rows,
    fill_rows_compiled,
    plan_rows,
    split_pieces,
    usual_overlap,
    validation_batches,
)
from gpt_oss_stories.data.shards import ShardWriter, TokenShard
from gpt_oss_stories.data.sources import DataError
from gpt_oss_stories.model.layout import DocumentLayout
from gpt_oss_stories.model.multi_token import targets_at_depth
from gpt_oss_stories.tokenization import harmony_vocabulary

TINY_STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "tinystories-train.jsonl"


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
        ([10, 11], 1, 1, 1, "one epoch is 3.0 steps; 23.3% of the batch is padding; "
                            "1 story longer than 10 tokens is cut into windows that overlap by 2"),
        # windows of 10 and 2 + 3, twice; of the windows of 10 nothing is left, and 5 + 5 fill a third row
        ([13, 13], 1, 1, 1, "one epoch is 3.0 steps; 0.0% of the batch is padding; "
                            "2 stories longer than 10 tokens are cut into windows that overlap by 2"),
    ],
)  # fmt: skip
def test_the_shape_of_an_epoch_in_words(tmp_path, lengths, batch_size, world_size, per_step, line):
    stream = BatchStream(make_shard(tmp_path, lengths), batch_size, 10, world_size=world_size)
    assert stream.describe(per_step) == line


def rows_of(filled) -> list[list[int]]:
    """The rows of `fill_rows` as lists."""
    order, counts = filled
    return [part.tolist() for part in np.split(order, counts.cumsum()[:-1])] if len(counts) else []


FIRST_FIT_DECREASING = Rule(1, False)
BOTH = pytest.mark.parametrize("fill", [fill_rows, fill_rows_compiled], ids=["python", "compiled"])


@BOTH
def test_rows_filled_by_hand(fill):
    def fill_longest_first(lengths):
        return rows_of(fill(np.asarray(lengths, dtype=np.int64), 10, FIRST_FIT_DECREASING))

    # 7 first, nothing but the 3 fits beside it; then 6 and 4; then the two 5s; the 2 is left over.
    assert fill_longest_first([5, 2, 7, 3, 4, 5, 6]) == [[2, 3], [6, 4], [0, 5], [1]]
    assert fill_longest_first([10, 10, 1]) == [[0], [1], [2]]
    assert fill_longest_first([3, 3, 3, 3]) == [[0, 1, 2], [3]]
    assert fill_longest_first([]) == []


@BOTH
@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        # Rows of 64: the 40 leaves 24. Of these the 20 would leave 4, but 13 + 11 nothing, and 12 + 12 are more alike.
        (Rule(0, False), [[0, 4, 5], [1, 2, 3]]),
        (Rule(0, True), [[0, 4, 5], [1, 2, 3]]),
        # Where 4 may be left empty, the 20 it is.
        (Rule(4 / 64, False), [[0, 1], [2, 4, 5, 3]]),
        (Rule(3 / 64, False), [[0, 4, 5], [1, 2, 3]]),
        (FIRST_FIT_DECREASING, [[0, 1], [2, 4, 5, 3]]),
    ],
)
def test_two_pieces_that_leave_less_are_preferred_to_a_longer_one(fill, rule, rows):
    assert rows_of(fill(np.asarray([40, 20, 13, 11, 12, 12]), 64, rule)) == rows


@BOTH
def test_the_next_in_line_is_taken_where_no_two_pieces_fill_the_row(fill):
    """Rows of 100, of which 3 may stay empty if two pieces leave them."""
    lengths = np.asarray([10, 60, 5, 30])
    assert rows_of(fill(lengths, 100, Rule(0, False))) == [[1, 3, 0], [2]]  # 30 + 10 leave nothing
    lengths = np.asarray([11, 60, 5, 23])
    assert rows_of(fill(lengths, 100, Rule(0, False))) == [[1, 3, 0, 2]]
    assert rows_of(fill(lengths, 100, Rule(0, True))) == [[1, 0, 3, 2]]  # after 11, 23 + 5 leave 1
    lengths = np.asarray([41, 60, 5, 23])
    assert rows_of(fill(lengths, 100, Rule(0, True))) == [[1, 3, 2], [0]]  # the next in line does not fit


def fill_rows_slowly(lengths, length: int, rule: Rule) -> list[list[int]]:
    """What the docstring of `fill_rows` says, word for word."""
    waiting = list(range(len(lengths)))  # in line

    def first_of(size):
        return next(index for index in waiting if lengths[index] == size)

    rows = []
    while waiting:
        row = [first_of(max(lengths[index] for index in waiting))]
        waiting.remove(row[0])
        while True:
            free = length - sum(lengths[index] for index in row)
            fitting = [lengths[index] for index in waiting if lengths[index] <= free]
            if not fitting:
                break
            chosen = [max(fitting)]
            if free - max(fitting) > int(rule.slack * length):
                pairs = [
                    (free - one - other, abs(one - other), max(one, other))
                    for one, other in combinations(fitting, 2)
                    if one + other <= free
                ]
                left, difference, larger = min(pairs, default=(length, 0, 0))
                if left <= min(PAIR_SLACK * length, PAIR_SLACK_TOKENS) and left < free - max(fitting):
                    chosen = [larger, larger - difference]
                elif rule.in_line and lengths[waiting[0]] <= free:
                    chosen = [lengths[waiting[0]]]
            for size in chosen:
                row.append(first_of(size))
                waiting.remove(row[-1])
        rows.append(row)
    return rows


@BOTH
@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60) | st.sampled_from([7, 8, 9, 10]), max_size=50),
    length=st.integers(60, 130),
    rule=st.sampled_from(RULES),
)
def test_rows_are_filled_as_the_slow_twin_does(fill, lengths, length, rule):
    assert rows_of(fill(np.asarray(lengths, dtype=np.int64), length, rule)) == fill_rows_slowly(lengths, length, rule)


@pytest.mark.parametrize("length", [300, 512, 1024, 4096, 60_000])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_compiled_rows_are_the_same(length, rule):
    generator = np.random.default_rng(length)
    lengths = generator.lognormal(5.2, 0.5, 3000).clip(3, length).astype(np.int64)
    for one, other in zip(fill_rows(lengths, length, rule), fill_rows_compiled(lengths, length, rule), strict=True):
        assert np.array_equal(one, other)


def test_compiled_plans_are_the_same(monkeypatch):
    offsets = np.random.default_rng(1).integers(20, 700, 9000).cumsum()
    offsets -= offsets[0]
    plan = plan_rows(offsets, 512, seed=1, epoch=2)
    monkeypatch.setattr("gpt_oss_stories.data.batches.COMPILED_FROM_PIECES", 0)
    compiled = plan_rows(offsets, 512, seed=1, epoch=2)
    assert np.array_equal(plan.first_piece, compiled.first_piece)
    for name in ("starts", "lengths", "continued"):
        assert np.array_equal(getattr(plan.pieces, name), getattr(compiled.pieces, name))


def test_the_order_is_the_one_of_its_version():
    """A run that goes on where it was ended finds its place by counting rows. Another order needs another number."""
    offsets = np.random.default_rng(5).integers(3, 900, 6000).cumsum()
    digest = hashlib.sha256()
    for length in (256, 1024):
        plan = plan_rows(offsets - offsets[0], length, seed=3, epoch=1)
        digest.update(plan.pieces.starts.astype("<i8").tobytes() + plan.first_piece.astype("<i8").tobytes())
    assert (ORDER, digest.hexdigest()[:16]) == (2, "905905786c50e5f8")


def test_the_rule_is_the_one_that_needs_the_fewest_rows():
    lengths = np.asarray([40, 20, 13, 11, 12, 12] * 20)
    rows = {rule: len(fill_rows(lengths, 64, rule)[1]) for rule in RULES}
    assert len(set(rows.values())) > 1, "a test that no rule could fail"
    assert rows[choose_rule(lengths, 64)] == min(rows.values())
    assert choose_rule(np.asarray([64]), 64) == RULES[0], "the preferred one where all are as good"


@pytest.mark.parametrize(
    ("sizes", "length", "overlap", "starts", "lengths", "continued"),
    [
        ([3, 5, 6], 5, 2, [0, 3, 8, 11], [3, 5, 5, 3], [0, 0, 0, 1]),
        ([11], 5, 2, [0, 3, 6], [5, 5, 5], [0, 1, 1]),  # the last new token ends the third window exactly
        ([12], 5, 2, [0, 3, 6, 9], [5, 5, 5, 3], [0, 1, 1, 1]),
        ([3, 10, 5, 10], 5, 0, [0, 3, 8, 13, 18, 23], [3, 5, 5, 5, 5, 5], [0, 0, 1, 0, 0, 1]),
        ([11], 5, 0, [0, 5, 10], [5, 5, 1], [0, 1, 1]),
        ([4, 2], 5, 1, [0, 4], [4, 2], [0, 0]),
        ([3], 2, 1, [0, 1], [2, 2], [0, 1]),
    ],
)
def test_stories_longer_than_a_row_are_cut_into_windows(sizes, length, overlap, starts, lengths, continued):
    pieces = split_pieces(np.asarray([0, *sizes]).cumsum(), length, overlap)
    assert (pieces.starts.tolist(), pieces.lengths.tolist()) == (starts, lengths)
    assert pieces.continued.astype(int).tolist() == continued


def test_the_usual_overlap_is_a_quarter_of_a_row_within_limits():
    found = {length: usual_overlap(length) for length in (1, 2, 3, 7, 8, 512, 1024, 4096, 131_072)}
    assert found == {1: 0, 2: 1, 3: 1, 7: 1, 8: 2, 512: 128, 1024: 256, 4096: 256, 131_072: 256}


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
@given(lengths=LENGTHS, length=st.integers(1, 20), seed=st.integers(0, 5), epoch=st.integers(0, 5), data=st.data())
def test_an_epoch_has_every_token_once_in_whole_stories(tmp_path_factory, lengths, length, seed, epoch, data):
    overlap = data.draw(st.none() | st.integers(0, length - 1))
    shard = make_shard(tmp_path_factory.mktemp("shard"), lengths)
    plan = plan_rows(shard.offsets, length, seed=seed, epoch=epoch, overlap=overlap)
    batch = build_batch(shard, [(plan, row) for row in range(plan.rows)], plan.rows, length)
    overlap = usual_overlap(length) if overlap is None else overlap
    real = batch.documents >= 0
    assert not batch.trained[~real].any()
    assert not batch.tokens[~real].any()
    story_of = np.repeat(np.arange(len(lengths)), lengths)
    windows: dict[int, list[tuple[int, int]]] = {}
    new = []
    for tokens, documents, trained in zip(
        batch.tokens.tolist(), batch.documents.tolist(), batch.trained.tolist(), strict=True
    ):
        filled = sum(document >= 0 for document in documents)
        assert documents[filled:] == [-1] * (length - filled)
        assert documents[0] == 0
        for number in range(max(documents) + 1):
            columns = [column for column, document in enumerate(documents) if document == number]
            piece = [tokens[column] for column in columns]
            assert piece == list(range(piece[0], piece[0] + len(piece)))
            story = story_of[piece[0]]
            assert story_of[piece[-1]] == story  # a piece never reaches into the next story
            known = 0 if piece[0] == shard.offsets[story] else overlap
            assert not any(trained[column] for column in columns[:known])
            assert all(trained[column] == (tokens[column] % 3 != 0) for column in columns[known:])
            new += piece[known:]
            windows.setdefault(int(story), []).append((piece[0], len(piece)))
    assert sorted(new) == list(range(sum(lengths)))
    for story, found in windows.items():
        if lengths[story] <= length:
            assert found == [(shard.offsets[story], lengths[story])]  # no story is cut that fits
        else:
            found.sort()
            assert all(size == length for _, size in found[:-1])
            assert all(then == start + length - overlap for (start, _), (then, _) in pairwise(found))
    real_tokens = sum(size for found in windows.values() for _, size in found)
    assert plan.padding_share(length) == pytest.approx(1 - real_tokens / (plan.rows * length))
    assert plan.repeated_share(length) == pytest.approx((real_tokens - len(new)) / (plan.rows * length))


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, length=st.integers(2, 20), data=st.data())
def test_every_token_but_a_storys_first_is_a_target_once(tmp_path_factory, lengths, length, data):
    """Also across windows, at every depth of prediction that the overlap reaches, and with the context it promises."""
    overlap = data.draw(st.integers(1, length - 1), label="overlap")
    depth = data.draw(st.integers(0, overlap - 1), label="depth")
    shard = make_shard(tmp_path_factory.mktemp("shard"), lengths)
    begins = np.repeat(shard.offsets[:-1], lengths)
    expected = [token for token in range(sum(lengths)) if token % 3 != 0 and token - begins[token] > depth]
    plan = plan_rows(shard.offsets, length, seed=1, epoch=0, overlap=overlap)
    epoch = build_batch(shard, [(plan, row) for row in range(plan.rows)], plan.rows + 1, length)
    for batch in (epoch, join(validation_batches(shard, 3, length, overlap=overlap))):
        targets, counted = targets_at_depth(batch.tokens, depth, batch.documents, batch.trained)
        assert sorted(targets[counted].tolist()) == expected
        positions = DocumentLayout.from_documents(batch.documents).positions
        for target, position in zip(targets[counted].tolist(), positions[counted].tolist(), strict=True):
            context = position + depth + 1
            assert context == target - begins[target] or context >= overlap


def test_without_overlap_a_cut_costs_a_target(tmp_path):
    shard = make_shard(tmp_path, [17])
    (batch,) = validation_batches(shard, 4, 5, overlap=0)
    targets, counted = targets_at_depth(batch.tokens, 0, batch.documents, batch.trained)
    # of the multiples of five, 5 and 10 would be targets
    assert sorted(targets[counted].tolist()) == [1, 2, 4, 7, 8, 11, 13, 14, 16]


def test_validation_predicts_the_trained_tokens_and_bytes_of_the_shards_header(tmp_path):
    """Bits per byte with long stories in windows are bits per byte of the whole shard."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 90, 50)
    tokens = generator.integers(0, 100, lengths.sum())
    trained = generator.random(len(tokens)) < 0.8
    trained[np.r_[0, lengths.cumsum()[:-1]]] = False  # as the token that begins a story is
    byte_counts = torch.from_numpy(generator.integers(0, 9, 100))
    writer = ShardWriter(tmp_path / "v.shard", vocabulary_size=100, fingerprint="ab" * 32)
    spelt = int(byte_counts[torch.from_numpy(tokens[trained])].sum())
    writer.add(tokens, trained, lengths, text_bytes=spelt, trained_bytes=spelt)
    writer.close()
    shard = TokenShard(tmp_path / "v.shard")
    batch = join(validation_batches(shard, 4, 32))
    targets, counted = targets_at_depth(batch.tokens, 0, batch.documents, batch.trained)
    assert int(counted.sum()) == shard.counts.trained_tokens
    assert int(byte_counts[targets[counted]].sum()) == shard.counts.trained_bytes


def test_positions_of_packed_stories_and_windows_restart(tmp_path):
    """A batch has no positions of its own: the model finds them from the documents' numbers."""
    shard = make_shard(tmp_path, [3, 14, 4, 2, 5])
    plan = plan_rows(shard.offsets, 10, seed=0, epoch=0)
    batch = build_batch(shard, [(plan, row) for row in range(plan.rows)], plan.rows, 10)
    layout = DocumentLayout.from_documents(batch.documents)
    restarts = 0
    for documents, positions in zip(batch.documents.tolist(), layout.positions.tolist(), strict=True):
        for column, number in enumerate(documents):
            begins = column == 0 or documents[column - 1] != number
            assert positions[column] == (0 if begins else positions[column - 1] + 1)
            restarts += begins and column > 0 and number >= 0
    assert restarts == len(plan.pieces) - plan.rows > 0


@BOTH
@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), max_size=60), length=st.integers(20, 40), rule=st.sampled_from(RULES))
def test_no_piece_would_have_fitted_into_an_earlier_row(fill, lengths, length, rule):
    rows = rows_of(fill(np.asarray(lengths, dtype=np.int64), length, rule))
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
    assert np.array_equal(plan.pieces.starts, again.pieces.starts)
    assert not np.array_equal(plan.pieces.starts, plan_rows(shard.offsets, 10, seed=1, epoch=3).pieces.starts)
    assert not np.array_equal(plan.pieces.starts, plan_rows(shard.offsets, 10, seed=2, epoch=2).pieces.starts)


def test_batches_run_on_across_the_end_of_an_epoch(tmp_path):
    """Seven rows in an epoch, three in a batch: the third has one row of the first epoch and two of the second."""
    shard = make_shard(tmp_path, [10] * 7)
    stream = BatchStream(shard, 3, 10)
    assert stream.rows_per_epoch == 7
    rows = join(stream.batch(index) for index in range(7)).tokens[:, 0].tolist()
    for epoch in range(3):
        assert sorted(rows[7 * epoch : 7 * epoch + 7]) == [0, 10, 20, 30, 40, 50, 60]
    assert rows[:7] != rows[7:14]
    assert [stream._locate(3 * index)[0] for index in range(7)] == [0, 0, 0, 1, 1, 2, 2]


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


def test_a_batch_can_be_made_again_from_its_number(tmp_path):
    shard = make_shard(tmp_path, list(range(1, 20)))
    stream = BatchStream(shard, 2, 24)
    forward = [stream.batch(index) for index in range(30)]
    for index in (29, 0, 17, 3):
        assert equal(stream.batch(index), forward[index])
        assert equal(BatchStream(shard, 2, 24).batch(index), forward[index])


def test_what_was_cut_and_what_is_padding_is_reported(tmp_path):
    stream = BatchStream(make_shard(tmp_path, [3, 16, 17, 40]), 2, 16)
    assert stream.cut_stories == 2
    # pieces of 3, 16, 16 and 4 + 1, 16 and 4 + 12 and 4 + 12 tokens: five full rows and one of 5 + 3
    assert stream.rows_per_epoch == 6
    assert stream.padding_share == pytest.approx(8 / 96)
    assert stream.repeated_share == pytest.approx(12 / 96)


def test_an_empty_shard_has_no_training_batches_and_no_validation_batches(tmp_path):
    shard = make_shard(tmp_path, [])
    with pytest.raises(DataError, match="holds no stories"):
        BatchStream(shard, 2, 16)
    assert list(validation_batches(shard, 2, 16)) == []


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"length": 0}, {"rank": 1}, {"seed": -1}, {"overlap": 4},
                                       {"overlap": -1}])  # fmt: skip
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


def test_a_limited_validation_plans_no_more_than_it_needs(tmp_path, monkeypatch):
    shard = make_shard(tmp_path, [10] * 400)
    whole = join(validation_batches(shard, 2, 40))
    monkeypatch.setattr("gpt_oss_stories.data.batches.GROUP_PIECES", 40)
    monkeypatch.setattr("gpt_oss_stories.data.batches.GROUP_ROWS", 1)
    all_groups = join(validation_batches(shard, 2, 40))
    assert sorted(all_groups.tokens.flatten().tolist()) == sorted(whole.tokens.flatten().tolist())
    for limit in (1, 5, 6, 49, 50, 51):
        assert equal(join(validation_batches(shard, 2, 40, limit=limit)), join(islice(all_groups.split(2), limit)))
    assert plan_rows(shard.offsets, 40, seed=0, epoch=0, most_rows=11).rows == 20  # two groups of ten
    assert plan_rows(shard.offsets, 40, seed=0, epoch=0, most_rows=10).rows == 10


def test_a_limited_validation_samples_all_parts_of_the_shard(tmp_path):
    """Different sources stand one after the other in a shard; a sample must not be of the first one only."""
    shard = make_shard(tmp_path, [10] * 400)
    (batch,) = validation_batches(shard, 16, 10, limit=1)
    starts = batch.tokens[:, 0]
    assert starts.min() < 1000
    assert starts.max() >= 3000


@pytest.mark.parametrize("length", [512, 1024, 2048, 4096])
def test_typical_stories_waste_little(tmp_path, length):
    """Lengths as those of TinyStories: a tenth below 135 tokens, a half below 178, a tenth above 270, few above 512."""
    lengths = np.random.default_rng(0).lognormal(np.log(180), 0.33, 3000).clip(60, 950).astype(int).tolist()
    stream = BatchStream(make_shard(tmp_path, lengths), 8, length)
    assert stream.padding_share < 0.03


@pytest.mark.skipif(not TINY_STORIES.exists(), reason="the shared data are not there")
def test_tiny_stories_waste_little():
    with open(TINY_STORIES, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    # A story vocabulary has the same tokens under other numbers; two more begin and end a story.
    lengths = np.asarray([len(ids) + 2 for ids in harmony_vocabulary().encode_batch(texts)])
    offsets = np.concatenate([[0], lengths.cumsum()])
    for length in (512, 1024, 2048, 4096):
        for seed in range(3):
            assert plan_rows(offsets, length, seed=seed, epoch=0).padding_share(length) <= 0.03


def test_a_late_batch_of_tiny_data_lies_in_a_late_epoch(tmp_path):
    stream = BatchStream(make_shard(tmp_path, [5]), 8, 8)  # one row in each epoch
    assert stream._locate(8 * 500)[0] == 4_000
    assert equal(stream.batch(500), BatchStream(stream.shard, 8, 8).batch(500))
    assert stream._locate(8 * 3)[0] == 24, "going back works too"
