#!/usr/bin/env bash
# Checks that a small model can be trained here, and trains it. `scripts/train_small_model.sh --help` says more.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    cat <<'TEXT'
Usage: scripts/train_small_model.sh [FLAGS]

Trains a model of the size nano on the built-in stories: 3,000 steps, some minutes on two processor cores. FLAGS go to
`stories train` and may change all of it:

  scripts/train_small_model.sh --max-seconds 240
  scripts/train_small_model.sh --dataset-path my_stories/ --checkpoint-dir checkpoints/mine
  scripts/train_small_model.sh --model-size tiny --max-iters 20000
  PROCESSES=2 scripts/train_small_model.sh --use-ddp        two processes of this machine, each with a GPU if it has any

The same command goes on with a run that was interrupted. The model is checkpoints/best_model.pt in the present folder;
scripts/generate_stories.sh tells stories with it. All flags: stories train --help
TEXT
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

for word in "$@"; do
    case "$word" in
        -h | --help)
            usage
            exit 0
            ;;
    esac
done

if [ -x "$project/.venv/bin/python" ]; then
    python=$project/.venv/bin/python
elif python3 -c 'import gpt_oss_stories' 2>/dev/null; then
    python=python3
else
    fail "the project is not installed; run $project/setup.sh first"
fi

processes=${PROCESSES:-1}
case "$processes" in
    "" | 0 | *[!0-9]*) fail "PROCESSES=$processes is not a number of processes, such as 2" ;;
esac
door=("$python" "$project/src/run_training.py")
if [ "$processes" -gt 1 ]; then
    door=("$python" -m torch.distributed.run --standalone "--nproc-per-node=$processes" "$project/src/run_training.py")
fi

# What is given counts last, so it replaces the size that stands before it. A model to start from has its own.
size=(--model-size nano)
for word in "$@"; do
    case "$word" in
        --init-from | --init-from=*) size=() ;;
    esac
done
"${door[@]}" ${size[@]+"${size[@]}"} "$@" --check || fail "the run cannot start; see above"
exec "${door[@]}" ${size[@]+"${size[@]}"} "$@"
