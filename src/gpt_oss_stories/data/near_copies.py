"""Near copies of stories, and passages of held-out stories: found by hashes of runs of words.

A **word** is a longest run of letters, digits and combining marks of any script, whatever its case; apostrophes and
invisible formatting characters are ignored, everything else separates. "Don't!", "dont" and "DON’T" are one word. In
scripts that are written without spaces (Chinese characters, kana, Thai, Lao, Khmer, Burmese and a few of their
neighbours) each letter with its marks is a word. Texts are compared after Unicode's NFC and case folding.

A **gram** is the hash of n words in their order. A text of fewer than n words, but at least one, has a single gram of
all its words, so that copies of it are found too.

**Near copies** are found by MinHash (Broder, "On the resemblance and containment of documents", 1997) with the buckets
and clusters of `datatrove`, whose first stage this module replaces: it would need spaCy and takes several times as
long. The hashes are those of `datatrove` for the same grams.

    with SignatureWriter(folder / "signatures", rank, config) as writer:    # in each task
        writer.add(*signatures(texts, config), indices)
    near_copy_stages(folder, config)    # steps for datatrove's executors; or find_near_copies(folder, config) here
    read_removed(folder, rank)          # in each task: which of its stories to leave out

Of the stories of a cluster the first in the order (rank, index) stays. Clusters are chains: of three stories of which
the second is like the first and the third like the second, only the first stays.

**Decontamination** asks `NgramIndex` how many of a story's 13-grams occur in held-out stories. A few do by chance, as
stories for children begin alike ("Once upon a time, there was a little girl named Lily. She loved ..."): with one half
of some thousand TinyStories held out, a fifth of the other half has one such gram or more, and none has a fifth of its
grams or more than 13. So it takes a fifth, or fifty, to call a story contaminated.

numba compiles the loops when they are first called and keeps the result beside this file, or in the user's cache if
that cannot be written: about two seconds once per installation and 0.3 in later processes. Importing this module
imports numba, which takes as long again, so only what needs it should.

The hashes are quick, not secret: somebody who knows them can write different texts that count as copies.

Axis letters:  S stories   C characters   W words   G grams   H hashes of a signature
"""

from __future__ import annotations

import functools
import json
import os
import struct
import tempfile
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..config import ConfigError
from ..files import FileWriteError, atomic_write, write_text_atomically
from ..tokenization.string_table import compiled
from .sources import DataError

if TYPE_CHECKING:
    from datatrove.pipeline.dedup.minhash import MinhashConfig as DatatroveConfig

Hashes = NDArray[np.uint64]

COPY_WORDS = 5
"""Words in a gram by which near copies are found."""

PASSAGE_WORDS = 13
"""Words in a gram by which passages of held-out stories are found (GPT-3 report, arXiv 2005.14165, appendix C)."""

CONTAMINATED_SHARE = 0.2
CONTAMINATED_GRAMS = 50
"""A story of whose grams this share, or this many, are in held-out stories is not for training."""

_PRIME = np.uint64((1 << 61) - 1)
_SEED = np.uint64(0x243F6A8885A308D3)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Digits of pi and of the golden ratio, whose multiples are spread evenly over 64 bits."""

_BATCH_CHARACTERS = 1 << 20
"""Texts are hashed in groups of about so many characters, some 20 bytes of memory each."""

_SEPARATOR, _LETTER, _ALONE, _MARK, _IGNORED = range(5)

_APOSTROPHES = "'`\u00b4\u02bb\u02bc\u2018\u2019\u201b\uff07"

_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x3005, 0x3007),  # the signs for a repeated character, for a closing and for zero
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAADF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x323AF),
)


@compiled
def _mixed(hash: Any) -> Any:
    """A 64-bit number whose every bit depends on every bit of another; different for different ones (splitmix64)."""
    hash = (hash ^ (hash >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hash = (hash ^ (hash >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hash ^ (hash >> np.uint64(31))


@compiled
def _hash_words(character_C: Any, kind: Any, word_W: Any) -> Any:
    """Write the hashes of a text's words, and return how many there are."""
    words = 0
    inside = _SEPARATOR  # or _LETTER in a word of letters, _ALONE in a word of one letter
    hash = _SEED
    for character in character_C:
        what = kind[character] if character < len(kind) else _SEPARATOR
        if what == _IGNORED or (what == _MARK and inside == _SEPARATOR):
            continue
        if what != _MARK and inside != _SEPARATOR and (what != _LETTER or inside != _LETTER):
            word_W[words] = _mixed(hash)
            words += 1
            hash = _SEED
            inside = _SEPARATOR
        if what != _SEPARATOR:
            hash = (hash ^ np.uint64(character)) * _FACTOR
            if what != _MARK:
                inside = what
    if inside != _SEPARATOR:
        word_W[words] = _mixed(hash)
        words += 1
    return words


