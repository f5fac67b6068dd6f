# `make` says what there is. Every target sets up what it needs: a Python with pip or venv, and a package index.
# Where there is no make (Windows): `python tools/do.py run`, `python tools/do.py test`, ...
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE # each stage is a process: modules compiled anew in each would cost it seconds
.PHONY: help setup run test quick lint versions lab docs bench clean

CONFIG ?= configs/demo.yaml
ARGS   ?=

# any Python that starts; where there is none, the one that uv brings
PYTHON := $(shell for p in python3 python; do $$p -c '' 2>/dev/null && { echo $$p; break; }; done)
DO := $(or $(PYTHON),uv run --no-project python) tools/do.py

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: ## install the locked packages into .venv (the other targets do it themselves); ARGS=--cpu without CUDA
	@$(DO) setup $(ARGS)

run: ## run the pipeline into outputs/: make run [CONFIG=configs/demo.yaml] [ARGS="--list key=value ..."]
	@XTTS_KA_MAKE=1 $(DO) run --config "$(CONFIG)" $(ARGS)

test: ## ruff, then pytest in two processes, which also run the notebooks
	@$(DO) test $(ARGS)

quick: ## the quick tests: systems, installation, command line, text, bad input
	@$(DO) quick $(ARGS)

lint: ## say what ruff and mypy find in notebooks, package, tests, tools and bench
	@$(DO) lint

versions: ## the quick tests on each Python from 3.11 to 3.13 that is here
	@$(DO) versions $(ARGS)

lab: ## open the notebooks in JupyterLab
	@$(DO) lab $(ARGS)

docs: ## build the documentation site into _docs/index.html
	@$(DO) docs $(ARGS)

bench: ## compare with named peers and print the ratios
	@$(DO) bench $(ARGS)

clean: ## delete caches and built pages (never a run, never .venv)
	@$(DO) clean
