# Two commands matter: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help install demo test coverage check lint types docs vllm refserver lock clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## install Headroom and its pinned dependencies into .venv/

# --require-hashes: nothing enters the environment that the lock file does not name by its digest.
# --no-deps: the lock file is complete; pip's own resolver would look at newer versions of packages
# that are wanted with an extra, and fail because those have no digest here.
$(STAMP): requirements.lock pyproject.toml hatch_build.py loadtests/stream/_drain.c
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Headroom needs Python 3.11 or newer; this is %d.%d (set PYTHON=...)" % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pinned dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes \
	  --no-deps -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install  ## plan for 50 users on engines that this machine runs itself (a few minutes)
	@$(BIN)/headroom demo

test: install  ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadscope

coverage: install  ## run the tests and show the lines that none of them runs (four times as long)
	@$(BIN)/python -m pytest --timeout=900 --cov --cov-report=term-missing:skip-covered

check: lint types  ## lint and type-check

lint: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: install
	@$(BIN)/mypy

docs: install  ## write docs/commands.md and docs/gates.schema.json from the code itself
	@$(BIN)/python -m docs.commands

vllm: install  ## install vLLM's CPU build into Headroom's cache folder (2 GB; Linux on x86-64)
	@$(BIN)/python -m loadtests.engines.vllm_install requirements-vllm.lock

refserver: install  ## compile the reference server of headroom selftest
	@$(BIN)/python -m loadtests.refserver

lock:  ## resolve requirements.lock anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --quiet --extra engine --group dev pyproject.toml -o requirements.lock

clean:  ## remove the environment, caches and build products
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage dist build
