"""The command `stories`: flags over presets, errors in one line, and nothing heavy loaded too early."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest

from gpt_oss_stories import cli
from gpt_oss_stories.config import (
    MODEL_SIZES,
    TRAINING_PRESETS,
    Config,
    DataConfig,
    GenerationConfig,
    ModelConfig,
    TrainingConfig,
    data_config,
    model_config,
    training_config,
)
from gpt_oss_stories.environment import MALLOC_SETTINGS
from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.options import default_text, flag_name, given_values, public_fields

PROJECT = Path(__file__).parents[1]

TRAIN_CONFIGS: tuple[type[Config], ...] = (ModelConfig, TrainingConfig, DataConfig)


def parsed(command: str, arguments: list[str]) -> dict[str, Any]:
    """What click hands to a command, without running it."""
    return cli.stories.commands[command].make_context(command, list(arguments)).params


def every_flag() -> list[tuple[str, type[Config], str]]:
    by_command = {"train": TRAIN_CONFIGS, "prepare": (DataConfig,), "generate": (GenerationConfig,)}
    return [
        (command, config_class, field.name)
        for command, classes in by_command.items()
        for config_class in classes
        for field in public_fields(config_class)
    ]


@pytest.mark.parametrize(("command", "config_class", "name"), every_flag())
def test_each_flag_sets_its_field_and_no_other(command: str, config_class: type[Config], name: str) -> None:
    (field,) = [field for field in public_fields(config_class) if field.name == name]
    flag = f"--{flag_name(field)}"
    if field.type == "bool":
        cases = [([flag], True), ([f"--no-{flag_name(field)}"], False)]
    elif field.metadata["choices"]:
        cases = [([flag, choice], choice) for choice in field.metadata["choices"]]
    else:
        value: Any = {"i": 12, "f": 0.25, "s": "something"}[str(field.type)[0]]
        cases = [([flag, str(value)], value)]
    for arguments, expected in cases:
        values = parsed(command, arguments)
        given = {c: given_values(c, values) for c in (*TRAIN_CONFIGS, GenerationConfig)}
        assert given[config_class] == {name: expected}
        assert type(given[config_class][name]) is type(expected)
        assert not any(rest for other, rest in given.items() if other is not config_class)


@pytest.mark.parametrize("size", MODEL_SIZES)
@pytest.mark.parametrize("preset", TRAINING_PRESETS)
def test_flags_that_are_not_given_change_nothing(size: str, preset: str) -> None:
    values = parsed("train", ["--model-size", size, "--training-preset", preset])
    assert cli.resolve_training(size, preset, values) == (
        model_config(size),
        training_config(preset),
        data_config(size),
    )


def test_given_flags_win_over_size_and_preset() -> None:
    arguments = ["--n-layer", "3", "--no-use-swiglu", "--batch-size", "5", "--no-mixed-precision", "--vocabulary"]
    values = parsed("train", [*arguments, "harmony"])
    model, training, data = cli.resolve_training("nano", "story", values)
    assert model == model_config("nano", n_layer=3, use_swiglu=False)
    assert training == training_config("story", batch_size=5, use_mixed_precision=False)
    assert data == data_config("nano", vocabulary="harmony")


def test_both_seeds_are_separate() -> None:
    values = parsed("train", ["--seed", "5", "--data-seed", "6"])
    _, training, data = cli.resolve_training("nano", "story", values)
    assert (training.seed, data.data_seed) == (5, 6)


@pytest.mark.parametrize("command", cli.stories.commands)
def test_no_flag_has_two_meanings(command: str) -> None:
    names = Counter(
        name
        for parameter in cli.stories.commands[command].params
        for name in [*parameter.opts, *parameter.secondary_opts]
    )
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("size", "preset"), [("nano", "story"), *((size, "fast") for size in MODEL_SIZES if size != "nano")]
)
def test_preset_when_none_is_asked_for(size: str, preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--dry-run", "--model-size", size]) == 0
    assert capsys.readouterr().out.startswith(f"model size {size}, training preset {preset}\n")


def test_dry_run_shows_four_parameter_numbers_and_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--dry-run", "--model-size", "tiny", "--max-iters", "77"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    report = model_config("tiny").parameters()
    assert f"total {report.total:,}" in lines
    assert f"active per token {report.active:,}" in lines
    assert f"embedding {report.embedding:,}" in lines
    assert f"non-embedding {report.non_embedding:,}" in lines
    assert "max_iters 77" in lines
    assert "vocabulary harmony" in lines


def test_dry_run_with_a_story_vocabulary_gives_its_share_as_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--dry-run", "--model-size", "nano", "--no-tie-embeddings"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for size in (1_000, 7_874):
        report = model_config("nano", vocab_size=size, tie_embeddings=False).parameters()
        assert report.total == report.non_embedding + 256 * size
        assert report.active == report.active_non_embedding + 128 * size
    assert f"total {report.non_embedding:,} + 256 V" in lines
    assert f"active per token {report.active_non_embedding:,} + 128 V" in lines
    assert "embedding 256 V" in lines


MISTAKES = [
    (["train", "--n-head", "7", "--n-embd", "512"], ["n_head=7"]),
    (["train", "--model-size", "tiny", "--n-head", "7", "--n-embd", "512"], ["n_head=7", "4 or 8"]),
    (["train", "--model-size", "tinny"], ["'tinny'", "nano, tiny, small, medium, large", "Did you mean 'tiny'?"]),
    (["train", "--training-preset", "quick"], ["'quick'", "story, debug, fast, standard, production"]),
    (["train", "--vocabulary", "harmny"], ["'harmny'", "harmony, story", "Did you mean 'harmony'?"]),
    (["train", "--optimizer", "adam"], ["'adam'", "Did you mean 'adamw'?"]),
    (["train", "--batch-sise", "3"], ["--batch-sise", "--batch-size"]),
    (["train", "--batch-size", "many"], ["--batch-size", "'many'"]),
    (["train", "--batch-size"], ["--batch-size"]),
    (["train", "--batch-size", "0", "--n-layer", "0", "--data-seed", "-1"], ["batch_size=0", "n_layer=0", "data_seed"]),
    (["train", "--learning-rate", "nan"], ["learning_rate"]),
    (["train", "--device", "gpu"], ["device='gpu'"]),
    (["train", "--mixed-precision=yes"], ["--mixed-precision"]),
    (["train", "something"], ["something"]),
    (["generate", "--temperature", "-1"], ["temperature=-1"]),
    (["generate", "--top-p", "0"], ["top_p=0"]),
    (["generate", "--max-token", "5"], ["--max-tokens"]),
    (["prepare", "--validation-fraction", "0.9"], ["validation_fraction=0.9"]),
    (["trian"], ["trian"]),
    (["inspect", "no/such/model.pt"], ["no/such/model.pt"]),
    (["inspect", "."], ["."]),
    (["generate", "--model-path", "no/such/model.pt"], ["no/such/model.pt"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=lambda value: " ".join(value)[:50])
def test_mistakes_are_answered_with_one_line(
    arguments: list[str],
    named: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    for part in named:
        assert part in captured.err
    assert list(tmp_path.iterdir()) == []


def damaged_model(kind: str) -> bytes:
    import io
    import pickle

    import torch

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, ("pwned", "w"))

    if kind in ("empty", "bare code"):
        return pickle.dumps(Code()) if kind == "bare code" else b""
    file = io.BytesIO()
    torch.save({"weights": Code() if kind == "code" else {}}, file)
    return file.getvalue()[:-200] if kind == "cut short" else file.getvalue()


@pytest.mark.parametrize("command", [["generate", "--model-path"], ["inspect"]], ids=lambda words: words[0])
@pytest.mark.parametrize("kind", ["cut short", "code", "bare code", "empty", "foreign"])
def test_a_bad_model_is_answered_with_one_line_and_left_alone(
    command: list[str], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = damaged_model(kind)
    (tmp_path / "model.pt").write_bytes(content)
    assert cli.main([*command, "model.pt"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: model.pt ")
    assert captured.err.count("\n") == 1
    assert (tmp_path / "model.pt").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_an_empty_data_set_is_answered_with_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.jsonl").write_bytes(b"")
    for command in ("prepare", "train"):
        assert cli.main([command, "--dataset-path", "none.jsonl"]) == 2
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith("error: no stories in none.jsonl: empty")
    assert not (tmp_path / "checkpoints").exists()
    assert [path for path in (tmp_path / "data").iterdir() if path.is_dir()] == []


def raising(error: BaseException) -> click.Command:
    def callback() -> None:
        raise error

    return click.Command("verify", callback=callback)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StoryError("first\nsecond"), 2, "error: first second\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
    ids=["user error", "Ctrl-C"],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.stories.commands, "verify", raising(error))
    assert cli.main(["verify"]) == code
    assert capsys.readouterr().err.lstrip("\n") == said


def test_faults_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.stories.commands, "verify", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["verify"])


def test_the_exit_code_of_a_command_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.stories.commands, "verify", click.Command("verify", callback=lambda: 7))
    assert cli.main(["verify"]) == 7


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(PROJECT / 'src')!r})\n{code}", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "from gpt_oss_stories.cli import main; sys.exit(main(['train', '--dry-run']))"
    command = f'set -o pipefail; "{sys.executable}" -c "$CODE" | true'
    code = f"import sys; sys.path.insert(0, {str(PROJECT / 'src')!r}); import time; time.sleep(0.3); {code}"
    result = subprocess.run(
        ["bash", "-c", command], env={"CODE": code, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (141, "", "")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([name, "--help"] for name in cli.stories.commands), ["train", "--dry-run"],
     ["train", "--n-head", "7"], ["prepare", "--vocabulary", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_help_dry_run_and_refusals_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "from gpt_oss_stories.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'matplotlib', 'openai_harmony', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    result = run_python(code, *arguments)
    assert result.returncode == (2 if {"7", "x"} & set(arguments) else 0), result.stderr
    assert "AssertionError" not in result.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["nothing set", "spin count set", "policy set"],
)
def test_threads_sleep_unless_the_user_decided(
    before: dict[str, str], after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", dict(before))
    assert cli.main(["train", "--dry-run"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == after


@pytest.mark.parametrize("before", [None, "0"], ids=["nothing set", "set by the user"])
def test_huge_pages_are_asked_for_unless_the_user_decided(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {} if before is None else {"THP_MEM_ALLOC_ENABLE": before})
    assert cli.main(["train", "--dry-run"]) == 0
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == (before or "1")


def test_freed_memory_is_kept_unless_the_user_decided() -> None:
    """Blocks of 40 MB, larger than any that GNU malloc keeps by itself, come back without new pages."""
    code = """
