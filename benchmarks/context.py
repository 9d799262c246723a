"""How does the cost of a token grow with context, experts or vocabulary, for us and for `transformers`?

    python benchmarks/context.py
    python benchmarks/context.py --lengths 1024,2048,4096,8192 --size tiny
    python benchmarks/context.py --vary experts
    python benchmarks/context.py --vary vocabulary --values 4096,8192,201088

The cost is that of training without the optimizer: forward and backward, in microseconds for each token. A pass has the
same number of tokens at all values, `--tokens` of them, so that what a pass costs once does not look like a gain.

The context is varied for one sliding attention layer, one full one, each with its norm, and the whole model, all with
one document in a row. The peer is the attention layer of `transformers` GptOss with its norm, eager, the only kind that
it has for CPUs: it computes all scores, of sliding layers too, and is left out, with a line, at lengths where these do
not fit into the memory. The numbers of experts, of which each token uses as many as ever, and the vocabulary are varied
for the whole model in rows of `--length` tokens; there the peer is `GptOssForCausalLM` with its own loss. The peer is
asked in float32 and under bfloat16 autocast, and the faster one counts; ours computes as training does on this machine.

`growth` is our cost at the largest value over that at the smallest: for the context `sliding`, `full` and `model`, and
otherwise `model`; `peer_growth` is the same for the peer, up to the largest value that it did. `ratio` is the peer's
cost over ours at the largest value that both did; for the context that of a sliding and a full layer together, since
models have as many of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource
from house import (
    FOLDER,
    BenchmarkError,
    Conditions,
    Contender,
    Outcome,
    Ratio,
    Workload,
    apart,
    best,
    compare,
    conditions_options,
    given_conditions,
    load_file,
    model_config,
    model_options,
    peer_dtypes_option,
    ratio,
    report,
    short,
    start,
    talk,
)

from gpt_oss_stories.config import HARMONY_VOCABULARY_SIZE, ModelConfig, TrainingConfig

memory = load_file(str(FOLDER / "memory.py"))

DEFAULT_VALUES = {
    "context": "1024,2048,4096,8192",
    "experts": "2,4,8,16,32",
    "vocabulary": f"4096,8192,32768,65536,{HARMONY_VOCABULARY_SIZE}",
}
LAYERS = {"sliding": 0, "full": 1}
"""The first layer of each kind of attention."""

ROW_TOKENS = 512
PASS_TOKENS = 2048
"""Of a row and of a pass, where not the context is varied."""

LONG_SECONDS = 2.0
"""A pass that takes longer is timed once only."""

PEER_SCORES = 5.0
PEER_WIDTHS = 40.0
"""Tensors of all scores of an attention layer, and of all hidden states, in float32, that `transformers` holds at the
most: fitted to measurements of short rows."""

Pass = Callable[[], object]
"""A forward and backward pass."""


@dataclass(frozen=True)
class Setting:
    """One value of what is varied: the model and the batch that go with it."""

    value: int
    config: ModelConfig
    batch: int
    length: int

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "model": self.config.to_dict(), "batch": self.batch, "length": self.length}


def figure(value: int) -> str:
    """The name of the cost at a value."""
    return f"at_{value}_token_microseconds"


def workload(make_pass: Callable[[ModelConfig, int, int], Pass], options: dict[str, Any], facts: Any) -> Workload:
    """The passes of all settings, timed one after the other; each is built when it is its turn, and then forgotten.

    Args:
        make_pass: builds a pass of a model, a number of rows and of tokens in a row.
    """

    def cost(setting: dict[str, Any], passes: int) -> float:
        one = make_pass(ModelConfig.from_dict(setting["model"]), setting["batch"], setting["length"])
        began = time.perf_counter()
        one()  # gets the memory that all others use again
        if time.perf_counter() - began > LONG_SECONDS:
            passes = 1
        began = time.perf_counter()
        for _ in range(passes):
            one()
        return (time.perf_counter() - began) * 1e6 / (passes * setting["batch"] * setting["length"])

    def measure() -> dict[str, float]:
        return {figure(setting["value"]): cost(setting, options["passes"]) for setting in options["settings"]}

    return Workload(measure, lambda: cost(options["settings"][0], 1), facts)


def random_rows(config: ModelConfig, batch: int, length: int) -> Any:
    """(batch, length) int64, the same for all contenders."""
    import torch

    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))


def hidden_states(config: ModelConfig, batch: int, length: int, dtype: Any) -> tuple[Any, Any]:
    """What a layer reads, which wants a gradient, and the gradient of what it gives: (batch, length, n_embd)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(batch, length, config.n_embd, generator=generator).to(dtype) for _ in range(2))
    return x.requires_grad_(), grad


