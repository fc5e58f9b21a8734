# Every target sets itself up: a fresh machine needs Python 3.11 with pip and venv, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools
# uv links packages from its cache, so that a second environment costs seconds and no disk; it is fetched where it is missing.
UV := $(shell command -v uv 2>/dev/null || echo $(TOOLS)/bin/uv)
export DS_BUILD_OPS := 0
# Marks of the tests that the quicker tiers leave out; tests/conftest.py says what the marks mean.
HOSTS := hosts or faults
DEFAULT := not extended and not gpu and not ($(HOSTS))
QUICK := $(DEFAULT) and not ray and not slow

.DEFAULT_GOAL := help
.PHONY: help demo docs tables check test test-extended test-cluster test-faults test-all lint bench clean separate-hosts

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(TOOLS)/bin/uv:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check uv

$(VENV)/.installed: pyproject.toml constraints.txt | $(if $(findstring $(TOOLS),$(UV)),$(TOOLS)/bin/uv)
	@echo "Setting up $(VENV) (about 7 GB the first time, hard links afterwards)"
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m wsss.ops.compiled_ahead  # compiles loops ahead (dense CRF, stochastic masks), into __pycache__
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

demo: $(VENV)/.installed  ## The whole chain on drawn pictures: about 5 minutes on 2 cores, then a table and a picture in ./runs
	$(BIN)/wsss demo

docs: $(VENV)/.docs  ## The documentation as a site: build/site/index.html opens without a server and without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --config-file docs/mkdocs.yml
	@echo "build/site/index.html"

tables: $(VENV)/.installed  ## Write the tables of results into README.md and tuning/README.md; RUNS=FOLDER reads its run records, WEIGHTS=FOLDER is for photographs
	$(BIN)/python -m tuning.tables $(if $(RUNS),--runs "$(RUNS)") $(if $(WEIGHTS),--weights "$(WEIGHTS)")

check: $(VENV)/.installed  ## Quick tests, without Ray: 3 minutes on 2 cores
	$(BIN)/python -m pytest -m "$(QUICK)"

test: $(VENV)/.installed  ## The tests that CI runs: 15 minutes on 2 cores
	$(BIN)/python -m pytest -m "$(DEFAULT)"

test-extended: $(VENV)/.docs  ## The tests that `make test` leaves out: long runs, other environments, GPUs
	$(BIN)/python -m pytest -m "not ($(DEFAULT)) and not ($(HOSTS))"

separate-hosts: $(VENV)/.installed
	@$(BIN)/python -m tests.hosts.requirements

test-cluster: separate-hosts  ## A Ray cluster on separate hosts (namespaces of this machine, as root): 15 minutes on 2 cores
	$(BIN)/python -m pytest -m hosts tests/hosts

test-faults: separate-hosts  ## Every fault on separate hosts, one after the other; resumes, and writes the table in tests/faults/README.md
	$(BIN)/python -m pytest -m faults tests/faults

test-all: $(VENV)/.docs  ## Every test but test-faults; what this machine cannot run is named at the end as NOT RUN
	$(BIN)/python -m pytest -m "not faults"

lint: $(VENV)/.installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench  ## Benchmarks against their named rivals (needs a C++ compiler)
	@for script in $(filter-out tests/benchmarks/__init__.py tests/benchmarks/full_size.py,$(wildcard tests/benchmarks/*.py)); do echo "== $$script"; $(BIN)/python -m tests.benchmarks.$$(basename $$script .py) || exit 1; done

clean:  ## Remove the environment and caches, never ./runs
	rm -rf $(VENV) $(TOOLS) .pytest_cache .mypy_cache .ruff_cache *.egg-info
