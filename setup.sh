#!/usr/bin/env bash
# Installs the project beside itself and checks that it works. `./setup.sh --help` says what else it does.
set -Eeuo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$project"
venv="$project/.venv"
bin="$venv/bin"
log="logs/setup.log"
stamp="$venv/installed-from"  # holds the fingerprint of what was installed; written last, so half an installation has none
story_seconds=235

usage() {
    cat <<'TEXT'
Usage: ./setup.sh [COMMAND]

  (no command)     create .venv, install everything, make the directories, verify the installation, offer sample data
  --sample-data    the same, and prepare the built-in stories without asking
  verify           the same, and verify again even if that was done before
  test [ARGS]      the same, then lint, formatting, types, import layers and tests; ARGS go to pytest
  story            the same, then train a small model for four minutes and print a story that it wrote
  --help           show this text

It may be run again at any time and from any directory: what is done already is not done twice.
PYTHON=/path/to/python3 chooses the Python that .venv is made with (3.11 or newer).
TEXT
}

say() { printf '\n==> %s\n' "$*"; }

fail() {
    trap - ERR
    printf 'error: %s\n' "$*" >&2
    exit 1
}
trap 'fail "setup.sh stopped at line $LINENO (exit code $?): $BASH_COMMAND"' ERR
trap 'trap - ERR; printf "\nstopped\n" >&2; exit 130' INT

# Runs a command with its output in the log; on failure the last line that it printed is in the message.
logged() { # WHAT COMMAND...
    local what=$1
    shift
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 || fail "$what failed: $(grep -v '^[[:space:]]*$' "$log" | tail -n 1) (all of it: $log)"
}

suits() { # PYTHON: does it run, and is it new enough?
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if suits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found (tried ${PYTHON:-python3, python3.13, python3.12, python3.11}); install one, or name one with PYTHON=..."
}

fingerprint() { # PYTHON
    "$1" - "$project" <<'CODE'
import hashlib, pathlib, sys
project = pathlib.Path(sys.argv[1])
found = hashlib.sha256(str(project).encode())  # a moved environment no longer works
for name in ("requirements.txt", "pyproject.toml"):
    found.update((project / name).read_bytes())
print(found.hexdigest())
CODE
}

installed() {
    [ -x "$bin/python" ] && [ -f "$stamp" ] && "$bin/python" -c '' 2>/dev/null && [ "$(<"$stamp")" = "$(fingerprint "$bin/python")" ]
}

install() {
    local python started=$SECONDS
    mkdir -p data checkpoints logs
    if installed; then
        say "Already installed in .venv"
        return
    fi
    : >"$log"
    rm -f "$stamp"
    if [ -x "$bin/python" ] && suits "$bin/python" && "$bin/python" -m pip --version >/dev/null 2>&1; then
        say "Using the environment in .venv"
    else
        python=$(find_python) || exit 1
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python cannot make virtual environments; install its venv module (Debian and Ubuntu: apt install python3-venv)"
        say "Creating .venv with $("$python" --version) ($python)"
        logged "creating .venv" "$python" -m venv --clear "$venv"
    fi
    say "Installing what requirements.txt names; this takes a minute or more (details in $log)"
    # --no-compile halves the work: Python compiles what is used when it is used, and keeps it.
    logged "installing requirements.txt" "$bin/python" -m pip install --disable-pip-version-check --no-compile -r requirements.txt
    # The build tools come from requirements.txt too: an isolated build would fetch them a second time.
    logged "installing the package" "$bin/python" -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
    fingerprint "$bin/python" >"$stamp"
    echo "Installed in $((SECONDS - started)) s"
}

verify() { # [again]
    local done_before="$venv/verified"
    if [ "${1:-}" != again ] && [ "$done_before" -nt "$stamp" ]; then
        echo "Verified before (./setup.sh verify does it again)"
        return
    fi
    say "Verifying the installation with a miniature model"
    "$bin/stories" verify || exit # it has printed its own error line
    touch "$done_before"
}

sample_data() {
    say "Preparing the built-in stories in data/"
    "$bin/stories" prepare || exit
}

offer_sample_data() {
    local answer
    if [ -n "$(ls -A data)" ]; then
        return
    fi
    if [ -t 0 ] && [ -t 1 ]; then
        read -r -p $'\nPrepare sample data now (the built-in stories, about a minute)? [y/N] ' answer || answer=n
        case "$answer" in
            [yY]*) sample_data ;;
        esac
    else
        echo "Sample data: ./setup.sh --sample-data prepares the built-in stories (training does it by itself too)"
    fi
}

next_steps() {
    cat <<'TEXT'

Ready. What next:
  ./setup.sh story                                   a model and its first story in a few minutes
  python3 src/run_training.py --help                 train a model
  python3 src/generate.py --help                     tell stories with it
TEXT
}

check() { # TITLE COMMAND...: one step of the tests, named when it fails
    local title=$1
    shift
    say "$title"
    "$@" || fail "$title: failed"
}

run_tests() {
    check "Lint" "$bin/ruff" check .
    check "Formatting" "$bin/ruff" format --check .
    check "Types" "$bin/mypy"
    check "Import layers" "$bin/lint-imports"
    # A file's tests stay in one process, which has torch and half a gigabyte of its own.
    check "Tests" "$bin/python" -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile "$@"
    say "All checks passed"
}

tell_story() {
    say "Training a small model on the built-in stories for $story_seconds s"
    "$bin/stories" train --model-size nano --training-preset story --max-seconds "$story_seconds" --checkpoint-dir checkpoints || exit
    say "A story that the model wrote"
    "$bin/stories" generate --model-path checkpoints/best_model.pt --prompt "Once upon a time" --max-tokens 400 --temperature 0.8 || exit
    say "More"
    echo "The training curves: checkpoints/plots/training_curves.png"
    echo "More stories:        python3 src/generate.py --model-path checkpoints/best_model.pt --interactive"
}

command=${1:-}
if [ $# -gt 0 ]; then shift; fi
# One step after the other, not joined with &&: bash does not stop at an error inside a function whose result is tested.
case "$command" in
    -h | --help | help) usage ;;
    "") install; verify; offer_sample_data; next_steps ;;
    --sample-data) install; verify; sample_data; next_steps ;;
    verify) install; verify again ;;
    test) install; run_tests "$@" ;;
    story) install; verify; tell_story ;;
    *) fail "unknown command '$command'; ./setup.sh --help lists the commands" ;;
esac
