"""Steps that go wrong: numbers that are not finite, memory that runs out, data that a disk has changed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from gpt_oss_stories.data.batches import BatchStream, validation_batches
from gpt_oss_stories.data.shards import ShardError
from gpt_oss_stories.files import FileWriteError
from gpt_oss_stories.training import checkpoint, stepper, trainer
from gpt_oss_stories.training.checkpoint import read_state
from gpt_oss_stories.training.distributed import Processes
from gpt_oss_stories.training.faults import is_out_of_memory, keep_evidence, not_finite
from gpt_oss_stories.training.metrics import read_metrics
from gpt_oss_stories.training.trainer import TrainingError
from support.trials import assert_same_weights, weights_of


def everything(run):
    """Copies of all that a skipped step must not change."""
    parts = [*run._tensors().values()]
    return [tensor.detach().clone() for tensor in parts]


@pytest.fixture
def poison(monkeypatch):
    """Makes some steps of the runs that follow go wrong; gives what each was like before and after its update."""
    seen = {}

    def make(place, steps, value=math.nan):
        plain_gradient, plain_update = trainer._Run._gradient, trainer.Stepper.update
        runs = {}

        def gradient(self, *args):
            runs[self.stepper] = self
            found = plain_gradient(self, *args)
            if self.state.step in steps and place == "gradient":
                self.model.norm.weight.grad[3] = value
                self.model.layers[1].experts.router.bias.grad[:2] = math.inf
            elif self.state.step in steps:
                losses = [value if index == place else loss for index, loss in enumerate(found.losses)]
                found = dataclasses.replace(found, losses=losses)
            return found

        def update(self, *args):
            run = runs[self]
            before = everything(run)
            outcome = plain_update(self, *args)
            seen[run.state.step] = (before, everything(run), outcome, run)
            return outcome

        monkeypatch.setattr(trainer._Run, "_gradient", gradient)
        monkeypatch.setattr(trainer.Stepper, "update", update)
        return seen

    return make


def bits(tensors):
    return [tensor.contiguous().view(torch.uint8).tolist() if tensor.dim() else tensor.item() for tensor in tensors]


@pytest.mark.parametrize(
    ("place", "optimizer"), [(0, "adamw"), (2, "muon"), ("gradient", "adamw"), ("gradient", "muon")]
)
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(trial, poison, place, optimizer):
    seen = poison(place, {2})
    result = trial(optimizer=optimizer, router_balance="bias", ema_decay=0.9, max_iters=4)
    assert result.complete
    for step, (before, after, outcome, _) in seen.items():
        assert (bits(before) == bits(after)) == (step == 2)
        assert outcome.moved == (step != 2)
        assert not outcome.overflowed
    # The router's biases and the average change after the update: what the next step finds is what this one left.
    assert bits(seen[2][1]) == bits(seen[3][0])
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    assert [row["skipped_steps"] for row in rows] == [0, 0, 1, 1]
    assert rows[2]["grad_norm"] is None
    assert [row["tokens_seen"] for row in rows] == [step * 4 * 64 for step in (1, 2, 3, 4)]
    state = read_state(result.state)
    assert (state.step, state.skipped_steps, state.averaged_steps, state.rows_seen) == (4, 1, 3, 16)
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(result).values())
    assert trial.printed.count("skipped, no weight was changed") == 1


def test_the_evidence_says_what_was_not_finite_and_in_which_stories(trial, poison):
    seen = poison("gradient", {2})
    result = trial(max_iters=4, gradient_accumulation_steps=2, learning_rate_schedule="constant", warmup_iters=0)
    (file,) = (result.checkpoint_dir / "bad-steps").iterdir()
    assert file.name == "step-00000003.json"
    assert str(file) in trial.printed
    found = json.loads(file.read_text())
    assert found["step"] == 3
    assert found["gradient_norm"] == "nan"
    assert found["gradients_not_finite"] == {
        "layers.1.experts.router.bias": {"nan": 0, "infinite": 2, "elements": 4},
        "norm.weight": {"nan": 1, "infinite": 0, "elements": 32},
    }
    assert found["weights_not_finite"] == {}
    assert found["losses"]["next_token"] == pytest.approx(
        read_metrics(result.checkpoint_dir / "metrics.jsonl")[2]["loss_nats"]
    )
    assert found["learning_rate"] == 3e-3
    assert found["loss_scale"] is None
    assert found["number_format"] == "float32"
    assert found["batches"] == [4, 5]
    run = seen[2][3]
    rows = torch.cat([run.stream.batch(number).tokens for number in found["batches"]])
    assert len(found["stories"]) == len(rows) == 8
    for row, numbers in zip(rows.tolist(), found["stories"], strict=True):
        told = [token for number in numbers for token in run.data.train.story(number)[0].tolist()]
        assert row[: len(told)] == told
        assert not any(row[len(told) :])


def test_stories_of_a_batch_are_those_of_all_processes(trial):
    shard = trainer.prepare(trial.data()).train
    one = BatchStream(shard, 4, 16, seed=3)
    two = [BatchStream(shard, 2, 16, seed=3, rank=rank, world_size=2) for rank in (0, 1)]
    for number in (0, 7, 60):
        assert one.stories(number) == two[0].stories(number) == two[1].stories(number)


def test_too_many_skipped_steps_in_a_row_end_the_run_and_lose_nothing(trial, poison):
    seen = poison(0, {2, 4, 5, 6, 7, 8, 9}, math.inf)
    with pytest.raises(TrainingError, match=r"step 8: .*not finite in 4 steps in a row.*state-00000008") as caught:
        trial(max_iters=20, max_skipped_steps=4, eval_interval=50)
    assert "\n" not in str(caught.value)
    state = read_state(trial.folder / "run" / "state-00000008")
    assert (state.step, state.skipped_steps) == (8, 5)
    assert bits(seen[4][0]) == bits(seen[7][1])
    rows = read_metrics(trial.folder / "run" / "metrics.jsonl")
    assert (rows[-1]["step"], rows[-1]["skipped_steps"]) == (8, 5)
    again = trial(max_iters=12, max_skipped_steps=4, eval_interval=50)
    assert "resuming from" in trial.printed
    assert (again.steps, read_state(again.state).skipped_steps) == (12, 7)


def test_a_run_that_gets_no_further_saves_no_more_states(trial, poison):
    poison(0, range(2, 100))
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"the last state is .*state-00000006"):
            trial(max_iters=20, max_skipped_steps=4, eval_interval=50, save_interval=50)
    assert [path.name for path in (trial.folder / "run").glob("state-*")] == ["state-00000006"]


def test_resuming_a_run_with_skipped_steps_is_exact(trial, poison):
    poison("gradient", {1, 4})
    options = {"ema_decay": 0.95, "save_interval": 3}
    whole = trial("whole", max_iters=6, **options)
    trial("parts", max_iters=6, **options)
    resumed = trial("parts", max_iters=6, resume=str(trial.folder / "parts" / "state-00000003"), **options)
    assert "step 3" in trial.printed
    assert_same_weights(whole, resumed)
    assert read_state(whole.state).skipped_steps == read_state(resumed.state).skipped_steps == 2


def scaled(monkeypatch):
    precision = trainer.Precision(torch.float32, True, "scaled for the test")
    monkeypatch.setattr(trainer, "choose_precision", lambda device, *wishes: precision)


def test_overflow_of_scaled_gradients_lowers_the_scale_without_ado(trial, monkeypatch, poison):
    scaled(monkeypatch)
    poison("gradient", {1}, math.inf)
    result = trial(max_iters=3)
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    assert [row["skipped_steps"] for row in rows] == [0, 1, 1]
    assert rows[1]["loss_scale"] == rows[0]["loss_scale"] / 2 == rows[2]["loss_scale"]
    assert rows[1]["grad_norm"] is None
    assert "skipped" not in trial.printed
    assert not (result.checkpoint_dir / "bad-steps").exists()


def test_the_scale_moves_as_gradscaler_moves_it(trial, monkeypatch, poison):
    scaled(monkeypatch)
    overflows = {1, 2, 5}
    poison("gradient", overflows, math.inf)
    made = torch.amp.GradScaler

    def quick(*args, **options):
        return made(*args, **options, growth_interval=2)

    monkeypatch.setattr(trainer.torch.amp, "GradScaler", quick)
    result = trial(max_iters=9)
    scales = [row["loss_scale"] for row in read_metrics(result.checkpoint_dir / "metrics.jsonl")]
    twin, parameter = quick("cpu"), nn.Parameter(torch.ones(1))
    optimizer, expected = torch.optim.SGD([parameter], lr=0.0), []
    for step in range(9):
        twin.scale(parameter.sum()).backward()
        if step in overflows:
            parameter.grad.fill_(math.inf)
        twin.step(optimizer)
        twin.update()
        optimizer.zero_grad()
        expected.append(twin.get_scale())
    assert scales == expected
    assert scales[:6] == [2.0**power for power in (16, 15, 14, 14, 15, 14)]


def test_a_loss_that_is_not_finite_keeps_the_scale_and_its_evidence(trial, monkeypatch, poison):
    scaled(monkeypatch)
    poison(0, {1})
    result = trial(max_iters=3)
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    assert len({row["loss_scale"] for row in rows}) == 1
    assert json.loads((result.checkpoint_dir / "bad-steps" / "step-00000002.json").read_text())["loss_scale"] == 65536


def test_overflow_at_a_scale_of_one_is_a_fault(trial, monkeypatch, poison):
    scaled(monkeypatch)
    made = torch.amp.GradScaler
    monkeypatch.setattr(trainer.torch.amp, "GradScaler", lambda *args, **options: made(*args, **options, init_scale=1))
    poison("gradient", {1}, math.inf)
    result = trial(max_iters=3)
    assert (result.checkpoint_dir / "bad-steps" / "step-00000002.json").exists()
    assert trial.printed.count("skipped, no weight was changed") == 1


def test_processes_skip_a_step_together(trial, monkeypatch):
    """Numbers of one process that are not finite, while this one's are."""
    plain = Processes.largest
    seen = []

    def largest(self, values):
        seen.append(list(values))
        return [1.0, 0.0] if len(values) == 2 and len(seen) and values == [0.0, 0.0] else plain(self, values)

    monkeypatch.setattr(Processes, "largest", largest)
    with pytest.raises(TrainingError, match="2 steps in a row"):
        trial(max_iters=5, max_skipped_steps=2)


