"""The whole model: gradients, packing, decoding with a cache, switches, multi-token prediction, parameter counts."""

import pytest
import torch

from gpt_oss_stories.config import MODEL_SIZES, ModelConfig, model_config
from gpt_oss_stories.model import ContextLengthError, StoryTransformer
from gpt_oss_stories.model.pointwise import compile_kernels

WINDOW = 8


def config(**overrides) -> ModelConfig:
    return ModelConfig(**{
        "vocab_size": 61, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "head_dim": 8, "block_size": 64,
        "num_experts": 4, "sliding_window": WINDOW, **overrides,
    })  # fmt: skip


def tokens(batch, time, seed=0):
    return torch.randint(0, 61, (batch, time), generator=torch.Generator().manual_seed(seed))


def jitter(model):
    """Move every parameter off its starting value, so that no bias or sink is zero by chance."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


SWITCHES = [
    {},
    {"use_swiglu": False},
    {"use_rmsnorm": False},
    {"use_attention_sinks": False},
    {"sliding_window": 0},
    {"num_experts": 1},
    {"multi_token_predict": 3},
    {"tie_embeddings": True},
    {"rope_scaling_factor": 4.0, "rope_original_context": 16},
    {
        "use_swiglu": False,
        "use_rmsnorm": False,
        "use_attention_sinks": False,
        "sliding_window": 0,
        "num_experts": 1,
        "tie_embeddings": True,
    },
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: ",".join(s) or "gpt-oss")
def test_every_parameter_gets_a_finite_gradient(switches):
    model = StoryTransformer(config(**switches), seed=3)
    assert sum(p.numel() for p in model.parameters()) == model.config.parameters().total
    losses = model.loss(tokens(4, 40))
    losses.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert len(losses.multi_token) == model.config.multi_token_predict - 1


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: ",".join(s) or "gpt-oss")
def test_cached_decoding_equals_the_whole_sequence(switches):
    model = jitter(StoryTransformer(config(**switches)))
    for prompt in (WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW):
        ids = tokens(2, prompt + 12, seed=prompt)
        with torch.inference_mode():
            whole = model.logits(ids)
            cache = model.new_cache(2, prompt + 12)
            got = [model.next_logits(ids[:, :prompt], cache)]
            got += [model.next_logits(ids[:, t : t + 1], cache) for t in range(prompt, prompt + 12)]
        torch.testing.assert_close(torch.stack(got, 1), whole[:, prompt - 1 :], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("piece", [1, 3, WINDOW, WINDOW + 3, 40])
def test_a_prompt_may_be_read_in_pieces(piece):
    model = jitter(StoryTransformer(config()))
    ids = tokens(2, 40)
    with torch.inference_mode():
        cache = model.new_cache(2, 40)
        for begin in range(0, 40, piece):
            logits = model.next_logits(ids[:, begin : begin + piece], cache)
        torch.testing.assert_close(logits, model.logits(ids)[:, -1], rtol=1e-4, atol=1e-5)


def test_rows_of_unequal_length_equal_each_alone():
    model = jitter(StoryTransformer(config()))
    lengths = [WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 1]
    more = 10
    rows = [tokens(1, length + more, seed=length)[0] for length in lengths]
    prompts = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    for row, (ids, length) in enumerate(zip(rows, lengths, strict=True)):
        prompts[row, :length] = ids[:length]
    with torch.inference_mode():
        cache = model.new_cache(len(rows), max(lengths) + more)
        got = [model.next_logits(prompts, cache, torch.tensor(lengths))]
        for t in range(more):
            got.append(
                model.next_logits(
                    torch.stack([ids[n + t] for ids, n in zip(rows, lengths, strict=True)])[:, None], cache
                )
            )
        got = torch.stack(got, 1)
        for row, (ids, length) in enumerate(zip(rows, lengths, strict=True)):
            whole = model.logits(ids[None])[0, length - 1 :]
            torch.testing.assert_close(got[row], whole, rtol=1e-4, atol=1e-5)


def test_rows_may_be_repeated_reordered_and_left_out():
    model = jitter(StoryTransformer(config()))
    ids = tokens(2, 20)
    with torch.inference_mode():
        cache = model.new_cache(2, 21)
        model.next_logits(ids, cache)
        cache.select(torch.tensor([1, 0, 1]))
        logits = model.next_logits(torch.tensor([[5], [6], [5]]), cache)
        torch.testing.assert_close(logits[0], logits[2])
        alone = model.logits(torch.cat((ids[0], torch.tensor([6])))[None])[0, -1]
        torch.testing.assert_close(logits[1], alone, rtol=1e-4, atol=1e-5)


def test_packed_documents_equal_each_alone():
    model = jitter(StoryTransformer(config(multi_token_predict=2)))
    ids = tokens(2, 60)
    documents = torch.zeros(2, 60, dtype=torch.int64)
    documents[0, 25:] = 1
    documents[0, 41:] = 2
    documents[1, 9:] = 1
    documents[1, 50:] = -1
    pieces = [ids[0, :25], ids[0, 25:41], ids[0, 41:], ids[1, :9], ids[1, 9:50]]
    packed = model.loss(ids, documents, balance_coef=0, z_coef=0)
    counts = model.count_targets(documents, None)
    assert counts == (sum(len(p) - 1 for p in pieces), sum(len(p) - 2 for p in pieces))
    assert packed.targets == counts[0]
    alone = [model.loss(p[None], balance_coef=0, z_coef=0, target_counts=counts) for p in pieces]
    torch.testing.assert_close(packed.total, sum(x.total for x in alone), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(packed.next_token, sum(x.next_token for x in alone), rtol=1e-5, atol=1e-6)
    grads = torch.autograd.grad(packed.total, list(model.parameters()), allow_unused=True)
    wanted = torch.autograd.grad(sum(x.total for x in alone), list(model.parameters()), allow_unused=True)
    for (name, _), grad, want in zip(model.named_parameters(), grads, wanted, strict=True):
        torch.testing.assert_close(grad, want, rtol=2e-3, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_recomputing_blocks_changes_no_gradient():
    model = StoryTransformer(config(multi_token_predict=2))
    ids = tokens(2, 40)
    want = torch.autograd.grad(model.loss(ids).total, list(model.parameters()))
    model.recompute_blocks = True
    got = torch.autograd.grad(model.loss(ids).total, list(model.parameters()))
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_order_of_the_prefix_matters():
    """A model without positions would not notice; see the pitfall of wrong rotary axes."""
    model = jitter(StoryTransformer(config(n_layer=1)))
    ids = tokens(1, 20)
    shuffled = torch.cat((ids[:, :19].flip(1), ids[:, 19:]), dim=1)
    with torch.inference_mode():
        assert (model.logits(ids)[0, -1] - model.logits(shuffled)[0, -1]).abs().max() > 1e-3


def test_future_tokens_do_not_matter():
    model = jitter(StoryTransformer(config()))
    ids = tokens(1, 30)
    changed = ids.clone()
    changed[0, 20:] = 3
    with torch.inference_mode():
        torch.testing.assert_close(model.logits(ids)[0, :20], model.logits(changed)[0, :20])


def test_multi_token_module_sees_no_token_that_it_predicts():
    """The module of depth 1 at position t may know tokens up to t+1 and predicts t+2."""
    model = jitter(StoryTransformer(config(multi_token_predict=2)))
    ids = tokens(1, 12)
    trained = torch.zeros(1, 12, dtype=torch.bool)
    trained[0, 7] = True  # only token 7 counts: depth 1 predicts it at position 5
    base = model.loss(ids, None, trained).multi_token[0]
    for position in range(12):
        changed = ids.clone()
        changed[0, position] = (ids[0, position] + 1) % 61
        differs = not torch.equal(model.loss(changed, None, trained).multi_token[0], base)
        assert differs == (position <= 7), position


def test_same_seed_same_model_other_seed_other_model():
    first, second, other = (StoryTransformer(config(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_parameter_names_are_stable():
    names = {name for name, _ in StoryTransformer(config(n_layer=1, multi_token_predict=2)).named_parameters()}
    block = {
        "attention.norm.weight", "attention.qkv.weight", "attention.qkv.bias", "attention.out.weight",
        "attention.out.bias", "attention.sinks", "experts.norm.weight", "experts.router.weight", "experts.router.bias",
        "experts.gate_up_weight", "experts.gate_up_bias", "experts.down_weight", "experts.down_bias",
    }  # fmt: skip
    wanted = {"embedding.weight", "unembedding.weight", "norm.weight"} | {f"layers.0.{name}" for name in block}
    wanted |= {f"multi_token.0.block.{name}" for name in block}
    wanted |= {f"multi_token.0.{n}.weight" for n in ("hidden_norm", "embedding_norm", "projection", "norm")}
    assert names == wanted


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_every_size_builds_with_its_counted_parameters(size):
    with torch.device("meta"):
        model = StoryTransformer(model_config(size, multi_token_predict=2))
    assert sum(p.numel() for p in model.parameters()) == model.config.parameters().total


def test_too_many_tokens_are_refused():
    model = StoryTransformer(config())
    with pytest.raises(ValueError, match="block_size is 64"):
        model.logits(tokens(1, 65))
    with pytest.raises(ContextLengthError, match="reads 64 at most"):
        model.new_cache(1, 65)
    cache = model.new_cache(1, 10)
    with pytest.raises(ContextLengthError, match="room for 10"):
        model.next_logits(tokens(1, 11), cache)


def test_router_biases_move_towards_balance():
    model = StoryTransformer(config())
    load = torch.zeros(3, 4)
    load[:, 0] = 100
    directions = model.router_bias_directions(load)
    for (bias, direction), layer in zip(directions, model.layers, strict=False):
        assert bias is layer.experts.router.bias
        assert direction.tolist() == [-1, 1, 1, 1]
    assert len(directions) == 3


def test_bfloat16_stays_near_float32():
    model = StoryTransformer(config())
    ids = tokens(4, 60)
    want = model.loss(ids).next_token
    model.compute_dtype = torch.bfloat16
    losses = model.loss(ids)
    losses.total.backward()
    assert abs(losses.next_token - want) < 0.02
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert model.logits(ids).dtype == torch.float32


@pytest.mark.slow
def test_compiled_kernels_change_only_rounding():
    from gpt_oss_stories.model import pointwise

    model = StoryTransformer(config())
    ids = tokens(2, 40)
    want = torch.autograd.grad(model.loss(ids).total, list(model.parameters()))
    try:
        compile_kernels()
        got = torch.autograd.grad(model.loss(ids).total, list(model.parameters()))
    finally:
        pointwise.plain_kernels()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
