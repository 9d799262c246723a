"""The moving average of the weights: its arithmetic, and what a run does with it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from gpt_oss_stories.config import ConfigError, TrainingConfig
from gpt_oss_stories.model.model_file import load_model_file
from gpt_oss_stories.training import trainer
from gpt_oss_stories.training.average import WeightAverage
from gpt_oss_stories.training.checkpoint import load_tensors, read_state
from gpt_oss_stories.training.metrics import read_metrics
from support.records import series
from support.trials import assert_same_weights, weights_of


def test_the_average_by_hand():
    model = nn.Linear(3, 2).double()
    generator = torch.Generator().manual_seed(1)
    average = WeightAverage(model, 0.9)
    expected = {name: parameter.detach().tolist() for name, parameter in model.named_parameters()}
    expected = {name: torch.tensor(values, dtype=torch.float64) for name, values in expected.items()}
    for update in range(120):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        average.update()
        decay = min(0.9, (1 + update) / (10 + update))
        for name, parameter in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
        if update in (0, 10, 79, 80, 119):
            for name, tensor in average.tensors().items():
                torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)
    assert average.updates == 120
    assert min(0.9, 81 / 90) == 0.9, "from the 81st update on the decay is the wished one"


def test_the_average_takes_the_weights_place_and_gives_it_back_bit_for_bit():
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(float("nan")).view(-1)[0] = 1.0  # whatever stands there
    own, address = model.weight.detach().clone(), model.weight.data_ptr()
    averaged = average.tensors()["weight"].clone()
    with contextlib.suppress(KeyError), average.in_place():
        assert torch.equal(model.weight, averaged)
        assert model.weight.data_ptr() == address
        raise KeyError
    torch.testing.assert_close(model.weight.detach(), own, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(average.tensors()["weight"], averaged)


def test_beginning_anew_forgets_what_was():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update()
    average.restart()
    assert torch.equal(average.tensors()["weight"], model.weight)
    assert average.updates == 0


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_decays_that_average_nothing_are_refused(value):
    with pytest.raises(ConfigError, match="ema_decay"):
        TrainingConfig(ema_decay=value)


def state_tensors(result, prefix):
    """The tensors of a state whose names begin with a prefix, by the rest of the name."""
    weights = weights_of(result)
    tensors = {f"{prefix}.{name}": torch.zeros_like(tensor) for name, tensor in weights.items()}
    load_tensors(result.state, tensors)
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}


def test_a_run_evaluates_samples_and_keeps_the_average_and_trains_on_its_own_weights(trial):
    options = {"max_iters": 6, "eval_interval": 2, "router_balance": "bias"}
    sampled = {}

    def hook(model, vocabulary, step):
        sampled[step] = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    plain = trial("plain", **options)
    averaged = trial("averaged", ema_decay=0.8, hook=hook, **options)
    # Training goes on as without an average: what it takes the place of for a moment comes back.
    left, right = state_tensors(plain, "model"), state_tensors(averaged, "model")
    assert all(torch.equal(left[name], tensor) for name, tensor in right.items())
    kept = state_tensors(averaged, "average")
    saved = weights_of(averaged)
    assert all(torch.equal(saved[name], tensor) for name, tensor in kept.items())
    assert all(torch.equal(sampled[6][name], tensor) for name, tensor in kept.items())
    assert not torch.equal(kept["norm.weight"], right["norm.weight"])
    records = [read_metrics(run.checkpoint_dir / "metrics.jsonl") for run in (plain, averaged)]
    losses = [series(rows, "validation_loss_nats")[1] for rows in records]
    assert losses[0] != losses[1]
    file = load_model_file(averaged.best_model)
    assert file.provenance["weights"] == "exponential moving average of 6 steps, decay 0.8"
    assert file.provenance["validation_loss_nats"] == losses[1][-1]
    assert load_model_file(plain.best_model).provenance["weights"] == "of the last step"
    assert read_state(averaged.state).averaged_steps == 6


def test_the_average_of_a_resumed_run_is_that_of_an_undisturbed_one(trial):
    options = {"ema_decay": 0.9, "save_interval": 3, "optimizer": "muon", "keep_states": 3}
    whole = trial("whole", max_iters=6, **options)
    trial("parts", max_iters=6, **options)
    parts = trial("parts", max_iters=6, resume=str(trial.folder / "parts" / "state-00000003"), **options)
    assert "step 3" in trial.printed
    assert_same_weights(whole, parts)
    left, right = state_tensors(whole, "average"), state_tensors(parts, "average")
    assert all(torch.equal(left[name], tensor) for name, tensor in right.items())


def test_an_average_can_be_begun_and_left_out_in_the_middle_of_a_run(trial):
    trial(max_iters=2)
    begun = trial(max_iters=4, ema_decay=0.5)
    assert "ema_decay None -> 0.5" in trial.printed
    assert read_state(begun.state).averaged_steps == 2
    left_out = trial(max_iters=5)
    before = state_tensors(left_out, "model")
    assert read_state(left_out.state).averaged_steps == 0
    again = trial(max_iters=6, ema_decay=0.5)
    assert read_state(again.state).averaged_steps == 1
    newest, kept = state_tensors(again, "model"), state_tensors(again, "average")
    for name, tensor in kept.items():  # it began with the weights that the state had, and one decay of 1/10 followed
        torch.testing.assert_close(tensor, 0.1 * before[name] + 0.9 * newest[name], rtol=1e-5, atol=1e-7)


SCRIPT = """
    import os, sys
    from gpt_oss_stories.config import DataConfig, TrainingConfig, model_config
    from gpt_oss_stories.training import recorder, trainer
    from gpt_oss_stories.training.slices import local

    plain = trainer._Run._gradient
    recorder.plot_training_curves = lambda metrics, picture: picture

    def gradient(self, *args):
        answer = plain(self, *args)
        if self.state.step == 2 and self.processes.rank == self.processes.world_size - 1:
            local(self.model.norm.weight.grad)[-1] = float("inf")
        return answer

    trainer._Run._gradient = gradient
    if __name__ == "__main__":
        trainer.train(
            model_config("nano", vocab_size=300, n_layer=2, n_embd=32, head_dim=8, block_size=64, sliding_window=16),
            TrainingConfig(max_iters=5, batch_size=4 // int(os.environ.get("WORLD_SIZE", 1)), train_length=64,
                           eval_interval=2, save_interval=4, log_interval=1, use_mixed_precision=False, device="cpu",
                           learning_rate=3e-3, ema_decay=0.8, router_balance="none", checkpoint_dir=sys.argv[1],
                           parallelism=sys.argv[4]),
            DataConfig(dataset_path=sys.argv[2], data_dir=sys.argv[3], vocabulary="story", validation_fraction=0.1),
            on_evaluation=lambda model, vocabulary, step: None,
        )