def backward_pass(parameters: Sequence[Any], forward: Callable[[], Any], grad: Any = None) -> Pass:
    """The pass of a forward function; `grad` is the gradient of its result where this is no scalar."""

    def one() -> None:
        for parameter in parameters:
            parameter.grad = None
        forward().backward(grad)

    return one


# Ours


def our_layer(config: ModelConfig, kind: str) -> Any:
    """One attention layer with its norm, as the model initialises it."""
    from gpt_oss_stories.model.attention import Attention
    from gpt_oss_stories.model.transformer import Block, StoryTransformer

    one_layer_each = config.replace(n_layer=2, vocab_size=8, num_experts=1, experts_per_token=None)
    block = StoryTransformer(one_layer_each, seed=0).layers[LAYERS[kind]]
    assert isinstance(block, Block)
    attention: Attention = block.attention
    return attention


def our_layer_forward(config: ModelConfig, layer: Any, x: Any) -> Callable[[], Any]:
    """A call of the layer with the rotations of whole rows."""
    import torch

    from gpt_oss_stories.model.rope import RotaryEmbedding

    length = x.shape[1]
    rotation = RotaryEmbedding(config).at(torch.arange(length)[None], length, x.dtype)
    return lambda: layer(x, rotation, None)


def ours(options: dict[str, Any]) -> Workload:
    """Our layer or model, in the number format that training uses on this machine."""
    import torch

    from gpt_oss_stories.model.transformer import StoryTransformer
    from gpt_oss_stories.training.precision import choose_precision

    precision = choose_precision(torch.device("cpu"), True)
    kind = options["kind"]

    def layer_pass(config: ModelConfig, batch: int, length: int) -> Pass:
        layer = our_layer(config, kind)
        x, grad = hidden_states(config, batch, length, precision.dtype)
        return backward_pass([x, *layer.parameters()], our_layer_forward(config, layer, x), grad)

    def model_pass(config: ModelConfig, batch: int, length: int) -> Pass:
        model = StoryTransformer(config, seed=0)
        model.compute_dtype = precision.dtype
        tokens = random_rows(config, batch, length)
        return backward_pass(list(model.parameters()), lambda: model.loss(tokens).total)

    facts = {"compute": precision.describe()}
    return workload(model_pass if kind == "model" else layer_pass, options, facts)


# The peer


def their_config(config: ModelConfig) -> Any:
    """The same model for `transformers`."""
    import transformers

    from gpt_oss_stories.interop.configs import write_huggingface_config

    no_tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    settings = transformers.GptOssConfig.from_dict(write_huggingface_config(config, "float32", no_tokens))
    settings._attn_implementation = "eager"
    return settings


def their_layer(config: ModelConfig, kind: str) -> tuple[Any, Any]:
    """The norm and the attention layer, freshly initialised."""
    import torch
    from transformers.models.gpt_oss import modeling_gpt_oss

    settings = their_config(config.replace(n_layer=2))
    torch.manual_seed(0)
    layer = modeling_gpt_oss.GptOssAttention(settings, LAYERS[kind])
    torch.nn.init.zeros_(layer.sinks)
    return modeling_gpt_oss.GptOssRMSNorm(config.n_embd, config.norm_eps), layer


def their_layer_forward(config: ModelConfig, kind: str, norm: Any, layer: Any, x: Any) -> Callable[[], Any]:
    """A call of the layer with what the model gives it, made once: rotations, and the mask that is added to scores."""
    import torch
    from transformers.models.gpt_oss import modeling_gpt_oss

    position = torch.arange(x.shape[1])
    distance = position[:, None] - position
    visible = (distance >= 0) & (distance < config.sliding_window) if kind == "sliding" else distance >= 0
    mask = torch.zeros(visible.shape, dtype=x.dtype).masked_fill_(~visible, torch.finfo(x.dtype).min)[None, None]
    rotation = modeling_gpt_oss.GptOssRotaryEmbedding(layer.config)(x.detach(), position[None])
    return lambda: layer(norm(x), position_embeddings=rotation, attention_mask=mask)[0]


def theirs(options: dict[str, Any]) -> Workload:
    """The layer or the model of `transformers`."""
    import torch
    import transformers

    kind, autocast = options["kind"], options["autocast"]

    def under_autocast(forward: Callable[[], Any]) -> Callable[[], Any]:
        def inner() -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                return forward()

        return inner

    def layer_pass(config: ModelConfig, batch: int, length: int) -> Pass:
        norm, layer = their_layer(config, kind)
        x, grad = hidden_states(config, batch, length, torch.float32)
        forward = under_autocast(their_layer_forward(config, kind, norm, layer, x))
        return backward_pass([x, *norm.parameters(), *layer.parameters()], forward, grad)

    def model_pass(config: ModelConfig, batch: int, length: int) -> Pass:
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(their_config(config), dtype=torch.float32).train()
        tokens = random_rows(config, batch, length)
        forward = under_autocast(lambda: model(input_ids=tokens, labels=tokens, use_cache=False).loss)
        return backward_pass(list(model.parameters()), forward)

    return workload(model_pass if kind == "model" else layer_pass, options, {})


