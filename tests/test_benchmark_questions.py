"""The questions about memory, growing costs and data preparation: they run small, and compare what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from conftest import PROJECT, Commands
from gpt_oss_stories.environment import HUGE_PAGES, MALLOC_SETTINGS

FOLDER = PROJECT / "benchmarks"
QUICK = ("--repetitions", "1", "--threads", "1", "--skip-warm-up")
SMALL = ("--size", "mini", "--peer-dtype", "float32")

RUNS = {
    "memory": ("memory", *SMALL, "--shapes", "2x64,16x64"),
    "context": ("context", *SMALL, "--lengths", "32,64", "--tokens", "128", "--passes", "1"),
    "experts": ("context", *SMALL, "--vary", "experts", "--values", "2,4", "--tokens", "64", "--length", "32"),
    "vocabulary": ("context", *SMALL, "--vary", "vocabulary", "--values", "64,512", "--tokens", "64", "--length", "32"),
    "data": ("data", "--stories", "300"),
}


@pytest.fixture
def memory(house: ModuleType) -> Any:
    return house.load_file(str(FOLDER / "memory.py"))


@pytest.fixture
def context(house: ModuleType) -> Any:
    return house.load_file(str(FOLDER / "context.py"))


@pytest.fixture
def data(house: ModuleType) -> Any:
    return house.load_file(str(FOLDER / "data.py"))


@pytest.fixture
def conditions(house: ModuleType) -> Any:
    return house.Conditions(repetitions=1, threads=1, allocator=None, as_json=True)


@pytest.fixture(scope="module")
def answers(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """The last line of a benchmark's output, each of which runs at most once."""
    folder = tmp_path_factory.mktemp("questions")
    said: dict[str, dict[str, Any]] = {}

    def answer(name: str) -> dict[str, Any]:
        if name not in said:
            question, *words = RUNS[name]
            done = commands.run([sys.executable, str(FOLDER), question, *words, *QUICK], folder, seconds=280)
            assert done.returncode == 0, done.stderr
            said[name] = json.loads(done.stdout.splitlines()[-1])
            assert said[name]["benchmark"] == question
            assert said[name]["ratio"] > 0
        return said[name]

    return answer


# Memory


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_is_measured(answers: Callable[[str], dict[str, Any]], memory: Any, house: ModuleType) -> None:
    pytest.importorskip("transformers")
    result = answers("memory")
    assert list(result["ratio_by_point"]) == ["story 2x64", "story 16x64", "harmony 2x64", "harmony 16x64"]
    assert result["ratio_at"] == "harmony 16x64"
    assert result["ratio"] == pytest.approx(result["ratio_by_point"]["harmony 16x64"], rel=1e-3)
    # 1,024 tokens over 201,088 entries take 0.8 GB, of which the peer holds several and ours parts.
    assert result["logits_bytes"]["harmony 16x64"] == 4 * 1024 * 201_088
    peaks = {name: outcome["figures"]["peak_bytes"]["median"] for name, outcome in result["contenders"].items()}
    peer = peaks["transformers float32, harmony 16x64"]
    assert result["ratio"] == pytest.approx(peer / peaks["ours, harmony 16x64"], rel=1e-4)
    assert peer > 2 * 4 * 1024 * 201_088 > peaks["ours, harmony 16x64"]
    # From 128 to 1,024 tokens ours goes from one small chunk to two chunks of full size.
    held = result["logits_held"]
    assert held["transformers float32"] > 2
    assert held["ours"] < 0.7 * held["transformers float32"]
    # The estimate by which contenders are left out.
    config = house.model_config("mini", "harmony", 64)
    for name, estimate in (("transformers float32", memory.peer_bytes), ("ours", memory.our_bytes)):
        taken = estimate(config, memory.training.preset("mini", 16, 64, None), 16, 64)
        assert 1 < taken / peaks[f"{name}, harmony 16x64"] < 4


