"""What a run records about itself, and the list of runs made of it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal

import pytest
import torch

from gpt_oss_stories.cli import main
from gpt_oss_stories.config import TrainingConfig, model_config
from gpt_oss_stories.data.batches import BatchStream
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.training import recorder, trainer
from gpt_oss_stories.training.checkpoint import RunState
from gpt_oss_stories.training.display import Speaker
from gpt_oss_stories.training.distributed import Processes
from gpt_oss_stories.training.metrics import MetricsFile, StepRecord, read_metrics
from gpt_oss_stories.training.precision import choose_precision
from gpt_oss_stories.training.recorder import Recorder
from gpt_oss_stories.training.run_file import RunFile, RunFileError, read_run_file
from gpt_oss_stories.training.runs import SORT_KEYS, RunsError, differences, find_runs, sort_runs, summarise
from gpt_oss_stories.training.runs_view import plot_runs
from gpt_oss_stories.training.timing import PARTS, TimeSplit
from gpt_oss_stories.training.trackers import Trackers
from support.trials import Trial, drawn_quickly


@pytest.fixture(scope="module")
def finished(stories, tmp_path_factory):
    """A run that has come to its end; nobody may change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "plot_training_curves", drawn_quickly)
        trial = Trial(stories, tmp_path_factory.mktemp("finished"))
        options = {"max_iters": 6, "eval_interval": 3, "save_interval": 3, "log_interval": 2}
        result = trial("run", model={"multi_token_predict": 2}, run_name="a first try", **options)
    return result.checkpoint_dir


# What a run records


BEGINNING = RunState(step=0, rows_seen=0, tokens_seen=0, training_seconds=0.0)


def new_recorder(trial):
    return Recorder(
        model_config("nano"),
        TrainingConfig(checkpoint_dir=str(trial.folder / "run")),
        trial.data(),
        length=64,
        device=torch.device("cpu"),
        precision=choose_precision(torch.device("cpu"), False, "auto"),
        processes=Processes(),
        say=Speaker(None),
    )


def test_loading_is_not_in_the_first_interval(trial):
    opened, now = new_recorder(trial), [1.0]
    opened.times = TimeSplit(torch.device("cpu"), clock=lambda: now[0])
    now[0] = 100.0
    with opened.open(BEGINNING):
        now[0] = 103.0
        assert opened.times.take()[1] == 3.0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, None])
def test_trackers_learn_whether_an_error_ends_the_run(trial, error):
    learnt = []

    class Learning(Trackers):
        def close(self, *, failed=False):
            learnt.append(failed)

    with contextlib.suppress(*[error] if error else []), new_recorder(trial).open(BEGINNING) as opened:
        opened.trackers = Learning([], print)
        if error:
            raise error
    assert learnt == [error is not None]


def test_everything_is_recorded(finished):
    rows = read_metrics(finished / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 6]
    unknown_here = {"interim", "embedding_learning_rate", "matrix_learning_rate", "loss_scale",
                    "model_flops_utilization", "gpu_memory_bytes", "gpu_peak_memory_bytes"}  # fmt: skip
    for row in rows:
        held = {name for name in row if name.startswith("validation")} if row["step"] not in (3, 6) else set()
        assert {name for name, value in row.items() if value in (None, [])} == unknown_here | held
        assert row["skipped_steps"] == 0
        assert len(row["expert_load"]) == 3  # two layers, and the block of the second token
        assert all(sum(layer) == pytest.approx(1, abs=1e-4) for layer in row["expert_load"])
        assert all(0 < entropy <= 1 for entropy in row["expert_load_entropy"])
        assert row["targets_per_second"] < row["tokens_per_second"]
        assert row["resident_memory_bytes"] <= row["peak_memory_bytes"]
        parts = [row[f"{part}_seconds"] for part in PARTS]
        assert 0 < sum(parts) <= row["interval_seconds"]
        assert min(parts[1:4]) > 0
        assert (row["evaluation_seconds"] > 0) == (row["step"] in (3, 6))
    assert rows[2]["saving_seconds"] > 0
    last = rows[-1]
    assert 0 < last["validation_accuracy"] < 1
    assert len(last["validation_multi_token_accuracy"]) == len(last["validation_multi_token_loss_nats"]) == 1


