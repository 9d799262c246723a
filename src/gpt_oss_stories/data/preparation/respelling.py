"""Harmony ids become ids of another vocabulary: renumbered where every token exists in it, spelled anew where not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...tokenization import Vocabulary


def spelled_bytes(vocabulary: Vocabulary) -> NDArray[np.int64]:
    """[vocabulary.size] how many bytes each token spells; 0 of a control token."""
    return np.asarray([len(vocabulary.token_bytes(id)) for id in range(vocabulary.size)], dtype=np.int64)


class Respeller:
    """Turns harmony ids into ids of another vocabulary.

    Args:
        harmony: the vocabulary that the ids are of.
        vocabulary: the one to turn them into.
        is_control: [harmony.size] which ids spell nothing.
    """

    def __init__(self, harmony: Vocabulary, vocabulary: Vocabulary, is_control: NDArray[np.bool_]) -> None:
        self.harmony = harmony
        self.vocabulary = vocabulary
        self._new_ids = np.full(harmony.size, -1, dtype=np.int64)
        self._new_ids[np.asarray(vocabulary.harmony_ids, dtype=np.int64)] = np.arange(vocabulary.size)
        self._is_control = is_control

    def renumber(
        self, tokens: NDArray[Any], trained: NDArray[np.bool_], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], int]:
        """New ids, flags and lengths of some renderings, and how many of these were spelled anew.

        A rendering whose tokens all exist keeps its segmentation: it is what the new vocabulary's own encoder gives
        (see `tokenization.story_vocabulary`). The text of any other is encoded again.
        """
        ids = self._new_ids[tokens]
        missing = np.flatnonzero(ids < 0)
        if not len(missing):
            return ids, trained, lengths, 0
        ends = lengths.cumsum()
        again = np.unique(np.searchsorted(ends, missing, side="right"))
        pieces, flags, sizes, copied = [], [], lengths.copy(), 0
        for rendering in again:
            start, end = int(ends[rendering] - lengths[rendering]), int(ends[rendering])
            new, new_trained = self.respell(tokens[start:end], trained[start:end])
            pieces += [ids[copied:start], new]
            flags += [trained[copied:start], new_trained]
            sizes[rendering], copied = len(new), end
        return np.concatenate([*pieces, ids[copied:]]), np.concatenate([*flags, trained[copied:]]), sizes, len(again)

    def respell(self, tokens: NDArray[Any], trained: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Encode the text between control tokens again, in stretches of equal flag."""
        control = self._is_control[tokens]
        borders = control[1:] | control[:-1] | (trained[1:] != trained[:-1])
        edges = [0, *(np.flatnonzero(borders) + 1).tolist(), len(tokens)]
        ids: list[int] = []
        flags: list[bool] = []
        for start, end in pairwise(edges):
            if control[start]:
                new = [int(self._new_ids[tokens[start]])]
            else:
                new = self.vocabulary.encode(self.harmony.decode(tokens[start:end].tolist()))
            ids += new
            flags += [bool(trained[start])] * len(new)
        return np.asarray(ids, dtype=np.int64), np.asarray(flags, dtype=np.bool_)
