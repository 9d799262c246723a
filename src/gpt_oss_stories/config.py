"""Every setting of the project: model, training, data and generation.

Four frozen dataclasses, the model sizes and the training presets. This module imports only the standard library, so a
command can show its help and refuse a wrong setting before torch is loaded.

Each field is declared once, with its default, meaning and bounds, by `setting`; the command line makes its flags
from these declarations. A configuration is checked when it is built: all problems are reported at once, in one
`ConfigError`. Unknown keys are refused, so a misspelled setting never passes silently.

Sources of the architecture's numbers: gpt-oss model card (arXiv 2508.10925) and its reference implementation.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from .device import DEVICE_NAMES, is_device_name
from .errors import StoryError

HARMONY_VOCABULARY_SIZE = 201_088
"""Rows of the embedding table that goes with the harmony tokenizer (its highest id is 201,087)."""


class ConfigError(StoryError):
    """A setting has a value that cannot work; the message says which, why, and what would."""


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    flag: str | None = None,
    internal: bool = False,
) -> Any:
    """Declare one field: its default, its meaning and its bounds.

    Args:
        default: value when nothing is given.
        help: one line for `--help` and for the documentation.
        choices: the only values a text may take.
        minimum, maximum: inclusive bounds of a number.
        above: exclusive lower bound of a number.
        flag: name of the command-line flag where it differs from the field's name.
        internal: the field is found out by the program (a vocabulary's size) and has no flag.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "flag": flag,
        "internal": internal,
    }
    return dataclasses.field(default=default, metadata=metadata)


def field_types(config_class: type) -> dict[str, tuple[type, bool]]:
    """Each field's plain type and whether it may be None, by field name."""
    resolved: dict[str, tuple[type, bool]] = {}
    for name, hint in typing.get_type_hints(config_class).items():
        arguments = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = [argument for argument in arguments if argument is not type(None)]
        resolved[name] = (plain[0], type(None) in arguments)
    return resolved


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the four configurations share: checking, copying with changes, and going to and from a mapping."""

    def __post_init__(self) -> None:
        problems = self._field_problems()
        if not problems:  # relations between fields only make sense once each field is sound
            problems = self._relation_problems()
        if problems:
            raise ConfigError(f"{type(self).__name__}: " + "; ".join(problems))

    def _field_problems(self) -> list[str]:
        problems = []
        hints = field_types(type(self))
        for field in dataclasses.fields(self):
            value, meta = getattr(self, field.name), field.metadata
            plain, optional = hints[field.name]
            if value is None and optional:
                continue
            accepted: tuple[type, ...] = (int, float) if plain is float else (plain,)
            if not isinstance(value, accepted) or (isinstance(value, bool) and plain is not bool):
                problems.append(f"{field.name}={value!r} is not {_type_name(plain)}{' or None' if optional else ''}")
                continue
            if meta["choices"] and value not in meta["choices"]:
                problems.append(f"{field.name}={value!r} is not one of {', '.join(meta['choices'])}")
            if plain in (int, float):
                if value != value or value in (float("inf"), float("-inf")):
                    problems.append(f"{field.name}={value} is not a finite number")
                if meta["minimum"] is not None and value < meta["minimum"]:
                    problems.append(f"{field.name}={value} is below {meta['minimum']}")
                if meta["above"] is not None and value <= meta["above"]:
                    problems.append(f"{field.name}={value} must be above {meta['above']}")
                if meta["maximum"] is not None and value > meta["maximum"]:
                    problems.append(f"{field.name}={value} is above {meta['maximum']}")
        return problems

    def _relation_problems(self) -> list[str]:
        return []

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked like any other.

        Raises:
            ConfigError: a changed field does not exist, or the result cannot work.
        """
        return self.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and truth values only; `from_dict` restores an equal configuration."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping.

        Raises:
            ConfigError: a key is unknown, or the values cannot work.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"{cls.__name__}: unknown settings {unknown}; known are {sorted(known)}")
        return cls(**values)