# Who fits, and what comes out


def needs(options: dict[str, Any]) -> Workload:
    """What there is and what each setting takes of each kind, in bytes; for `apart`."""
    import torch

    from gpt_oss_stories.training.memory import available_memory

    def attention_bytes(config: ModelConfig, batch: int, length: int) -> int:
        scores, hidden = config.n_head * batch * length * length, batch * length * config.n_embd
        mask = length * length
        return int(memory.BASE_BYTES + 4 * memory.MARGIN * (PEER_SCORES * scores + PEER_WIDTHS * hidden + 2 * mask))

    facts: dict[str, Any] = {"available": available_memory(torch.device("cpu"))}
    facts |= {"our model": [], "their layer": [], "their model": []}
    step = TrainingConfig()  # its optimizer is not used here, which leaves some room
    for setting in options["settings"]:
        config, batch, length = ModelConfig.from_dict(setting["model"]), setting["batch"], setting["length"]
        facts["our model"].append(memory.our_bytes(config, step, batch, length))
        facts["their layer"].append(int(memory.KEPT * attention_bytes(config, batch, length)))
        facts["their model"].append(int(memory.KEPT * memory.peer_bytes(config, step, batch, length)))
    return Workload(dict, facts=facts)


def contenders(
    vary: str, settings: Sequence[Setting], passes: int, peer_dtypes: Sequence[str], conditions: Conditions
) -> tuple[list[Contender], list[str]]:
    """Ours and the peer's for each kind, and a sentence for each setting that does not fit."""
    values = [setting.to_dict() for setting in settings]
    room = apart(needs, {"settings": values}, conditions)
    available = room["available"]
    chosen, left_out = [], []

    def enter(name: str, make: Callable[[dict[str, Any]], Workload], need: str | None, **more: Any) -> None:
        fitting = []
        for index, setting in enumerate(values):
            takes = 0 if need is None else room[need][index]
            if available is not None and takes > available:
                left_out.append(
                    f"{name}, {vary} {setting['value']:,}: takes about {memory.gib(takes)}, "
                    f"{memory.gib(available)} are available"
                )
            else:
                fitting.append(setting)
        if fitting:
            needed = ("transformers",) if make is theirs else ()
            chosen.append(Contender(name, make, {"settings": fitting, "passes": passes, **more}, needed))

    kinds = [*LAYERS, "model"] if vary == "context" else ["model"]
    for kind in kinds:
        enter(f"ours, {kind}", ours, "our model" if kind == "model" else None, kind=kind)
    for kind in compared_kinds(vary):
        for dtype in dict.fromkeys(peer_dtypes):
            need = "their model" if kind == "model" else "their layer"
            enter(f"transformers {dtype}, {kind}", theirs, need, kind=kind, autocast=dtype == "bfloat16")
    return chosen, left_out


def compared_kinds(vary: str) -> list[str]:
    """What the peer is asked for."""
    return list(LAYERS) if vary == "context" else ["model"]


def together(parts: Sequence[Outcome]) -> Outcome:
    """The costs of some contenders added up, at the values that all of them did."""
    names = [name for name in parts[0].figures if all(name in part.figures for part in parts)]
    figures = {
        name: [sum(costs) for costs in zip(*(part.figures[name] for part in parts), strict=True)] for name in names
    }
    return Outcome(" and ".join(part.name for part in parts), figures)


def growth(outcome: Outcome) -> float:
    """Cost at the largest value that was measured over that at the smallest."""
    names = list(outcome.figures)
    return short(outcome.median(names[-1]) / outcome.median(names[0]))


def ratios(mine: Outcome, peers: Sequence[Outcome], values: Sequence[int]) -> dict[int, Ratio]:
    """The fastest peer's cost over ours, at each value that ours and a peer did."""
    found = {}
    for value in values:
        name = figure(value)
        able = [peer for peer in peers if name in peer.figures]
        if able and name in mine.figures:
            found[value] = ratio(mine, best(able, name), name)
    return found


# The command


