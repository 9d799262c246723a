"""A model that processes share, against one process with all of it: values, gradients, steps and saved states."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from gpt_oss_stories.training.distributed import Processes
from gpt_oss_stories.training.parallel import OneProcess, share_model

COMMON = """
    import dataclasses, json, math, os, sys
    from pathlib import Path
    import torch
    from gpt_oss_stories.config import ModelConfig, TrainingConfig
    from gpt_oss_stories.model.transformer import StoryTransformer
    from gpt_oss_stories.training import checkpoint
    from gpt_oss_stories.training.checkpoint import RunState
    from gpt_oss_stories.training.distributed import Processes, joined
    from gpt_oss_stories.training.optimizer import StoryOptimizer
    from gpt_oss_stories.training.parallel import share_model
    from gpt_oss_stories.training.saver import Saver
    from gpt_oss_stories.training.slices import local, whole

    CONFIG = dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=16, head_dim=8, block_size=32, vocab_size=50,
                  multi_token_predict=2, sliding_window=8)
    ROWS = 4

    def rows(step):
        tokens = torch.randint(50, (ROWS, 32), generator=torch.Generator().manual_seed(step))
        documents = torch.zeros_like(tokens)
        documents[:, 20:] = 1
        return tokens, documents

    class Trial:
        '''A model and its optimizer, which take steps on batches of ROWS rows, in two passes.'''

        def __init__(self, kind, processes, optimizer="muon", experts=4):
            config = ModelConfig(num_experts=experts, **CONFIG)
            self.model = StoryTransformer(config, seed=1)
            self.processes = processes
            self.parallel = share_model(kind, self.model, processes, torch.device("cpu"))
            settings = TrainingConfig(optimizer=optimizer, learning_rate=1e-2, matrix_learning_rate=0.05)
            self.optimizer = StoryOptimizer(self.model, settings)

        def tensors(self):
            return self.model.state_dict() | {f"o.{k}": v for k, v in self.optimizer.state_tensors().items()}

        def step(self, number):
            tokens, documents = rows(number)
            mine = slice(self.processes.rank, None, self.processes.world_size)
            tokens, documents = tokens[mine], documents[mine]
            everything = torch.ones(ROWS, 32, dtype=torch.bool)
            counts = self.model.count_targets(rows(number)[1], everything)
            self.optimizer.zero_grad()
            half = len(tokens) // 2
            load = 0
            for index, part in enumerate((slice(None, half), slice(half, None))):
                with self.parallel.synchronised(index == 1):
                    losses = self.parallel.loss(tokens[part], documents[part], target_counts=counts, balance_coef=0.0,
                                                aux_share=len(tokens[part]) / ROWS)
                    self.parallel.backward(losses.total)
                load = load + losses.expert_load
            load = self.processes.total_tensor(load)
            norm = self.parallel.gradient_norm()
            self.parallel.scale_gradient(0.5)
            half_norm = self.parallel.gradient_norm()
            self.optimizer.step(1.0)
            if load.numel():
                self.parallel.balance_by_bias(load, 1e-3)
            return norm, half_norm

        def whole(self):
            return {name: whole(tensor).detach().clone() for name, tensor in self.tensors().items()}

    def differences(one, other):
        assert one.keys() == other.keys()
        return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