def test_a_dense_model_has_no_load(trial):
    result = trial(max_iters=1, model={"num_experts": 1})
    (row,) = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    for name in ("expert_load", "expert_load_entropy"):
        assert row[name] == []
    for name in ("balance_loss", "router_z_loss", "expert_load_max_over_mean", "expert_load_min_over_mean"):
        assert row[name] is None


def test_training_bits_per_byte_by_hand(trial):
    trial("run", max_iters=1, gradient_accumulation_steps=2)
    (row,) = read_metrics(trial.folder / "run" / "metrics.jsonl")
    prepared = prepare(trial.data())
    stream = BatchStream(prepared.train, 4, 64, seed=1337)
    targets = size = 0
    for batch in (stream.batch(0), stream.batch(1)):
        for tokens, documents, trained in zip(batch.tokens, batch.documents, batch.trained, strict=True):
            for place in range(1, 64):
                if documents[place] == documents[place - 1] and documents[place] >= 0 and trained[place]:
                    targets += 1
                    size += len(prepared.vocabulary.token_bytes(int(tokens[place])))
    assert row["bits_per_byte"] == pytest.approx(row["loss_nats"] * targets / size / math.log(2), rel=1e-6)
    assert row["targets_per_second"] / row["tokens_per_second"] == pytest.approx(targets / (2 * 4 * 64))


EXACT = ("step", "loss_nats", "bits_per_byte", "multi_token_loss_nats", "balance_loss", "router_z_loss", "expert_load",
         "expert_load_entropy", "grad_norm", "learning_rate", "tokens_seen", "interim")  # fmt: skip


def exact_part(folder):
    return [{name: row[name] for name in EXACT} for row in read_metrics(folder / "metrics.jsonl")]


def test_a_run_that_is_stopped_between_records_writes_the_same_ones_in_the_end(trial, monkeypatch):
    options = {"max_iters": 9, "log_interval": 4}
    whole = trial("whole", **options).checkpoint_dir
    after_step = trainer._Run._after_step

    def stop_once(self):
        after_step(self)
        if self.state.step == 6 and not self.first_step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer._Run, "_after_step", stop_once)
    parts = trial("parts", **options).checkpoint_dir
    assert [(row["step"], row["interim"]) for row in exact_part(parts)] == [(1, None), (4, None), (6, True)]
    assert summarise(parts).status == "stopped"
    trial("parts", **options)
    assert exact_part(parts) == exact_part(whole)
    assert [row["step"] for row in exact_part(whole)] == [1, 4, 8, 9]
    assert summarise(parts).status == "complete"


def test_a_record_that_a_killed_run_did_not_get_to_is_made_up_for(trial, monkeypatch):
    options = {"max_iters": 6, "log_interval": 3, "save_interval": 3}
    whole = trial("whole", **options).checkpoint_dir
    write = MetricsFile.write

    def killed(self, record):
        if record.step == 3:
            raise KeyboardInterrupt
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            trial("parts", **options)
    parts = trial.folder / "parts"
    assert summarise(parts).status == "unfinished"
    assert [row["step"] for row in exact_part(parts)] == [1]
    trial("parts", **options)
    assert exact_part(parts) == exact_part(whole)
    assert [row["step"] for row in exact_part(whole)] == [1, 3, 6]


def test_a_record_that_was_written_is_not_written_again(trial, monkeypatch):
    # The state of step 3 holds the sums of steps 2 and 3, which the evaluation's record then tells.
    options = {"log_interval": 4, "save_interval": 3, "eval_interval": 3}
    whole = trial("whole", max_iters=6, **options).checkpoint_dir
    after_step = trainer._Run._after_step

    def killed(self):
        after_step(self)
        if self.state.step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Run, "_after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            trial("parts", max_iters=6, **options)
    trial("parts", max_iters=6, **options)
    assert exact_part(trial.folder / "parts") == exact_part(whole)


def test_the_run_file_tells_what_was_run(finished, trial):
    run = read_run_file(finished)
    assert run.name == "a first try"
    assert run.complete
    assert run.settings["training"]["max_iters"] == 6
    assert run.settings["model"]["n_embd"] == 32
    assert run.processes == 1
    assert run.program["torch_version"] == torch.__version__
    assert run.started_at <= run.ended_at
    assert run.resumed_at is None
    folder = trial("again", max_iters=2).checkpoint_dir
    first = read_run_file(folder)
    trial("again", max_iters=3)
    second = read_run_file(folder)
    assert second.started_at == first.started_at
    assert second.resumed_at is not None
    assert second.settings["training"]["max_iters"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not the file of a run"),
        ('{"schema":1,"settings":{"model":3}}', "is not the file of a run"),
        ('{"schema":9}', "schema 9 is newer"),
    ],
)
def test_other_run_files_are_refused(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFileError, match=message):
        read_run_file(tmp_path)


