"""The scripts that the documents name: they work from any Python, find the environment, and fail with one line."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import gpt_oss_stories
from gpt_oss_stories.training.run_file import RunFile

PROJECT = Path(__file__).parents[1]


def run(command: list[str], *, cwd: Path = PROJECT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run without this test run's Python settings; a variable given as "" is unset."""
    unset = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME", "GPT_OSS_STORIES_SWITCHED_PYTHON")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python without any library."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return str(folder / "bin" / "python")


@pytest.fixture
def project_copy(tmp_path: Path) -> Path:
    """The sources in another place, without an environment."""
    copy = tmp_path / "project with a space"
    shutil.copytree(PROJECT / "src", copy / "src", ignore=shutil.ignore_patterns("assets", "__pycache__", "*.egg-info"))
    return copy


@pytest.mark.parametrize(("script", "command"), [("run_training", "train"), ("generate", "generate")])
def test_front_doors_are_the_commands(script: str, command: str, tmp_path: Path) -> None:
    door = run([sys.executable, str(PROJECT / "src" / f"{script}.py"), "--help"], cwd=tmp_path)
    assert door.returncode == 0, door.stderr
    assert door.stdout.startswith(f"Usage: stories {command} ")


def test_front_door_passes_the_exit_code_on(tmp_path: Path) -> None:
    result = run([sys.executable, str(PROJECT / "src" / "run_training.py"), "--n-head", "7"], cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["run_training", "generate"])
