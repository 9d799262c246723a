"""What a model consists of, for people to look at: settings, parameters by part, vocabulary, origin, files, tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..files import sha256_of_file
from ..tokenization import Vocabulary
from .checkpoints import OURS, Checkpoint
from .layouts import parameter_shapes
from .manifest import read_manifest, verify_files

PARTS = (
    ("multi-token prediction", "multi_token."),
    ("unembedding", "unembedding."),
    ("embedding", "embedding."),
    ("router", ".router."),
    ("attention", ".attention."),
    ("experts", ".experts."),
    ("last norm", "norm."),
)
"""Parts of a model and what tells their parameters' names; the first that fits counts."""

Facts = dict[str, dict[str, Any]]


def checkpoint_facts(checkpoint: Checkpoint, *, tensors: bool = False, verify: bool = False) -> Facts:
    """What is known about a checkpoint, by heading.

    Args:
        tensors: list each tensor of the file with its kind and shape.
        verify: read all weights and hold them to the checksums that the export wrote.

    Raises:
        FormatError: with `verify`, a file has changed since it was exported.
    """
    report = checkpoint.config.parameters()
    facts: Facts = {
        "model": {"format": checkpoint.format, **_sizes(checkpoint)},
        "parameters": {
            "total": report.total,
            "active_per_token": report.active,
            "embedding": report.embedding,
            "non_embedding": report.non_embedding,
        },
        "parameters_by_part": _parts(checkpoint),
        "vocabulary": vocabulary_facts(checkpoint.vocabulary)
        or {"kind": "not known", "size": checkpoint.config.vocab_size},
        "model_config": checkpoint.config.to_dict(),
        # The settings of the run are mappings of their own: each becomes a section.
        "provenance": {name: value for name, value in checkpoint.provenance.items() if not isinstance(value, Mapping)},
        **{name: dict(value) for name, value in checkpoint.provenance.items() if isinstance(value, Mapping)},
    }
    if checkpoint.notes:
        facts["left_out_or_changed"] = {str(number): note for number, note in enumerate(checkpoint.notes, 1)}
    facts["sha256"] = {path.name: sha256_of_file(path) for path in checkpoint.files}
    if verify:
        facts["verified"] = {"files": _verify(checkpoint)}
    if tensors:
        facts["tensors"] = {
            tensor.name: f"{tensor.dtype} {' x '.join(map(str, tensor.shape)) or 'scalar'}"
            for tensor in checkpoint.tensors
        }
    return facts


def _sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    kinds = Counter(tensor.dtype for tensor in checkpoint.tensors)
    return {
        "files": len(checkpoint.files),
        "bytes": sum(path.stat().st_size for path in checkpoint.files),
        "tensors": ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
    }


def _parts(checkpoint: Checkpoint) -> dict[str, int]:
    counts = dict.fromkeys((part for part, _ in PARTS), 0)
    for name, shape in parameter_shapes(checkpoint.config).items():
        size = 1
        for length in shape:
            size *= length
        counts[next(part for part, sign in PARTS if sign in name)] += size
    return {part: count for part, count in counts.items() if count}


def vocabulary_facts(vocabulary: Vocabulary | None) -> dict[str, Any]:
    """Kind, size and fingerprint; nothing of a vocabulary that is not known."""
    if vocabulary is None:
        return {}
    return {"kind": vocabulary.kind, "size": vocabulary.size, "fingerprint": vocabulary.fingerprint}


def _verify(checkpoint: Checkpoint) -> str:
    if checkpoint.format == OURS:
        return "the checksum of the file matches"
    manifest = read_manifest(checkpoint.path) if checkpoint.path.is_dir() else None
    if manifest is None:
        return "the files carry no checksums of their weights"
    verify_files(checkpoint.path, manifest, [path.name for path in checkpoint.files], whole=True)
    return "all files are as they were exported"
