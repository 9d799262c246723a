"""Does llama.cpp tell the same stories from our GGUF files as this program, and how fast?

    python benchmarks/llama_cpp.py --model checkpoints/best_model.pt --write docs/llama-cpp.md

Needs the packages `gguf` and `llama-cpp-python`; the latter builds llama.cpp from source (`pip install
llama-cpp-python`, with cmake and a C++ compiler at hand), which takes seven minutes on two idle cores: for that reason
this is no test. If it dies of an illegal instruction, see the report on how to build it.

The model is exported as F32, F16, Q8_0 and Q4_0. From each of a dozen prompts both programs tell the greedy story, and
the continuations are compared token for token. llama.cpp keeps keys and values in 16-bit floats unless it is told
otherwise; here it is told to keep them in 32, so that with F32 weights both do the same arithmetic, but for the order
of sums. The tokenizer in the file, and that in a file with the whole harmony vocabulary, are compared with ours on the
built-in stories and on texts that were made to be difficult. Speed is tokens per second of one story, the reading of
its short prompt included, all contenders in turns.

Prints the report in Markdown and, last, one JSON object: `stories_identical` of `stories` with F32 weights,
`texts_identical` of `texts`, and `ratio`, the speed of llama.cpp with F32 weights over ours. `--random` takes random
weights, and the vocabulary of some built-in stories, instead of a model.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from gpt_oss_stories import __version__
from gpt_oss_stories.config import MODEL_SIZES, ModelConfig
from gpt_oss_stories.data.originals import original_stories
from gpt_oss_stories.data.storybook import write_stories
from gpt_oss_stories.errors import StoryError
from gpt_oss_stories.files import write_text_atomically
from gpt_oss_stories.generation.engine import Storyteller
from gpt_oss_stories.interop.gguf_file import write_gguf
from gpt_oss_stories.model.model_file import load_model_file
from gpt_oss_stories.model.quantized import quantize_for_decoding
from gpt_oss_stories.model.transformer import StoryTransformer
from gpt_oss_stories.tokenization import (
    Vocabulary,
    build_story_vocabulary,
    count_tokens,
    harmony_vocabulary,
    stop_tokens,
    story_prompt,
)
from gpt_oss_stories.tokenization.vocabulary import HARMONY_SPECIALS

TYPES = ("F32", "F16", "Q8_0", "Q4_0")

PROMPTS = (
    "Once upon a time",
    "Once upon a time in a magical forest",
    "One day, a little fox named Pip",
    "Mia had a red ball.",
    "The old lighthouse keeper",
    "On a rainy morning, Tom and his sister",
    '"Who took my honey?" asked the bear.',
    "There was once a small dragon who could not",
    "It was the first day of school, and Lily",
    "Deep under the sea lived",
    "Grandma's garden was full of",
    "The moon looked down at the sleepy village and",
)

HARD_TEXTS = (
    "I'm, you're, we've, she'll, he'd, it's, don't; I'M, YOU'RE, WE'VE, SHE'LL, HE'D, IT'S, DON'T, I'Ll",
    "o'clock, 'tis, rock'n'roll, the girls' hats, Mia’s ‘quoted’ “words” – and — dashes…",
    "7 77 777 7777 77777 3.14 1,234,567 10:30 a.m. 50% No. 5! 1st 2nd x2 H2O ½ ² ٣",
    "a\nb\n\nc\n\n\nd\r\ne\r\n\r\nf\n  g\n\th\n",
    "   leading and trailing   ",
    "two  three   four    spaces\tand\t\ttabs \n \n mixed",
    "Wait... what?! No-o-o!!! (really) [yes] {maybe} <b>bold</b> a/b c\\d e_f #1 @home & more/\n/\n",
    "café naïve Zoë École Ñandú straße Łódź İstanbul ǅungla ÄRGER ärger Ärger",
    "MixedCase camelCase HTMLPage ABCdef iPhone McDonald aB Ab AB ab",
    "Однажды жила лиса. Μια φορά κι έναν καιρό. יום אחד. مرة واحدة. एक बार की बात है। กาลครั้งหนึ่ง",
    "从前有一只乌龟。昔々、おじいさん 옛날 옛적에",
    "🐢🐇 👨‍👩‍👧 ❤️ 🇫🇷 emoji🙂inside words",
    "e\u0301 combining, \u200bzero width, \u00a0no-break, \u2003em space, \u2028line separator, \u0085next line",
    "<|endoftext|> and <|return|> and <|call|> and <|startoftext|> are ordinary text here",
    "",
)
"""Texts on which tokenizers tend to differ. The four names of control tokens in one of them stay text in both programs;
for the other five see `control_names`."""

REMARKS = """
## What is not the same

