# The commands of the house. Each does all the set-up it needs; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test compatibility bench lint format lock clean

help:  ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

setup:  ## Install what is needed and build everything; a second run takes seconds.
	@scripts/setup

demo: setup  ## Build a template, run code in a microVM restored from its snapshot, and show the phases.
	@.venv/bin/python scripts/demo.py

test: setup  ## Run every test that this machine can run, and name those it cannot.
	@scripts/test

compatibility: setup  ## Run every published client, write docs/compatibility.md, and say which have newer releases.
	@PANDASTACK_WRITE_COMPATIBILITY=1 .venv/bin/python -m pytest -q tests/contract/test_clients.py
	@.venv/bin/python -c 'from tests.contract.clients import newer; print(*newer() or ["every pin is the newest"], sep="\n")'

bench: setup  ## Measure create at concurrency 1, 4 and 10 beside a bare restore, and print a table.
	@.venv/bin/python scripts/bench.py

lint: setup  ## Check format, lint and types; change nothing.
	@scripts/lint

format: setup  ## Format the code and mend what the linters can mend.
	@.venv/bin/ruff check --fix --quiet . || true
	@.venv/bin/ruff format .
	@cargo fmt --all
	@scripts/node format

lock: setup  ## Resolve the newest allowed versions into requirements.lock and Cargo.lock.
	@scripts/lock

clean:  ## Remove what was built; data directories are not touched.
	rm -rf .venv target sdk/typescript/node_modules sdk/typescript/dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
