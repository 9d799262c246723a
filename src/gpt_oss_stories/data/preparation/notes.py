"""What happened to the stories of one task: read, mended, left out and why. One small file for each task."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from ...files import write_text_atomically
from ..sources import ReadReport

COPY, NEAR_COPY = "copy of another story", "nearly a copy of another story"
NOT_DRAWN = "not drawn (weight below 1)"
CONTAMINATED = "shares a passage with the stories to keep apart"
UNENCODABLE = "cannot be encoded (an absurdly long run of white space)"


@dataclass
class TaskNotes:
    """What happened to the stories of one task up to their tokens.

    The steps of the stage `tell` share one object. `start` empties it for a task, `finish` writes it down.
    """

    report: ReadReport = field(default_factory=lambda: ReadReport(path=Path()))
    left_out: Counter[str] = field(default_factory=Counter)
    """Stories that were read but not kept, by reason."""
    repaired: int = 0
    """Stories with a broken encoding that was mended."""

    def __post_init__(self) -> None:
        self._rejects: IO[str] | None = None

    def start(self, work: Path, rank: int) -> None:
        """Begin a task anew."""
        self.report, self.left_out, self.repaired = ReadReport(path=Path()), Counter(), 0
        self._work, self._rank = work, rank
        path = rejects_path(work, rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = path.with_suffix(f".{os.getpid()}.part")
        self._rejects = open(self._part, "w", encoding="utf-8")  # noqa: SIM115 - closed by `finish`

    def leave_out(self, reason: str, *, place: str, text: str) -> None:
        """Count a story that is not kept, and write it down so that it can be looked at."""
        assert self._rejects is not None
        self.left_out[reason] += 1
        self._rejects.write(json.dumps({"reason": reason, "place": place, "text": text}) + "\n")

    def finish(self) -> None:
        """Write down what happened in this task."""
        assert self._rejects is not None
        self._rejects.close()
        os.replace(self._part, rejects_path(self._work, self._rank))
        values = {
            "report": self.report.to_dict(),
            "left_out": dict(self.left_out),
            "repaired": self.repaired,
        }
        write_text_atomically(notes_path(self._work, self._rank), json.dumps(values))

    @classmethod
    def read(cls, work: Path, rank: int) -> Self:
        """What a finished task wrote down."""
        values: dict[str, Any] = json.loads(notes_path(work, rank).read_text(encoding="utf-8"))
        return cls(
            report=ReadReport.from_dict(values["report"]),
            left_out=Counter(values["left_out"]),
            repaired=values["repaired"],
        )


def notes_path(work: Path, rank: int) -> Path:
    """Where a task's notes stand."""
    return work / "notes" / f"{rank:05d}.json"


def rejects_path(work: Path, rank: int) -> Path:
    """Where the stories that a task left out stand, one JSON object in a line."""
    return work / "left_out" / f"{rank:05d}.jsonl"
