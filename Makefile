# `make` says what there is. Every target sets up what it needs: Python 3.11 with pip or venv, and a package index.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE # each stage is a process: modules compiled anew in each would cost it seconds
.PHONY: help setup run test lint lab docs bench clean

CONFIG ?= configs/demo.yaml
ARGS   ?=

# uv from the path, or the one that tools/uv.sh put into .tools on the first call
UV := bash tools/uv.sh

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile

setup: ## install the locked packages into .venv (the other targets do it themselves)
	@$(UV) sync --frozen

run: ## run the pipeline into outputs/: make run [CONFIG=configs/demo.yaml] [ARGS="--list key=value ..."]
	@XTTS_KA_MAKE=1 $(UV) run --frozen xtts-ka run --config "$(CONFIG)" $(ARGS)

test: ## ruff, pytest in two processes, then the tests inside the notebooks
	@$(UV) sync --frozen --quiet # without the peers of bench/: speechbrain's lazy modules break hypothesis
	@$(UV) run --frozen ruff format --check --quiet
	@$(UV) run --frozen ruff check --quiet
	@$(UV) run --frozen pytest -n 2 --dist loadgroup $(ARGS)
	@$(UV) run --frozen python tools/test_notebooks.py

lint: ## say what ruff and mypy find in notebooks, package, tests, tools and bench
	@$(UV) sync --frozen --quiet
	@$(UV) run --frozen ruff format --check
	@$(UV) run --frozen ruff check
	@$(UV) run --frozen mypy

lab: ## open the notebooks in JupyterLab
	@$(UV) run --frozen jupyter lab $(ARGS)

docs: ## build the documentation site into _docs/index.html
	@$(UV) run --frozen --group docs python tools/docs.py $(ARGS)

bench: ## compare with named peers and print the ratios
	@$(UV) run --frozen --group bench python bench/run.py $(ARGS)

clean: ## delete caches and built pages (never a run, never .venv)
	@rm -rf _docs _proc nbs/_proc .pytest_cache .hypothesis build dist
	@find xtts_ka nbs tests tools bench -name __pycache__ -o -name .ipynb_checkpoints | while IFS= read -r d; do rm -rf "$$d"; done
