"""What `stories generate` does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ..config import GenerationConfig
from ..model.quantized import quantize_for_decoding
from ..model.transformer import StoryTransformer
from .engine import DEFAULT_PROMPT, GenerationError, Storyteller
from .interactive import run_interactive
from .output import is_terminal, print_json_lines, print_stories, show_stream


def run_generate(
    model_path: str | Path,
    prompt: str | None,
    config: GenerationConfig,
    interactive: bool = False,
    as_json: bool = False,
    device: str = "auto",
    in_bytes: bool = False,
    open_storyteller: Callable[[str | Path, str], Storyteller] = Storyteller.open,
) -> int:
    """Tell stories on the command line.

    Stories go to standard output, or lines of JSON with `as_json`; remarks go to standard error, so that a pipe gets
    stories only.

    Args:
        model_path: the model's file.
        prompt: how the stories begin; "Once upon a time" when not given. An interactive session tells it
            first, and nothing when it is not given.
        config: the settings.
        interactive: talk with the keyboard instead.
        as_json: one line of JSON for each story.
        device: auto, cpu, cuda, cuda:N or mps.
        in_bytes: round the large matrices to 8 bits first, see `quantize_for_decoding`.
        open_storyteller: opens the model, given its path and the device; the command line's reads other formats too.

    Returns:
        the exit code: 0, or 130 after Ctrl-C.

    Raises:
        StoryError: of a kind that names the fault: the model, the device, the prompt or the settings.
    """
    if interactive and as_json:
        raise GenerationError("--json is for stories told in one go: leave out --json or --interactive")
    storyteller = open_storyteller(model_path, device)
    if in_bytes:
        network = storyteller.network
        assert isinstance(network, StoryTransformer)
        if (where := network.embedding.weight.device.type) != "cpu":
            raise GenerationError(
                f"--weights int8 is for CPUs, and the model is on {where}: leave it out, or --device cpu"
            )
        quantize_for_decoding(network)
    try:
        return tell_on_streams(storyteller, prompt, config, interactive=interactive, as_json=as_json)
    except KeyboardInterrupt:
        return 130


def tell_on_streams(
    storyteller: Storyteller, prompt: str | None, config: GenerationConfig, *, interactive: bool, as_json: bool
) -> int:
    """`run_generate` once the model is loaded, on the process's standard streams."""
    if interactive:
        return run_interactive(storyteller, config, sys.stdin, sys.stdout, sys.stderr, first=prompt)
    beginning = DEFAULT_PROMPT if prompt is None else prompt
    if as_json:
        print_json_lines(storyteller.tell(beginning, config), sys.stdout)
    elif config.num_samples == 1 and is_terminal(sys.stdout):
        _stream_story(storyteller, beginning, config)
    else:
        print_stories(storyteller.tell(beginning, config), sys.stdout, sys.stderr)
    return 0


def _stream_story(storyteller: Storyteller, beginning: str, config: GenerationConfig) -> None:
    """One story on a terminal appears as it is made; Ctrl-C ends it."""
    show_stream(storyteller.stream(beginning, config), sys.stdout, sys.stderr)