def test_the_number_of_logits_held_is_what_the_larger_vocabulary_adds(memory: Any, house: ModuleType) -> None:
    points = [
        memory.Point(vocabulary, batch, 16, house.model_config("mini", vocabulary, 16))
        for vocabulary in ("story", "harmony")
        for batch in (1, 2, 8)
    ]

    def peak(point: Any) -> float:
        # Parameters and activations do not count, nor what a token takes whatever the vocabulary is.
        return 5e8 + 900 * point.config.vocab_size + 1e5 * point.tokens + 2.5 * point.logits_bytes

    def outcomes(chosen: list[Any]) -> dict[str, dict[str, Any]]:
        measured: dict[str, dict[str, Any]] = {point.name: {} for point in points}
        for point in chosen:
            measured[point.name]["ours"] = house.Outcome("ours", {memory.FIGURE: [peak(point)]})
        return measured

    assert memory.logits_held(points, outcomes(points), "ours") == pytest.approx(2.5)
    assert memory.logits_held(points, outcomes(points[:5]), "ours") == pytest.approx(2.5)  # 8 rows of one only
    assert memory.logits_held(points, outcomes(points[:4]), "ours") is None
    assert memory.logits_held(points, outcomes(points[:3]), "ours") is None
    assert memory.logits_held(points, outcomes(points), "somebody else") is None


