# The developer interface: every make target that README.md and docs/ name is here.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Behind a proxy that re-signs traffic only the system's certificates are right.
export UV_SYSTEM_CERTS := 1
# Once, here: where PYTHONDONTWRITEBYTECODE is set each process would compile all of torch anew.
export UV_COMPILE_BYTECODE := 1

.PHONY: install check test test-all campaigns demo bench e2e e2e-core cluster-up cluster-down generate \
        format lock clean

install: $(READY)

# pip brings a pinned uv, uv brings everything else, each by hash and from whatever index is set.
$(READY): requirements/dev.lock requirements/uv.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.lock
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements/uv.lock requirements/dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m clusterfit.config.generate --check
	$(BIN)/python scripts/write_manifests.py --check
	$(BIN)/python -m benchmarks check

test: $(READY)
	$(BIN)/pytest $(PARALLEL) -m "not campaign"

test-all: $(READY)
	$(BIN)/pytest $(PARALLEL)

# On cases that nobody has tried. A failure names its seed, which gives it again.
campaigns: $(READY)
	CLUSTERFIT_CAMPAIGN_SEED=new $(BIN)/pytest $(PARALLEL) -m campaign

# A file's tests share what they have run, so a file stays on one worker. The long files come first
# (testpaths), where xdist would begin with those of most tests and end with one worker idle.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Builds what the cluster needs where that is missing: about twenty minutes the first time.
e2e: $(READY)
	$(BIN)/pytest tests/e2e

# What of it to run first: the ways into a cluster, one crash, the log.
e2e-core: $(READY)
	$(BIN)/pytest tests/e2e -m core

cluster-up: $(READY)
	$(BIN)/python -m tests.cluster up

cluster-down: $(READY)
	$(BIN)/python -m tests.cluster down

demo: $(READY)
	$(BIN)/python examples/write_digits.py demo/digits
	$(BIN)/clusterfit run pretext -f examples/digits.yaml -f examples/digits-longer.yaml $(DEMO)
	$(BIN)/clusterfit run pipeline -f examples/digits.yaml -f examples/digits-compared.yaml $(DEMO)

DEMO := --data-root demo --storage-root demo/runs --nproc-per-node 2

# make bench CASES=assign,update ROUNDS=5: those alone, going on from the rounds that are there.
bench: $(READY)
	$(BIN)/python -m benchmarks run $(if $(CASES),--cases $(CASES)) $(if $(ROUNDS),--rounds $(ROUNDS))

generate: $(READY)
	$(BIN)/python -m clusterfit.config.generate
	$(BIN)/python scripts/write_manifests.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
           --no-emit-index-url --no-header
lock: $(READY)
	$(COMPILE) requirements/uv.in -o requirements/uv.lock
	$(COMPILE) pyproject.toml -o requirements/launcher.lock
	$(COMPILE) pyproject.toml --extra cpu --extra helm --extra bench --extra dev -o requirements/dev.lock
	$(COMPILE) requirements/build.in -c requirements/dev.lock -o requirements/build.lock
	$(COMPILE) pyproject.toml --extra cpu -c requirements/dev.lock -o requirements/cpu.lock
	$(COMPILE) pyproject.toml --extra gpu -c requirements/dev.lock -o requirements/gpu.lock

clean:
	rm -rf $(VENV) demo runs
