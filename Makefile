# One target per task; `make help` prints them. tools/setup has the steps of an installation.

PYTHON_IN_VENV := .venv/bin/python
STAMPS := .venv/.stamps
NATIVE_SOURCES := $(wildcard velocity_edge/quic/native/*.py velocity_edge/quic/native/*.[ch])
C_SOURCES := $(shell find bench bpf tests velocity_edge -name '*.[ch]')

# The guide's own command. Other arguments: make run ARGS="--listen [::]:443 --xdp eth0"
ARGS ?= --root public --self-signed --listen 0.0.0.0:4433
# Passed on to pytest and to bench/run.py: make test PYTEST="-k curl -x" JOBS=0, make bench BENCH=--quick
PYTEST ?=
JOBS ?= 3
# A test that crashes its process fails the run; with restarted processes pytest-xdist would wait for ever.
SIDE_BY_SIDE = --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
BENCH ?=
HITLESS ?= --seconds 90
SOAK ?= --seconds 600

# Tests without processes, network and privileges: seconds.
FAST := tests/unit tests/property tests/simulation tests/conformance tests/native/test_layers.py

.DEFAULT_GOAL := help
.PHONY: help build run test check bench hitless hitless-full soak fix clean requirements

help: ## Print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(STAMPS)/run $(STAMPS)/native ## Make .venv with velocity-edge in it (as root, also Debian packages for BPF and the native engine)

run: build ## Build, then serve the welcome page on UDP port 4433
	.venv/bin/velocity-edge serve $(ARGS)

# Most tests wait for processes and clocks more than they compute, so files run in parallel; those that count packets
# or milliseconds (marked `alone`) follow one by one. Exit code 5: no test was selected.
test: build $(STAMPS)/test ## Build, install what the tests need, run all tests
	@part() { $(PYTHON_IN_VENV) -m pytest "$$@" $(PYTEST) || [ $$? -eq 5 ]; }; \
	part -m "not alone" $(SIDE_BY_SIDE); first=$$?; \
	part -m alone && exit $$first

check: build $(STAMPS)/dev ## Format, lint, types and the fast tests; about a minute
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run -Werror $(C_SOURCES)
	.venv/bin/ruff check .
	.venv/bin/mypy
	$(PYTHON_IN_VENV) -m pytest -q $(SIDE_BY_SIDE) -m "not slow and not root and not interop" $(FAST)

fix: $(STAMPS)/dev ## Format, and repair what the linter can
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(C_SOURCES)
	.venv/bin/ruff check --fix .

bench: build $(STAMPS)/bench ## Compare one worker with stock aioquic, nginx and Caddy on this machine (BENCH=--quick: 3 minutes)
	$(PYTHON_IN_VENV) -m bench.run $(BENCH)

hitless: build $(STAMPS)/dev ## Reload, restart, upgrade and kill a node under load, then nginx and Caddy (as root; HITLESS="--full --seed 7")
	tools/sid-root ensure test bench go
	$(PYTHON_IN_VENV) -m tests.hitless.experiment velocity-edge $(HITLESS)
	$(PYTHON_IN_VENV) -m tests.hitless.experiment nginx $(HITLESS)
	$(PYTHON_IN_VENV) -m tests.hitless.experiment caddy $(HITLESS)

hitless-full: HITLESS = --full
hitless-full: hitless ## The same with 20 reloads, 20 rolling restarts, 5 upgrades, 3 kills of workers and supervisors: 20 minutes

soak: build $(STAMPS)/dev ## Change a node for 10 minutes: memory, descriptors, map entries must stay flat (as root; SOAK="--seconds 120")
	tools/sid-root ensure test bench go
	$(PYTHON_IN_VENV) -m tests.hitless.soak $(SOAK)

clean: ## Delete the environment and all build products (not the cached Debian roots: tools/sid-root path)
	rm -rf .venv .build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f velocity_edge/quic/native/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

requirements: $(STAMPS)/run ## Pin the newest versions that pyproject.toml allows
	tools/setup requirements

$(STAMPS)/run: requirements.txt pyproject.toml tools/setup
	tools/setup run
	@mkdir -p $(STAMPS) && touch $@

# When it cannot be built no stamp is written, so that every build reports it.
$(STAMPS)/native: $(STAMPS)/run $(NATIVE_SOURCES) tools/native-deps tools/llhttp requirements-llhttp.txt
	@if tools/setup native; then touch $@; fi

$(STAMPS)/dev: $(STAMPS)/run requirements-dev.txt
	tools/setup dev
	@touch $@

$(STAMPS)/test: $(STAMPS)/dev tools/debian-root
	tools/setup test
	@touch $@

$(STAMPS)/bench: $(STAMPS)/dev tools/debian-root
	tools/setup bench
	@touch $@
