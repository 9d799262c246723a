"""Story-telling language models of the GPT-OSS architecture, trained from scratch.

>>> from gpt_oss_stories import load_model
>>> model = load_model("checkpoints/best_model.pt")
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    # torch takes a second to import: commands that only need a version or a configuration do not pay for it.
    if name == "load_model":
        from .interop.loading import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