def test_what_does_not_fit_is_left_out_with_a_line(
    memory: Any, house: ModuleType, conditions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [memory.Point("story", rows, 16, house.model_config("mini", "story", 16)) for rows in (1, 2)]
    room = {"available": 2 << 30, "ours": [1 << 30, 3 << 30], "transformers": [2 << 30, 5 << 30]}
    monkeypatch.setattr(memory, "apart", lambda *anything: room)
    chosen, left_out = memory.contenders(points, "mini", ["float32"], conditions)
    assert {name: list(entrants) for name, entrants in chosen.items()} == {
        "story 1x16": ["ours", "transformers float32"],
        "story 2x16": [],
    }
    assert left_out == [
        "ours, story 2x16: takes about 3.0 GiB, 2.0 GiB are available",
        "transformers float32, story 2x16: takes about 5.0 GiB, 2.0 GiB are available",
    ]
    room["available"] = None  # nothing is known
    assert memory.contenders(points, "mini", ["float32"], conditions)[1] == []


def test_larger_batches_are_expected_to_take_more(memory: Any, house: ModuleType) -> None:
    step = memory.training.preset("tiny", 8, 512, None)
    story, harmony = (house.model_config("tiny", vocabulary, 2048) for vocabulary in ("story", "harmony"))
    for estimate in (memory.our_bytes, memory.peer_bytes):
        assert estimate(story, step, 2, 512) < estimate(story, step, 8, 512) < estimate(harmony, step, 8, 512)
    # Three tensors of all logits and the optimizer's state; and scores, which grow with the square.
    tokens = 8 * 512
    assert memory.peer_bytes(harmony, step, 8, 512) > 4 * 3 * tokens * 201_088 + 16 * harmony.parameters().total
    scores = memory.peer_bytes(story, step, 2, 2048) - memory.peer_bytes(story, step, 8, 512)
    assert scores >= 4 * 6 * 8 * tokens * (2048 - 512)


def test_the_peer_has_the_allocator_as_it_is(memory: Any, conditions: Any) -> None:
    own = MALLOC_SETTINGS.keys() | HUGE_PAGES.keys()
    assert own <= conditions.environment().keys()
    stock = memory.StockConditions(**vars(conditions))
    assert stock.environment() == {name: value for name, value in conditions.environment().items() if name not in own}


# Growing costs


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_growth_with_the_context_is_measured(answers: Callable[[str], dict[str, Any]]) -> None:
    pytest.importorskip("transformers")
    result = answers("context")
    assert set(result["growth"]) == {"sliding", "full", "model"}
    assert set(result["peer_growth"]) == {"sliding", "full"}
    assert set(result["ratio_by_value"]) == {"32", "64"}
    assert result["ratio_at"] == 64

    def cost(name: str, length: int) -> float:
        return float(result["contenders"][name]["figures"][f"at_{length}_token_microseconds"]["median"])

    assert result["growth"]["model"] == pytest.approx(cost("ours, model", 64) / cost("ours, model", 32), rel=1e-4)
    assert result["sliding_ratio"] == pytest.approx(
        cost("transformers float32, sliding", 64) / cost("ours, sliding", 64), rel=1e-4
    )
    theirs, ours = (sum(cost(f"{who}, {kind}", 64) for kind in ("sliding", "full")) for who in
                    ("transformers float32", "ours"))  # fmt: skip
    assert result["ratio"] == pytest.approx(theirs / ours, rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("varied", "last"), [("experts", 4), ("vocabulary", 512)])
def test_growth_with_experts_and_vocabulary_is_measured(
    answers: Callable[[str], dict[str, Any]], varied: str, last: int
) -> None:
    pytest.importorskip("transformers")
    result = answers(varied)
    assert set(result["growth"]) == set(result["peer_growth"]) == {"model"}
    assert result["ratio_at"] == last
    assert result["settings"]["vary"] == varied


def test_a_setting_varies_one_thing(context: Any) -> None:
    rows = context.make_settings("context", [1024, 4096], "tiny", "story", 4096, 512)
    assert [(setting.batch, setting.length) for setting in rows] == [(4, 1024), (1, 4096)]
    assert rows[0].config == rows[1].config

    few, many = context.make_settings("experts", [2, 32], "tiny", "story", 2048, 512)
    assert (few.batch, few.length) == (many.batch, many.length) == (4, 512)
    assert (few.config.num_experts, many.config.num_experts) == (2, 32)
    assert few.config.active_experts == many.config.active_experts == 2
    assert few.config == many.config.replace(num_experts=2)

    small, large = context.make_settings("vocabulary", [4096, 201_088], "tiny", "story", 2048, 512)
    assert (small.config.vocab_size, large.config.vocab_size) == (4096, 201_088)
    assert small.config == large.config.replace(vocab_size=4096)


@pytest.mark.parametrize("kind", ["sliding", "full"])
def test_both_attention_layers_compute_the_same(context: Any, house: ModuleType, kind: str) -> None:
    """What is compared is one layer in two programs: equal weights give equal results and gradients."""
    pytest.importorskip("transformers")
    config = house.model_config("mini", "story", 48)  # three windows of 16
    mine = context.our_layer(config, kind)
    assert mine.window == {"sliding": 16, "full": 0}[kind]
    norm, layer = context.their_layer(config, kind)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        norm.weight.copy_(mine.norm.weight)
        layer.sinks.copy_(mine.sinks)
        sizes = [part * config.head_dim for part in (config.n_head, config.kv_heads, config.kv_heads)]
        for name in ("weight", "bias"):
            parts = getattr(mine.qkv, name).split(sizes)
            for part, target in zip(parts, (layer.q_proj, layer.k_proj, layer.v_proj), strict=True):
                getattr(target, name).copy_(part)
            getattr(layer.o_proj, name).copy_(getattr(mine.out, name))

    (x, grad), (their_x, _) = (context.hidden_states(config, 2, 48, torch.float32) for _ in range(2))
    assert torch.equal(x, their_x)
    ours = context.our_layer_forward(config, mine, x)
    theirs = context.their_layer_forward(config, kind, norm, layer, their_x)
    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-5)
    context.backward_pass([x, *mine.parameters()], ours, grad)()
    context.backward_pass([their_x, *layer.parameters()], theirs, grad)()
    torch.testing.assert_close(x.grad, their_x.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mine.sinks.grad, layer.sinks.grad, rtol=1e-4, atol=1e-4)


def test_a_pass_begins_without_gradients(context: Any) -> None:
    weight = torch.ones(3, requires_grad=True)
    one = context.backward_pass([weight], lambda: (2 * weight).sum())
    one()
    one()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0, 2.0, 2.0]


def test_costs_are_compared_where_both_were_measured(context: Any, house: ModuleType) -> None:
    def outcome(name: str, *costs: float) -> Any:
        return house.Outcome(name, {context.figure(8 << index): [cost] for index, cost in enumerate(costs)})

    ours, fast, slow = outcome("ours", 1.0, 2.0, 3.0), outcome("fast", 4.0, 6.0), outcome("slow", 3.0, 8.0, 30.0)
    found = context.ratios(ours, [fast, slow], [8, 16, 32, 64])
    assert {value: round(one.median, 6) for value, one in found.items()} == {8: 3.0, 16: 3.0, 32: 10.0}
    assert context.growth(ours) == 3.0
    assert context.growth(fast) == 1.5
    both = context.together([ours, fast])
    assert both.figures == {context.figure(8): [5.0], context.figure(16): [8.0]}


