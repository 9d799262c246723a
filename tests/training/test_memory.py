"""Memory estimates and the splitting of batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
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
    slice_elements,
)
from gpt_oss_stories.training.precision import Precision

CPU = torch.device("cpu")
NARROW = Precision(torch.bfloat16, False, "test")
WIDE = Precision(torch.float32, False, "test")
GIB = 2**30


def plan(size="tiny", available=None, precision=NARROW, device=CPU, length=512, **training):
    config = TrainingConfig(**{"batch_size": 8, **training})
    return plan_batch(model_config(size), config, precision, length=length, device=device, available=available)


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


def test_a_cpu_with_room_keeps_activations_although_it_makes_small_passes():
    estimate = estimate_memory(model_config("tiny"), TrainingConfig(), WIDE)
    assert estimate.per_token * 2048 * memory.ACTIVATION_MARGIN > memory.CPU_ACTIVATION_BYTES
    settings = {"precision": WIDE, "length": 2048}
    roomy = plan(available=100 * GIB, **settings)
    assert (roomy.rows, roomy.recompute) == (1, False)
    assert not plan(available=None, **settings).recompute
    assert plan(available=int(1.2 * estimate.fixed) + GIB, **settings).recompute


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
    return high, estimate.state_bytes, estimate.model_bytes


def test_the_disk_must_hold_the_states_that_are_kept_and_one_of_each_kind_being_written(monkeypatch, tmp_path):
    long = TrainingConfig(keep_states=3, max_iters=10_000, checkpoint_dir=str(tmp_path / "not" / "there"))
    need, state, model = needed_on_disk(monkeypatch, long)
    assert need == 4 * state + 2 * model
    assert needed_on_disk(monkeypatch, long, steps_done=9000, states_there=3, models_there=1)[0] == state + model
    assert needed_on_disk(monkeypatch, long, steps_done=9000, states_there=1, models_there=1)[0] == 2 * state + model
    short = long.replace(max_iters=20)
    assert needed_on_disk(monkeypatch, short)[0] == state + model, "it saves once"
    assert needed_on_disk(monkeypatch, short, steps_done=20, states_there=1, models_there=1)[0] == 0
    often = long.replace(save_interval=10_000, eval_interval=100)
    assert needed_on_disk(monkeypatch, often)[0] == 4 * state + 2 * model, "a state is saved before each evaluation"


@pytest.mark.parametrize(
    ("save", "evaluate", "done", "last"), [(3, 2, 0, 6), (4, 6, 5, 13), (10, 10, 5, 11), (5, 7, 0, 0)]
)
def test_what_will_be_saved_is_counted_exactly(save, evaluate, done, last):
    config = TrainingConfig(save_interval=save, eval_interval=evaluate, max_iters=last, keep_states=50)
    steps = range(done + 1, last + 1) if last else range(1)
    saves = sum(step % save == 0 or step % evaluate == 0 or step == last for step in steps)
    estimate = estimate_memory(model_config("nano"), config, WIDE)
    assert memory.disk_need(estimate, config, steps_done=done, models_there=1)[1:] == (saves, 1)


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


def shared(kind, processes=4, size="tiny", **changes):
    config = TrainingConfig(parallelism=kind, **changes)
    return estimate_memory(model_config(size), config, NARROW, processes=processes, device_type="cuda")


def test_ddp_holds_all_of_it_and_fsdp_a_slice_and_what_is_at_work():
    alone, ddp, fsdp = shared("none"), shared("ddp"), shared("fsdp")
    assert ddp == alone, "gradients are views of what travels"
    assert fsdp.parameters == pytest.approx(alone.parameters / 4, rel=0.01)
    assert fsdp.optimizer == pytest.approx(alone.optimizer / 4, rel=0.01)
    tables = 2 * 4 * 201_088 * 512
    assert fsdp.exchange > 2 * tables, "the tables whole, and their gradients"
    assert fsdp.whole_gradients == alone.gradients
    assert (fsdp.state_bytes, fsdp.model_bytes) == (alone.state_bytes, alone.model_bytes)
    assert shared("fsdp", processes=1) == alone


def test_a_moving_average_counts_in_memory_and_on_disk():
    without, with_average = shared("fsdp"), shared("fsdp", ema_decay=0.999)
    assert with_average.fixed - without.fixed == without.parameters
    total = model_config("tiny").parameters().total
    assert with_average.state_bytes - without.state_bytes == pytest.approx(4 * total, rel=0.01)


def test_muon_s_temporary_matrices_count():
    assert shared("none", optimizer="adamw").stepping == 0
    assert shared("none", optimizer="muon").stepping > 4 * model_config("tiny").parameters().non_embedding / 2


@pytest.mark.parametrize(
    ("shape", "processes", "elements"),
    [((10, 3), 4, 9), ((8, 3), 4, 6), ((5,), 2, 3), ((4, 6, 2), 4, 12), ((1, 6, 2), 4, 4), ((3, 6, 2), 4, 12)],
)
def test_the_largest_slice(shape, processes, elements):
    """Along the first axis; of fewer experts than processes along the second."""
    assert slice_elements(shape, processes) == elements


def test_blocks_are_computed_again_as_asked():
    assert plan(size="nano", activation_checkpointing="on").recompute
    assert not plan(size="nano").recompute
    fixed = estimate_memory(model_config("tiny"), TrainingConfig(), NARROW).fixed
    tight = {"available": fixed + GIB // 8, "device": torch.device("cuda")}
    assert plan(**tight).recompute
    assert not plan(**tight, activation_checkpointing="off").recompute
    assert plan(**tight, activation_checkpointing="off").activations > plan(**tight).activations


def fsdp_plan(available, accumulation, **changes):
    settings = {"parallelism": "fsdp", "batch_size": 2, "gradient_accumulation_steps": accumulation, **changes}
    config = TrainingConfig(**settings)
    sizes = {"n_embd": 256, "n_layer": 24, "vocab_size": 4096}
    return plan_batch(
        model_config("small", **sizes), config, NARROW, length=128, device=torch.device("cuda"), available=available,
        processes=8,
    )  # fmt: skip


def test_whole_gradients_add_up_over_passes_only_where_they_fit():
    roomy = fsdp_plan(None, 4)
    assert not roomy.exchange_every_pass
    assert roomy.estimate.gradients == roomy.estimate.whole_gradients
    single = fsdp_plan(None, 1)
    assert single.estimate.gradients < roomy.estimate.gradients / 4
    between = (single.peak + roomy.peak) // 2 + GIB // 64
    assert fsdp_plan(between, 4).exchange_every_pass
    assert not fsdp_plan(between, 1).exchange_every_pass, "there is only one pass"
    assert fsdp_plan(between, 4).fits
    smallest = {"batch_size": 1, "activation_checkpointing": "on"}
    between = (fsdp_plan(None, 1, **smallest).peak + fsdp_plan(None, 4, **smallest).peak) // 2
    assert fsdp_plan(between, 4, **smallest).exchange_every_pass
    assert fsdp_plan(between, 4, **smallest).fits


def test_what_does_not_fit_is_planned_all_the_same_when_asked():
    config = TrainingConfig(batch_size=8)
    arguments = {"length": 512, "device": torch.device("cuda"), "available": GIB}
    found = plan_batch(model_config("tiny"), config, NARROW, refuse=False, **arguments)
    assert not found.fits
    assert (found.rows, found.recompute) == (1, True)


TWO_PROCESSES = """
    import gc, json, os, sys
    import psutil, torch
    import torch.distributed.fsdp
    from gpt_oss_stories.config import TrainingConfig, model_config
    from gpt_oss_stories.model.transformer import StoryTransformer
    from gpt_oss_stories.training.distributed import joined
    from gpt_oss_stories.training.memory import estimate_memory, plan_batch
    from gpt_oss_stories.training.optimizer import StoryOptimizer
    from gpt_oss_stories.training.parallel import share_model
    from gpt_oss_stories.training.precision import Precision
    from gpt_oss_stories.training.slices import local, whole

    CPU, WIDE = torch.device("cpu"), Precision(torch.float32, False, "test")
    ROWS, LENGTH = 2, 128
    model = model_config("tiny", vocab_size=4096, n_layer=3, n_embd=256, num_experts=6, block_size=LENGTH)

    def peak_since(mark):
        for line in open("/proc/self/status"):
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 - mark

    def measure(kind, processes, exchange_every_pass):
        training = TrainingConfig(parallelism=kind, batch_size=ROWS, gradient_accumulation_steps=2)
        gc.collect()
        open("/proc/self/clear_refs", "w").write("5")
        mark = psutil.Process().memory_info().rss
        network = StoryTransformer(model, seed=1)
        parallel = share_model(kind, network, processes, CPU)
        optimizer = StoryOptimizer(network, training)
        for step in range(2):
            optimizer.zero_grad()
            for index in range(2):
                generator = torch.Generator().manual_seed(10 * processes.rank + index)
                tokens = torch.randint(model.vocab_size, (ROWS, LENGTH), generator=generator)
                with parallel.synchronised(index == 1 or exchange_every_pass):
                    losses = parallel.loss(tokens, torch.zeros_like(tokens), target_counts=(1000.0,), balance_coef=0.0)
                    parallel.backward(losses.total)
            gradients = {name: whole(p.grad).clone() for name, p in network.named_parameters()} if step else None
            if not step:
                optimizer.step(1.0)
        estimate = estimate_memory(model, training, WIDE, processes=2)
        plan = plan_batch(model, training, WIDE, length=LENGTH, device=CPU, available=None, processes=2)
        facts = {
            "peak": peak_since(mark),
            "planned": plan.peak,
            "parameters": sum(local(p).nbytes for p in network.parameters()),
            "optimizer": sum(local(t).nbytes for t in optimizer.state_tensors().values() if t.dim()),
            "estimated": [estimate.parameters, estimate.optimizer],
        }
        return facts, gradients

    with joined(int(os.environ["RANK"]), 0, 2, CPU) as processes:
        (torch.randn(400, 400, requires_grad=True) @ torch.randn(400, 400)).sum().backward()
        measure("fsdp", processes, True)  # loads and allocates what stays
        every, often = measure("fsdp", processes, True)
        last, once = measure("fsdp", processes, False)
        ddp, twins = measure("ddp", processes, False)
        difference = max(float((often[name] - once[name]).abs().max()) for name in often)
        print(json.dumps({"fsdp": last, "every pass": every, "ddp": ddp, "difference": difference,
                          "size": max(float(g.abs().max()) for g in once.values())}))
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes that share a model really hold; memory that is freed goes back to the system at once."""
    script = tmp_path_factory.mktemp("two") / "script.py"
    script.write_text(textwrap.dedent(TWO_PROCESSES))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(script)], env={**variables, "RANK": str(rank)}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=200) for process in started]
    for process, (_, errors) in zip(started, said, strict=True):
        assert process.returncode == 0, errors
    return json.loads(said[0][0].splitlines()[-1])


def test_two_processes_hold_the_slices_that_were_counted(two_processes):
    for kind in ("fsdp", "ddp"):
        facts = two_processes[kind]
        assert [facts["parameters"], facts["optimizer"]] == facts["estimated"], kind


def test_two_processes_take_no_more_than_was_planned(two_processes):
    for kind in ("fsdp", "ddp"):
        facts = two_processes[kind]
        assert 0.3 * facts["planned"] < facts["peak"] < facts["planned"], (kind, facts)
    assert two_processes["every pass"]["peak"] < two_processes["fsdp"]["peak"]


def test_gradients_that_travel_in_every_pass_are_the_same(two_processes):
    assert two_processes["difference"] < 1e-6 * two_processes["size"] + 1e-7