def test_not_finite_counts_and_takes_slices_together():
    good, bad = torch.ones(3, 2), torch.tensor([1.0, math.nan, -math.inf, math.inf])
    found = not_finite({"good": good, "bad": bad}, Processes())
    assert found == {"bad": {"nan": 1, "infinite": 2, "elements": 4}}


def test_only_the_newest_evidence_stays(tmp_path):
    for step in range(1, 24):
        path = keep_evidence(tmp_path, step, {"losses": [math.nan, math.inf, 1.5], "text": "nan"})
        os.utime(path, ns=(step, step))
    names = sorted(file.name for file in (tmp_path / "bad-steps").iterdir())
    assert names == [f"step-{step:08d}.json" for step in range(4, 24)]
    found = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found == {"step": 23, "losses": ["nan", "inf", 1.5], "text": "nan"}


def test_evidence_that_cannot_be_written_does_not_end_the_run(trial, poison, monkeypatch):
    def refuse(*args):
        raise FileWriteError("the disk is full")

    monkeypatch.setattr(trainer, "keep_evidence", refuse)
    poison(0, {1})
    assert trial(max_iters=3).complete
    assert "no weight was changed (the disk is full)" in trial.printed


# Memory


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error, told):
    assert is_out_of_memory(error) == told


class Cramped:
    """A model whose memory holds only so many rows in a pass."""

    def __init__(self, monkeypatch, *, most, recomputed=0, place="forward", error=None):
        self.calls = []
        plain = trainer.StoryTransformer.loss

        def loss(model, tokens, *args, **options):
            rows = len(tokens)
            self.calls.append((rows, model.recompute_blocks, torch.is_grad_enabled()))
            failure = error or RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            room = recomputed if model.recompute_blocks else most
            if not torch.is_grad_enabled():
                return plain(model, tokens, *args, **options)
            if rows > room and place == "forward":
                raise failure
            losses = plain(model, tokens, *args, **options)
            if rows > room:
                losses.total.register_hook(lambda gradient: (_ for _ in ()).throw(failure))
            return losses

        monkeypatch.setattr(trainer.StoryTransformer, "loss", loss)


