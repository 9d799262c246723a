"""The README's commands, typed as they stand there, with flags after them that make the models small."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import matplotlib.image
import numpy as np
import pytest
import torch

from gpt_oss_stories.model.model_file import load_model_file

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

STEPS, ROWS, LENGTH = 2, 2, 128
SMALL = shlex.split(
    f"--max-iters {STEPS} --batch-size {ROWS} --block-size {LENGTH} --eval-iters 1 --log-interval 1 "
    "--n-layer 2 --n-head 4 --n-embd 64 --num-experts 4 "
    "--vocabulary story --storybook-stories 40 --first-readers 20 --original-repeats 0"
)
ELSEWHERE = {"stories train --dataset-path my_stories.txt"}
"""What test_interrupted_run.py runs."""
START = "stories train --init-from"
"""How the command begins that starts from an exported model."""
PROCESSES = 2
"""In place of the number that torchrun is to start."""

pytestmark = pytest.mark.timeout(1500)  # a test may have to wait for the runs of all others


def readme_lines() -> list[str]:
    """The commands in the code blocks without a language, and those with arguments in the table."""
    blocks = re.findall(r"^```\n(.*?)^```$", re.sub(r"^```\w+\n.*?^```$", "", README, flags=re.S | re.M), re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"^\| `(stories \w+ [^`]+)` \|", README, re.M)
    return list(dict.fromkeys(" ".join(line.split()) for line in lines))


def kind_of(line: str) -> str:
    """What a command does: the sub-command of `stories`, or setup."""
    found = re.fullmatch(r"(?:\./(setup)\.sh|stories (\w+)|(?:python3|torchrun .*) ?src/(\w+)\.py)(?: .*)?", line)
    assert found, f"the README has a command that no test runs: {line}"
    setup, command, script = found.groups()
    if "--check" in line or "--estimate" in line:
        return "look ahead"
    return setup or command or {"run_training": "train", "generate": "generate"}[script]


READ = [line for line in readme_lines() if line not in ELSEWHERE]
LINES = {
    kind: [line for line in READ if kind_of(line) == kind and not line.startswith(START)] for kind in map(kind_of, READ)
}


def test_readme_has_commands_of_each_kind() -> None:
    assert {kind: len(lines) for kind, lines in LINES.items()} == {
        "setup": 2,  # installing takes minutes; tests/test_front_doors.py has what can be tested of it
        "train": 4,
        "look ahead": 2,
        "runs": 1,
        "generate": 2,
        "prepare": 1,
        "inspect": 1,
        # In the table these three have names in place of paths; tests/test_cli_interop.py and tests/interop run them.
        "export": 3,
        "import": 1,
        "publish": 1,
    }


@dataclass
class Run:
    """A training command that has ended."""

    line: str
    folder: Path
    result: CompletedProcess[str]

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def small(line: str) -> list[str]:
    words = [re.sub(r"^(--nproc-per-node)=\d+$", rf"\1={PROCESSES}", word) for word in shlex.split(line)]
    return words + SMALL


@pytest.fixture(scope="session")
def runs(request, commands, new_folder, side_by_side) -> dict[str, Future[Run]]:
    """The README's training commands, two at a time; those that no chosen test needs are not started."""

    def run(line: str) -> Run:
        folder = new_folder("readme")
        # torchrun then looks for a free port, so that two of them may run on one machine.
        return Run(line, folder, commands.run(small(line), folder, PET_STANDALONE="1"))

    chosen = {item.callspec.params.get("line") for item in request.session.items if hasattr(item, "callspec")}
    lines = [line for line in LINES["train"] if line in chosen or line == LINES["train"][0]]
    longest_first = sorted(lines, key=lambda line: ("--compile-model" not in line, "torchrun" not in line))
    return {line: side_by_side.submit(run, line) for line in longest_first}


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES["train"])
def test_training_commands_leave_a_model_metrics_and_a_picture(line: str, runs: dict[str, Future[Run]]) -> None:
    run = runs[line].result()
    words, said = shlex.split(line), run.result.stderr
    assert run.result.returncode == 0, said
    assert "Traceback" not in said
    assert "error:" not in said
    assert "\nOnce upon a time" in said, "a sample story is shown"

    model = load_model_file(run.checkpoints / "best_model.pt")
    assert (model.config.n_layer, model.config.n_embd, model.config.num_experts) == (2, 64, 4)
    assert model.provenance["step"] == STEPS
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.weights.values())

    processes = PROCESSES if words[0] == "torchrun" else 1
    assert f"device cpu, {processes} process(es), " in said
    accumulation = int(words[words.index("--gradient-accumulation-steps") + 1]) if "--gradient-acc" in line else 1
    records = [json.loads(text) for text in (run.checkpoints / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    step_tokens = ROWS * LENGTH * accumulation * processes
    assert [record["tokens_seen"] for record in records] == [step_tokens, 2 * step_tokens]
    for record in records:
        assert 0 < record["loss_nats"] < 1.5 * math.log(model.config.vocab_size)
    assert records[-1]["validation_loss_nats"] == model.provenance["validation_loss_nats"] > 0

    picture = matplotlib.image.imread(run.checkpoints / "plots" / "training_curves.png")
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50, "more than an empty frame"


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in LINES["train"] if "--use-wandb" in line])
def test_runs_without_an_account_are_recorded_offline(line: str, runs: dict[str, Future[Run]]) -> None:
    pytest.importorskip("wandb")
    run = runs[line].result()
    assert "recording offline in checkpoints/wandb" in run.result.stderr
    (record,) = (run.checkpoints / "wandb").glob("offline-run-*/run-*.wandb")
    assert record.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in LINES["train"] if "--compile-model" in line])