def _type_name(plain: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[plain]


@dataclass(frozen=True, kw_only=True)
class ParameterReport:
    """How large a model is, in parameters, counted from its configuration alone."""

    total: int
    """Everything that a checkpoint stores."""
    active: int
    """What takes part in predicting the next token: chosen experts only, without the embedding table (a look-up) and
    without the multi-token modules, but with the unembedding."""
    embedding: int
    """Embedding and unembedding tables."""
    non_embedding: int
    """Everything else."""
    active_non_embedding: int
    """`active` without the unembedding: the figure by which the sizes are named."""

    def describe(self) -> str:
        return (
            f"{self.total:,} parameters: {self.active:,} active per token, "
            f"{self.embedding:,} embedding, {self.non_embedding:,} non-embedding"
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The architecture. The defaults are GPT-OSS's own conventions at the `small` size.

    The upper bounds are far above any model of this kind; they keep a configuration from an untrusted file from asking
    for endless layers or tables.
    """

    vocab_size: int = setting(
        HARMONY_VOCABULARY_SIZE,
        "Tokens in the vocabulary; training sets it from the tokenizer.",
        minimum=2,
        maximum=2_097_152,
        internal=True,
    )
    n_layer: int = setting(12, "Transformer layers.", minimum=1, maximum=1024)
    n_head: int = setting(12, "Query heads in each layer.", minimum=1, maximum=1024)
    n_kv_head: int | None = setting(None, "Key-value heads; a quarter of the query heads when not given.", minimum=1)
    n_embd: int = setting(768, "Width of the model.", minimum=8, maximum=65_536)
    head_dim: int = setting(
        64, "Width of one attention head; like GPT-OSS, not tied to n_embd / n_head.", minimum=2, maximum=1024
    )
    intermediate_size: int | None = setting(
        None, "Hidden width of one expert; n_embd when not given.", minimum=1, maximum=262_144
    )
    block_size: int = setting(
        4096, "Longest sequence in tokens, in training and generation.", minimum=8, maximum=4_194_304
    )
    num_experts: int = setting(8, "Experts in each layer; 1 is a dense model.", minimum=1, maximum=4096)
    experts_per_token: int | None = setting(
        None, "Experts that each token uses; 2 when not given, 1 for a dense model.", minimum=1
    )
    sliding_window: int = setting(
        128, "Keys that a sliding layer sees, the token's own included; 0 makes every layer full.", minimum=0
    )
    multi_token_predict: int = setting(
        1, "Tokens predicted at each position; 1 is the next one only.", minimum=1, maximum=8
    )
    use_swiglu: bool = setting(True, "Clamped SwiGLU experts; off: GELU, as in GPT-2.")
    use_rmsnorm: bool = setting(True, "RMSNorm; off: LayerNorm, as in GPT-2.")
    use_attention_sinks: bool = setting(True, "One learned sink logit in each head's softmax; off: plain softmax.")
    tie_embeddings: bool = setting(False, "Use the embedding table as the unembedding too.")
    norm_eps: float = setting(1e-5, "Constant under the root in the normalisation.", above=0)
    swiglu_alpha: float = setting(1.702, "Slope of the gate's sigmoid in SwiGLU.", above=0)
    swiglu_limit: float = setting(7.0, "Clamp of SwiGLU's gate (from above) and linear part (both sides).", above=0)
    rope_theta: float = setting(150_000.0, "Base of the rotary frequencies.", above=1)
    rope_scaling_factor: float = setting(
        1.0, "YaRN: how many times longer than rope_original_context the context may be; 1 is plain RoPE.", minimum=1
    )
    rope_original_context: int = setting(
        4096, "YaRN: context in tokens that the model was first trained at.", minimum=8
    )
    rope_beta_slow: float = setting(1.0, "YaRN: rotations at which full interpolation begins.", above=0)
    rope_beta_fast: float = setting(32.0, "YaRN: rotations from which a frequency is left alone.", above=0)

    def _relation_problems(self) -> list[str]:
        problems = []
        if self.n_kv_head is None and self.n_head >= 4 and self.n_head % 4:
            problems.append(
                f"n_head={self.n_head} does not divide into groups of four heads that share keys and values: "
                f"choose {self.n_head // 4 * 4} or {self.n_head // 4 * 4 + 4}, or give n_kv_head a divisor of it"
            )
        elif self.n_head % self.kv_heads:
            problems.append(f"n_head={self.n_head} is not a multiple of n_kv_head={self.kv_heads}")
        if self.head_dim % 2:
            problems.append(f"head_dim={self.head_dim} is odd, but rotary embedding turns pairs")
        if self.active_experts > self.num_experts:
            problems.append(f"experts_per_token={self.experts_per_token} is more than num_experts={self.num_experts}")
        if self.rope_beta_slow >= self.rope_beta_fast:
            problems.append(f"rope_beta_slow={self.rope_beta_slow} must be below rope_beta_fast={self.rope_beta_fast}")
        return problems

    @property
    def kv_heads(self) -> int:
        """Key-value heads, `n_kv_head` or a quarter of the query heads."""
        return self.n_kv_head if self.n_kv_head is not None else max(1, self.n_head // 4)

    @property
    def expert_width(self) -> int:
        """Hidden width of one expert, `intermediate_size` or `n_embd`."""
        return self.intermediate_size if self.intermediate_size is not None else self.n_embd

    @property
    def active_experts(self) -> int:
        """Experts that each token uses, `experts_per_token` or 2, or 1 where there is only one."""
        return self.experts_per_token if self.experts_per_token is not None else min(2, self.num_experts)

    def layer_window(self, layer: int) -> int:
        """Window of a layer in keys, 0 for full attention: layers alternate, a sliding one first."""
        return self.sliding_window if layer % 2 == 0 else 0

    def parameters(self) -> ParameterReport:
        """Count the parameters from the configuration alone, allocating nothing."""
        width, inner = self.n_embd, self.expert_width
        query, key_value = self.n_head * self.head_dim, self.kv_heads * self.head_dim
        norm = width if self.use_rmsnorm else 2 * width
        attention = (width + 1) * (query + 2 * key_value) + (query + 1) * width
        attention += self.n_head if self.use_attention_sinks else 0
        up = 2 * inner if self.use_swiglu else inner
        expert = (width + 1) * up + (inner + 1) * width
        router = (width + 1) * self.num_experts if self.num_experts > 1 else 0
        around = attention + router + 2 * norm
        block, active_block = around + self.num_experts * expert, around + self.active_experts * expert
        multi_token = (self.multi_token_predict - 1) * (block + 3 * norm + 2 * width * width)
        table = self.vocab_size * width
        embedding = table if self.tie_embeddings else 2 * table
        non_embedding = self.n_layer * block + norm + multi_token
        active_non_embedding = self.n_layer * active_block + norm
        return ParameterReport(
            total=embedding + non_embedding,
            active=active_non_embedding + table,
            embedding=embedding,
            non_embedding=non_embedding,
            active_non_embedding=active_non_embedding,
        )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """How a model is trained."""

    max_iters: int = setting(10_000, "Optimizer steps.", minimum=0)
    max_seconds: float | None = setting(
        None, "End after this many seconds of training; the learning rate then decays by time.", above=0
    )
    stop_after: float | None = setting(
        None,
        "Save and stop when this many seconds have passed since the command began, to be gone on with by the same "
        "command; for batch systems with a time limit. The learning rate does not depend on it.",
        above=0,
    )
    early_stopping: int | None = setting(
        None, "End after so many evaluations in a row without a better validation loss.", minimum=1
    )
    batch_size: int = setting(
        8,
        "Rows of each process in one batch; it goes through the model in as many passes as the memory asks for.",
        minimum=1,
    )
    gradient_accumulation_steps: int = setting(1, "Batches whose gradients make up one optimizer step.", minimum=1)
    train_length: int | None = setting(
        None, "Tokens in a training row; the model's block_size when not given.", minimum=8
    )
    optimizer: str = setting(
        "adamw", "adamw, or muon for the matrices and adamw for the rest.", choices=("adamw", "muon")
    )
    learning_rate: float = setting(3e-4, "Highest learning rate of AdamW.", above=0)
    embedding_learning_rate: float | None = setting(
        None, "Highest learning rate of the embedding table; learning_rate when not given.", above=0
    )
    matrix_learning_rate: float = setting(0.02, "Highest learning rate of Muon.", above=0)
    learning_rate_schedule: str = setting(
        "cosine", "Decay after the warm-up.", choices=("cosine", "linear", "constant", "warmdown")
    )
    warmup_iters: int | None = setting(
        None, "Steps of rising learning rate; 2% of max_iters when not given.", minimum=0
    )
    warmdown_fraction: float = setting(
        0.5, "Share of the run over which the schedule 'warmdown' falls at its end.", above=0, maximum=1
    )
    min_learning_rate_ratio: float = setting(
        0.1, "Learning rate at the end, as a share of the highest.", minimum=0, maximum=1
    )
    weight_decay: float = setting(0.1, "Decoupled weight decay, on matrices only.", minimum=0)
    beta1: float = setting(0.9, "AdamW: decay of the gradient's mean.", minimum=0, maximum=0.9999)
    beta2: float = setting(0.95, "AdamW: decay of the squared gradient's mean.", minimum=0, maximum=0.99999)
    grad_clip: float = setting(1.0, "Largest norm of the whole gradient; 0 does not clip.", minimum=0)
    max_skipped_steps: int = setting(
        25, "End after so many steps in a row that were skipped since a loss or gradient was not finite.", minimum=1
    )
    ema_decay: float | None = setting(
        None,
        "Keep an exponential moving average of the weights with this decay (0.999 is usual), and evaluate it, tell "
        "samples with it and save it as the model.",
        above=0,
        maximum=0.999999,
    )
    router_balance: str = setting(
        "loss",
        "Evens out the experts' load by an auxiliary loss, by a bias on the router, or not.",
        choices=("loss", "bias", "none"),
    )
    router_balance_coef: float = setting(0.01, "Weight of the auxiliary balance loss.", minimum=0)
    router_bias_rate: float = setting(0.001, "Step of the router bias for router_balance 'bias'.", minimum=0)
    router_z_coef: float = setting(0.001, "Weight of the router's z-loss, which keeps its logits small.", minimum=0)
    multi_token_loss_weight: float = setting(0.3, "Weight of the loss of the tokens after the next.", minimum=0)
    use_mixed_precision: bool = setting(
        True,
        "Compute in bfloat16 where that is fast, in float16 with gradient scaling on GPUs that need it.",
        flag="mixed-precision",
    )
    precision: str = setting(
        "auto",
        "Number format of the matrix products: auto goes by --mixed-precision and the device.",
        choices=("auto", "bfloat16", "float16", "float32"),
    )
    activation_checkpointing: str = setting(
        "auto",
        "Compute blocks again in the backward pass instead of keeping their activations; auto: if memory is short.",
        choices=("auto", "on", "off"),
    )
    compile_model: bool = setting(False, "Compile the element-wise parts of the model with torch.compile.")
    use_ddp: bool = setting(False, "Train in several processes (start with torchrun); as parallelism 'ddp'.")
    parallelism: str = setting(
        "none",
        "Several processes (start with torchrun): ddp, each holds the whole model; fsdp, each a slice of every tensor.",
        choices=("none", "ddp", "fsdp"),
    )
    process_timeout: float = setting(
        600.0, "Several processes: seconds without an answer after which the others end with an error.", above=0
    )
    device: str = setting("auto", f"{DEVICE_NAMES}.")
    seed: int = setting(1337, "Seed of initialisation, data order and everything random.", minimum=0, maximum=2**63 - 1)
    checkpoint_dir: str = setting("checkpoints", "Where models, training state, metrics and pictures go.")
    init_from: str | None = setting(
        None, "Start from the weights of a model: a .pt or .gguf file, or a transformers or OpenAI directory."
    )
    resume: str = setting("auto", "auto: go on with the run in checkpoint_dir; never: start anew; or a state's path.")
    eval_interval: int = setting(500, "Steps between evaluations on held-out stories.", minimum=1)
    eval_iters: int = setting(20, "Batches in one evaluation on each process, at the most.", minimum=1)
    save_interval: int = setting(500, "Steps between saves of the training state.", minimum=1)
    keep_states: int = setting(2, "Newest training states to keep.", minimum=1)
    log_interval: int = setting(10, "Steps between lines of the metrics file.", minimum=1)
    use_wandb: bool = setting(False, "Send metrics to Weights & Biases (needs the extra 'tracking').")
    wandb_project: str = setting("gpt-oss-stories", "Weights & Biases project.")
    use_tensorboard: bool = setting(False, "Write TensorBoard events to checkpoint_dir/tensorboard (extra 'tracking').")
    run_name: str | None = setting(None, "Name of the run, in `stories runs` and Weights & Biases.")

    def _relation_problems(self) -> list[str]:
        problems = [] if is_device_name(self.device) else [f"device={self.device!r} is not {DEVICE_NAMES}"]
        if self.use_ddp and self.parallelism == "fsdp":
            problems.append("use_ddp and parallelism='fsdp' are two ways to share a model: choose one")
        if not self.use_mixed_precision and self.precision in ("bfloat16", "float16"):
            problems.append(f"use_mixed_precision is off, but precision={self.precision!r} asks for it: choose one")
        return problems

    @property
    def sharing(self) -> str:
        """How processes share the model: none, ddp or fsdp."""
        return "ddp" if self.use_ddp else self.parallelism


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which stories a model is trained on, and how they become tokens."""

    dataset_path: str | None = setting(
        None,
        "Stories: a file (.txt, .jsonl, .json, .csv, .parquet, also .gz and .zst), a folder, a pattern, or a data set "
        "of the Hugging Face Hub; several with commas, each with options: a.jsonl?weight=2,owner/name?split=train. "
        "The built-in stories when not given.",
    )
    data_dir: str = setting("data", "Where prepared token shards are kept.")
    process_data: bool = setting(
        False, "Prepare the shards again even if they are there; goes on with an interrupted preparation."
    )
    force_reprocess: bool = setting(False, "Prepare the shards again from the very start.")
    executor: str = setting(
        "local",
        "Where the tasks of a preparation run: processes of this machine, a Slurm cluster or Ray.",
        choices=("local", "slurm", "ray"),
    )
    executor_options: str | None = setting(
        None, "For the executor, with commas: partition=cpu,time=24:00:00,mem_per_cpu_gb=4 (Slurm), address=auto (Ray)."
    )
    max_workers: int | None = setting(
        None, "Tasks that run at a time; one for each core (or little data: one) when not given.", minimum=1
    )
    vocabulary: str = setting(
        "harmony",
        "harmony: all 201,088 tokens; story: the tokens that the stories use, renumbered.",
        choices=("harmony", "story"),
    )
    min_token_count: int | None = setting(
        None,
        "Story vocabulary: keep tokens seen at least this often; when not given 1, or 25 for the built-in stories.",
        minimum=1,
    )
    storybook_stories: int = setting(
        30_000, "Stories that the built-in generator writes.", minimum=0, maximum=10_000_000
    )
    first_readers: int = setting(
        20_000,
        "Very short stories of the generator, which name the hero in nearly every sentence.",
        minimum=0,
        maximum=10_000_000,
    )
    storybook_seed: int = setting(0, "Seed of the built-in generator.", minimum=0, maximum=2**63 - 1)
    original_repeats: int = setting(
        1, "How many times the written stories of the package appear among them; 0 leaves them out.", minimum=0
    )
    request_fraction: float = setting(
        0.25, "Share of stories with a known request that are told as a conversation.", minimum=0, maximum=1
    )
    validation_fraction: float = setting(0.02, "Share of the stories held out for evaluation.", above=0, maximum=0.5)
    repair_text: bool = setting(True, "Mend broken encodings such as \u00e2\u20ac\u2122 for an apostrophe.")
    language: str = setting(
        "en", "Leave out stories in other languages than this (ISO 639-1 code); any keeps all of them."
    )
    min_story_words: int = setting(5, "Leave out stories with fewer words.", minimum=0)
    max_story_characters: int = setting(1_000_000, "Leave out longer stories.", minimum=1)
    require_ending: bool = setting(True, "Leave out stories that stop in the middle of a sentence.")
    drop_repetitive: bool = setting(True, "Leave out texts that say the same again and again.")
    child_safety: str = setting(
        "usual",
        "Leave out what is not for children: as usual, as for the youngest, with the freedom of old tales, or off.",
        choices=("usual", "young", "old-tales", "off"),
    )
    drop_near_copies: bool = setting(True, "Of stories that are nearly the same keep only the first.")
    decontaminate: str | None = setting(
        None, "Stories to keep apart for evaluation: training stories that share a passage of 13 words are left out."
    )
    data_seed: int = setting(0, "Seed of what is random in preparation (requests, dropped fields).", minimum=0)

    @property
    def token_count_floor(self) -> int:
        """How often a token must be seen to be in a story vocabulary: `min_token_count`, or 1, or 25 for the built-in
        stories, in which words that few of the written stories use would double the vocabulary."""
        if self.min_token_count is not None:
            return self.min_token_count
        return 25 if self.dataset_path is None else 1


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(Config):
    """How a story is told."""

    max_tokens: int = setting(256, "Most tokens to add to the prompt.", minimum=1)
    temperature: float = setting(
        0.8, "Below 1 is safer, above 1 is bolder; 0 always takes the likeliest token.", minimum=0
    )
    top_k: int = setting(0, "Choose among the k likeliest tokens only; 0 is no limit.", minimum=0)
    top_p: float = setting(
        1.0, "Choose among the likeliest tokens that together have this probability; 1 is no limit.", above=0, maximum=1
    )
    repetition_penalty: float = setting(
        1.0, "Above 1 makes tokens that already appeared less likely (CTRL, arXiv 1909.05858).", above=0
    )
    num_samples: int = setting(1, "Stories to tell.", minimum=1)
    seed: int | None = setting(
        None, "The same seed tells the same stories; a new one each time when not given.", minimum=0
    )


MODEL_SIZES: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
    {
        "nano": {
            "n_layer": 4, "n_head": 4, "n_kv_head": 2, "n_embd": 128, "head_dim": 32, "block_size": 512,
            "num_experts": 4, "sliding_window": 64, "tie_embeddings": True,
        },
        "tiny": {"n_layer": 6, "n_head": 8, "n_embd": 512, "block_size": 2048, "num_experts": 4},
        "small": {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 4096, "num_experts": 8},
        "medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024, "block_size": 8192, "num_experts": 16},
        "large": {"n_layer": 36, "n_head": 20, "n_embd": 1280, "block_size": 8192, "num_experts": 32},
    }
)  # fmt: skip
"""The fields of `ModelConfig` that make up each size. `nano` is for two-core machines and tests; with tied tables it
learns to copy names several times sooner (docs/story-model.md)."""

TRAINING_PRESETS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
    {
        "story": {
            "max_iters": 3000, "batch_size": 4, "optimizer": "muon", "learning_rate": 3e-3,
            "embedding_learning_rate": 1e-2,
            "learning_rate_schedule": "warmdown", "min_learning_rate_ratio": 0.0,
            "eval_interval": 500, "save_interval": 500,
        },
        "debug": {"max_iters": 1_000, "batch_size": 4},
        "fast": {"max_iters": 10_000, "batch_size": 8},
        "standard": {"max_iters": 50_000, "batch_size": 16},
        "production": {"max_iters": 100_000, "batch_size": 32},
    }
)  # fmt: skip
"""The fields of `TrainingConfig` that make up each preset. `story` is the quick start on a two-core machine."""

