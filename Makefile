# `make` alone lists the commands. Needs make and Python 3.11 or newer, nothing else; everything is installed into
# VENV (.venv unless told otherwise), once, and again only when the requirements change.

VENV ?= .venv
ARGS ?=
TESTS ?= tests

# The first interpreter that is new enough; `make PYTHON=/path/to/python3.12 run` chooses another one.
new_enough := 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c $(new_enough) 2>/dev/null && { echo $$p; break; }; done)

bin := $(VENV)/bin
pip := $(bin)/python -m pip install -qq --disable-pip-version-check
installed := $(VENV)/.installed
installed_dev := $(VENV)/.installed-dev
code := camac_dra tests setup.py $(wildcard experiments)

.DEFAULT_GOAL := help
.PHONY: help install install-dev run doctor test check lint format layers bench configs clean distclean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(bin)/python:
	@test -n "$(PYTHON)" || { echo "No Python from 3.11 to 3.14 found. Install one, or: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c $(new_enough) || { echo "$(PYTHON) is not a Python from 3.11 to 3.14" >&2; exit 2; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(installed): requirements.txt setup.py | $(bin)/python
	@echo "Installing into $(VENV); once, this takes a few minutes"
	@$(pip) -r requirements.txt
	@$(pip) --no-deps --no-build-isolation --editable .
	@touch $@

$(installed_dev): requirements-dev.txt $(installed)
	@echo "Installing what tests and linters need into $(VENV)"
	@$(pip) -r requirements-dev.txt
	@touch $@

install: $(installed)  ## install what the project runs on into .venv
install-dev: $(installed_dev)  ## install that and what tests and linters need

run: $(installed)  ## train on the default problem, compare, report; ARGS="--environment.num_agents 20" is passed on
	@$(bin)/python -m camac_dra.run $(ARGS)

doctor: $(installed)  ## say what on this machine would fail, and how to mend it
	@$(bin)/python -m camac_dra.run doctor

test: $(installed_dev)  ## run the tests; TESTS=tests/utils runs some, ARGS=-x is passed to pytest
	@$(bin)/python -m pytest $(TESTS) $(ARGS)

check: lint test  ## all that continuous integration runs: format, lint, types, layers, tests

lint: $(installed_dev)  ## check format, lint, types and layers; all four run, whichever fails
	@failed=0; \
	$(bin)/ruff format --check $(code) || failed=1; \
	$(bin)/ruff check $(code) || failed=1; \
	$(bin)/mypy || failed=1; \
	$(MAKE) --no-print-directory layers || failed=1; \
	exit $$failed

layers: $(installed_dev)  ## check that imports run one way
	@$(bin)/lint-imports --no-cache

format: $(installed_dev)  ## format the code and mend what the linter can mend
	@$(bin)/ruff check --fix-only $(code)
	@$(bin)/ruff format $(code)

bench: $(installed_dev)  ## run the benchmarks in their quick form
	@for f in experiments/benchmarks/[a-z]*.py; do echo "== $$f"; $(bin)/python $$f --quick || exit 1; done

configs: $(installed)  ## write default.yaml and the JSON schema for editors anew from the typed schema
	@$(bin)/python -m camac_dra.utils default-config --output rllib_configs/default.yaml
	@$(bin)/python -m camac_dra.utils schema --output rllib_configs/schema.json

clean:  ## remove caches and build outputs; runs and .venv stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	@rm -rf $(VENV)
