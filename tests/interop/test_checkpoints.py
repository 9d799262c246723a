"""Checkpoint directories of other programs that cannot be read give one line that says why."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.interop.loading import load_model

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(params=["openai-format-tiny", "hf-format-tiny"])
def directory(request, tmp_path):
    target = tmp_path / request.param
    shutil.copytree(FIXTURES / request.param, target, ignore=shutil.ignore_patterns("expected*"))
    return target


def refused(directory, match):
    with pytest.raises(StoryError, match=match) as caught:
        load_model(directory)
    assert "\n" not in str(caught.value)


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_in_several_files_are_found(directory):
    want = load_model(directory).logits(torch.arange(20)[None])
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({n: tensors[n] for n in names[::2]}, directory / "model-00001-of-00002.safetensors")
    save_file({n: tensors[n] for n in names[1::2]}, directory / "model-00002-of-00002.safetensors")
    assert torch.equal(load_model(directory).logits(torch.arange(20)[None]), want)


def test_missing_and_surplus_tensors_are_named(directory):
    tensors = load_file(directory / "model.safetensors")
    name = next(n for n in sorted(tensors) if n.endswith("sinks"))
    save_file({n: t for n, t in tensors.items() if n != name}, directory / "model.safetensors")
    refused(directory, f"missing: {name}")
    save_file({**tensors, "stranger": torch.zeros(1)}, directory / "model.safetensors")
    refused(directory, "unknown: stranger")


def test_wrong_shapes_are_named(directory):
    tensors = load_file(directory / "model.safetensors")
    name = next(n for n in sorted(tensors) if n.endswith("sinks"))
    save_file({**tensors, name: torch.zeros(5)}, directory / "model.safetensors")
    refused(directory, rf"{name} is \(5,\), expected \(4,\)")


def test_damaged_files(directory):
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:-1000])
    refused(directory, "damaged or not a safetensors file")
    (directory / "model.safetensors").unlink()
    refused(directory, "no model.*safetensors file")
    (directory / "config.json").write_text("{")
    refused(directory, "cannot be read as JSON")
    (directory / "config.json").write_text("[]")
    refused(directory, "not an object")
    (directory / "config.json").unlink()
    refused(directory, "has no config.json")


def test_settings_that_cannot_work(directory):
    change_config(directory, num_hidden_layers=10**9, layer_types=None)
    refused(directory, "above 1024")
    change_config(directory, num_hidden_layers="four")
    refused(directory, "config.json")


def test_other_architectures_and_conventions_are_refused(tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(FIXTURES / "hf-format-tiny", directory)
    config = json.loads((directory / "config.json").read_text())
    change_config(directory, model_type="llama")
    refused(directory, "model_type is 'llama'")
    change_config(directory, model_type="gpt_oss", rope_parameters={**config["rope_parameters"], "truncate": True})
    refused(directory, "truncated")
    kinds = ["full_attention", "full_attention", "sliding_attention", "full_attention"]
    change_config(directory, rope_parameters=config["rope_parameters"], layer_types=kinds)
    refused(directory, "alternate")


def test_an_index_cannot_lead_out_of_the_directory(directory):
    (directory.parent / "secret.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    for name in ("../secret.safetensors", str(directory.parent / "secret.safetensors"), "config.json", ""):
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        refused(directory, "no safetensors file in the same directory")


def test_an_index_that_names_missing_files_or_none(directory):
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    refused(directory, "weight files are missing: model-00001-of-00002")
    index.write_text(json.dumps({"weight_map": ["model.safetensors"]}))
    refused(directory, "not a table")


def test_headers_larger_than_the_file_or_than_reason(directory):
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes((1 << 62).to_bytes(8, "little") + whole[8:])
    refused(directory, "do not hold its header")
    path.write_bytes((20 << 20).to_bytes(8, "little") + b" " * (21 << 20))
    refused(directory, "at most")


def test_a_configuration_of_endless_layers_is_refused_before_it_is_built(directory, monkeypatch):
    def built(config):
        raise AssertionError("a model was built")

    monkeypatch.setattr("gpt_oss_stories.interop.checkpoints.parameter_shapes", built)
    change_config(directory, num_hidden_layers=1000, layer_types=None)
    refused(directory, "missing")


def test_expert_matrices_of_the_wrong_kind(directory):
    tensors = load_file(directory / "model.safetensors")
    name = next(n for n in sorted(tensors) if n.endswith("sinks"))
    save_file({**tensors, name: tensors[name].to(torch.uint8)}, directory / "model.safetensors")
    refused(directory, f"{name} holds uint8")
