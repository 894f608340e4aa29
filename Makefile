# Two commands: `make serve` runs the server, `make test` runs the tests. Both make .venv when it is missing or stale.
# Written for GNU make 3.81 and the BSD tools too, which macOS has.
MODEL ?= sentence-transformers/all-MiniLM-L6-v2
HOST ?= 127.0.0.1
PORT ?= 30000
ARGS ?=
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNELS := $(VENV)/.kernels
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := src tests benchmarks examples hatch_build.py mkdocs_hooks.py

.DEFAULT_GOAL := help
.PHONY: help serve test install lint secrets audit format bench clients cluster soak fuzz disconnects \
  kernels-check kernels-elsewhere docs clean

help:  ## Show this list.
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Variables: MODEL=$(MODEL) HOST=$(HOST) PORT=$(PORT) PYTHON=$(PYTHON) ARGS='further flags'"

serve: $(KERNELS)  ## Serve MODEL on HOST:PORT.
	@exec $(BIN)/embedway serve "$(MODEL)" --host "$(HOST)" --port "$(PORT)" $(ARGS)

# With ARGS it is for somebody at work on a few tests, who lints later.
test: $(KERNELS) $(if $(ARGS),,lint)  ## Run everything that CI runs; with ARGS='tests/inputs -x' only those tests.
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

install: $(KERNELS)  ## Make .venv with everything in it.

# A .venv without pip is a half-made one, or its Python is gone: it is made anew, once $(PYTHON) is seen to be able to.
$(STAMP): pyproject.toml constraints.txt
	@if ! { $(BIN)/python -m pip --version || $(BIN)/python -m ensurepip; } >/dev/null 2>&1; then \
	  rm -rf $(VENV); \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	    { echo "Python 3.10 or newer is needed, and '$(PYTHON)' is not: give one as in PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "'$(PYTHON)' cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }; \
	  $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
	fi
	$(PIP) install --quiet --constraint constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	EMBEDWAY_NO_KERNELS=1 $(PIP) install --quiet --constraint constraints.txt --editable '.[minilm,torch,media,otel,lance,ray,dev]'
	@touch $(STAMP)

