"""A vocabulary as the tokenizer files of `transformers`, which opens them with `AutoTokenizer` and no code of ours.

    tokenizer.json           the tokenizer itself, in the format of the package `tokenizers`
    tokenizer_config.json    its special tokens and limits
    chat_template.jinja      how a conversation is written (`chat_template`)
    generation_config.json   which tokens end a story, and how to sample

Text becomes the tokens that `Vocabulary.encode` gives, and a document begins with <|startoftext|> unless
`add_special_tokens=False` is asked for. Unlike with `Vocabulary.encode`, the name of a control token in a text becomes
that token, as is usual there; `split_special_tokens=True` keeps it text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..config import GenerationConfig
from ..errors import StoryError
from ..files import write_text_atomically
from ..tokenization import Vocabulary, stop_tokens
from ..tokenization.story_vocabulary import merge_parts
from ..tokenization.vocabulary import HARMONY_SPECIALS, PIECE_PATTERN
from .chat_template import chat_template
from .tokenizer_vocabulary import TOKENIZER_FILE, byte_spelling

__all__ = ["chat_template", "merge_places", "token_ids", "write_tokenizer_files"]

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"

_STOCK_END = 200_019
"""The tokenizer that was published with GPT-OSS names the ids below this; the rest of its table has no names."""

_ENDOFPROMPT = 200_018
"""There it has the name of an older format; no text of the harmony format uses it."""


def token_ids(vocabulary: Vocabulary) -> dict[str, Any]:
    """`bos_token_id`, `eos_token_id` (every token that ends a story or an answer) and `pad_token_id`."""
    return {
        "bos_token_id": vocabulary.special("startoftext"),
        "eos_token_id": sorted(stop_tokens(vocabulary)),
        "pad_token_id": vocabulary.special("endoftext"),
    }


def write_tokenizer_files(
    directory: Path,
    vocabulary: Vocabulary,
    *,
    block_size: int,
    generation: GenerationConfig | None = None,
    never_told: Sequence[int] = (),
) -> None:
    """Write the files that the module's text lists. The same vocabulary and settings give the same bytes.

    Args:
        directory: where; files of the same names are replaced.
        vocabulary: of either kind. The one of harmony takes some seconds.
        block_size: tokens that the model can attend to.
        generation: how to sample when nothing else is asked for.
        never_told: tokens that are not to be chosen.

    Raises:
        StoryError: the package `tokenizers` is not installed.
        FileWriteError: the files cannot be written.
    """
    files = {
        TOKENIZER_FILE: _tokenizer(vocabulary),
        "tokenizer_config.json": _json(_tokenizer_config(vocabulary, block_size)),
        "chat_template.jinja": chat_template(training_marks=True),
        "generation_config.json": _json(_generation_config(vocabulary, generation or GenerationConfig(), never_told)),
    }
    for name, text in files.items():
        write_text_atomically(directory / name, text)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _control_tokens(vocabulary: Vocabulary) -> dict[int, str]:
    """Names of the ids after the ordinary tokens, ascending; harmony's reserved ones as GPT-OSS was published."""
    names = {vocabulary.special(name): f"<|{name}|>" for name in HARMONY_SPECIALS}
    if vocabulary.kind == "harmony":
        names |= {_ENDOFPROMPT: "<|endofprompt|>"}
        names = {id: f"<|reserved_{id}|>" for id in range(vocabulary.ordinary_size, _STOCK_END)} | names
    return dict(sorted(names.items()))


@lru_cache(maxsize=2)
def merge_places(vocabulary: Vocabulary) -> bytes:
    """Where the two parts of each ordinary token meet, in bytes from its beginning; 0 where it has none.

    One merge for each token is enough: whatever the text around it, the same merge is the last one that builds it (see
    `merge_parts`). For harmony's 199,998 tokens this takes some seconds, so the result is kept.
    """
    found = (merge_parts(vocabulary.token_bytes(id), vocabulary.rank) for id in range(vocabulary.ordinary_size))
    return bytes(len(parts[0]) if parts else 0 for parts in found)


def _tokenizer(vocabulary: Vocabulary) -> str:
    """The content of `tokenizer.json`."""
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    except ImportError as error:
        raise StoryError(
            "writing a tokenizer needs the package tokenizers: install it with pip install 'gpt-oss-stories[interop]'"
        ) from error
    spelling = byte_spelling()
    tokens = [vocabulary.token_bytes(id) for id in range(vocabulary.ordinary_size)]
    spelled = ["".join([spelling[byte] for byte in token]) for token in tokens]
    # Merges come in rank order, like the tokens. A token that no merging builds needs none, since `ignore_merges` takes
    # a piece of text that is a token as it is.
    merges = [(text[:cut], text[cut:]) for text, cut in zip(spelled, merge_places(vocabulary), strict=True) if cut]
    model = models.BPE({text: id for id, text in enumerate(spelled)}, merges, ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = _control_tokens(vocabulary)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in control.values()])
    assert all(tokenizer.token_to_id(name) == id for id, name in control.items())  # it numbers them itself
    begin = vocabulary.special("startoftext")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A", pair=f"{_BEGIN} $A {_BEGIN}:1 $B:1", special_tokens=[(_BEGIN, begin)]
    )
    return str(tokenizer.to_str())


def _tokenizer_config(vocabulary: Vocabulary, block_size: int) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": block_size,
        "bos_token": _BEGIN,
        "eos_token": _END,
        "pad_token": _END,
        "add_bos_token": True,
        "padding_side": "left",  # stories of a batch go on at its right end
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(id): {"content": name, **flags} for id, name in _control_tokens(vocabulary).items()
        },
    }


def _generation_config(
    vocabulary: Vocabulary, generation: GenerationConfig, never_told: Sequence[int]
) -> dict[str, Any]:
    """Our settings under the names of `transformers`, where they mean the same."""
    values = token_ids(vocabulary) | {"max_new_tokens": generation.max_tokens}
    values["repetition_penalty"] = generation.repetition_penalty
    if never_told:
        values["suppress_tokens"] = list(never_told)
    if generation.temperature == 0:
        return values | {"do_sample": False}
    # What is not written would be 50 for top_k.
    sampling = {"temperature": generation.temperature, "top_k": generation.top_k, "top_p": generation.top_p}
    return values | {"do_sample": True} | sampling
