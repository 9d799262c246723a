"""Several processes that train one model together: who they are, and the few things that they tell each other.

Every process works on its own rows of each batch; `parallel` says what it holds of the model. `torchrun` starts them
and sets the environment variables that are read here. With one process every function does the obvious thing without
any communication, so the trainer has one path.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store, _set_pg_timeout
from torch.distributed.rendezvous import rendezvous

from ..errors import StoryError
from .board import FAILED, Board

JOINING = timedelta(minutes=15)
"""How long processes wait for each other to start."""

_LOOK_AGAIN_SECONDS = 0.2, 5.0
"""How often a process looks whether the main one is ready: after the first time, in the long run."""


_AGREEING_SECONDS = 0.05
"""How often a process looks whether all have agreed on the name of an attempt."""


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
    """Where they leave notes; None for one process, and where the calling program has joined them."""
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
        """Return when the main process has come here, which may take hours (without a board what the group allows).

        Args:
            work: what the main process does meanwhile.

        Raises:
            dist.DistError: it has ended instead, or nothing was heard of the board for `timeout`.
        """
        if self.board is None:
            self.wait()
            return
        patience = self.timeout.total_seconds()
        if self.is_main:
            self.board.write(work, patience=patience)
            if self.board.gone:
                raise dist.DistError(f"the other processes cannot be told of the end of {work}")
            return
        pause, longest = _LOOK_AGAIN_SECONDS
        while not self.board.written(work, patience=patience):
            if self.board.gone or self.board.written(FAILED, patience=patience):
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


def attempt_name(store: Store, rank: int, world_size: int, *, timeout: timedelta = JOINING) -> str:
    """A name that no earlier attempt of a run had, the same in all processes of this one; together.

    torchrun's store outlives an attempt, and nothing that torchrun tells its processes is the same on all hosts and
    new in each attempt: every host counts its own restarts. So each process puts up a word of its own, in place of the
    one of its predecessor; the main process names all words that it finds, and again when one changes, until every
    process has found its own and said so.

    Raises:
        RuntimeError: the store does not answer, or there is no agreement after `timeout`.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    own = uuid.uuid4().hex
    store.set(f"word of {rank}", own)
    ranks = range(1, world_size)
    while time.monotonic() < deadline:
        if rank == 0:
            words = [own, *(store.get(f"word of {other}").decode() for other in ranks)]
            name = hashlib.sha256(" ".join(words).encode()).hexdigest()
            store.set("words", " ".join(words))
            if all(_says(store, f"name of {other}", name) for other in ranks):
                store.set("name", name)
                return name
        else:
            words = store.get("words").decode().split()
            if words[rank : rank + 1] == [own]:
                name = hashlib.sha256(" ".join(words).encode()).hexdigest()
                store.set(f"name of {rank}", name)
                if _says(store, "name", name):
                    return name
        time.sleep(_AGREEING_SECONDS)
    raise RuntimeError(f"no agreement after {timeout.total_seconds():.0f} seconds")


def _says(store: Store, key: str, value: str) -> bool:
    return store.check([key]) and store.get(key).decode() == value


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
        found, _, _ = next(rendezvous("env://", rank, world_size, timeout=JOINING))
        place = PrefixStore(f"stories/{next(_RUNS)}", found)  # a program may train several models
        store = PrefixStore(attempt_name(place, rank, world_size), place)
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
