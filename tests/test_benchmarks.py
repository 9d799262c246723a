"""The benchmarks run, at sizes at which their figures say nothing, and what they share does what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import PROJECT, Commands

FOLDER = PROJECT / "benchmarks"
QUICK = ("--size", "mini", "--repetitions", "1", "--threads", "1", "--skip-warm-up")

QUESTION = '''
import os
import sys
import time
from house import BenchmarkError, Workload

def note(options):
    """Writes its name to a file at each turn."""
    def measure():
        with open(options["file"], "a") as file:
            file.write(options["name"])
        print("a library's remark")
        return {"seconds": options["seconds"]}
    return Workload(measure, warm_up=lambda: None, facts={"process": os.getpid()})

def large(options):
    """Holds some memory for a moment."""
    def measure():
        block = bytearray(os.urandom(1)) * options["bytes"]
        return {"length_bytes": len(block)}
    return Workload(measure)

def around(options):
    """Looks around."""
    return Workload(dict, facts={"threads": os.environ["OMP_NUM_THREADS"], "torch": "torch" in sys.modules,
                                 "path": sys.path})

def refusing(options):
    raise BenchmarkError("cannot be done")

def failing(options):
    print("a library's remark", file=sys.stderr)
    raise ValueError("went wrong")
'''


@pytest.fixture
def question(house: ModuleType, tmp_path: Path) -> Any:
    """A question with contenders that take no time."""
    path = tmp_path / "asked.py"
    path.write_text(QUESTION)
    return house.load_file(str(path))


@pytest.fixture
def conditions(house: ModuleType) -> Any:
    return house.Conditions(repetitions=3, threads=1, allocator=None, as_json=True)


@pytest.fixture(scope="module")
def answers(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """The last line of a benchmark's output; all are run side by side, since most of their time goes into imports."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("benchmarks")
    sizes = {
        "training": ("--batch", "2", "--length", "32", "--steps", "1", "--peer-dtype", "bfloat16"),
        "generation": ("--batches", "1,2", "--tokens", "4", "--prompt-tokens", "8", "--peer-dtype", "float32"),
        "startup": (),
        "batches": ("--length", "64", "--stories", "60", "--plan-stories", "50,100", "--steps", "1"),
    }
    started = {
        name: commands.start([sys.executable, str(FOLDER), name, *QUICK, *words], folder)
        for name, words in sizes.items()
    }
    done = {name: commands.finish(process, seconds=110) for name, process in started.items()}

    def answer(name: str) -> dict[str, Any]:
        assert done[name].returncode == 0, done[name].stderr
        result: dict[str, Any] = json.loads(done[name].stdout.splitlines()[-1])
        assert result["benchmark"] == name
        assert result["ratio"] > 0
        assert result["machine"]["threads"] == 1
        assert result["machine"]["versions"]["torch"]
        return result

    return answer


@pytest.mark.slow
def test_training_is_measured(answers: Callable[[str], dict[str, Any]]) -> None:
    result = answers("training")
    ours, dense, peer = (result["contenders"][name] for name in ("ours", "dense", "transformers, bfloat16"))
    assert ours["facts"]["parameters"] == peer["facts"]["parameters"]
    # The dense twin lacks routers, and the output biases of the experts beyond the first.
    assert 0.98 < dense["facts"]["active_parameters"] / ours["facts"]["active_parameters"] < 1
    assert abs(ours["facts"]["last_loss_nats"] - peer["facts"]["last_loss_nats"]) < 0.5
    assert result["memory_ratio"] > 0
    assert result["dense_ratio"] > 0


@pytest.mark.slow
def test_generation_is_measured(answers: Callable[[str], dict[str, Any]]) -> None:
    result = answers("generation")
    assert set(result["ratio_by_batch"]) == {"1", "2"}
    assert set(result["same_tokens"]) == {"ours, float32", "ours, int8"}
    assert result["same_tokens"]["ours, float32"] == 1.0
    assert result["first_token_ratio"] > 0


@pytest.mark.slow
def test_starting_is_measured(answers: Callable[[str], dict[str, Any]]) -> None:
    result = answers("startup")
    assert 0 < result["import_seconds"] < result["generate_seconds"]
    assert result["contenders"]["transformers"]["peak_memory_bytes"] > 100 << 20


@pytest.mark.slow
def test_making_batches_is_measured(answers: Callable[[str], dict[str, Any]]) -> None:
    result = answers("batches")
    assert 0 < result["share_of_step"] < 1
    assert set(result["plan_seconds"]) == {"50", "100"}
    assert all(seconds > 0 for seconds in result["plan_seconds"].values())
    contenders = result["contenders"]
    for name, shares in result["padding_share"].items():
        assert shares == contenders[name]["facts"]["padding_share"] >= 0
    assert 0 < contenders["ours"]["facts"]["repeated_share"] < 1, "the storybook's stories are longer than 64 tokens"
    assert result["cut_share"]["DataLoader, chunked"] > 0
    assert result["batch_milliseconds"]["ours, 2 x 131,072"] > 0