DEFAULT_VOCABULARY: Mapping[str, str] = types.MappingProxyType({"nano": "story"})
"""Vocabulary of a size when none is asked for; `harmony` for sizes that are not listed."""


def _preset(presets: Mapping[str, Mapping[str, Any]], kind: str, name: str) -> dict[str, Any]:
    if name not in presets:
        raise ConfigError(f"{kind}={name!r} is not one of {', '.join(presets)}")
    return dict(presets[name])


def model_config(size: str, **overrides: Any) -> ModelConfig:
    """The configuration of a model size, with some fields set by hand.

    Raises:
        ConfigError: the size or a field is unknown, or the result cannot work.
    """
    return ModelConfig.from_dict({**_preset(MODEL_SIZES, "model size", size), **overrides})


def training_config(preset: str, **overrides: Any) -> TrainingConfig:
    """The configuration of a training preset, with some fields set by hand; see `model_config`."""
    return TrainingConfig.from_dict({**_preset(TRAINING_PRESETS, "training preset", preset), **overrides})


def data_config(size: str, **overrides: Any) -> DataConfig:
    """The data configuration that goes with a model size, with some fields set by hand; see `model_config`."""
    return DataConfig.from_dict({"vocabulary": DEFAULT_VOCABULARY.get(size, "harmony"), **overrides})