"""


def run_together(script: str, count: int, folder: Path, **variables: str) -> list[dict]:
    """Run a script in so many processes that know of each other; the JSON that each prints last."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = folder / "script.py"
    path.write_text(textwrap.dedent(COMMON) + textwrap.dedent(script))
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(count),
        **variables,
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(path), str(folder)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [process.communicate(timeout=200) for process in started]
    for process, (_, errors) in zip(started, said, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


STEPS = """
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    found = {}
    with joined(int(os.environ["RANK"]), 0, 2, torch.device("cpu")) as processes:
        alone = Processes()
        cases = {"muon": ("muon", 4), "adamw": ("adamw", 4), "dense": ("muon", 1), "odd": ("muon", 3)}
        for name, (optimizer, experts) in cases.items():
            one = Trial("none", alone, optimizer, experts)
            norms = [one.step(number) for number in range(3)]
            for kind in ("ddp", "fsdp"):
                many = Trial(kind, processes, optimizer, experts)
                largest_slice = sum(local(p).numel() for p in many.model.parameters())
                pairs = [many.step(number) for number in range(3)]
                with torch.no_grad():
                    many.model.loss(*rows(8))  # as an evaluation does
                whole_model = many.parallel.whole_model()
                found[f"{name} {kind}"] = {
                    "norms": max(abs(a - b) for x, y in zip(norms, pairs) for a, b in zip(x, y)),
                    "difference": differences(one.whole(), many.whole()),
                    "held": largest_slice / sum(p.numel() for p in one.model.parameters()),
                    "whole model": None if whole_model is None else differences(
                        dict(one.model.named_parameters()), dict(whole_model.named_parameters())),
                    "logits": None if whole_model is None else float(
                        (whole_model.logits(rows(9)[0]) - one.model.logits(rows(9)[0])).abs().max()),
                }

                held = whole_model and [weight.detach().numpy() for weight in whole_model.parameters()]
                many.step(9)  # a whole model in other hands must not get into the way of going on

        # A model to start from is cut up.
        given = StoryTransformer(ModelConfig(num_experts=4, **CONFIG), seed=7)
        many = Trial("fsdp", processes)
        many.parallel.take_weights(given)
        weights = {name: whole(parameter.detach()) for name, parameter in many.model.named_parameters()}
        found["taken"] = differences(dict(given.named_parameters()), weights)

        # States: two processes save slices in the background and go on; one loads them, saves, and two load that.
        many = Trial("fsdp", processes)
        many.step(0)
        then = many.whole()
        with Saver(folder / "states", processes, keep=2, background=True) as saver:
            state = RunState(step=1, rows_seen=4, tokens_seen=0, training_seconds=0.0)
            saver.save(state, many.parallel.own(many.tensors()))
            many.step(1)
        path = checkpoint.state_path(folder / "states", 1)
        checkpoint.read_state(path)
        files = sorted(file.name for file in path.iterdir())
        single = Trial("none", alone)
        checkpoint.load_tensors(path, single.tensors())
        found["state"] = {"files": files, "loaded by one": differences(then, single.whole())}
        single.step(1)
        found["state"]["step after it"] = differences(many.whole(), single.whole())
        if processes.is_main:
            state = RunState(step=2, rows_seen=8, tokens_seen=0, training_seconds=0.0)
            checkpoint.save_state(folder / "by-one", state, single.tensors(), alone, keep=1)
        processes.wait()
        again = Trial("fsdp", processes)
        checkpoint.load_tensors(checkpoint.state_path(folder / "by-one", 2), again.tensors())
        found["state"]["loaded by two"] = differences(single.whole(), again.whole())
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two processes found out."""
    return run_together(STEPS, 2, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", ["muon", "adamw", "dense", "odd"])
def test_two_processes_take_the_steps_of_one(found, case, kind):
    for rank, facts in enumerate(facts[f"{case} {kind}"] for facts in found):
        assert facts["norms"] < 1e-5
        assert facts["difference"] < 2e-5, "weights and optimizer state after three steps"
        assert (facts["whole model"] is None) == (rank > 0)
        if rank == 0:
            assert facts["whole model"] < 2e-5
            assert facts["logits"] < 2e-4


@pytest.mark.parametrize("case", ["muon", "dense", "odd"])
def test_slices_are_about_half_of_the_model(found, case):
    held = [facts[f"{case} fsdp"]["held"] for facts in found]
    assert sum(held) == pytest.approx(1)
    assert max(held) < (0.6 if case == "odd" else 0.51), "three experts are dealt out as two and one"
    assert [facts[f"{case} ddp"]["held"] for facts in found] == [1, 1]


def test_states_of_slices_are_loaded_by_any_number_of_processes(found):
    for facts in (facts["state"] for facts in found):
        assert facts["files"] == [".metadata", "__0_0.distcp", "__1_0.distcp", "state.json"]
        assert facts["loaded by one"] == 0, "and the step that was taken while it was written is not in it"
        assert facts["step after it"] < 2e-5
        assert facts["loaded by two"] == 0


def test_slices_take_over_the_weights_of_a_whole_model(found):
    assert [facts["taken"] for facts in found] == [0, 0]


def test_one_process_shares_nothing():
    model = torch.nn.Linear(2, 2)
    assert type(share_model("fsdp", model, Processes(), torch.device("cpu"))) is OneProcess
