#!/usr/bin/env bash
# Prepares stories for training: `stories prepare` of this checkout's environment, with whatever flags are given.
#
#   scripts/process_data.sh                                          the built-in stories
#   scripts/process_data.sh --dataset-path roneneldan/TinyStories    a data set of the Hugging Face Hub
#   scripts/process_data.sh --dataset-path my_stories/ --max-workers 8 --force-reprocess
#
# `scripts/process_data.sh --help` lists the flags; docs/data.md explains them.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -x "$project/.venv/bin/stories" ]; then
    exec "$project/.venv/bin/stories" prepare "$@"
elif command -v stories >/dev/null 2>&1; then
    exec stories prepare "$@"
fi
echo "error: the project is not installed; run $project/setup.sh first" >&2
exit 1
