"""Several processes that train one model together: who they are, and the few things that they tell each other.

Every process holds the whole model and works on its own rows of each batch (DistributedDataParallel). `torchrun` starts
them and sets the environment variables that are read here. With one process every function does the obvious thing
without any communication, so the trainer has one path.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _set_pg_timeout
from torch.distributed.rendezvous import rendezvous

from ..errors import StoryError
from .board import FAILED, Board

JOINING = timedelta(minutes=15)
"""How long processes wait for each other to start."""

_LOOK_AGAIN_SECONDS = 0.2, 5.0
"""How often a process looks whether the main one is ready: after the first time, in the long run."""


class DistributedError(StoryError):
    """The processes could not be joined."""


_RUNS = itertools.count()
_ENDED: list[object] = []
"""Channels of runs that are over. The last owner of a channel ends its threads; if that is DistributedDataParallel, it
holds Python's lock meanwhile, for which a thread that is just letting go of a message may be waiting: for ever. So the
last owner is this list."""


@dataclass(frozen=True)
class Processes:
    """This process among its fellows."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where tensors for communication live."""
    group: dist.ProcessGroup | None = None
    """The channel that they talk over; None is the one that training uses."""
    board: Board | None = None
    """Where they leave notes; None for one process."""
    timeout: timedelta = JOINING
    """After so long without an answer an exchange fails."""

    @property
    def is_main(self) -> bool:
        """The one process that prints and writes."""
        return self.rank == 0

    def over_another_channel(self) -> Processes:
        """The same processes for another thread, whose messages must not mix with those of training; together."""
        if self.world_size == 1:
            return self
        return replace(self, group=dist.new_group(backend="gloo", timeout=self.timeout), device=torch.device("cpu"))

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
        dist.all_reduce(sums, op=operation, group=self.group)
        return [float(value) for value in sums.cpu()]

    def total_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all processes."""
        if self.world_size == 1:
            return tensor
        tensor = tensor.to(self.device, copy=True)
        dist.all_reduce(tensor, group=self.group)
        return tensor

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world_size > 1:
            dist.barrier(group=self.group)

    def wait_for_main(self, work: str) -> None:
        """Return when the main process has come here, which may take hours.

        Args:
            work: what the main process does meanwhile.

        Raises:
            DistributedError: it has ended instead.
        """
        if self.board is None:
            return
        if self.is_main:
            self.board.write(work)
        pause, longest = _LOOK_AGAIN_SECONDS
        while not self.is_main and not self.board.written(work):
            if self.board.gone or self.board.written(FAILED):
                raise dist.DistError(f"the main process has ended: {work}")
            time.sleep(pause)
            pause = min(2 * pause, longest)

    def share(self, value: Any, *, source: int = 0) -> Any:
        """One process's value, which must be what JSON can hold, in every process: the main one's, or another's."""
        if self.world_size == 1:
            return value
        raw = json.dumps(value).encode() if self.rank == source else b""
        size = torch.tensor([len(raw)], dtype=torch.int64, device=self.device)
        dist.broadcast(size, src=source, group=self.group)
        content = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.rank == source:
            content.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
        dist.broadcast(content, src=source, group=self.group)
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


def address_note(rank: int) -> str:
    """The note in which a process leaves its machine's name and its number there."""
    return f"address of process {rank}"


@contextmanager
def joined(
    rank: int, local_rank: int, world_size: int, device: torch.device, *, timeout_seconds: float = 600.0
) -> Iterator[Processes]:
    """Join the other processes for the length of a block; with one process there is nothing to join.

    Args:
        rank, local_rank, world_size: who this process is, see `launched_processes`.
        device: where it computes.
        timeout_seconds: after so long without an answer an exchange fails.

    Raises:
        DistributedError: the others cannot be reached.
    """
    if world_size == 1:
        yield Processes(device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    talking, timeout = device if backend == "nccl" else torch.device("cpu"), timedelta(seconds=timeout_seconds)
    if dist.is_initialized():  # by the program that calls this
        yield Processes(rank, local_rank, world_size, talking, timeout=timeout)
        return
    try:
        # torchrun's store outlives an attempt, and a program may train several models.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        found, _, _ = next(rendezvous("env://", rank, world_size, timeout=JOINING))
        store = PrefixStore(f"stories/{attempt}/{next(_RUNS)}", found)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=JOINING)
        # Processes start at different times; from here on an answer takes no longer than the work for it.
        _set_pg_timeout(timeout)
    except (ValueError, RuntimeError) as error:
        raise DistributedError(
            f"process {rank} of {world_size} cannot join the others over {backend}: {error}; start with torchrun"
        ) from error
    failed = True
    try:
        board = Board(PrefixStore("board", store))
        board.write(address_note(rank), f"{socket.gethostname()} {os.getpid()}")
        yield Processes(rank, local_rank, world_size, talking, board=board, timeout=timeout)
        failed = False
    finally:
        if not (failed and backend == "nccl"):  # it would wait for the processes that are gone
            _ENDED.append(dist.group.WORLD)
            dist.destroy_process_group()
