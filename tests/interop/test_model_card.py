"""The model card: metadata that parse, figures as they are stored, and nothing that a model file could smuggle in."""

from __future__ import annotations

import copy
import io
import json
import math
import re
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import click
import huggingface_hub
import pytest
import yaml
from markdown_it import MarkdownIt
from rich.console import Console

from gpt_oss_stories import cli
from gpt_oss_stories.config import (
    HARMONY_VOCABULARY_SIZE,
    DataConfig,
    ModelConfig,
    TrainingConfig,
    data_config,
    model_config,
    training_config,
)
from gpt_oss_stories.interop.model_card import (
    ModelCardError,
    gguf_file_name,
    model_card,
    public_provenance,
    training_command,
)
from gpt_oss_stories.model import StoryTransformer
from gpt_oss_stories.model.model_file import load_model_file
from gpt_oss_stories.training import recorder, trainer
from support.small_models import small_config, small_vocabulary

CONFIG = model_config("nano", vocab_size=300)
PROVENANCE: dict[str, Any] = {
    "program_version": "0.1.0",
    "git_commit": "7cefadd2a65efdc48954cb803884dc064e19d175",
    "torch_version": "2.13.0+cpu",
    "python_version": "3.11.7",
    "saved_at": "2026-01-02T03:04:05+00:00",
    "device": "cpu",
    "precision": "bfloat16",
    "step": 1234,
    "tokens_seen": 2_023_424,
    "training_seconds": 235.157,
    "train_loss_nats": 0.7109414786,
    "validation_loss_nats": 0.6069572985130237,
    "validation_bits_per_byte": 0.22492752102006613,
    "data_fingerprint": "985ca6375b27a54bf18ace706feb9ba3650341a6bc8696fe734bc2aff2215544",
    "vocabulary_fingerprint": "e48fd1faa82b5fbcd548d39a3d3899b764ccfd3d76abf28f61f31548d884081b",
    "train_stories": 45_678,
    "train_tokens": 9_876_543,
    "validation_stories": 987,
    "training_config": training_config("story", max_seconds=235.0).to_dict(),
    "data_config": data_config("nano", first_readers=15_000).to_dict(),
}
HEADINGS = [
    "Architecture", "How to use it", "What it was trained on", "Figures", "Limits", "How it was made",
]  # fmt: skip


def card(provenance: Any = PROVENANCE, **options: Any) -> str:
    settings: dict[str, Any] = {"name": "someone/story-nano", "formats": ["huggingface", "gguf", "original"]}
    config, vocabulary = options.pop("config", CONFIG), options.pop("vocabulary", None)
    return model_card(config, vocabulary, provenance, **{**settings, **options})


def metadata(text: str) -> dict[str, Any]:
    start, block, _ = text.split("---\n", 2)
    assert start == ""
    values = yaml.safe_load(block)
    assert isinstance(values, dict)
    return values


def rows(text: str) -> dict[str, str]:
    """The cells of all tables, left to right."""
    cells = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    return {left.strip(): right.strip() for left, right in cells}


def structure(text: str) -> list[tuple[str, str]]:
    """What a Markdown reader makes of the card, without the words and without the contents of code."""
    body = text.split("---\n", 2)[2]
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(body):
        found.append((token.type, token.tag))
        found += [(child.type, child.tag) for child in token.children or [] if child.type != "text"]
    return found


def headings(text: str) -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])
    return [
        tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"
    ]  # fmt: skip


# Metadata


def test_the_metadata_are_what_the_hub_reads():
    values = metadata(card())
    assert values["library_name"] == "transformers"
    assert values["pipeline_tag"] == "text-generation"
    assert values["language"] == ["en"]
    assert values["license"] == "apache-2.0"
    assert {"gpt-oss", "stories", "gguf"} <= set(values["tags"])
    (model,) = values["model-index"]
    assert model["name"] == "someone/story-nano"
    (result,) = model["results"]
    assert result["task"]["type"] == "text-generation"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "loss": PROVENANCE["validation_loss_nats"],
        "bits_per_byte": PROVENANCE["validation_bits_per_byte"],
    }


