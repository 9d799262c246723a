"""Is the 16-bit or the 32-bit backward kernel of torch's CPU flash attention faster at story lengths?

    python benchmarks/attention_backward.py

Both are given the same bfloat16 problem, in turns; the 32-bit one pays for converting its inputs and its results.
Prints a table and, last, one JSON object whose `ratio` is the 16-bit time over the 32-bit time (more than 1: 32 bits
win), the median over the sizes.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

ROUNDS = 9
SIZES = (
    # batch, query heads, key-value heads, tokens, head width
    (80, 4, 2, 64, 32),
    (20, 4, 2, 256, 32),
    (20, 8, 2, 256, 64),
    (8, 8, 2, 512, 64),
    (2, 8, 2, 2048, 64),
)

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(batch: int, heads: int, kv_heads: int, tokens: int, width: int) -> tuple[float, float]:
    """Median seconds of the backward pass in 16 and in 32 bits."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> Tensor:
        return torch.randn(batch, count, tokens, width, generator=generator).bfloat16()

    q, k, v, grad = draw(heads), draw(kv_heads), draw(kv_heads), draw(heads)
    out, lse = flash(q, k, v, 0.0, True)

    def narrow() -> object:
        return flash_backward(grad, q, k, v, out, lse, 0.0, True)

    def wide() -> object:
        results = flash_backward(*(x.float() for x in (grad, q, k, v, out)), lse, 0.0, True)
        return [x.bfloat16() for x in results]

    narrow(), wide()
    pairs = [(seconds(narrow), seconds(wide)) for _ in range(ROUNDS)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'batch, heads, kv heads, tokens, width':40} {'16 bits':>10} {'32 bits':>10} {'ratio':>6}")
    ratios = []
    for size in SIZES:
        narrow, wide = measure(*size)
        ratios.append(narrow / wide)
        print(f"{size!s:40} {narrow * 1e3:8.2f} ms {wide * 1e3:8.2f} ms {ratios[-1]:6.2f}")
    print(json.dumps({"benchmark": "attention_backward", "ratio": round(statistics.median(ratios), 3)}))


if __name__ == "__main__":
    main()
