"""What a run will take: against the files of a real run, and by hand where there is nothing to measure."""

from __future__ import annotations

import json
import time

import pytest
import torch

from gpt_oss_stories.cli import main
from gpt_oss_stories.config import MODEL_SIZES, DataConfig, TrainingConfig, data_config, model_config
from gpt_oss_stories.training import recorder
from gpt_oss_stories.training.estimate import (
    ASSUMED_VOCABULARY,
    EstimateError,
    bytes_sent,
    estimate_run,
    parse_bytes,
    vocabulary_size,
)
from gpt_oss_stories.training.flops import training_flops_per_token
from gpt_oss_stories.training.memory import estimate_memory, skeleton
from gpt_oss_stories.training.precision import Precision
from support.trials import Trial, drawn_quickly

GIB = 2**30
HARMONY = DataConfig(vocabulary="harmony")


def estimate(size="small", **options):
    training = TrainingConfig(**{"batch_size": 4, "train_length": 512, "device": "cpu", **options.pop("training", {})})
    return estimate_run(model_config(size), training, options.pop("data", HARMONY), **options)


@pytest.mark.parametrize("settings", [{"optimizer": "adamw"}, {"optimizer": "muon", "ema_decay": 0.9}], ids=str)
def test_files_on_disk_have_the_estimated_size(stories, tmp_path, monkeypatch, settings):
    monkeypatch.setattr(recorder, "plot_training_curves", drawn_quickly)
    trial = Trial(stories, tmp_path)
    shape = {"n_embd": 160, "n_layer": 2, "head_dim": 16, "vocab_size": 300}
    result = trial(max_iters=1, model=shape, train_length=64, **settings)
    wanted = TrainingConfig(max_iters=1, **settings)
    model = model_config("nano", **{**shape, "block_size": 64, "sliding_window": 16})
    size, remark = vocabulary_size(trial.data())
    assert remark is None, "the data are prepared"
    found = estimate_memory(model.replace(vocab_size=size), wanted, Precision(torch.float32, False, ""))
    state = sum(path.stat().st_size for path in result.state.iterdir())
    assert found.state_bytes == pytest.approx(state, rel=0.02)
    assert found.model_bytes == pytest.approx(result.best_model.stat().st_size, rel=0.02)


def test_the_largest_model_is_estimated_in_a_moment():
    skeleton.cache_clear()
    began = time.process_time()
    found = estimate("large", devices=8, gpu="H100", device_memory=80 * 10**9)
    assert time.process_time() - began < 2
    assert [way.sharing for way in found.ways] == ["none", "ddp", "fsdp"]
    assert [way.fits for way in found.ways] == [False, False, True]
    assert found.precision.dtype == torch.bfloat16


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_every_size_can_be_estimated_and_its_memory_adds_up(size):
    found = estimate(size, devices=2, gpu="H100", device_memory=80 * GIB)
    for way in found.ways:
        assert sum(way.memory().values()) == way.plan.peak
        assert min(way.memory().values()) >= 0
    values = json.loads(found.to_json())
    assert values["flops_per_token"] == training_flops_per_token(model_config(size), 512)
    assert [way["tokens_per_step"] for way in values["ways"]] == [2048, 4096, 4096]


def test_more_devices_bound_more_tokens_and_hold_less_each():
    two = estimate(devices=2, gpu="A100", device_memory=40 * GIB)
    eight = estimate(devices=8, gpu="A100", device_memory=40 * GIB)
    assert eight.tokens_per_second_bound(eight.ways[1]) == 4 * two.tokens_per_second_bound(two.ways[1])
    assert two.tokens_per_second_bound(two.ways[0]) == 312e12 / two.flops_per_token
    parameters = [found.ways[2].plan.estimate.parameters for found in (two, eight)]
    assert parameters[1] == pytest.approx(parameters[0] / 4, rel=0.01)


def test_what_is_not_known_is_said_and_is_none():
    found = estimate(gpu="Voodoo 2")
    values = found.to_dict()
    assert values["peak_flops_per_device"] is values["available_bytes_per_process"] is None
    assert values["ways"][0]["fits"] is values["ways"][0]["tokens_per_second_bound"] is None
    notes = " ".join(found.notes)
    assert "Voodoo 2" in notes
    assert "--device-memory" in notes


