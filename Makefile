# The front door. Nothing has to be installed by hand: every target first brings .venv up to date.
#
#   ARGS   more flags for the program that a target runs:  make train ARGS="--quantized.epochs 3"
#   PYTHON the interpreter that .venv is made with, 3.11 or newer:  make env PYTHON=python3.12
#   JOBS   how many processes run the tests; 0: none beside pytest itself
#   EXTRA  more packages for .venv, such as JAX's own for an accelerator:  make env EXTRA="jax[cuda13]"

.DEFAULT_GOAL := help
.PHONY: help env train test long check bench fuzz
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
ARGS ?=
JOBS ?= 2
EXTRA ?=

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

env: $(STAMP) ## make or update .venv (again only when a requirements file changes)
	@if [ -n "$(EXTRA)" ]; then $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(EXTRA); fi

train: $(STAMP) ## train on the embedded digits: float, low bits, integers, table
	$(BIN)/python train.py digits $(ARGS)

# Most of the tests' time goes into compiling what runs once or twice. "make long" compiles as users do.
test: export XLA_FLAGS := --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 $(XLA_FLAGS)
test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder $(ARGS)

long: $(STAMP) ## run the tests that take minutes: recipes, runs that stop and go on, the largest networks as integers
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=worksteal -m long $(ARGS)

check: $(STAMP) ## check format, lint and types
	@status=0; for step in "ruff format --check ." "ruff check ." pyright; do \
	  echo "$$step"; $(BIN)/$$step || status=1; \
	done; exit $$status

bench: $(STAMP) ## run every benchmark
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

fuzz: $(STAMP) ## try damaged and forged files, random networks: ARGS="--inputs 1000 --seed 1"
	@set -e; for script in fuzz/*.py; do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

$(STAMP): requirements.txt requirements-dev.txt constraints.txt pyproject.toml
	@if ! $(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	  $(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	    echo "error: \`$(PYTHON)\` must be Python 3.11 or newer, got '$$($(PYTHON) --version 2>&1 | head -n 1)'; name another with: make env PYTHON=python3.12" >&2; \
	    exit 2; }; \
	  $(PYTHON) -m venv --clear .venv; \
	fi
	@echo "installing into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --requirement requirements.txt --requirement requirements-dev.txt --constraint constraints.txt
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