- A model with YaRN (`rope_scaling_factor` above 1): llama.cpp rounds the two cut-offs to whole dimensions, this program
  and OpenAI's reference do not. It tells other stories there; the export says so in a line.
- Flash attention on a CPU (`flash_attn=True`, `-fa on`): logits differ by thousandths, also with keys and values of 32
  bits.
- The modules of multi-token prediction have no place in a GGUF file.
- A conversation in `llama-server` begins with the start token, as every prompt there; here, in training and in
  `llama-cpp-python`, only plain stories do.

## Building llama.cpp

`pip install llama-cpp-python` builds it for the CPU at hand. With GCC 12 on a CPU with AMX the result dies of an
illegal instruction in files of Q8_0, Q4_0, Q4_1 and MXFP4: that compiler's `_tile_loadconfig` claims to read 8 of the
64 bytes that it reads, so the others are never written. Without these instructions it works:

    CMAKE_ARGS="-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8" pip install llama-cpp-python

## Ollama

The `Modelfile` that an export writes beside the GGUF file follows Ollama's reference of its Modelfiles, and the keys
and tensors are those that Ollama's own reader of `gpt-oss` asks for. Ollama itself was not run.
"""
"""Ends the report: findings that no figure above shows."""

Generate = Callable[[list[int], int], list[int]]
"""Prompt and number of tokens to the tokens that follow, whether they end the story or not."""


@dataclass
class Contender:
    """One way to tell a story."""

    name: str
    generate: Generate
    file_bytes: int | None = None
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Agreement:
    """How far llama.cpp's stories are ours."""

    identical: int
    places: list[int]
    """Where the others first differ, in tokens."""
    leads: list[float]
    """By how many logits our choice there was ahead of the second."""


def ours(network: StoryTransformer) -> Generate:
    """Our own storyteller."""
    teller = Storyteller(network, None)  # without a vocabulary no token ends a story
    return lambda prompt, count: teller.generate_tokens(prompt, count)[len(prompt) :]


def theirs(llama: Any) -> Generate:
    """llama.cpp's."""

    def generate(prompt: list[int], count: int) -> list[int]:
        llama.reset()  # otherwise it would go on from what the last prompt has in common with this one
        tokens: list[int] = []
        for token in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
            tokens.append(token)
            if len(tokens) == count:
                break
        return tokens

    return generate


def open_llama(path: Path, context: int, threads: int, *, narrow: bool = False, **options: Any) -> Any:
    """The file in llama.cpp, with keys and values in 32-bit floats, or in `narrow` ones of 16 bits."""
    import llama_cpp

    kind = llama_cpp.GGML_TYPE_F16 if narrow else llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(
        str(path),
        n_ctx=context,
        n_threads=threads,
        n_threads_batch=threads,
        type_k=kind,
        type_v=kind,
        verbose=False,
        **options,
    )


def until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """The story: its tokens up to the first that ends it."""
    return tokens[: next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))]


