"""The engine over scripted networks: what is told, how it ends, and that batches change nothing."""

from __future__ import annotations

import pytest
import torch

from gpt_oss_stories.config import GenerationConfig, ModelConfig
from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.generation import GenerationError, Storyteller
from gpt_oss_stories.tokenization import StoryRequest, build_story_vocabulary

GREEDY = GenerationConfig(temperature=0, max_tokens=100)
START, END = 256, 257


@pytest.fixture
def teller(fakes):
    """A storyteller over a network given by its prediction."""
    return lambda predict, **more: Storyteller(fakes.FakeNetwork(predict, **more), fakes.ByteVocabulary())


def test_a_story_ends_at_the_stop_token(fakes, teller):
    [story] = teller(fakes.scripted({"Once": " there was a fox."})).tell("Once", GREEDY)
    assert story.text == "Once there was a fox."
    assert (story.prompt, story.continuation) == ("Once", " there was a fox.")
    assert story.prompt_tokens == (START, *b"Once")
    assert story.tokens == (*b" there was a fox.", END)
    assert (story.finish_reason, story.note, story.token_count) == ("end", None, 18)
    assert story.seconds > 0
    assert story.tokens_per_second > 0


def test_a_story_ends_at_max_tokens(fakes, teller):
    [story] = teller(fakes.scripted({"Once": " there was"})).tell("Once", GREEDY.replace(max_tokens=6))
    assert (story.continuation, story.finish_reason, story.note) == (" there", "length", None)


def test_a_story_ends_at_the_end_of_the_context_and_says_so(fakes, teller):
    [story] = teller(fakes.scripted({"Once": ""}, ends=False), block_size=20).tell("Once", GREEDY)
    assert story.token_count == 15  # 20 less the start token and four letters
    assert story.finish_reason == "length"
    assert story.note == "the model's context of 20 tokens is full"


def test_a_prompt_that_fills_the_context_is_refused(fakes, teller):
    tell = teller(fakes.dice, block_size=20).tell
    assert tell("x" * 18, GREEDY)[0].token_count == 1
    with pytest.raises(GenerationError, match=r"prompt has 20 tokens.*context holds 20.*by 1 tokens"):
        tell("x" * 19, GREEDY)


def test_a_story_ends_at_a_stop_string(fakes, teller):
    network = fakes.scripted({"Once": " a fox. The end. Once more"})
    [story] = teller(network).tell("Once", GREEDY, stop=["The end"])
    assert (story.continuation, story.finish_reason) == (" a fox. ", "stop")


def test_prompts_of_unequal_length_in_one_batch(fakes, teller):
    scripts = {"A": " cat.", "The dog": " ran and ran and ran.", "Here comes": " the sun"}
    storyteller = teller(fakes.scripted(scripts))
    stories = storyteller.tell(list(scripts), GREEDY)
    assert [story.text for story in stories] == [prompt + text for prompt, text in scripts.items()]
    # One prefill for all; a row leaves the batch in the step after its end.
    widths = [rows for rows, _ in storyteller.network.calls]
    assert storyteller.network.calls[0] == (3, 1 + len("Here comes"))
    assert widths == [3] * 6 + [2] * 3 + [1] * 13


def test_samples_of_one_prompt_are_read_once(fakes, teller):
    storyteller = teller(fakes.dice)
    stories = storyteller.tell("Once upoN", GenerationConfig(num_samples=4, seed=7, max_tokens=30))
    assert storyteller.network.calls[0] == (1, 10)
    assert storyteller.network.calls[1] == (4, 1)
    assert len({story.text for story in stories}) == 4


