"""The sampler against definitions written out slowly, and its draws against the distribution they come from."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.config import GenerationConfig
from gpt_oss_stories.generation.sampling import (
    Sampler,
    SamplingError,
    all_finite,
    draw,
    keep_top_k,
    keep_top_p,
    likeliest,
    only_top_k,
    penalize_repetition,
    scale_temperature,
    story_seed,
)

CPU = torch.device("cpu")


def kept(logits: torch.Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in logits > -math.inf]


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


# A few distinct values make ties likely.
rows_of_logits = st.lists(
    st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 4.0]) | st.floats(-8, 8, width=32), min_size=1, max_size=12
)


def ranking(row: list[float]) -> list[int]:
    """Ids from the largest logit to the smallest, the lowest id first among equals."""
    return sorted(range(len(row)), key=lambda token: (-row[token], token))


def softmax(row: list[float]) -> list[float]:
    largest = max(row)
    weights = [math.exp(value - largest) for value in row]
    return [weight / math.fsum(weights) for weight in weights]


def test_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens():
    logits = torch.tensor([[3.0, -2.0, 0.0, 3.0, -2.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    seen = torch.tensor([[True, True, True, False, False], [False, False, False, False, True]])
    expected = torch.tensor([[1.5, -4.0, 0.0, 3.0, -2.0], [1.0, 1.0, 1.0, 1.0, 0.5]])
    assert torch.equal(penalize_repetition(logits, seen, 2.0), expected)


@pytest.mark.parametrize("penalty", [1e-300, 1e-40, 1e40, 1e300])
def test_extreme_penalties_still_draw_a_token(penalty):
    logits = torch.tensor([[2.0, 0.0, -3.0, 1.0]])
    everything = torch.ones_like(logits, dtype=torch.bool)
    penalized = penalize_repetition(logits, everything, penalty)
    assert penalized.isfinite().all()
    assert 0 <= draw(scale_temperature(penalized, 0.8), torch.tensor([0.999], dtype=torch.float64)).item() < 4


def test_penalty_of_one_changes_nothing():
    logits = torch.tensor([[3.0, -2.0]])
    assert penalize_repetition(logits, torch.ones(1, 2, dtype=torch.bool), 1.0) is logits


@pytest.mark.parametrize(
    ("k", "expected"),
    [(0, {0, 1, 2, 3}), (1, {1}), (2, {1, 3}), (3, {0, 1, 3}), (4, {0, 1, 2, 3}), (9, {0, 1, 2, 3})],
)
def test_top_k_sets_by_hand(k, expected):
    assert kept(keep_top_k(logits_of(0.2, 0.4, 0.1, 0.3), k)) == [expected]


def test_top_k_keeps_the_lowest_ids_among_equals():
    assert kept(keep_top_k(torch.tensor([[1.0, 2.0, 1.0, 1.0, 2.0]]), 3)) == [{0, 1, 4}]


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.05, {1}),
        (0.39, {1}),
        (0.45, {1, 3}),
        (0.69, {1, 3}),
        (0.75, {0, 1, 3}),
        (0.95, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ],
)
def test_top_p_sets_by_hand(p, expected):
    assert kept(keep_top_p(logits_of(0.2, 0.4, 0.1, 0.3), p)) == [expected]


def test_top_p_keeps_the_lowest_ids_among_equals():
    assert kept(keep_top_p(torch.zeros(1, 4), 0.6)) == [{0, 1, 2}]


@given(row=rows_of_logits, k=st.integers(1, 14))
def test_top_k_equals_its_definition(row, k):
    assert kept(keep_top_k(torch.tensor([row]), k)) == [set(ranking(row)[:k])]


@given(row=rows_of_logits, p=st.floats(0.01, 0.999))
def test_nucleus_is_minimal_and_has_the_mass(row, p):
    [nucleus] = kept(keep_top_p(torch.tensor([row]), p))
    probabilities = softmax(row)
    mass = math.fsum(probabilities[token] for token in nucleus)
    assert nucleus == set(ranking(row)[: len(nucleus)])
    assert len(nucleus) >= 1
    assert mass >= p - 1e-6
    if len(nucleus) > 1:
        assert mass - min(probabilities[token] for token in nucleus) < p + 1e-6


@pytest.mark.parametrize("p", [0.5, 0.9, 0.999999])
@pytest.mark.parametrize("scale", [0.0, 0.1, 6.0], ids=["flat", "nearly flat", "peaked"])
def test_nucleus_of_a_large_vocabulary(p, scale):
    """Large vocabularies go through a short list first; flat distributions do not fit into it."""
    logits = scale * torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
    found = kept(keep_top_p(logits, p))
    for row, nucleus in zip(logits, found, strict=True):
        probabilities = row.double().softmax(0)
        order = torch.sort(row, descending=True, stable=True).indices
        mass = probabilities[order].cumsum(0)
        size = int((mass < p).sum()) + 1
        assert abs(len(nucleus) - size) <= 1  # float32 may round a sum to the other side of p
        assert nucleus == set(order[: len(nucleus)].tolist())


@given(row=rows_of_logits)
def test_temperature_zero_is_argmax_with_ties_to_the_lowest_id(row):
    sampler = Sampler(GenerationConfig(temperature=0, top_k=3, top_p=0.5), [7], [[]], len(row), CPU)
    token = sampler.choose(torch.tensor([row])).item()
    assert token == ranking(row)[0]
    assert likeliest(torch.tensor([row])).item() == token


@pytest.mark.parametrize("temperature", [1e-45, 1e-300, 1e-9])
def test_tiny_temperatures_are_greedy_and_finite(temperature):
    scaled = scale_temperature(torch.tensor([[1.0, 3.0, 2.0]]), temperature)
    assert scaled.softmax(-1).tolist() == [[0.0, 1.0, 0.0]]


def test_temperature_divides_logits():
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    torch.testing.assert_close(scale_temperature(logits, 0.5).softmax(-1), (logits * 2).softmax(-1))


def test_order_penalty_then_temperature_then_top_k_then_top_p():
    """Numbers for which every other order leaves more than one token, or another one.

    Token 0 is by far the largest, but seen: penalized it is the last, penalized after top-k it would push out token 2.
    At temperature 0.5 tokens 1 to 4 stand as 4 : 3 : 2 : 1. Of tokens 1 and 2 alone the first has 0.57, more than
    p = 0.55; it would have 0.54 without the temperature, and 0.38 if top-p came before top-k.
    """
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1])
    logits = torch.cat((torch.tensor([5.0]), 0.5 * shares.log() + 2)).unsqueeze(0)
    config = GenerationConfig(repetition_penalty=10.0, temperature=0.5, top_k=2, top_p=0.55)
    assert {Sampler(config, [seed], [[0]], 5, CPU).choose(logits).item() for seed in range(60)} == {1}


def test_draw_inverts_the_cumulative_distribution():
    logits = logits_of(0.25, 0.0, 0.5, 0.25, 0.0).expand(6, -1)
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert draw(logits, uniforms).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_token_of_probability_zero_is_never_drawn():
    uniforms = torch.tensor([0.0, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    logits = torch.full((2, 1000), -math.inf)
    logits[:, 300:700] = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    assert draw(logits, uniforms).tolist() == [300, 699]


def test_draws_follow_the_distribution():
    """Chi-square over 20,000 draws; 27.9 is exceeded by chance once in 1,000 with 9 degrees of freedom."""
    size, draws = 10, 20_000
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(4))
    config = GenerationConfig(temperature=0.7)
    sampler = Sampler(config, [2024], [[]], size, CPU)
    counts = torch.bincount(torch.tensor([sampler.choose(logits).item() for _ in range(draws)]), minlength=size)
    expected = draws * (logits[0] / 0.7).softmax(0)
    assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_draws_of_different_seeds_follow_the_distribution():
    """The first draw of neighbouring seeds must be as good as one long sequence: people type 1, 2, 3."""
    size, draws = 10, 5_000
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(4))
    for seeds in (range(draws), [story_seed(9, index) for index in range(draws)]):
        sampler = Sampler(GenerationConfig(temperature=1.0), list(seeds), [[]] * draws, size, CPU)
        counts = torch.bincount(sampler.choose(logits.expand(draws, -1)), minlength=size)
        expected = draws * logits[0].softmax(0)
        assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_rows_do_not_depend_on_the_rows_beside_them():
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(3, 20, generator=generator) for _ in range(12)]
    config = GenerationConfig(repetition_penalty=1.3, top_k=10, top_p=0.9)
    prompts = [[1], [2, 3], [4]]
    together = Sampler(config, [11, 22, 33], prompts, 20, CPU)
    alone = Sampler(config, [22], prompts[1:2], 20, CPU)
    found = []
    for index, logits in enumerate(steps):
        if index == 5:  # the first row ends, and the others change places
            together.select([2, 1])
        rows = logits if index < 5 else logits[[2, 1]]
        found.append((together.choose(rows)[1].item(), alone.choose(logits[1:2]).item()))
    assert [a for a, _ in found] == [b for _, b in found]


def test_penalty_counts_the_prompt_and_what_was_chosen():
    config = GenerationConfig(temperature=0, repetition_penalty=10.0)
    sampler = Sampler(config, [0], [[2]], 3, CPU)
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert [sampler.choose(logits).item() for _ in range(3)] == [1, 0, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_logits_that_are_not_finite_are_an_error(bad, temperature):
    sampler = Sampler(GenerationConfig(temperature=temperature), [1, 2], [[], []], 3, CPU)
    with pytest.raises(SamplingError, match="not finite"):
        sampler.choose(torch.tensor([[0.0, 1.0, 2.0], [0.0, bad, 1.0]]))


@settings(max_examples=50)
@given(seed=st.integers(0, 2**70), other=st.integers(0, 2**70), index=st.integers(1, 99))
def test_story_seeds_are_stable_and_distinct(seed, other, index):
    assert story_seed(seed, 0) == seed
    assert story_seed(seed, index) == story_seed(seed, index) != seed
    assert story_seed(seed, index) != story_seed(seed, index + 1)
    if seed != other:
        assert story_seed(seed, index) != story_seed(other, index)


def test_story_seeds_do_not_change_between_versions():
    """A seed in somebody's notes must go on telling the same story."""
    assert story_seed(7, 1) == 265_320_313_490_589


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    Sampler(GenerationConfig(), [1], [[]], 5, CPU).choose(torch.zeros(1, 5))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


@given(row=rows_of_logits.filter(lambda row: len(row) > 1), k=st.integers(1, 11))
def test_only_top_k_is_what_top_k_keeps(row, k):
    k = min(k, len(row) - 1)
    logits = torch.tensor([row, row[::-1]])
    values, ids = only_top_k(logits, k)
    assert [set(found) for found in ids.tolist()] == kept(keep_top_k(logits, k))
    assert ids.tolist() == [sorted(found) for found in ids.tolist()]
    assert torch.equal(values, logits.gather(-1, ids))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_logit_that_is_not_finite_is_found(bad):
    logits = torch.zeros(3, 5)
    assert all_finite(logits)
    assert all_finite(logits + 3e38)  # the sum is not
    logits[1, 2] = bad
    assert not all_finite(logits)
    logits[2, 2] = -bad
    assert not all_finite(logits)
