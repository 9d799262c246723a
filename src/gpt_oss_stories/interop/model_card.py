"""The card of a published model: a README.md with metadata for the Hub, made from what the model file records.

A model file may come from anybody, so nothing that it says about itself reaches the card as Markdown, HTML or YAML:
values stand in code spans, stories in code blocks, metadata in quoted strings, all of them freed of control characters
and cut to a length. Numbers are shown only if they are numbers; what is not recorded is "not known", never 0.

The metadata are written as YAML whose texts and lists are JSON, which every YAML reader understands: it is the same
with and without `huggingface_hub`, and nothing depends on how a library quotes. Their keys are those of the Hub's
model cards (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from ..config import (
    HARMONY_VOCABULARY_SIZE,
    MODEL_SIZES,
    TRAINING_PRESETS,
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    TrainingConfig,
    data_config,
    flag_name,
    model_config,
    training_config,
)
from ..errors import StoryError
from ..tokenization import Vocabulary

CARD_NAME = "README.md"
NOT_KNOWN = "not known"

MAX_NAME_CHARACTERS = 96
MAX_VALUE_CHARACTERS = 120
MAX_SAMPLE_CHARACTERS = 4_000
MAX_NOTES, MAX_NOTE_CHARACTERS = 20, 400
MAX_NUMBER = 2**63 - 1
"""Counts and figures above this are taken for damage; Python would not even print a number of 5,000 digits."""

SMALL_MODEL = 10**10
"""Parameters; all our sizes are below."""

_LINE_WIDTH = 100
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})?")
_JOINERS = "\u200c\u200d"
"""Invisible, but part of how some scripts and pictures are spelled."""

_PRIVATE_SETTINGS = {"checkpoint_dir", "data_dir", "resume", "run_name", "wandb_project"}
"""Settings of a run that tell about its owner's machine or accounts and not about the model."""

_UNIMPORTANT_SETTINGS = _PRIVATE_SETTINGS | {
    "compile_model", "device", "init_from", "keep_states", "log_interval", "process_data", "save_interval", "use_ddp",
    "use_tensorboard", "use_wandb",
}  # fmt: skip
"""Settings that do not change what a model learns, and the one of `training_command` itself."""

_Config = TypeVar("_Config", bound=Config)


class ModelCardError(StoryError):
    """What was given for a card's metadata is not what the Hub understands."""


