"""Device and number format."""

from __future__ import annotations

import pytest
import torch

from gpt_oss_stories.training import precision
from gpt_oss_stories.training.precision import DeviceError, choose_device, choose_precision


def test_mixed_precision_off_is_float32():
    chosen = choose_precision(torch.device("cpu"), False)
    assert chosen.dtype == torch.float32
    assert not chosen.scaled
    assert "off" in chosen.reason


@pytest.mark.parametrize(("units", "dtype"), [("matrix units", torch.bfloat16), (None, torch.float32)])
def test_a_cpu_computes_in_bfloat16_only_where_it_is_fast(monkeypatch, units, dtype):
    monkeypatch.setattr(precision, "_cpu_bfloat16_units", lambda: units)
    chosen = choose_precision(torch.device("cpu"), True)
    assert chosen.dtype == dtype
    assert not chosen.scaled
    assert chosen.reason


@pytest.mark.parametrize(
    ("supported", "dtype", "scaled"), [(True, torch.bfloat16, False), (False, torch.float16, True)]
)
def test_a_gpu_without_bfloat16_scales_float16_gradients(monkeypatch, supported, dtype, scaled):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    chosen = choose_precision(torch.device("cuda", 0), True)
    assert (chosen.dtype, chosen.scaled) == (dtype, scaled)


def test_apple_gpus_stay_in_float32():
    assert choose_precision(torch.device("mps"), True).dtype == torch.float32


def test_missing_probes_mean_unknown(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    assert precision._cpu_bfloat16_units() is None


def test_auto_without_accelerators_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["auto:3", "mps:3", "cpu:1", "tpu"])
def test_names_that_mean_no_device_are_one_clear_error(name):
    with pytest.raises(DeviceError, match=f"device='{name}' is not auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_one_clear_error(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="--device cpu"):
        choose_device(name)


def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("auto", local_rank=1, processes=2) == torch.device("cuda", 1) == current[0]
    with pytest.raises(DeviceError, match="needs GPU 2"):
        choose_device("cuda", local_rank=2, processes=3)
    with pytest.raises(DeviceError, match="one GPU for 2"):
        choose_device("cuda:0", local_rank=0, processes=2)
