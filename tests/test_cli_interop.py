"""`stories export`, `import`, `inspect` and `train --init-from` as typed on a command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gpt_oss_stories import cli
from gpt_oss_stories.interop.checkpoints import open_checkpoint
from gpt_oss_stories.interop.loading import load_model
from support.small_models import saved, small_config, small_vocabulary

TOKENS = torch.arange(30)[None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    vocabulary = small_vocabulary()
    return saved(tmp_path / "model.pt", small_config(vocabulary, multi_token_predict=2), vocabulary)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    assert cli.main([str(word) for word in arguments]) == 0
    streams = capsys.readouterr()
    return streams.out, streams.err


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(word) for word in arguments]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("error: ")
    assert streams.err.count("\n") == 1
    return streams.err


@pytest.mark.parametrize(
    ("flags", "exact"),
    [
        (["--format", "huggingface"], True),
        (["--format", "huggingface", "--dtype", "bfloat16", "--max-shard-gib", "0.00005"], False),
        (["--format", "openai"], True),
        (["--format", "openai", "--mxfp4"], False),
        (["--format", "gguf", "--gguf-type", "F32"], True),
        (["--format", "gguf"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_out_and_back_again(model, tmp_path, capsys, flags, exact):
    out, told = run(capsys, "export", "--model-path", model, "--out", tmp_path / "out", *flags)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [Path(line.split("  ")[0]).name for line in out.splitlines()] == written
    assert "note: " in told
    assert "multi-token prediction" in told
    out, told = run(capsys, "import", tmp_path / "out", "--out", tmp_path / "back.pt")
    assert "back.pt" in out
    before, after = load_model(model), load_model(tmp_path / "back.pt")
    difference = (before.logits(TOKENS) - after.logits(TOKENS)).abs().amax()
    assert (difference == 0) == exact
    for path in (tmp_path / "out", tmp_path / "back.pt"):
        arguments = "generate", "--model-path", path, "--temperature", 0, "--max-tokens", 8, "--json"
        out, _ = run(capsys, *arguments, "--prompt", "Once upon a time")
        assert json.loads(out)["text"].startswith("Once upon a time")


def test_inspect_shows_any_format_with_tensors_and_checksums(model, tmp_path, capsys):
    facts = {}
    for format in ("huggingface", "openai", "gguf"):
        run(capsys, "export", "--model-path", model, "--out", tmp_path / format, "--format", format)
        out, _ = run(capsys, "inspect", tmp_path / format, "--tensors", "--verify", "--json")
        facts[format] = json.loads(out)
        text, _ = run(capsys, "inspect", tmp_path / format, "--tensors")
        assert "parameters_by_part" in text
        assert facts[format]["vocabulary"]["fingerprint"] in text
    run(capsys, "inspect", model, "--tensors", "--json")
    for format, found in facts.items():
        assert found["model"]["format"] == format
        assert found["parameters"] == facts["openai"]["parameters"]
        assert found["provenance"]["step"] == 12
        assert found["training_config"] == {"max_iters": 12}
        assert all(len(value) == 64 for value in found["sha256"].values())
    assert facts["huggingface"]["tensors"]["model.layers.1.self_attn.sinks"] == "float32 4"
    assert facts["openai"]["tensors"]["block.0.mlp.mlp1_weight"] == "float32 4 x 128 x 32"
    assert sum(facts["openai"]["parameters_by_part"].values()) == facts["openai"]["parameters"]["total"]
    assert "multi-token" in facts["huggingface"]["left_out_or_changed"]["1"]


def test_inspect_makes_steering_characters_of_strangers_harmless(model, tmp_path, capsys):
    vocabulary = small_vocabulary()
    from gpt_oss_stories.model.model_file import save_model
    from support.small_models import small_model

    save_model(tmp_path / "bad.pt", small_model(small_config(vocabulary)), vocabulary, {"author": "\x1b[2Jgone"})
    out, _ = run(capsys, "inspect", tmp_path / "bad.pt")
    assert "\x1b" not in out
    assert "gone" in out


def test_import_under_the_vocabulary_of_another_model(model, tmp_path, capsys):
    run(capsys, "export", "--model-path", model, "--out", tmp_path / "full", "--expand-vocabulary")
    assert open_checkpoint(tmp_path / "full").config.vocab_size == 201_088
    arguments = "import", tmp_path / "full", "--out", tmp_path / "back.pt"
    _, told = run(capsys, *arguments, "--vocabulary-of", model, "--dtype", "bfloat16")
    assert "vocabulary moved from 201,088" in told
    back = open_checkpoint(tmp_path / "back.pt")
    assert back.vocabulary.fingerprint == small_vocabulary().fingerprint
    assert {tensor.dtype for tensor in back.tensors} == {"bfloat16"}
    assert "exists already" in refuse(capsys, *arguments)
    run(capsys, *arguments, "--overwrite")


def test_training_starts_from_an_exported_model(model, tmp_path, capsys):
    run(capsys, "export", "--model-path", model, "--out", tmp_path / "out")
    (tmp_path / "stories.txt").write_text("The fox sat down. It was late.\n\n\nThe owl sang. It was glad.\n" * 3)
    train = (
        *("train", "--init-from", tmp_path / "out", "--max-iters", 1, "--batch-size", 1, "--eval-iters", 1),
        *("--dataset-path", tmp_path / "stories.txt", "--data-dir", tmp_path / "data", "--learning-rate", 1e-9),
        *("--embedding-learning-rate", 1e-9),
        *("--optimizer", "adamw", "--no-mixed-precision", "--checkpoint-dir", tmp_path / "run"),
    )
    _, told = run(capsys, *train)
    assert f"starting from the weights of {tmp_path / 'out'}" in told
    before, after = open_checkpoint(tmp_path / "out"), open_checkpoint(tmp_path / "run" / "best_model.pt")
    assert after.config == before.config.replace(vocab_size=after.config.vocab_size)
    ours, theirs = dict(after.weights()), dict(before.weights())
    torch.testing.assert_close(ours["layers.1.experts.down_weight"], theirs["layers.1.experts.down_weight"])
    fox = [next(iter(found.vocabulary.encode(" fox"))) for found in (after, before)]
    torch.testing.assert_close(ours["embedding.weight"][fox[0]], theirs["embedding.weight"][fox[1]])
    _, told = run(capsys, *train)  # complete: the weights are those of the run now
    assert "complete" in told
    assert "starting from" not in told


def test_what_does_not_go_together_is_refused(model, tmp_path, capsys):
    out = tmp_path / "out"
    assert "--mxfp4" in refuse(capsys, "export", "--model-path", model, "--out", out, "--mxfp4")
    bad = refuse(capsys, "export", "--model-path", model, "--out", out, "--format", "gguf", "--gguf-type", "Q9")
    assert "Q8_0" in bad
    assert "no model" in refuse(capsys, "export", "--model-path", tmp_path / "none", "--out", out)
    assert not out.exists()
    size = refuse(capsys, "train", "--init-from", model, "--model-size", "tiny")
    assert "--model-size tiny" in size
    assert "no model" in refuse(capsys, "train", "--init-from", tmp_path / "none.pt")
    assert "no model" in refuse(capsys, "import", tmp_path / "none.pt", "--out", tmp_path / "x.pt")
