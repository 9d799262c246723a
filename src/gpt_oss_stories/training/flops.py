"""How many floating-point operations training takes, from the configuration alone, and how many a GPU can do.

The convention is that of model FLOP utilization (PaLM, arXiv 2204.02311, appendix B): the operations that the model's
mathematics needs, whatever a program does to compute it. A multiplication with its addition is two operations, a
backward pass twice the forward pass, and what is computed again to save memory, padded, or masked away does not count.
Only matrix products count; norms, activations, softmax and the optimizer are some per cent beside them.

Unlike in that appendix, attention counts the keys that a causal query sees, not all of the row, and experts count
only where they are chosen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ..config import ModelConfig

_DATA_SHEETS: tuple[tuple[str, float | None, float | None, float | None], ...] = (
    # name                         bfloat16, float16 and float32, in 1e12 operations per second
    (r"\bGB200\b", 2500, 2500, 80),
    (r"\bB200\b", 2250, 2250, 75),
    (r"\bGH200\b|\bH200\b(?! NVL)", 989.4, 989.4, 66.9),
    (r"\bH200 NVL\b|\bH100 NVL\b", 835.5, 835.5, 60),
    (r"\bH100 PCIe\b", 756, 756, 51),
    (r"\bH100\b|\bH800\b", 989.4, 989.4, 66.9),
    (r"\bH20\b", 148, 148, 44),
    (r"\bA100\b|\bA800\b", 312, 312, 19.5),
    (r"\bA30\b", 165, 165, 10.3),
    (r"\bA40\b", 149.7, 149.7, 37.4),
    (r"\bA10\b", 125, 125, 31.2),
    (r"\bL40S\b", 362.05, 362.05, 91.6),
    (r"\bL40\b", 181.05, 181.05, 90.5),
    (r"\bL20\b", 119.5, 119.5, 59.8),
    (r"\bL4\b", 121, 121, 30.3),
    (r"\bRTX A6000\b", 154.8, 154.8, 38.7),
    (r"\bRTX 5090\b(?! (D|Laptop))", 209.5, 209.5, 104.8),
    (r"\bRTX 4090\b(?! (D|Laptop))", 165.2, 165.2, 82.6),
    (r"\bRTX 4080\b(?! (SUPER|Laptop))", 97.5, 97.5, 48.7),
    (r"\bRTX 3090\b(?! Ti)", 71, 71, 35.6),
    (r"\bRTX 3080\b(?! (Ti|Laptop))", 59.5, 59.5, 29.8),
    (r"\bV100S\b", None, 130, 16.4),
    (r"\bV100-PCIE\b", None, 112, 14),
    (r"\bV100\b", None, 125, 15.7),
    (r"\bT4\b", None, 65, 8.1),
    (r"\bMI300X\b|\bMI325X\b", 1307.4, 1307.4, 163.4),
)
"""Patterns of the names that `torch.cuda.get_device_name` gives, the first that fits counts, and the vendors' figures
for dense matrix products without sparsity, in 16 bits with sums in float32."""


def mean_keys_seen(length: int, window: int) -> float:
    """Keys that a query of a causal row sees on average, its own included.

    Args:
        length: tokens in the row, as one document; packed stories see fewer.
        window: keys that a query may see; 0 for all.
    """
    if not window or window >= length:
        return (length + 1) / 2
    # The first `window` queries see 1, 2, ..., window keys, the others window.
    return (window * (window + 1) / 2 + (length - window) * window) / length


def forward_flops_per_token(model: ModelConfig, length: int) -> Mapping[str, float]:
    """Operations of the forward pass of the training loss for one token, by part.

    Args:
        model: the architecture.
        length: tokens in a row.

    Returns:
        attention projections; attention, scores and weighted sums; router; experts; multi-token projections;
        unembedding. The embedding is a look-up.
    """
    width, inner = model.n_embd, model.expert_width
    query, key_value = model.n_head * model.head_dim, model.kv_heads * model.head_dim
    blocks = model.n_layer + model.multi_token_predict - 1  # each module of multi-token prediction has a block
    keys = sum(mean_keys_seen(length, model.layer_window(layer)) for layer in range(blocks))
    up = 2 * inner if model.use_swiglu else inner
    return {
        "attention projections": 2.0 * blocks * width * (2 * query + 2 * key_value),
        "attention": 2.0 * keys * 2 * query,
        "router": 2.0 * blocks * width * model.num_experts if model.num_experts > 1 else 0.0,
        "experts": 2.0 * blocks * model.active_experts * width * (up + inner),
        "multi-token projections": 2.0 * (model.multi_token_predict - 1) * 2 * width * width,
        "unembedding": 2.0 * model.multi_token_predict * width * model.vocab_size,
    }


def training_flops_per_token(model: ModelConfig, length: int) -> float:
    """Operations of a forward and a backward pass for one token of a row, without the optimizer.

    Args:
        model: the architecture.
        length: tokens in a row.
    """
    return 3.0 * sum(forward_flops_per_token(model, length).values())


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Operations per second that the data sheet of a GPU states for dense matrix products.

    Args:
        device: a GPU; nothing is known of other devices.
        dtype: what is multiplied: bfloat16, float16 or float32.

    Returns:
        None for a CPU, for a GPU that is not in the table, for a format that it has no units for, and for float32 that
        torch is allowed to round to TensorFloat-32.
    """
    if device.type != "cuda":
        return None
    return peak_flops_of(torch.cuda.get_device_name(device), dtype)


def peak_flops_of(name: str, dtype: torch.dtype) -> float | None:
    """The same for a GPU's name, such as NVIDIA A100-SXM4-80GB."""
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return None
    for pattern, bfloat16, float16, float32 in _DATA_SHEETS:
        if re.search(pattern, name, re.IGNORECASE):
            figure = {torch.bfloat16: bfloat16, torch.float16: float16, torch.float32: float32}.get(dtype)
            return None if figure is None else figure * 1e12
    return None
