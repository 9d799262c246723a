"""The training run: resuming, splitting, stopping, and the files that it leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from gpt_oss_stories.config import ConfigError
from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.files import FileWriteError
from gpt_oss_stories.model import pointwise
from gpt_oss_stories.model.model_file import load_model_file
from gpt_oss_stories.training import checkpoint, memory, recorder, trackers, trainer
from gpt_oss_stories.training.checkpoint import CheckpointError, list_states, read_state
from gpt_oss_stories.training.display import Speaker
from gpt_oss_stories.training.distributed import DistributedError, Processes
from gpt_oss_stories.training.memory import DiskNeedError, plan_batch
from gpt_oss_stories.training.metrics import read_metrics
from gpt_oss_stories.training.plots import plot_training_curves
from gpt_oss_stories.training.trackers import TrackerError
from support.records import series
from support.trials import assert_same_weights, weights_of


def send(number, at):
    """A hook that sends this process a signal after the evaluation of one step."""

    def hook(model, vocabulary, step):
        if step == at:
            os.kill(os.getpid(), number)

    return hook


def test_a_run_leaves_a_model_a_state_metrics_and_a_picture(trial, monkeypatch):
    monkeypatch.setattr(recorder, "plot_training_curves", plot_training_curves)
    result = trial(max_iters=12, eval_interval=4, save_interval=5)
    assert result.complete
    assert result.exit_code == 0
    assert result.steps == 12
    assert result.tokens_seen == 12 * 4 * 64
    file = load_model_file(result.best_model)
    assert file.config.vocab_size == file.vocabulary.size
    assert file.provenance["step"] == 12
    assert file.provenance["training_config"]["max_iters"] == 12
    assert result.plot.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in list_states(result.checkpoint_dir)] == ["state-00000012", "state-00000010"]
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    steps, losses = series(rows, "loss_nats")
    assert steps == list(range(1, 13))
    assert losses[-1] < losses[0] - 0.5
    assert series(rows, "validation_loss_nats")[0] == [4, 8, 12]
    last = rows[-1]
    assert last["validation_loss_nats"] == result.validation_loss == result.best_validation_loss
    assert 0 < last["validation_bits_per_byte"] < last["validation_loss_nats"]
    assert last["expert_load_max_over_mean"] >= 1 >= last["expert_load_min_over_mean"] >= 0
    assert not list(result.checkpoint_dir.rglob(".*.part"))
    assert not list(result.checkpoint_dir.glob(".saving*"))


def test_bits_per_byte_by_hand(trial):
    result = trial(max_iters=1)
    prepared = trainer.prepare(trial.data())
    file = load_model_file(result.best_model)
    model, shard = file.build(), prepared.validation
    nats = count = 0.0
    model.requires_grad_(False)
    for index in range(len(shard)):
        begin, end = int(shard.offsets[index]), int(shard.offsets[index + 1])
        tokens = torch.tensor([list(map(int, shard.tokens[begin:end]))])
        logits = model.logits(tokens)[0, :-1].log_softmax(-1)
        nats -= float(logits.gather(1, tokens[0, 1:, None]).sum())
        count += sum(len(file.vocabulary.token_bytes(int(token))) for token in tokens[0, 1:])
    assert result.validation_bits_per_byte == pytest.approx(nats / count / 0.6931471805599453, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(trial, optimizer):
    # 17 training rows or so: 12 steps of 2 x 4 rows cross several epochs' borders.
    options = {
        "max_iters": 12,
        "optimizer": optimizer,
        "gradient_accumulation_steps": 2,
        "eval_interval": 6,
        "learning_rate_schedule": "cosine",
        "model": {"multi_token_predict": 2},
    }
    whole = trial("whole", **options)
    half = trial("parts", hook=send(signal.SIGTERM, at=6), **options)
    assert (half.steps, half.complete, half.exit_code) == (6, False, 143)
    rest = trial("parts", **options)
    assert "resuming from" in trial.printed
    assert rest.steps == 12
    assert rest.complete
    assert_same_weights(whole, rest)
    left, right = (read_metrics(r.checkpoint_dir / "metrics.jsonl") for r in (whole, rest))
    for name in ("loss_nats", "grad_norm", "learning_rate", "validation_loss_nats", "tokens_seen"):
        assert series(left, name) == series(right, name)
    assert read_state(whole.state).best_validation_loss == read_state(rest.state).best_validation_loss


def test_an_interrupted_run_says_how_to_go_on_and_has_a_model(trial):
    result = trial(max_iters=50, eval_interval=3, hook=send(signal.SIGINT, at=3))
    assert result.exit_code == 130
    assert result.steps == 3
    assert "goes on from" in trial.printed
    assert "SIGINT" in trial.printed
    assert result.best_model.exists()
    assert read_state(result.state).step == 3


def test_handlers_are_restored(trial):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    trial(max_iters=1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_complete_run_is_not_trained_again(trial):
    first = trial(max_iters=2)
    again = trial(max_iters=2)
    assert "this run is complete" in trial.printed
    assert again.complete
    assert again.exit_code == 0
    assert again.steps == 2
    assert again.best_model == first.best_model
    (first.checkpoint_dir / "wandb").mkdir()
    longer = trial(max_iters=4)
    assert longer.steps == 4
    assert (first.checkpoint_dir / "wandb").is_dir(), "a run that goes on keeps its own"
    assert "max_iters 2 -> 4" in trial.printed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 5}, "seed 1337 -> 5"),
        ({"model": {"n_embd": 48}}, "n_embd 32 -> 48"),
        ({"data": {"validation_fraction": 0.2}}, "other data"),
        ({"optimizer": "muon"}, "optimizer adamw -> muon"),
        ({"resume": "never"}, "--resume never"),
    ],
)
def test_another_run_moves_the_files_of_the_one_before_aside(trial, change, reason):
    first = trial(max_iters=2)
    (first.checkpoint_dir / "wandb").mkdir()
    model = first.best_model.read_bytes()
    second = trial(max_iters=2, **change)
    assert second.steps == 2
    aside = first.checkpoint_dir / "previous-1"
    assert reason in trial.printed
    assert str(aside) in trial.printed
    assert (aside / "best_model.pt").read_bytes() == model
    left = {"best_model.pt", "metrics.jsonl", "plots", "run.json", "state-00000002", "wandb"}
    assert {path.name for path in aside.iterdir()} == left
    assert len(read_metrics(second.checkpoint_dir / "metrics.jsonl")) == 2


def test_only_what_a_run_itself_has_left_half_written_is_cleared(trial):
    folder = trial(max_iters=2).checkpoint_dir
    own = [".best_model.pt.a.part", ".metrics.jsonl.a.part", ".run.json.a.part", "plots/.training_curves.png.a.part",
           "state-00000002/.state.json.a.part"]  # fmt: skip
    for name in (*own, ".x.pt.a.part"):
        (folder / name).write_bytes(b"half")
    (folder / ".hf.a.part").mkdir()  # `stories export --out checkpoints/hf` at work, and `stories import`
    trial(max_iters=4)
    assert {path.name for path in folder.rglob(".*.part")} == {".hf.a.part", ".x.pt.a.part"}


def test_a_damaged_newest_state_gives_way_to_the_one_before(trial):
    options = {"max_iters": 8, "save_interval": 2, "keep_states": 3}
    whole = trial("whole", **options)
    trial("damaged", **options)
    newest = trial.folder / "damaged" / "state-00000008"
    file = newest / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-100])
    result = trial("damaged", **options)
    assert "damaged" in trial.printed
    assert "trying the state before it" in trial.printed
    assert "state-00000006: step 6" in trial.printed
    assert_same_weights(whole, result)
    assert (trial.folder / "damaged" / "previous-1" / "state-00000008").is_dir()


def test_resuming_from_a_path_goes_back_to_it(trial):
    options = {"max_iters": 8, "save_interval": 2, "keep_states": 5}
    whole = trial(**options)
    weights = weights_of(whole)
    result = trial(resume=str(trial.folder / "run" / "state-00000004"), **options)
    assert "step 4" in trial.printed
    assert all(torch.equal(weights[name], tensor) for name, tensor in weights_of(result).items())


def test_a_path_that_does_not_fit_is_an_error_and_changes_nothing(trial):
    first = trial(max_iters=2)
    before = sorted(first.checkpoint_dir.rglob("*"))
    with pytest.raises(CheckpointError, match=r"another run \(seed 1337 -> 9\)"):
        trial(resume=str(first.state), seed=9)
    with pytest.raises(CheckpointError, match="there is no training state"):
        trial(resume=str(trial.folder / "nowhere"))
    assert sorted(first.checkpoint_dir.rglob("*")) == before


class Killed(BaseException):
    """Nothing in the program handles it, like the end of a process."""


@pytest.mark.parametrize("place", ["evaluate", "save_model", "update_state", "sample"])
def test_a_run_that_dies_in_an_evaluation_records_it_once_when_it_is_resumed(trial, monkeypatch, place):
    def die(*args, **options):
        raise Killed(f"in {place}")

    owner = {"evaluate": trainer, "save_model": trainer, "update_state": checkpoint}.get(place)
    options = {"max_iters": 8, "eval_interval": 4, "save_interval": 4}
    whole = trial("whole", **options)
    with monkeypatch.context() as patch:
        if owner is not None:
            patch.setattr(owner, place, die)
        with pytest.raises(Killed):
            trial("parts", hook=die if owner is None else None, **options)
    saved = read_state(trial.folder / "parts" / "state-00000004")
    assert saved.evaluated_step == (4 if place == "sample" else None)
    rest = trial("parts", **options)
    assert read_state(rest.state).best_validation_loss == read_state(whole.state).best_validation_loss
    assert_same_weights(whole, rest)
    left, right = (read_metrics(r.checkpoint_dir / "metrics.jsonl") for r in (whole, rest))
    assert [row["step"] for row in right] == list(range(1, 9))
    for name in ("validation_loss_nats", "validation_bits_per_byte"):
        assert series(left, name) == series(right, name)
    assert series(left, "loss_nats") == series(right, "loss_nats")


def split_into(rows):
    def plan(*arguments, **options):
        return dataclasses.replace(plan_batch(*arguments, **options), rows=rows, recompute=rows == 1)

    return plan


def test_splitting_batches_and_recomputing_do_not_change_the_gradient(trial, monkeypatch):
    losses, norms = [], []
    for rows in (4, 2, 1):
        monkeypatch.setattr(trainer, "plan_batch", split_into(rows))
        result = trial(f"rows-{rows}", router_balance="none", model={"multi_token_predict": 2}, max_iters=4)
        records = read_metrics(result.checkpoint_dir / "metrics.jsonl")
        losses.append([row["loss_nats"] for row in records] + [row["multi_token_loss_nats"][0] for row in records])
        norms.append([row["grad_norm"] for row in records])
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], abs=2e-4)
        assert norms[other][:1] == pytest.approx(norms[0][:1], rel=1e-4)


def test_accumulation_equals_a_larger_batch(trial):
    large = trial("large", batch_size=4, router_balance="none", max_iters=4)
    small = trial("small", batch_size=2, gradient_accumulation_steps=2, router_balance="none", max_iters=4)
    left, right = (series(read_metrics(r.checkpoint_dir / "metrics.jsonl"), "loss_nats")[1] for r in (large, small))
    assert right == pytest.approx(left, abs=2e-4)


def test_without_held_out_stories_the_last_model_is_kept(trial, tmp_path):
    lonely = tmp_path / "one.jsonl"
    lonely.write_text(json.dumps({"text": "Once there was a hen. " * 12}) + "\n")
    result = trial(
        max_iters=4, eval_interval=2, data={
            "dataset_path": str(lonely), "data_dir": str(tmp_path / "prepared"), "drop_repetitive": False,
        },
    )  # fmt: skip
    assert result.validation_loss is None
    assert result.best_validation_loss is None
    assert load_model_file(result.best_model).provenance["step"] == 4
    assert series(read_metrics(result.checkpoint_dir / "metrics.jsonl"), "validation_loss_nats") == ([], [])


def test_only_a_lower_loss_replaces_the_best_model(trial, monkeypatch):
    losses = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(trainer._Run, "evaluate", lambda self: trainer.Evaluation(next(losses), None, ()))
    result = trial(max_iters=6, eval_interval=2)
    assert load_model_file(result.best_model).provenance["step"] == 4
    assert (result.best_validation_loss, result.validation_loss) == (2.0, 2.5)


def test_a_time_limit_ends_the_run_with_a_decayed_learning_rate(trial):
    result = trial(max_iters=10**6, max_seconds=2.0, learning_rate_schedule="linear", min_learning_rate_ratio=0.0)
    assert result.complete
    assert 2.0 <= result.training_seconds < 20.0
    _, rates = series(read_metrics(result.checkpoint_dir / "metrics.jsonl"), "learning_rate")
    assert max(rates) > 1.5e-3
    assert rates[-1] < 1e-3
    again = trial(max_iters=10**6, max_seconds=2.0, learning_rate_schedule="linear", min_learning_rate_ratio=0.0)
    assert again.steps == result.steps
    assert "complete" in trial.printed


def test_a_run_that_the_clock_ended_at_a_saved_step_is_complete_too(trial):
    options = {"max_iters": 10**6, "max_seconds": 0.5, "save_interval": 1}
    first = trial(**options)
    assert trial(**options).steps == first.steps
    assert "this run is complete" in trial.printed


def test_biases_balance_the_router_instead_of_a_loss(trial):
    result = trial(router_balance="bias", router_bias_rate=0.01, learning_rate=1e-6, max_iters=3)
    bias = weights_of(result)["layers.0.experts.router.bias"]
    assert bias.abs().max() > 0.005


def test_a_row_longer_than_the_model_is_refused(trial):
    with pytest.raises(ConfigError, match="train_length=128 is longer than the model's block_size=64"):
        trial(train_length=128)


def test_a_missing_package_is_noticed_before_anything_is_moved_or_prepared(trial, monkeypatch):
    first = trial(max_iters=1)
    before = sorted(trial.folder.rglob("*"))

    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(trackers.importlib, "import_module", absent)
    with pytest.raises(TrackerError, match="tensorboard is not installed"):
        trial(max_iters=2, resume="never", use_tensorboard=True, data={"data_dir": str(trial.folder / "new")})
    assert sorted(trial.folder.rglob("*")) == before
    assert first.state.exists()


def test_too_little_room_on_the_disk_is_noticed_before_anything_is_moved(trial, monkeypatch):
    first = trial(max_iters=1)
    before = sorted(trial.folder.rglob("*"))
    usage = memory.shutil.disk_usage(trial.folder)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(DiskNeedError, match="lower --keep-states"):
        trial(max_iters=2, resume="never")
    with pytest.raises(DiskNeedError, match=r"saves up to .* \(1 x .* of training states .* 1 x .* of models\)"):
        trial(max_iters=2)
    assert sorted(trial.folder.rglob("*")) == before
    assert trial(max_iters=1).state == first.state, "a complete run needs no room"


def test_the_shape_of_an_epoch_is_told(trial):
    trial(max_iters=1, train_length=16, gradient_accumulation_steps=2)
    assert re.search(
        r"one epoch is [\d.]+ steps; \d+\.\d% of the batch is padding; \d+ stories longer than 16 tokens are cut",
        trial.printed,
    )


@pytest.fixture
def plain_kernels_again():
    """Compiled kernels are those of the whole process."""
    yield
    pointwise.plain_kernels()


@pytest.mark.usefixtures("plain_kernels_again")
def test_kernels_are_compiled_where_that_works(trial, monkeypatch):
    used = []

    def compile(function, **options):
        def compiled(*args):
            used.append(function)
            return function(*args)

        return compiled

    monkeypatch.setattr(pointwise.torch, "compile", compile)
    trial(max_iters=1, compile_model=True)
    assert set(used) == set(pointwise._PLAIN.values())
    assert "going on without" not in trial.printed
    pointwise.plain_kernels()
    assert pointwise._kernels == pointwise._PLAIN


@pytest.mark.parametrize("works_for", ["nothing", "forward"])
@pytest.mark.usefixtures("plain_kernels_again")
def test_without_what_compiling_needs_a_run_goes_on_with_plain_kernels(trial, monkeypatch, works_for):
    def compile(function, **options):
        def compiled(*args):
            if works_for == "forward" and function is pointwise._rms_norm:
                return function(*args)
            raise RuntimeError("C++ compile error\n\nOutput:\nx.cpp:1:10: fatal error: Python.h: No such file\n^~~")

        return compiled

    plain = trial("plain", max_iters=2)
    monkeypatch.setattr(pointwise.torch, "compile", compile)
    result = trial("compiled", max_iters=2, compile_model=True)
    line = "--compile-model does not work here (x.cpp:1:10: fatal error: Python.h: No such file): going on without\n"
    assert line in trial.printed
    assert pointwise._kernels == pointwise._PLAIN
    assert_same_weights(plain, result)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a shell script")
def test_a_compiler_that_fails_is_found_out_at_once(tmp_path):
    """torch.compile itself, with a compiler that answers when it is asked for its version and can do no more."""
    compiler = tmp_path / "c++"
    compiler.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo "g++ 13.0" && exit 0\n'
        'echo "x.cpp:1:10: fatal error: Python.h: No such file or directory" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    code = (
        "from gpt_oss_stories.model import pointwise\n"
        "try:\n    pointwise.compile_kernels()\n"
        "except pointwise.CompileError as error:\n    print(error, pointwise._kernels == pointwise._PLAIN)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "CXX": str(compiler),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout == "x.cpp:1:10: fatal error: Python.h: No such file or directory True\n", done.stderr


def test_samples_are_shown(trial):
    trial(max_iters=2, eval_interval=1, hook=lambda model, vocabulary, step: f"story of step {step}")
    assert "story of step 1" in trial.printed
    assert "story of step 2" in trial.printed


def test_a_sample_that_cannot_be_told_does_not_end_the_run(trial):
    def hook(model, vocabulary, step):
        raise StoryError("the prompt is too long")

    assert trial(max_iters=2, eval_interval=1, hook=hook).complete
    assert trial.printed.count("no sample story: the prompt is too long") == 2


def test_a_checkpoint_folder_that_cannot_be_made_is_one_clear_error(trial):
    (trial.folder / "file").write_text("mine")
    with pytest.raises(FileWriteError, match=r"cannot make the folder .*file.*--checkpoint-dir") as caught:
        trial("file", max_iters=1)
    assert "\n" not in str(caught.value)
    assert (trial.folder / "file").read_text() == "mine"


def test_a_run_that_the_clock_ends_after_an_evaluation_records_each_step_once(trial, monkeypatch):
    over = trainer._Run._is_over
    monkeypatch.setattr(trainer._Run, "_is_over", lambda self, seconds: self.state.step >= 2 or over(self, seconds))
    result = trial(max_iters=100, eval_interval=2)
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[-1]["loss_nats"] is not None
    assert rows[-1]["validation_loss_nats"] == result.validation_loss


def test_going_on_in_another_folder_keeps_the_best_model_from_there_on(trial, monkeypatch):
    first = trial("first", max_iters=2)
    losses = iter([1e9, 1e8, 2e8])
    monkeypatch.setattr(trainer._Run, "evaluate", lambda self: trainer.Evaluation(next(losses), None, ()))
    second = trial("second", max_iters=5, eval_interval=1, resume=str(first.state))
    assert second.best_validation_loss == 1e8
    assert load_model_file(second.best_model).provenance["step"] == 4


def test_a_state_may_be_named_in_any_way(trial, monkeypatch):
    first = trial(max_iters=2)
    folder = first.checkpoint_dir
    saved = []
    monkeypatch.setattr(trainer._Run, "_save", lambda self: saved.append(self.state.step))
    again = trial(max_iters=2, resume=f"{folder}/../{folder.name}/{first.state.name}")
    assert again.state == first.state
    assert saved == []


def test_torchrun_without_the_flag_is_refused(trial, monkeypatch):
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError, match="--use-ddp"):
        trial()


@pytest.mark.parametrize("there", [True, False], ids=["one disk", "a host with a disk of its own"])
def test_only_the_main_process_prepares_stories_again_when_that_is_asked_for(trial, monkeypatch, there):
    config = trial.data(process_data=True, force_reprocess=True)
    prepared = trainer.prepare(trial.data())
    asked = []

    def count(config, *given):
        asked.append(config)
        return prepared

    monkeypatch.setattr(trainer, "prepare", count)
    said = json.dumps(str(prepared.directory if there else trial.folder / "elsewhere"))
    monkeypatch.setattr(Processes, "share", lambda self, value: json.loads(said))
    monkeypatch.setattr(Processes, "wait_for_main", lambda self, work: None)
    for rank in (0, 1):
        data = trainer._prepare(config, Processes(rank, rank, 2), Speaker(None))
        assert data.fingerprint == prepared.fingerprint
    assert asked[0] == config
    assert [one.process_data or one.force_reprocess for one in asked[1:]] == ([] if there else [False])


def test_the_flag_without_torchrun_trains_in_one_process(trial):
    assert trial(use_ddp=True, max_iters=1).complete
    assert "torchrun" in trial.printed


SCRIPT = """
    import sys
    from gpt_oss_stories.config import DataConfig, TrainingConfig, model_config
    from gpt_oss_stories.training.trainer import train

    if __name__ == "__main__":
        train(
            model_config("nano", vocab_size=300, n_layer=2, n_embd=32, head_dim=8, block_size=64, sliding_window=16),
            TrainingConfig(max_iters=5, batch_size=2, gradient_accumulation_steps=2, train_length=64, eval_interval=5,
                           save_interval=3, log_interval=1, use_mixed_precision=False, device="cpu", learning_rate=3e-3,
                           use_ddp=True, router_balance="none", optimizer="muon", checkpoint_dir=sys.argv[1]),
            DataConfig(dataset_path=sys.argv[2], data_dir=sys.argv[3], vocabulary="story", validation_fraction=0.1),
        )
