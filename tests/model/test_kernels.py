"""Rotary embedding, norms, activations, experts and the loss, each against its plain definition in values and
gradients."""

import math

import pytest
import torch
from torch.nn import functional as F

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.model import experts as experts_module
from gpt_oss_stories.model import loss as loss_module
from gpt_oss_stories.model.experts import Experts
from gpt_oss_stories.model.loss import linear_cross_entropy
from gpt_oss_stories.model.multi_token import targets_at_depth
from gpt_oss_stories.model.pointwise import layer_norm, rms_norm, rotate, swiglu
from gpt_oss_stories.model.rope import RotaryEmbedding, inverse_frequencies
from gpt_oss_stories.model.rows import take_rows

F64 = torch.float64


def randn(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def test_yarn_frequencies_of_gpt_oss():
    """The whole vector for gpt-oss's settings, from the paper's formula written out with exact cut-offs."""
    config = ModelConfig(rope_scaling_factor=32.0, block_size=131_072)
    speeds, concentration = inverse_frequencies(config)
    assert concentration == pytest.approx(0.1 * math.log(32) + 1)
    for pair in range(32):
        plain = 150_000.0 ** (-2 * pair / 64)
        low = 64 * math.log(4096 / (32 * 2 * math.pi)) / (2 * math.log(150_000))
        high = 64 * math.log(4096 / (1 * 2 * math.pi)) / (2 * math.log(150_000))
        kept = 1 - min(1, max(0, (pair - low) / (high - low)))
        assert speeds[pair].item() == pytest.approx(plain * kept + plain / 32 * (1 - kept), rel=1e-5)
    assert speeds[0] == 1.0
    assert speeds[31].item() == pytest.approx(150_000.0 ** (-62 / 64) / 32, rel=1e-5)


def test_no_stretching_is_plain_rope():
    speeds, concentration = inverse_frequencies(ModelConfig())
    assert concentration == 1.0
    torch.testing.assert_close(speeds, 150_000.0 ** (-torch.arange(0, 64, 2) / 64))


def test_rotation_turns_halves_keeps_lengths_and_knows_only_distances():
    config = ModelConfig(head_dim=8, block_size=64)
    rope = RotaryEmbedding(config)
    q, k = randn(1, 1, 1, 8, dtype=torch.float32).detach(), randn(1, 1, 1, 8, seed=1, dtype=torch.float32).detach()

    def at(x, position):
        return rotate(x, *rope.at(torch.tensor([[position]]), position + 1, torch.float32))

    # Dimension i goes with i + head_dim / 2: at position 1, pair 0 turns by one radian.
    unit = torch.zeros(1, 1, 1, 8)
    unit[..., 0] = 1
    assert at(unit, 1)[0, 0, 0, 0] == pytest.approx(math.cos(1))
    assert at(unit, 1)[0, 0, 0, 4] == pytest.approx(math.sin(1))
    torch.testing.assert_close(at(q, 37).norm(), q.norm())
    dots = [(at(q, p + 5) * at(k, p)).sum() for p in (0, 11, 50)]
    torch.testing.assert_close(dots[0], dots[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dots[0], dots[2], rtol=1e-4, atol=1e-5)


def test_derivatives_are_those_of_finite_differences():
    cos, sin = randn(3, 1, 2).detach(), randn(3, 1, 2, seed=1).detach()
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), randn(3, 2, 4))
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin, 1), randn(3, 2, 4))
    x = randn(3, 2, 4).detach()
    assert torch.equal(rotate(x, cos, sin, 1), torch.cat((rotate(x[:, :1], cos, sin), x[:, 1:]), 1))
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-5), (randn(2, 3, 6), randn(6, seed=1)))
    assert torch.autograd.gradcheck(
        lambda x, w, b: layer_norm(x, w, b, 1e-5), (randn(3, 6), randn(6, seed=1), randn(6, seed=2))
    )
    # Wide enough to reach both clamps.
    gate, up = (randn(40) * 6).detach().requires_grad_(), (randn(40, seed=1) * 6).detach().requires_grad_()
    assert (gate > 7).any()
    assert (up.abs() > 7).any()
    assert (gate < -7).any()
    assert torch.autograd.gradcheck(lambda g, u: swiglu(torch.cat((g, u), -1), 1.702, 7.0), (gate, up))


def test_norms_equal_torch():
    x, weight, bias = randn(4, 6), randn(6, seed=1), randn(6, seed=2)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), F.rms_norm(x, (6,), weight, 1e-5))
    torch.testing.assert_close(layer_norm(x, weight, bias, 1e-5), F.layer_norm(x, (6,), weight, bias, 1e-5))