"""


@pytest.mark.slow
@pytest.mark.timeout(300)  # processes that each load torch, on a machine that may be busy
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_average_and_skip_like_one(trial, tmp_path, kind):
    """In the third step the gradient is not finite; with slices, only in that of the last process."""
    data = trial.data()
    trainer.prepare(data)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join(path for path in sys.path if path)
    for start, folder, sharing in (([], "one", "none"), (several, "two", kind)):
        words = str(script), str(tmp_path / folder), data.dataset_path, data.data_dir, sharing
        command = [sys.executable, *start, *words]
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("skipped, no weight was changed") == 1, done.stderr
    left, right = (read_metrics(tmp_path / folder / "metrics.jsonl") for folder in ("one", "two"))
    for name in ("loss_nats", "validation_loss_nats", "grad_norm"):
        (steps, values), (other_steps, others) = series(left, name), series(right, name)
        assert steps == other_steps
        assert others == pytest.approx(values, rel=1e-3), name
    assert [row["skipped_steps"] for row in right] == [0, 0, 1, 1, 1]
    one, two = (load_model_file(tmp_path / folder / "best_model.pt") for folder in ("one", "two"))
    for name, tensor in one.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, rtol=1e-3, atol=1e-4)
    evidence = [tmp_path / folder / "bad-steps" / "step-00000003.json" for folder in ("one", "two")]
    found = [json.loads(path.read_text()) for path in evidence]
    assert found[0]["stories"] == found[1]["stories"]
    assert found[0]["gradients_not_finite"] == found[1]["gradients_not_finite"]
    assert list(found[0]["gradients_not_finite"]) == ["norm.weight"]