def test_huggingface_hub_reads_the_card_as_its_own():
    data = huggingface_hub.ModelCard(card()).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "apache-2.0")
    assert data.model_name == "someone/story-nano"
    assert {result.metric_type: result.metric_value for result in data.eval_results} == {
        "loss": PROVENANCE["validation_loss_nats"],
        "bits_per_byte": PROVENANCE["validation_bits_per_byte"],
    }


@pytest.mark.parametrize("figure", [1e-05, 2.5e-300, 3, 0, 0.1 + 0.2, 1e16, 123456789.125])
def test_a_figure_comes_back_from_the_metadata_as_it_was(figure):
    values = metadata(card({**PROVENANCE, "validation_loss_nats": figure}))
    found = values["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert found == figure
    assert isinstance(found, int | float)


def test_only_what_is_known_is_in_the_metadata():
    values = metadata(card({}, formats=["openai"]))
    assert "model-index" not in values
    assert "language" not in values
    assert "library_name" not in values
    assert "gguf" not in values["tags"]
    only_loss = {**PROVENANCE, "validation_bits_per_byte": None}
    metrics = metadata(card(only_loss))["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics] == ["loss"]


def test_the_language_of_own_stories_is_only_given_by_their_owner():
    own = {**PROVENANCE, "data_config": DataConfig(dataset_path="geschichten.jsonl").to_dict()}
    assert "language" not in metadata(card(own))
    assert "Which languages it knows depends on its stories." in card(own)
    assert metadata(card(own, language="de"))["language"] == ["de"]
    assert "`de`" in card(own, language="de")


@pytest.mark.parametrize("license", ["", "Apache 2.0", "mit\nlicense", "mit: true", "x" * 100, "[mit](x)"])
def test_a_licence_that_is_no_identifier_is_refused(license):
    with pytest.raises(ModelCardError, match="is not an identifier"):
        card(license=license)


@pytest.mark.parametrize("language", ["", "English", "en\nde", "no", "no-NO"])
def test_languages(language):
    if language.startswith("no"):
        assert metadata(card(language=language))["language"] == [language]  # not the truth value that YAML 1.1 sees
    else:
        with pytest.raises(ModelCardError, match="is not a language code"):
            card(language=language)


# What it says


def test_figures_appear_as_they_are_stored():
    text, told = card(), rows(card())
    assert told["optimizer steps"] == "1,234"
    assert told["tokens seen"] == "2,023,424"
    assert told["validation loss"] == "0.6070 nats per token"
    assert told["validation bits per byte"] == "0.2249 bits"
    assert told["training loss"] == "0.7109 nats per token"
    assert told["training time"] == "3 min 55 s"
    assert told["device"] == "`cpu`"
    assert told["precision"] == "`bfloat16`"
    assert told["program"] == "`gpt-oss-stories` `0.1.0`"
    assert told["commit"] == f"`{PROVENANCE['git_commit']}`"
    assert told["fingerprint of the data"] == f"`{PROVENANCE['data_fingerprint']}`"
    assert told["stories trained on"] == "45,678"
    assert told["tokens in them"] == "9,876,543"
    assert told["stories of the generator"] == "30,000"
    assert told["very short stories of the generator"] == "15,000"
    assert "not known" not in text
    assert "CC0 1.0" in text
    assert headings(text)[1:] == HEADINGS


def test_everything_that_training_records_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorder, "plot_training_curves", lambda metrics, picture: picture)  # drawing is slow
    stories = [f"{name} lost a {thing} and found it." for name in ("Mia", "Tom", "Anna") for thing in ("ball", "kite")]
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    trainer.train(
        model_config("nano", n_layer=1, n_embd=16, head_dim=4, block_size=32),
        TrainingConfig(max_iters=1, batch_size=2, checkpoint_dir=str(tmp_path / "run"), device="cpu"),
        DataConfig(
            dataset_path=str(tmp_path / "stories.jsonl"), data_dir=str(tmp_path / "data"), vocabulary="story",
            validation_fraction=0.3,
        ),
        console=Console(file=io.StringIO()),
    )  # fmt: skip
    file = load_model_file(tmp_path / "run/best_model.pt")
    text = card(file.provenance, config=file.config, vocabulary=file.vocabulary)
    unknown = {name for name, value in rows(text).items() if value == "not known"}
    # Not yet recorded by training; the commit is that of a checkout, if there is one.
    assert unknown <= {"stories trained on", "tokens in them", "stories held out", "commit"}
    assert "stories train --model-size nano" in text


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.25, "0.2 s"), (119, "119.0 s"), (3599.6, "1 h 0 min"), (7260, "2 h 1 min"), (4_000_000, "1,111 h 6 min")],
)
def test_training_time_in_words(seconds, told):
    assert rows(card({**PROVENANCE, "training_seconds": seconds}))["training time"] == told


