# Everything needs only git, make and Python >= 3.11; `make help` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The versions in requirements.lock were resolved with 3.11; later ones work too.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && { echo $$python; break; }; done)
# One process of the tests per core of a small machine; torch then needs no threads of its own.
JOBS ?= 2
IMAGE ?= bids_gmvae
ENGINE ?= $(notdir $(shell command -v docker || command -v podman || echo docker))

export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-faults test-mutation test-engines lint format docs-check \
	descriptor golden lock image image-cuda clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(STAMP) ## create .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "Python >= 3.11 with venv is needed; none found. Give one: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): about two minutes, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## simulate two participants with known truth, map them, show where the report is
	rm -rf demo
	$(BIN)/bids-gmvae-simulate demo/bids --n-subjects 2 --scheme multishell --qsiprep-for 02
	$(BIN)/bids-gmvae demo/bids demo/out participant -w demo/work
	$(BIN)/bids-gmvae demo/bids demo/out group -w demo/work
	@echo "Reports: $(CURDIR)/demo/out/sub-01.html and $(CURDIR)/demo/out/group.html"

test: lint ## all checks and tests, a quarter of an hour on two cores
	$(BIN)/python -m pytest -q -n $(JOBS) --cov=bids_gmvae --cov-report=term:skip-covered
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m slow tests/faults

test-slow: $(STAMP) ## the tests that take longer, too
	$(BIN)/python -m pytest -q -n $(JOBS) -m "slow and not container and not slurm"

test-engines: $(STAMP) ## the tests that need an image (`make image`) or SLURM; skipped without
	$(BIN)/python -m pytest -q -rs -m "container or slurm"

test-faults: $(STAMP) ## of these bad input with its table, properties, fuzzing, kills, full disks
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "not container and not slurm" \
		tests/faults tests/properties tests/fuzz

test-mutation: $(STAMP) ## whether the tests notice deliberate bugs; half an hour
	$(BIN)/python -m tests.mutation.check

lint: $(STAMP) ## style, types, layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --config pyproject.toml
	$(BIN)/codespell

format: $(STAMP) ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-check: $(STAMP) ## commands, code blocks and tables of the documentation
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_boutiques.py

descriptor: $(STAMP) ## write boutiques.json and its page anew, after a change of the command line
	@mkdir -p build
	$(BIN)/python -m bids_gmvae.cli.descriptor > build/boutiques.json
	mv build/boutiques.json boutiques.json
	$(BIN)/python -m bids_gmvae.cli.reference > build/command_line.md
	mv build/command_line.md docs/reference/command_line.md

golden: $(STAMP) ## write tests/golden/statistics.tsv anew, after a change of estimates that is meant
	$(BIN)/python -m tests.golden.update

# pip freeze knows no markers: those of pyproject.toml are put behind their packages.
lock: ## resolve requirements.lock anew, in a scratch environment
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --editable ".[dev]" hatchling editables
	sed -nE 's/^ *"([A-Za-z0-9_.-]+)[<>=~!][^";]*(; [^"]*)".*/s|^\1==.*|\&\2|/p' pyproject.toml \
		> build/markers.sed
	{ grep '^#' requirements.lock; build/lock/bin/python -m pip freeze --exclude-editable \
		| sed -E -e 's/^(torch==[0-9.]+)\+.*/\1/' -f build/markers.sed; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

image: ## container image for CPUs
	$(ENGINE) build -t $(IMAGE):cpu .

image-cuda: ## container image for NVIDIA GPUs
	$(ENGINE) build --build-arg VARIANT=cuda -t $(IMAGE):cuda .

clean: ## remove what the targets made
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache .coverage*
