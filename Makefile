# The developer interface: every command that README and docs/developing.md name is here.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export UV_SYSTEM_CERTS := 1

.PHONY: install lock

install: $(READY)

$(READY): requirements/dev.lock requirements/uv.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.lock
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements/uv.lock requirements/dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
           --no-emit-index-url --no-header
lock:
	$(COMPILE) requirements/uv.in -o requirements/uv.lock
	$(COMPILE) pyproject.toml -o requirements/launcher.lock
	$(COMPILE) pyproject.toml --extra cpu --extra helm --extra bench --extra dev -o requirements/dev.lock
	$(COMPILE) pyproject.toml --extra cpu -c requirements/dev.lock -o requirements/cpu.lock
	$(COMPILE) pyproject.toml --extra gpu -c requirements/dev.lock -o requirements/gpu.lock