def test_what_is_not_recorded_is_not_known_and_never_0():
    told = rows(card({}))
    for name in (
        "stories trained on", "tokens in them", "stories held out", "fingerprint of the data", "optimizer steps",
        "tokens seen", "validation loss", "validation bits per byte", "training loss", "training time", "device",
        "precision", "saved at", "commit", "PyTorch", "Python",
    ):  # fmt: skip
        assert told[name] == "not known", name
    assert "0" not in [value.split()[0] for value in told.values()]
    text = card({})
    assert "On which stories it was trained is not known." in text
    assert "no command can be given" in text
    assert "children's stories" not in text.split("## ")[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True},
        {"num_experts": 1},
        {"use_swiglu": False, "use_rmsnorm": False, "use_attention_sinks": False, "sliding_window": 0},
        {"multi_token_predict": 3},
    ],
)
def test_the_four_parameter_numbers_are_those_of_the_model(changes):
    config = small_config(small_vocabulary(), **changes)
    model = StoryTransformer(config, seed=0)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    tables = sum(size for name, size in sizes.items() if name.startswith(("embedding", "unembedding")))
    idle = 1 - config.active_experts / config.num_experts
    spared = sum(size * idle for name, size in sizes.items() if _is_of_experts(name))
    later = sum(size for name, size in sizes.items() if name.startswith("multi_token"))
    looked_up = 0 if config.tie_embeddings else sizes["embedding.weight"]
    text = card(config=config, vocabulary=small_vocabulary())
    told = rows(text)
    assert told["parameters in total"] == f"{sum(sizes.values()):,}"
    assert told["embedding"] == f"{tables:,}"
    assert told["non-embedding"] == f"{sum(sizes.values()) - tables:,}"
    assert told["active per token"] == f"{round(sum(sizes.values()) - later - looked_up - spared):,}"
    assert (f"{later:,} of the parameters" in text) == bool(later)
    assert small_vocabulary().fingerprint[:12] in told["vocabulary"]


def _is_of_experts(name: str) -> bool:
    return not name.startswith("multi_token") and bool(re.search(r"experts\.(gate_up|up|down)_", name))


def test_the_architecture_says_what_is_switched_off():
    off = small_config(
        small_vocabulary(), use_swiglu=False, use_rmsnorm=False, use_attention_sinks=False, sliding_window=0,
        rope_scaling_factor=4.0, rope_original_context=64,
    )  # fmt: skip
    told = rows(card(config=off))
    assert "GELU" in told["experts"]
    assert told["normalisation"] == "LayerNorm"
    assert "without sinks" in told["attention"]
    assert told["sliding window"].startswith("none")
    assert "YaRN factor 4 over 64 tokens" in told["positions"]


def test_each_format_says_how_to_use_it():
    everything = card()
    assert "AutoModelForCausalLM.from_pretrained(MODEL)" in everything
    assert 'MODEL = "someone/story-nano"' in everything
    assert "stories generate --model-path best_model.pt" in everything
    assert 'Llama("story-nano.gguf", n_ctx=512)' in everything
    assert "apply_chat_template" in everything
    no_requests = {**PROVENANCE, "data_config": data_config("nano", request_fraction=0).to_dict()}
    assert "apply_chat_template" not in card(no_requests)
    ours = card(formats=["original"])
    assert "AutoModel" not in ours
    assert "gguf" not in ours
    assert "stories generate --model-path . " in card(formats=["openai"])
    assert "stories generate --model-path story-nano.gguf " in card(formats=["gguf"])


