"""Asks one of the benchmarks beside this file: python benchmarks QUESTION [OPTIONS]."""

from __future__ import annotations

import sys

from house import USER_ERROR, BenchmarkError, run

if __name__ == "__main__":
    words = [word for word in sys.argv[1:2] if word not in ("-h", "--help")]
    try:
        sys.exit(run(words[0] if words else None, sys.argv[2:]))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
