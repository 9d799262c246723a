"""`stories generate` without the command line around it: a saved model, the standard streams, exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
import torch

from gpt_oss_stories.config import GenerationConfig, ModelConfig
from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.generation import Storyteller
from gpt_oss_stories.generation.command import run_generate
from gpt_oss_stories.generation.output import harmless
from gpt_oss_stories.model import StoryTransformer
from gpt_oss_stories.model.model_file import save_model
from gpt_oss_stories.model.quantized import quantize_for_decoding
from gpt_oss_stories.tokenization import build_story_vocabulary, count_tokens, harmony_vocabulary

CONFIG = GenerationConfig(max_tokens=12, seed=1)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    vocabulary = build_story_vocabulary(
        count_tokens(harmony_vocabulary(), ["Once upon a time there was a fox. It was glad."])
    )
    config = ModelConfig(
        vocab_size=vocabulary.size, n_layer=2, n_head=2, head_dim=16, n_embd=16, block_size=64, num_experts=2
    )
    path = tmp_path_factory.mktemp("models") / "best_model.pt"
    save_model(path, StoryTransformer(config, seed=1), vocabulary, {"made": "for a test"})
    return path


def test_a_story_on_standard_output(model_path, capsys):
    assert run_generate(model_path, None, CONFIG, interactive=False, as_json=False, device="cpu") == 0
    streams = capsys.readouterr()
    assert streams.out.startswith("Once upon a time")
    assert "seed 1]" in streams.err
    [story] = Storyteller.open(model_path, device="cpu").tell("Once upon a time", CONFIG)
    assert streams.out.rstrip("\n") == harmless(story.text).rstrip("\n")


def test_samples_as_json(model_path, capsys):
    assert run_generate(model_path, "The fox", CONFIG.replace(num_samples=3), as_json=True, device="cpu") == 0
    streams = capsys.readouterr()
    stories = [json.loads(line) for line in streams.out.splitlines()]
    assert [story["prompt"] for story in stories] == ["The fox"] * 3
    assert len({story["text"] for story in stories}) == 3
    assert streams.err == ""


def test_a_story_from_bytes_is_that_of_the_rounded_weights(model_path, capsys):
    assert run_generate(model_path, "The fox", CONFIG, in_bytes=True, device="cpu") == 0
    told = capsys.readouterr().out.rstrip("\n")
    storyteller = Storyteller.open(model_path, device="cpu")
    before = [parameter.clone() for parameter in storyteller.network.parameters()]
    quantize_for_decoding(storyteller.network)
    assert any(not torch.equal(a, b) for a, b in zip(before, storyteller.network.parameters(), strict=True))
    storyteller.network.decode_weights = "float32"  # the same rounded numbers, in the ordinary way
    [rounded] = storyteller.tell("The fox", CONFIG)
    assert told == harmless(rounded.text).rstrip("\n")


def test_bytes_are_refused_where_nothing_reads_them(model_path):
    def elsewhere(path, device):
        storyteller = Storyteller.open(path, "cpu")
        storyteller.network.to("meta")
        return storyteller

    with pytest.raises(StoryError, match="--weights int8 is for CPUs, and the model is on meta"):
        run_generate(model_path, "The fox", CONFIG, in_bytes=True, open_storyteller=elsewhere)


def test_interactive_from_a_pipe(model_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("The fox\n/quit\n"))
    assert run_generate(model_path, None, CONFIG, interactive=True, device="cpu") == 0
    streams = capsys.readouterr()
    assert streams.out.startswith("The fox")
    assert "parameters" in streams.err


def test_a_terminal_sees_one_story_as_it_is_made(model_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert run_generate(model_path, "The fox", CONFIG, device="cpu") == 0
    assert capsys.readouterr().out.startswith("The fox")


@pytest.mark.parametrize("damage", ["missing", "cut short", "text"])
def test_a_model_that_cannot_be_read_is_one_clear_line(model_path, tmp_path, damage):
    path = tmp_path / "model.pt"
    if damage == "cut short":
        path.write_bytes(model_path.read_bytes()[:2000])
    elif damage == "text":
        path.write_text("not a model")
    with pytest.raises(StoryError, match=r"model\.pt") as caught:
        run_generate(path, None, CONFIG, device="cpu")
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_numbers_are_one_clear_line(model_path, tmp_path):
    storyteller = Storyteller.open(model_path, device="cpu")
    with torch.no_grad():
        storyteller.network.norm.weight[0] = float("nan")
    save_model(tmp_path / "broken.pt", storyteller.network, storyteller.vocabulary, {})
    with pytest.raises(StoryError, match="not finite"):
        run_generate(tmp_path / "broken.pt", None, CONFIG, device="cpu")


@pytest.mark.parametrize(
    ("more", "message"), [({"interactive": True, "as_json": True}, "--json"), ({"device": "cuda:99"}, "cuda:99")]
)
def test_what_does_not_go_together_is_refused(model_path, more, message):
    with pytest.raises(StoryError, match=message):
        run_generate(model_path, None, CONFIG, **more)


def test_a_reader_that_leaves_is_no_error(model_path):
    """`stories generate ... | head -1`: no traceback, also not from the flush at exit."""
    code = (
        "import sys; from gpt_oss_stories.cli import main; "
        f"sys.exit(main(['generate', '--model-path', {str(model_path)!r}, '--max-tokens', '40', '--device', 'cpu']))"
    )
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, env=_environment()
    )
    os.close(write)
    assert process.returncode == 141
    assert "Traceback" not in process.stderr
    assert "Exception ignored" not in process.stderr


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
