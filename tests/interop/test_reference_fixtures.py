"""Our logits against those of two implementations that this project did not write; see tests/fixtures/README.md."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpt_oss_stories.interop.checkpoints import open_checkpoint
from gpt_oss_stories.interop.loading import load_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
FORMATS = ("openai-format-tiny", "hf-format-tiny")


@pytest.fixture(params=FORMATS)
def checkpoint(request):
    directory = FIXTURES / request.param
    return directory, load_file(directory / "expected.safetensors")


def test_logits_equal_the_reference_at_every_position(checkpoint):
    directory, expected = checkpoint
    model = load_model(directory)
    assert model.config.rope_scaling_factor == 32
    assert model.config.sliding_window == 16
    difference = (model.logits(expected["tokens"]) - expected["logits_float32"]).abs()
    assert difference.amax() < 1e-3, f"largest difference {difference.amax():.2e}"


def test_greedy_continuation_equals_the_reference(checkpoint):
    directory, expected = checkpoint
    wanted = expected["greedy_from_16"].tolist()
    assert load_model(directory).generate_tokens(wanted[:16], 24) == wanted


def test_balance_loss_statistics_equal_transformers():
    """`transformers` pools all layers and sums over the chosen experts; ours is a mean of layers. Compare through
    the pools."""
    directory = FIXTURES / "hf-format-tiny"
    expected = load_file(directory / "expected.safetensors")
    network = open_checkpoint(directory).build()
    logits = []
    hooks = [
        layer.experts.router.register_forward_hook(lambda module, given, result: logits.append(result))
        for layer in network.layers
    ]
    losses = network.loss(expected["tokens"])
    for hook in hooks:
        hook.remove()
    pooled = torch.cat([x.flatten(0, -2) for x in logits])
    probability = pooled.softmax(-1).mean(0)
    fraction = losses.expert_load.sum(0) / pooled.shape[0]
    aux = network.config.num_experts * (fraction * probability).sum()
    torch.testing.assert_close(aux, expected["aux_loss"].squeeze(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses.next_token, expected["loss_next_token"].squeeze(), rtol=1e-4, atol=1e-4)