# The native library, compiled anew when its sources change; without a compiler the same models run on torch.
$(KERNELS): $(STAMP) $(wildcard src/embedway/kernels/src/*) src/embedway/kernels/compile.py
	@$(BIN)/python -m embedway.kernels.compile || echo "Going on without it: models will run on torch, slower." >&2
	@touch $(KERNELS)

lint: $(STAMP) secrets  ## Check style, format, types, who imports whom, and that no secret is in a file.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ty check --python $(VENV) --error-on-warning
	$(BIN)/lint-imports

# Not by words like "api_key", beside which all tests have values of their own; real keys show by their randomness or
# their makers' prefixes. One that is none is marked where it stands: `# pragma: allowlist secret`.
secrets: $(STAMP)  ## Look for keys, tokens and passwords in all files that git knows.
	@git ls-files -z -- . ':!*.png' ':!*package-lock.json' | xargs -0 -n 150 -P 2 \
	  $(BIN)/detect-secrets-hook --no-verify --disable-plugin KeywordDetector

AUDIT := build/audit

audit:  ## Look the pinned versions up in the advisory database (needs the network; not part of CI's run).
	@[ -x $(AUDIT)/bin/pip-audit ] || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install --quiet pip-audit==2.10.1; }
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

format: $(STAMP)  ## Mend style and format.
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(KERNELS)  ## Measure this server beside its peers, those that benchmarks.install_peers has installed.
	$(BIN)/python -m benchmarks.serving $(ARGS)

# Python's clients and Node's, each installed by itself where they cannot be together; what is missing is then skipped.
CLIENTS := tests/clients
CLIENTS_VENV := .venv-clients
CLIENTS_PIP := $(CLIENTS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(CLIENTS)/constraints.txt

$(CLIENTS_VENV)/.installed: $(CLIENTS)/requirements.txt $(CLIENTS)/constraints.txt
	rm -rf $(CLIENTS_VENV)
	$(PYTHON) -m venv $(CLIENTS_VENV)
	@if $(CLIENTS_PIP) --requirement $(CLIENTS)/requirements.txt; then touch $@; else \
	  for client in $$(grep -v '^#' $(CLIENTS)/requirements.txt); do \
	    $(CLIENTS_PIP) "$$client" || echo "Going on without $$client, which cannot be installed here." >&2; \
	  done; \
	fi

$(CLIENTS)/node/node_modules/.package-lock.json: $(CLIENTS)/node/package-lock.json
	@npm ci --prefix $(CLIENTS)/node && touch $@ || echo "Going on without Node's clients: they want node and npm." >&2

clients: $(KERNELS) $(CLIENTS_VENV)/.installed $(CLIENTS)/node/node_modules/.package-lock.json  ## Run what docs/clients.md shows, with all clients (2 GB).
	$(BIN)/python -m pytest tests/server/test_clients_page.py tests/server/test_clients.py $(ARGS)

cluster: $(KERNELS)  ## Run the application on clusters of several nodes on this machine, and take some away.
	CLUSTER_TESTS=1 $(BIN)/python -m pytest tests/cluster $(ARGS)

# What make test does in short: each prints what it saw.
SOAK_SECONDS ?= 600
BODIES ?= 20000
DISCONNECTS ?= 10000

soak: $(KERNELS)  ## Mixed traffic while engines are killed, stopped and replaced, for SOAK_SECONDS.
	SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -qs tests/faults/test_soak.py

fuzz: $(KERNELS)  ## BODIES that are broken in every way, the same ones for the same SEED.
	BODIES=$(BODIES) SEED=$(SEED) $(BIN)/python -m pytest -qs tests/faults/test_fuzzed_bodies.py

disconnects: $(KERNELS)  ## DISCONNECTS clients that go away at every point of a request.
	DISCONNECTS=$(DISCONNECTS) $(BIN)/python -m pytest -qs tests/faults/test_disconnects.py

# ROUNDS random models and attentions for each instruction set and type; SEED chooses them.
ROUNDS ?= 30
SEED ?= 1
CHECK := build/kernels
CHECK_SOURCE := -Isrc/embedway/kernels/src tests/kernels/kernel_check.cpp
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1

kernels-check: $(STAMP)  ## Compare the native library with double precision, under AddressSanitizer and UBSan.
	@mkdir -p $(CHECK)
	$(BIN)/python -m embedway.kernels.compile --emulate-amx --output $(CHECK)/libsanitized.so $(SANITIZE:%=--flag=%)
	$${CXX:-g++} -std=c++17 $(SANITIZE) $(CHECK_SOURCE) $(CHECK)/libsanitized.so -Wl,-rpath,$(CURDIR)/$(CHECK) -o $(CHECK)/check
	$(CHECK)/check $(ROUNDS) $(SEED)

# Debian: apt install qemu-user g++-aarch64-linux-gnu
kernels-elsewhere: $(STAMP)  ## The same under qemu: an Arm CPU with and without bf16, x86 CPUs without AVX-512 and AVX.
	@mkdir -p $(CHECK)
	$(BIN)/python -m embedway.kernels.compile --machine aarch64 --compiler aarch64-linux-gnu-g++ --output $(CHECK)/libarm.so
	aarch64-linux-gnu-g++ -std=c++17 -O1 $(CHECK_SOURCE) $(CHECK)/libarm.so -Wl,-rpath,$(CURDIR)/$(CHECK) -o $(CHECK)/check_arm
	for cpu in max cortex-a57; do qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu $$cpu $(CHECK)/check_arm 2 $(SEED) || exit 1; done
	$(BIN)/python -m embedway.kernels.compile --output $(CHECK)/libx86.so
	$${CXX:-g++} -std=c++17 -O1 $(CHECK_SOURCE) $(CHECK)/libx86.so -Wl,-rpath,$(CURDIR)/$(CHECK) -o $(CHECK)/check_x86
	for cpu in Haswell Nehalem; do qemu-x86_64 -cpu $$cpu $(CHECK)/check_x86 2 $(SEED) || exit 1; done

docs: $(STAMP)  ## Show the documentation's site on http://127.0.0.1:8000.
	$(BIN)/mkdocs serve

clean:  ## Remove .venv and everything that was built.
	rm -rf src/embedway/kernels/*.so* $(VENV) .venv-clients tests/clients/node/node_modules build dist .pytest_cache .ruff_cache .hypothesis .schemathesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
