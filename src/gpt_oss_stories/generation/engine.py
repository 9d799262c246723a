"""Telling stories: one class that turns prompts into stories with a network and its vocabulary.

`Storyteller` serves the command line, the Python API and the interactive mode. Each story is a `_Row`: its prompt, what
has been written so far, and the rules by which it ends. A `_RunningBatch` moves several rows forward together, one
token a step, over one key-value cache; a row that ends leaves the batch at once, and the others do not notice.

The network is anything with `config`, `new_cache` and `next_logits` as `model.transformer.StoryTransformer` has them,
so the tests tell scripted stories without weights.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ..config import GenerationConfig, ModelConfig
from ..device import choose_device
from ..errors import StoryError
from ..model.model_file import load_model_file
from ..tokenization import StoryRequest, StreamDecoder, Vocabulary, render_prompt, stop_tokens, story_prompt
from .sampling import Sampler, fresh_seed, story_seed
from .stopping import FinishReason, StopStrings

DEFAULT_PROMPT = "Once upon a time"

Prompt = str | StoryRequest | Sequence[int]
"""How a story begins: its first words, a request, or tokens."""


class GenerationError(StoryError):
    """No story can be told from what was given."""


class Cache(Protocol):
    """What the engine asks of a key-value cache."""

    def select(self, rows: Tensor) -> None: ...


class Network(Protocol):
    """What the engine asks of a model; see `model.transformer.StoryTransformer` for shapes."""

    config: ModelConfig
    training: bool

    def train(self, mode: bool = True) -> Any: ...

    def parameters(self) -> Iterator[Any]: ...

    def new_cache(self, batch_size: int, max_length: int) -> Any: ...

    def next_logits(self, tokens: Tensor, cache: Any, counts: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Story:
    """A story that was told, and how."""

    prompt: str
    """The words that the story was to begin with; empty for a request."""
    continuation: str
    """What the model wrote."""
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    """The tokens that the model chose, the stop token included."""
    finish_reason: FinishReason
    note: str | None
    """What a listener should know about the end, such as a full context."""
    seconds: float
    """From the start of its batch to its last token."""
    seed: int
    """Given as the seed of a single story, with the same prompt and settings, it tells this story again."""

    @property
    def text(self) -> str:
        """The whole story: the words of the prompt and what the model wrote."""
        return self.prompt + self.continuation

    @property
    def token_count(self) -> int:
        """Tokens that the model chose."""
        return len(self.tokens)

    @property
    def tokens_per_second(self) -> float:
        """Speed of this story; stories told together each count their own tokens only."""
        return len(self.tokens) / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """What the command line writes as JSON; `schema` is raised when a field changes its meaning."""
        return {
            "schema": 1,
            "prompt": self.prompt,
            "text": self.text,
            "continuation": self.continuation,
            "finish_reason": self.finish_reason,
            "note": self.note,
            "prompt_token_count": len(self.prompt_tokens),
            "token_count": self.token_count,
            "seconds": round(self.seconds, 6),
            "tokens_per_second": round(self.tokens_per_second, 3),
            "seed": self.seed,
        }


class _Row:
    """One story in the making."""

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        limit: int,
        note_at_limit: str | None = None,
        seed: int = 0,
        vocabulary: Vocabulary | None = None,
        ends: frozenset[int] = frozenset(),
        stop: Sequence[str] = (),
    ) -> None:
        self.prompt, self.limit, self.seed = tuple(prompt), limit, seed
        self._note_at_limit, self._ends = note_at_limit, ends
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._stop_strings = StopStrings(stop)
        self._decoder = StreamDecoder(vocabulary) if vocabulary is not None else None
        self._pieces: list[str] = []
        self._started = self._seconds = 0.0
        self.lead_in = ""
        if vocabulary is not None and self._decoder is not None:
            # The story itself begins after the last special token; what comes before is the frame of a conversation.
            begin = max(
                (place + 1 for place, token in enumerate(prompt) if not vocabulary.token_bytes(token)), default=0
            )
            # Through the same decoder: a prompt of tokens may end in the middle of a character.
            self.lead_in = "".join(self._decoder.push(token) for token in prompt[begin:])

    def start_clock(self) -> None:
        """From here on the story is being told."""
        self._started = time.perf_counter()

    def push(self, token: int) -> str:
        """Take the next token; give the text that is now certain."""
        self.tokens.append(token)
        piece = ""
        if token in self._ends:
            self.finish_reason = "end"
        elif self._decoder is not None:
            piece = self._stop_strings.push(self._decoder.push(token))
        if self._stop_strings.found is not None:
            self.finish_reason = "stop"
        elif self.finish_reason is None and len(self.tokens) >= self.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None:
            piece += self._flush()
        self._pieces.append(piece)
        return piece

    def cancel(self) -> str:
        """End the story here, unless it has ended; give the text that was held back."""
        if self.finish_reason is not None:
            return ""
        self.finish_reason = "cancelled"
        piece = self._flush()
        self._pieces.append(piece)
        return piece

    def _flush(self) -> str:
        self._seconds = time.perf_counter() - self._started if self._started else 0.0
        piece = ""
        if self._decoder is not None and self._stop_strings.found is None:
            piece = self._stop_strings.push(self._decoder.finish())
        return piece + self._stop_strings.finish()

    def story(self) -> Story:
        """The finished story."""
        assert self.finish_reason is not None
        return Story(
            prompt=self.lead_in,
            continuation="".join(self._pieces),
            prompt_tokens=self.prompt,
            tokens=tuple(self.tokens),
            finish_reason=self.finish_reason,
            note=self._note_at_limit if self.finish_reason == "length" else None,
            seconds=self._seconds,
            seed=self.seed,
        )


class _RunningBatch:
    """Rows that move forward together, one token a step."""

    def __init__(self, network: Network, rows: Sequence[_Row], config: GenerationConfig) -> None:
        self._network = network
        self.rows = list(rows)
        self._device = next(network.parameters()).device
        self._sampler = Sampler(
            config, [row.seed for row in rows], [row.prompt for row in rows], network.config.vocab_size, self._device
        )
        self._cache: Any = None
        self._next: list[int] = []

    @torch.inference_mode()
    def step(self) -> list[tuple[_Row, str]]:
        """Choose one more token for every row; give each row with its new text. Rows that ended leave the batch."""
        if self._cache is None:
            for row in self.rows:
                row.start_clock()
        with _evaluating(self._network):
            logits = self._prefill() if self._cache is None else self._decode()
        chosen = self._sampler.choose(logits).tolist()
        news = [(row, row.push(token)) for row, token in zip(self.rows, chosen, strict=True)]
        going = [place for place, row in enumerate(self.rows) if row.finish_reason is None]
        self._next = [chosen[place] for place in going]
        if 0 < len(going) < len(self.rows):
            self._cache.select(torch.tensor(going, device=self._device))
            self._sampler.select(going)
        self.rows = [self.rows[place] for place in going]
        return news

    def _prefill(self) -> Tensor:
        """Read the prompts, each distinct one once; (rows, V) logits of what follows them."""
        distinct: dict[tuple[int, ...], int] = {}
        for row in self.rows:
            distinct.setdefault(row.prompt, len(distinct))
        lengths = [len(prompt) for prompt in distinct]
        tokens = torch.zeros(len(distinct), max(lengths), dtype=torch.int64)
        for place, prompt in enumerate(distinct):
            tokens[place, : len(prompt)] = torch.tensor(prompt)
        counts = torch.tensor(lengths) if min(lengths) < max(lengths) else None
        room = max(len(row.prompt) + row.limit for row in self.rows)
        self._cache = self._network.new_cache(len(distinct), room)
        logits = self._network.next_logits(
            tokens.to(self._device), self._cache, None if counts is None else counts.to(self._device)
        )
        origin = [distinct[row.prompt] for row in self.rows]
        if origin != list(range(len(distinct))):
            rows = torch.tensor(origin, device=self._device)
            self._cache.select(rows)
            logits = logits.index_select(0, rows)
        return logits

    def _decode(self) -> Tensor:
        """Read each row's last token; (rows, V) logits of what follows it."""
        tokens = torch.tensor(self._next, device=self._device)[:, None]
        return self._network.next_logits(tokens, self._cache)


@contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    """Evaluation mode for a step; a network that is being trained gets its training mode back."""
    if not network.training:
        yield
        return
    network.train(False)
    try:
        yield
    finally:
        network.train(True)


class StoryStream(Iterator[str]):
    """The pieces of a story as they are made, in whole characters; they add up to `story.continuation`."""

    def __init__(self, row: _Row, batch: _RunningBatch) -> None:
        self._row, self._batch = row, batch
        self.prompt = row.lead_in
        """The words that the story begins with, which the pieces do not repeat."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        while self._row.finish_reason is None:
            _, piece = self._batch.step()[0]
            if piece:
                return piece
        raise StopIteration

    def cancel(self) -> str:
        """Make no more of this story; give the characters that were still held back."""
        return self._row.cancel()

    @property
    def story(self) -> Story:
        """The story.

        Raises:
            GenerationError: it has neither ended nor been cancelled.
        """
        if self._row.finish_reason is None:
            raise GenerationError("the story is still being told: read the stream to its end, or cancel it")
        return self._row.story()


class Storyteller:
    """Tells stories with one network.

    Args:
        network: the model; it is used where it is, on its device, and not changed.
        vocabulary: the meaning of its tokens. Without one only `generate_tokens` works.
        max_rows: stories told at the same time; `tell` takes more in turns.
    """

    def __init__(self, network: Network, vocabulary: Vocabulary | None, *, max_rows: int = 32) -> None:
        if vocabulary is not None and vocabulary.size > network.config.vocab_size:
            raise GenerationError(
                f"the vocabulary has {vocabulary.size:,} tokens, but the network knows {network.config.vocab_size:,}: "
                "they do not belong together"
            )
        self.network, self.vocabulary, self.max_rows = network, vocabulary, max_rows

    @classmethod
    def open(cls, path: str | Path, device: str = "auto") -> Storyteller:
        """Load a model that training saved.

        Args:
            path: the model's file, such as checkpoints/best_model.pt.
            device: auto, cpu, cuda, cuda:N or mps.

        Raises:
            ModelFileError: there is no sound model at `path`.
            DeviceError: the device is not there.
        """
        where = choose_device(device)
        file = load_model_file(path)
        return cls(file.build().to(where).eval(), file.vocabulary)

    def tell(
        self,
        prompts: str | StoryRequest | Sequence[Prompt],
        config: GenerationConfig | None = None,
        *,
        stop: Sequence[str] = (),
    ) -> list[Story]:
        """Tell `config.num_samples` stories from each prompt.

        A story depends on its prompt, the settings and its seed only: told alone, among samples or in a batch of other
        prompts it is the same.

        Args:
            prompts: one prompt, or a list of them, of unequal lengths if need be. Tokens of a prompt are a list within
                that list.
            config: the settings; GenerationConfig's defaults when not given.
            stop: texts at which a story ends; they are not part of it.

        Returns:
            The stories, in the order of the prompts, all samples of one prompt together.

        Raises:
            GenerationError: a prompt does not fit into the model's context, or cannot be read.
            SamplingError: the network's logits are not finite.
        """
        config = config or GenerationConfig()
        if isinstance(prompts, str | StoryRequest):
            prompts = [prompts]
        seed = fresh_seed() if config.seed is None else config.seed
        rows = [
            self._row(tokens, config, story_seed(seed, sample), stop)
            for tokens in [self.encode_prompt(prompt) for prompt in prompts]
            for sample in range(config.num_samples)
        ]
        stories: list[Story] = []
        for begin in range(0, len(rows), self.max_rows):
            group = rows[begin : begin + self.max_rows]
            batch = _RunningBatch(self.network, group, config)
            while batch.rows:
                batch.step()
            stories += [row.story() for row in group]
        return stories

    def stream(
        self, prompt: Prompt, config: GenerationConfig | None = None, *, stop: Sequence[str] = ()
    ) -> StoryStream:
        """Tell one story piece by piece (`config.num_samples` does not count); see `tell` for arguments and errors.

        The prompt is checked at once; the network works while the stream is read.
        """
        config = config or GenerationConfig()
        seed = fresh_seed() if config.seed is None else config.seed
        row = self._row(self.encode_prompt(prompt), config, seed, stop)
        return StoryStream(row, _RunningBatch(self.network, [row], config))

    def generate_tokens(self, prompt_ids: Sequence[int], max_new_tokens: int, temperature: float = 0.0) -> list[int]:
        """Tokens of the prompt and its continuation.

        Where there is a vocabulary, the continuation ends with the first stop token; otherwise it has exactly
        `max_new_tokens` tokens. With a temperature above 0 each call draws anew.

        Raises:
            GenerationError: prompt and continuation together do not fit into the model's context.
        """
        prompt = self._check_tokens(prompt_ids)
        if max_new_tokens < 1:
            raise GenerationError(f"max_new_tokens={max_new_tokens}: at least 1 is needed")
        context = self.network.config.block_size
        if len(prompt) + max_new_tokens > context:
            raise GenerationError(
                f"{len(prompt)} prompt tokens and {max_new_tokens} new ones are more than the {context} that the model "
                "reads (its block_size): shorten the prompt or ask for fewer"
            )
        row = _Row(prompt, limit=max_new_tokens, seed=fresh_seed(), ends=self._ends())
        batch = _RunningBatch(self.network, [row], GenerationConfig(max_tokens=max_new_tokens, temperature=temperature))
        while batch.rows:
            batch.step()
        return [*prompt, *row.tokens]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The tokens that stand before a story.

        A text becomes the start token and its tokens. Blanks at its end are left out: words carry the blank before
        them, and a model has hardly ever seen a blank of its own before a word.

        Raises:
            TokenizationError: the text cannot be encoded.
            GenerationError: the tokens are not the network's, or there is no vocabulary for a text.
        """
        if not isinstance(prompt, str | StoryRequest):
            return self._check_tokens(prompt)
        if self.vocabulary is None:
            raise GenerationError("this model came without a vocabulary: give the prompt as tokens to generate_tokens")
        if isinstance(prompt, StoryRequest):
            return render_prompt(self.vocabulary, prompt)
        return story_prompt(self.vocabulary, prompt.rstrip(" "))

    def _check_tokens(self, tokens: Sequence[int]) -> list[int]:
        size = self.network.config.vocab_size
        if not len(tokens):
            raise GenerationError("the prompt has no tokens: at least a start token is needed")
        checked = []
        for token in tokens:
            try:
                number = operator.index(token)  # whole numbers of any library
            except TypeError:
                number = -1
            if not 0 <= number < size:
                raise GenerationError(
                    f"the prompt has the token {token!r}, but tokens are whole numbers from 0 to {size - 1}"
                )
            checked.append(number)
        return checked

    def _ends(self) -> frozenset[int]:
        return stop_tokens(self.vocabulary) if self.vocabulary is not None else frozenset()

    def _row(self, prompt: list[int], config: GenerationConfig, seed: int, stop: Sequence[str]) -> _Row:
        if self.vocabulary is None:
            raise GenerationError(
                "this model came without a vocabulary, so its tokens have no text: use generate_tokens"
            )
        context = self.network.config.block_size
        room = context - len(prompt)
        if room < 1:
            raise GenerationError(
                f"the prompt has {len(prompt)} tokens, but the model's context holds {context}, story included: "
                f"shorten the prompt by {1 - room} tokens or more"
            )
        note = f"the model's context of {context} tokens is full" if room < config.max_tokens else None
        return _Row(
            prompt, limit=min(config.max_tokens, room), note_at_limit=note, seed=seed, vocabulary=self.vocabulary,
            ends=self._ends(), stop=stop,
        )  # fmt: skip
