"""Fast decoding steps against torch's own, for every mechanism and every shape of batch that they know."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.model import StoryTransformer, compiled_step, decode
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
    if Decoder.suits(model):
        _ = model._fast_decoder().step  # loaded: prompts are read by it as well
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


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """As many for torch, and therefore for a step, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(params=[1, 3], ids="cores={}".format)
def cores(request, monkeypatch) -> Iterator[None]:
    """So many share the work, however small it is; also where there are fewer."""
    monkeypatch.setattr(compiled_step, "SHARED_WORK", 0)
    with threads(request.param):
        yield


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
    assert reads == [(1, prompt)] + [(1, 1)] * (tokens.shape[1] - prompt)
    assert_same_cache(*caches)


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("in_bytes", [False, True], ids=["float32", "int8"])
def test_the_story_does_not_depend_on_the_number_of_cores(in_bytes, rows):
    """Bit for bit; with shares that are no multiple of anything."""
    config = ModelConfig(
        vocab_size=333, n_layer=2, n_head=6, n_kv_head=3, n_embd=72, head_dim=20, intermediate_size=90,
        block_size=512, num_experts=4, sliding_window=50,
    )  # fmt: skip
    model = StoryTransformer(config, seed=3).eval()
    if in_bytes:
        quantize_for_decoding(model)
    tokens = random_tokens(rows, 90)
    cache = model.new_cache(rows, 512)
    model.next_logits(tokens[:, :40], cache)
    told = []
    for cores in (1, 2, 3, 7):
        own = copy.deepcopy(cache)
        with threads(cores), pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled_step, "SHARED_WORK", 0)
            told.append(
                torch.stack([model.next_logits(tokens[:, place : place + 1], own) for place in range(40, 90)], dim=1)
            )
    assert all(torch.equal(told[0], other) for other in told[1:])
    assert_close(told[0], model.logits(tokens)[:, 40:])


def step_alone(model: StoryTransformer) -> torch.Tensor:
    with torch.inference_mode():
        cache = model.new_cache(1, 64)
        model.next_logits(random_tokens(1, 9), cache)
        return torch.cat([model.next_logits(torch.tensor([[token]]), cache) for token in range(40)])


