"""Where each document of a packed batch lies, so that attention stays within it.

Rows of a training batch hold several whole stories. Instead of one (time, time) mask per row, attention gathers the
documents into groups of similar length, one document per row, padded on the right. Causal attention never looks
right, so the padding needs no mask, and the cost is the sum of the documents' squared lengths, not the rows'.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import take_rows

SHORTEST_GROUP = 32
"""Documents are padded to this length or a power of two times it: few shapes, less than half of them padding."""


@dataclass(frozen=True)
class DocumentLayout:
    """Places of a batch's tokens, computed once and shared by all layers. N = batch x time tokens, flattened."""

    positions: Tensor
    """(batch, time) int64: distance of each token from the start of its document."""
    shapes: tuple[tuple[int, int], ...]
    """(documents, padded length) of each group."""
    token_of_slot: Tensor
    """(slots,) int64: the token at each slot of the groups, which lie one after the other; filler at padding."""
    slot_of_token: Tensor
    """(N,) int64: the slot of each token."""
    used: Tensor | None
    """(N,) bool: False for padding tokens, which have no slot; None when there are none."""
    slot_used: Tensor
    """(slots,) bool: False where a slot is padding."""

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Documents in groups: (N, width) to one (documents, padded length, width) for each of `shapes`."""
        slots = take_rows(rows, self.token_of_slot, self.slot_of_token[:, None], self.used)
        parts = slots.split([count * length for count, length in self.shapes])
        return [part.view(*shape, -1) for part, shape in zip(parts, self.shapes, strict=True)]

    def scatter(self, groups: list[Tensor]) -> Tensor:
        """The way back: the groups' rows to (N, width), in the order of the tokens; padding tokens get filler."""
        slots = torch.cat([group.flatten(0, 1) for group in groups])
        return take_rows(slots, self.slot_of_token, self.token_of_slot[:, None], self.slot_used)

    @staticmethod
    def from_documents(documents: Tensor) -> DocumentLayout:
        """Lay out a batch.

        Args:
            documents: (batch, time) int64. Tokens of one document are neighbours and share a number; neighbouring
                documents of a row differ; -1 marks padding.
        """
        batch, time = documents.shape
        device = documents.device
        documents = documents.cpu()
        index = torch.arange(batch * time).view(batch, time)
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        start_of_token = torch.where(begins, index, torch.zeros_like(index)).flatten().cummax(0).values
        positions = index - start_of_token.view(batch, time)
        used = (documents >= 0).flatten()

        starts = torch.nonzero(begins.flatten() & used).flatten()
        ends = torch.nonzero(begins.flatten()).flatten()
        ends = torch.cat((ends[1:], torch.tensor([batch * time])))[used[ends]]
        lengths = ends - starts
        # The exponent by integer comparison: rounding of a logarithm must not move a document to a shorter group.
        padded = torch.full_like(lengths, SHORTEST_GROUP)
        while bool((padded < lengths).any()):
            padded = torch.where(padded < lengths, padded * 2, padded)
        slot_of_token = torch.zeros(batch * time, dtype=torch.int64)
        shapes, tokens_of_slots, used_slots, first_slot = [], [], [], 0
        for length in padded.unique().tolist():
            members = padded == length
            group_starts, group_lengths = starts[members], lengths[members]
            offsets = torch.arange(length)
            filled = offsets < group_lengths[:, None]
            tokens = torch.where(filled, group_starts[:, None] + offsets, 0)
            slots = torch.arange(filled.numel()).view_as(filled) + first_slot
            slot_of_token[tokens[filled]] = slots[filled]
            shapes.append((len(group_starts), length))
            tokens_of_slots.append(tokens.flatten())
            used_slots.append(filled.flatten())
            first_slot += filled.numel()
        token_of_slot = torch.cat(tokens_of_slots) if shapes else torch.zeros(0, dtype=torch.int64)
        slot_used = torch.cat(used_slots) if shapes else torch.zeros(0, dtype=torch.bool)
        return DocumentLayout(
            positions=positions.to(device),
            shapes=tuple(shapes),
            token_of_slot=token_of_slot.to(device),
            slot_of_token=slot_of_token.to(device),
            used=None if bool(used.all()) else used.to(device),
            slot_used=slot_used.to(device),
        )
