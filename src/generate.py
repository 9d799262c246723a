"""Tell stories with a trained model: `python3 src/generate.py --help`. The same as `stories generate`."""

import sys
from pathlib import Path

from gpt_oss_stories.environment import use_project_environment

if __name__ == "__main__":
    use_project_environment(Path(__file__).resolve().parents[1])
    from gpt_oss_stories.cli import main

    sys.exit(main(["generate", *sys.argv[1:]]))