def check_run(model: ModelConfig, training: TrainingConfig) -> None:
    """Refuse a model and a training that are sound each by itself but cannot be combined.

    Raises:
        ConfigError: which settings do not go together.
    """
    if training.train_length is not None and training.train_length > model.block_size:
        raise ConfigError(
            f"train_length={training.train_length} is longer than the model's block_size={model.block_size}: "
            "lower the first or raise the second"
        )


def flag_name(field: dataclasses.Field[Any]) -> str:
    """The flag of a configuration field, without dashes in front: `n_embd` is `n-embd`."""
    return str(field.metadata["flag"] or field.name).replace("_", "-")


def without_effect(model: ModelConfig, training: TrainingConfig, data: DataConfig, given: Collection[str]) -> list[str]:
    """What to tell somebody who asked for something that does nothing in this run.

    Args:
        model, training, data: the run's configurations.
        given: names of the fields that were asked for, of all three. Others are never mentioned, since presets and
            defaults also fill fields that matter only beside another value of a second one.

    Returns:
        One sentence for each reason, naming the flags.
    """
    flags = {
        field.name: f"--{flag_name(field)}" for part in (model, training, data) for field in dataclasses.fields(part)
    }
    sentences = []
    for reason, names in _idle_fields(model, training, data):
        if idle := [flags[name] for name in names if name in given]:
            sentences.append(f"{', '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect {reason}")
    return sentences