def test_contenders_take_turns_in_processes_of_their_own(
    house: ModuleType, question: Any, conditions: Any, tmp_path: Path
) -> None:
    order = tmp_path / "order"

    def contender(name: str, seconds: float) -> Any:
        return house.Contender(name, question.note, {"name": name, "file": str(order), "seconds": seconds})

    first, second = house.compare([contender("A", 1.0), contender("B", 3.0)], conditions)
    assert order.read_text() == "ABBAAB"
    assert first.facts["process"] != second.facts["process"]
    assert first.figures == {"seconds": [1.0, 1.0, 1.0]}
    assert house.ratio(first, second, "seconds") == house.Ratio(3.0, 3.0, 3.0)
    assert house.best([second, first], "seconds") is first


def test_one_at_a_time_starts_anew(house: ModuleType, question: Any, conditions: Any, tmp_path: Path) -> None:
    contender = house.Contender("A", question.note, {"name": "A", "file": str(tmp_path / "order"), "seconds": 1.0})
    (kept,) = house.compare([contender], conditions)
    (renewed,) = house.compare([contender], conditions, one_at_a_time=True)
    assert len(kept.figures["seconds"]) == len(renewed.figures["seconds"]) == 3
    assert kept.facts["process"] != renewed.facts["process"]


def test_memory_is_that_of_the_contender(house: ModuleType, question: Any, conditions: Any) -> None:
    here = bytearray(b"x") * (200 << 20)  # must not count: the contender is another process
    contenders = [house.Contender(name, question.large, {"bytes": mib << 20}) for name, mib in (("A", 1), ("B", 65))]
    small, large = house.compare(contenders, conditions)
    del here
    assert small.peak_memory_bytes < 150 << 20
    assert 56 << 20 < large.peak_memory_bytes - small.peak_memory_bytes < 72 << 20


def test_a_contender_starts_clean(house: ModuleType, question: Any, conditions: Any) -> None:
    facts = house.apart(question.around, {}, conditions)
    assert facts["threads"] == "1"
    assert not facts["torch"]
    assert str(FOLDER) not in facts["path"]  # a file there has the name of a package


def test_more_is_better_unless_it_is_seconds_or_bytes(house: ModuleType) -> None:
    ours = house.Outcome("ours", {"tokens_per_second": [4.0, 9.0], "first_token_seconds": [1.0, 2.0]})
    peer = house.Outcome("peer", {"tokens_per_second": [2.0, 3.0], "first_token_seconds": [4.0, 2.0]})
    assert house.ratio(ours, peer, "tokens_per_second") == house.Ratio(6.5 / 2.5, 2.0, 3.0)
    assert house.ratio(ours, peer, "first_token_seconds") == house.Ratio(2.0, 1.0, 4.0)
    assert house.best([ours, peer], "tokens_per_second") is house.best([ours, peer], "first_token_seconds") is ours


@pytest.mark.parametrize(
    ("function", "message"),
    [("refusing", "A: cannot be done"), ("failing", "A ended with code 1: ValueError: went wrong")],
)
def test_a_failing_contender_is_named(
    house: ModuleType, question: Any, conditions: Any, function: str, message: str
) -> None:
    with pytest.raises(house.BenchmarkError) as caught:
        house.compare([house.Contender("A", getattr(question, function))], conditions)
    assert str(caught.value) == message


def test_a_missing_peer_names_the_extra(house: ModuleType, question: Any, conditions: Any) -> None:
    contender = house.Contender("A", question.around, needs=("no_such_package",))
    with pytest.raises(house.BenchmarkError, match=r"no_such_package.*\.\[benchmarks\]"):
        house.compare([contender], conditions)


def test_an_allocator_that_is_not_there_is_refused(house: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    with pytest.raises(house.BenchmarkError, match="--allocator no_such_library"):
        house.find_allocator("no_such_library")
    assert house.find_allocator("none") is None


def test_the_dense_twin_has_the_same_active_parameters(house: ModuleType) -> None:
    config = house.model_config("tiny", "story", 512)
    dense = house.dense_twin(config)
    assert dense.num_experts == 1
    assert dense.parameters().active == pytest.approx(config.parameters().active, rel=0.005)


def test_every_question_is_listed_and_a_misspelled_one_refused(commands: Commands, tmp_path: Path) -> None:
    listed = commands.run([sys.executable, str(FOLDER)], tmp_path)
    assert {"training", "generation", "startup"} <= {line.split()[0] for line in listed.stdout.splitlines()}
    wrong = commands.run([sys.executable, str(FOLDER), "trainin"], tmp_path)
    assert (wrong.returncode, wrong.stderr) == (2, "error: no benchmark answers 'trainin': did you mean training?\n")