@pytest.mark.usefixtures("cores")
def test_two_stories_may_be_told_by_two_threads():
    """As a server does, with one model or two."""
    models = [build(), build(num_experts=1)]
    alone = [step_alone(model) for model in models]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(step_alone, models * 6), alone * 6, strict=True):
            assert torch.equal(got, want)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_cores_of_its_own():
    """Threads stay behind in a fork; a child that waited for its parent's would wait forever."""
    code = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        import torch
        from test_decode import build, step_alone
        from gpt_oss_stories.model import compiled_step
        compiled_step.SHARED_WORK = 0
        torch.set_num_threads(2)
        model = build()
        want = step_alone(model)
        compiled = model._fast_decoder().step
        cache = model.new_cache(1, 64)
        with torch.inference_mode():
            model.next_logits(torch.tensor([[3, 4]]), cache)
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            with torch.inference_mode():
                model.next_logits(torch.tensor([[5]]), cache)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert torch.equal(step_alone(model), want)
    """
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), here], check=True, timeout=300)


def test_shares_are_all_of_it_and_each_number_of_one_core():
    for count in (0, 1, 15, 16, 17, 160, 171):
        for cores in (1, 2, 3, 7, 8):
            for unit in (1, 16):
                shares = [compiled_step._share(count, core, cores, unit) for core in range(cores)]
                assert [number for begin, end in shares for number in range(begin, end)] == list(range(count))
                assert all(begin % unit == 0 or begin == count for begin, _ in shares)


def test_exp_is_exp():
    inputs = np.concatenate((np.linspace(-87, 88, 20_001), [0, -1e-10, 0.34657359, 0.34657360])).astype(np.float32)
    for x in inputs.tolist():
        assert compiled_step._exp(np.float32(x)) == pytest.approx(math.exp(x), rel=3e-7)
    assert compiled_step._exp(np.float32(-1000)) == pytest.approx(0, abs=1e-37)
    assert compiled_step._exp(np.float32(1000)) > 1e38
    assert math.isnan(compiled_step._exp(np.float32("nan")))


@torch.inference_mode()
@pytest.mark.usefixtures("cores")
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
@pytest.mark.usefixtures("cores")
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
def test_a_cache_without_lookahead_reads_several_tokens(reads):
    """Also more than its rings hold."""
    model = build()
    tokens = random_tokens(1, 40)
    want = model.logits(tokens)
    cache = model.new_cache(1, 64)
    for begin, end in ((0, 4), (4, 5), (5, 8), (8, 8 + 2 * WINDOW + 1), (21, 22), (22, 40)):
        assert_close(model.next_logits(tokens[:, begin:end], cache, every=True), want[:, begin:end])
    assert len(reads) == 6


@torch.inference_mode()
def test_the_first_prompt_does_not_wait_for_the_loops(reads):
    model = copy.deepcopy(build())
    for _ in range(2):
        cache = model.new_cache(1, 64)
        for tokens in (random_tokens(1, 5), random_tokens(1, 1)):
            model.next_logits(tokens, cache)
    assert reads == [(1, 1), (1, 5), (1, 1)]


@torch.inference_mode()
def test_many_tokens_at_once_are_read_by_torch(reads, monkeypatch):
    monkeypatch.setattr(decode, "MOST_TOKENS", 8)
    model = build()
    tokens = random_tokens(2, 20)
    want = model.logits(tokens)
    cache = model.new_cache(2, 64)
    for begin, end in ((0, 5), (5, 9), (9, 10), (10, 20)):
        assert_close(model.next_logits(tokens[:, begin:end], cache, every=True), want[:, begin:end])
    assert reads == [(2, 4), (2, 1)]


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
    assert_close(changed, decoded(plain(model)))
    model.to(torch.float64).to(torch.float32)  # the same numbers in other memory
    with torch.no_grad():
        model.layers[0].attention.qkv.weight.mul_(1.5)
    assert_close(decoded(model), decoded(plain(model)))
    model.norm.weight = torch.nn.Parameter(model.norm.weight * 3)
    assert_close(decoded(model), decoded(plain(model)))


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


def test_parameters_that_are_not_in_one_piece_are_torchs(reads):
    model = build()
    weight = model.layers[1].experts.down_weight
    weight.data = weight.data.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(decoded(model), decoded(build()))
    assert len(reads) == 2  # of the other


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
        from gpt_oss_stories.model import compiled_step
        one = numpy.ones(4, numpy.float32)
        assert compiled_step._norm(one[None], one, numpy.float32(0)).tolist() == [[1.0] * 4]
        assert compiled_step._norm.stats.cache_path is None
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=300)


def test_the_user_is_told_once_that_the_step_is_being_compiled(caplog, monkeypatch):
    from numba.core import event

    monkeypatch.setattr(compiled_step._remark, "said", False)
    remark = compiled_step._Remark()
    with event.install_listener("numba:compile", remark):
        with event.trigger_event("numba:compile", data={"dispatcher": len}):
            assert not remark.said
        for _ in range(2):
            with event.trigger_event("numba:compile", data={"dispatcher": compiled_step._take_part}):
                pass
    # One line of this listener and one of the module's own, which is always there.
    assert remark.said
    assert compiled_step._remark.said
    assert len([line for line in caplog.messages if line.startswith("Compiling")]) == 2


def test_the_experts_work_is_shared_in_whole_units():
    """Also where experts have no pairs, or there are more cores than units."""
    for pairs in ([3], [0, 1, 0, 0], [5, 0, 1, 2], [1, 1], [32, 0, 0, 1]):
        begin_E = np.cumsum([0, *pairs])
        for units in (1, 3, 32):
            for cores in (1, 2, 3, 7):
                boundaries = [compiled_step._boundary(begin_E, units, core, cores) for core in range(cores + 1)]
                assert boundaries == sorted(boundaries)
                assert boundaries[0] <= next(place for place, count in enumerate(pairs) if count) * units
                assert boundaries[-1] == len(pairs) * units


@torch.inference_mode()
def test_an_interrupted_step_leaves_no_core_waiting(monkeypatch):
    """Ctrl-C between the calls of compiled functions: the step was not done, and may be done again."""
    monkeypatch.setattr(compiled_step, "SHARED_WORK", 0)
    model = build()
    want = step_alone(model)
    await_helpers = compiled_step._await_helpers

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with threads(3):
        for pause in (0, 0.001, 0.1):  # helpers are on their way, are there, or have gone
            cache = model.new_cache(1, 64)
            monkeypatch.setattr(compiled_step, "_cores", compiled_step._Cores())
            monkeypatch.setattr(compiled_step, "_await_helpers", interrupted)
            with pytest.raises(KeyboardInterrupt):
                model.next_logits(random_tokens(1, 9), cache)
            assert cache.longest == 0
            time.sleep(pause)
            monkeypatch.setattr(compiled_step, "_await_helpers", await_helpers)
            model.next_logits(random_tokens(1, 9), cache)
            assert torch.equal(model.next_logits(torch.tensor([[0]]), cache)[0], want[0])
