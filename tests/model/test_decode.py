"""Fast decoding steps against torch's own, for every mechanism and every shape of batch that they know."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap

import numba
import pytest
import torch

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.model import StoryTransformer, decode, one_token
from gpt_oss_stories.model.decode import Decoder
from gpt_oss_stories.model.kv_cache import ContextLengthError
from gpt_oss_stories.model.quantized import quantize_for_decoding

WINDOW = 6
CASES = {
    "as gpt-oss": {},
    "tied": {"tie_embeddings": True},
    "dense": {"num_experts": 1},
    "no sinks": {"use_attention_sinks": False},
    "no windows": {"sliding_window": 0},
    "stretched": {"rope_scaling_factor": 8.0, "rope_original_context": 16},
    "all experts": {"experts_per_token": 4},
    "one expert of many": {"experts_per_token": 1},
    "one key-value head": {"n_kv_head": 1},
    "clamped": {"swiglu_limit": 0.05},
    "two tokens": {"multi_token_predict": 2},
}


def build(**changes) -> StoryTransformer:
    config = ModelConfig(
        vocab_size=60, n_layer=3, n_head=4, n_kv_head=2, n_embd=24, head_dim=8, intermediate_size=20, block_size=64,
        num_experts=4, sliding_window=WINDOW,
    ).replace(**changes)  # fmt: skip
    model = StoryTransformer(config, seed=3).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def plain(model: StoryTransformer) -> StoryTransformer:
    """A copy that decodes with torch."""
    other = copy.deepcopy(model)
    other._fast_decoder = lambda: None
    return other


def random_tokens(rows: int, time: int) -> torch.Tensor:
    return torch.randint(0, 60, (rows, time), generator=torch.Generator().manual_seed(5))


def assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def assert_same_cache(got, want) -> None:
    """The same keys and values, up to rounding, and exactly the same lengths."""
    assert got.longest == want.longest
    assert torch.equal(got.lengths, want.lengths)
    for ours, theirs in zip(got.keys + got.values, want.keys + want.values, strict=True):
        assert_close(ours, theirs)


@pytest.fixture
def reads(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the tokens that the fast decoder reads, as it reads them."""
    shapes = []
    read = Decoder.read

    def noted(self, tokens, cache, **options):
        shapes.append(tuple(tokens.shape))
        return read(self, tokens, cache, **options)

    monkeypatch.setattr(Decoder, "read", noted)
    return shapes


@pytest.fixture(params=["small", "large"])
def sizes(request, monkeypatch) -> None:
    """Both ways of attending to many queries, whatever the sizes."""
    monkeypatch.setattr(decode, "FEW_SCORES", 10**9 if request.param == "small" else 0)


@torch.inference_mode()
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
@pytest.mark.parametrize("prompt", [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW], ids="prompt={}".format)
def test_every_step_of_one_row_equals_torchs(changes, prompt, reads):
    model = build(**changes)
    other = plain(model)
    tokens = random_tokens(1, prompt + 2 * WINDOW + 3)
    caches = [network.new_cache(1, 64) for network in (model, other)]
    for network, cache in zip((model, other), caches, strict=True):
        network.next_logits(tokens[:, :prompt], cache)
    for place in range(prompt, tokens.shape[1]):
        got, want = (
            network.next_logits(tokens[:, place : place + 1], cache)
            for network, cache in zip((model, other), caches, strict=True)
        )
        assert got.dtype == torch.float32
        assert_close(got, want)
    assert reads == [(1, 1)] * (tokens.shape[1] - prompt)
    assert_same_cache(*caches)


