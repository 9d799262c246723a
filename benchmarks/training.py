"""How many tokens a second does training read, against `transformers` on the same model?

    python benchmarks/training.py --size tiny --vocabulary story
    python benchmarks/training.py --size tiny --vocabulary harmony --repetitions 5 --steps 1

One step is what the trainer does with a batch: the loss, its gradient, the check and clipping of the gradient and the
optimizer's step, with the preset, optimizer and number format that training uses by default for the size. The peer is
`GptOssForCausalLM` of the same configuration with its own loss, fused AdamW and the same clipping, in float32 and under
bfloat16 autocast; the faster of the two counts. It keeps no key-value cache and computes no balance loss, which is in
its favour. All read the same random tokens. Each row is one document, so that both attend to the same places;
`--story-tokens` packs several stories into a row of ours instead, as training on short stories does.

`dense` is our own model with one expert as wide as all that a token uses: the same active parameters without routing.
`dense_ratio` is our speed over its.

Every model with all its logits in 201,088 tokens takes up to 17 GiB there, so with the harmony vocabulary contenders
are started anew for each repetition and never stand in memory together; memory is the most that a process ever had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
from house import (
    Conditions,
    Contender,
    Outcome,
    Workload,
    best,
    compare,
    conditions_options,
    dense_twin,
    given_conditions,
    model_config,
    model_options,
    peer_dtypes_option,
    ratio,
    report,
    start,
)

from gpt_oss_stories.config import ModelConfig, TrainingConfig, training_config

FIGURE = "tokens_per_second"
BATCHES = 4
"""Different batches that are read in turns: experts then get other numbers of tokens in each step."""


def preset(size: str, batch: int, length: int, optimizer: str | None) -> TrainingConfig:
    """How a model of the size is trained by default, with another optimizer if need be."""
    from gpt_oss_stories.cli import default_preset

    name = default_preset("nano" if size == "mini" else size)
    config = training_config(name, batch_size=batch, train_length=length)
    return config if optimizer is None else config.replace(optimizer=optimizer)


def random_tokens(options: dict[str, Any]) -> Any:
    """(BATCHES, batch, length) int64, the same for all contenders."""
    import torch

    config = ModelConfig.from_dict(options["model"])
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (BATCHES, options["batch"], options["length"]), generator=generator)


def workload(step: Callable[[int], float], options: dict[str, Any], facts: dict[str, Any]) -> Workload:
    """Steps that are counted and timed.

    Args:
        step: does step number i, and gives its loss.
    """
    done = 0

    def steps(count: int) -> float:
        nonlocal done
        began = time.perf_counter()
        for _ in range(count):
            loss = step(done)
            done += 1
        seconds = time.perf_counter() - began
        assert math.isfinite(loss), f"loss {loss} after {done} steps"
        facts["last_loss_nats"] = round(loss, 4)
        return seconds

    def measure() -> dict[str, float]:
        return {FIGURE: options["steps"] * options["batch"] * options["length"] / steps(options["steps"])}

    return Workload(measure, lambda: steps(options["warm_up_steps"]), facts)


def ours(options: dict[str, Any]) -> Workload:
    """Our training step."""
    import torch

    from gpt_oss_stories.data.batches import Batch
    from gpt_oss_stories.model.pointwise import compile_kernels
    from gpt_oss_stories.model.transformer import StoryTransformer
    from gpt_oss_stories.training.optimizer import StoryOptimizer
    from gpt_oss_stories.training.precision import choose_precision
    from gpt_oss_stories.training.schedule import Schedule

    config = TrainingConfig.from_dict(options["training"])
    device = torch.device("cpu")
    precision = choose_precision(device, config.use_mixed_precision)
    model = StoryTransformer(ModelConfig.from_dict(options["model"]), seed=config.seed)
    model.compute_dtype = precision.dtype
    if options["compile"]:
        compile_kernels(device, precision.dtype)
    half = torch.bfloat16 if precision.dtype == torch.bfloat16 else torch.float32
    optimizer = StoryOptimizer(model, config, matrix_dtype=half)
    schedule = Schedule.from_config(config)
    tokens = random_tokens(options)
    story = options["story_tokens"] or options["length"]
    documents = (torch.arange(options["length"]) // story).expand(tokens.shape[1:]).contiguous()
    batches = [Batch(part, documents, torch.ones_like(part, dtype=torch.bool)) for part in tokens]

    def step(index: int) -> float:
        batch = batches[index % BATCHES]
        counts = tuple(float(count) for count in model.count_targets(batch.documents, batch.trained))
        optimizer.zero_grad()
        losses = model.loss(
            batch.tokens,
            batch.documents,
            batch.trained,
            balance_coef=config.router_balance_coef if config.router_balance == "loss" else 0.0,
            z_coef=config.router_z_coef,
            multi_token_weight=config.multi_token_loss_weight,
            target_counts=counts,
            aux_share=1.0,
        )
        losses.total.backward()
        loss = float(losses.next_token)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        assert math.isfinite(float(norm))
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.grad_clip, norm)
        optimizer.step(schedule.factor(index, 0.0))
        return loss

    facts = {
        "compute": precision.describe(),
        "optimizer": config.optimizer,
        "parameters": model.config.parameters().total,
        "active_parameters": model.config.parameters().active,
    }
    return workload(step, options, facts)


def theirs(options: dict[str, Any]) -> Workload:
    """That of `transformers`."""
    import torch
    import transformers

    from gpt_oss_stories.interop.configs import write_huggingface_config

    config = TrainingConfig.from_dict(options["training"])
    no_tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    settings = write_huggingface_config(ModelConfig.from_dict(options["model"]), "float32", no_tokens)
    torch.manual_seed(config.seed)
    choices = {"experts_implementation": options["experts"]} if options["experts"] else {}
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.GptOssConfig.from_dict(settings), attn_implementation="eager", dtype=torch.float32, **choices
    ).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    batches = random_tokens(options)

    def step(index: int) -> float:
        tokens = batches[index % BATCHES]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options["autocast"]):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip, error_if_nonfinite=True)
        optimizer.step()
        return float(loss)

    facts = {
        "experts_implementation": model.config._experts_implementation,
        "attention_implementation": model.config._attn_implementation,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return workload(step, options, facts)


def contenders(
    config: ModelConfig,
    training: TrainingConfig,
    common: dict[str, Any],
    *,
    compiled: bool,
    experts: str | None,
    peer_dtypes: Sequence[str],
) -> tuple[list[Contender], list[Contender], list[Contender]]:
    """Ours, the dense twin and the peers."""
    values = {"model": config.to_dict(), "training": training.to_dict(), **common}
    plain = {**values, "compile": False}
    mine = [Contender("ours", ours, plain)]
    dense = [Contender("dense", ours, {**plain, "model": dense_twin(config).to_dict()})]
    if compiled:
        mine.append(Contender("ours, compiled", ours, {**plain, "compile": True}))
        dense.append(Contender("dense, compiled", ours, {**dense[0].options, "compile": True}))
    peers = [
        Contender(
            f"transformers, {dtype}",
            theirs,
            {**values, "autocast": dtype == "bfloat16", "experts": experts},
            ("transformers",),
        )
        for dtype in dict.fromkeys(peer_dtypes)
    ]
    return mine, dense, peers


def memory_ratio(mine: Outcome, peer: Outcome) -> float | None:
    """Our peak memory over the peer's."""
    if mine.peak_memory_bytes is None or peer.peak_memory_bytes is None:
        return None
    return mine.peak_memory_bytes / peer.peak_memory_bytes