def test_processes_of_a_cpu_share_its_memory():
    assert estimate("nano", devices=3).available < 0.5 * estimate("nano").available
    assert estimate("nano", devices=3, device_memory=GIB).available == GIB


def test_a_gpu_without_bfloat16_would_train_in_float16():
    assert estimate("nano", gpu="Tesla T4").precision == Precision(torch.float16, True, "this GPU has no bfloat16")
    assert estimate("nano", gpu="T4", training={"precision": "float32"}).precision.dtype == torch.float32


def test_a_story_vocabulary_that_is_not_prepared_is_assumed(tmp_path):
    config = data_config("nano", data_dir=str(tmp_path))
    size, remark = vocabulary_size(config)
    assert size == ASSUMED_VOCABULARY
    assert "assumed" in remark
    assert vocabulary_size(config.replace(dataset_path=str(tmp_path / "none.txt")))[0] == ASSUMED_VOCABULARY
    assert vocabulary_size(HARMONY) == (201_088, None)
    assert list(tmp_path.iterdir()) == []


def test_what_travels_is_counted_in_rings():
    model = model_config("nano", vocab_size=1000, n_layer=2, num_experts=4)
    count = model.parameters().total

    def sent(devices, passes=1, exchanges=1, **settings):
        return bytes_sent(model, TrainingConfig(**settings), devices, passes=passes, exchanges=exchanges)

    assert sent(1, use_ddp=True) == sent(8) == 0
    assert sent(2, use_ddp=True) == 4 * count
    assert sent(4, 3, use_ddp=True) == 4 * 2 * count * 3 // 4, "once a step, however many passes"
    tables = count - model.n_layer * (model.parameters().non_embedding - model.n_embd) // model.n_layer
    blocks = count - tables
    assert sent(2, parallelism="fsdp") == 4 * (tables + 2 * blocks + count) // 2
    assert sent(2, 3, parallelism="fsdp") - sent(2, 1, parallelism="fsdp") == 4 * 2 * (tables + 2 * blocks) // 2
    assert sent(2, 3, 3, parallelism="fsdp") - sent(2, 3, 1, parallelism="fsdp") == 4 * 2 * count // 2
    attention = 2 * (128 * 256 + 128 * 128)  # qkv and output of both layers; experts are dealt out whole
    assert sent(2, parallelism="fsdp", optimizer="muon") - sent(2, parallelism="fsdp") == 4 * attention // 2


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * GIB), ("80GB", 80 * 10**9), ("512 mib", 2**29), ("1.5T", int(1.5e12)), ("7", 7)]
)
def test_amounts_of_memory(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "3 apples", "0", "1e9"])
def test_other_texts_are_no_amounts(text):
    with pytest.raises(EstimateError, match="24GiB"):
        parse_bytes(text)


def test_the_command_prints_all_ways_and_allocates_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "--estimate",
        "--model-size",
        "large",
        "--devices",
        "16",
        "--gpu",
        "H100",
        "--device-memory",
        "80GB",
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    for word in ("6,330,660,432 parameters", "ddp", "fsdp", "tokens/s at the most", "activations", "sent in a step"):
        assert word in printed
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ways"][2]["devices"] == 16
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_devices_is_that_of_torchrun(capsys, monkeypatch):
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert main(["train", "--estimate", "--json", "--vocabulary", "harmony"]) == 0
    assert json.loads(capsys.readouterr().out)["ways"][1]["devices"] == 4
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--estimate", "--json"]) == 0
    assert capsys.readouterr().out == "", "one of them prints"


@pytest.mark.parametrize("words", [["--devices", "2"], ["--gpu", "H100"], ["--device-memory", "1GiB"], ["--json"]])
def test_flags_of_the_estimate_do_nothing_silently_elsewhere(words, capsys):
    assert main(["train", *words]) == 2
    assert f"{words[0]}: only for --estimate" in capsys.readouterr().err