@pytest.mark.parametrize("in_bytes", [False, True], ids=["float32", "int8"])
def test_cores_share_the_work_and_tell_the_same(in_bytes):
    """Wide enough for every product to be shared, and long enough for the heads."""
    config = ModelConfig(
        vocab_size=2048, n_layer=2, n_head=8, n_kv_head=2, n_embd=512, head_dim=64, intermediate_size=512,
        block_size=512, num_experts=4, sliding_window=150,
    )  # fmt: skip
    model = StoryTransformer(config, seed=3).eval()
    if in_bytes:
        quantize_for_decoding(model)
    block = model.layers[0]
    shared = (
        block.attention.qkv.weight,
        block.attention.out.weight,
        block.experts.down_weight[0],
        model.unembedding_weight,
    )
    assert all(weight.numel() >= one_token.SHARED_WEIGHTS for weight in shared)
    assert 150 * config.head_dim >= one_token.SHARED_SCORES
    tokens = random_tokens(1, 190)
    before, told = torch.get_num_threads(), []
    try:
        for cores in (1, 2):
            torch.set_num_threads(cores)
            with torch.inference_mode():
                cache = model.new_cache(1, 512)
                model.next_logits(tokens[:, :140], cache)
                steps = [model.next_logits(tokens[:, place : place + 1], cache) for place in range(140, 190)]
            told.append(torch.cat(steps))
    finally:
        torch.set_num_threads(before)
    if numba.config.NUMBA_NUM_THREADS > 1:
        # The prompt is torch's, whose sums depend on its threads.
        torch.testing.assert_close(*told, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        assert_close(told[0], model.logits(tokens)[0, 140:])


@torch.inference_mode()
@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_rows_of_unequal_length_equal_torchs(changes, reads):
    """Shorter and longer than the window; some leave, which moves the others, and one stands there twice."""
    model = build(**changes)
    other = plain(model)
    lengths = torch.tensor([1, WINDOW - 2, WINDOW, WINDOW + 1, 3 * WINDOW, 2, 9])
    tokens = random_tokens(7, 3 * WINDOW + 40)
    caches = [network.new_cache(7, 64) for network in (model, other)]
    for network, cache in zip((model, other), caches, strict=True):
        network.next_logits(tokens[:, : 3 * WINDOW], cache, lengths)
    place = 3 * WINDOW
    for rows in (torch.arange(7), torch.tensor([1, 0, 4, 4, 6]), torch.tensor([0, 3])):
        tokens = tokens[rows]
        for cache in caches:
            cache.select(rows)
        for _ in range(WINDOW + 2):
            got, want = (
                network.next_logits(tokens[:, place : place + 1], cache)
                for network, cache in zip((model, other), caches, strict=True)
            )
            assert got.is_contiguous()
            assert_close(got, want)
            place += 1
        assert_same_cache(*caches)
    assert reads == [(rows, 1) for rows in (7, 5, 2) for _ in range(WINDOW + 2)]


@torch.inference_mode()
@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
@pytest.mark.parametrize("prompts", [[5], [WINDOW + 2], [3, 14]], ids=str)
def test_several_tokens_at_once_equal_the_whole_sequence(changes, prompts, reads):
    """Steps of one to four tokens, each followed by wrong guesses that are taken back."""
    model = build(**changes)
    rows, lookahead = len(prompts), 4
    tokens = random_tokens(rows, 56)
    want = model.logits(tokens)
    lengths = torch.tensor(prompts)
    cache = model.new_cache(rows, 64, lookahead=lookahead)
    model.next_logits(tokens[:, : max(prompts)], cache, lengths)
    done = lengths.clone()
    for step in range(16):
        time = 1 + step % lookahead
        position = done[:, None] + torch.arange(time)
        row = torch.arange(rows)[:, None]
        if step % 2:
            wrong = (tokens[row, position] + 1) % 60
            model.next_logits(wrong, cache)
            cache.take_back(time)
        got = model.next_logits(tokens[row, position], cache, every=True)
        assert_close(got, want[row, position])
        done += time
        assert torch.equal(cache.lengths, done)
        if step == 8:  # and once more, with only the last token's logits wanted
            cache.take_back(time)
            assert_close(model.next_logits(tokens[row, position], cache), want[row, position][:, -1])
    assert len(reads) == 25


@torch.inference_mode()
def test_a_cache_without_lookahead_reads_several_tokens_with_torch(reads):
    model = build()
    tokens = random_tokens(1, 20)
    want = model.logits(tokens)
    cache = model.new_cache(1, 64)
    model.next_logits(tokens[:, :4], cache)
    for place in range(4, 12):
        assert_close(model.next_logits(tokens[:, place : place + 1], cache), want[:, place])
    assert_close(model.next_logits(tokens[:, 12:15], cache, every=True), want[:, 12:15])
    for place in range(15, 20):
        assert_close(model.next_logits(tokens[:, place : place + 1], cache), want[:, place])
    assert reads == [(1, 1)] * 13


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 5])
def test_greedy_stories_have_the_same_tokens(rows):
    model = build()
    stories = []
    for network in (model, plain(model)):
        cache = network.new_cache(rows, 60)
        token = network.next_logits(random_tokens(rows, 10), cache).argmax(-1)
        story = [token]
        for _ in range(49):
            story.append(network.next_logits(story[-1][:, None], cache).argmax(-1))
        stories.append(torch.stack(story))
    assert torch.equal(*stories)


