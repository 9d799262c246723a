"""Short training runs for tests: tiny stories, a tiny model, and everything that a run printed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gpt_oss_stories.config import DataConfig, TrainingConfig, model_config
from gpt_oss_stories.model.model_file import load_model_file
from gpt_oss_stories.training.trainer import EvaluationHook, TrainingResult, train

NAMES = ("Mia", "Tom", "Anna", "Ben", "Lily", "Max")
THINGS = ("ball", "kite", "boat", "drum", "cake")
PLACES = ("in the garden", "by the sea", "under the bridge")


def write_stories(folder: Path) -> Path:
    """90 tiny stories; about four rows of 64 tokens hold a dozen of them."""
    texts = [
        f"One day {name} lost a {thing} {place}. {name} looked and looked. At last the {thing} was there, "
        f"and {name} was glad."
        for name in NAMES
        for thing in THINGS
        for place in PLACES
    ]
    path = folder / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def drawn_quickly(metrics: Path, picture: Path) -> Path:
    """In place of `plot_training_curves`, which takes longer than such a run."""
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(b"picture")
    return picture


class Trial:
    """Starts runs with small settings and remembers what they printed."""

    def __init__(self, stories: Path, folder: Path) -> None:
        self.stories, self.folder = stories, folder
        self.printed = ""

    def data(self, **changes: Any) -> DataConfig:
        settings = {
            "dataset_path": str(self.stories),
            "data_dir": str(self.stories.parent / "prepared"),
            "vocabulary": "story",
            "validation_fraction": 0.1,
        }
        return DataConfig(**{**settings, **changes})

    def __call__(
        self,
        name: str = "run",
        *,
        model: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        hook: EvaluationHook | None = None,
        **training: Any,
    ) -> TrainingResult:
        settings = {
            "max_iters": 6,
            "batch_size": 4,
            "train_length": 64,
            "eval_interval": 100,
            "save_interval": 100,
            "log_interval": 1,
            "use_mixed_precision": False,
            "device": "cpu",
            "learning_rate": 3e-3,
        }
        config = TrainingConfig(**{**settings, "checkpoint_dir": str(self.folder / name), **training})
        small = {"vocab_size": 300, "n_layer": 2, "n_embd": 32, "head_dim": 8, "block_size": 64, "sliding_window": 16}
        console = Console(file=io.StringIO(), width=400)
        try:
            return train(
                model_config("nano", **{**small, **(model or {})}),
                config,
                self.data(**(data or {})),
                console=console,
                on_evaluation=hook,
            )
        finally:
            self.printed = console.file.getvalue()


def weights_of(result: TrainingResult) -> dict[str, torch.Tensor]:
    """The weights in a run's model file."""
    return load_model_file(result.best_model).weights


def assert_same_weights(a: TrainingResult, b: TrainingResult) -> None:
    """Two runs' model files hold the same, bit for bit."""
    left, right = weights_of(a), weights_of(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