@compiled
def _hash_grams(character_C: Any, end_S: Any, kind: Any, n: Any, word_W: Any, gram_G: Any, grams_S: Any) -> Any:
    """Write the grams of many texts, one text's after the other's, and how many each has; return how many in all."""
    total, begin = 0, 0
    for s in range(len(end_S)):
        words = _hash_words(character_C[begin : end_S[s]], kind, word_W)
        begin = end_S[s]
        length = min(n, words)
        grams = words - length + 1 if words else 0
        for g in range(grams):
            hash = _SEED
            for w in range(g, g + length):
                hash = (hash ^ word_W[w]) * _FACTOR
                hash ^= hash >> np.uint64(32)
            gram_G[total + g] = _mixed(hash)
        grams_S[s] = grams
        total += grams
    return total


@compiled
def _take_smallest(gram_G: Any, grams_S: Any, a_H: Any, b_H: Any, smallest_SH: Any) -> None:
    """The smallest of (a g + b) mod 2^64 mod (2^61 - 1) over the grams g of each text, in place of what is larger."""
    begin = 0
    for s in range(len(grams_S)):
        smallest_H = smallest_SH[s]
        for g in range(begin, begin + grams_S[s]):
            gram = gram_G[g]
            for h in range(len(a_H)):
                value = a_H[h] * gram + b_H[h]
                # 2^61 is 1 modulo the prime, so the upper three bits count once each.
                value = (value & _PRIME) + (value >> np.uint64(61))
                value = value - _PRIME if value >= _PRIME else value
                smallest_H[h] = min(smallest_H[h], value)
        begin += grams_S[s]


@compiled
def _count_known(gram_G: Any, grams_S: Any, known_G: Any, first: Any, shift: Any, found_S: Any) -> None:
    """How many grams of each text are among the known ones, which rise; `first` says where those start whose upper
    bits are 0, 1, 2, ..."""
    begin = 0
    for s in range(len(grams_S)):
        found = 0
        for g in range(begin, begin + grams_S[s]):
            upper = np.int64(gram_G[g] >> shift)
            for k in range(first[upper], first[upper + 1]):
                if known_G[k] >= gram_G[g]:
                    found += known_G[k] == gram_G[g]
                    break
        found_S[s] = found
        begin += grams_S[s]


@functools.cache
def _character_kinds() -> NDArray[np.uint8]:
    """What each character is to a word, by code point; those above the last one separate."""
    last = _WITHOUT_SPACES[-1][1]
    of_category = {"L": _LETTER, "N": _LETTER, "M": _MARK}
    kind = np.asarray(
        [
            _IGNORED if (category := unicodedata.category(chr(code))) == "Cf" else of_category.get(category[0], 0)
            for code in range(last + 1)
        ],
        dtype=np.uint8,
    )
    for begin, end in _WITHOUT_SPACES:
        for code in range(begin, end + 1):
            if kind[code] == _LETTER and unicodedata.category(chr(code)) != "Nd":
                kind[code] = _ALONE
    kind[[ord(character) for character in _APOSTROPHES]] = _IGNORED
    kind[0xFE00:0xFE10] = _IGNORED  # variation selectors: how a character looks
    return kind


def _characters(text: str) -> bytes:
    """The text in the form in which it is compared, 4 bytes per character."""
    if text.isascii():
        return text.lower().encode("utf-32-le")
    composed = unicodedata.normalize("NFC", text)
    # Case folding takes some letters apart again.
    return unicodedata.normalize("NFC", composed.casefold()).encode("utf-32-le", "surrogatepass")


