"""What every vocabulary can do: text to token ids and back, control tokens by name, a fingerprint.

A vocabulary is a list of byte strings in merge order (an ordinary token's id is its rank), followed by the control
tokens of the conversation format. Text becomes ordinary tokens in two steps: a pattern cuts it into pieces (roughly:
words with the space before them), then inside each piece the pair of neighbours with the lowest rank merges until no
pair is a token (byte-pair encoding). All 256 single bytes are tokens, so any text can be encoded and comes back
unchanged.

Text never turns into control tokens: "<|end|>" in a story is spelled with ordinary tokens. Control tokens are only
ever placed by `conversation`, through `special`.

The merging is done by `tiktoken`, from its version 0.13 on: it takes time in proportion to the text, also for one word
of 100,000 letters, on which the encoder inside `openai-harmony` takes seconds, and a minute in a script without spaces;
on stories it is more than twice as fast. The tests hold the two to the same output.
"""

from __future__ import annotations

import codecs
import hashlib
import operator
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import tiktoken

from ..errors import StoryError

FORMAT_VERSION = 1
"""Version of what `Vocabulary.to_dict` returns."""

HARMONY_SPECIALS: Mapping[str, int] = MappingProxyType(
    {
        "startoftext": 199_998,
        "endoftext": 199_999,
        "return": 200_002,
        "constrain": 200_003,
        "channel": 200_005,
        "start": 200_006,
        "end": 200_007,
        "message": 200_008,
        "call": 200_012,
    }
)
"""The control tokens of the harmony format and their ids; "end" is written <|end|>. Source: openai-harmony."""

MAX_TOKEN_BYTES = 128
"""Bytes in the longest token of the harmony vocabulary (128 spaces)."""

MAX_BLANK_RUN = 900_000
"""Longest run of white space that is encoded; the pattern matcher gives up (by a panic) just below a million."""

_LETTER_CLASSES = {
    "upper": r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",  # capitals, and letters and marks that have no case
    "lower": r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
    "before": r"[^\r\n\p{L}\p{N}]?",  # one space, quotation mark or the like that goes with the word after it
    "short": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",  # the end of "she'll"
}

PIECE_PATTERN = "|".join(
    part.format_map(_LETTER_CLASSES)
    for part in (
        r"{before}{upper}*{lower}+{short}",  # a word, capitalised or not
        r"{before}{upper}+{lower}*{short}",  # a word in capitals
        r"\p{{N}}{{1,3}}",  # numbers, three digits at a time
        r" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*",  # punctuation, with the line end after it
        r"\s*[\r\n]+",  # empty lines
        r"\s+(?!\S)",  # white space, but for its last character before a word
        r"\s+",
    )
)
"""How the o200k vocabulary, on which harmony is built, cuts text into pieces."""

_BLANK_RUN = re.compile(r"\s+")


class TokenizationError(StoryError):
    """A text cannot be encoded, a token does not exist, or a vocabulary is missing, damaged or not the expected one."""