def test_swiglu_by_hand():
    def one(g, u):
        return swiglu(torch.tensor([g, u], dtype=F64), 1.702, 7.0).item()

    assert one(1.0, 2.0) == pytest.approx(1 / (1 + math.exp(-1.702)) * 3)
    assert one(100.0, 0.0) == pytest.approx(7 / (1 + math.exp(-1.702 * 7)))  # gate clamped from above
    assert one(-100.0, 0.0) == pytest.approx(0.0)  # and not from below: -7 would give -4.7e-5
    assert one(1.0, -100.0) == pytest.approx(1 / (1 + math.exp(-1.702)) * -6)


def test_taking_rows_equals_indexing():
    rows = randn(4, 3)
    index = torch.tensor([2, 0, 3, 1, 1, 0])  # places 3 and 5 are claimed below by rows 1 and 0 as their second copies
    places = torch.tensor([[1, 5], [3, 4], [0, 0], [2, 2]])
    once = take_rows(rows, index[:4], torch.tensor([[1], [3], [0], [2]]))
    assert torch.equal(once, rows[index[:4]])
    probe = torch.arange(12, dtype=F64).view(4, 3)
    assert torch.equal(*(torch.autograd.grad((x * probe).sum(), rows)[0] for x in (once, rows[index[:4]])))
    twice = take_rows(rows, index, places)
    grad = torch.autograd.grad(twice[[1, 5, 3, 4]].sum(), rows)[0]
    assert torch.equal(grad[:2], torch.full((2, 3), 2.0, dtype=F64))


def mixture_by_loops(layer: Experts, x):
    """One token and one expert at a time, straight from the definition."""
    normed = layer.norm(x)
    out = []
    for token in normed:
        logits = layer.router.weight @ token + layer.router.bias
        best = sorted(range(len(logits)), key=lambda e: -logits[e].item())[: layer.chosen]
        weights = torch.stack([logits[e] for e in best]).softmax(0)
        mixed = 0
        for weight, e in zip(weights, best, strict=True):
            hidden = token @ layer.gate_up_weight[e] + layer.gate_up_bias[e]
            if layer.use_swiglu:
                gate, up = hidden[0::2].clamp(max=7), hidden[1::2].clamp(-7, 7)
                hidden = gate * torch.sigmoid(1.702 * gate) * (up + 1)
            else:
                hidden = F.gelu(hidden, approximate="tanh")
            mixed = mixed + weight * (hidden @ layer.down_weight[e] + layer.down_bias[e])
        out.append(mixed)
    return torch.stack(out)


def make_experts(**overrides) -> Experts:
    config = ModelConfig(**{"n_embd": 8, "intermediate_size": 6, "num_experts": 4, **overrides})
    layer = Experts(config).double()
    for index, parameter in enumerate(layer.parameters()):
        parameter.data = randn(*parameter.shape, seed=index).detach()
    return layer


@pytest.mark.parametrize(
    "overrides", [{}, {"use_swiglu": False}, {"experts_per_token": 3}, {"experts_per_token": 1}], ids=str
)
@pytest.mark.parametrize("tokens", [1, 5, 200])
@pytest.mark.parametrize("way", ["one after the other", "grouped"])
def test_experts_equal_a_loop_over_tokens(overrides, tokens, way, monkeypatch):
    if way == "grouped":
        monkeypatch.setattr(Experts, "_walks", lambda self, x: False)
    layer = make_experts(**overrides)
    x = randn(tokens, 8, seed=99)
    want, got = mixture_by_loops(layer, x), layer(x)[0]
    torch.testing.assert_close(got, want)
    probe = randn(tokens, 8, seed=98).detach()
    leaves = [x, *layer.parameters()]
    wanted_grads = torch.autograd.grad((want * probe).sum(), leaves, allow_unused=True)
    for name, want_grad, got_grad in zip(
        ["x", *(name for name, _ in layer.named_parameters())],
        wanted_grads,
        torch.autograd.grad((got * probe).sum(), leaves),
        strict=True,
    ):
        want_grad = torch.zeros_like(got_grad) if want_grad is None else want_grad
        torch.testing.assert_close(got_grad, want_grad, msg=lambda m, name=name: f"{name}: {m}")
    with torch.no_grad():  # the way of few pairs, as in decoding
        torch.testing.assert_close(layer(x[:4])[0], want[:4])


