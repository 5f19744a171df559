# One word runs each chore; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
UV     := 0.13.9
CONFIG ?= configs/tiny.yaml
ARGS   ?=

# uv does not read pip's setting; handed on, a folder that holds a CPU build of torch is used.
ifndef UV_FIND_LINKS
ifdef PIP_FIND_LINKS
empty :=
comma := ,
space := $(empty) $(empty)
export UV_FIND_LINKS := $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
endif
endif

.PHONY: help install train test lint lock clean

help: ## List the chores
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv and install the pinned requirements (once, and again when they change)

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, and this is {v.major}.{v.minor}; name another with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==$(UV)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt -r requirements-dev.txt
	@touch $@

train: install ## Train, merge, judge and stage a model: CONFIG=configs/mistral_7b.yaml ARGS='--set training.seed=1'
	$(BIN)/python run.py --pipeline train --config $(CONFIG) $(ARGS)

test: install ## Run the whole test suite, linters included: ARGS='-k gate' narrows it
	$(BIN)/python -m pytest $(ARGS)

lint: install ## Run the linters alone: ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# torch's build is each machine's own choice, so neither a mark such as +cpu nor the libraries of its CUDA build are pinned;
# torch itself pins these, exactly.
lock: install ## Compile requirements*.in to pinned requirements*.txt
	$(BIN)/uv pip compile --quiet --no-annotate --no-header requirements.in -o requirements.txt
	sed -E -i.bak 's/\+cpu$$//; /^(cuda|nvidia)-|^triton==/d' requirements.txt
	$(BIN)/uv pip compile --quiet --no-annotate --no-header requirements-dev.in -o requirements-dev.txt
	rm requirements.txt.bak

clean: ## Remove caches; .venv, checkpoints and results stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info build
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
