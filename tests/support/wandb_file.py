"""Reads the file that wandb records an offline run in; since 0.31 the package itself has no reader in Python.

The file is a LevelDB log (https://github.com/google/leveldb/blob/main/doc/log_format.md) after a header of seven bytes:
blocks of 32 KiB, in which each piece of a record has its checksum, length and kind before it. Records are protocol
buffers of the package's own.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 2**15, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What a `.wandb` file holds."""

    run_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """What was logged, step by step; the step is `_step`."""
    files: set[str] = field(default_factory=set)
    """Names of the files that go with it."""


def records(path: Path) -> Iterator[bytes]:
    """The records of a file, as bytes."""
    content = path.read_bytes()
    assert content[:4] == b":W&B", f"{path} is not a file of wandb"
    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # the end of a block is filled with zeros
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + HEADER])
        piece = content[place + HEADER : place + HEADER + size]
        place += HEADER + size
        parts = piece if kind in (FULL, FIRST) else parts + piece
        if kind in (FULL, LAST):
            yield parts


def read_offline_run(path: Path, *, seconds: float = 60) -> OfflineRun:
    """What was sent in an offline run that has ended; its service may still be writing when `finish` has returned."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (found := _read(path)) is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end after {seconds} seconds")


def _read(path: Path) -> OfflineRun | None:
    from wandb.proto import wandb_internal_pb2

    found, ended = OfflineRun(), False
    for raw in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(raw)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run_id = record.run.run_id
            found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.history.append(row)
        elif kind == "files":
            found.files |= {file.path for file in record.files.files}
        elif kind == "exit":
            ended = True
    return found if ended else None