import resource, sys
from gpt_oss_stories.environment import keep_freed_memory
keep_freed_memory()
import ctypes
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = malloc(40_000_000)
    ctypes.memset(block, 1, 40_000_000)
    free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
sys.exit(0 if faults() < 1000 else 3)
"""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("needs GNU malloc")
    environment = {name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    decided = environment | {"MALLOC_TOP_PAD_": "0"}
    assert subprocess.run([sys.executable, "-c", code], env=decided, check=False).returncode == 3


def help_text(command: str) -> str:
    found = cli.stories.commands[command]
    with found.make_context(
        command, [], resilient_parsing=True, max_content_width=100_000, terminal_width=100_000
    ) as ctx:
        return found.get_help(ctx)


@pytest.mark.parametrize(("command", "config_class", "name"), every_flag())
def test_help_shows_each_flag_with_meaning_and_default(command: str, config_class: type[Config], name: str) -> None:
    (field,) = [field for field in public_fields(config_class) if field.name == name]
    entries = re.split(r"(?=^  -)", help_text(command), flags=re.MULTILINE)
    (entry,) = [" ".join(entry.split()) for entry in entries if entry.strip().startswith(f"--{flag_name(field)} ")]
    assert field.metadata["help"] in entry
    assert re.search(r"\[.*(default|nano|story): .+\]", entry)


def test_help_names_the_default_of_each_preset() -> None:
    fields = {field.name: field for field in public_fields(ModelConfig)}
    assert default_text(fields["n_layer"], MODEL_SIZES) == "nano: 4, tiny: 6, small: 12, medium: 24, large: 36"
    assert default_text(fields["head_dim"], MODEL_SIZES) == "default: 64, nano: 32"
    assert default_text(fields["use_swiglu"], MODEL_SIZES) == "default: on"
    assert default_text(fields["norm_eps"], {}) == "default: 1e-05"
    assert default_text(fields["intermediate_size"], {}) == "default: not set"


def test_help_has_a_heading_for_each_configuration() -> None:
    text = help_text("train")
    places = [text.index(f"\n{heading}:\n") for heading in ("Options", "Model", "Training", "Data")]
    assert places == sorted(places)


def test_inspect_shows_what_a_model_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gpt_oss_stories.model.model_file import save_model
    from gpt_oss_stories.model.transformer import StoryTransformer
    from gpt_oss_stories.tokenization import build_story_vocabulary

    vocabulary = build_story_vocabulary({1: 5})
    config = ModelConfig(vocab_size=vocabulary.size, n_layer=1, n_head=2, n_embd=16, head_dim=8, num_experts=2)
    path = tmp_path / "model.pt"
    save_model(path, StoryTransformer(config), vocabulary, {"step": 12345, "training_config": {"batch_size": 3}})

    assert cli.main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    report = config.parameters()
    assert facts["parameters"] == {
        "total": report.total,
        "active_per_token": report.active,
        "embedding": report.embedding,
        "non_embedding": report.non_embedding,
    }
    assert ModelConfig.from_dict(facts["model_config"]) == config
    assert facts["vocabulary"] == {"kind": "story", "size": vocabulary.size, "fingerprint": vocabulary.fingerprint}
    assert facts["provenance"]["step"] == 12345
    assert facts["training_config"] == {"batch_size": 3}

    assert cli.main(["inspect", str(path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == str(path)
    assert {f"total {report.total:,}", "step 12,345", "batch_size 3", f"fingerprint {vocabulary.fingerprint}"} <= set(
        lines
    )


def test_stories_go_from_prepare_to_train_to_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every command once, in the order in which a user would type them, on a miniature model."""
    monkeypatch.chdir(tmp_path)
    told = [f"Once upon a time, a {who} found a {what}. It was {how}." for who in ("fox", "cat", "hen")
            for what in ("key", "shoe", "pea") for how in ("red", "old", "big")]  # fmt: skip
    (tmp_path / "mine.txt").write_text("\n<|endoftext|>\n".join(told), encoding="utf-8")
    source = ["--dataset-path", "mine.txt", "--validation-fraction", "0.2", "--no-drop-near-copies"]

    assert cli.main(["prepare", *source]) == 0
    folder = capfd.readouterr().out.strip()
    assert cli.main(["inspect", folder, "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert sum(facts["stories"].values()) == len(told)

    shape = ["--n-layer", "1", "--n-embd", "32", "--block-size", "64", "--num-experts", "2"]
    short = ["--max-iters", "2", "--batch-size", "2", "--eval-interval", "2", "--eval-iters", "1"]
    assert cli.main(["train", *source, *shape, *short]) == 0
    captured = capfd.readouterr()
    assert "Once upon a time" in captured.err, "a sample story is shown after an evaluation"
    assert (tmp_path / "checkpoints" / "best_model.pt").is_file()
    assert (tmp_path / "checkpoints" / "plots" / "training_curves.png").is_file()
    assert [path.name for path in (tmp_path / "data").iterdir() if path.is_dir()] == [Path(folder).name]

    arguments = ["generate", "--prompt", "Once", "--max-tokens", "5", "--num-samples", "2", "--json", "--seed", "1"]
    assert cli.main(arguments) == 0
    stories = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [story["text"][:4] for story in stories] == ["Once", "Once"]
    assert cli.main(["inspect", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["model_config"]["n_embd"] == 32
    assert facts["provenance"]["step"] == 2


def test_samples_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A young model writes any byte, those that clear the screen included."""
    from types import SimpleNamespace

    from gpt_oss_stories.generation import engine

    teller = SimpleNamespace(tell=lambda prompt, settings: [SimpleNamespace(text="Once\x1b[2J\x07\nmore")])
    monkeypatch.setattr(engine, "Storyteller", lambda model, vocabulary: teller)
    sample: Any = cli._sample_story
    assert sample(None, None, 0) == "Once\u241b[2J\u2407\nmore"


def test_verify_passes_and_says_what_it_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify"]) == 0
    said = capsys.readouterr().out
    for check in (
        "Vocabulary: 201,088",
        "Forward: ",
        "Backward: ",
        "Optimizer: ",
        "Generation: Once upon a time",
        "works",
    ):
        assert check in said


def test_verify_fails_when_training_does_not_learn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.optim.AdamW.step", lambda self: None)
    assert cli.main(["verify"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: verification failed: the loss went from ")
    assert "Everything works" not in captured.out
