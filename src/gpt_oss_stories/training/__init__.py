"""Training a model: the loop, its optimizer and schedule, states on disk, and the record of a run."""

from __future__ import annotations