def test_own_stories_are_told_by_the_last_part_of_their_path():
    data = DataConfig(dataset_path="/home/somebody/secret/bedtime.jsonl", data_dir="/home/somebody/data")
    text = card({**PROVENANCE, "data_config": data.to_dict()})
    assert "(file or folder: `bedtime.jsonl`)" in text
    assert "--dataset-path bedtime.jsonl" in text
    assert "secret" not in text
    assert "somebody" not in text
    assert "CC0" not in text
    assert "Their licence is not recorded" in text


def test_an_imported_model_says_where_it_is_from():
    text = card({"imported_from": {"path": "/home/somebody/gpt-oss-20b", "format": "openai"}})
    assert "imported from `gpt-oss-20b` (format `openai`)" in text
    assert "somebody" not in text


def test_a_huge_model_is_not_called_small():
    assert "It is a small model" in card()
    huge = model_config("large", n_layer=100, num_experts=128)
    assert "It is a small model" not in card(config=huge)


def test_a_model_is_called_new_only_if_that_is_recorded():
    assert "It was trained from scratch" in card()
    older = copy.deepcopy(PROVENANCE)
    del older["training_config"]["init_from"]
    assert "from scratch" not in card(older)
    tuned = training_config("story", init_from="/home/somebody/gpt-oss-20b").to_dict()
    text = card({**PROVENANCE, "training_config": tuned})
    assert "began with the weights of `gpt-oss-20b`" in text
    assert "from scratch" not in text
    assert "somebody" not in text


# The command that repeats a training


def configs_of(lines: list[str]) -> tuple[ModelConfig, TrainingConfig, DataConfig]:
    """What a shell and our own command line make of a command."""
    script = "stories() { printf '%s\\0' \"$@\"; }\n" + "\n".join(lines)
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert not done.stderr
    words = done.stdout.decode().split("\0")[:-1]
    assert words[0] == "train"
    values = cli.train.make_context("train", words[1:], parent=click.Context(cli.stories)).params
    size, preset = values.pop("model_size"), values.pop("training_preset")
    values.pop("dry_run")
    return cli.resolve_training(size, preset, values)


@pytest.mark.parametrize(
    ("model", "training", "data"),
    [
        (model_config("nano"), training_config("story"), data_config("nano")),
        (model_config("nano"), training_config("story", max_seconds=0.5, seed=2**62), data_config("nano")),
        (model_config("tiny"), training_config("debug", learning_rate=1e-5), data_config("tiny", data_seed=3)),
        (
            model_config("large", n_kv_head=5, use_swiglu=False, swiglu_limit=6.5, sliding_window=0),
            training_config("production", optimizer="muon", use_mixed_precision=False, beta2=0.999),
            data_config("large", vocabulary="story", min_token_count=2, dataset_path="my stories; rm -rf.txt"),
        ),
        (model_config("medium"), TrainingConfig(max_iters=7, batch_size=3), data_config("medium", request_fraction=0)),
    ],
)
def test_the_command_gives_the_recorded_settings(model, training, data):
    recorded = {"training_config": training.to_dict(), "data_config": data.to_dict()}
    lines = training_command(model, recorded)
    assert lines is not None
    # The size of a story vocabulary is found out by training, so it is in no command.
    assert configs_of(lines) == (model.replace(vocab_size=HARMONY_VOCABULARY_SIZE), training, data)
    assert all(len(line) <= 110 for line in lines)


def test_a_command_that_starts_from_a_model_names_it_and_no_size():
    training = training_config("fast", init_from="/home/somebody/my model.pt", max_iters=50)
    data = data_config("nano", dataset_path="a.txt")
    recorded = {"training_config": training.to_dict(), "data_config": data.to_dict()}
    assert training_command(CONFIG.replace(n_embd=48), recorded) == [
        "stories train --init-from 'my model.pt' --training-preset fast --vocabulary story \\",
        "    --dataset-path a.txt --max-iters 50",
    ]


