"""Settings for scripts in the repository's root: `from src.config import ModelConfig, TrainingConfig`.

The classes are those of `gpt_oss_stories.config`; no installation and no torch are needed.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("gpt_oss_stories") is None:
    sys.path.append(str(Path(__file__).resolve().parent))

from gpt_oss_stories.config import (
    DEFAULT_VOCABULARY,
    HARMONY_VOCABULARY_SIZE,
    MODEL_SIZES,
    TRAINING_PRESETS,
    ConfigError,
    DataConfig,
    GenerationConfig,
    ModelConfig,
    ParameterReport,
    TrainingConfig,
    data_config,
    model_config,
    training_config,
)

__all__ = [
    "DEFAULT_VOCABULARY",
    "HARMONY_VOCABULARY_SIZE",
    "MODEL_SIZES",
    "TRAINING_PRESETS",
    "ConfigError",
    "DataConfig",
    "GenerationConfig",
    "ModelConfig",
    "ParameterReport",
    "TrainingConfig",
    "data_config",
    "model_config",
    "training_config",
]