def make_settings(
    vary: str, values: Sequence[int], size: str, vocabulary: str, tokens: int, length: int
) -> list[Setting]:
    """The models and batches of all values."""
    settings = []
    for value in values:
        row = value if vary == "context" else length
        # One context for all, so that nothing but the rows' length differs.
        config = model_config(size, vocabulary, max(values) if vary == "context" else row)
        if vary == "experts":
            config = config.replace(num_experts=value, experts_per_token=config.active_experts)
        elif vary == "vocabulary":
            config = config.replace(vocab_size=value)
        settings.append(Setting(value, config, max(1, tokens // row), row))
    return settings


def given_values(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """A list of whole numbers, ascending."""
    if value is None:
        return None
    try:
        numbers = sorted({int(word) for word in value.split(",")})
    except ValueError:
        numbers = []
    if len(numbers) < 2 or numbers[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list of two or more whole numbers such as 1024,8192")
    return numbers


def refuse_idle(vary: str) -> None:
    """Refuse what does nothing beside what is varied.

    Raises:
        click.UsageError: such an option was given.
    """
    context = click.get_current_context()
    for varied, option in (("context", "length"), ("vocabulary", "vocabulary")):
        if vary == varied and context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{option} has no effect where the {varied} is varied: use --values")


@click.command(help=(__doc__ or "").partition("\n")[0])
@model_options
@click.option("--vary", type=click.Choice(list(DEFAULT_VALUES)), default="context", show_default=True)
@click.option(
    "--values",
    "--lengths",
    "values",
    callback=given_values,
    help="Lengths of the context, numbers of experts or of tokens in the vocabulary.  "
    f"[default: {'; '.join(DEFAULT_VALUES.values())}]",
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    help=f"Tokens in a pass, about.  [default: the longest context, or else {PASS_TOKENS:,}]",
)
@click.option(
    "--length",
    default=ROW_TOKENS,
    show_default=True,
    type=click.IntRange(8),
    help="Tokens in a row, where not the context is varied.",
)
@click.option("--passes", default=3, show_default=True, type=click.IntRange(1), help="Passes in a repetition.")
@peer_dtypes_option
@conditions_options
def main(
    size: str,
    vocabulary: str,
    vary: str,
    values: list[int] | None,
    tokens: int | None,
    length: int,
    passes: int,
    peer_dtypes: tuple[str, ...],
) -> None:
    conditions: Conditions = given_conditions()
    refuse_idle(vary)
    if values is None:
        values = [int(word) for word in DEFAULT_VALUES[vary].split(",")]
    if vary == "context" and values[0] < 8:
        raise click.UsageError("a context has at least 8 tokens")
    tokens = tokens or (values[-1] if vary == "context" else PASS_TOKENS)
    settings = make_settings(vary, values, size, vocabulary, tokens, length)
    chosen, left_out = contenders(vary, settings, passes, peer_dtypes, conditions)
    for sentence in left_out:
        talk(f"left out: {sentence}", conditions)
    dtypes, kinds = list(dict.fromkeys(peer_dtypes)), compared_kinds(vary)
    compared = [contender.options for contender in chosen if contender.options["kind"] in kinds]
    fitting = [{setting["value"] for setting in options["settings"]} for options in compared]
    if len(fitting) < len(kinds) * (1 + len(dtypes)) or not set.intersection(*fitting):
        raise BenchmarkError("nothing can be compared in the memory that is available: choose smaller --values")
    by_name = {outcome.name: outcome for outcome in compare(chosen, conditions, one_at_a_time=True)}
    mine = {kind: by_name[f"ours, {kind}"] for kind in (*LAYERS, "model") if f"ours, {kind}" in by_name}
    peers = {
        kind: [by_name[name] for dtype in dtypes if (name := f"transformers {dtype}, {kind}") in by_name]
        for kind in kinds
    }
    by_kind = {kind: ratios(mine[kind], peers[kind], values) for kind in peers}
    overall = ratios(
        together([mine[kind] for kind in peers]),
        [together(parts) for parts in zip(*peers.values(), strict=True)],
        values,
    )
    at = max(overall)
    report(
        "context",
        list(by_name.values()),
        conditions,
        ratio=overall[at].median,
        ratio_spread=overall[at].to_list(),
        ratio_at=at,
        ratio_by_value={str(value): short(found.median) for value, found in overall.items()},
        **({f"{kind}_ratio": by_kind[kind][at].median for kind in peers} if vary == "context" else {}),
        growth={kind: growth(outcome) for kind, outcome in mine.items()},
        peer_growth={kind: growth(best(some, figure(at))) for kind, some in peers.items()},
        left_out=left_out,
        settings={
            "vary": vary,
            "values": values,
            "size": size,
            **({} if vary == "vocabulary" else {"vocabulary": settings[0].config.vocab_size}),
            **({} if vary == "context" else {"length": length}),
            "tokens": tokens,
            "passes": passes,
        },
    )


if __name__ == "__main__":
    start(main)