@pytest.mark.parametrize(
    ("place", "error"),
    [("forward", torch.OutOfMemoryError("CUDA out of memory")), ("backward", None), ("backward", MemoryError())],
)
def test_a_step_without_memory_is_done_again_in_smaller_passes(trial, monkeypatch, place, error):
    options = {"max_iters": 3, "router_balance": "none"}
    whole = trial("whole", **options)
    Cramped(monkeypatch, most=1, place=place, error=error)
    cramped = trial("cramped", **options)
    assert trial.printed.count("memory ran out") == 2, "four rows, two rows, and then one for all steps that follow"
    assert "going on with 2 row(s) in a pass" in trial.printed
    assert "going on with 1 row(s) in a pass" in trial.printed
    left, right = (read_metrics(run.checkpoint_dir / "metrics.jsonl") for run in (whole, cramped))
    for name in ("loss_nats", "grad_norm"):
        assert [row[name] for row in right] == pytest.approx([row[name] for row in left], rel=1e-3)
    assert [row["skipped_steps"] for row in right] == [0, 0, 0]
    assert (read_state(cramped.state).most_rows, read_state(whole.state).most_rows) == (1, None)


def test_smaller_passes_are_kept_when_the_run_is_resumed(trial, monkeypatch):
    with monkeypatch.context() as patch:
        Cramped(patch, most=2)
        trial(max_iters=3)
    watched = Cramped(monkeypatch, most=4)
    trial(max_iters=5)
    assert "memory ran out" not in trial.printed
    assert {rows for rows, _, training in watched.calls if training} == {2}


