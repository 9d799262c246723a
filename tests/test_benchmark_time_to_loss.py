"""The race to a held-out loss: what both sides are measured by, and what the answer is made of."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import PROJECT, Commands
from gpt_oss_stories.config import data_config, training_config
from gpt_oss_stories.data.pipeline import PreparedData, prepare
from gpt_oss_stories.data.storybook import mix, write_story

FOLDER = PROJECT / "benchmarks"
QUESTION = FOLDER / "time_to_loss.py"
SECONDS = 1.5


@pytest.fixture
def question(house: ModuleType) -> Any:
    return house.load_file(str(QUESTION))


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of stories."""
    path = tmp_path_factory.mktemp("stories") / "told.jsonl"
    texts = [write_story(mix(3, number)).text for number in range(120)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def data(stories: Path) -> PreparedData:
    folder = str(stories.parent / "data")
    return prepare(data_config("nano", dataset_path=str(stories), data_dir=folder, validation_fraction=0.1), workers=1)


@pytest.fixture
def peer(house: ModuleType, question: Any, data: PreparedData) -> Any:
    """A small model of `transformers` whose context holds every story."""
    pytest.importorskip("transformers")
    config = house.model_config("mini", "story", 512).replace(vocab_size=data.vocabulary.size)
    options = {"model": config.to_dict(), "seed": 5, "learning_rate": 0.01, "experts": None, "batch": 2, "length": 64}
    return question.Peer(options, data, False)


def outcome(house: ModuleType, name: str, seconds: float, loss: float, *curve: tuple[float, float]) -> Any:
    """A finished run."""
    figures = {"seconds": [seconds], "loss_nats": [loss], "steps": [10.0]}
    points = [list(point) for point in (*curve, (seconds, loss))]
    return house.Outcome(name, figures, facts={"curve": points, "seed": 1})


# Both sides


def test_the_peer_is_scored_as_its_own_logits_say(question: Any, peer: Any, data: PreparedData) -> None:
    for _ in range(3):
        peer.step(1.0)  # away from weights that are nearly 0, for which many a mistake would not show
    before = {name: tensor.clone() for name, tensor in peer.model.state_dict().items()}
    found = question.score(peer.config, peer.weights(), data, 0)

    nats, count, spelled = 0.0, 0, 0
    for index in range(len(data.validation)):
        tokens, trained = data.validation.story(index)
        assert len(tokens) <= peer.config.block_size
        given = torch.tensor(tokens.astype(np.int64))[None]
        with torch.no_grad():
            chances = peer.model(input_ids=given, use_cache=False).logits[0].log_softmax(-1)
        for place in range(1, len(tokens)):
            if trained[place]:
                nats -= float(chances[place - 1, int(tokens[place])])
                count += 1
                spelled += len(data.vocabulary.token_bytes(int(tokens[place])))
    assert found.loss_nats == pytest.approx(nats / count, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / spelled, rel=1e-5)
    for name, tensor in peer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_part_of_the_held_out_stories_is_scored(
    question: Any, peer: Any, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question, "SCORED_AT_ONCE", 1)  # a row of the context's 512 tokens at a time

    def scored(most_tokens: int) -> float:
        return float(question.score(peer.config, peer.weights(), data, most_tokens).loss_nats)

    assert len(data.validation.tokens) > 1024
    assert scored(1) == scored(1023) != scored(1024)
    assert scored(1024) != scored(0) == scored(10**6)


def test_a_loss_that_is_no_number_is_refused(house: ModuleType, question: Any, peer: Any, data: PreparedData) -> None:
    weights = {name: tensor.detach().clone() for name, tensor in peer.weights().items()}
    weights["norm.weight"][0] = math.nan
    with pytest.raises(house.BenchmarkError, match="the held-out loss is nan"):
        question.score(peer.config, weights, data, 0)


def test_ours_is_trained_as_the_command_does(question: Any) -> None:
    wanted = training_config("story").to_dict()
    got = question.our_training("nano", False).to_dict()
    beside = {"max_iters", "eval_interval", "eval_iters", "save_interval", "keep_states", "device", "resume"}
    assert {name for name in got if got[name] != wanted[name]} == beside
    assert question.our_training("tiny", True).optimizer == training_config("fast").optimizer
    assert question.our_training("tiny", True).compile_model


# The peer


def test_rows_are_stretches_of_all_stories(house: ModuleType, question: Any, data: PreparedData) -> None:
    length = 50
    rows = question.Rows(data.train, 3, length, seed=2)
    everything = torch.tensor(data.train.tokens.astype(np.int64))
    trained = torch.tensor(data.train.trained(0, len(everything)).copy())
    windows = everything.unfold(0, length, 1)
    starts = set()
    for _ in range(20):
        tokens, labels = rows.next()
        assert tokens.shape == labels.shape == (3, length)
        for row, label in zip(tokens, labels, strict=True):
            (start,) = (windows == row).all(1).nonzero()[:1]
            starts.add(int(start))
            known = label != question.UNTRAINED
            assert torch.equal(known, trained[int(start) : int(start) + length])
            assert torch.equal(label[known], row[known])
    assert len(starts) > 50
    again = question.Rows(data.train, 3, length, seed=2)
    other = question.Rows(data.train, 3, length, seed=3)
    first = question.Rows(data.train, 3, length, seed=2).next()[0]
    assert torch.equal(again.next()[0], first)
    assert not torch.equal(other.next()[0], first)


def test_a_row_may_be_as_long_as_all_stories(house: ModuleType, question: Any, data: PreparedData) -> None:
    total = len(data.train.tokens)
    tokens, _ = question.Rows(data.train, 1, total, seed=0).next()
    assert torch.equal(tokens[0], torch.tensor(data.train.tokens.astype(np.int64)))
    with pytest.raises(house.BenchmarkError, match="all stories together"):
        question.Rows(data.train, 1, total + 1, seed=0)


def test_only_matrices_decay(question: Any, peer: Any) -> None:
    names = {id(parameter): name for name, parameter in peer.model.named_parameters()}
    decayed, others = ([names[id(p)] for p in group["params"]] for group in peer.optimizer.param_groups)
    assert sorted(decayed + others) == sorted(names.values())
    assert [group["weight_decay"] for group in peer.optimizer.param_groups] == [question.PEER_WEIGHT_DECAY, 0.0]
    assert all("norm" in name or "sinks" in name or "bias" in name for name in others)
    assert not any("norm" in name or "sinks" in name or "bias" in name for name in decayed)
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.experts.down_proj"} <= set(decayed)


def test_the_learning_rate_follows_the_schedule(peer: Any) -> None:
    before = {name: tensor.clone() for name, tensor in peer.model.state_dict().items()}
    peer.step(0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in peer.model.state_dict().items())
    peer.step(0.5)
    assert {group["lr"] for group in peer.optimizer.param_groups} == {0.005}
    assert not torch.equal(peer.model.state_dict()["lm_head.weight"], before["lm_head.weight"])


# The answer


def test_the_shortest_time_at_or_below_the_target_counts(house: ModuleType, question: Any) -> None:
    peers = [outcome(house, "slow", 60.0, 3.0), outcome(house, "fast", 60.2, 2.5, (20.0, 2.9), (40.0, 2.6))]
    ours = [outcome(house, "5 s", 5.1, 2.6), outcome(house, "10 s", 10.1, 2.5)]
    done = question.Race(peers=peers, ours=ours)
    assert done.peer is peers[1]
    assert done.reached is ours[1]
    assert done.ratio(60.0) == 60.0 / 10.1
    assert done.peer_was_there() == 60.2
    assert done.to_dict(60.0)["reached_in_seconds"] == 10.1
    missed = question.Race(peers=peers, ours=ours[:1])
    assert missed.reached is None
    assert missed.ratio(60.0) == 0.0
    assert missed.to_dict(60.0)["reached_in_seconds"] is None


def test_a_peer_that_forgets_again_was_there_earlier(
    house: ModuleType, question: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = outcome(house, "peer", 60.0, 2.5, (20.0, 2.6), (40.0, 2.4))
    done = question.Race(peers=[peer], ours=[outcome(house, "ours", 5.0, 2.5)])
    assert done.peer_was_there() == 40.0
    question.comment(done, 60.0, house.Conditions(repetitions=1, threads=1, allocator=None))
    assert "the peer was there after 40 s already" in capsys.readouterr().err


def test_no_longer_run_follows_the_one_that_counts(house: ModuleType, question: Any) -> None:
    asked: list[Any] = []

    def their_run(learning_rate: float, seed: int) -> Any:
        asked.append((learning_rate, seed))
        return outcome(house, f"{learning_rate}", 60.0, 2.0 + learning_rate)

    def our_run(seconds: float, seed: int) -> Any:
        asked.append((seconds, seed))
        return outcome(house, f"{seconds} s", seconds, 5.0 - 0.5 * seconds)

    runner = SimpleNamespace(peer=their_run, ours=our_run)
    done = question.Runner.race(runner, [0.1, 0.2], [2.0, 6.0, 9.0], 7)
    assert asked == [(0.1, 7), (0.2, 7), (2.0, 7), (6.0, 7)]
    assert done.reached.name == "6.0 s"
    assert done.peer.name == "0.1"


def test_repetitions_are_put_together_by_name(house: ModuleType, question: Any) -> None:
    runs = [outcome(house, "a", 1.0, 3.0), outcome(house, "b", 2.0, 4.0), outcome(house, "a", 3.0, 5.0)]
    runs[2].peak_memory_bytes = 7
    first, second = question.merged(runs)
    assert first.figures == {"seconds": [1.0, 3.0], "loss_nats": [3.0, 5.0], "steps": [10.0, 10.0]}
    assert first.peak_memory_bytes == 7
    assert second.figures["seconds"] == [2.0]
    assert runs[0].figures["seconds"] == [1.0]


def test_seconds_of_steps_leave_out_what_lies_between(question: Any) -> None:
    records = [(1, 0.5), (10, 0.25), (12, 1.0), (13, None)]
    rows = [{"step": step, "step_seconds": seconds, "training_seconds": 1e3} for step, seconds in records]
    assert question.step_seconds(rows) == {1: 0.5, 10: 2.75, 12: 4.75, 13: 4.75}


def test_the_curves_are_drawn(house: ModuleType, question: Any, tmp_path: Path) -> None:
    done = question.Race(peers=[outcome(house, "peer", 60.0, 2.5, (30.0, 3.0))], ours=[outcome(house, "us", 9.0, 2.4)])
    del done.ours[0].facts["curve"]
    question.draw(str(tmp_path / "curves.png"), done, 60.0)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


# Kept runs


def test_runs_are_kept_and_given_again(house: ModuleType, question: Any, tmp_path: Path) -> None:
    path, settings = tmp_path / "peer.json", {"threads": 2, "formats": ["float32"], "experts": None}
    kept = question.KeptRuns(path, settings)
    assert not path.exists()
    runs = {(1e-3, 1): outcome(house, "one", 1.0, 2.0), (6e-4, 2): outcome(house, "two", 1.5, 2.5)}
    for key, run in runs.items():
        kept.put(*key, run)
    again = question.KeptRuns(path, settings)
    assert {key: again.get(*key) for key in runs} == runs
    assert again.get(1e-3, 2) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["peer.json"]
    with pytest.raises(house.BenchmarkError, match=r"experts None instead of eager, threads 2 instead of 1: give the"):
        question.KeptRuns(path, settings | {"threads": 1, "experts": "eager"})


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"settings": {}, "runs": [{}]}', '{"settings": 3, "runs": []}', "\udcff"]
)
def test_another_file_is_not_taken_for_kept_runs(
    house: ModuleType, question: Any, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "peer.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(house.BenchmarkError, match="not a peer's result"):
        question.KeptRuns(path, {})


# The command


TALKING = """
from house import Workload, tell

def talkative(options):
    def measure():
        tell("half of it")
        return {"seconds": 1.0}
    return Workload(measure, warm_up=lambda: None)
"""


@pytest.mark.parametrize("as_json", [True, False])
def test_what_a_contender_tells_is_shown(
    house: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    path = tmp_path / "talking.py"
    path.write_text(TALKING)
    module = house.load_file(str(path))
    conditions = house.Conditions(repetitions=2, threads=1, allocator=None, as_json=as_json)
    (measured,) = house.compare([house.Contender("A", module.talkative)], conditions)
    del sys.modules["benchmark_talking"]
    assert measured.figures == {"seconds": [1.0, 1.0]}
    assert capsys.readouterr().err.count("A: half of it\n") == (0 if as_json else 2)


def test_a_question_is_found_under_both_spellings(commands: Commands, tmp_path: Path) -> None:
    listed = commands.run([sys.executable, str(FOLDER)], tmp_path).stdout
    assert "\ntime-to-loss" in f"\n{listed}"
    for name in ("time-to-loss", "time_to_loss"):
        done = commands.run([sys.executable, str(FOLDER), name, "--ratios", "3,0"], tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "error: Invalid value for '--ratios': '3,0' is not a list of numbers above 0, such as 12,9,6\n"
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--length", "100"], "--length 100: the context of mini is 64 tokens"),
        (["--plot", "."], "no file can be written there"),
        (["--peer-result", "stories.txt/peer.json"], "no file can be written there"),
        (["--dataset-path", "stories.txt"], "a single story: none can be held out"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    commands: Commands, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "stories.txt").write_text("Once upon a time there was a snail. It slept.\n")
    done = commands.run([sys.executable, str(QUESTION), "--size", "mini", *words], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def asked(stories: Path, *words: str) -> list[str]:
    """The command at a size at which its figures say nothing."""
    quick = ("--size", "mini", "--threads", "1", "--skip-warm-up", "--peer-dtype", "float32")
    return [sys.executable, str(QUESTION), "--dataset-path", str(stories), *quick, *words]


@pytest.fixture(scope="module")
def finished(commands: Commands, stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a race was run."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("race")
    words = asked(stories, "--seconds", str(SECONDS), "--ratios", "2", "--points", "3")
    done = commands.run([*words, "--peer-result", "peer.json", "--plot", "curves.png"], folder, seconds=110)
    assert done.returncode == 0, done.stderr
    (folder / "answer.json").write_text(done.stdout.splitlines()[-1])
    return folder


@pytest.mark.slow
def test_the_race_is_run(finished: Path) -> None:
    result = json.loads((finished / "answer.json").read_text())
    assert result["benchmark"] == "time-to-loss"
    ours, theirs = (result["contenders"][name] for name in ("ours, 0.75 s", "transformers, AdamW 0.001"))
    (race,) = result["by_repetition"]
    assert result["target_loss_nats"] == pytest.approx(theirs["figures"]["loss_nats"]["median"])
    assert theirs["facts"]["computes_in"] == "float32"
    assert theirs["facts"]["parameters"] == result["settings"]["parameters"]
    assert theirs["facts"]["curve"][-1][1] == pytest.approx(result["target_loss_nats"], abs=1e-5)
    for run, limit in ((ours, SECONDS / 2), (theirs, SECONDS)):
        assert run["figures"]["seconds"]["median"] >= limit
        assert run["figures"]["tokens"]["median"] == run["figures"]["steps"]["median"] * 4 * 64
        assert 1 <= len(run["facts"]["curve"]) <= 3
        assert run["facts"]["curve"] == sorted(run["facts"]["curve"])
    if race["ours"] is None:  # how busy the machine is at this moment decides
        assert result["ratio"] == 0
    else:
        assert ours["figures"]["loss_nats"]["median"] <= result["target_loss_nats"]
        assert result["ratio"] == pytest.approx(SECONDS / ours["figures"]["seconds"]["median"], rel=1e-3)
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_ours_is_run_again_without_the_peer(commands: Commands, stories: Path, finished: Path, tmp_path: Path) -> None:
    kept = json.loads((finished / "peer.json").read_text())
    (run,) = kept["runs"]
    # In the first repetition the peer was worse than anything, in the second better.
    for seed, loss in ((0, 1e3), (1, 0.0)):
        again = json.loads(json.dumps(run))
        again["seed"] += seed
        again["outcome"]["figures"]["loss_nats"] = [loss]
        again["outcome"]["facts"]["curve"] = [[SECONDS, loss]]
        kept["runs"][seed:] = [again]
    (tmp_path / "peer.json").write_text(json.dumps(kept))
    words = asked(stories, "--seconds", str(SECONDS), "--ratios", "4,8", "--points", "0", "--repetitions", "2")
    (tmp_path / "data").symlink_to(finished / "data")
    done = commands.run([*words, "--peer-result", "peer.json"], tmp_path, seconds=110)
    assert done.returncode == 0, done.stderr
    assert "setting up transformers" not in done.stderr
    assert done.stderr.count("none of ours reached") == 1
    result = json.loads(done.stdout.splitlines()[-1])
    first, second = result["by_repetition"]
    assert (first["ours"], second["ours"]) == ("ours, 0.1875 s", None)
    assert second["ratio"] == 0.0
    assert result["reached_in_seconds"] is None
    assert result["ratio"] == pytest.approx(first["ratio"] / 2, rel=1e-3)
    runs = {name: figures["figures"]["loss_nats"]["values"] for name, figures in result["contenders"].items()}
    assert list(runs) == ["ours, 0.1875 s", "transformers, AdamW 0.001", "ours, 0.375 s"]
    assert len(set(runs["ours, 0.1875 s"])) == 2  # another seed each time
    assert len(runs["ours, 0.375 s"]) == 1
    assert runs["transformers, AdamW 0.001"] == [1e3, 0.0]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of a process group")
def test_an_interrupted_race_leaves_nothing(commands: Commands, stories: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "temporary").mkdir()
    words = asked(stories, "--seconds", "300", "--points", "100", "--peer-result", "peer.json", "--plot", "plot.png")
    process = commands.start(
        [sys.executable, str(FOLDER), "time-to-loss", *words[2:]], tmp_path, TMPDIR=str(tmp_path / "temporary")
    )
    assert process.stderr is not None
    shown = next((line for line in process.stderr if "of 300 s" in line), "")
    assert shown, "it ended before it trained"
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    done = commands.finish(process, seconds=40)
    assert done.returncode == 130
    assert time.monotonic() - began < 30
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "temporary"]
    assert not list((tmp_path / "temporary").glob("time-to-loss-*"))
