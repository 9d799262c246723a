"""The check before a run: it finds what would stop the run, and leaves everything as it was."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gpt_oss_stories.cli import main
from gpt_oss_stories.config import DataConfig, TrainingConfig, model_config
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.files import sha256_of_file
from gpt_oss_stories.training import memory, preflight, recorder
from gpt_oss_stories.training.preflight import Preflight
from support.trials import Trial, drawn_quickly, write_stories

SHAPE = {"vocab_size": 300, "n_layer": 2, "n_embd": 32, "head_dim": 8, "block_size": 64, "sliding_window": 16}


@pytest.fixture(scope="module")
def ran(stories, tmp_path_factory):
    """A run of six steps with a state after four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "plot_training_curves", drawn_quickly)
        trial = Trial(stories, tmp_path_factory.mktemp("runs"))
        trial(save_interval=4)
    return trial


def check(trial, *, model=None, data=None, **changes):
    settings = {
        "max_iters": 6, "batch_size": 4, "train_length": 64, "use_mixed_precision": False, "device": "cpu",
        "learning_rate": 3e-3, "checkpoint_dir": str(trial.folder / "run"),
    }  # fmt: skip
    shape = {**SHAPE, **(model or {})}
    return preflight.preflight(
        model_config("nano", **shape), TrainingConfig(**{**settings, **changes}), trial.data(**(data or {}))
    )


def verdicts(found: Preflight, name: str) -> list[str]:
    return [one.verdict for one in found.checks if one.name == name]


def words(found: Preflight, name: str) -> str:
    return " / ".join(one.words for one in found.checks if one.name == name)


