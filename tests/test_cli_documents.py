"""What is written about the commands is true: the stored list of flags, the README's commands, code and tables."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gpt_oss_stories import cli

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_public_flags_change_only_on_purpose() -> None:
    public_flags = script("public_flags")
    assert public_flags.public_flags() == public_flags.STORED.read_text(encoding="utf-8"), (
        "flags are public: if the change is meant, run .venv/bin/python scripts/public_flags.py --write"
    )


def test_readme_tables_come_from_the_settings() -> None:
    tables = script("readme_tables")
    assert tables.with_tables(README) == README, "run .venv/bin/python scripts/readme_tables.py --write"


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands() -> list[str]:
    lines = [line for block in blocks("") for line in block.replace("\\\n", " ").splitlines()]
    lines += [line for line in re.findall(r"`([^`\n]+)`", README) if line.startswith(("stories ", "./setup.sh"))]
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))


def test_readme_has_commands() -> None:
    assert len(commands()) >= 10


@pytest.mark.parametrize("line", commands())
def test_readme_commands_are_accepted(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)
    if words[0] == "torchrun":
        words = ["python3", *words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]]
    if words[0] == "python3":
        assert (PROJECT / words[1]).is_file()
        words = ["stories", {"src/run_training.py": "train", "src/generate.py": "generate"}[words[1]], *words[2:]]
    if words[0] == "./setup.sh":
        labels = re.findall(r"^    (.*?)\) ", (PROJECT / "setup.sh").read_text(encoding="utf-8"), re.MULTILINE)
        assert (words[1] if len(words) > 1 else '""') in {part.strip() for label in labels for part in label.split("|")}
        return
    assert words[0] == "stories"
    if words[1] == "train" and "--init-from" not in words:  # which opens the model, as tests/end_to_end does
        assert cli.main([*words[1:], "--dry-run"]) == 0, capsys.readouterr().err
    else:
        cli.stories.commands[words[1]].make_context(words[1], words[2:])


def test_readme_configuration_code_runs_from_the_root() -> None:
    (code,) = [block for block in blocks("python") if "src.config" in block]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert re.match(
        r"[\d,]+ parameters: [\d,]+ active per token, [\d,]+ embedding, [\d,]+ non-embedding", result.stdout
    )


@pytest.mark.parametrize("code", blocks("python"))
def test_readme_code_is_python(code: str) -> None:
    compile(code, "README.md", "exec")


def test_documents_mention_only_files_that_exist() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "docs/other-tools.md"):
        text = (PROJECT / document).read_text(encoding="utf-8")
        for path in re.findall(r"`((?:src|tests|scripts|\.ci)/[\w./-]+)`", text):
            assert (PROJECT / path).exists(), f"{document} mentions {path}"