@pytest.mark.parametrize("use_swiglu", [True, False])
@pytest.mark.parametrize("walks", [True, False])
def test_a_single_expert_is_a_feed_forward_layer(use_swiglu, walks, monkeypatch):
    layer = make_experts(num_experts=1, experts_per_token=1, use_swiglu=use_swiglu)
    if not walks:
        monkeypatch.setattr(Experts, "_walks", lambda self, x: False)
    x = randn(7, 8, seed=99)
    hidden = layer.norm(x) @ layer.gate_up_weight[0] + layer.gate_up_bias[0]
    if use_swiglu:
        gate, up = hidden[:, 0::2].clamp(max=7), hidden[:, 1::2].clamp(-7, 7)
        hidden = gate * torch.sigmoid(1.702 * gate) * (up + 1)
    else:
        hidden = F.gelu(hidden, approximate="tanh")
    want = hidden @ layer.down_weight[0] + layer.down_bias[0]
    got, routing = layer(x)
    assert routing is None
    torch.testing.assert_close(got, want)
    leaves = [x, *layer.parameters()]
    for w, g in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (want, got)), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("inner", [8, 6], ids=["grouped", "unaligned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("walks", [True, False])
def test_expert_products_stay_near_float64(dtype, inner, walks, monkeypatch):
    if not walks:
        monkeypatch.setattr(Experts, "_walks", lambda self, x: False)
    layer = make_experts(intermediate_size=inner)
    x = randn(300, 8, seed=99)
    want = torch.autograd.grad(layer(x)[0].square().sum(), [x, layer.gate_up_weight, layer.down_weight])
    layer.float()
    narrow = x.detach().to(dtype).requires_grad_()
    got = torch.autograd.grad(
        layer(narrow)[0].float().square().sum(), [narrow, layer.gate_up_weight, layer.down_weight]
    )
    for w, g in zip(want, got, strict=True):
        assert (g.double() - w).norm() / w.norm() < (1e-4 if dtype == torch.float32 else 0.06)


def test_an_expert_without_tokens_still_gets_a_gradient_tensor():
    layer = make_experts()
    layer.router.bias.data[2] = -1e6
    out, routing = layer(randn(10, 8))
    out.sum().backward()
    assert routing.load[2] == 0
    assert layer.gate_up_weight.grad[2].abs().max() == 0
    assert layer.gate_up_weight.grad[:2].abs().max() > 0


def test_balance_loss_is_one_when_even_and_grows_with_imbalance():
    layer = make_experts(experts_per_token=1)
    layer.router.weight.data.zero_()
    logits = 50 * torch.eye(4, dtype=F64).repeat(5, 1)
    even = layer._routing(logits, logits.topk(1).indices, None)
    assert even.balance.item() == pytest.approx(1.0)
    assert even.load.tolist() == [5, 5, 5, 5]
    skewed = layer._routing(logits[:1].expand(20, 4), torch.zeros(20, 1, dtype=torch.int64), None)
    assert skewed.balance.item() == pytest.approx(4.0)
    counted = torch.zeros(20, dtype=torch.bool)
    counted[:4] = True
    mixed = torch.cat((logits[:4], logits[:1].expand(16, 4)))
    assert layer._routing(mixed, mixed.topk(1).indices, counted).balance.item() == pytest.approx(1.0)


SIZES_OF_PARTS = {
    "chunks of one": {"CHUNK_BYTES": 0, "LEAST_TOKENS": 1},
    "chunks of seven": {"CHUNK_BYTES": 0, "LEAST_TOKENS": 7},
    "one chunk": {},
    "slices of one": {"SLICE_LOGITS": 1, "NARROWEST_SLICE": 1},
    "slices of four": {"SLICE_LOGITS": 1, "NARROWEST_SLICE": 4},
    "slices of five": {"SLICE_LOGITS": 300 * 5, "NARROWEST_SLICE": 1},
}


@pytest.mark.parametrize("parts", SIZES_OF_PARTS)
def test_loss_equals_cross_entropy_in_whatever_parts(monkeypatch, parts):
    for name, value in SIZES_OF_PARTS[parts].items():
        monkeypatch.setattr(loss_module, name, value)
    tokens, width, vocabulary = 300, 6, 11
    hidden, table = randn(tokens, width), randn(vocabulary, width, seed=1)
    targets = torch.randint(0, vocabulary, (tokens,), generator=torch.Generator().manual_seed(2))
    weights = torch.rand(tokens, generator=torch.Generator().manual_seed(3), dtype=F64)
    weights[::7] = 0
    want_each = F.cross_entropy(hidden @ table.T, targets, reduction="none")
    total, each, right = linear_cross_entropy(hidden, table, targets, weights)
    assert right is None  # looking for the highest logit takes time, which training does not spend
    torch.testing.assert_close(each, want_each.detach())
    torch.testing.assert_close(total, (want_each * weights).sum())
    with torch.no_grad():
        _, each, right = linear_cross_entropy(hidden, table, targets, weights)
        torch.testing.assert_close(each, want_each)
        assert torch.equal(right, (hidden @ table.T).argmax(-1) == targets)
        assert 0 < right.sum() < tokens / 4
    for got, want in zip(
        torch.autograd.grad(3 * total, (hidden, table)),
        torch.autograd.grad(3 * (want_each * weights).sum(), (hidden, table)),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_of_equal_logits_only_the_first_is_the_likeliest(monkeypatch):
    """A model that knows nothing is not right about everything."""
    monkeypatch.setattr(loss_module, "SLICE_LOGITS", 1)
    monkeypatch.setattr(loss_module, "NARROWEST_SLICE", 4)
    hidden, table, targets = torch.zeros(11, 3), torch.ones(11, 3), torch.arange(11)
    _, _, right = linear_cross_entropy(hidden, table, targets, torch.ones(11))
    assert right.tolist() == [True] + 10 * [False]


def test_chunks_have_a_useful_size_and_a_bound():
    assert loss_module.tokens_in_chunk(8192, torch.bfloat16) == 1024
    assert loss_module.tokens_in_chunk(201_088, torch.bfloat16) == 512
    assert loss_module.tokens_in_chunk(201_088, torch.float32) == 333
    assert loss_module.tokens_in_chunk(2**30, torch.float32) == 1


def test_losses_in_bfloat16_are_close_and_never_infinite():
    """A target that a model thinks impossible has a loss of hundreds, where its probability is 0 in any format."""
    hidden = (40 * randn(64, 16, dtype=torch.float32)).detach().bfloat16().requires_grad_()
    table = randn(50, 16, seed=1, dtype=torch.float32)
    targets = torch.arange(64) % 50
    total, each, _ = linear_cross_entropy(hidden, table, targets, torch.full((64,), 1 / 64))
    logits = (hidden.detach() @ table.detach().bfloat16().T).float()
    want = F.cross_entropy(logits, targets, reduction="none")
    assert want.max() > 300
    torch.testing.assert_close(each, want, atol=0.005, rtol=1e-5)
    total.backward()
    expected = (logits.softmax(-1) - F.one_hot(targets, 50)) / 64 @ table.detach()
    assert (hidden.grad.float() - expected).norm() < 0.02 * expected.norm()


def test_the_gradient_of_a_confident_prediction_survives_in_bfloat16():
    """A probability of 0.999 is 1 in bfloat16, but what pulls at its logit is a thousandth, not nothing."""
    hidden = torch.tensor([[1.0, 0.0]]).bfloat16().requires_grad_()
    table = torch.zeros(100, 2)
    table[3, 0] = 11.5
    total, *_ = linear_cross_entropy(hidden, table.requires_grad_(), torch.tensor([3]), torch.ones(1))
    total.backward()
    distance = 1 - F.softmax(hidden.detach().float() @ table.detach().T, -1)[0, 3]
    assert 0.0005 < distance < 0.0015
    assert table.grad[3, 0] == pytest.approx(-distance.item(), rel=0.01)


def test_gradients_of_a_mean_over_many_tokens_survive_in_float16():
    """A weight of 1e-7 is below what float16 can hold; the loss must not put it there."""
    hidden = randn(50, 8, dtype=torch.float32).detach().half().requires_grad_()
    table = randn(11, 8, seed=1, dtype=torch.float32)
    targets, weights = torch.arange(50) % 11, torch.full((50,), 1e-7)
    total, *_ = linear_cross_entropy(hidden, table, targets, weights)
    got = torch.autograd.grad(total * 2.0**20, (hidden, table))
    wide = hidden.detach().float().requires_grad_()
    want = (F.cross_entropy(wide @ table.T, targets, reduction="none") * weights).sum()
    for g, w in zip(got, torch.autograd.grad(want * 2.0**20, (wide, table)), strict=True):
        assert (g.float() - w).norm() / w.norm() < 0.01


def test_labels_by_hand():
    tokens = torch.tensor([[10, 11, 12, 20, 21, 0]])
    documents = torch.tensor([[0, 0, 0, 1, 1, -1]])
    trained = torch.tensor([[False, True, True, False, True, False]])
    targets, counts = targets_at_depth(tokens, 0, documents, trained)
    assert targets[0, :5].tolist() == [11, 12, 20, 21, 0]
    assert counts[0].tolist() == [True, True, False, True, False, False]
    targets, counts = targets_at_depth(tokens, 1, documents, trained)
    assert targets[0, 0] == 12
    assert counts[0].tolist() == [True, False, False, False, False, False]
    with pytest.raises(ValueError, match="depth=-1"):
        targets_at_depth(tokens, -1, documents, trained)


def test_experts_module_pads_rows_on_a_cpu_only_to_repeat_shapes():
    assert experts_module.ROW_BLOCK % 32 == 0