def _idle_fields(
    model: ModelConfig, training: TrainingConfig, data: DataConfig
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Reasons why fields do nothing, and these fields."""
    if model.num_experts == 1:
        fields = "router_balance", "router_balance_coef", "router_bias_rate", "router_z_coef"
        yield "with --num-experts 1, a dense model without a router", fields
    else:
        reason = f"with --router-balance {training.router_balance}"
        if training.router_balance != "loss":
            yield reason, ("router_balance_coef",)
        if training.router_balance != "bias":
            yield reason, ("router_bias_rate",)
    if model.multi_token_predict == 1:
        yield "with --multi-token-predict 1", ("multi_token_loss_weight",)
    if not model.use_swiglu:
        yield "with --no-use-swiglu", ("swiglu_alpha", "swiglu_limit")
    if model.rope_scaling_factor == 1:
        yield "with --rope-scaling-factor 1", ("rope_original_context", "rope_beta_slow", "rope_beta_fast")
    if training.optimizer != "muon":
        yield f"with --optimizer {training.optimizer}", ("matrix_learning_rate",)
    if training.learning_rate_schedule != "warmdown":
        yield f"with --learning-rate-schedule {training.learning_rate_schedule}", ("warmdown_fraction",)
    if training.learning_rate_schedule == "constant":
        yield "with --learning-rate-schedule constant", ("min_learning_rate_ratio",)
    if training.precision != "auto":
        yield f"with --precision {training.precision}", ("use_mixed_precision",)
    if not training.use_wandb:
        yield "without --use-wandb", ("wandb_project",)
    if data.vocabulary == "harmony":
        yield "with --vocabulary harmony", ("min_token_count",)
    if data.dataset_path is not None:
        fields = "storybook_stories", "first_readers", "storybook_seed", "original_repeats"
        yield "with --dataset-path, in place of the built-in stories", fields
