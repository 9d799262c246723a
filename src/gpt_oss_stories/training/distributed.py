"""Several processes that train one model together: who they are, and the few things that they tell each other.

Every process holds the whole model and works on its own rows of each batch (DistributedDataParallel). `torchrun` starts
them and sets the environment variables that are read here. With one process every function does the obvious thing
without any communication, so the trainer has one path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..errors import StoryError

WAIT = timedelta(hours=3)
"""How long a process waits for the others: preparing a large data set is done by one while the rest wait."""


class DistributedError(StoryError):
    """The processes could not be joined."""


@dataclass(frozen=True)
class Processes:
    """This process among its fellows."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where tensors for communication live."""

    @property
    def is_main(self) -> bool:
        """The one process that prints and writes."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in double precision."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def largest(self, values: Sequence[float]) -> list[float]:
        """Largest values over all processes."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.world_size == 1:
            return list(values)
        sums = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(sums, op=operation)
        return [float(value) for value in sums.cpu()]

    def total_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all processes."""
        if self.world_size == 1:
            return tensor
        tensor = tensor.to(self.device, copy=True)
        dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world_size > 1:
            dist.barrier()

    def share(self, value: Any) -> Any:
        """The main process's value, which must be what JSON can hold, in every process."""
        if self.world_size == 1:
            return value
        raw = json.dumps(value).encode() if self.is_main else b""
        size = torch.tensor([len(raw)], dtype=torch.int64, device=self.device)
        dist.broadcast(size, src=0)
        content = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.is_main:
            content.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
        dist.broadcast(content, src=0)
        return json.loads(bytes(content.cpu().tolist()))


def launched_processes() -> tuple[int, int, int]:
    """Rank, local rank and number of processes, as torchrun's environment states them; 0, 0, 1 without it.

    Raises:
        DistributedError: the environment states some of it, or nonsense.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    given = {name: os.environ[name] for name in names if name in os.environ}
    if not given:
        return 0, 0, 1
    try:
        rank, local_rank, world_size = (int(given[name]) for name in names)
    except (KeyError, ValueError):
        raise DistributedError(
            f"the environment sets {given}, but {', '.join(names)} must all be whole numbers: start with torchrun"
        ) from None
    if not 0 <= rank < world_size:
        raise DistributedError(f"RANK={rank} is not below WORLD_SIZE={world_size}: start with torchrun")
    return rank, local_rank, world_size


@contextmanager
def joined(rank: int, local_rank: int, world_size: int, device: torch.device) -> Iterator[Processes]:
    """Join the other processes for the length of a block; with one process there is nothing to join.

    Raises:
        DistributedError: the others cannot be reached.
    """
    if world_size == 1:
        yield Processes(device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    ours = not dist.is_initialized()
    if ours:
        try:
            dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=WAIT)
        except (ValueError, RuntimeError, dist.DistError) as error:
            raise DistributedError(
                f"process {rank} of {world_size} cannot join the others over {backend}: {error}; start with torchrun"
            ) from error
    try:
        yield Processes(rank, local_rank, world_size, device if backend == "nccl" else torch.device("cpu"))
    finally:
        if ours:
            dist.destroy_process_group()