def test_with_one_row_left_blocks_are_recomputed(trial, monkeypatch):
    watched = Cramped(monkeypatch, most=0, recomputed=1)
    result = trial(max_iters=2)
    assert result.complete
    assert "going on with blocks that are computed again in the backward pass" in trial.printed
    assert [call[:2] for call in watched.calls if call[2]] == [(4, False), (2, False)] + [(1, False)] + [(1, True)] * 8
    assert read_state(result.state).must_recompute


def test_blocks_are_not_recomputed_where_that_is_off(trial, monkeypatch):
    watched = Cramped(monkeypatch, most=0, recomputed=1)
    with pytest.raises(TrainingError, match=r"single row of 64 tokens.*--activation-checkpointing"):
        trial(max_iters=2, activation_checkpointing="off")
    assert not any(recomputed for _, recomputed, _ in watched.calls)
    trial(max_iters=2)
    watched.calls.clear()
    with pytest.raises(TrainingError, match="single row"):
        trial(max_iters=4, activation_checkpointing="off")
    assert not any(recomputed for _, recomputed, _ in watched.calls), "also where the state says that it was needed"


def test_a_state_holds_only_what_missing_memory_has_taught(trial, monkeypatch):
    Cramped(monkeypatch, most=0, recomputed=2)
    result = trial(max_iters=2, activation_checkpointing="on")
    assert "going on with 2 row(s)" in trial.printed
    assert (read_state(result.state).most_rows, read_state(result.state).must_recompute) == (2, False)


def test_memory_for_not_even_one_row_is_one_clear_line_and_what_was_learnt_is_kept(trial, monkeypatch):
    trial(max_iters=2)
    Cramped(monkeypatch, most=0)
    with pytest.raises(TrainingError, match=r"step 3: memory ran out .* single row of 64 tokens.*state-00000002"):
        trial(max_iters=4)
    assert read_state(trial.folder / "run" / "state-00000002").step == 2