"""


@pytest.mark.slow
@pytest.mark.timeout(300)  # three Python processes that each load torch, on a machine that may be busy
def test_two_processes_equal_one_on_the_same_global_batch(trial, tmp_path):
    data = trial.data()
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(tmp_path / "two"),
        data.dataset_path,
        data.data_dir,
    ]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    one = trial(
        "one",
        max_iters=5,
        batch_size=4,
        gradient_accumulation_steps=2,
        eval_interval=5,
        router_balance="none",
        optimizer="muon",
        save_interval=3,
    )
    left, right = (read_metrics(folder / "metrics.jsonl") for folder in (one.checkpoint_dir, tmp_path / "two"))
    for name in ("loss_nats", "grad_norm"):
        (steps, values), (other_steps, others) = series(left, name), series(right, name)
        assert steps == other_steps == [1, 2, 3, 4, 5]
        assert others == pytest.approx(values, rel=1e-3), name
    assert right[-1]["validation_loss_nats"] == pytest.approx(left[-1]["validation_loss_nats"], rel=1e-3)
    assert right[-1]["tokens_seen"] == left[-1]["tokens_seen"]
    state = read_state(tmp_path / "two" / "state-00000005")
    assert state.world_size == 2
    assert state.rows_seen == read_state(one.state).rows_seen
    assert done.stderr.count("device cpu") == 1, "only the main process prints"
