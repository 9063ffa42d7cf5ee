# make demo: landmarks on a photo, from nothing.   make test: all tests but the slow ones.   make test-slow: these.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help setup demo test test-slow check docs bench clean

help:
	@echo "make demo | test | test-slow | check | bench | docs | setup | clean"

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

# What `pip install pipnet` gives: no torch.
$(VENV)/.installed: pyproject.toml | $(VENV)/pyvenv.cfg
	$(PIP) --editable .
	@touch $@

# What developers and trainers need on top.
$(VENV)/.developing: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

setup: $(VENV)/.developing

demo: $(VENV)/.installed
	@mkdir -p out
	$(BIN)/pipnet detect examples/astronaut.jpg --json -o out > out/astronaut.json
	@echo "68 landmarks: out/astronaut.jpg (image) and out/astronaut.json"

# One thread a process: two torch processes on two cores otherwise wait for each other.
test: $(VENV)/.developing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist worksteal

# Tests that make new environments or take minutes. One process: they share pip's cache.
test-slow: $(VENV)/.developing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

check: $(VENV)/.developing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.developing
	$(BIN)/python benchmarks/accuracy/shipped_weights/run.py

docs:
	@echo "The documentation is README.md and docs/; a built site comes with a later release."

clean:
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
