"""Where tasks run does not matter: Slurm's jobs and Ray's workers, killed ones too, give what one process gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data import pipeline
from gpt_oss_stories.data.pipeline import PreparationSubmittedError, prepare
from gpt_oss_stories.data.preparation import plan
from gpt_oss_stories.data.sources import DataError

SOURCE = str(Path(pipeline.__file__).parents[2])


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A few generated stories in two tasks."""
    monkeypatch.setattr(plan, "WRITTEN_STORIES", 60)
    return DataConfig(
        data_dir=str(tmp_path / "data"), vocabulary="story", storybook_stories=100, first_readers=0, original_repeats=0
    )


def files_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


@pytest.fixture
def undisturbed(config, tmp_path):
    """The files that one process makes."""
    return files_of(prepare(config.replace(data_dir=str(tmp_path / "undisturbed")), workers=1).directory)


SBATCH = """#!/usr/bin/env python3
import os, pathlib, shutil, sys
folder = pathlib.Path(os.environ["FAKE_SLURM"])
number = 100 + len(list(folder.glob("*.job")))
shutil.copy(sys.argv[-1], folder / f"{number}.job")
(folder / f"{number}.options").write_text("\\n".join(sys.argv[1:-1]))
print("Submitted batch job", number)
"""

SRUN = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done
exec "$@"
"""

SCONTROL = """#!/usr/bin/env bash
echo node1
"""

SQUEUE = """#!/usr/bin/env bash
[ -e "$FAKE_SLURM/running" ] && echo "103 cpu stories R"
exit 0
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder in which submitted jobs lie, each with its options; commands of Slurm that put them there."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def directives(job: Path) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", job.read_text(), re.MULTILINE)
    return dict(lines)


def run_array(job: Path) -> None:
    """Run every task of a job script, as Slurm would."""
    first, last = map(int, directives(job)["array"].split("%")[0].split("-"))
    for task in range(first, last + 1):
        environment = {
            **os.environ,
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_NODELIST": "node1",
            "PYTHONPATH": SOURCE,
        }
        done = subprocess.run(["bash", str(job)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_slurm_jobs_make_what_one_process_makes(config, undisturbed, slurm):
    options = "partition=cpu,time=02:00:00,mem_per_cpu_gb=3,account=school"
    on_slurm = config.replace(executor="slurm", executor_options=options, max_workers=7)
    with pytest.raises(PreparationSubmittedError, match=r"submitted 7 stages to Slurm, the last one as job \d+"):
        prepare(on_slurm)
    jobs = sorted(job for job in slurm.glob("*.job") if "launch_pickled_pipeline" in job.read_text())
    assert len(jobs) == 7
    before = None
    for job in jobs:
        assert subprocess.run(["bash", "-n", str(job)]).returncode == 0
        asked = directives(job)
        assert (asked["partition"], asked["time"], asked["mem-per-cpu"]) == ("cpu", "02:00:00", "3G")
        assert (asked["account"], asked["cpus-per-task"]) == ("school", "1")
        assert asked["array"].endswith("%7")
        given = job.with_suffix(".options").read_text()
        # Each stage begins when the one before has ended well.
        assert (f"--dependency=afterok:{before}" in given) == (before is not None)
        before = job.stem
    assert directives(jobs[0])["array"] == "0-1%7"

    (slurm / "running").touch()
    with pytest.raises(
        PreparationSubmittedError, match=r"Slurm is still at it \(last job \d+\)\. Tasks done: tell 0/2"
    ):
        prepare(on_slurm)
    for job in jobs[:3]:
        run_array(job)
    with pytest.raises(PreparationSubmittedError, match=r"tell 2/2, exact 1/1, extremes 1/1, count 0/2"):
        prepare(config)
    (slurm / "running").unlink()
    for job in jobs[3:]:
        run_array(job)
    assert files_of(prepare(on_slurm).directory) == undisturbed


def test_slurm_that_is_not_there_is_one_clear_line(config):
    on_slurm = config.replace(executor="slurm", executor_options="partition=cpu,time=1:00:00")
    with pytest.raises(DataError, match=r"command sbatch is not on this machine: .* or use --executor local"):
        prepare(on_slurm)
    with pytest.raises(DataError, match="needs partition and time: --executor-options partition=NAME"):
        prepare(on_slurm.replace(executor_options=None))
    with pytest.raises(DataError, match=r"'gpus=3' is not one of those of slurm: partition=..., time=..."):
        prepare(on_slurm.replace(executor_options="gpus=3"))
    with pytest.raises(DataError, match="'time=1' is not one of those of local: none"):
        prepare(config.replace(executor_options="time=1"))


ON_RAY = """
import json, os, signal, sys
import psutil
from gpt_oss_stories.config import DataConfig
from gpt_oss_stories.data.pipeline import prepare
from gpt_oss_stories.data.preparation import plan

plan.WRITTEN_STORIES = 60
killed = {}

def workers():
    titles = {one: " ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])}
    ours = [one for one, title in titles.items() if title.startswith("ray::_run") and one.pid not in killed.values()]
    return [one for one in ours if os.getpid() in [parent.pid for parent in one.parents()]]

def progress(stage, done, total):
    # In each of two stages, a worker is killed while it is at a task.
    if stage in ("tell", "number") and done < total and stage not in killed:
        for one in workers()[:1]:
            one.send_signal(signal.SIGKILL)
            killed[stage] = one.pid

if __name__ == "__main__":
    data = prepare(DataConfig.from_dict(json.loads(sys.argv[1])), progress)
    print(json.dumps({"directory": str(data.directory), "killed": sorted(killed)}))
"""


@pytest.mark.slow
def test_ray_makes_what_one_process_makes_though_workers_are_killed(config, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    many = config.replace(storybook_stories=500)
    undisturbed = files_of(prepare(many.replace(data_dir=str(tmp_path / "undisturbed")), workers=1).directory)
    script = tmp_path / "on_ray.py"
    script.write_text(ON_RAY)
    on_ray = many.replace(executor="ray", max_workers=2)
    command = [sys.executable, str(script), json.dumps(on_ray.to_dict())]
    environment = {**os.environ, "PYTHONPATH": SOURCE, "RAY_TMPDIR": str(tmp_path.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["killed"], "a stage may be over before its worker is found, but not both"
    assert files_of(Path(said["directory"])) == undisturbed