def test_same_seed_same_story_alone_or_in_any_batch(fakes, teller):
    config = GenerationConfig(seed=5, max_tokens=60, temperature=0.9, top_p=0.95, repetition_penalty=1.2)
    prompts = ["A", "Once upon a time", "Hm", "A long, long time ago"]
    together = teller(fakes.dice).tell(prompts, config.replace(num_samples=3))
    turns = Storyteller(fakes.FakeNetwork(fakes.dice), fakes.ByteVocabulary(), max_rows=5)
    assert [story.tokens for story in turns.tell(prompts, config.replace(num_samples=3))] == [
        story.tokens for story in together
    ]
    assert len({story.token_count for story in together}) > 3  # rows did end at different times
    for index, story in enumerate(together):
        prompt = prompts[index // 3]
        assert story.prompt == prompt
        [alone] = teller(fakes.dice).tell(prompt, config.replace(seed=story.seed))
        assert alone.tokens == story.tokens
        stream = teller(fakes.dice).stream(prompt, config.replace(seed=story.seed))
        assert "".join(stream) == story.continuation
        assert stream.story.tokens == story.tokens
    assert together[0].seed == 5


def test_without_a_seed_every_story_is_new_and_names_its_seed(fakes, teller):
    config = GenerationConfig(max_tokens=40)
    first, second = (teller(fakes.dice).tell("Once", config)[0] for _ in range(2))
    assert first.tokens != second.tokens
    assert teller(fakes.dice).tell("Once", config.replace(seed=first.seed))[0].tokens == first.tokens


def test_streams_come_in_whole_characters(fakes, teller):
    text = "naïve 🦊 “fox”, 狐"
    stream = teller(fakes.scripted({"A": text})).stream("A", GREEDY)
    assert stream.prompt == "A"
    pieces = list(stream)
    assert pieces == list(text)


def test_a_stream_holds_back_what_may_become_a_stop_string(fakes, teller):
    stream = teller(fakes.scripted({"A": "b The hat. The end"})).stream("A", GREEDY, stop=["The end"])
    assert "".join(stream) == "b The hat. "
    assert stream.story.finish_reason == "stop"


def test_half_a_character_at_the_limit_is_replaced(fakes, teller):
    [story] = teller(fakes.scripted({"A": "é"})).tell("A", GREEDY.replace(max_tokens=1))
    assert story.text == "A\ufffd"


def test_a_stream_can_be_cancelled(fakes, teller):
    stream = teller(fakes.scripted({"A": " long story"})).stream("A", GREEDY)
    with pytest.raises(GenerationError, match="still being told"):
        _ = stream.story
    got = next(stream) + next(stream) + stream.cancel()
    assert list(stream) == []
    assert (got, stream.story.continuation, stream.story.finish_reason) == (" l", " l", "cancelled")


def test_a_stream_leaves_gradients_as_they_were(fakes, teller):
    stream = teller(fakes.scripted({"A": " long"})).stream("A", GREEDY)
    next(stream)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_network_in_training_gets_its_mode_back(fakes, teller):
    storyteller = teller(fakes.scripted({"A": "b"}), training=True)
    storyteller.tell("A", GREEDY)
    assert storyteller.network.training
    assert not any(storyteller.network.modes)


def test_blanks_at_the_end_of_a_prompt_are_left_to_the_model(fakes, teller):
    [story] = teller(fakes.scripted({"Once": " there"})).tell("Once  ", GREEDY)
    assert story.text == "Once there"


def test_a_request_is_not_part_of_its_story(fakes, teller):
    def predict(row):
        told = row[len(row) - row[::-1].index(259) :]  # after the last <|message|>
        text = b"Mia the mouse."
        return fakes.certain(text[len(told)] if len(told) < len(text) else 262)

    [story] = teller(predict).tell(StoryRequest(hero_name="Mia"), GREEDY)
    assert (story.prompt, story.text, story.finish_reason) == ("", "Mia the mouse.", "end")


def test_prompts_of_tokens(fakes, teller):
    storyteller = teller(fakes.scripted({"Aé": "b"}))
    [whole, cut] = storyteller.tell([[START, *"Aé".encode()], [START, *"Aé".encode()[:-1]]], GREEDY)
    assert (whole.prompt, whole.text) == ("Aé", "Aéb")
    assert (cut.prompt, cut.continuation, cut.text) == ("A", "éb", "Aéb")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "no tokens"), ([1, -1], "token -1"), ([1, 264], "token 264"), ([1.5], "token 1.5")],
)
def test_tokens_that_are_none_are_refused(fakes, teller, prompt, message):
    storyteller = teller(fakes.dice)
    with pytest.raises(GenerationError, match=message):
        storyteller.tell([prompt])
    with pytest.raises(GenerationError, match=message):
        storyteller.generate_tokens(prompt, 3)


def test_text_that_cannot_be_encoded_is_one_clear_error():
    vocabulary = build_story_vocabulary({0: 1})
    storyteller = Storyteller(NoNetwork(vocabulary.size), vocabulary)
    with pytest.raises(StoryError, match="surrogate"):
        storyteller.tell("a \udc80 b")


class NoNetwork:
    """Only its configuration is looked at."""

    def __init__(self, vocab_size: int) -> None:
        self.config = ModelConfig(vocab_size=vocab_size, n_layer=1, n_head=1, n_embd=8, num_experts=1)


def test_a_vocabulary_larger_than_the_network_is_refused(fakes):
    with pytest.raises(GenerationError, match="do not belong together"):
        Storyteller(NoNetwork(100), fakes.ByteVocabulary())


def test_generate_tokens_stops_at_stop_tokens_only_with_a_vocabulary(fakes):
    network = fakes.FakeNetwork(fakes.scripted({"ab": "cd"}))
    prompt = list(b"ab")
    assert Storyteller(network, fakes.ByteVocabulary()).generate_tokens(prompt, 9) == [*b"abcd", END]
    assert Storyteller(network, None).generate_tokens(prompt, 5) == [*b"abcd", END, END, END]


def test_generate_tokens_refuses_what_the_context_cannot_hold(fakes):
    storyteller = Storyteller(fakes.FakeNetwork(fakes.dice, block_size=16), None)
    assert len(storyteller.generate_tokens([1] * 6, 10)) == 16
    with pytest.raises(GenerationError, match="block_size"):
        storyteller.generate_tokens([1] * 7, 10)
    with pytest.raises(GenerationError, match="at least 1"):
        storyteller.generate_tokens([1], 0)


def test_generate_tokens_draws_anew_above_temperature_zero(fakes):
    storyteller = Storyteller(fakes.FakeNetwork(fakes.dice), None)
    assert len({tuple(storyteller.generate_tokens([1], 20, temperature=1.0)) for _ in range(4)}) == 4


def test_without_a_vocabulary_there_is_no_text(fakes):
    storyteller = Storyteller(fakes.FakeNetwork(fakes.dice), None)
    with pytest.raises(GenerationError, match="without a vocabulary"):
        storyteller.tell("Once")
    with pytest.raises(GenerationError, match="no text"):
        storyteller.tell([[1, 2]])