@torch.inference_mode()
def compare(
    network: StoryTransformer, prompts: list[list[int]], stories: list[list[int]], others: list[list[int]]
) -> Agreement:
    """Two programs' stories from the same prompts."""
    agreement = Agreement(sum(map(list.__eq__, stories, others)), [], [])
    for prompt, story, other in zip(prompts, stories, others, strict=True):
        if story != other:
            place = next(i for i in range(len(story)) if story[: i + 1] != other[: i + 1])
            first, second = network.logits(torch.tensor([[*prompt, *story[:place]]]))[0, -1].topk(2).values.tolist()
            agreement.places.append(place)
            agreement.leads.append(first - second)
    return agreement


@torch.inference_mode()
def logit_difference(network: StoryTransformer, path: Path, threads: int, tokens: list[int]) -> tuple[float, float]:
    """Largest difference of any logit along a text, and the deviation of the logits to compare it with."""
    llama = open_llama(path, network.config.block_size, threads, logits_all=True)
    llama.eval(tokens)
    found = torch.from_numpy(llama.scores[: len(tokens)].copy())
    expected = network.logits(torch.tensor([tokens]))[0]
    llama.close()
    return (found - expected).abs().max().item(), expected.std(-1).mean().item()


def tokenized_differently(llama: Any, vocabulary: Vocabulary, texts: list[str]) -> list[str]:
    """The texts that do not become the same tokens in both programs, start token included."""
    return [
        text
        for text in texts
        if llama.tokenize(text.encode(), add_bos=True, special=False) != story_prompt(vocabulary, text)
    ]


def control_names(llama: Any, vocabulary: Vocabulary) -> list[str]:
    """Names of control tokens that llama.cpp makes control tokens of even if asked not to."""
    texts = {f"<|{name}|>": f"a <|{name}|> b" for name in HARMONY_SPECIALS}
    differing = tokenized_differently(llama, vocabulary, list(texts.values()))
    return [f"`{name}`" for name, text in texts.items() if text in differing]


def harmony_file(path: Path) -> Vocabulary:
    """A file of hardly any weights with the whole harmony vocabulary, for its tokenizer."""
    vocabulary = harmony_vocabulary()
    small = {"n_layer": 1, "n_head": 1, "n_kv_head": 1, "n_embd": 8, "head_dim": 8, "block_size": 64}
    network = StoryTransformer(ModelConfig(**small, vocab_size=vocabulary.size))
    weights = dict(network.named_parameters())
    write_gguf(path, network.config, vocabulary, weights, tensor_type="F16", name="harmony", provenance={})
    return vocabulary


def measure(contenders: list[Contender], prompts: list[list[int]], tokens: int, rounds: int) -> None:
    """Time every contender in every round, each time in another order."""
    for contender in contenders:
        contender.generate(prompts[0], tokens)
    for turn in range(rounds):
        first = turn % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            start = time.perf_counter()
            contender.generate(prompts[turn % len(prompts)], tokens)
            contender.seconds.append(time.perf_counter() - start)


def random_model() -> tuple[StoryTransformer, Vocabulary]:
    """A nano model of random weights, its biases and sinks among them."""
    texts = [story.text for story in write_stories(300, 0)]
    vocabulary = build_story_vocabulary(count_tokens(harmony_vocabulary(), texts))
    torch.manual_seed(0)
    network = StoryTransformer(ModelConfig(**MODEL_SIZES["nano"], vocab_size=vocabulary.size))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("bias", "sinks")):
                parameter.normal_(std=0.5)
    return network, vocabulary


def command(context: click.Context) -> str:
    """How the benchmark was called, without the places of files and what is usual anyway."""
    given = [
        option.opts[0] if option.is_flag else f"{option.opts[0]} {context.params[option.name]}"
        for option in context.command.params
        if isinstance(option, click.Option)
        and option.name not in ("model", "target")
        and context.get_parameter_source(str(option.name)) != ParameterSource.DEFAULT
    ]
    return " ".join(["python benchmarks/llama_cpp.py", *given, "--write docs/llama-cpp.md"])


def built_with(llama_cpp: Any) -> str:
    """The features that llama.cpp was built with."""
    parts = llama_cpp.llama_print_system_info().decode().replace("CPU :", "").split("|")
    return " ".join(part.split("=")[0].strip() for part in parts if part.strip().endswith("= 1"))


def paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def listed(head: str, texts: list[str]) -> str:
    return "\n".join([head, "", *(f"    {text!r:.112}" for text in texts[:10])])


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def describe(config: ModelConfig, vocabulary: Vocabulary, is_random: bool) -> str:
    return (
        f"The model: {'random' if is_random else 'trained'} weights, {config.parameters().total:,} parameters, "
        f"{config.n_layer} layers of width {config.n_embd}, {config.num_experts} experts of which "
        f"{config.active_experts} are used, a window of {config.sliding_window} tokens in every other layer, a context "
        f"of {config.block_size}, the {vocabulary.kind} vocabulary of {vocabulary.size:,} tokens."
    )


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--model", type=click.Path(path_type=Path), default=Path("checkpoints/best_model.pt"), show_default=True)
@click.option("--random", "is_random", is_flag=True, help="Random weights instead of a model.")
@click.option("--tokens", default=120, show_default=True, help="Length of a continuation.")
@click.option("--rounds", default=7, show_default=True, help="How often each speed is measured.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("--texts", "text_count", default=400, show_default=True, help="Generated stories for the tokenizers.")
@click.option("--write", "target", type=click.Path(path_type=Path), help="Write the report to this file.")
def main(
    model: Path, is_random: bool, tokens: int, rounds: int, threads: int, text_count: int, target: Path | None
) -> None:
    # Python looks first where this file lies, and would take it for the package of the same name.
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]
    try:
        import llama_cpp
    except ImportError:
        sys.exit("error: this needs llama-cpp-python; pip install llama-cpp-python builds it in several minutes")
    try:
        if is_random:
            network, vocabulary = random_model()
        else:
            file = load_model_file(model)
            network, vocabulary = file.build(), file.vocabulary
    except StoryError as error:
        sys.exit(f"error: {error}")
    torch.set_num_threads(threads)
    config, ends = network.eval().config, stop_tokens(vocabulary)
    prompts = [story_prompt(vocabulary, prompt) for prompt in PROMPTS]
    contenders = [Contender("this program, float32", ours(network))]
    stories = [until_end(contenders[0].generate(prompt, tokens), ends) for prompt in prompts]
    texts = [story.text for story in [*write_stories(text_count, 1), *original_stories()]] + list(HARD_TEXTS)
    agreements: dict[str, Agreement] = {}

    def agreement(generate: Generate) -> Agreement:
        return compare(network, prompts, stories, [until_end(generate(prompt, tokens), ends) for prompt in prompts])

    with tempfile.TemporaryDirectory() as folder:
        for kind in TYPES:
            path = Path(folder) / f"stories-{kind}.gguf"
            weights = dict(network.named_parameters())
            write_gguf(path, config, vocabulary, weights, tensor_type=kind, name="stories", provenance={})
            llama = open_llama(path, config.block_size, threads)
            contenders.append(Contender(f"llama.cpp, {kind}", theirs(llama), path.stat().st_size))
            agreements[kind] = agreement(contenders[-1].generate)
        rounded = copy.deepcopy(network)
        quantize_for_decoding(rounded)
        contenders.append(Contender("this program, int8", ours(rounded)))
        contenders[-1].generate(prompts[0], 2)  # compiles the step
        plain = Path(folder) / f"stories-{TYPES[0]}.gguf"
        narrow = open_llama(plain, config.block_size, threads, narrow=True)
        agreements[f"{TYPES[0]}, keys and values of 16 bits"] = agreement(theirs(narrow))
        difference, deviation = logit_difference(network, plain, threads, [*prompts[0], *stories[0]])
        wrong, names = tokenized_differently(llama, vocabulary, texts), control_names(llama, vocabulary)
        measure(contenders, prompts, tokens, rounds)
        harmony = harmony_file(Path(folder) / "harmony.gguf")
        only_tokens = open_llama(Path(folder) / "harmony.gguf", 64, threads, vocab_only=True)
        wrong_harmony = tokenized_differently(only_tokens, harmony, texts)

    speeds = [tokens / statistics.median(contender.seconds) for contender in contenders]
    same_rows = [
        [
            kind,
            f"{found.identical} of {len(prompts)}",
            f"{statistics.median(found.places):.0f}" if found.places else "-",
            f"{statistics.median(found.leads):.4f}" if found.leads else "-",
        ]
        for kind, found in agreements.items()
    ]
    speed_rows = [
        [
            contender.name,
            "-" if contender.file_bytes is None else f"{contender.file_bytes / 1e6:.1f}",
            f"{speed:.0f}",
            f"{tokens / max(contender.seconds):.0f} to {tokens / min(contender.seconds):.0f}",
            f"{speed / speeds[0]:.2f}",
        ]
        for contender, speed in zip(contenders, speeds, strict=True)
    ]
    report = "\n\n".join(
        [
            "# llama.cpp and our GGUF files",
            paragraph(
                f"""Made by `{command(click.get_current_context())}`: gpt-oss-stories {__version__},
                torch {torch.__version__}, gguf {version("gguf")},
                llama-cpp-python {llama_cpp.__version__} built from source ({built_with(llama_cpp)}); a CPU with
                {os.cpu_count()} cores, {threads} threads."""
            ),
            paragraph(describe(config, vocabulary, is_random)),
            "## The same story",
            paragraph(
                f"""The greedy stories of up to {tokens} tokens from {len(prompts)} prompts, in llama.cpp with keys and
                values of 32 bits (its default is 16). For the stories that differ: the median place of the first other
                token, and by how many logits our choice there was ahead of the second (median)."""
            ),
            table(["weights", "identical, token for token", "first difference", "our lead there"], same_rows),
            paragraph(
                f"""With F32 weights the largest difference of any logit along the first story is {difference:.1g};
                the logits at a place have a deviation of {deviation:.2g}."""
            ),
            "## The same tokens",
            paragraph(
                f"""{len(texts) - len(wrong):,} of {len(texts):,} texts become the same tokens in llama.cpp and here,
                start token included, with the model's vocabulary, and {len(texts) - len(wrong_harmony):,} with all of
                harmony's: {text_count} generated stories, the original stories, and {len(HARD_TEXTS)} texts with
                apostrophes, digits, line ends, blanks, other scripts and emoji."""
            ),
            *([listed("Different with the model's vocabulary:", wrong)] if wrong else []),
            *(
                [
                    listed("Different with harmony's:", wrong_harmony),
                    paragraph(
                        """llama.cpp's pattern for this vocabulary leaves out combining marks, with which Hindi and
                        Thai, for example, write their vowels."""
                    ),
                ]
                if wrong_harmony
                else []
            ),
            paragraph(
                f"""Names of control tokens in a text are ordinary text here. llama.cpp makes control tokens of
                {", ".join(names) or "none"} in files of GPT-OSS, even if it is asked not to parse special tokens."""
            ),
            "## Speed",
            paragraph(
                f"""One story at a time, {tokens} tokens after a prompt of about
                {round(statistics.mean(map(len, prompts)))}; medians of {rounds} rounds, all in turns."""
            ),
            table(["", "file, MB", "tokens/s", "from, to", "ratio to ours"], speed_rows),
            REMARKS.strip(),
        ]
    )
    print(report)
    if target is not None:
        write_text_atomically(target, report + "\n")
    result = {
        "benchmark": "llama_cpp",
        "stories": len(prompts),
        "stories_identical": agreements[TYPES[0]].identical,
        "texts": len(texts),
        "texts_identical": len(texts) - len(wrong),
        "logit_difference": float(f"{difference:.3g}"),
        "ratio": round(speeds[1] / speeds[0], 3),
        "tokens_per_second": {c.name: round(speed, 1) for c, speed in zip(contenders, speeds, strict=True)},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
