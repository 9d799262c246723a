"""The engine with a real, small, random transformer: caches, batches and seeds change nothing."""

from __future__ import annotations

import pytest
import torch

from gpt_oss_stories.config import GenerationConfig, ModelConfig
from gpt_oss_stories.generation import Storyteller
from gpt_oss_stories.model import StoryTransformer

WINDOW = 8
START = 256


@pytest.fixture(scope="module")
def network() -> StoryTransformer:
    config = ModelConfig(
        vocab_size=264, n_layer=4, n_head=4, n_kv_head=2, head_dim=16, n_embd=32, block_size=64, num_experts=4,
        sliding_window=WINDOW,
    )  # fmt: skip
    network = StoryTransformer(config, seed=3).eval()
    with (
        torch.no_grad()
    ):  # at initialisation all logits are nearly equal: spread them, so that rounding decides nothing
        network.unembedding.weight *= 30
    return network


def uncached_greedy(network: StoryTransformer, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        with torch.inference_mode():
            tokens.append(int(network.logits(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW])
def test_cached_greedy_equals_uncached(network, length):
    prompt = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    expected = uncached_greedy(network, prompt, 2 * WINDOW + 3)
    assert Storyteller(network, None).generate_tokens(prompt, 2 * WINDOW + 3) == expected
    assert len(set(expected[length:])) > 3  # not one token over and over


def test_the_whole_context_can_be_used(network):
    assert Storyteller(network, None).generate_tokens([1], 63) == uncached_greedy(network, [1], 63)


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_unequal_prompts_in_a_batch_equal_single_ones(network, fakes, temperature):
    """The prompts end around the window's edges, and the stories end at different times."""
    config = GenerationConfig(temperature=temperature, max_tokens=40, seed=8, num_samples=2, repetition_penalty=1.1)
    storyteller = Storyteller(network, fakes.ByteVocabulary())
    generator = torch.Generator().manual_seed(1)
    prompts = [
        [START, *torch.randint(0, 256, (length,), generator=generator).tolist()]
        for length in (WINDOW - 2, WINDOW - 1, WINDOW, 3 * WINDOW, 1)
    ]
    together = storyteller.tell(prompts, config)
    alone = [story for prompt in prompts for story in storyteller.tell([prompt], config)]
    assert [story.tokens for story in together] == [story.tokens for story in alone]
    for story in together[::3]:
        [one] = storyteller.tell([story.prompt_tokens], config.replace(num_samples=1, seed=story.seed))
        assert one.tokens == story.tokens
    if temperature:
        assert len({story.tokens for story in together}) == len(together)
        assert len({story.token_count for story in together}) > 2


def test_a_row_that_ends_leaves_the_others_alone(network):
    """Stop tokens are chosen so that rows end one after the other; each must be its uncached self up to there."""
    prompts = [[START, 5], [START, 6, 7, 8, 9], [START, 10, 11]]
    whole = [uncached_greedy(network, prompt, 30)[len(prompt) :] for prompt in prompts]
    stops = {whole[0][4], whole[1][11]}

    class Enders(Storyteller):
        def _ends(self) -> frozenset[int]:
            return frozenset(stops)

    class Numbers:
        """Each token is one letter."""

        size = 264

        def token_bytes(self, id: int) -> bytes:
            return b"x"

    stories = Enders(network, Numbers()).tell(prompts, GenerationConfig(temperature=0, max_tokens=30))
    for story, tokens in zip(stories, whole, strict=True):
        end = next((place for place, token in enumerate(tokens) if token in stops), 29) + 1
        assert list(story.tokens) == tokens[:end]
    assert len({story.token_count for story in stories}) >= 2