def test_what_is_asked_for_is_used_or_its_absence_said(line: str, runs: dict[str, Future[Run]]) -> None:
    run = runs[line].result()
    assert ("going on without" in run.result.stderr) == (shutil.which("g++") is None)
    settings = load_model_file(run.checkpoints / "best_model.pt").provenance["training_config"]
    assert settings["compile_model"] is settings["use_mixed_precision"] is True


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in LINES["train"] if "my_stories.jsonl" in line])
def test_training_on_a_file_reads_all_its_stories(
    line: str, runs: dict[str, Future[Run]], story_lines: str, commands
) -> None:
    run = runs[line].result()
    assert "read 200 stories from 1 file (my_stories.jsonl)" in run.result.stderr
    assert "skipped" not in run.result.stderr
    (prepare,) = LINES["prepare"]
    again = commands.run([*shlex.split(prepare), "--vocabulary", "story"], run.folder)
    assert (again.returncode, "found prepared" in again.stderr) == (0, True), "training has prepared the same"
    shards = run.folder / again.stdout.strip()
    assert {"train.shard", "validation.shard", "manifest.json"} <= {path.name for path in shards.iterdir()}
    stories = sum(split["stories"] for split in json.loads((shards / "manifest.json").read_text())["splits"].values())
    assert stories == len({json.loads(text)["text"] for text in story_lines.splitlines()}) == 200


@pytest.fixture(scope="session")
def trained(runs: dict[str, Future[Run]]) -> Path:
    """A folder in which the README's first training command was run."""
    return runs[LINES["train"][0]].result().folder


@pytest.mark.parametrize("line", LINES["generate"])
def test_generate_commands_tell_stories(line: str, trained: Path, commands) -> None:
    words = shlex.split(line)
    asked = [words[words.index("--prompt") + 1]] * 5 if "--prompt" in words else ["A little fox", "A little hen"]
    typed = "" if "--prompt" in words else "\n".join([*asked, "/quit\n"])
    result = commands.run(words, trained, typed=typed)
    assert result.returncode == 0, result.stderr
    assert "error" not in result.stderr
    if "--num-samples 5" in line:
        headings = [f"--- Story {number} of 5 ---" for number in range(1, 6)]
        assert re.findall(r"^--- .* ---$", result.stdout, re.M) == headings
    stories = [text for text in re.split("^(?=" + "|".join(set(asked)) + ")", result.stdout, flags=re.M) if text]
    stories = [text for text in stories if not text.startswith("---")]
    assert [text[: len(begin)] for text, begin in zip(stories, asked, strict=True)] == asked
    assert len(set(stories)) == len(asked), "each sample is another story"
    # Nothing fixes the seed, and after two steps any token may be the end: one word or two is all that is certain.
    assert max(map(len, stories)) > len(asked[0]) + 1, "a model this young may end a story at once, but not each"
    assert result.stderr.count(" tokens/s), ") == len(asked)


@pytest.mark.parametrize("line", LINES["look ahead"])
def test_what_a_run_would_need_is_said_without_training(line: str, new_folder, commands) -> None:
    folder = new_folder("ahead")
    before = sorted(folder.rglob("*"))
    done = commands.run(shlex.split(line), folder)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert ("fits into 74.5 GiB" if "--estimate" in line else "my_stories.jsonl") in done.stdout
    assert sorted(folder.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize("line", LINES["runs"])
def test_runs_are_listed(line: str, trained: Path, commands) -> None:
    done = commands.run(shlex.split(line), trained)
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout


@pytest.mark.parametrize("line", LINES["inspect"])
def test_inspect_command_shows_the_model(line: str, trained: Path, commands) -> None:
    result = commands.run(shlex.split(line), trained)
    assert (result.returncode, result.stderr) == (0, "")
    shown = {" ".join(text.split()) for text in result.stdout.splitlines()}
    assert {"checkpoints/best_model.pt", "n_embd 64", f"step {STEPS}", "kind story", f"max_iters {STEPS}"} <= shown


@pytest.mark.slow
def test_exported_models_are_written_and_started_from(trained: Path, story_lines: str, commands) -> None:
    exports = [line for line in LINES["export"] if "DIR" not in line]
    (start,) = [line for line in READ if line.startswith(START)]
    for line in exports:
        result = commands.run(shlex.split(line), trained)
        assert result.returncode == 0, result.stderr
        assert all(Path(trained, name.split("  ")[0]).is_file() for name in result.stdout.splitlines())
    stories = [json.loads(text)["text"] for text in story_lines.splitlines()[:20]]
    (trained / "my_stories.txt").write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    words = [
        *shlex.split(start),
        "--checkpoint-dir",
        "again",
        *SMALL[: SMALL.index("--block-size")],
        "--eval-iters",
        "1",
    ]
    result = commands.run(words, trained)
    assert result.returncode == 0, result.stderr
    assert "starting from the weights of exported/transformers" in result.stderr
    model = load_model_file(trained / "again" / "best_model.pt")
    assert (model.config.n_layer, model.config.n_embd) == (2, 64)
    assert model.provenance["step"] == STEPS


def test_python_code_opens_the_trained_model(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in re.findall(r"^```python\n(.*?)^```$", README, re.S | re.M) if "load_model" in block]
    monkeypatch.chdir(trained)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - what the README tells people to run
    model = names["model"]
    assert "`.logits(tokens)`" in README
    assert "`.generate_tokens(ids, max_new_tokens)`" in README
    ids = model.vocabulary.encode("Once upon a time")
    logits = model.logits(torch.tensor([ids]))
    assert logits.shape == (1, len(ids), model.config.vocab_size)
    assert model.generate_tokens(ids, 3)[: len(ids) + 1] == [*ids, int(logits[0, -1].argmax())]