class Vocabulary(ABC):
    """Token ids and what they mean. Immutable, and safe to use from several threads.

    Args:
        tokens: the ordinary tokens' bytes in rank order; their ids are 0, 1, 2, ...
        specials: ids of the control tokens by name, all of them after the ordinary tokens.
        size: how many ids there are, ids without a meaning (reserved) included.
        harmony_ids: id in the harmony vocabulary of each of the `size` ids.
    """

    kind: ClassVar[str]
    """"harmony" or "story"."""

    def __init__(
        self, tokens: Sequence[bytes], specials: Mapping[str, int], size: int, harmony_ids: Sequence[int]
    ) -> None:
        self.size = size
        """Number of ids: rows of the embedding table."""
        self.ordinary_size = len(tokens)
        """Number of ordinary tokens; ids from here up are control tokens or reserved."""
        self.harmony_ids = harmony_ids
        """Row of each id in the table of the full harmony vocabulary, ascending."""
        self._tokens = tokens
        self._ranks = {token: rank for rank, token in enumerate(tokens)}
        self._specials = dict(specials)
        self._encoding = tiktoken.Encoding(
            self.kind, pat_str=PIECE_PATTERN, mergeable_ranks=self._ranks, special_tokens={}
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.size:,} tokens, {self.fingerprint[:12]}>"

    def __reduce__(self) -> tuple[Any, ...]:
        from .loading import vocabulary_from_dict

        return vocabulary_from_dict, (self.to_dict(),)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of everything that gives ids a meaning: equal exactly when all ids mean the same."""
        digest = hashlib.sha256(f"{self.kind} {self.size} {self.ordinary_size}\n".encode())
        digest.update(b"".join(len(token).to_bytes(2, "little") + token for token in self._tokens))
        digest.update("".join(f"{name}={id}\n" for name, id in sorted(self._specials.items())).encode())
        digest.update(b"".join(id.to_bytes(4, "little") for id in self.harmony_ids))
        return digest.hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of the ordinary tokens that spell `text`. Names of control tokens in the text are ordinary text.

        Raises:
            TokenizationError: the text holds half a surrogate pair, which UTF-8 cannot express, or an absurdly long run
                of white space.
        """
        _check_text(text)
        return self._encoding.encode_ordinary(text)

    def encode_piece(self, piece: bytes) -> list[int]:
        """Ids that spell one of the pieces into which `PIECE_PATTERN` cuts a text, by the merges alone."""
        known = self._ranks.get(piece)
        return [known] if known is not None else self._encoding._core_bpe.encode_single_piece(piece)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text.

        One thread: making the lists of ids holds Python's lock, so that threads measured no faster on stories.

        Raises:
            TokenizationError: as `encode`, with the number of the text.
        """
        encoded = []
        for index, text in enumerate(texts):
            try:
                encoded.append(self.encode(text))
            except TokenizationError as error:
                raise TokenizationError(f"text {index} of the batch: {error}") from error
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        """The text that the ids spell, control tokens left out; bytes that are not UTF-8 become U+FFFD.

        Raises:
            TokenizationError: an id is not in the vocabulary.
        """
        return b"".join([self.token_bytes(id) for id in ids]).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token, which may be part of a character; none for a control token.

        Raises:
            TokenizationError: the id is not in the vocabulary.
        """
        id = operator.index(id)
        if not 0 <= id < self.size:
            raise TokenizationError(
                f"token {id} is not in the {self.kind} vocabulary, whose ids are 0 to {self.size - 1}"
            )
        return self._tokens[id] if id < self.ordinary_size else b""

    def rank(self, token: bytes) -> int | None:
        """Id of the ordinary token with exactly these bytes, None if there is none. Lower ranks merge first."""
        return self._ranks.get(token)

    def special(self, name: str) -> int:
        """Id of a control token by its name without brackets: "startoftext", "end", "message", ...

        Raises:
            TokenizationError: there is no control token of that name.
        """
        if name not in self._specials:
            raise TokenizationError(f"there is no control token {name!r}; there are {', '.join(self._specials)}")
        return self._specials[name]

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """What `vocabulary_from_dict` restores the vocabulary from: texts, whole numbers and lists of them only."""


def _check_text(text: str) -> None:
    """Refuse what the encoder would silently change or stumble over."""
    if not isinstance(text, str):
        raise TokenizationError(f"{text!r:.80} is not a text")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizationError(
                f"the text has half of a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start:,}, "
                "which no UTF-8 file can hold; it comes from a broken escape: mend or drop the text"
            ) from error
    if len(text) > MAX_BLANK_RUN:
        longest = max((match.end() - match.start() for match in _BLANK_RUN.finditer(text)), default=0)
        if longest > MAX_BLANK_RUN:
            raise TokenizationError(
                f"the text has {longest:,} characters of white space in a row; at most {MAX_BLANK_RUN:,} can be encoded"
            )


class StreamDecoder:
    """Text from ids that arrive one at a time, never with half a character.

    What all calls return, joined, is `vocabulary.decode` of all ids.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The characters that this token completes; often none while a character is being spelled byte by byte."""
        return self._decoder.decode(self._vocabulary.token_bytes(id))

    def finish(self) -> str:
        """What is left: U+FFFD if the last character never became whole. The decoder can then be used again."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def count_tokens(vocabulary: Vocabulary, texts: Iterable[str]) -> Counter[int]:
    """How often each token is used to spell the texts.

    Raises:
        TokenizationError: as `Vocabulary.encode`.
    """
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(vocabulary.encode(text))
    return counts
