"""Settings: sizes and presets as documented, every problem reported, nothing unknown accepted, nothing lost."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss_stories.config import (
    DEFAULT_VOCABULARY,
    MODEL_SIZES,
    TRAINING_PRESETS,
    Config,
    ConfigError,
    DataConfig,
    GenerationConfig,
    ModelConfig,
    TrainingConfig,
    check_run,
    data_config,
    field_types,
    flag_name,
    model_config,
    training_config,
    without_effect,
)
from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.model.transformer import StoryTransformer

CONFIG_CLASSES: tuple[type[Config], ...] = (ModelConfig, TrainingConfig, DataConfig, GenerationConfig)


@pytest.mark.parametrize(
    ("size", "shape", "active_millions", "total_millions"),
    [
        ("tiny", (6, 8, 512, 2048, 4), 13.4, 228.8),
        ("small", (12, 12, 768, 4096, 8), 60.3, 496.8),
        ("medium", (24, 16, 1024, 8192, 16), 214.6, 1684),
        ("large", (36, 20, 1280, 8192, 32), 503.3, 6331),
    ],
)
def test_sizes_have_their_stated_shapes_and_parameters(
    size: str, shape: tuple[int, ...], active_millions: float, total_millions: float
) -> None:
    config = model_config(size)
    report = config.parameters()
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size, config.num_experts) == shape
    assert config.kv_heads * 4 == config.n_head
    assert (config.active_experts, config.expert_width, config.head_dim) == (2, config.n_embd, 64)
    assert round(report.active_non_embedding / 1e6, 1) == active_millions
    assert round(report.total / 1e6, 1 if total_millions < 1000 else 0) == total_millions


@pytest.mark.parametrize(
    ("preset", "max_iters", "batch_size"),
    [("debug", 1_000, 4), ("fast", 10_000, 8), ("standard", 50_000, 16), ("production", 100_000, 32)],
)
def test_presets_have_their_stated_steps(preset: str, max_iters: int, batch_size: int) -> None:
    config = training_config(preset)
    assert (config.max_iters, config.batch_size) == (max_iters, batch_size)


SWITCHES: list[dict[str, Any]] = [
    {},
    {"use_swiglu": False},
    {"use_rmsnorm": False},
    {"use_attention_sinks": False},
    {"tie_embeddings": True},
    {"sliding_window": 0},
    {"num_experts": 1},
    {"multi_token_predict": 3},
    {"multi_token_predict": 2, "use_rmsnorm": False, "use_swiglu": False, "tie_embeddings": True, "num_experts": 1},
    {"n_kv_head": 1, "intermediate_size": 40, "experts_per_token": 3},
]


@pytest.mark.parametrize("changes", SWITCHES, ids=lambda changes: "+".join(changes) or "plain")
def test_parameter_report_counts_what_the_model_allocates(changes: dict[str, Any]) -> None:
    config = ModelConfig(
        **{"vocab_size": 50, "n_layer": 3, "n_head": 4, "n_embd": 24, "head_dim": 6, "num_experts": 5, **changes}
    )
    with torch.device("meta"):
        model = StoryTransformer(config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    report = config.parameters()
    tables = sum(count for name, count in sizes.items() if name.startswith(("embedding.", "unembedding.")))
    assert report.total == sum(sizes.values())
    assert report.embedding == tables
    assert report.non_embedding == report.total - tables
    expert_parts = ("gate_up_weight", "gate_up_bias", "down_weight", "down_bias")
    trunk = {name: n for name, n in sizes.items() if name.startswith(("layers.", "norm."))}
    experts = sum(count for name, count in trunk.items() if name.endswith(expert_parts))
    idle = experts * (config.num_experts - config.active_experts) // config.num_experts
    assert report.active_non_embedding == sum(trunk.values()) - idle
    assert report.active == report.active_non_embedding + config.vocab_size * config.n_embd


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_every_size_is_buildable(size: str) -> None:
    config = model_config(size)
    with torch.device("meta"):
        model = StoryTransformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.parameters().total


@pytest.mark.parametrize("config_class", CONFIG_CLASSES)
def test_unknown_settings_are_refused(config_class: type[Config]) -> None:
    with pytest.raises(ConfigError, match=r"unknown settings.*n_layers"):
        config_class.from_dict({"n_layers": 3})
    with pytest.raises(ConfigError, match=r"unknown settings.*n_layers"):
        config_class().replace(n_layers=3)


@pytest.mark.parametrize(("builder", "kind"), [(model_config, "model size"), (training_config, "training preset")])
def test_unknown_preset_names_the_known_ones(builder: Any, kind: str) -> None:
    known = ", ".join(MODEL_SIZES if builder is model_config else TRAINING_PRESETS)
    with pytest.raises(ConfigError, match=f"{kind}='huge' is not one of {known}"):
        builder("huge")


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(batch_size=0, learning_rate=-1.0, optimizer="sgd", beta1=2.0, max_iters="many")  # type: ignore[arg-type]
    message = str(caught.value)
    for field in ("batch_size=0", "learning_rate=-1.0", "optimizer='sgd'", "beta1=2.0", "max_iters='many'"):
        assert field in message
    assert "adamw, muon" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_head": 7}, ["n_head=7", "4 or 8"]),
        ({"n_head": 6, "n_kv_head": 4}, ["n_head=6", "n_kv_head=4"]),
        ({"head_dim": 33}, ["head_dim=33"]),
        ({"num_experts": 2, "experts_per_token": 3}, ["experts_per_token=3", "num_experts=2"]),
        ({"rope_beta_slow": 40.0}, ["rope_beta_slow=40.0", "rope_beta_fast=32.0"]),
        ({"n_head": 7, "head_dim": 33}, ["n_head=7", "head_dim=33"]),
    ],
)
def test_impossible_shapes_are_refused_with_their_numbers(changes: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**changes)
    for part in named:
        assert part in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "auto", "mps", "cuda", "cuda:1"])
def test_devices_are_accepted(device: str) -> None:
    assert TrainingConfig(device=device).device == device


@pytest.mark.parametrize(
    "device", ["", "gpu", "cuda:", "cuda:x", "CPU", "cuda:-1", "cuda:²", "cpu:0", "mps:0", "auto:1"]
)
def test_devices_that_do_not_exist_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="auto, cpu, cuda, cuda:N or mps"):
        TrainingConfig(device=device)


def test_training_rows_must_fit_into_the_model() -> None:
    model = ModelConfig(block_size=64)
    check_run(model, TrainingConfig())
    check_run(model, TrainingConfig(train_length=64))
    with pytest.raises(ConfigError, match="train_length=65 is longer than the model's block_size=64"):
        check_run(model, TrainingConfig(train_length=65))


def test_field_names_of_a_run_are_not_ambiguous() -> None:
    names = [field.name for part in (ModelConfig, TrainingConfig, DataConfig) for field in dataclasses.fields(part)]
    assert len(names) == len(set(names)), "without_effect takes the names of all three together"


NO_EFFECT: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    # settings beside which the flags have an effect, the flags, what takes the effect away, the sentence
    ({"num_experts": 4}, {"router_z_coef": 0.1}, {"num_experts": 1},
     "--router-z-coef has no effect with --num-experts 1, a dense model without a router"),
    ({"num_experts": 4}, {"router_balance": "bias", "router_bias_rate": 0.1}, {"num_experts": 1},
     "--router-balance, --router-bias-rate have no effect with --num-experts 1, a dense model without a router"),
    ({}, {"router_balance_coef": 0.1}, {"router_balance": "none"},
     "--router-balance-coef has no effect with --router-balance none"),
    ({"router_balance": "bias"}, {"router_bias_rate": 0.1}, {"router_balance": "loss"},
     "--router-bias-rate has no effect with --router-balance loss"),
    ({"multi_token_predict": 2}, {"multi_token_loss_weight": 0.1}, {"multi_token_predict": 1},
     "--multi-token-loss-weight has no effect with --multi-token-predict 1"),
    ({}, {"swiglu_alpha": 2.0, "swiglu_limit": 8.0}, {"use_swiglu": False},
     "--swiglu-alpha, --swiglu-limit have no effect with --no-use-swiglu"),
    ({"rope_scaling_factor": 2.0}, {"rope_beta_fast": 30.0}, {"rope_scaling_factor": 1.0},
     "--rope-beta-fast has no effect with --rope-scaling-factor 1"),
    ({"optimizer": "muon"}, {"matrix_learning_rate": 0.1}, {"optimizer": "adamw"},
     "--matrix-learning-rate has no effect with --optimizer adamw"),
    ({"learning_rate_schedule": "warmdown"}, {"warmdown_fraction": 0.1}, {"learning_rate_schedule": "cosine"},
     "--warmdown-fraction has no effect with --learning-rate-schedule cosine"),
    ({}, {"min_learning_rate_ratio": 0.2}, {"learning_rate_schedule": "constant"},
     "--min-learning-rate-ratio has no effect with --learning-rate-schedule constant"),
    ({}, {"use_mixed_precision": True}, {"precision": "bfloat16"},
     "--mixed-precision has no effect with --precision bfloat16"),
    ({"use_wandb": True}, {"wandb_project": "p", "run_name": "r"}, {"use_wandb": False},
     "--wandb-project has no effect without --use-wandb"),
    ({"vocabulary": "story"}, {"min_token_count": 3}, {"vocabulary": "harmony"},
     "--min-token-count has no effect with --vocabulary harmony"),
    ({}, {"storybook_stories": 5, "first_readers": 5, "storybook_seed": 5, "original_repeats": 5},
     {"dataset_path": "mine.txt"},
     "--storybook-stories, --first-readers, --storybook-seed, --original-repeats have no effect with --dataset-path, "
     "in place of the built-in stories"),
]  # fmt: skip


def configurations(values: dict[str, Any]) -> tuple[ModelConfig, TrainingConfig, DataConfig]:
    def part(config_class: type[Config]) -> Any:
        names = {field.name for field in dataclasses.fields(config_class)}
        return config_class.from_dict({name: value for name, value in values.items() if name in names})

    return part(ModelConfig), part(TrainingConfig), part(DataConfig)


@pytest.mark.parametrize(("around", "flags", "change", "sentence"), NO_EFFECT, ids=lambda case: str(case)[:24])
def test_flags_without_effect_are_named_with_the_reason(
    around: dict[str, Any], flags: dict[str, Any], change: dict[str, Any], sentence: str
) -> None:
    assert without_effect(*configurations({**around, **flags}), given=set(flags)) == []
    idle = configurations({**around, **flags, **change})
    assert without_effect(*idle, given=set(flags) | set(change)) == [sentence]
    assert without_effect(*idle, given=set(change)) == [], "nobody asked for the others"


@pytest.mark.parametrize("size", MODEL_SIZES)
@pytest.mark.parametrize("preset", TRAINING_PRESETS)
def test_presets_set_nothing_that_has_no_effect(size: str, preset: str) -> None:
    given = {*MODEL_SIZES[size], *TRAINING_PRESETS[preset]}
    assert without_effect(model_config(size), training_config(preset), data_config(size), given) == []


def test_flags_have_dashes_and_may_have_a_name_of_their_own() -> None:
    fields = {field.name: field for field in dataclasses.fields(TrainingConfig)}
    assert flag_name(fields["max_iters"]) == "max-iters"
    assert flag_name(fields["use_mixed_precision"]) == "mixed-precision"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", None])
def test_numbers_must_be_finite_numbers(value: Any) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        GenerationConfig(temperature=value)


def test_replace_checks_again_and_leaves_the_original() -> None:
    config = model_config("tiny")
    changed = config.replace(n_layer=7)
    assert (config.n_layer, changed.n_layer) == (6, 7)
    with pytest.raises(ConfigError, match="n_layer=0"):
        config.replace(n_layer=0)


@pytest.mark.parametrize("config_class", CONFIG_CLASSES)
def test_configurations_cannot_be_changed_in_place(config_class: type[Config]) -> None:
    config = config_class()
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, getattr(config, name))


def every_preset() -> list[Config]:
    built: list[Config] = [model_config(size) for size in MODEL_SIZES]
    built += [training_config(preset) for preset in TRAINING_PRESETS]
    return [*built, *(data_config(size) for size in MODEL_SIZES), GenerationConfig()]


@pytest.mark.parametrize("config", every_preset(), ids=lambda config: type(config).__name__)
def test_configurations_survive_json(config: Config) -> None:
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(data=st.data())
def test_an_accepted_configuration_can_be_rebuilt_from_its_mapping(data: st.DataObject) -> None:
    changes = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "temperature": st.one_of(st.floats(0, 10), st.integers(0, 10)),
                "top_p": st.floats(0, 1, exclude_min=True),
                "seed": st.one_of(st.none(), st.integers(0, 2**63)),
                "num_samples": st.integers(1, 99),
            },
        )
    )
    config = GenerationConfig(**changes)
    assert GenerationConfig.from_dict(config.to_dict()) == config
    assert {name: getattr(config, name) for name in changes} == changes


def test_overrides_win_over_presets() -> None:
    assert model_config("nano", n_layer=9).n_layer == 9
    assert training_config("debug", max_iters=3).max_iters == 3
    assert data_config("nano").vocabulary == DEFAULT_VOCABULARY["nano"] == "story"
    assert data_config("tiny").vocabulary == "harmony"
    assert data_config("nano", vocabulary="harmony").vocabulary == "harmony"


@pytest.mark.parametrize("config_class", CONFIG_CLASSES)
def test_every_field_is_documented_and_its_default_is_valid(config_class: type[Config]) -> None:
    config_class()
    for field in dataclasses.fields(config_class):
        help_text = field.metadata["help"]
        assert help_text[-1] == "."
        assert "\n" not in help_text
        assert field_types(config_class)[field.name][0] in (int, float, bool, str)


def test_configuration_errors_are_user_errors() -> None:
    assert issubclass(ConfigError, StoryError)
    assert issubclass(ConfigError, ValueError)