def test_lengths_that_do_not_fit_are_left_out(context: Any, conditions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = context.make_settings("context", [32, 64], "mini", "story", 64, 512)
    room = {"available": 4 << 30, "our model": [0, 0], "their layer": [1 << 30, 9 << 30], "their model": [0, 0]}
    monkeypatch.setattr(context, "apart", lambda *anything: room)
    chosen, left_out = context.contenders("context", settings, 1, ["float32"], conditions)
    lengths = {one.name: [setting["value"] for setting in one.options["settings"]] for one in chosen}
    assert lengths == {
        "ours, sliding": [32, 64],
        "ours, full": [32, 64],
        "ours, model": [32, 64],
        "transformers float32, sliding": [32],
        "transformers float32, full": [32],
    }
    assert left_out[0] == "transformers float32, sliding, context 64: takes about 9.0 GiB, 4.0 GiB are available"
    assert len(left_out) == 2
    room["available"] = 1 << 20
    chosen, _ = context.contenders("context", settings, 1, ["float32"], conditions)
    assert not any(one.make is context.theirs for one in chosen)


# Data


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_data_preparation_is_measured(answers: Callable[[str], dict[str, Any]]) -> None:
    pytest.importorskip("datasets")
    result = answers("data")
    facts = {name: outcome["facts"] for name, outcome in result["contenders"].items()}
    assert result["peer"] == "datasets"
    assert 0 < facts.pop("ours, all steps")["stories"] <= 300
    assert {one["stories"] for one in facts.values()} == {300}
    assert len({one["tokens"] for one in facts.values()}) == 1  # all of our preparation included
    assert facts["ours"]["tokens"] > 300 * 50
    assert facts["ours, tokens only"]["tokens_sha256"] == facts["tokenizers, one thread"]["tokens_sha256"]
    rates = {
        name: outcome["figures"]["text_megabytes_per_second"]["median"]
        for name, outcome in result["contenders"].items()
    }
    assert result["ratio"] == pytest.approx(rates["ours"] / rates[result["peer"]], rel=1e-4)
    alike = rates["ours, tokens only"] / rates["tokenizers, one thread"]
    assert result["tokens_only_ratio"] == pytest.approx(alike, rel=1e-4)


def test_the_peer_is_asked_with_threads_and_with_processes(data: Any) -> None:
    one, several = data.peers({}, 2)
    assert (one.options["processes"], one.options["tokenizer_threads"]) == (None, 2)
    assert (several.options["processes"], several.options["tokenizer_threads"]) == (2, 1)
    assert [other.name for other in data.peers({}, 1)] == ["datasets"]


def test_figures_of_other_tokens_are_refused(data: Any, house: ModuleType) -> None:
    first = house.Outcome("A", facts={"stories": 1000, "tokens_sha256": "x"})
    data.check_same([first, house.Outcome("B", facts={"stories": 995})])
    with pytest.raises(house.BenchmarkError, match="different tokens"):
        data.check_same([first, house.Outcome("B", facts={"stories": 1000, "tokens_sha256": "y"})])
    with pytest.raises(house.BenchmarkError, match="kept different stories"):
        data.check_same([first, house.Outcome("B", facts={"stories": 980})])


# What cannot be used


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("memory", "--shapes", "2x512,8"), "'2x512,8' is not a list of rows x tokens"),
        (("context", "--lengths", "64"), "'64' is not a list of two or more whole numbers"),
        (("context", "--lengths", "4,64"), "a context has at least 8 tokens"),
        (("context", "--length", "64"), "--length has no effect where the context is varied"),
        (("context", "--vary", "vocabulary", "--vocabulary", "story"), "--vocabulary has no effect"),
        (("context", "--vary", "experts", "--values", "1,2"), "experts_per_token=2 is more than num_experts=1"),
        (("data", "--stories", "1"), "1 is not in the range x>=2"),
    ],
)
def test_bad_options_are_one_line(commands: Commands, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = commands.run([sys.executable, str(FOLDER), *words], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
