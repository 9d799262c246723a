"""Devices: what a name means, and that a device that is not there is one clear line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from gpt_oss_stories.device import DeviceError, choose_device, is_device_name

NO_NAMES = ["", "gpu", "tpu", "CPU", "cpu:0", "cpu:1", "mps:0", "auto:3", "cuda:", "cuda:x", "cuda:-1", "cuda:²",
            "cuda:٣", "cuda:1\n", " cuda", "cuda:1:2", "cuda:" + "9" * 5000]  # fmt: skip


@pytest.fixture
def gpus(monkeypatch):
    """Says how many CUDA devices there seem to be."""

    def pretend(count, apple=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)

    return pretend


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:17"])
def test_names(name):
    assert is_device_name(name)


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: ascii(name)[:12])
def test_names_that_mean_no_device_are_one_clear_error(name):
    assert not is_device_name(name)
    with pytest.raises(DeviceError, match="is not auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


def test_auto_takes_a_gpu_where_there_is_one(gpus):
    gpus(0)
    assert choose_device("auto") == torch.device("cpu")
    gpus(0, apple=True)
    assert choose_device("auto") == torch.device("mps")
    assert choose_device("auto", processes=2) == torch.device("cpu")
    gpus(2, apple=True)
    assert choose_device("auto") == torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_a_gpu_that_is_not_there_is_one_clear_error(gpus, name):
    gpus(0)
    with pytest.raises(DeviceError, match="try --device cpu") as caught:
        choose_device(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gpu_by_its_number(gpus):
    gpus(2)
    assert choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="GPU 2 is needed, but torch finds 2 here, counted from 0"):
        choose_device("cuda:2")


def test_each_process_takes_the_gpu_of_its_local_rank(gpus):
    gpus(2)
    assert choose_device("auto", local_rank=1, processes=2) == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="GPU 2 is needed"):
        choose_device("cuda", local_rank=2, processes=3)
    with pytest.raises(DeviceError, match="one GPU for 2 processes"):
        choose_device("cuda:0", processes=2)


def test_names_are_checked_without_torch():
    code = (
        "import sys; from gpt_oss_stories.device import is_device_name; is_device_name('cpu'); "
        "sys.exit('torch' in sys.modules)"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False, timeout=60).returncode == 0
