"""Choosing the next token from logits.

Every function here takes logits of shape (B, V) in float32, one row for each story, and knows nothing of networks,
caches or text. The functions that change logits are applied in one order, which is also that of `transformers`:

1. `penalize_repetition`   Keskar et al., CTRL, arXiv 1909.05858, section 4.1
2. `scale_temperature`     Ackley, Hinton and Sejnowski, A learning algorithm for Boltzmann machines, 1985
3. `keep_top_k`            Fan, Lewis and Dauphin, arXiv 1805.04833, section 5.3
4. `keep_top_p`            Holtzman et al., The curious case of neural text degeneration, arXiv 1904.09751, section 3.1

The order matters: the nucleus is measured on what the steps before it leave, so `top_p` after `top_k` is a share of
the k likeliest tokens' probability. What is left is drawn by `draw` with one uniform number for each row.

Each row has a random generator of its own. A story therefore depends on its own seed and logits only, never on the rows
beside it. (A network may round its logits differently in another batch size, by a few units in the last place; that
can change a draw only when the uniform number falls into that gap, about once in a million tokens.)
"""

from __future__ import annotations

import hashlib
import math
import random
import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import GenerationConfig
from ..errors import StoryError

_PREFIX = 1024
"""Likeliest tokens among which `keep_top_p` looks first; sorting 201,088 takes longer than a small network's step."""


class SamplingError(StoryError):
    """No token can be chosen from these logits."""


def all_finite(logits: Tensor) -> bool:
    """Whether no logit is NaN or infinite."""
    # A sum is finite only where its terms are, and much sooner made than a table of answers; if they are too large for
    # it, the table decides.
    return math.isfinite(float(logits.sum())) or bool(logits.isfinite().all())


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that already appeared less likely (`penalty` above 1) or likelier (below 1).

    Positive logits of seen tokens are divided by the penalty and negative ones multiplied, so that both move down.

    Args:
        logits: (B, V) float32.
        seen: (B, V) bool, true for the tokens of a row's prompt and story so far.
        penalty: above 0; 1 changes nothing.
    """
    if penalty == 1:
        return logits
    # Within float32's range, however extreme the penalty: infinities would make the probabilities NaN.
    range_ = torch.finfo(torch.float32)
    penalty = min(max(penalty, range_.tiny), range_.max)
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty).clamp(range_.min, range_.max)
    return torch.where(seen, penalized, logits)


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature, which must be above 0, after moving each row's largest logit to 0.

    Moving a row by a constant changes no probability, and keeps the division from overflowing at tiny temperatures.
    """
    return (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, torch.finfo(torch.float32).tiny)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but each row's k largest logits to -inf; among equals at the k-th place the lowest ids stay.

    Args:
        logits: (B, V) float32.
        k: tokens to keep; 0, or V and more, keeps all.
    """
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(k, dim=-1).values[:, -1:]
    return _keep_largest(logits, torch.full_like(smallest_kept, k, dtype=torch.int64), smallest_kept)


def only_top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What `keep_top_k` keeps, without the rest: what follows then works on k numbers instead of V.

    Args:
        logits: (B, V) float32, all finite.
        k: from 1 to V - 1.

    Returns:
        logits (B, k) and their ids, int64, in rising order of ids.
    """
    values, ids = logits.topk(k + 1, dim=-1)
    if bool((values[:, k - 1] == values[:, k]).any()):  # a tie at the edge
        ids = (keep_top_k(logits, k) > -torch.inf).nonzero()[:, 1].view(len(logits), k)
    else:
        ids = ids[:, :k].sort(dim=-1).values
    return logits.gather(-1, ids), ids


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Set all logits outside each row's nucleus to -inf.

    The nucleus is the smallest set of tokens, taken in falling order of probability, whose probabilities add up to at
    least p. It is never empty; among equals at its edge the lowest ids stay.

    Args:
        logits: (B, V) float32.
        p: above 0; 1 and more keeps all.
    """
    if p >= 1:
        return logits
    largest = logits.amax(dim=-1, keepdim=True)
    row_total = largest + (logits - largest).exp().sum(dim=-1, keepdim=True, dtype=torch.float64).log()
    size = logits.shape[-1]
    width = _PREFIX if size > 4 * _PREFIX else size
    while True:
        ordered = logits.topk(width, dim=-1).values
        mass = (ordered.double() - row_total).exp().cumsum(dim=-1)
        if width == size or bool((mass[:, -1] >= p).all()):
            break
        width = min(width * 8, size)  # a flat distribution
    count = 1 + (mass[:, :-1] < p).sum(dim=-1, keepdim=True)
    return _keep_largest(logits, count, ordered.gather(-1, count - 1))


def _keep_largest(logits: Tensor, count: Tensor, smallest_kept: Tensor) -> Tensor:
    """Keep each row's `count` (B, 1) largest logits, the last of them `smallest_kept` (B, 1); ties go to low ids."""
    if bool(((logits >= smallest_kept).sum(dim=-1, keepdim=True) == count).all()):  # no tie to break, as nearly always
        return logits.masked_fill(logits < smallest_kept, -torch.inf)
    above, level = logits > smallest_kept, logits == smallest_kept
    room = count - above.sum(dim=-1, keepdim=True)
    kept = above | (level & (level.cumsum(dim=-1) <= room))
    return logits.masked_fill(~kept, -torch.inf)


