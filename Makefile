# Aliases only: setup.sh does the work.
.PHONY: setup test story verify format

setup:
	./setup.sh

test:
	./setup.sh test

story:
	./setup.sh story

verify:
	./setup.sh verify

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
