"""Memory estimates and the splitting of batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gpt_oss_stories.config import TrainingConfig, model_config
from gpt_oss_stories.training import memory
from gpt_oss_stories.training.memory import (
    DiskNeedError,
    MemoryNeedError,
    available_memory,
    check_disk,
    estimate_memory,
    plan_batch,
)
from gpt_oss_stories.training.precision import Precision

CPU = torch.device("cpu")
NARROW = Precision(torch.bfloat16, False, "test")
WIDE = Precision(torch.float32, False, "test")
GIB = 2**30


def plan(size="tiny", available=None, precision=NARROW, device=CPU, **training):
    config = TrainingConfig(**{"batch_size": 8, **training})
    return plan_batch(model_config(size), config, precision, length=512, device=device, available=available)


def test_the_fixed_part_is_counted_exactly():
    config = model_config("tiny")
    total = config.parameters().total
    adamw = estimate_memory(config, TrainingConfig(optimizer="adamw"), WIDE)
    assert (adamw.parameters, adamw.gradients, adamw.optimizer) == (4 * total, 4 * total, 8 * total)
    muon = estimate_memory(config, TrainingConfig(optimizer="muon"), WIDE)
    assert 4 * total < muon.optimizer < 8 * total


def test_the_largest_model_is_estimated_without_being_allocated():
    estimate = estimate_memory(model_config("large"), TrainingConfig(), NARROW)
    assert estimate.fixed > 90 * GIB


def test_what_cannot_fit_is_refused_in_one_line():
    with pytest.raises(MemoryNeedError, match=r"228,\d+,\d+ parameters needs .* but 2.0 GiB are available") as caught:
        plan(available=2 * GIB)
    assert "\n" not in str(caught.value)
    assert "--model-size" in str(caught.value)


def test_memory_that_a_cpu_keeps_counts():
    fixed = estimate_memory(model_config("tiny"), TrainingConfig(), NARROW).fixed
    assert plan(available=int(1.05 * fixed), device=torch.device("cuda")).rows >= 1
    with pytest.raises(MemoryNeedError):
        plan(available=int(1.05 * fixed))


def test_batches_are_split_evenly_to_fit():
    fixed = estimate_memory(model_config("tiny"), TrainingConfig(), NARROW).fixed
    roomy = plan(available=fixed + 100 * GIB, device=torch.device("cuda"))
    assert roomy.rows == 8
    assert not roomy.recompute
    tight = plan(available=fixed + GIB, device=torch.device("cuda"))
    assert tight.rows in (1, 2, 4)
    assert not tight.recompute


def test_when_a_single_row_is_too_much_blocks_are_computed_again():
    fixed = estimate_memory(model_config("tiny"), TrainingConfig(), NARROW).fixed
    tightest = plan(available=fixed + GIB // 8, device=torch.device("cuda"))
    assert tightest.recompute
    assert tightest.rows >= 1


def test_a_small_model_is_not_split():
    assert plan(size="nano").rows == 8


def test_wider_numbers_need_more():
    assert (
        estimate_memory(model_config("tiny"), TrainingConfig(), WIDE).per_token
        > 1.4 * estimate_memory(model_config("tiny"), TrainingConfig(), NARROW).per_token
    )


def test_available_memory_is_plausible():
    available = available_memory(CPU)
    assert available is not None
    assert 0 < available < 2**46


def needed_on_disk(monkeypatch, config, **there):
    """Bytes that the disk must have free, found by letting it have ever less."""
    estimate = estimate_memory(model_config("tiny"), config, WIDE)
    total = model_config("tiny").parameters().total
    asked = []

    def fits(free):
        monkeypatch.setattr(
            memory.shutil, "disk_usage", lambda folder: asked.append(folder) or SimpleNamespace(free=free)
        )
        try:
            check_disk(estimate, config, **there)
        except DiskNeedError:
            return False
        return True

    low, high = -1, 10**12
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    assert all(folder.is_dir() for folder in asked)
    return high, 12 * total, 4 * total


def test_the_disk_must_hold_the_states_that_are_kept_and_one_of_each_kind_being_written(monkeypatch, tmp_path):
    long = TrainingConfig(keep_states=3, max_iters=10_000, checkpoint_dir=str(tmp_path / "not" / "there"))
    need, state, model = needed_on_disk(monkeypatch, long)
    assert need == 4 * state + 2 * model
    assert needed_on_disk(monkeypatch, long, steps_done=9000, states_there=3, models_there=1)[0] == state + model
    assert needed_on_disk(monkeypatch, long, steps_done=9000, states_there=1, models_there=1)[0] == 2 * state + model
    short = long.replace(max_iters=20)
    assert needed_on_disk(monkeypatch, short)[0] == state + model, "it saves once"
    assert needed_on_disk(monkeypatch, short, steps_done=20, states_there=1, models_there=1)[0] == 0


def test_too_little_room_is_one_line_with_both_sizes(monkeypatch, tmp_path):
    config = TrainingConfig(checkpoint_dir=str(tmp_path / "run"))
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 * GIB))
    with pytest.raises(DiskNeedError) as caught:
        check_disk(estimate_memory(model_config("tiny"), config, WIDE), config)
    message = str(caught.value)
    assert message.startswith("this run saves up to 9.4 GiB (3 x 2.6 GiB of training states with --keep-states 2, 2 x ")
    assert f"{tmp_path / 'run'} has 3.0 GiB left" in message
    assert "--checkpoint-dir" in message
    assert "\n" not in message


def test_a_disk_that_tells_nothing_is_not_in_the_way(monkeypatch, tmp_path):
    def refuse(folder):
        raise PermissionError(folder)

    config = TrainingConfig(checkpoint_dir=str(tmp_path))
    monkeypatch.setattr(memory.shutil, "disk_usage", refuse)
    check_disk(estimate_memory(model_config("tiny"), config, WIDE), config)


def saved_bytes_per_token(model, tokens, documents):
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # holding the tensor keeps its address taken
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(tokens, documents)
    return sum(size for size, _ in seen.values()) / tokens.numel()


@pytest.mark.parametrize("precision", [NARROW, WIDE], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("experts", [4, 1])
def test_the_activation_estimate_is_near_what_a_forward_pass_keeps(precision, experts):
    from gpt_oss_stories.model.transformer import StoryTransformer

    config = model_config("nano", vocab_size=64, num_experts=experts, n_layer=3, n_embd=64, block_size=256)
    model = StoryTransformer(config)
    model.compute_dtype = precision.dtype
    tokens = torch.randint(0, 64, (8, 256), generator=torch.Generator().manual_seed(0))
    documents = (torch.arange(256) // 100).expand(8, -1).contiguous()
    measured = saved_bytes_per_token(model, tokens, documents)
    estimated = estimate_memory(config, TrainingConfig(), precision).per_token
    assert 0.6 * measured < estimated < 2.0 * measured