def test_the_command_leaves_out_what_only_concerns_the_owner():
    training = training_config(
        "story", checkpoint_dir="/home/somebody/x", resume="/home/somebody/y", device="cuda:1", use_wandb=True,
        wandb_project="secret", run_name="secret", compile_model=True, keep_states=5,
    )  # fmt: skip
    data = data_config("nano", data_dir="/home/somebody/z", process_data=True)
    lines = training_command(CONFIG, {"training_config": training.to_dict(), "data_config": data.to_dict()})
    assert lines == ["stories train --model-size nano --training-preset story --vocabulary story"]


def test_an_expanded_vocabulary_is_not_taken_for_a_setting():
    expanded = CONFIG.replace(vocab_size=HARMONY_VOCABULARY_SIZE, tie_embeddings=False)
    assert training_command(expanded, PROVENANCE) == training_command(CONFIG, PROVENANCE)


@pytest.mark.parametrize(
    "change",
    [
        {"training_config": None},
        {"training_config": {"max_iters": -1}},
        {"training_config": {"max_iters": 10**5000}},
        {"training_config": {"a setting of the future": 1}},
        {"training_config": {1: 2}},
        {"data_config": "not a table"},
        {"data_config": {"vocabulary": "klingon"}},
    ],
)
def test_settings_that_are_not_sound_give_no_command(change):
    assert training_command(CONFIG, {**PROVENANCE, **change}) is None
    assert "no command can be given" in card({**PROVENANCE, **change})


# What is nobody else's business


def test_public_provenance_has_no_paths_and_no_accounts():
    training = TrainingConfig(
        checkpoint_dir="/home/somebody/a", wandb_project="secret", run_name="secret", init_from="../somebody/start.pt"
    )
    data = DataConfig(dataset_path="C:\\Users\\somebody\\bedtime.jsonl", data_dir="/home/somebody/b")
    given = {
        **PROVENANCE,
        "training_config": training.to_dict(),
        "data_config": data.to_dict(),
        "imported_from": {"path": "/home/somebody/c", "format": "openai"},
        "parts": ["/home/somebody/d", {"cache_dir": "../somebody/e"}, 3],
    }
    before = copy.deepcopy(given)
    public = public_provenance(given)
    assert given == before
    assert "somebody" not in json.dumps(public)
    assert "secret" not in json.dumps(public)
    assert TrainingConfig.from_dict(public["training_config"]) == TrainingConfig(init_from="start.pt")
    assert DataConfig.from_dict(public["data_config"]) == DataConfig(dataset_path="bedtime.jsonl")
    assert public["imported_from"] == {"path": "c", "format": "openai"}
    assert public["parts"] == ["d", {"cache_dir": "e"}, 3]
    kept = {name: value for name, value in PROVENANCE.items() if not name.endswith("_config")}
    assert kept.items() <= public.items()


# Hostile model files

HOSTILE = {
    "html": '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(1)>',
    "link": "[click](https://evil.example) ![picture](https://evil.example/p.png) <https://evil.example>",
    "markdown": "# Heading\n\n- item\n\n> quote\n\n```\ncode\n```\n\n**bold** `code` | cell | cell |\n|---|---|",
    "yaml": '"\n---\nlicense: mit\nlibrary_name: evil\n---\n\n# Mine\n: {[&*!|>',
    "backticks": "`` ` ``` ```` end `",
    "table": "a | b | c\n| d | e |",
    "control": "\x1b[31mred\x1b[0m\x07\x00\x08\r\n\x85\u2028\u2029\u202eright to left\u2066\ufeff\x9b",
    "surrogate": "half of a pair: \ud83d, noncharacter: \uffff",
    "escape": "\\` \\| \\[ \\<b> &lt;b&gt; &#96;",
    "fence": "```\n</code></pre><script>x</script>\n~~~~\n````text",
    "huge": "word " * 1_000_000,
    "one long word": "x" * 3_000_000,
}


def assert_harmless(text: str, plain: str) -> None:
    """The card has the structure of a plain one, and nothing in it that is not text."""
    assert structure(text) == structure(plain)
    assert headings(text)[1:] == headings(plain)[1:]
    assert not [kind for kind, _ in structure(text) if kind.startswith(("html", "link", "image"))]
    values, expected = metadata(text), metadata(plain)
    assert values.keys() == expected.keys()
    assert values["license"] == expected["license"]
    assert values["library_name"] == expected["library_name"]
    assert text.encode("utf-8")
    assert len(text) < 30_000
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp", "Cf") and c != "\n"]


