"""The training loss of a large vocabulary never holds all its logits, seen from outside: by the memory of a process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from conftest import Commands

TOKENS, VOCABULARY = 8192, 50_000
BOUND_BYTES = TOKENS * VOCABULARY * 4 // 3
"""A third of one float32 tensor of all logits, which takes 1,638 MB, and two thirds of one in 16 bits."""

PLAIN_TOKENS = 2048
"""For the loss that holds several such tensors: enough to exceed the bound by far."""

MEASURE = f"""
import json
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.model.transformer import StoryTransformer

way, dtype, depths, rows = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) // 512


def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1]) * 1024


config = ModelConfig(
    vocab_size={VOCABULARY}, n_layer=1, n_head=2, n_kv_head=1, n_embd=32, head_dim=16, block_size=512, num_experts=2,
    sliding_window=64, multi_token_predict=depths,
)
model = StoryTransformer(config)
model.compute_dtype = dtype


def step(tokens):
    if way == "ours":
        loss = model.loss(tokens).total
    else:
        logits = model.logits(tokens)[:, :-1].flatten(0, 1)
        loss = F.cross_entropy(logits, tokens[:, 1:].flatten())
    loss.backward()
    return float(loss.detach())


generator = torch.Generator().manual_seed(0)
tokens = torch.randint(config.vocab_size, (rows, 512), generator=generator)
step(tokens[:1, :8])  # loads what torch loads late, and makes the gradients, which stay
before = status("VmRSS")
loss = step(tokens)
print(json.dumps({{"loss": loss, "grown_bytes": status("VmHWM") - before, "before_bytes": before}}))
"""


def grown_bytes(commands: Commands, folder: Path, way: str, dtype: str, depths: int, tokens: int) -> int:
    """By how much the loss and its gradient raise a process's memory beyond parameters and gradients, at the most."""
    done = commands.run(
        [sys.executable, "-c", MEASURE, way, dtype, str(depths), str(tokens)], folder, OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert 8 < said["loss"] < 40  # about ln(50,000) = 10.8 nats: all tokens were really read
    return int(said["grown_bytes"])


linux_only = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="only Linux tells the most memory that a process has had"
)


@linux_only
@pytest.mark.parametrize(("dtype", "depths"), [("float32", 1), ("bfloat16", 1), ("float32", 2)])
def test_the_training_loss_never_holds_all_logits(commands: Commands, tmp_path: Path, dtype: str, depths: int) -> None:
    assert grown_bytes(commands, tmp_path, "ours", dtype, depths, TOKENS) < BOUND_BYTES


@linux_only
def test_the_plain_loss_holds_them_and_is_seen_to(commands: Commands, tmp_path: Path) -> None:
    """The same measurement of torch's own cross-entropy: without this, the one above might not be able to fail."""
    assert grown_bytes(commands, tmp_path, "plain", "float32", 1, PLAIN_TOKENS) > 2 * BOUND_BYTES