def word_hashes(text: str) -> Hashes:
    """Hashes of a text's words in their order, [W] uint64; equal for words that differ in case or apostrophes."""
    character_C = np.frombuffer(_characters(text), dtype="<u4")
    word_W = np.empty(len(character_C), dtype=np.uint64)
    return word_W[: _hash_words(character_C, _character_kinds(), word_W)].copy()


def gram_hashes(text: str, n: int) -> Hashes:
    """Hashes of each n words that follow each other, [max(W - n + 1, 1)] uint64, or [0] for a text without words.

    Raises:
        ConfigError: n is less than 1.
    """
    return next(_grams([text], n))[0]


def _grams(texts: Iterable[str], n: int) -> Iterator[tuple[Hashes, NDArray[np.int64]]]:
    """Grams of groups of texts, one text's after the other's, [G] uint64, and how many each text has, [S] int64."""
    if n < 1:
        raise ConfigError(f"n={n}: a gram has at least one word")
    pending: list[bytes] = []
    size = 0
    for text in texts:
        pending.append(_characters(text))
        size += len(pending[-1])
        if size >= 4 * _BATCH_CHARACTERS:
            yield _grams_of(pending, n)
            pending, size = [], 0
    if pending:
        yield _grams_of(pending, n)


def _grams_of(texts: list[bytes], n: int) -> tuple[Hashes, NDArray[np.int64]]:
    character_C = np.frombuffer(b"".join(texts), dtype="<u4")
    end_S = np.asarray([len(text) // 4 for text in texts], dtype=np.int64).cumsum()
    word_W = np.empty(max((len(text) // 4 for text in texts), default=0), dtype=np.uint64)
    gram_G = np.empty(len(character_C), dtype=np.uint64)
    grams_S = np.empty(len(texts), dtype=np.int64)
    total = _hash_grams(character_C, end_S, _character_kinds(), n, word_W, gram_G, grams_S)
    return gram_G[:total], grams_S


@dataclass(frozen=True, slots=True, kw_only=True)
class MinhashConfig:
    """Which stories count as near copies.

    Two texts of whose different grams a share s is in both (their Jaccard similarity) get an equal hash with
    probability s, the same bucket with s^r for r hashes per bucket, and at least one of b buckets with
    1 - (1 - s^r)^b: see `chance`. With the usual 13 buckets of 7 hashes that is 0.9997 for s = 0.9, 0.95 for 0.8,
    0.67 for 0.7, 0.10 for 0.5 and 0.003 for 0.3. A word that is changed in the middle of a story changes five of its
    grams in each text.

    Raises:
        ConfigError: a number cannot work.
    """

    n: int = COPY_WORDS
    """Words in a gram."""
    buckets: int = 13
    hashes_per_bucket: int = 7
    seed: int = 1
    """Of the hash functions' factors; every task of a run needs the same."""

    def __post_init__(self) -> None:
        problems = [
            f"{name}={value} is less than 1"
            for name, value in (("n", self.n), ("buckets", self.buckets), ("hashes_per_bucket", self.hashes_per_bucket))
            if value < 1
        ]
        if self.buckets > 999:
            problems.append(f"buckets={self.buckets} is more than 999, for which the files have names")
        if not 0 <= self.seed < 2**32:
            problems.append(f"seed={self.seed} is not a number of 32 bits")
        if problems:
            raise ConfigError("near copies: " + "; ".join(problems))

    @property
    def hashes(self) -> int:
        """H, hashes of a signature."""
        return self.buckets * self.hashes_per_bucket

    def chance(self, similarity: float) -> float:
        """Probability that two texts of this Jaccard similarity of their grams are found."""
        return 1.0 - (1.0 - similarity**self.hashes_per_bucket) ** self.buckets

    def parameters(self) -> tuple[Hashes, Hashes]:
        """Factors a from 1 and summands b from 0 of the hash functions, [H] uint64 each, as `datatrove` draws them."""
        generator = np.random.RandomState(self.seed)
        a_H = generator.randint(1, int(_PRIME), dtype=np.uint64, size=self.hashes)
        b_H = generator.randint(0, int(_PRIME), dtype=np.uint64, size=self.hashes)
        return a_H, b_H

    def for_datatrove(self) -> DatatroveConfig:
        """The same for the steps of `datatrove`."""
        from datatrove.pipeline.dedup import minhash

        return minhash.MinhashConfig(
            n_grams=self.n, num_buckets=self.buckets, hashes_per_bucket=self.hashes_per_bucket, seed=self.seed
        )


@functools.lru_cache(maxsize=4)
def _padded_parameters(config: MinhashConfig) -> tuple[Hashes, Hashes]:
    """Parameters of a multiple of 8 hashes, so that no loop over them has a rest."""
    padding = (0, -config.hashes % 8)
    a_H, b_H = config.parameters()
    return np.pad(a_H, padding), np.pad(b_H, padding)


def signatures(texts: Sequence[str], config: MinhashConfig) -> tuple[Hashes, NDArray[np.bool_]]:
    """MinHash signatures: the smallest value of each hash function (a g + b) mod 2^64 mod (2^61 - 1) over the grams g.

    Returns:
        [S, H] uint64, and [S] bool whether the text has any words; the hashes of one that has none are 2^64 - 1.
    """
    a_H, b_H = _padded_parameters(config)
    smallest_SH = np.full((len(texts), len(a_H)), ~np.uint64(0))
    grams_S = np.zeros(len(texts), dtype=np.int64)
    begin = 0
    for gram_G, counts_S in _grams(texts, config.n):
        end = begin + len(counts_S)
        grams_S[begin:end] = counts_S
        _take_smallest(gram_G, counts_S, a_H, b_H, smallest_SH[begin:end])
        begin = end
    return smallest_SH[:, : config.hashes], grams_S > 0


class SignatureWriter:
    """Writes the signatures of one task's stories, in the files that `datatrove`'s first MinHash stage would write.

    These are `bucket_BBB/RRRRR.minhash.sig` for bucket B and rank R: records of the bucket's hashes and the story's
    index, sorted. Used as a context, it writes all of them when the block ends well and none after an error. Until
    then it keeps 8 H + 4 bytes per story, and twice as many while it writes.

    Args:
        folder: for the signatures of all ranks; `datatrove` takes every file in it, so no other run may use it.
        rank: number of the task.
        config: which near copies are sought.

    Raises:
        ConfigError: the rank is negative or takes more than 31 bits.
    """

    def __init__(self, folder: str | Path, rank: int, config: MinhashConfig) -> None:
        if not 0 <= rank < 2**31:
            raise ConfigError(f"rank={rank} is not the number of a task")
        self.folder = Path(folder)
        self.rank = rank
        self.config = config
        self.stories = 0
        """With signatures, so far."""
        self._last = -1
        self._signatures: list[Hashes] = []
        self._indices: list[NDArray[np.uint32]] = []

    def add(self, signature_SH: Hashes, has_any_S: NDArray[np.bool_], index_S: Iterable[int]) -> None:
        """Take the signatures of some stories.

        Args:
            signature_SH, has_any_S: what `signatures` gives; stories without words are left out.
            index_S: each story's index in the task, rising from call to call as well, below 2^32 - 1.

        Raises:
            ValueError: the shapes differ, or the indices do not rise.
        """
        index = np.asarray(list(index_S), dtype=np.int64)
        if signature_SH.shape != (len(index), self.config.hashes) or has_any_S.shape != index.shape:
            raise ValueError(
                f"{len(index)} indices and {len(has_any_S)} flags for signatures of the shape {signature_SH.shape}; "
                f"expected [stories, {self.config.hashes}]"
            )
        if len(index) == 0:
            return
        if (np.diff(index, prepend=self._last) < 1).any() or index[-1] >= 2**32 - 1:
            raise ValueError(f"the indices of the stories of task {self.rank} do not rise from {self._last + 1}")
        self._last = int(index[-1])
        self._signatures.append(signature_SH[has_any_S])
        self._indices.append(index[has_any_S].astype(np.uint32))
        self.stories += int(has_any_S.sum())

    def close(self) -> None:
        """Write the files.

        Raises:
            FileWriteError: the operating system refused.
        """
        config = self.config
        signature_SH = np.concatenate([np.empty((0, config.hashes), dtype=np.uint64), *self._signatures])
        self._signatures.clear()
        index_S = np.concatenate([np.empty(0, dtype=np.uint32), *self._indices])
        kind = np.dtype([("hashes", "<u8", (config.hashes_per_bucket,)), ("index", "<u4")])
        record_S = np.empty(len(index_S), dtype=kind)
        for bucket in range(config.buckets):
            begin = bucket * config.hashes_per_bucket
            bucket_SR = signature_SH[:, begin : begin + config.hashes_per_bucket]
            order = _sorted_order(bucket_SR)
            record_S["hashes"] = bucket_SR[order]
            record_S["index"] = index_S[order]
            self._write(f"bucket_{bucket:03d}", record_S.tobytes())

    def _write(self, bucket: str, content: bytes) -> None:
        """Not with `atomic_write`: a temporary file that a killed process left in the bucket's folder would be taken
        for signatures."""
        target = self.folder / bucket / f"{self.rank:05d}.minhash.sig"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{self.rank:05d}.", suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
                os.replace(temporary, target)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise FileWriteError(
                f"cannot write {target}: {error.strerror or error}. Free some space or choose another folder."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()


def _sorted_order(bucket_SR: Hashes) -> NDArray[np.int64]:
    """The order in which the rows rise, equal ones as they are.

    Nearly all are told apart by their first hash, so that only the others are compared whole.
    """
    order = np.argsort(bucket_SR[:, 0], kind="stable")
    first = bucket_SR[order, 0]
    same = first[1:] == first[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same)) if len(first) else order
    rows = bucket_SR[order[tied]]
    order[tied] = order[tied][np.lexsort(rows.T[::-1])] if len(tied) else tied
    return order


@dataclass(frozen=True, slots=True, kw_only=True)
class NearCopies:
    """What was found."""

    clusters: int
    """Groups of stories that are near copies of each other."""
    stories: int
    """In such groups."""
    removed: int
    """Those but for the first of each group."""


@dataclass(frozen=True, slots=True)
class NearCopyStages:
    """Steps for `datatrove`'s executors, to be run one after the other when all signatures are there."""

    pairs: list[Any]
    """`MinhashDedupBuckets`: finds stories that share a bucket."""
    pair_tasks: int
    """In which the first must be run: one for each bucket. Multiples work only if every rank has that many stories."""
    clusters: list[Any]
    """`CheckSignatures`, `MinhashDedupCluster` and `KeepFirst`, in a single task."""


def near_copy_stages(folder: str | Path, config: MinhashConfig, *, ranks: int | None = None) -> NearCopyStages:
    """What finds the near copies among the signatures in `folder/signatures`.

    The steps write to `folder/pairs`, `folder/clusters` and `folder/removed`, which `read_removed` reads. They take all
    that is in these folders, so another set of stories needs a new folder.

    Args:
        folder: where all this is.
        config: the one the signatures were made with.
        ranks: how many tasks wrote signatures, to see that none is missing.
    """
    from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupCluster

    folder = Path(folder)
    settings = config.for_datatrove()
    pairs = MinhashDedupBuckets(
        str(folder / "signatures"), str(folder / "pairs"), config=settings, lines_to_buffer=_RECORDS_READ
    )
    clusters = MinhashDedupCluster(
        str(folder / "pairs"),
        str(folder / "clusters"),
        config=settings,
        save_cluster_id=True,
        lines_to_buffer=_RECORDS_READ,
    )
    return NearCopyStages(
        [pairs], config.buckets, [CheckSignatures(folder, config, ranks), clusters, KeepFirst(folder)]
    )


_RECORDS_READ = 1000
"""Records of a file that `datatrove` reads at a time; its usual 5 take several times as long."""


def find_near_copies(folder: str | Path, config: MinhashConfig, *, ranks: int | None = None) -> NearCopies:
    """Run all steps of `near_copy_stages` here, one after the other, without `datatrove`'s messages.

    Raises:
        DataError: there are no signatures, or some are missing.
        FileWriteError: the operating system refused to write.
    """
    CheckSignatures(Path(folder), config, ranks)()
    stages = near_copy_stages(folder, config, ranks=ranks)
    with quiet_datatrove():
        for task in range(stages.pair_tasks):
            for step in stages.pairs:
                step(None, task, stages.pair_tasks)
        for step in stages.clusters:
            step(None, 0, 1)
    return read_near_copies(folder)


@contextmanager
def quiet_datatrove() -> Iterator[None]:
    """No messages of `datatrove` in this process, neither its log's nor its progress bars'.

    The bars write to what is `sys.stderr` when they begin, which is therefore replaced: not for blocks in which other
    threads write to it.
    """
    from contextlib import redirect_stderr
    from io import StringIO

    import datatrove.utils.logging  # noqa: F401 - sets up its log for good, so not with a replaced stderr
    from loguru import logger

    logger.disable("datatrove")
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logger.enable("datatrove")


_REMOVED_FORMAT = 1
_REMOVED = np.dtype([("index", "<u4"), ("kept_rank", "<u4"), ("kept_index", "<u4")])
_SUMMARY = "near_copies.json"


@dataclass(frozen=True, slots=True)
class CheckSignatures:
    """A step that sees that all signatures are there: each bucket's file of each rank, with as many stories in it as in
    the other buckets. The library takes what it finds.

    Args:
        folder: holds `signatures`.
        config: the one they were made with.
        ranks: how many tasks wrote some, where this is known.
    """

    folder: Path
    config: MinhashConfig
    ranks: int | None = None

    def __call__(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """Raises DataError: signatures are missing, or are not whole."""
        record = 8 * self.config.hashes_per_bucket + 4
        expected: dict[str, int] | None = None
        for bucket in range(self.config.buckets):
            path = self.folder / "signatures" / f"bucket_{bucket:03d}"
            found = {file.name: file.stat().st_size for file in path.glob("*.minhash.sig")}
            if expected is None:
                expected = found
            if found != expected or any(size % record for size in found.values()):
                raise DataError(f"the signatures in {path} are not whole or of other settings. Prepare the data again")
        if not expected or self.ranks not in (None, len(expected)):
            wanted = "" if self.ranks is None else f" instead of {self.ranks}"
            raise DataError(
                f"{self.folder / 'signatures'} holds signatures of {len(expected or ())} tasks{wanted}: "
                "the tasks that write them have to end first"
            )


@dataclass(frozen=True, slots=True)
class KeepFirst:
    """A step after `MinhashDedupCluster`: of each cluster all but the first story in the order (rank, index) go.

    The library itself keeps a story that depends on the order in which pairs were found. It numbers the clusters in
    the order of their first stories, so a story is the first of its cluster if it has a number that no earlier one
    has. This takes 8 bytes of memory per cluster.

    Args:
        folder: holds `clusters`; the result goes to `removed`.
    """

    folder: Path

    def __call__(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """Write `RRRRR.removed` for each rank that loses stories, and then what was found.

        Raises:
            DataError: the clusters are not whole or not those of a single run.
            FileWriteError: the operating system refused.
        """
        source, target = self.folder / "clusters", self.folder / "removed"
        if world_size != 1:
            raise ConfigError(f"near copies are chosen in 1 task, not in {world_size}")
        files = sorted((int(path.name.split(".")[0]), path) for path in source.glob("*.clusters"))
        kept = np.empty((2, 1024), dtype=np.uint32)  # rank and index of the first of each cluster
        clusters = stories = removed = 0
        ranks: dict[str, list[int]] = {}
        for of_rank, path in files:
            raw = path.read_bytes()
            index, cluster = np.frombuffer(raw[: len(raw) // 8 * 8], dtype="<u4").astype(np.int64).reshape(-1, 2).T
            highest = np.maximum.accumulate(np.append(np.int64(clusters - 1), cluster))
            is_first = cluster > highest[:-1]
            found = clusters + int(is_first.sum())
            if len(raw) % 8 or (cluster[is_first] != np.arange(clusters, found)).any() or (np.diff(index) < 1).any():
                raise DataError(
                    f"{path} is damaged, or is left from another run. Prepare the data again in a new folder"
                )
            if found > kept.shape[1]:
                kept = np.concatenate([kept, np.empty((2, found), dtype=np.uint32)], axis=1)
            kept[0, clusters:found] = of_rank
            kept[1, clusters:found] = index[is_first]
            clusters = found
            gone = np.empty(len(index) - int(is_first.sum()), dtype=_REMOVED)
            gone["index"] = index[~is_first]
            gone["kept_rank"], gone["kept_index"] = kept[:, cluster[~is_first]]
            stories += len(index)
            removed += len(gone)
            if len(gone):
                content = gone.tobytes()
                with atomic_write(target / f"{of_rank:05d}.removed") as file:
                    file.write(content)
                ranks[str(of_rank)] = [len(gone), zlib.crc32(content)]
        summary = {
            "format": _REMOVED_FORMAT,
            "clusters": clusters,
            "stories": stories,
            "removed": removed,
            "ranks": ranks,
        }
        write_text_atomically(target / _SUMMARY, json.dumps(summary) + "\n")


def _summary(folder: str | Path) -> dict[str, Any]:
    path = Path(folder, "removed", _SUMMARY)
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"near copies were not looked for in {folder}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: it is not JSON. Prepare the data again") from error
    if not isinstance(summary, dict) or summary.get("format") != _REMOVED_FORMAT:
        raise DataError(f"{path} is not of the format {_REMOVED_FORMAT}. Prepare the data again")
    return summary


def read_near_copies(folder: str | Path) -> NearCopies:
    """What `KeepFirst` found.

    Raises:
        DataError: it has not come to its end, or its file is damaged.
    """
    summary = _summary(folder)
    counts = {name: summary.get(name) for name in ("clusters", "stories", "removed")}
    if not all(isinstance(count, int) and count >= 0 for count in counts.values()):
        raise DataError(f"{Path(folder, 'removed', _SUMMARY)} is damaged: it lacks counts. Prepare the data again")
    return NearCopies(**counts)  # type: ignore[arg-type]


def read_copies(folder: str | Path, rank: int) -> NDArray[Any]:
    """A task's stories to be left out and what they are near copies of.

    Returns:
        Records of `index`, rising, `kept_rank` and `kept_index`, uint32 each.

    Raises:
        DataError: near copies have not been looked for, or a file is damaged.
    """
    entry = _summary(folder).get("ranks", {}).get(str(rank))
    if entry is None:
        return np.empty(0, dtype=_REMOVED)
    path = Path(folder, "removed", f"{rank:05d}.removed")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}. Prepare the data again") from error
    if entry != [len(content) // _REMOVED.itemsize, zlib.crc32(content)] or len(content) % _REMOVED.itemsize:
        raise DataError(f"{path} is damaged: its checksum is wrong. Prepare the data again")
    return np.frombuffer(content, dtype=_REMOVED)


def read_removed(folder: str | Path, rank: int) -> NDArray[np.int64]:
    """Indices of a task's stories to be left out, rising, [removed stories] int64.

    Raises:
        DataError: near copies have not been looked for, or a file is damaged.
    """
    return read_copies(folder, rank)["index"].astype(np.int64)


_INDEX_MAGIC = b"STNGRAMS"
_INDEX_FORMAT = 1
_INDEX_HEADER = struct.Struct("<8sIIQI")
"""Magic, format, words in a gram, grams, CRC-32 of the grams; the CRC-32 of all this follows."""

MOST_GRAMS = 1 << 30
"""Different grams that an index may hold; each takes 16 bytes of memory."""


class NgramIndex:
    """The grams of held-out stories, in which a story for training is looked up.

    A held-out text of fewer than n words is found in texts of the same words only, not inside longer ones.

    Attributes:
        n: words in a gram.
        known: [G] uint64, rising, the different grams of the held-out texts.
    """

    def __init__(self, known: Hashes, n: int) -> None:
        self.n = n
        self.known = known
        bits = max(1, len(known).bit_length() - 1)
        self._shift = np.uint64(64 - bits)
        bounds = np.arange(1 << bits, dtype=np.uint64) << self._shift
        self._first = np.append(np.searchsorted(known, bounds), len(known)).astype(np.int64)

    @classmethod
    def build(cls, texts: Iterable[str], n: int = PASSAGE_WORDS) -> Self:
        """An index of all grams of these texts.

        Raises:
            ConfigError: n is less than 1.
            DataError: there are more than `MOST_GRAMS` different grams.
        """
        known = np.empty(0, dtype=np.uint64)
        new: list[Hashes] = []
        size = 0
        for gram_G, _ in _grams(texts, n):
            new.append(np.unique(gram_G))
            size += len(new[-1])
            if size > max(len(known), 2 * _BATCH_CHARACTERS):
                known, new, size = np.unique(np.concatenate([known, *new])), [], 0
                _check_size(len(known))
        known = np.unique(np.concatenate([known, *new]))
        _check_size(len(known))
        return cls(known, n)

    def __len__(self) -> int:
        """Different grams."""
        return len(self.known)

    def matches(self, texts: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many grams of each text are in the index, and how many it has, [S] int64 each; repeated ones count."""
        found: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        grams: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        for gram_G, grams_S in _grams(texts, self.n):
            found_S = np.empty_like(grams_S)
            _count_known(gram_G, grams_S, self.known, self._first, self._shift, found_S)
            found.append(found_S)
            grams.append(grams_S)
        return np.concatenate(found), np.concatenate(grams)

    def share(self, text: str) -> float:
        """Share of the text's grams that are in the index, 0 for a text without words."""
        (found,), (grams,) = self.matches([text])
        return float(found / grams) if grams else 0.0

    def contaminating(
        self, texts: Iterable[str], *, share: float = CONTAMINATED_SHARE, grams: int = CONTAMINATED_GRAMS
    ) -> NDArray[np.bool_]:
        """Which texts have grams of held-out texts: any at all, and at least this share of their own or this many.

        With share=0 a single gram is enough.
        """
        found_S, grams_S = self.matches(texts)
        return (found_S > 0) & ((found_S >= share * grams_S) | (found_S >= grams))

    def contaminates(self, text: str, *, share: float = CONTAMINATED_SHARE, grams: int = CONTAMINATED_GRAMS) -> bool:
        """The same for one text."""
        return bool(self.contaminating([text], share=share, grams=grams)[0])

    def save(self, path: str | Path) -> None:
        """Write the index, which `load` reads.

        Raises:
            FileWriteError: the operating system refused.
        """
        content = np.ascontiguousarray(self.known, dtype="<u8").data.cast("B")
        header = _INDEX_HEADER.pack(_INDEX_MAGIC, _INDEX_FORMAT, self.n, len(self), zlib.crc32(content))
        with atomic_write(path) as file:
            file.write(header + struct.pack("<I", zlib.crc32(header)))
            file.write(content)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """An index from a file, whose checksums are checked.

        Raises:
            DataError: the file cannot be read, or is not a sound index.
        """
        size = _INDEX_HEADER.size + 4
        try:
            with open(path, "rb") as file:
                header = file.read(size)
                if len(header) < size or not header.startswith(_INDEX_MAGIC):
                    raise DataError(f"{path} is not an index of word sequences. Prepare the data again")
                _, version, n, grams, checksum = _INDEX_HEADER.unpack_from(header)
                if version != _INDEX_FORMAT:
                    raise DataError(
                        f"{path} has the format {version} of an index of word sequences, this program reads "
                        f"{_INDEX_FORMAT}. Prepare the data again"
                    )
                if (
                    struct.unpack_from("<I", header, _INDEX_HEADER.size)[0] != zlib.crc32(header[: _INDEX_HEADER.size])
                    or n < 1
                    or os.fstat(file.fileno()).st_size != size + 8 * grams
                ):
                    raise DataError(f"the index {path} is damaged: its header or size is wrong. Prepare the data again")
                _check_size(grams)
                known = np.fromfile(file, dtype="<u8", count=grams)
        except OSError as error:
            raise DataError(f"cannot read the index {path}: {error.strerror or error}") from error
        if len(known) != grams or zlib.crc32(known.data.cast("B")) != checksum:
            raise DataError(f"the index {path} is damaged: its checksum is wrong. Prepare the data again")
        return cls(known.astype(np.uint64, copy=False), n)


def _check_size(grams: int) -> None:
    if grams > MOST_GRAMS:
        raise DataError(
            f"the held-out stories have more than {MOST_GRAMS:,} different word sequences: hold out fewer stories"
        )
