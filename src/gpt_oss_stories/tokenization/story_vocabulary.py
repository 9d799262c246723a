"""The story vocabulary: the harmony tokens that a corpus needs, renumbered.

Keep the tokens that occur in the corpus, every token that appears while byte-pair encoding builds one of them (the
closure), and all 256 bytes; number them in rank order. The corpus is then cut into the very same tokens. Why: encoding
merges the pair of lowest rank first. Each merge in the full vocabulary makes a part of some token of the result, so its
product is in the closure; the smaller vocabulary has that merge too, has no merge that the full one lacks, and keeps
their order. So both choose the same merge at every step. Any other text is still encoded losslessly, in more tokens.

The control tokens of the conversation format follow the ordinary ones, and the fixed words of story requests are always
kept, so that a request costs no more tokens than in harmony.
"""

from __future__ import annotations

import base64
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from .conversation import fixed_texts
from .harmony import harmony_vocabulary
from .vocabulary import FORMAT_VERSION, HARMONY_SPECIALS, TokenizationError, Vocabulary


class StoryVocabulary(Vocabulary):
    """Part of the harmony vocabulary under new ids. Use `build_story_vocabulary` or `vocabulary_from_dict` to get one.

    Args:
        tokens: the ordinary tokens' bytes in rank order, all 256 bytes among them.
        harmony_ids: their harmony ids, ascending.
    """

    kind = "story"

    def __init__(self, tokens: Sequence[bytes], harmony_ids: Sequence[int]) -> None:
        specials = {name: len(tokens) + index for index, name in enumerate(HARMONY_SPECIALS)}
        super().__init__(tokens, specials, len(tokens) + len(specials), [*harmony_ids, *HARMONY_SPECIALS.values()])

    def to_dict(self) -> dict[str, Any]:
        """Everything, so that a checkpoint opens without the file of the harmony vocabulary."""
        return {
            "version": FORMAT_VERSION,
            "kind": self.kind,
            "size": self.size,
            "fingerprint": self.fingerprint,
            "harmony_ids": list(self.harmony_ids),
            "tokens": [base64.b64encode(token).decode("ascii") for token in self._tokens],
        }


def build_story_vocabulary(counts: Mapping[int, int], min_count: int = 1) -> StoryVocabulary:
    """The smallest vocabulary that spells the counted texts as harmony does.

    Args:
        counts: how often each harmony token occurs in the corpus (`count_tokens`). Control tokens may be among them.
        min_count: tokens seen less often are left out; where they occurred, smaller tokens take their place.

    Raises:
        TokenizationError: nothing was counted, or an id or a count is impossible.
    """
    harmony = harmony_vocabulary()
    if min_count < 1:
        raise TokenizationError(f"min_count={min_count} must be at least 1")
    if not counts:
        raise TokenizationError("a story vocabulary needs the token counts of some stories, but none were counted")
    kept: set[int] = set()
    for id, count in counts.items():
        id = operator.index(id)
        if not 0 <= id < harmony.size or count < 0:
            raise TokenizationError(
                f"{count} occurrences of token {id} cannot be: harmony ids are 0 to {harmony.size - 1}"
            )
        if id < harmony.ordinary_size and count >= min_count:
            kept.add(id)
    for text in fixed_texts():
        kept.update(harmony.encode(text))
    tokens = {harmony.token_bytes(id) for id in kept} | {bytes([byte]) for byte in range(256)}
    closed = _close_under_merges(tokens, harmony.rank)
    by_rank = sorted((rank, token) for token in closed if (rank := harmony.rank(token)) is not None)
    return StoryVocabulary([token for _, token in by_rank], [rank for rank, _ in by_rank])


def merge_parts(token: bytes, rank_of: Callable[[bytes], int | None]) -> tuple[bytes, bytes] | None:
    """The two tokens whose merge is the last step in building `token` from its bytes.

    Within a longer text, the merges inside the place of a token of the result are the same as for the token alone: no
    merge there crossed its borders, and the order of the others depends on their ranks only.

    Args:
        token: the bytes of one token.
        rank_of: rank of a token, None for bytes that are none; lower ranks merge first.

    Returns:
        The two parts; None for a single byte, and for a token that merging does not build (it is only ever
        used where a whole piece of text equals it, and then needs no parts).
    """
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        ranks = ((rank_of(left + right), place) for place, (left, right) in enumerate(pairwise(parts)))
        possible = [(rank, place) for rank, place in ranks if rank is not None]
        if not possible:
            return None
        _, place = min(possible)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _close_under_merges(tokens: Iterable[bytes], rank_of: Callable[[bytes], int | None]) -> set[bytes]:
    """The tokens, the parts they are merged from, those parts' parts, and so on."""
    closed: set[bytes] = set()
    waiting = list(tokens)
    while waiting:
        token = waiting.pop()
        if token not in closed:
            closed.add(token)
            waiting.extend(merge_parts(token, rank_of) or ())
    return closed
