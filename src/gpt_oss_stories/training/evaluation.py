"""Loss on held-out stories."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.batches import Batch, validation_batches
from ..data.shards import TokenShard
from ..model.multi_token import targets_at_depth
from ..model.transformer import StoryTransformer
from .distributed import Processes


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy on held-out stories. Not a number at a depth where nothing is to be predicted."""

    loss_nats: float
    bits_per_byte: float | None
    multi_token_loss_nats: tuple[float, ...]
    accuracy: float | None = None
    """Share of the targets that greedy decoding would take after the true tokens."""
    multi_token_accuracy: tuple[float, ...] = ()


def count_target_bytes(batch: Batch, byte_counts: Tensor) -> int:
    """UTF-8 bytes of a batch's next-token targets; byte_counts: (vocab_size,) bytes of each token, on its device."""
    targets, counted = targets_at_depth(batch.tokens, 0, batch.documents, batch.trained)
    return int(byte_counts[targets[counted]].sum())


@torch.no_grad()
def evaluate(
    model: StoryTransformer,
    stories: TokenShard,
    byte_counts: Tensor,
    *,
    batch_size: int,
    length: int,
    most_batches: int,
    rows_at_once: int,
    processes: Processes,
) -> Evaluation | None:
    """Evaluate a model that is being trained, on the same stories each time.

    Args:
        model: the model; it is in training mode afterwards.
        stories: the held-out ones.
        byte_counts: (vocab_size,) bytes of each token, on the model's device.
        batch_size, length, most_batches: which of the stories, see `validation_batches`.
        rows_at_once: rows in one forward pass.
        processes: each takes its share of the batches, and all get the same result.

    Returns:
        What was found; None if there is nothing to predict in the stories.
    """
    model.eval()
    depths = model.config.multi_token_predict
    nats, right, seen, bytes_seen = [0.0] * depths, [0.0] * depths, [0.0] * depths, 0.0
    batches = validation_batches(
        stories, batch_size, length, most_batches, rank=processes.rank, world_size=processes.world_size
    )
    # The last batch may be filled up with rows of padding; a pass of nothing else would have no document to attend to.
    parts = (part for batch in batches for part in batch.split(rows_at_once))
    passes = [part for part in parts if bool((part.documents >= 0).any())]
    # Processes that hold slices of a model must all go through it as often as any of them.
    most = int(processes.largest([len(passes)])[0])
    for index in range(most):
        part = (passes[index] if index < len(passes) else Batch.without_targets(rows_at_once, length)).to(
            byte_counts.device
        )
        counts = model.count_targets(part.documents, part.trained)
        losses = model.loss(part.tokens, part.documents, part.trained)
        assert losses.accuracy is not None  # without gradients it is known
        means = torch.stack([losses.next_token, *losses.multi_token, *losses.accuracy]).tolist()
        nats = [total + mean * count for total, mean, count in zip(nats, means[:depths], counts, strict=True)]
        right = [total + mean * count for total, mean, count in zip(right, means[depths:], counts, strict=True)]
        seen = [total + count for total, count in zip(seen, counts, strict=True)]
        bytes_seen += count_target_bytes(part, byte_counts)
    model.train()
    *sums, bytes_seen = processes.total([*nats, *right, *seen, bytes_seen])
    nats, right, seen = sums[:depths], sums[depths : 2 * depths], sums[2 * depths :]
    if not seen[0]:
        return None
    loss = [total / count if count else math.nan for total, count in zip(nats, seen, strict=True)]
    accuracy = [total / count if count else math.nan for total, count in zip(right, seen, strict=True)]
    return Evaluation(
        loss_nats=loss[0],
        bits_per_byte=nats[0] / math.log(2) / bytes_seen if bytes_seen else None,
        accuracy=accuracy[0],
        multi_token_loss_nats=tuple(loss[1:]),
        multi_token_accuracy=tuple(accuracy[1:]),
    )
