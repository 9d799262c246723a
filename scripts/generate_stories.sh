#!/usr/bin/env bash
# Tells a story for each given beginning. `scripts/generate_stories.sh --help` says more.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    cat <<'TEXT'
Usage: scripts/generate_stories.sh [BEGINNING]... [FLAGS]

Tells a story for each beginning with the model that was trained last, checkpoints/best_model.pt; with three beginnings
of its own if none is given. Words before the first flag are beginnings; FLAGS go to `stories generate`:

  scripts/generate_stories.sh
  scripts/generate_stories.sh "Once upon a time" "A small duck"
  scripts/generate_stories.sh "Tom found a key" --num-samples 3 --temperature 0.7 --seed 1
  scripts/generate_stories.sh --model-path checkpoints/mine/best_model.pt > stories.txt

Stories go to standard output, remarks to standard error. All flags: stories generate --help
TEXT
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

beginnings=()
while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do
    beginnings+=("$1")
    shift
done
for word in "$@"; do
    case "$word" in
        -h | --help)
            usage
            exit 0
            ;;
        --prompt | --prompt=*) fail "give beginnings as words before the flags, without --prompt" ;;
    esac
done
if [ ${#beginnings[@]} -eq 0 ]; then
    beginnings=("Once upon a time" "One day, a little duck" "In a house by the sea")
fi

if [ -x "$project/.venv/bin/python" ]; then
    python=$project/.venv/bin/python
elif python3 -c 'import gpt_oss_stories' 2>/dev/null; then
    python=python3
else
    fail "the project is not installed; run $project/setup.sh first"
fi

for beginning in "${beginnings[@]}"; do
    "$python" "$project/src/generate.py" --max-tokens 400 "$@" --prompt "$beginning"
done
