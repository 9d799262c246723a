"""How long from the command to the first token, in a fresh process, against `transformers` on the same model?

    python benchmarks/startup.py --size nano
    python benchmarks/startup.py --model checkpoints/best_model.pt

Every repetition starts new processes: one that imports the package (the seconds are those of the import alone, and
torch must not have come with it), `stories --help`, `stories generate --max-tokens 1`, and a short program that opens
the exported model with `transformers` and generates one token from the same prompt. The files are in the system's
cache, since each process ran once before; the bytecode is compiled.

`ratio` is the time of `transformers` over that of `stories generate`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import click
from house import (
    BenchmarkError,
    Conditions,
    Contender,
    Workload,
    apart,
    compare,
    conditions_options,
    given_conditions,
    model_options,
    ratio,
    report,
    require,
    start,
    write_model,
)

FIGURE = "seconds"
PROMPT = "Once upon a time"

IMPORT = """
import sys, time
began = time.perf_counter()
import gpt_oss_stories
print(time.perf_counter() - began, "torch" in sys.modules)
"""
COMMAND = "import sys; from gpt_oss_stories.cli import main; sys.exit(main())"
"""What the installed script `stories` does."""
TRANSFORMERS = f"""
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
given = tokenizer({PROMPT!r}, return_tensors="pt")
with torch.inference_mode():
    told = model.generate(given.input_ids, attention_mask=given.attention_mask, max_new_tokens=1, do_sample=False)
print(tokenizer.decode(told[0]))
"""


def fresh(words: list[str]) -> tuple[float, str, int | None]:
    """Seconds, output and peak memory of a fresh process.

    Raises:
        BenchmarkError: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    seconds = time.perf_counter() - began
    if process.returncode:
        last = err.strip().splitlines()[-1:] or ["it said nothing"]
        raise BenchmarkError(f"a fresh process ended with code {process.returncode}: {last[0]}")
    return seconds, out, children_peak_bytes()


def children_peak_bytes() -> int | None:
    """Most memory that any process had which this one started; this one is small, so it hides none of them."""
    if os.name != "posix":
        return None
    import resource

    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return int(largest) if sys.platform == "darwin" else int(largest) * 1024


def command(options: dict[str, Any]) -> Workload:
    """A program that is run to its end."""
    facts: dict[str, Any] = {}

    def measure() -> dict[str, float]:
        seconds, _, facts["process_peak_memory_bytes"] = fresh(options["words"])
        return {FIGURE: seconds}

    return Workload(measure, facts=facts)


def importing(options: dict[str, Any]) -> Workload:
    """The import of the package alone."""

    def measure() -> dict[str, float]:
        _, out, _ = fresh(["-c", IMPORT])
        seconds, torch_came = out.split()
        if torch_came != "False":
            raise BenchmarkError("`import gpt_oss_stories` imports torch")
        return {FIGURE: float(seconds)}

    return Workload(measure)


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--model", type=click.Path(), help="A model of any format.  [default: random weights]")
@model_options
@conditions_options
def main(model: str | None, size: str, vocabulary: str) -> None:
    conditions: Conditions = given_conditions()
    require(("transformers",))
    with tempfile.TemporaryDirectory() as folder:
        wanted = {"folder": folder, "model": model, "size": size, "vocabulary": vocabulary, "length": 0}
        written = apart(write_model, wanted, conditions)
        telling = ["generate", "--model-path", written["ours"], "--prompt", PROMPT]
        telling += ["--max-tokens", "1", "--temperature", "0"]
        outcomes = compare(
            [
                Contender("import gpt_oss_stories", importing),
                Contender("stories --help", command, {"words": ["-c", COMMAND, "--help"]}),
                Contender("stories generate", command, {"words": ["-c", COMMAND, *telling]}),
                Contender(
                    "transformers", command, {"words": ["-c", TRANSFORMERS, written["transformers"]]}, ("transformers",)
                ),
            ],
            conditions,
        )
    for outcome in outcomes:  # its own process only waits for the one that counts
        outcome.peak_memory_bytes = outcome.facts.pop("process_peak_memory_bytes", None)
    by_name = {outcome.name: outcome for outcome in outcomes}
    telling_outcome, peer = by_name["stories generate"], by_name["transformers"]
    result = ratio(telling_outcome, peer, FIGURE)
    report(
        "startup",
        outcomes,
        conditions,
        ratio=result.median,
        ratio_spread=result.to_list(),
        import_seconds=by_name["import gpt_oss_stories"].median(FIGURE),
        imports_torch=False,
        help_seconds=by_name["stories --help"].median(FIGURE),
        generate_seconds=telling_outcome.median(FIGURE),
        settings={
            "model": "random weights" if model is None else "given",
            **({"size": size} if model is None else {}),
            "vocabulary": written["vocab_size"],
            "parameters": written["parameters"],
        },
    )


if __name__ == "__main__":
    start(main)
