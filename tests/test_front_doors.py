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
