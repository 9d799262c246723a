"""Number format."""

from __future__ import annotations

import pytest
import torch

from gpt_oss_stories.config import ConfigError, TrainingConfig
from gpt_oss_stories.training import precision, recorder
from gpt_oss_stories.training.metrics import read_metrics
from gpt_oss_stories.training.precision import choose_precision
from support.trials import Trial, drawn_quickly


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


@pytest.mark.parametrize(("wish", "dtype"), precision.FORMATS.items())
@pytest.mark.parametrize("mixed", [True, False])
def test_a_format_that_is_asked_for_is_used(monkeypatch, wish, dtype, mixed):
    monkeypatch.setattr(precision, "_cpu_bfloat16_units", lambda: None)
    chosen = choose_precision(torch.device("cpu"), mixed, wish)
    assert chosen.dtype == dtype
    assert chosen.scaled == (wish == "float16"), "only float16 overflows"
    assert ("slower" in chosen.reason) == (wish != "float32")


def test_a_gpu_that_only_emulates_a_format_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert "emulates" in choose_precision(torch.device("cuda", 0), True, "bfloat16").reason
    assert "emulates" not in choose_precision(torch.device("cuda", 0), True, "float16").reason


def test_a_half_format_without_mixed_precision_is_refused():
    with pytest.raises(ConfigError, match="use_mixed_precision is off, but precision='float16'"):
        TrainingConfig(use_mixed_precision=False, precision="float16")
    assert TrainingConfig(use_mixed_precision=False, precision="float32").precision == "float32"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_float16_with_scaled_gradients_trains_as_float32_does(stories, tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr(recorder, "plot_training_curves", drawn_quickly)
    trial = Trial(stories, tmp_path)
    losses = {}
    for wish in ("float16", "float32"):
        result = trial(wish, max_iters=8, use_mixed_precision=True, precision=wish, optimizer=optimizer)
        rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
        losses[wish] = [row["loss_nats"] for row in rows]
        assert (rows[-1]["loss_scale"] is not None) == (wish == "float16")
    assert losses["float16"] != losses["float32"]
    assert losses["float16"] == pytest.approx(losses["float32"], abs=0.03)
    assert losses["float16"][-1] < losses["float16"][0] - 0.3


def test_a_gradient_that_float16_cannot_hold_is_skipped_and_the_scale_lowered(stories, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "plot_training_curves", drawn_quickly)
    # A scale at which the scaled loss itself overflows at first; it is halved until gradients fit.
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: scaler(device, init_scale=2.0**26, enabled=enabled)
    )
    result = Trial(stories, tmp_path)(max_iters=14, use_mixed_precision=True, precision="float16")
    rows = read_metrics(result.checkpoint_dir / "metrics.jsonl")
    assert rows[-1]["skipped_steps"] > 0
    assert rows[-1]["loss_scale"] == 2.0 ** (26 - rows[-1]["skipped_steps"])
    finite = [row["loss_nats"] for row in rows if row["loss_nats"] is not None]
    assert finite[-1] < finite[0]