def decoded(model: StoryTransformer) -> torch.Tensor:
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        cache = model.new_cache(1, 64)
        model.next_logits(tokens[:, :3], cache)
        return model.next_logits(tokens[:, 3:], cache)


def test_changed_and_moved_parameters_are_seen():
    model = build()
    before = decoded(model)
    with torch.no_grad():
        model.layers[1].experts.down_weight.mul_(2)
    changed = decoded(model)
    assert not torch.allclose(before, changed)
    torch.testing.assert_close(changed, decoded(plain(model)))
    model.to(torch.float64).to(torch.float32)  # the same numbers in other memory
    with torch.no_grad():
        model.layers[0].attention.qkv.weight.mul_(1.5)
    torch.testing.assert_close(decoded(model), decoded(plain(model)))
    model.norm.weight = torch.nn.Parameter(model.norm.weight * 3)
    torch.testing.assert_close(decoded(model), decoded(plain(model)))


def test_a_copied_model_decodes_with_its_own_parameters():
    model = build()
    decoded(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layers[1].experts.down_weight.mul_(2)
    torch.testing.assert_close(decoded(other), decoded(plain(other)))
    assert not torch.allclose(decoded(other), decoded(model))


@pytest.mark.parametrize("changes", [{"use_swiglu": False}, {"use_rmsnorm": False}], ids=str)
def test_what_it_does_not_know_is_torchs(changes, reads):
    model = build(**changes)
    decoded(model)
    narrow = build()
    narrow.compute_dtype = torch.bfloat16
    decoded(narrow)
    assert not reads


def test_gradients_are_torchs(reads):
    model = build()
    cache = model.new_cache(1, 8)
    model.next_logits(torch.tensor([[1, 2]]), cache)
    assert model.next_logits(torch.tensor([[3]]), cache).requires_grad
    assert not reads


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 3])
def test_a_full_cache_is_an_error(rows):
    model = build()
    cache = model.new_cache(rows, 5)
    model.next_logits(random_tokens(rows, 4), cache)
    model.next_logits(random_tokens(rows, 1), cache)
    with pytest.raises(ContextLengthError, match="6 tokens"):
        model.next_logits(random_tokens(rows, 1), cache)


@torch.inference_mode()
def test_more_than_the_lookahead_is_not_taken_back():
    cache = build().new_cache(1, 20, lookahead=2)
    with pytest.raises(ValueError, match="lookahead of 2"):
        cache.take_back(3)


@torch.inference_mode()
def test_a_network_gone_wild_warns_of_nothing(recwarn):
    """Numbers beyond float32's range in gates and sinks become what torch makes of them."""
    model = build()
    model.layers[0].experts.gate_up_bias.fill_(-200.0)
    model.layers[1].attention.sinks.fill_(200.0)
    torch.testing.assert_close(decoded(model), decoded(plain(model)))
    assert not recwarn.list


def test_without_a_folder_to_keep_it_the_step_is_compiled_for_the_process():
    """As in a container that cannot be written: numba then finds no place for its cache."""
    code = """
        import numba.core.caching
        numba.core.caching.CacheImpl._locator_classes = []
        import numpy
        from gpt_oss_stories.model import one_token
        one = numpy.ones(4, numpy.float32)
        assert one_token._norm(one, one, numpy.float32(0)).tolist() == [1.0] * 4
        assert one_token._norm.stats.cache_path is None
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=300)


def test_the_user_is_told_once_that_the_step_is_being_compiled(caplog, monkeypatch):
    from numba.core import event

    monkeypatch.setattr(one_token._remark, "said", False)
    remark = one_token._Remark()
    with event.install_listener("numba:compile", remark):
        with event.trigger_event("numba:compile", data={"dispatcher": len}):
            assert not remark.said
        for _ in range(2):
            with event.trigger_event("numba:compile", data={"dispatcher": one_token._attend}):
                pass
    # One line of this listener and one of the module's own, which is always there.
    assert remark.said
    assert one_token._remark.said
    assert len([line for line in caplog.messages if line.startswith("Compiling")]) == 2
