# make demo      an example app in your browser (PORT=8000, EXAMPLE=bottle_app, flask_app or node_app)
# make test      everything that must hold: linters, types, the browser library, all tests
# make torture   the long campaigns of the fault laboratory (MINUTES=30, SEED=1, CAMPAIGN=name)
# make mutants   can each of these campaigns fail? By deliberate faults
# make fuzz      millions of frames and requests (FUZZ_SECONDS=600), by chance and by what they reach
# make audit     known holes in what we install (asks PyPI)
# make bench     how fast are we, beside other servers? Writes docs/performance.rst (half an hour)
# make lint      only the linters and the types
# make clean     removes what these commands made, but for what you uploaded into the examples
#
# A virtual environment in .venv is made when needed. What has been done is not done twice.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PORT ?= 8000
HOST ?= 127.0.0.1
EXAMPLE ?= bottle_app
PYTEST_ARGS ?=
ALONE := tests/faults/test_campaigns.py $(patsubst %,tests/end_to_end/test_%.py,browser greedy interruptions memory slow)
BENCH_ARGS ?=
FUZZ_SECONDS ?= 600

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SAY := @printf '\n==> %s\n'

.PHONY: help demo test torture mutants fuzz audit bench lint types packages javascript clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q'

demo: $(VENV)/.demo-installed
	@PORT="$(PORT)" HOST="$(HOST)" $(BIN)/python examples/demo.py "$(EXAMPLE)"

test: packages $(VENV)/.test-installed lint javascript
	$(SAY) "Python tests, three at a time: some of them wait for most of their time"
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(ALONE)) $(PYTEST_ARGS)
	$(SAY) "Python tests that judge by the clock or by memory, one after the other"
	@$(BIN)/python -m pytest $(ALONE) $(PYTEST_ARGS)

torture: packages $(VENV)/.test-installed javascript
	$(SAY) "Fault laboratory: the long campaigns"
	@$(BIN)/python -m tests.faults --full $(CAMPAIGN) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))
ifndef CAMPAIGN
	$(SAY) "Folders that machines share: many files"
	@SHARED_FILES=60 $(BIN)/python -m pytest tests/end_to_end/test_nfs.py tests/end_to_end/test_cephfs.py
endif

mutants: packages $(VENV)/.test-installed
	$(SAY) "Fault laboratory: does each campaign notice a deliberate fault?"
	@$(BIN)/python -m tests.faults.mutate

fuzz: $(VENV)/.test-installed
	$(SAY) "Frames and requests by chance"
	@$(BIN)/python -m tests.fuzz frames --count 5000000 $(if $(SEED),--seed $(SEED))
	@$(BIN)/python -m tests.fuzz requests --count 1000000 $(if $(SEED),--seed $(SEED))
	$(SAY) "The same by what they reach, $(FUZZ_SECONDS) s each (atheris, where it can be installed)"
	@$(PIP) install 'atheris>=3' || { echo "NOT RUN: atheris can't be installed here" >&2; exit 0; }; \
	  for target in frames requests; do \
	    $(BIN)/python -m tests.fuzz $$target --guided -max_total_time=$(FUZZ_SECONDS) -max_len=1000 -print_final_stats=1; \
	  done

audit: $(VENV)/.test-installed
	$(SAY) "pip-audit: known holes in what the package needs"
	@$(PIP) install 'pip-audit>=2.7' && $(BIN)/python -m pip_audit --skip-editable

bench: packages $(VENV)/.test-installed
	$(SAY) "Servers to compare with, into .bench"
	@bash bench/install.sh
	$(SAY) "All scenarios"
	@$(BIN)/python -m bench --write $(BENCH_ARGS)

lint: $(VENV)/.test-installed
	$(SAY) "ruff: style and likely mistakes"
	@$(BIN)/ruff check .
	$(SAY) "bandit: what an attacker would look for"
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive incoming_wsgi
	$(SAY) "mypy --strict: types"
	@$(BIN)/mypy

packages:
	$(SAY) "Programs from Debian that the tests use"
	@bash tests/debian-packages.sh

javascript: assets/package.json
	$(SAY) "Browser library: is incoming.js built from its sources, and does it work"
	@bash tests/javascript.sh

$(VENV)/bin/python:
	$(SAY) "Making a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu:  apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: setup.py pyproject.toml | $(VENV)/bin/python
	$(SAY) "Installing Incoming!!, gunicorn, Bottle and Flask into $(VENV) (half a minute, the first time only)"
	@$(PIP) install --editable '.[server]' 'bottle>=0.13' 'flask>=3'
	@touch $@

$(VENV)/.test-installed: setup.py pyproject.toml | $(VENV)/bin/python
	$(SAY) "Installing Incoming!! and what the tests need into $(VENV) (a minute, the first time only)"
	@$(PIP) install --editable '.[server,test]'
	@touch $@ $(VENV)/.demo-installed

clean:
	rm -rf $(VENV) build dist *.egg-info incoming_wsgi/static .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf assets/node_modules .bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