def likeliest(logits: Tensor) -> Tensor:
    """(B,) int64: each row's largest logit, the lowest id among equals."""
    # Both promise the first of several maxima; torch takes twenty times as long on a CPU.
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.detach().numpy().argmax(-1))
    return logits.argmax(dim=-1)


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token for each row from softmax(logits), by inverting the cumulative distribution in order of ids.

    Args:
        logits: (B, V) float32, -inf for tokens that cannot be drawn.
        uniforms: (B,) float64 in [0, 1).

    Returns:
        (B,) int64; a token of probability 0 is never drawn.
    """
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Strictly below the total, whatever the rounding: the search then ends on a token that adds something to the sum.
    level = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, level, right=True).squeeze(-1)


def story_seed(seed: int, index: int) -> int:
    """Seed of the story number `index` (from 0) of those told with one seed.

    The first story has the seed itself, the others a number of 48 bits derived from both: each story names a seed that,
    given alone, tells the same story again.
    """
    if index == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"story {index} of seed {seed}".encode()).digest()[:6], "big")


def fresh_seed() -> int:
    """A seed that nobody chose, from the operating system; short enough to type."""
    return secrets.randbits(32)


class Sampler:
    """Chooses tokens for the rows of a running batch and remembers what each row has seen.

    Args:
        config: temperature, top_k, top_p and repetition_penalty, for all rows.
        seeds: one for each row.
        prompts: tokens of each row that count as seen.
        vocab_size: V.
        device: where the logits are.
    """

    def __init__(
        self,
        config: GenerationConfig,
        seeds: Sequence[int],
        prompts: Sequence[Sequence[int]],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.config = config
        # Apple's GPUs have no float64, in which the distribution is summed: choose on the CPU there.
        self._device = torch.device("cpu") if device.type == "mps" else device
        # Python's generator takes seeds of any size (torch's keeps 32 bits) and gives the same numbers on every device.
        self._generators = [random.Random(seed) for seed in seeds]
        self._seen: Tensor | None = None
        if config.repetition_penalty != 1:
            self._seen = torch.zeros(len(seeds), vocab_size, dtype=torch.bool, device=self._device)
            for row, prompt in enumerate(prompts):
                self._seen[row, torch.tensor(list(prompt), dtype=torch.int64, device=self._device)] = True

    def choose(self, logits: Tensor) -> Tensor:
        """The next token of each row: (B,) int64, on the logits' device.

        Args:
            logits: (B, V) float32, as the network gave them.

        Raises:
            SamplingError: a logit is not a finite number.
        """
        device, logits = logits.device, logits.to(self._device)
        if not all_finite(logits):
            raise SamplingError(
                "the network's logits are not finite numbers (NaN or infinity): its weights are damaged or its "
                "training diverged. Use an earlier checkpoint, or train with a lower learning rate."
            )
        config = self.config
        if self._seen is not None:
            logits = penalize_repetition(logits, self._seen, config.repetition_penalty)
        if config.temperature == 0:
            token = likeliest(logits)
        else:
            ids = None
            if 0 < config.top_k < logits.shape[-1]:
                logits, ids = only_top_k(logits, config.top_k)
            logits = keep_top_p(scale_temperature(logits, config.temperature), config.top_p)
            uniforms = torch.tensor([generator.random() for generator in self._generators], dtype=torch.float64)
            token = draw(logits, uniforms.to(self._device))
            if ids is not None:
                token = ids.gather(-1, token[:, None]).squeeze(-1)
        if self._seen is not None:
            self._seen.scatter_(1, token[:, None], True)
        return token.to(device)

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        self._generators = [self._generators[row] for row in rows]
        if self._seen is not None:
            self._seen = self._seen[torch.tensor(list(rows), dtype=torch.int64, device=self._device)]