# The list of runs


def a_run(folder, losses=(3.0, 2.0, 2.5), *, speed=100.0, started="2026-01-01T10:00:00+00:00", **settings):
    """A run's record and file, without a model: of each validation loss one record, a hundred steps apart."""
    folder.mkdir(parents=True)
    training = {"max_iters": 100 * len(losses), "learning_rate": 0.001, "checkpoint_dir": str(folder), **settings}
    RunFile(
        started_at=started,
        ended_at=started,
        complete=True,
        settings={"model": {"n_layer": 4}, "training": training, "data": {}},
        parameters=1000,
        active_parameters=500,
    ).write(folder)
    file = MetricsFile(folder / "metrics.jsonl", resumed_step=0)
    for place, loss in enumerate(losses, 1):
        file.write(
            StepRecord(
                step=100 * place,
                tokens_seen=5000 * place,
                training_seconds=60.0 * place,
                loss_nats=loss + 0.1,
                tokens_per_second=speed * place,
                validation_loss_nats=loss,
                validation_bits_per_byte=loss / 4,
                validation_accuracy=1 / loss,
            )
        )
    file.close()
    return folder


def test_runs_are_found_below_folders_each_once(tmp_path):
    for name in ("b", "a/deep/er", "a/previous-1", "a/state-00000001", ".hidden/x", "a/wandb/y"):
        a_run(tmp_path / name)
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find_runs([tmp_path, tmp_path / "b"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/deep/er", "a/previous-1", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunsError, match="no run in or below"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(RunsError, match="is not a folder"):
        find_runs([tmp_path / "nowhere"])


def test_a_summary_is_of_the_best_evaluation(tmp_path):
    run = summarise(a_run(tmp_path / "x"))
    assert (run.steps, run.tokens_seen, run.training_seconds) == (300, 15_000, 180.0)
    assert (run.validation_loss_nats, run.validation_step) == (2.0, 200)
    assert (run.validation_bits_per_byte, run.validation_accuracy) == (0.5, 0.5)
    assert (run.loss_nats, run.tokens_per_second) == (2.6, 200.0)
    assert (run.parameters, run.status, run.problem) == (1000, "complete", None)


def test_runs_without_a_run_file_are_known_from_state_or_model(finished, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(finished, folder)
    whole = summarise(folder)
    (folder / "run.json").unlink()
    from_state = summarise(folder)
    newest = folder / "state-00000006" / "state.json"
    newest.write_text(newest.read_text()[:100])
    before = summarise(folder)
    for state in folder.glob("state-*"):
        shutil.rmtree(state)
    from_model = summarise(folder)
    for run in (from_state, before, from_model):
        assert run.settings == whole.settings
        assert run.parameters == whole.parameters
        assert run.status == "complete"
        assert run.started_at is not None
        assert run.problem is None
    (folder / "best_model.pt").write_bytes(b"damaged")
    bare = summarise(folder)
    assert (bare.settings, bare.status, bare.steps) == ({}, None, 6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", b"x\n{}\n", "not JSON"),
        ("metrics.jsonl", b"\xff\xfe\n", "cannot be read"),
        ("metrics.jsonl", b"", "no steps"),
        ("metrics.jsonl", b'{"step":1,"loss_nats":{"a":1}}\n', None),
        ("metrics.jsonl", b'{"step":1,"expert_load":[[[]]],"tokens_seen":"many"}\n', None),
        ("run.json", b"{", "is not JSON"),
        ("run.json", b'{"schema":1,"parameters":"x","started_at":5,"name":7}', "is not the file"),
    ],
)
def test_a_damaged_run_is_a_line_beside_the_others(tmp_path, capsys, name, content, message):
    a_run(tmp_path / "good")
    (a_run(tmp_path / "bad") / name).write_bytes(content)
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "good" in said.out
    assert "bad" in said.out
    if message is not None:
        (line,) = said.err.splitlines()
        assert message in line
        assert "bad" in line


def test_sorting_puts_the_best_first_and_the_unknown_last(tmp_path):
    fast = summarise(a_run(tmp_path / "fast", (4.0,), speed=900.0, started="2026-01-02T10:00:00+00:00"))
    good = summarise(a_run(tmp_path / "good", (1.0,), speed=5.0))
    (a_run(tmp_path / "none") / "metrics.jsonl").write_bytes(b"")
    none = summarise(tmp_path / "none")
    runs = [none, fast, good]
    assert sort_runs(runs, "loss") == [good, fast, none]
    assert sort_runs(runs, "speed") == [fast, good, none]
    assert sort_runs(runs, "name") == [fast, good, none]
    assert sort_runs(runs, "started")[0] == fast
    for key in SORT_KEYS:
        assert len(sort_runs(runs, key)) == 3


def test_differences_are_those_that_matter(tmp_path):
    a = summarise(a_run(tmp_path / "a", seed=1))
    b = summarise(a_run(tmp_path / "b", learning_rate=0.002))
    assert differences(a, b) == [("training.learning_rate", 0.001, 0.002), ("training.seed", 1, None)]
    assert differences(a, a) == []


def test_the_command_lists_compares_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "a", seed=1)
    a_run(tmp_path / "b", (1.5, 1.25), learning_rate=0.002, started="2026-01-02T10:00:00+00:00")
    assert main(["runs"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "2026-" in line]
    assert [line.split()[0] for line in lines] == ["b", "a"]
    for expected in ("1,000", "200", "10k", "1.2500", "0.3125", "80.0%", "150", "2m 00s", "complete"):
        assert expected in lines[0].replace("1k", "1,000"), expected
    assert main(["runs", "--sort", "name", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [run["path"] for run in facts["runs"]] == ["a", "b"]
    assert main(["runs", "--compare", "a", "b", "--plot", "two.png", "--by", "tokens"]) == 0
    shown = capsys.readouterr()
    rows = {line.split("  ")[0].strip(): line.split()[-2:] for line in shown.out.splitlines() if line.strip()}
    assert rows["training.learning_rate"] == ["0.001", "0.002"]
    assert rows["best validation loss"] == ["2.0000", "1.2500"]
    assert "picture: two.png" in shown.err
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    assert "\x1b" not in shown.out
    assert main(["runs", "--compare", "a", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]["training.learning_rate"] == [0.001, 0.002]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "is not a folder"),
        (["."], "no run in or below"),
        (["--compare", "x", "y"], "is not a run"),
        (["--compare", "x", "y", "z"], "leave out z"),
        (["--sort", "loos"], "Did you mean 'loss'"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["runs", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_names_cannot_steer_a_terminal(tmp_path, capsys):
    a_run(tmp_path / "evil\x1b[2J")
    assert main(["runs", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("by", "places"), [("step", [100, 200, 300]), ("time", [1, 2, 3]),
                                            ("tokens", [0.005, 0.01, 0.015])])  # fmt: skip
def test_curves_of_runs_are_drawn_over_what_is_asked_for(tmp_path, monkeypatch, by, places):
    import matplotlib.figure

    runs = [summarise(a_run(tmp_path / name, losses)) for name, losses in (("a", (3.0, 2.0, 2.5)), ("b", (5.0,)))]
    (a_run(tmp_path / "c") / "metrics.jsonl").write_bytes(b"")
    found = []

    def look(figure, *args, **kwargs):
        found.extend([(line.get_label(), line.get_data()) for line in axes.get_lines()] for axes in figure.get_axes())

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", look)
    _, left_out = plot_runs([*runs, summarise(tmp_path / "c")], tmp_path / "all.png", by=by)
    assert len(left_out) == 1
    held = dict(found[0])
    assert sorted(held) == [f"{tmp_path / 'a'}: 2.000", f"{tmp_path / 'b'}: 5.000"]
    across, values = held[f"{tmp_path / 'a'}: 2.000"]
    assert list(across) == pytest.approx(places)
    assert list(values) == [3.0, 2.0, 2.5]


def test_nothing_to_draw_is_an_error(tmp_path):
    (a_run(tmp_path / "c") / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(RunsError, match="nothing to draw"):
        plot_runs([summarise(tmp_path / "c")], tmp_path / "all.png")