def test_memory_that_runs_out_while_the_weights_change_is_one_clear_line(trial, monkeypatch):
    def fail(self, factor):
        raise MemoryError

    trial(max_iters=2)
    monkeypatch.setattr(stepper.StoryOptimizer, "step", fail)
    with pytest.raises(TrainingError, match=r"memory ran out after step 2 .*state-00000002.*--batch-size") as caught:
        trial(max_iters=4)
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_step_are_not_taken_for_missing_memory(trial, monkeypatch):
    Cramped(monkeypatch, most=0, error=RuntimeError("a fault of the program"))
    with pytest.raises(RuntimeError, match="a fault of the program"):
        trial(max_iters=2)


# Data


def damage(shard, place, content):
    with open(shard.path, "r+b") as file:
        file.seek(place)
        file.write(content)


@pytest.fixture
def own_data(trial, tmp_path):
    """Prepared data that a test may damage."""
    options = {"data_dir": str(tmp_path / "own")}
    return options, trainer.prepare(trial.data(**options))


def tokens_at(shard):
    return 128 + 8 * (len(shard) + 1)


def test_an_id_that_a_disk_has_changed_during_a_run_is_one_clear_line(trial, own_data):
    options, prepared = own_data
    shard = prepared.train

    def hook(model, vocabulary, step):
        if step == 2:
            damage(shard, tokens_at(shard), b"\xff" * 2 * len(shard.tokens))

    with pytest.raises(ShardError, match=r"token shard .*damaged: it holds the id 65,535, .*--process-data") as caught:
        trial(max_iters=8, eval_interval=2, hook=hook, data=options)
    assert str(shard.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    # The batches of the third step were built before the damage; it is in a state now.
    assert checkpoint.list_states(trial.folder / "run")[0].name == "state-00000003"


def test_offsets_that_a_disk_has_changed_are_found_before_they_are_used(trial, own_data):
    _, prepared = own_data
    shard = prepared.train
    stream = BatchStream(shard, 4, 64)
    rows = stream.rows_per_epoch
    damage(shard, 128 + 8 * 5, np.int64(-7).tobytes())
    with pytest.raises(ShardError, match="the story offsets do not rise"):
        stream.batch(rows // 4 + 1)
    with pytest.raises(ShardError, match="the story offsets do not rise"):
        list(validation_batches(shard, 4, 64))


def test_sound_ids_up_to_the_highest_pass(trial, own_data):
    shard = own_data[1].train
    shard.check_tokens(np.array([0, shard.vocabulary_size - 1]))
    with pytest.raises(ShardError):
        shard.check_tokens(np.array([0, shard.vocabulary_size]))


SCRIPT = """
    import resource, sys
    from pathlib import Path
    import psutil
    from gpt_oss_stories.config import DataConfig, TrainingConfig, model_config
    from gpt_oss_stories.training import recorder, trainer

    plain = trainer._Run._step

    def step(self, *args):
        if self.state.step == 0:
            used = psutil.Process().memory_info().vms
            resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
        return plain(self, *args)

    trainer._Run._step = step
    recorder.plot_training_curves = lambda metrics, picture: picture  # its libraries do not bear missing memory
    result = trainer.train(
        model_config("nano", vocab_size=300, n_layer=2, n_embd=64, head_dim=16, block_size=256, sliding_window=16),
        TrainingConfig(max_iters=2, batch_size=32, train_length=256, eval_interval=100, save_interval=100,
                       log_interval=1, use_mixed_precision=False, device="cpu", checkpoint_dir=sys.argv[1]),
        DataConfig(dataset_path=sys.argv[2], data_dir=sys.argv[3], vocabulary="story", validation_fraction=0.1),
    )
    print(result.complete, result.steps, result.validation_loss is not None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as Linux does it")
def test_with_memory_that_is_really_short_the_run_goes_on(trial, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    data = trial.data()
    command = [sys.executable, str(script), str(tmp_path / "run"), data.dataset_path, data.data_dir]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=100)
    assert done.stdout == "True 2 True\n", done.stderr
    assert "allocate" in done.stderr
    assert "going on with 16 row(s) in a pass" in done.stderr
    assert read_state(tmp_path / "run" / "state-00000002").most_rows <= 16
