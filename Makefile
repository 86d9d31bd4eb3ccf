# mailstack: `make run` starts a mail server on this machine, `make test` passes everything. `make help` lists the rest.
# Needs: make, git, Python 3.11 or newer with its venv module (Debian 12: apt-get install make git python3-venv).

PYTHON ?= python3
VENV ?= .venv
VAR ?= var
BASE_PORT ?=
CRASH_ROUNDS ?= 100
ROUNDS ?= 5
ONLY ?=
WORKERS ?=
JSON ?=
MINUTES ?= 30
SECONDS ?= 120

BIN := $(VENV)/bin
RELEASE := tests/test_packaging.py tests/test_readme.py
NOT_UNIT := tests/peers tests/bench tests/crash $(RELEASE)
TWISTD := $(BIN)/twistd -n --pidfile= mailstack
PYTEST := $(BIN)/pytest

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lint unit fuzz release peers crash bench soak wheel clean

help: ## Say what there is
	@awk -F ': .*## ' '/^[a-z]+: .*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) VAR=$(VAR) BASE_PORT=$(or $(BASE_PORT),(mailstack's own)) CRASH_ROUNDS=$(CRASH_ROUNDS)"
	@echo "           of fuzz, and so of test: SECONDS=$(SECONDS) for each target"
	@echo "           of bench and soak: ROUNDS=$(ROUNDS) ONLY=(all) WORKERS=(2, or the cores) JSON=(file) MINUTES=$(MINUTES)"

run: $(VENV)/run.stamp ## Start a demonstration server in the foreground; Ctrl-C ends it, its state stays in var/
	@test -f $(VAR)/mailstack.toml || $(BIN)/mailstack init $(VAR) --demo $(if $(BASE_PORT),--base-port $(BASE_PORT))
	@$(BIN)/mailstack demo $(VAR)
	@exec $(TWISTD) --config $(VAR)/mailstack.toml

test: lint unit fuzz release peers ## Pass everything: linters, types, import directions, unit tests, fuzzing, packaging, real peers, a few crashes

lint: $(VENV)/dev.stamp ## ruff, mypy and the import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/dev.stamp ## The tests that need nothing but Python
	$(PYTEST) tests --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(NOT_UNIT:%=--ignore=%)

fuzz: $(VENV)/fuzz.stamp ## Fuzz the parsers and the protocol cores, each for SECONDS, two at a time
	$(BIN)/python -m fuzz --seconds $(SECONDS)

release: $(VENV)/dev.stamp ## Packages, the README's commands in a fresh clone, the example plugin
	$(PYTEST) $(RELEASE)

peers: $(VENV)/dev.stamp ## The tests against real programs (swaks, Postfix, Dovecot ...), the bench in short, and a few crashes
	$(PYTEST) tests/peers tests/bench tests/crash --numprocesses=2 --dist=loadfile

crash: $(VENV)/dev.stamp ## Kill the server CRASH_ROUNDS times under load, and count what it had accepted
	MAILSTACK_CRASH_ROUNDS=$(CRASH_ROUNDS) $(PYTEST) tests/crash -s --timeout=7200

BENCH := $(BIN)/python -m bench $(if $(WORKERS),--workers $(WORKERS)) $(if $(JSON),--json $(JSON))

bench: $(VENV)/dev.stamp ## How fast we are beside Postfix, Dovecot and aiosmtpd on this machine (as root, Debian 12)
	$(BENCH) --rounds $(ROUNDS) $(if $(ONLY),--only $(ONLY))

soak: $(VENV)/dev.stamp ## Memory under load for MINUTES
	$(BENCH) --only soak --minutes $(MINUTES)

wheel: $(VENV)/dev.stamp ## Build the wheel and the source distribution into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove what was built (var/ stays: it holds mail)
	rm -rf $(VENV) build dist mailstack.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache mailstack/plugins/dropin.cache

# The environment is made again when setup.cfg changes, and otherwise not looked at.
#
# editable_mode=compat puts this folder itself on sys.path; the default of a flat layout is an import hook, and twisted.plugin
# looks for twisted/plugins in folders. The first `twistd --help` writes twisted's list of plugins (dropin.cache).

$(VENV)/run.stamp: setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "mailstack needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --config-settings editable_mode=compat
	@$(BIN)/twistd --help >/dev/null
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --config-settings editable_mode=compat
	@touch $@

$(VENV)/fuzz.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]' --config-settings editable_mode=compat
	@touch $@