def everything_in(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of_file(path) if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def test_a_sound_run_passes_in_all_points_and_nothing_is_written(ran):
    before = everything_in(ran.folder), everything_in(ran.stories.parent)
    found = check(ran, max_iters=9)
    assert found.exit_code == 0, found.checks
    assert {one.verdict for one in found.checks} == {"ok"}
    names = ["settings", "device", "processes", "precision", "trackers", "data", "vocabulary", "memory", "resume",
             "disk", "one row"]  # fmt: skip
    assert [one.name for one in found.checks] == names
    assert "90" not in words(found, "vocabulary")
    assert "state-00000006, after 6 steps" in words(found, "resume")
    assert "forward and backward" in words(found, "one row")
    assert (everything_in(ran.folder), everything_in(ran.stories.parent)) == before


def test_another_run_in_the_folder_would_be_moved_aside_and_the_reason_is_told(ran):
    found = check(ran, seed=5)
    assert found.exit_code == 0
    assert verdicts(found, "resume") == ["ok", "warning"]
    told = words(found, "resume")
    assert "starts anew" in told
    assert "state-00000006" in told
    assert "best_model.pt" in told
    assert "seed 1337 -> 5" in told


def test_a_complete_run_is_told(ran):
    assert "complete" in words(check(ran), "resume")


def test_a_damaged_newest_state_is_told_and_the_one_before_it_found(ran, tmp_path):
    shutil.copytree(ran.folder / "run", tmp_path / "run")
    (damaged,) = (tmp_path / "run" / "state-00000006").glob("*.distcp")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    found = check(ran, checkpoint_dir=str(tmp_path / "run"))
    told = words(found, "resume")
    assert "damaged" in told
    assert "goes on from" in told
    assert "state-00000004" in told


def test_a_state_that_is_not_there_is_a_problem(ran, tmp_path):
    found = check(ran, resume=str(tmp_path / "state-00000001"))
    assert found.exit_code == 1
    assert verdicts(found, "resume") == ["problem"]


def test_stories_that_are_not_prepared_are_sampled(tmp_path):
    trial = Trial(write_stories(tmp_path), tmp_path)
    before = everything_in(tmp_path)
    found = check(trial)
    assert found.exit_code == 0, found.checks
    assert "to be prepared in" in words(found, "data")
    assert "the first 20 stories can be read" in words(found, "data")
    assert "assumed" in words(found, "vocabulary")
    assert words(found, "resume") == "starts anew"
    assert everything_in(tmp_path) == before


def test_bad_lines_at_the_beginning_are_told(tmp_path):
    path = tmp_path / "stories.jsonl"
    good = json.dumps({"text": "Once there was a hen. " * 12})
    path.write_text("\n".join(["not json", good, "{}", good]) + "\n")
    found = check(Trial(path, tmp_path))
    assert "warning" in verdicts(found, "data")
    assert "2 of the first 4 entries cannot be used" in words(found, "data")


@pytest.mark.parametrize("content", [None, "", "{}\n"])
def test_without_any_story_there_is_a_problem(tmp_path, content):
    path = tmp_path / "stories.jsonl"
    if content is not None:
        path.write_text(content)
    found = check(Trial(path, tmp_path))
    assert found.exit_code == 1
    assert "problem" in verdicts(found, "data")
    assert verdicts(found, "memory") == ["ok"], "the rest is looked at all the same"


def test_damaged_shards_are_a_problem(tmp_path):
    trial = Trial(write_stories(tmp_path), tmp_path)
    directory = prepare(trial.data()).directory
    shard = max(directory.glob("train*"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(bytes(content))
    found = check(trial)
    assert verdicts(found, "data") == ["problem"]
    assert str(directory) in words(found, "data")


def test_no_story_held_out_is_told(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"text": "Once there was a hen. " * 12}) + "\n")
    trial = Trial(path, tmp_path)
    changes = {"drop_repetitive": False}
    prepare(trial.data(**changes))
    assert "held out" in words(check(trial, data=changes), "data")


def test_too_little_disk_and_memory_are_problems(ran, monkeypatch):
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(preflight, "available_memory", lambda device: 2**20)
    found = check(ran, checkpoint_dir=str(ran.folder / "new"))
    assert verdicts(found, "disk") == verdicts(found, "memory") == ["problem"]
    assert "--keep-states" in words(found, "disk")
    assert verdicts(found, "one row") == [], "it would not fit either"
    assert found.exit_code == 1


def test_activations_that_may_not_fit_are_a_warning(ran, monkeypatch):
    roomy = check(ran, checkpoint_dir=str(ran.folder / "new"))
    assert verdicts(roomy, "memory") == ["ok"]
    whole = preflight.plan_batch

    def tight(*arguments, available, **options):
        return whole(*arguments, available=whole(*arguments, available=None, **options).peak - 1, **options)

    monkeypatch.setattr(preflight, "plan_batch", tight)
    found = check(ran, checkpoint_dir=str(ran.folder / "new"), batch_size=1, activation_checkpointing="off")
    assert verdicts(found, "memory") == ["warning"]
    assert "--activation-checkpointing auto" in words(found, "memory")
    assert found.exit_code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_is_closed_is_a_problem(ran, tmp_path):
    tmp_path.chmod(0o500)
    assert verdicts(check(ran, checkpoint_dir=str(tmp_path / "run")), "disk") == ["problem"]


def test_a_file_in_the_place_of_the_folder_is_a_problem(ran, tmp_path):
    (tmp_path / "run").write_text("")
    assert verdicts(check(ran, checkpoint_dir=str(tmp_path / "run" / "deeper")), "disk") == ["problem"]


def test_a_tracker_whose_package_is_missing_is_a_problem(ran, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    found = check(ran, use_wandb=True)
    assert verdicts(found, "trackers") == ["problem"]
    assert "pip install" in words(found, "trackers")


def test_a_device_that_is_not_there_ends_the_check(ran, monkeypatch):
    monkeypatch.setattr(preflight.torch.cuda, "is_available", lambda: False)
    found = check(ran, device="cuda")
    assert verdicts(found, "device") == ["problem"]
    assert found.exit_code == 1


def test_a_model_that_computes_nonsense_is_a_problem(ran, monkeypatch):
    from gpt_oss_stories.model.transformer import StoryTransformer

    def poisoned(self, seed):
        for parameter in self.parameters():
            parameter.data.fill_(float("nan"))

    monkeypatch.setattr(StoryTransformer, "initialise", poisoned)
    assert verdicts(check(ran), "one row") == ["problem"]


def one_row(monkeypatch, loss):
    """Let `loss` take the place of the model's, which it gets as its first argument."""
    plain = preflight.StoryTransformer.loss
    monkeypatch.setattr(preflight.StoryTransformer, "loss", lambda *arguments: loss(plain, *arguments))


def replan(monkeypatch, **changes):
    plain = preflight.plan_batch
    monkeypatch.setattr(preflight, "plan_batch", lambda *args, **kw: dataclasses.replace(plain(*args, **kw), **changes))


def test_a_row_is_sent_as_the_run_will_send_it(ran, monkeypatch):
    seen = []
    one_row(monkeypatch, lambda plain, model, *args: seen.append(model.recompute_blocks) or plain(model, *args))
    check(ran)
    replan(monkeypatch, recompute=True)
    check(ran)
    assert seen == [False, True]


def test_a_row_without_memory_is_a_problem_and_other_errors_are_not_hidden(ran, monkeypatch):
    def fail(*arguments):
        raise failure

    one_row(monkeypatch, fail)
    failure = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    found = check(ran)
    assert verdicts(found, "one row") == ["problem"]
    assert "memory ran out (RuntimeError: CUDA out of memory" in words(found, "one row")
    assert "--activation-checkpointing on" in words(found, "one row")
    failure = RuntimeError("a fault of the program")
    with pytest.raises(RuntimeError, match="a fault of the program"):
        check(ran)


def test_a_model_of_which_a_process_can_hold_only_a_slice_is_not_tried(ran, monkeypatch):
    one_row(monkeypatch, lambda *arguments: pytest.fail("it does not fit"))
    replan(monkeypatch, available=10_000, peak=9_000)
    found = check(ran, parallelism="fsdp")
    assert verdicts(found, "one row") == ["ok"]
    assert "left out: a process that holds the whole model needs" in words(found, "one row")


def test_the_first_loss_scale_of_float16_may_be_too_large(ran, monkeypatch):
    def steep(plain, *arguments):
        losses = plain(*arguments)
        losses.total.register_hook(lambda gradient: torch.where(gradient > 1, torch.inf, gradient))
        return losses

    one_row(monkeypatch, steep)
    assert verdicts(check(ran, use_mixed_precision=True, precision="float16"), "one row") == ["ok"]


def test_a_large_model_is_not_tried_on_a_cpu(ran, monkeypatch):
    monkeypatch.setattr(preflight, "STEP_PARAMETERS", 1000)
    found = check(ran)
    assert verdicts(found, "one row") == ["ok"]
    assert "left out" in words(found, "one row")


def test_processes_without_a_way_to_share_are_a_warning(ran):
    assert verdicts(check(ran, use_ddp=True), "processes") == ["warning"]


def command(trial, *flags):
    return [
        "train", "--check", "--device", "cpu", "--dataset-path", str(trial.stories),
        "--data-dir", str(trial.stories.parent / "prepared"), "--validation-fraction", "0.1",
        "--checkpoint-dir", str(trial.folder / "fresh"), "--train-length", "64", *flags,
    ]  # fmt: skip


def test_the_command_prints_a_table_and_its_exit_code_says_whether_it_can_run(ran, capsys):
    assert main(command(ran)) == 0
    assert "one row" in capsys.readouterr().out
    assert main(command(ran, "--dataset-path", str(ran.folder / "none.txt"))) == 1
    assert "problem" in capsys.readouterr().out
    assert main(command(ran, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["problems_in_other_processes"] == 0
    assert {one["verdict"] for one in result["checks"]} == {"ok"}
    assert not (ran.folder / "fresh").exists()


def test_processes_of_torchrun_talk_and_one_prints(ran, commands, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python",
              "stories", *command(ran, "--use-ddp")]  # fmt: skip
    done = commands.run(launch, tmp_path, seconds=200)
    assert done.returncode == 0, done.stderr
    assert "2 that can talk to each other, ddp" in " ".join(done.stdout.split())
    assert done.stdout.count("trackers") == 1


def test_data_without_any_source_is_a_problem(ran):
    none = DataConfig(storybook_stories=0, first_readers=0, original_repeats=0)
    found = preflight.preflight(model_config("nano"), TrainingConfig(device="cpu", train_length=64), none)
    assert verdicts(found, "data") == ["problem"]
