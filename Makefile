# make demo   set everything up, run both programs on an example cluster, show answers and count queries
# make test   set everything up, run the whole test suite
# make compiled   build/compiled: the same programs with their data path as machine code (needs a C compiler)
# make fuzz   mutated inputs for everything that is read, guided by coverage where atheris can be had (FUZZ_SECONDS each)
# make soak   both programs, a cluster that changes, faults from a seed, every answer compared (SOAK_SECONDS, SOAK_SEED)
# make docs   build/docs: the pages of docs/, as HTML
# make audit  what the image is made of: installs by hash, may be used, has no known hole; make lock: make it anew
# Nothing needs root, and nothing but pip's cache is left outside this folder.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

COMPILED := build/compiled

.PHONY: demo test compiled test-compiled fuzz soak audit lock docs lint clean help

help:
	@sed -n 's/^# //p' Makefile | head -9

demo: $(VENV)/.installed
	$(BIN)/nodelocal demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 3 --dist loadfile

# What has nothing to do with the compiled modules, or drives processes that the plain suite has driven.
NOT_COMPILED := --ignore=tests/bench --ignore=tests/soak --ignore=tests/system/lab --ignore=tests/test_charts.py \
	--ignore=tests/test_deploy.py --ignore=tests/system/test_status.py --ignore=tests/system/test_reload.py

compiled: $(COMPILED)/.made
	@echo "To run it: cd $(COMPILED), and then ../../$(BIN)/python -m kdns (or nodelocal, bench)"

test-compiled: $(COMPILED)/.made $(VENV)/.installed-test
	cp -r tests bench Makefile LICENSE *.md pyproject.toml .ci .gitignore .dockerignore docs deploy $(COMPILED)
	cd $(COMPILED) && PYTHONPATH=$(CURDIR)/$(COMPILED) $(CURDIR)/$(BIN)/python -m pytest -n 3 --dist loadfile -p no:cacheprovider $(NOT_COMPILED)

$(COMPILED)/.made: $(VENV)/.installed-test pyproject.toml $(wildcard kdns/*.py kdns/*/*.py nodelocal/*.py zones/*.py)
	@command -v cc >/dev/null || { echo "compiling needs a C compiler: Debian's package gcc has one"; exit 1; }
	@$(BIN)/python -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { echo "compiling needs Python's headers: Debian's package python3-dev has them"; exit 1; }
	@echo "Compiling the data path: about a minute"
	rm -rf build/source build/kdns-*.whl $(COMPILED) && mkdir -p build/source $(COMPILED)
	cp -r kdns nodelocal zones pyproject.toml README.md LICENSE build/source
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build build/source
	$(BIN)/python -m zipfile --extract build/kdns-*.whl $(COMPILED) && rm -rf build/source $(COMPILED)/*.dist-info
	cp -r bench $(COMPILED)
	@touch $@

FUZZ_SECONDS ?= 60

fuzz: $(VENV)/.installed-test
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,fuzz]' || echo "atheris cannot be had for this Python: no inputs guided by coverage"
	@! $(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) --coverage

SOAK_SECONDS ?= 1800

soak: $(VENV)/.installed-test
	$(BIN)/python -m tests.soak --seconds $(SOAK_SECONDS) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

audit:
	.ci/audit

lock:
	.ci/audit --lock

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile

$(BIN)/python:
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kdns needs Python 3.11 or later: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml
	@echo "Installing kdns and what it needs into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(BIN)/python -m compileall -q kdns nodelocal zones  # as pip does for all that is not editable: starts in half the time
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench,lint]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
