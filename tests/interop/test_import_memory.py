"""How much memory it takes to import a checkpoint: the model in its new precision, and one shard beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from gpt_oss_stories.config import ModelConfig
from gpt_oss_stories.interop.configs import write_huggingface_config
from gpt_oss_stories.interop.layouts import file_shapes, huggingface_layout, parameter_shapes

MIB = 1 << 20
CODE = """
import json, resource, sys
from gpt_oss_stories.interop.checkpoints import open_checkpoint
from gpt_oss_stories.interop.importing import import_checkpoint
from gpt_oss_stories.tokenization import harmony_vocabulary
harmony_vocabulary()
source = open_checkpoint(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import_checkpoint(source, sys.argv[2], dtype="float32")
print(json.dumps([before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in the units of Linux")
def test_importing_takes_the_model_and_one_shard_beside_it(tmp_path):
    config = ModelConfig(n_layer=20, n_head=4, n_embd=128, head_dim=32, intermediate_size=1024, num_experts=8)
    shapes = file_shapes(huggingface_layout(config, lambda _: False), parameter_shapes(config))
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(write_huggingface_config(config, "bfloat16", {})))
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in shapes.items():
        if sum(tensor.nbytes for tensor in shards[-1].values()) > 40 * MIB:
            shards.append({})
        shards[-1][name] = torch.full(shape, 0.25, dtype=torch.bfloat16)
    for number, tensors in enumerate(shards):
        save_file(tensors, folder / f"model-{number:05d}.safetensors")
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert len(sizes) > 4
    assert sum(sizes) > 180 * MIB
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", CODE, str(folder), str(tmp_path / "model.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    before, after = json.loads(done.stdout)
    taken = (after - before) * 1024

    assert taken < 2 * sum(sizes) + max(sizes) + 32 * MIB  # float32 has two bytes for each of bfloat16
    assert (tmp_path / "model.pt").stat().st_size == pytest.approx(2 * sum(sizes), rel=0.02)