def replaced(value: Any, hostile: Any) -> Any:
    """A copy of a provenance with each of its texts and missing values replaced."""
    if isinstance(value, dict):
        return {name: replaced(inner, hostile) for name, inner in value.items()}
    return hostile if isinstance(value, str) or value is None else value


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_stay_texts(hostile):
    given = replaced(PROVENANCE, hostile)
    given |= {hostile[:500]: hostile, "imported_from": {"path": hostile, "format": hostile}}
    plain = replaced(PROVENANCE, "plain") | {"imported_from": {"path": "plain", "format": "plain"}}
    assert_harmless(card(given), card(plain))


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_settings_that_are_valid_stay_texts(hostile):
    """A data set's path may be any text, so a configuration with a hostile one is sound and gives a command."""
    paths = {kind: DataConfig(dataset_path=path).to_dict() for kind, path in {"bad": hostile, "good": "x.txt"}.items()}
    bad, good = ({**PROVENANCE, "data_config": paths[kind]} for kind in ("bad", "good"))
    assert_harmless(card(bad), card(good))
    lines = training_command(CONFIG, bad)
    assert lines is not None
    model, _, data = configs_of(lines)
    assert model == CONFIG.replace(vocab_size=HARMONY_VOCABULARY_SIZE)
    assert data.dataset_path is not None
    assert set(data.dataset_path) - {"�", "…", " "} <= set(hostile) | {chr(code) for code in range(0x2400, 0x2422)}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_stories_and_remarks_stay_texts(hostile):
    text = card(name=hostile, sample=hostile, notes=[hostile] * 100)
    assert_harmless(text, card(name="plain", sample="plain", notes=["plain"]))
    snippet = re.search(r"^MODEL = (\".*\")  #", text, re.MULTILINE)
    assert snippet is not None
    assert re.fullmatch(r'"[A-Za-z0-9._/-]{1,96}"', snippet[1])
    assert re.fullmatch(r"[A-Za-z0-9._-]+\.gguf", gguf_file_name(hostile))


@pytest.mark.parametrize(
    "odd",
    [
        None,
        True,
        -1,
        10**5000,
        -(10**5000),
        math.nan,
        math.inf,
        -0.5,
        1e300,
        [],
        ["a"],
        {},
        {"a": 1},
        b"bytes",
        "12",
        "",
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:8] if not isinstance(value, int) else value % 97}",
)
def test_values_of_the_wrong_kind_are_not_known(odd):
    numbers = [name for name, value in PROVENANCE.items() if isinstance(value, int | float)]
    told = rows(card({**PROVENANCE, **dict.fromkeys(numbers, odd)}))
    for name in ("optimizer steps", "tokens seen", "validation loss", "training time", "stories trained on"):
        assert told[name] == "not known", name
    everything = card(dict.fromkeys(PROVENANCE, odd))
    assert "model-index" not in metadata(everything)
    assert headings(everything)[1:] == HEADINGS
    data = dict.fromkeys(PROVENANCE["data_config"], odd)
    assert headings(card({**PROVENANCE, "data_config": data}))[1:] == HEADINGS


def test_a_story_is_shown_whole_and_as_it_is():
    story = "Once upon a time…\n\n“Who is there?” said the fox.\n\tNobody.\nThe end. ```"
    text = card(sample=story)
    (block,) = [
        token.content
        for token in MarkdownIt("commonmark").parse(text)
        if token.type == "fence" and "fox" in token.content
    ]
    assert block == story.replace("\t", " ") + "\n"
    long = "A very long story. " * 1000
    assert len(card(sample=long)) - len(card()) < 5_000


def test_many_remarks_are_counted():
    text = card(notes=[f"remark {number}" for number in range(25)])
    assert "remark 19" in text
    assert "remark 20" not in text
    assert "and 5 more" in text
    assert "## Remarks of the export" in text
    assert "Remarks" not in card()