@click.command(help=(__doc__ or "").partition("\n")[0])
@model_options
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="Rows in a batch.")
@click.option("--length", default=512, show_default=True, type=click.IntRange(8), help="Tokens in a row.")
@click.option("--steps", default=2, show_default=True, type=click.IntRange(1), help="Steps in a repetition.")
@click.option(
    "--warm-up-steps", default=3, show_default=True, type=click.IntRange(1), help="Steps before the first one."
)
@click.option(
    "--story-tokens", default=0, type=click.IntRange(0), help="Length of the stories in a row of ours; 0: one story."
)
@click.option(
    "--optimizer", type=click.Choice(["adamw", "muon"]), help="Ours; transformers has AdamW.  [default: the preset's]"
)
@click.option("--compile", "compiled", is_flag=True, help="Also measure ours with --compile-model.")
@click.option(
    "--experts",
    metavar="NAME",
    help="How transformers computes experts (eager, grouped_mm, batched_mm).  [default: its own choice]",
)
@peer_dtypes_option
@click.option(
    "--one-at-a-time/--together",
    default=None,
    help="Start contenders anew for each repetition.  [default: with the harmony vocabulary]",
)
@conditions_options
def main(
    size: str,
    vocabulary: str,
    batch: int,
    length: int,
    steps: int,
    warm_up_steps: int,
    story_tokens: int,
    optimizer: str | None,
    compiled: bool,
    experts: str | None,
    peer_dtypes: tuple[str, ...],
    one_at_a_time: bool | None,
) -> None:
    conditions: Conditions = given_conditions()
    config = model_config(size, vocabulary, length)
    common = {
        "batch": batch,
        "length": length,
        "steps": steps,
        "warm_up_steps": warm_up_steps,
        "story_tokens": story_tokens,
    }
    training = preset(size, batch, length, optimizer)
    mine, dense, peers = contenders(
        config, training, common, compiled=compiled, experts=experts, peer_dtypes=peer_dtypes
    )
    alone = vocabulary == "harmony" if one_at_a_time is None else one_at_a_time
    outcomes = compare([*mine, *dense, *peers], conditions, one_at_a_time=alone)
    by_name = {outcome.name: outcome for outcome in outcomes}
    our_best, dense_best, peer_best = (
        best([by_name[contender.name] for contender in group], FIGURE) for group in (mine, dense, peers)
    )
    speed, against_dense = ratio(our_best, peer_best, FIGURE), ratio(our_best, dense_best, FIGURE)
    report(
        "training",
        outcomes,
        conditions,
        ratio=speed.median,
        ratio_spread=speed.to_list(),
        ours=our_best.name,
        peer=peer_best.name,
        memory_ratio=memory_ratio(our_best, peer_best),
        dense_ratio=against_dense.median,
        dense_ratio_spread=against_dense.to_list(),
        settings={
            "size": size,
            "vocabulary": config.vocab_size,
            **common,
            "optimizer": training.optimizer,
            "one_at_a_time": alone,
        },
    )


if __name__ == "__main__":
    start(main)
