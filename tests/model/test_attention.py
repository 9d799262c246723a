"""The fast attention against its definition, values and gradients, at the sizes where windows and blocks begin and
end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss_stories.model import attention as attention_module
from gpt_oss_stories.model.attention import _attend_flex_cuda, attend, attend_reference
from gpt_oss_stories.model.layout import DocumentLayout

WINDOW = 8


def leaves(batch, time, heads, kv_heads, width=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    return [
        leaf(batch, time, heads, width),
        leaf(batch, time, kv_heads, width),
        leaf(batch, time, kv_heads, width),
        leaf(heads),
    ]


def attend_by_loops(q, k, v, sinks, window):
    """One query at a time, in words: the oracle of the oracle."""
    batch, time, heads, width = q.shape
    group = heads // k.shape[2]
    rows = []
    for b in range(batch):
        for t in range(time):
            for h in range(heads):
                first = max(0, t - window + 1) if window else 0
                keys, values = k[b, first : t + 1, h // group], v[b, first : t + 1, h // group]
                exponentials = (keys @ q[b, t, h] / width**0.5).exp()
                total = exponentials.sum() + (sinks[h].exp() if sinks is not None else 0)
                rows.append((exponentials[:, None] * values).sum(0) / total)
    return torch.stack(rows).view(batch, time, heads, width)


@pytest.mark.parametrize("window", [0, 1, 3], ids="window={}".format)
@pytest.mark.parametrize("with_sinks", [True, False], ids=["sinks", "plain"])
def test_reference_equals_its_definition(window, with_sinks):
    q, k, v, sinks = leaves(2, 7, 4, 2, dtype=torch.float64)
    sinks = sinks if with_sinks else None
    got = attend_reference(q, k, v, sinks, window=window)
    torch.testing.assert_close(got, attend_by_loops(q, k, v, sinks, window), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("with_sinks", [True, False], ids=["sinks", "plain"])
@pytest.mark.parametrize("window", [0, 1, WINDOW, 64], ids="window={}".format)
@pytest.mark.parametrize("time", [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 3 * WINDOW + 2], ids="T={}".format)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)], ids="Q={0[0]},H={0[1]}".format)
def test_fast_attention_equals_reference(with_sinks, window, time, heads):
    inputs = leaves(2, time, *heads)
    probe = torch.randn(2, time, heads[0], 16, generator=torch.Generator().manual_seed(1))
    results = []
    for function in (attend_reference, attend):
        q, k, v, sinks = inputs
        out = function(q, k, v, sinks if with_sinks else None, window=window)
        wanted = inputs if with_sinks else inputs[:3]
        results.append((out, *torch.autograd.grad((out * probe).sum(), wanted)))
    for name, want, got in zip(("out", "dq", "dk", "dv", "dsinks"), *results, strict=False):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("window", [0, WINDOW], ids="window={}".format)
def test_bfloat16_stays_near_float32(window):
    inputs = leaves(2, 40, 4, 2)
    narrow = [x.detach().bfloat16().requires_grad_() for x in inputs[:3]] + [
        inputs[3].detach().clone().requires_grad_()
    ]
    results = []
    for q, k, v, sinks in (inputs, narrow):
        out = attend(q, k, v, sinks, window=window)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), (q, k, v, sinks))))
    for want, got in zip(*results, strict=True):
        error = (got.float() - want).norm() / want.norm()
        assert error < 0.03, f"relative error {error:.3f}"


@settings(max_examples=40, deadline=None)
@given(time=st.integers(2, 30), window=st.integers(1, 30), data=st.data())
def test_keys_outside_the_window_do_not_matter(time, window, data):
    query = data.draw(st.integers(0, time - 1), label="query position")
    q, k, v, sinks = (x.detach() for x in leaves(1, time, 2, 1, seed=time * 31 + window))
    before = attend(q, k, v, sinks, window=window)[:, query]
    position = torch.arange(time)
    hidden = (position > query) | (position <= query - window)
    k[:, hidden] += 100
    v[:, hidden] -= 100
    assert torch.equal(before, attend(q, k, v, sinks, window=window)[:, query])


def test_limits_of_a_sink():
    q, k, v, _ = (x.detach() for x in leaves(1, 12, 2, 1))
    plain = attend(q, k, v, None)
    torch.testing.assert_close(attend(q, k, v, torch.full((2,), -1e4)), plain)
    assert attend(q, k, v, torch.full((2,), 1e4)).abs().max() == 0


def test_sliding_layers_do_not_cost_the_square_of_the_length(monkeypatch):
    """Four times the tokens make four times the scores, not sixteen times."""
    made = []
    original = attention_module._FlashAttentionCPU

    class Counting:
        @staticmethod
        def apply(q, k, *rest):
            made.append(q.shape[0] * q.shape[2] * k.shape[2])
            return original.apply(q, k, *rest)

    monkeypatch.setattr(attention_module, "_FlashAttentionCPU", Counting)
    for time in (64, 256):
        q, k, v, sinks = (x.detach() for x in leaves(1, time, 2, 1))
        attend(q, k, v, sinks, window=16)
    assert made == [64 * 32, 256 * 32]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("window", [0, WINDOW])
def test_flex_attention_equals_reference(window):
    inputs = [x.detach().cuda() for x in leaves(2, 130, 4, 2)]
    torch.testing.assert_close(
        _attend_flex_cuda(*inputs, window), attend_reference(*inputs, window=window), rtol=1e-3, atol=1e-4
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_layout_gathers_every_document_once_and_brings_it_back(data):
    batch, time = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 90))
    rows = []
    for _ in range(batch):
        row, number = [], 0
        while len(row) < time:
            length = data.draw(st.integers(1, time))
            row += [number] * length
            number += 1
        row = row[:time]
        padding = data.draw(st.integers(0, time - 1))
        row[time - padding :] = [-1] * padding
        rows.append(row)
    documents = torch.tensor(rows)
    layout = DocumentLayout.from_documents(documents)
    values = torch.arange(batch * time, dtype=torch.float32)[:, None].requires_grad_()
    groups = layout.gather(values)
    seen = []
    for group, (count, length) in zip(groups, layout.shapes, strict=True):
        assert group.shape == (count, length, 1)
        seen += [int(x) for x in group.detach().flatten()]
    used = (documents >= 0).flatten()
    assert set(torch.arange(batch * time)[used].tolist()) <= set(seen)
    back = layout.scatter(groups)
    assert torch.equal(back[used], values[used])
    (back[used] * torch.arange(1.0, 1.0 + int(used.sum()))[:, None]).sum().backward()
    wanted = torch.zeros(batch * time)
    wanted[used] = torch.arange(1.0, 1.0 + int(used.sum()))
    assert torch.equal(values.grad[:, 0], wanted)
    for b, row in enumerate(rows):
        for t, number in enumerate(row):
            if number >= 0:
                assert int(layout.positions[b, t]) == t - row.index(number)
