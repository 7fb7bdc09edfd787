# Everything runs in .venv, which `make setup` builds. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.dcache-setup

# The root holds links named like other people's packages (`kernels`): python must never look for modules in it.
export PYTHONSAFEPATH = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-video test test-slow test-docs lint docs format bench dist clean

help:  ## this list
	@grep -E '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## /\1\t/' | expand -t 12

setup: $(STAMP)  ## build .venv with the pinned packages (PYTHON=python3.x picks the interpreter)

# torch comes first, so that a build of it offered beside the registry's (a CPU one: PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS)
# is settled before anything else that depends on torch is chosen. The demo's models and dcache are installed together:
# each is then found here, and not looked for on an index.
$(STAMP): pyproject.toml packages/dcache-demo/pyproject.toml constraints.txt tools/torchvision_beside_cpu_torch.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "dcache needs python 3.11 or newer: make setup PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' \
	    --editable packages/dcache-demo
	$(BIN)/python tools/torchvision_beside_cpu_torch.py
	@touch $@

demo: $(STAMP)  ## the shipped model with and without caching, on a CPU: pictures and a report in demo-out
	$(BIN)/dcache demo --out demo-out

demo-video: $(STAMP)  ## the same with the shipped video model: clips as GIFs in demo-out/video
	$(BIN)/dcache demo --video --out demo-out/video

test: $(STAMP)  ## the fast tests
	$(BIN)/pytest -n 2

test-slow: $(STAMP)  ## the slow tests
	$(BIN)/pytest -n 2 -m slow

test-docs: $(STAMP)  ## what is published, run as readers do: slow pages, notebooks, short examples, wheels
	$(BIN)/pytest -n 2 -m slow tests/docs tests/examples/test_short.py tests/house/test_wheel.py

lint: $(STAMP)  ## ruff (check and format), mypy, and the layers of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(STAMP)  ## the documentation site in site/, strict, looked at in a browser where there is one
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python tools/check_site.py site

format: $(STAMP)  ## let ruff format and mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP)  ## what the engine itself costs, measured on the shipped model
	$(BIN)/python examples/bench_engine.py

dist: $(STAMP)  ## wheels and source archives of both distributions in dist, checked by twine
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m build --no-isolation --outdir dist packages/dcache-demo
	$(BIN)/twine check --strict dist/*

clean:  ## remove what builds, tests and commands left behind; .venv stays
	rm -rf build dist site demo-out eval-out bench-out search-out .mypy_cache .pytest_cache .ruff_cache
	find dcache packages tests examples tools -name __pycache__ -type d -prune -exec rm -rf {} +
