"""Loss on held-out stories."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.batches import validation_batches
from ..data.shards import TokenShard
from ..model.multi_token import targets_at_depth
from ..model.transformer import StoryTransformer
from .distributed import Processes


@dataclass(frozen=True)
class Evaluation:
    """Loss on held-out stories."""

    loss_nats: float
    bits_per_byte: float | None
    multi_token_loss_nats: tuple[float, ...]


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
        The losses; None if there is nothing to predict in the stories.
    """
    model.eval()
    depths = model.config.multi_token_predict
    sums, bytes_seen = [0.0] * (2 * depths), 0.0
    batches = validation_batches(
        stories, batch_size, length, most_batches, rank=processes.rank, world_size=processes.world_size
    )
    for batch in batches:
        for part in batch.split(rows_at_once):
            part = part.to(byte_counts.device)
            counts = model.count_targets(part.documents, part.trained)
            if not counts[0]:
                continue
            losses = model.loss(part.tokens, part.documents, part.trained)
            means = [losses.next_token, *losses.multi_token]
            for depth, (mean, count) in enumerate(zip(means, counts, strict=True)):
                sums[2 * depth] += float(mean) * count
                sums[2 * depth + 1] += count
            targets, counted = targets_at_depth(part.tokens, 0, part.documents, part.trained)
            bytes_seen += float(byte_counts[targets[counted]].sum())
    model.train()
    *sums, bytes_seen = processes.total([*sums, bytes_seen])
    if not sums[1]:
        return None
    return Evaluation(
        loss_nats=sums[0] / sums[1],
        bits_per_byte=sums[0] / math.log(2) / bytes_seen if bytes_seen else None,
        multi_token_loss_nats=tuple(sums[2 * d] / max(1.0, sums[2 * d + 1]) for d in range(1, depths)),
    )