def model_card(
    config: ModelConfig,
    vocabulary: Vocabulary | None,
    provenance: Mapping[str, Any],
    *,
    name: str,
    formats: Sequence[str],
    sample: str | None = None,
    license: str = "apache-2.0",
    notes: Sequence[str] = (),
    language: str | None = None,
) -> str:
    """The text of a README.md for a folder with a model.

    Args:
        config: the model's architecture.
        vocabulary: its tokens; None where they are somebody else's.
        provenance: what the model file says of its training; nothing in it is trusted.
        name: what the model is called, best the Hub repository that it is for, `owner/name`.
        formats: what lies in the folder: any of "huggingface", "openai", "gguf" (`gguf_file_name(name)`) and
            "original" (`best_model.pt`).
        sample: a story that the model told.
        license: identifier of the weights' licence as the Hub knows it, such as apache-2.0, mit or cc0-1.0.
        notes: remarks of the export, one sentence each, such as what a format could not hold.
        language: code of the stories' language; when not given "en" for a model of the built-in stories, else left out.

    Raises:
        ModelCardError: the licence or the language is no identifier.
    """
    if not _LICENSE.fullmatch(license):
        raise ModelCardError(f"license={license!r} is not an identifier such as apache-2.0, mit, cc0-1.0 or other")
    if language is not None and not _LANGUAGE.fullmatch(language):
        raise ModelCardError(f"language={language!r} is not a language code such as en, de or pt-BR")
    data = _mapping(provenance.get("data_config"))
    if language is None and _is_built_in(data):
        language = "en"
    sections = [
        _metadata(provenance, name=name, formats=formats, license=license, language=language),
        f"# {_heading(name)}",
        _what_it_is(config, provenance),
        _sample(sample),
        _architecture(config, vocabulary),
        _how_to_use(config, name, formats, asked_for_stories=bool(_measured(data.get("request_fraction")))),
        _training_data(provenance, data),
        _figures(provenance),
        _limits(config, language),
        _how_it_was_made(config, provenance, license),
        _remarks(notes),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def gguf_file_name(name: str) -> str:
    """Name of the GGUF file beside a card: the last part of the model's name, in letters that need no quotes."""
    return f"{_plain_name(name).rpartition('/')[2]}.gguf"


def public_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a model file records, without what is nobody else's business: of paths only the last part stays, and names
    of accounts and runs get their defaults. The settings still build the configurations that they are."""
    defaults = TrainingConfig().to_dict() | DataConfig().to_dict()

    def cleaned(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(inner): cleaned(str(inner), item) for inner, item in value.items()}
        if isinstance(value, list | tuple):
            return [cleaned(key, item) for item in value]
        if key in _PRIVATE_SETTINGS:
            return defaults[key]
        if isinstance(value, str) and (key.endswith(("_path", "_dir", "_from")) or _is_absolute(value)):
            return _last_part(value)
        return value

    return {str(key): cleaned(str(key), value) for key, value in provenance.items()}


# Making values harmless


def _cleaned(value: str, limit: int) -> str:
    """The text without control, direction and unassigned characters, cut to `limit` characters. Line breaks stay."""
    begin = value[: 4 * limit]  # the rest of a huge text is not even looked at
    kept = "".join(
        character
        for character in begin.replace("\u2028", "\n").replace("\u2029", "\n").replace("\t", " ")
        if character == "\n" or character in _JOINERS or unicodedata.category(character) not in _UNWANTED
    )
    return kept if len(kept) <= limit and len(value) <= 4 * limit else kept[: limit - 1] + "…"


_UNWANTED = {"Cc", "Cf", "Cn", "Co", "Cs"}
"""Control and format characters, those that are none, for private use, and halves of pairs."""


def _line(value: Any, limit: int = MAX_VALUE_CHARACTERS) -> str:
    """A text on one line; empty if it is none."""
    return " ".join(_cleaned(value, limit).split()) if isinstance(value, str) else ""


def _code(value: Any) -> str:
    """A text as a code span, in which Markdown and HTML mean nothing; "not known" if there is none."""
    text = _line(value).replace("`", "'").replace("|", "¦")  # a bar would end a table's cell even in a code span
    return f"`{text}`" if text else NOT_KNOWN


def _block(lines: Iterable[str], language: str = "text") -> str:
    """A code block, with a fence that is in none of its lines."""
    body = "\n".join(lines)
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def _wrapped(text: str) -> list[str]:
    """The text's lines, broken between words where they are long."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines += textwrap.wrap(paragraph, _LINE_WIDTH, break_on_hyphens=False) or [""]
    return lines


def _plain_name(name: str) -> str:
    """The name with nothing in it but letters, digits and `._-/`."""
    plain = re.sub(r"[^A-Za-z0-9._/-]+", "-", _line(name, MAX_NAME_CHARACTERS)).strip("-./")
    return plain or "story-model"


def _heading(name: str) -> str:
    plain = "".join(character if character.isalnum() or character in " ._/-" else "-" for character in
                    _line(name, MAX_NAME_CHARACTERS))  # fmt: skip
    return plain.strip(" -").replace("_", "\\_") or "Story model"


def _count(value: Any) -> str:
    """A whole number for reading."""
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER
    return f"{value:,}" if known else NOT_KNOWN


def _measured(value: Any) -> float | None:
    """A measured figure, None if it is not a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= MAX_NUMBER and math.isfinite(value) else None


def _figure(value: Any, unit: str) -> str:
    measured = _measured(value)
    if measured is None:
        return NOT_KNOWN
    return f"{measured:.4f} {unit}" if measured >= 0.01 else f"{measured:.4g} {unit}"


def _duration(value: Any) -> str:
    measured = _measured(value)
    if measured is None:
        return NOT_KNOWN
    if measured < 120:
        return f"{measured:.1f} s"
    minutes, seconds = divmod(round(measured), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_absolute(path: str) -> bool:
    return path.startswith(("/", "~", "\\\\")) or PureWindowsPath(path).is_absolute()


def _last_part(path: str) -> str:
    """A path's own name, without the folders above it."""
    path = path[-4096:]
    windows = "\\" in path and "/" not in path
    return (PureWindowsPath(path) if windows else PurePosixPath(path)).name


def _is_built_in(data: Mapping[str, Any]) -> bool:
    """Whether the stories were those of the package, as far as is recorded."""
    return "dataset_path" in data and data["dataset_path"] is None


def _table(rows: Iterable[tuple[str, str]], heading: tuple[str, str] = ("", "")) -> str:
    lines = [f"| {heading[0]} | {heading[1]} |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)]
    return "\n".join(lines)


# The sections


def _metadata(
    provenance: Mapping[str, Any], *, name: str, formats: Sequence[str], license: str, language: str | None
) -> str:
    """The YAML block that the Hub reads."""
    tags = ["gpt-oss", "mixture-of-experts", "children", "stories", "text-generation"]
    if "gguf" in formats:
        tags.append("gguf")
    lines = ["---"]
    if "huggingface" in formats:
        lines.append("library_name: transformers")
    lines.append("pipeline_tag: text-generation")
    if language is not None:
        lines += ["language:", f"- {_quoted(language)}"]
    lines += [f"license: {_quoted(license)}", "tags:", *(f"- {tag}" for tag in tags)]
    measured = [
        (kind, label, figure)
        for kind, label, key in (
            ("loss", "Validation loss (nats per token)", "validation_loss_nats"),
            ("bits_per_byte", "Validation bits per byte", "validation_bits_per_byte"),
        )
        if (figure := _measured(provenance.get(key))) is not None
    ]
    if measured:
        lines += [
            "model-index:",
            f"- name: {_quoted(_line(name, MAX_NAME_CHARACTERS) or 'story-model')}",
            "  results:",
            "  - task:",
            "      type: text-generation",
            "      name: Text generation",
            "    dataset:",
            "      type: held-out-stories",
            "      name: Held-out stories of the training data",
            "    metrics:",
        ]
        for kind, label, figure in measured:
            lines += [f"    - type: {kind}", f"      name: {label}", f"      value: {_yaml_number(figure)}"]
    return "\n".join([*lines, "---"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _yaml_number(value: float) -> str:
    """The shortest text that gives this very number back; YAML 1.1 takes 1e-05 for a word, but not 1.0e-05."""
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _what_it_is(config: ModelConfig, provenance: Mapping[str, Any]) -> str:
    kind = f"{config.num_experts} experts in each layer" if config.num_experts > 1 else "one expert, a dense model"
    size = config.parameters()
    training = _mapping(provenance.get("training_config"))
    purpose = "A language model that tells children's stories." if training else "A language model."
    text = (
        f"{purpose} It has the architecture of OpenAI's gpt-oss ({config.n_layer:,} layers, {kind}), with "
        f"{_millions(size.total)} parameters of which {_millions(size.active)} take part in predicting a token. These "
        "files were written by the program `gpt-oss-stories`."
    )
    if "init_from" in training:
        start = training["init_from"]
        text += (
            f" Its training began with the weights of {_code(_last_part(start) if isinstance(start, str) else start)}."
            if start is not None
            else " It was trained from scratch: it has no weights of OpenAI's."
        )
    elif source := _mapping(provenance.get("imported_from")):
        path = source.get("path")
        text += (
            f" Its weights were imported from {_code(_last_part(path) if isinstance(path, str) else None)} (format "
            f"{_code(source.get('format'))})."
        )
    return text


def _millions(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.1f} million"


def _sample(sample: str | None) -> str:
    text = _cleaned(sample, MAX_SAMPLE_CHARACTERS).strip() if sample else ""
    if not text:
        return ""
    return "A story that it told, neither chosen among several nor corrected:\n\n" + _block(_wrapped(text))


def _architecture(config: ModelConfig, vocabulary: Vocabulary | None) -> str:
    size = config.parameters()
    window = f"{config.sliding_window:,} tokens in every other layer, the first one included"
    yarn = f", YaRN factor {config.rope_scaling_factor:g} over {config.rope_original_context:,} tokens"
    tokens = f"{config.vocab_size:,} tokens"
    if vocabulary is not None:
        tokens += f" ({_line(vocabulary.kind)} vocabulary, fingerprint `{_line(vocabulary.fingerprint)[:12]}`)"
    rows = [
        ("layers", f"{config.n_layer:,}"),
        ("width", f"{config.n_embd:,}"),
        (
            "attention",
            f"{config.n_head:,} query heads, {config.kv_heads:,} key-value heads, {config.head_dim:,} wide"
            + (", with learned sinks" if config.use_attention_sinks else ", without sinks"),
        ),
        ("sliding window", window if config.sliding_window else "none: every layer sees everything"),
        (
            "experts",
            f"{config.num_experts:,} in each layer, {config.active_experts:,} for each token, "
            f"{config.expert_width:,} wide, {'clamped SwiGLU' if config.use_swiglu else 'GELU'}",
        ),
        ("normalisation", "RMSNorm" if config.use_rmsnorm else "LayerNorm"),
        ("context", f"{config.block_size:,} tokens"),
        ("positions", f"rotary, base {config.rope_theta:g}" + (yarn if config.rope_scaling_factor > 1 else "")),
        ("vocabulary", tokens),
        ("embedding and unembedding", "one table" if config.tie_embeddings else "two tables"),
    ]
    parameters = [
        ("parameters in total", f"{size.total:,}"),
        ("active per token", f"{size.active:,}"),
        ("embedding", f"{size.embedding:,}"),
        ("non-embedding", f"{size.non_embedding:,}"),
    ]
    text = "## Architecture\n\n" + _table([*parameters, *rows])
    if config.multi_token_predict > 1:
        modules = size.total - config.replace(multi_token_predict=1).parameters().total
        text += (
            f"\n\n{modules:,} of the parameters belong to the modules that predicted up to "
            f"{config.multi_token_predict} tokens ahead in training. Other projects' formats cannot hold them, and "
            "nothing else depends on them."
        )
    return text


def _how_to_use(config: ModelConfig, name: str, formats: Sequence[str], asked_for_stories: bool) -> str:
    plain = _plain_name(name)
    where = f"MODEL = {_quoted(plain)}  # this repository on the Hub, or the folder that this file is in"
    parts = ["## How to use it"]
    if "huggingface" in formats:
        parts += [
            "With `transformers`, no code of ours needed:",
            _block(
                [
                    "from transformers import AutoModelForCausalLM, AutoTokenizer",
                    "",
                    where,
                    "tokenizer = AutoTokenizer.from_pretrained(MODEL)",
                    "model = AutoModelForCausalLM.from_pretrained(MODEL)",
                    'beginning = tokenizer("Once upon a time", return_tensors="pt")',
                    "story = model.generate(**beginning, max_new_tokens=300)",
                    "print(tokenizer.decode(story[0], skip_special_tokens=True))",
                ],
                "python",
            ),
        ]
        if asked_for_stories:
            parts += [
                "A part of its stories was told on request. After the lines above, this asks for one:",
                _block(
                    [
                        'wishes = {"hero_name": "Ida", "hero_kind": "duck", "age": 5, "setting": "a windy harbour"}',
                        'messages = [{"role": "user", "content": wishes}]',
                        "request = tokenizer.apply_chat_template(",
                        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
                        ")",
                        "story = model.generate(**request, max_new_tokens=300)",
                        'print(tokenizer.decode(story[0, request["input_ids"].shape[1] :], skip_special_tokens=True))',
                    ],
                    "python",
                ),
            ]
    if formats:
        file = "best_model.pt" if "original" in formats else gguf_file_name(name) if formats == ["gguf"] else "."
        parts += [
            "With the program that wrote it (`gpt-oss-stories`), in the folder that this file is in:",
            _block([f'stories generate --model-path {file} --prompt "Once upon a time" --num-samples 3'], "sh"),
        ]
    if "gguf" in formats:
        parts += [
            "With `llama.cpp`, here through the package `llama-cpp-python`:",
            _block(
                [
                    "from llama_cpp import Llama",
                    "",
                    f'llama = Llama("{gguf_file_name(name)}", n_ctx={min(config.block_size, 8192)})',
                    'story = llama("Once upon a time", max_tokens=300, temperature=0.8, top_k=0, top_p=1.0, min_p=0.0)',
                    'print("Once upon a time" + story["choices"][0]["text"])',
                ],
                "python",
            ),
        ]
    return "\n\n".join(parts)


def _training_data(provenance: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    rows = [
        ("stories trained on", _count(provenance.get("train_stories"))),
        ("tokens in them", _count(provenance.get("train_tokens"))),
        ("stories held out", _count(provenance.get("validation_stories"))),
        ("share held out", _number(data.get("validation_fraction"))),
        ("share told as a conversation, where there is a request", _number(data.get("request_fraction"))),
        ("seed of the preparation", _count(data.get("data_seed"))),
        ("fingerprint of the data", _code(provenance.get("data_fingerprint"))),
    ]
    if _is_built_in(data):
        text = (
            "The built-in stories of `gpt-oss-stories`, in English: stories that a generator wrote, and original "
            "stories that come with the program. The original stories are dedicated to the public domain (CC0 1.0); "
            "the generator is part of the program (Apache License 2.0)."
        )
        rows = [
            ("stories of the generator", _count(data.get("storybook_stories"))),
            ("very short stories of the generator", _count(data.get("first_readers"))),
            ("seed of the generator", _count(data.get("storybook_seed"))),
            ("times that each original story appears", _count(data.get("original_repeats"))),
            *rows,
        ]
    elif isinstance(data.get("dataset_path"), str):
        text = (
            f"Stories of the publisher's own (file or folder: {_code(_last_part(data['dataset_path']))}). "
            "Their licence is not recorded in the model: ask whoever published it."
        )
    else:
        text = "On which stories it was trained is not known."
    return f"## What it was trained on\n\n{text}\n\n{_table(rows)}"


def _number(value: Any) -> str:
    measured = _measured(value)
    return NOT_KNOWN if measured is None else f"{measured:g}"


def _figures(provenance: Mapping[str, Any]) -> str:
    rows = [
        ("optimizer steps", _count(provenance.get("step"))),
        ("tokens seen", _count(provenance.get("tokens_seen"))),
        ("validation loss", _figure(provenance.get("validation_loss_nats"), "nats per token")),
        ("validation bits per byte", _figure(provenance.get("validation_bits_per_byte"), "bits")),
        ("training loss", _figure(provenance.get("train_loss_nats"), "nats per token")),
        ("training time", _duration(provenance.get("training_seconds"))),
        ("device", _code(provenance.get("device"))),
        ("precision", _code(provenance.get("precision"))),
        ("saved at", _code(provenance.get("saved_at"))),
        ("program", f"`gpt-oss-stories` {_code(provenance.get('program_version'))}"),
        ("commit", _code(provenance.get("git_commit"))),
        ("PyTorch", _code(provenance.get("torch_version"))),
        ("Python", _code(provenance.get("python_version"))),
    ]
    return (
        "## Figures\n\nAs the model file records them; nobody has checked them for this card. The validation figures "
        "are those of held-out stories from the same source. Losses can be compared between models with the same "
        "vocabulary only, bits per byte also between others.\n\n" + _table(rows)
    )


def _limits(config: ModelConfig, language: str | None) -> str:
    spoken = (
        "It knows English only."
        if language == "en"
        else "Which languages it knows depends on its stories."
        if language is None
        else f"It knows the language of its stories only (`{language}`)."
    )
    size = "It is a small model. " if config.parameters().total < SMALL_MODEL else ""
    return f"""## Limits

- {size}It tells short, simple stories, loses the thread now and then, and repeats itself.
- It does not know the world: what it says is made up, and it cannot be asked for facts or advice.
- Nothing checks what its stories say. They can turn out sad, frightening or unsuitable, and repeat whatever was in the
  stories that it learned from. An adult should read a story before a child does.
- {spoken}
- It was not trained to refuse anything, and is not an assistant."""


def _how_it_was_made(config: ModelConfig, provenance: Mapping[str, Any], license: str) -> str:
    command = training_command(config, provenance)
    if command is None:
        text = "The settings of its training are not known, so no command can be given that repeats it."
    else:
        version = _code(provenance.get("program_version"))
        text = (
            f"These are its settings as a command of `gpt-oss-stories`, version {version}:\n\n{_block(command, 'sh')}"
            "\n\nThe same settings on the same stories give a model that is as good. It has the same weights only on "
            "the same kind of machine with the same versions, and only if no time limit ended the training."
        )
    return f"## How it was made\n\n{text}\n\nThe weights are published under the licence `{license}`."


def _remarks(notes: Sequence[str]) -> str:
    lines: list[str] = []
    for note in notes[:MAX_NOTES]:
        if text := _line(note, MAX_NOTE_CHARACTERS):
            lines += textwrap.wrap(f"- {text}", _LINE_WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    if len(notes) > MAX_NOTES:
        lines.append(f"- and {len(notes) - MAX_NOTES:,} more")
    return f"## Remarks of the export\n\n{_block(lines)}" if lines else ""


# The command that repeats a training


def training_command(config: ModelConfig, provenance: Mapping[str, Any]) -> list[str] | None:
    """Lines of the command that trains with the recorded settings; None if they are not recorded or not sound.

    Settings that only concern the owner's machine are left out, and of the stories' path only its last part is told.
    """
    training = _recorded(TrainingConfig, provenance.get("training_config"))
    data = _recorded(DataConfig, provenance.get("data_config"))
    if training is None or data is None:
        return None
    # The vocabulary's size is found out by training and has no flag.
    sizes = {size: model_config(size, vocab_size=config.vocab_size) for size in MODEL_SIZES}
    if data.vocabulary == "story" and config.vocab_size == HARMONY_VOCABULARY_SIZE:
        # The vocabulary was expanded after the training, which unties the tables; how they were is not recorded.
        sizes = {size: base.replace(tie_embeddings=config.tie_embeddings) for size, base in sizes.items()}
    nearest_size = _nearest(config, sizes)
    nearest_preset = _nearest(training, {preset: training_config(preset) for preset in TRAINING_PRESETS})
    if nearest_size is None or nearest_preset is None:
        return None
    (size, model_flags), (preset, training_flags) = nearest_size, nearest_preset
    data_flags = _difference(data, data_config(size))
    if data_flags is None:
        return None
    if data.vocabulary == data_config(size).vocabulary:
        data_flags.insert(0, f"--vocabulary {data.vocabulary}")  # worth saying even where it is the default
    start = f"--model-size {size}"
    if training.init_from is not None:
        # The size is that of the given model, which is also why no flag of the model is repeated.
        start, model_flags = f"--init-from {_shell_word(training.init_from)}", []
    words = [f"stories train {start} --training-preset {preset}", *data_flags, *training_flags]
    return _continued([*words, *model_flags])


def _recorded(kind: type[_Config], values: Any) -> _Config | None:
    """The configuration that was recorded, None if this version of the program does not know or accept its settings."""
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        return None
    if any(isinstance(value, int) and abs(value) > MAX_NUMBER for value in values.values()):
        return None
    try:
        return kind.from_dict(values)
    except ConfigError:
        return None


def _nearest(config: Config, candidates: Mapping[str, Config]) -> tuple[str, list[str]] | None:
    """The candidate that differs least, and the flags that make up the difference; None where no flags do."""
    found = {name: flags for name, base in candidates.items() if (flags := _difference(config, base)) is not None}
    return min(found.items(), key=lambda item: len(item[1])) if found else None


def _difference(config: Config, base: Config) -> list[str] | None:
    """Flags that turn one configuration into another, as far as what is learned depends on them."""
    flags = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _UNIMPORTANT_SETTINGS or field.metadata["internal"] or value == getattr(base, field.name):
            continue
        if value is None:
            return None  # no flag says "not set" over a value that a size or preset sets
        flag = flag_name(field)
        if isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{flag}")
        else:
            flags.append(f"--{flag} {_shell_word(value)}")
    return flags


def _shell_word(value: str | int | float) -> str:
    """A value as one word of a command; of a path only the last part."""
    return shlex.quote(_line(_last_part(value)) if isinstance(value, str) else str(value))


def _continued(words: Sequence[str]) -> list[str]:
    """Words of a command in lines that a shell reads as one."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > _LINE_WIDTH:
            lines[-1] += " \\"
            lines.append("    " + word)
        else:
            lines[-1] += " " + word
    return lines
