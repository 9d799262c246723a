"""Making a model file of ours from a checkpoint of any format."""

from __future__ import annotations

from pathlib import Path

from ..files import FileWriteError
from ..model.model_file import save_weights
from ..model.transplant import TABLES, move_table
from ..tokenization import Vocabulary
from .checkpoints import Checkpoint
from .configs import FormatError
from .export import DTYPES


def import_checkpoint(
    source: Checkpoint,
    out: str | Path,
    *,
    dtype: str = "float32",
    vocabulary: Vocabulary | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write a model file.

    Weights are read one tensor at a time: beside the model in the chosen precision, no more than one tensor of the
    source is in memory.

    Args:
        source: the checkpoint.
        out: the model file.
        dtype: of the weights, a key of `DTYPES`.
        vocabulary: move the model's tables to this vocabulary.
        overwrite: replace a file that is there.

    Returns:
        lines about what was changed.

    Raises:
        FormatError: the checkpoint's vocabulary is not known.
        FileWriteError: `out` exists, or cannot be written.
    """
    out = Path(out)
    old = source.vocabulary
    if out.exists() and not overwrite:
        raise FileWriteError(f"{out} exists already: choose another name, or give --overwrite")
    if old is None:
        raise FormatError(
            f"{source.path} has a vocabulary that is not known here: models with the harmony vocabulary "
            "(201,088 tokens) or a story vocabulary can be imported"
        )
    notes = []
    config, new = source.config, vocabulary or old
    moves = new.fingerprint != old.fingerprint
    if moves:
        config = config.replace(vocab_size=new.size)
        notes.append(f"vocabulary moved from {old.size:,} to {new.size:,} tokens")
    weights = {}
    for name, tensor in source.weights():
        moved = move_table(tensor, old, new) if moves and name in TABLES else tensor
        weights[name] = moved.to(DTYPES[dtype]).contiguous()
    origin = {**source.provenance, "imported_from": {"path": source.path.name, "format": source.format}}
    save_weights(out, config, weights, new, origin)
    return notes
