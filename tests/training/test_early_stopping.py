"""Runs that end before their last step: evaluations that are no better, or that fail."""

from __future__ import annotations

import math

import pytest

from gpt_oss_stories.files import FileWriteError
from gpt_oss_stories.model.model_file import load_model_file
from gpt_oss_stories.training import recorder, trainer
from gpt_oss_stories.training.checkpoint import read_state
from gpt_oss_stories.training.metrics import read_metrics
from gpt_oss_stories.training.trainer import TrainingError
from support.records import series
from support.trials import assert_same_weights


@pytest.fixture
def told(monkeypatch):
    """Makes the evaluations after every second step find given losses, the last one ever after, or raise errors."""
    plain = trainer._Run.evaluate

    def tell(losses):
        def evaluate(self):
            found = losses[min(self.state.step // 2, len(losses)) - 1]
            if isinstance(found, Exception):
                raise found
            return trainer.dataclasses.replace(plain(self), loss_nats=found)

        monkeypatch.setattr(trainer._Run, "evaluate", evaluate)

    return tell


def test_a_run_ends_after_evaluations_without_a_better_loss(trial, told):
    told([3.0, 2.5, 2.6, 2.4, 2.4, 2.5, 1.0])
    result = trial(max_iters=50, eval_interval=2, early_stopping=2)
    assert (result.steps, result.complete, result.exit_code) == (12, True, 0)
    assert "--early-stopping: no better validation loss in 2 evaluation(s)" in trial.printed
    assert result.best_validation_loss == 2.4
    assert load_model_file(result.best_model).provenance["step"] == 8
    state = read_state(result.state)
    assert (state.step, state.evaluations_since_best, state.evaluated_step) == (12, 2, 12)
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    assert series(rows, "validation_loss_nats")[0] == [2, 4, 6, 8, 10, 12]
    again = trial(max_iters=50, eval_interval=2, early_stopping=2)
    assert again.steps == 12
    assert "this run is complete" in trial.printed
    assert "A larger --early-stopping goes on" in trial.printed
    longer = trial(max_iters=50, eval_interval=2, early_stopping=3)
    assert (longer.best_validation_loss, longer.steps) == (1.0, 20)


def test_the_count_survives_an_interruption(trial, told):
    losses = [1.0, 2.0, 2.0, 2.0, 2.0]
    told(losses)
    options = {"eval_interval": 2, "early_stopping": 4, "keep_states": 9}
    whole = trial("whole", max_iters=50, **options)
    assert whole.steps == 10
    trial("parts", max_iters=50, **options)
    parts = trial("parts", max_iters=50, resume=str(trial.folder / "parts" / "state-00000006"), **options)
    assert "step 6" in trial.printed
    assert parts.steps == 10
    assert_same_weights(whole, parts)


def test_early_stopping_without_held_out_stories_says_so(trial, tmp_path):
    lonely = tmp_path / "one.jsonl"
    lonely.write_text('{"text": "' + "Once there was a hen. " * 12 + '"}\n')
    data = {"dataset_path": str(lonely), "data_dir": str(tmp_path / "prepared"), "drop_repetitive": False}
    assert trial(max_iters=2, eval_interval=1, early_stopping=1, data=data).steps == 2
    assert "--early-stopping has no effect: no story is held out" in trial.printed


def test_without_early_stopping_a_run_goes_on(trial, told):
    told([1.0, 2.0, 2.0])
    assert trial(max_iters=6, eval_interval=2).steps == 6


@pytest.mark.parametrize("fault", [RuntimeError("the kernel\ndied"), MemoryError(), KeyError("x"), math.nan])
def test_a_failed_evaluation_costs_nothing_but_itself(trial, told, fault):
    told([3.0, fault, fault, 2.0])
    result = trial("faulty", max_iters=8, eval_interval=2)
    assert result.complete
    assert trial.printed.count("the evaluation failed (") == 2
    assert trial.printed.count("training goes on") == 2
    assert "Traceback" not in trial.printed
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    assert series(rows, "validation_loss_nats") == ([2, 8], [3.0, 2.0])
    assert series(rows, "loss_nats")[0] == list(range(1, 9))
    assert result.best_validation_loss == 2.0
    told([3.0, 2.5, 2.5, 2.0])
    assert_same_weights(result, trial("sound", max_iters=8, eval_interval=2))


def test_after_three_failed_evaluations_the_run_ends_with_all_that_it_learnt(trial, told):
    told([3.0, OSError("no"), OSError("no"), OSError("no")])
    expected = r"step 8: .*failed \(OSError: no\).*2 before it; .*state-00000008"
    with pytest.raises(TrainingError, match=expected) as caught:
        trial(max_iters=20, eval_interval=2)
    assert "\n" not in str(caught.value)
    assert read_state(trial.folder / "run" / "state-00000008").evaluated_step == 2
    told([3.0, 1.0, 1.0, 2.9, 2.8])
    result = trial(max_iters=10, eval_interval=2)
    assert "resuming from" in trial.printed
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    assert series(rows, "validation_loss_nats") == ([2, 8, 10], [3.0, 2.9, 2.8])
    assert series(rows, "loss_nats")[0] == list(range(1, 11))


def test_failures_that_are_not_in_a_row_do_not_end_a_run(trial, told):
    fault = ValueError("now and then")
    told([fault, fault, 3.0, fault, fault, 2.0])
    assert trial(max_iters=12, eval_interval=2).complete


def test_a_last_evaluation_that_fails_leaves_a_model(trial, told):
    told([ValueError("no")])
    result = trial(max_iters=2)
    assert result.complete
    assert load_model_file(result.best_model).provenance["validation_loss_nats"] is None
    assert read_state(result.state).evaluated_step is None
    told([2.0])
    assert trial(max_iters=2).best_validation_loss == 2.0, "the same command makes up for it"


def test_a_full_disk_in_an_evaluation_ends_the_run(trial, told):
    told([FileWriteError("the disk is full")])
    with pytest.raises(FileWriteError, match="the disk is full"):
        trial(max_iters=4, eval_interval=2)
    assert read_state(trial.folder / "run" / "state-00000002").step == 2


def test_nothing_is_lost_that_is_evaluated(trial, told):
    """A state is saved before each evaluation, whatever `save_interval` is."""
    told([3.0, FileWriteError("x")])
    with pytest.raises(FileWriteError):
        trial(max_iters=6, eval_interval=2, save_interval=100)
    assert read_state(trial.folder / "run" / "state-00000004").step == 4


@pytest.mark.parametrize("error", [RuntimeError("no\nway"), ZeroDivisionError(), MemoryError()])
def test_a_sample_or_a_picture_that_fails_does_not_end_the_run(trial, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(recorder, "plot_training_curves", fail)
    assert trial(max_iters=2, eval_interval=1, hook=fail).complete
    assert trial.printed.count(f"no sample story: {type(error).__name__}") == 2
    assert f"no picture of the curves: {type(error).__name__}" in trial.printed
    assert "way" not in trial.printed


def test_a_full_disk_while_drawing_still_ends_the_run(trial, monkeypatch):
    def fail(*args):
        raise FileWriteError("the disk is full")

    monkeypatch.setattr(recorder, "plot_training_curves", fail)
    with pytest.raises(FileWriteError):
        trial(max_iters=1)
