# Everything a stranger needs: `make demo`, `make test`, `make check`. Each target sets up its own
# environment first (.venv); the second time that costs nothing.
#
#   make demo                   a phone call with a voice agent, offline
#   make demo CALLER=path.wav   the same with your own voice; FAST=1 skips waiting where it can
#   make demo GATEWAY=1         the same through an inference gateway; FAULT=outage: it is gone for 5 s
#   make test                   the tests;  make test ARGS="-k closing -x" passes options on
#   make check                  formatting, lint and types
#   make format                 apply the formatter and the safe lint fixes
#   make e2e                    calls in rooms of a real LiveKit server, which is built once with Go
#   make port                   the fix for the published package, before and after
#   make plugins                published plugins, unmodified, on this package
#   make parity                 the same calls with the published package: what differs
#   make bench                  time and memory beside the published package
#   make bench-closing          how sessions close when something hangs, beside the published package
#   make PYTHON=python3.12 ...  choose the interpreter (the first time, or after `make clean`)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV ?= .venv
PY := $(VENV)/bin/python
PLUGINS := $(sort $(dir $(wildcard livekit-plugins/*/pyproject.toml)))
PACKAGES := livekit-agents $(PLUGINS:%/=%)
READY := $(VENV)/.installed

SOURCES := livekit-agents livekit-plugins tests $(wildcard examples benchmarks) parity upstream
TYPED := livekit-agents/livekit/agents $(wildcard livekit-plugins/*/livekit/plugins/*) $(wildcard upstream/*.py)

.PHONY: help setup demo test e2e check format bench bench-closing parity port plugins clean

help:
	@sed -n 's/^#\( \{0,1\}\)//p' Makefile | head -16

setup: $(READY)

# Reinstalled only when a pyproject file says something new: the packages are installed editable.
$(READY): pyproject.toml $(PACKAGES:%=%/pyproject.toml) scripts/setup
	@scripts/setup "$(VENV)" "$(PYTHON)" $(PACKAGES)
	@touch $@

demo: $(READY)
	@$(PY) examples/offline_call.py $(if $(CALLER),--caller "$(CALLER)") $(if $(FAST),--fast) $(if $(GATEWAY),--gateway) $(if $(FAULT),--fault $(FAULT)) $(ARGS)

# On all cores; ARGS="-n0 --pdb ..." for one.
test: $(READY)
	@$(PY) -m pytest -n auto --dist worksteal $(ARGS)

$(VENV)/.installed-e2e: $(READY)
	@scripts/setup "$(VENV)" "$(PYTHON)" --group e2e
	@touch $@

# -s: the table of hang-ups is meant to be seen
e2e: $(READY) $(VENV)/.installed-e2e
	@server="$${LIVEKIT_SERVER:-$$(scripts/e2e-server)}"; \
	LIVEKIT_SERVER="$$server" $(PY) -m pytest tests/e2e -s $(ARGS)

check: $(READY)
	@$(VENV)/bin/ruff format --check $(SOURCES)
	@$(VENV)/bin/ruff check $(SOURCES)
	@$(VENV)/bin/mypy --strict $(TYPED)

format: $(READY)
	@$(VENV)/bin/ruff format $(SOURCES)
	@$(VENV)/bin/ruff check --fix $(SOURCES)

bench: $(READY)
	@$(PY) benchmarks/run.py $(ARGS)

bench-closing: $(READY)
	@$(PY) benchmarks/closing.py $(ARGS)

parity: $(READY)
	@$(PY) parity/run.py $(ARGS)

port: $(READY)
	@$(PY) upstream/prove.py $(ARGS)

plugins: $(READY)
	@$(PY) tests/plugins/prove.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-port .venv-plugins out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