def test_python_without_libraries_goes_on_in_the_environment(
    script: str, bare_python: str, project_copy: Path, tmp_path: Path
) -> None:
    python = project_copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    door = str(project_copy / "src" / f"{script}.py")
    result = run([bare_python, door, "--prompt", "two words"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [door, "--prompt", "two words"]
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("note: ")
    assert str(python) in result.stderr
    assert run([bare_python, door], cwd=tmp_path, RANK="1").stderr == "", "only the first process may speak"


def test_python_without_libraries_and_without_environment_names_setup(
    bare_python: str, project_copy: Path, tmp_path: Path
) -> None:
    result = run([bare_python, str(project_copy / "src" / "run_training.py"), "--help"], cwd=tmp_path)
    assert result.returncode != 0
    assert result.stderr.startswith("error: ")
    assert "./setup.sh" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_environment_without_libraries_does_not_start_itself_forever(
    bare_python: str, project_copy: Path, tmp_path: Path
) -> None:
    venv.create(project_copy / ".venv", with_pip=False, symlinks=True)
    door = str(project_copy / "src" / "generate.py")
    for python in (bare_python, str(project_copy / ".venv" / "bin" / "python")):
        result = run([python, door], cwd=tmp_path)
        assert result.returncode != 0
        assert "incomplete; run ./setup.sh" in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr


CONFIG_CODE = """
import sys
from src.config import ModelConfig, TrainingConfig
import gpt_oss_stories.config as package
assert ModelConfig is package.ModelConfig and TrainingConfig is package.TrainingConfig
assert "torch" not in sys.modules
print(ModelConfig(n_layer=3).n_layer)
"""


def test_src_config_is_the_package_s_configuration(bare_python: str) -> None:
    for python in (sys.executable, bare_python):
        result = run([python, "-c", CONFIG_CODE])
        assert (result.returncode, result.stdout, result.stderr) == (0, "3\n", "")


IMPORT_EACH = """
import importlib, json, os, sys, traceback
import torch  # once for all: it takes seconds and every second module needs it
failures = {}
for name in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            importlib.import_module(name)
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-4000:])
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        if said := pipe.read():
            failures[name] = said
    os.waitpid(child, 0)
print(json.dumps(failures))
"""


def test_every_module_can_be_imported_alone() -> None:
    names = [module.name for module in pkgutil.walk_packages(gpt_oss_stories.__path__, "gpt_oss_stories.")]
    assert len(names) > 20
    result = run([sys.executable, "-c", IMPORT_EACH, json.dumps(names)], PYTHONPATH=str(PROJECT / "src"))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {}


@pytest.fixture
def setup_copy(tmp_path: Path) -> Path:
    """What setup.sh needs, in another place, with a Python that cannot be used."""
    for name in ("setup.sh", "requirements.txt", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    return tmp_path


def test_setup_help_changes_nothing(setup_copy: Path) -> None:
    before = sorted(setup_copy.iterdir())
    result = run([str(setup_copy / "setup.sh"), "--help"], cwd=Path("/"))
    assert result.returncode == 0
    for command in ("story", "test", "verify", "--sample-data"):
        assert command in result.stdout
    assert sorted(setup_copy.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["sotry"], "unknown command 'sotry'"), ([], "no Python 3.11 or newer"), (["test"], "no Python 3.11 or newer")],
    ids=["unknown command", "install", "test"],
)
def test_setup_fails_with_one_line(setup_copy: Path, arguments: list[str], named: str) -> None:
    python = str(setup_copy / "old-python")
    result = run([str(setup_copy / "setup.sh"), *arguments], cwd=Path("/"), PYTHON=python)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert named in result.stderr


def test_setup_names_the_log_when_an_installation_fails(setup_copy: Path) -> None:
    # The environment is made for real; what it is to install does not exist.
    (setup_copy / "requirements.txt").write_text("./no-such-folder\n", encoding="utf-8")
    result = run([str(setup_copy / "setup.sh")], cwd=Path("/"), PYTHON=sys.executable)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "installing requirements.txt failed: " in result.stderr
    assert "logs/setup.log" in result.stderr
    assert "no-such-folder" in (setup_copy / "logs" / "setup.log").read_text(encoding="utf-8")
    assert not (setup_copy / ".venv" / "installed-from").exists()


SCRIPTS = ("train_small_model.sh", "generate_stories.sh", "slurm_train.sbatch")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_sound_bash(script: str) -> None:
    path = PROJECT / "scripts" / script
    assert run(["bash", "-n", str(path)]).returncode == 0
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")
    if (shellcheck := shutil.which("shellcheck")) is not None:
        assert run([shellcheck, str(path)]).stdout == ""


@pytest.mark.parametrize("script", SCRIPTS[:2])
def test_scripts_explain_themselves_from_anywhere_and_do_nothing_else(script: str, tmp_path: Path) -> None:
    result = run([str(PROJECT / "scripts" / script), "--max-tokens", "3", "--help"], cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: scripts/{script}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS[:2])
def test_scripts_without_an_environment_name_setup(script: str, bare_python: str, project_copy: Path) -> None:
    shutil.copytree(PROJECT / "scripts", project_copy / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    path = os.pathsep.join([str(Path(bare_python).parent), "/usr/bin", "/bin"])
    result = run([str(project_copy / "scripts" / script)], PATH=path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the project is not installed")
    assert result.stderr.count("\n") == 1


def test_processes_must_be_a_number() -> None:
    result = run([str(PROJECT / "scripts" / "train_small_model.sh")], PROCESSES="two")
    assert result.returncode == 1
    assert "PROCESSES=two" in result.stderr


@pytest.fixture
def scripts_copy(project_copy: Path) -> Path:
    """The scripts in another place, with an environment whose Python only says what it was started with."""
    shutil.copytree(PROJECT / "scripts", project_copy / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    python = project_copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\ncase "$*" in *--check*) exit "$CHECK" ;; esac\n', encoding="utf-8")
    python.chmod(0o755)
    return project_copy / "scripts"


def test_training_starts_only_if_the_check_finds_no_problem(scripts_copy: Path, tmp_path: Path) -> None:
    words = [str(scripts_copy / "train_small_model.sh"), "--max-iters", "5"]
    door = scripts_copy.parent / "src" / "run_training.py"
    good = run(words, cwd=tmp_path, CHECK="0")
    assert good.returncode == 0
    line = f"{door} --model-size nano --max-iters 5"
    assert good.stdout.splitlines() == [f"{line} --check", line]
    bad = run(words, cwd=tmp_path, CHECK="1")
    assert bad.returncode == 1
    assert len(bad.stdout.splitlines()) == 1
    assert bad.stderr == "error: the run cannot start; see above\n"
    two = run(words, cwd=tmp_path, CHECK="0", PROCESSES="2")
    assert two.stdout.splitlines()[1] == f"-m torch.distributed.run --standalone --nproc-per-node=2 {line}"


@pytest.mark.parametrize("flags", [["--init-from", "a.pt"], ["--init-from=a.pt"]])
def test_a_model_to_start_from_brings_its_own_size(flags: list[str], scripts_copy: Path, tmp_path: Path) -> None:
    done = run([str(scripts_copy / "train_small_model.sh"), *flags], cwd=tmp_path, CHECK="0")
    line = " ".join([str(scripts_copy.parent / "src" / "run_training.py"), *flags])
    assert done.stdout.splitlines() == [f"{line} --check", line]


def test_each_beginning_gets_a_story(scripts_copy: Path, tmp_path: Path) -> None:
    words = [str(scripts_copy / "generate_stories.sh"), "One day", "A duck", "--seed", "1"]
    lines = run(words, cwd=tmp_path).stdout.splitlines()
    door = scripts_copy.parent / "src" / "generate.py"
    assert lines == [f"{door} --max-tokens 400 --seed 1 --prompt {word}" for word in ("One day", "A duck")]
    assert len(run(words[:1], cwd=tmp_path).stdout.splitlines()) == 3


@pytest.mark.slow
def test_a_model_is_trained_and_tells_a_story_by_the_scripts(tmp_path: Path) -> None:
    stories = tmp_path / "stories.jsonl"
    texts = [f"One day {name} lost a ball. {name} looked and looked. At last it was there." for name in NAMES]
    stories.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    small = ["--n-layer", "1", "--n-embd", "32", "--block-size", "32", "--max-iters", "2", "--eval-iters", "1"]
    words = ["--dataset-path", str(stories), "--device", "cpu", *small]
    trained = run([str(PROJECT / "scripts" / "train_small_model.sh"), *words], cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "to be prepared in" in " ".join(trained.stdout.split()), "it was checked first"
    assert (tmp_path / "checkpoints" / "best_model.pt").is_file()
    told = run([str(PROJECT / "scripts" / "generate_stories.sh"), "One day", "--max-tokens", "3"], cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "One day" in told.stdout


def test_a_beginning_as_a_flag_is_explained(tmp_path: Path) -> None:
    result = run([str(PROJECT / "scripts" / "generate_stories.sh"), "--prompt", "Once"], cwd=tmp_path)
    assert result.returncode == 1
    assert "words before the flags" in result.stderr


NAMES = ("Mia", "Tom", "Anna", "Ben", "Lily", "Max", "Ida", "Bo", "Finn", "Ella", "Lea", "Noa")

SRUN = """#!/bin/bash
# Runs the program here instead of on every machine.
echo "$@" >>"$LOG"
while [ "${1#--}" != "$1" ]; do shift; done
if [ -n "$SAVES" ]; then mkdir -p "$SAVES"; fi
if [ -n "$RUN" ]; then cp "$RUN" "$(dirname "$SAVES")/run.json"; fi
if [ -n "$CODE" ]; then exit "$CODE"; fi
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; echo elsewhere; else echo "$@" >>"$LOG"; fi
"""


def slurm(folder: Path, *flags: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The job script's end with stand-ins for Slurm's commands, and the lines that they were called with."""
    commands = folder / "commands"
    commands.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(text, encoding="utf-8")
        (commands / name).chmod(0o755)
    log = folder / "log"
    log.unlink(missing_ok=True)
    given = {
        "PATH": os.pathsep.join([str(commands), os.environ["PATH"]]),
        "LOG": str(log),
        "SAVES": "",
        "RUN": "",
        "CODE": "",
        "PROJECT": str(PROJECT),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "node[1-2]",
        **variables,
    }
    done = run(["bash", str(PROJECT / "scripts" / "slurm_train.sbatch"), *flags], cwd=folder, **given)
    return done, log.read_text(encoding="utf-8").splitlines() if log.exists() else []


HAS_ENVIRONMENT = pytest.mark.skipif(
    not (PROJECT / ".venv" / "bin" / "python").exists(), reason="the job script wants the project's own environment"
)


@HAS_ENVIRONMENT
def test_the_job_script_starts_torchrun_with_a_common_meeting_point(tmp_path: Path) -> None:
    done, (line,) = slurm(tmp_path, "--max-iters", "5", CODE="0", SLURM_GPUS_ON_NODE="8", SLURM_RESTART_COUNT="3")
    assert done.returncode == 0, done.stderr
    for words in ("--nproc-per-node=8", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:29400", "--rdzv-id=77-3",
                  "--parallelism fsdp --max-iters 5"):  # fmt: skip
        assert words in line
    assert "--cpus-per-task" not in line
    _, (line,) = slurm(tmp_path, CODE="0", SLURM_CPUS_PER_TASK="32")
    assert line.startswith("--kill-on-bad-exit=1 --cpus-per-task=32 bash -c ")


def run_file(folder: Path, *, ended: str | None, complete: bool = False) -> str:
    """A `run.json` that a job leaves."""
    folder.mkdir()
    RunFile(started_at="2026-01-01T00:00:00+00:00", ended_at=ended, complete=complete).write(folder)
    return str(folder / "run.json")


@HAS_ENVIRONMENT
@pytest.mark.parametrize("code", ["0", "1"], ids=["--stop-after", "a signal, of which torchrun makes 1"])
def test_a_job_that_was_stopped_with_something_new_is_requeued(code: str, tmp_path: Path) -> None:
    place = str(tmp_path / "run")
    first, second, third = (run_file(tmp_path / time, ended=f"2026-01-01T0{time}:00:00+00:00") for time in "123")
    state = f"{place}/state-00000005"
    done, lines = slurm(tmp_path, f"--checkpoint-dir={place}", CODE=code, SAVES=state, RUN=first)
    assert done.returncode == int(code)
    assert "complete" not in done.stdout
    assert lines[1:] == ["requeue 77"]
    done, lines = slurm(tmp_path, "--checkpoint-dir", place, CODE=code, SAVES=state, RUN=second)
    assert (done.returncode, len(lines)) == (1, 1), "the state was there before"
    assert "nothing new" in done.stderr
    last = {"SAVES": f"{place}/state-00000009", "RUN": third, "SLURM_RESTART_COUNT": "50"}
    done, lines = slurm(tmp_path, "--checkpoint-dir", place, CODE=code, **last)
    assert (done.returncode, len(lines)) == (1, 1), "often enough"
    assert "MOST_REQUEUES" in done.stderr


@HAS_ENVIRONMENT
def test_a_job_that_has_failed_or_is_complete_is_not_requeued(tmp_path: Path) -> None:
    place, earlier = str(tmp_path / "run"), run_file(tmp_path / "earlier", ended="2026-01-01T01:00:00+00:00")
    _, lines = slurm(tmp_path, "--checkpoint-dir", place, CODE="1", SAVES=f"{place}/state-00000001", RUN=earlier)
    assert lines[1:] == ["requeue 77"]
    failed = run_file(tmp_path / "failed", ended=None)
    for step, left in enumerate(("", failed), 2):  # before it begins, and while it trains
        saves = f"{place}/state-0000000{step}"
        done, lines = slurm(tmp_path, "--checkpoint-dir", place, CODE="1", SAVES=saves, RUN=left)
        assert (done.returncode, len(lines)) == (1, 1)
        assert done.stderr == "error: training failed with exit code 1: not put back into the queue; see above\n"
    whole = run_file(tmp_path / "whole", ended="2026-01-01T02:00:00+00:00", complete=True)
    done, lines = slurm(tmp_path, "--checkpoint-dir", place, CODE="0", SAVES=f"{place}/state-00000009", RUN=whole)
    assert (done.returncode, done.stdout, len(lines)) == (0, "training is complete\n", 1)


@HAS_ENVIRONMENT
def test_the_launcher_ignores_slurm_s_signal_and_what_it_starts_may_handle_it(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    # In place of torchrun: lives through the signal and starts a program that handles it.
    python.write_text(
        f'#!/bin/bash\nkill -USR1 $$\nexec {sys.executable} -c "\n'
        "import os, signal\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled', flush=True))\n"
        'os.kill(os.getpid(), signal.SIGUSR1)"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    done, _ = slurm(tmp_path, PROJECT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "handled" in done.stdout
