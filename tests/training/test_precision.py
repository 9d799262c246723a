"""Number format."""

from __future__ import annotations

import pytest
import torch

from gpt_oss_stories.training import precision
from gpt_oss_stories.training.precision import choose_precision


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
