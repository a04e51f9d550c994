# Each target sets up what it needs in .venv; nothing outside this folder is touched but the caches of pip and of this project.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  ?= torch==2.13.0
NATIVE := pyproject.toml CMakeLists.txt $(wildcard src/*) $(wildcard patches/*/*) patches/upstreams.json

.PHONY: demo test test-slow parity parity-table conformance-table upstream-table tokenizer-table bench bench-quick lint check clean

demo: $(VENV)/installed
	$(BIN)/modernbert-llama demo

test: $(VENV)/installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow $(ARGS)

parity: $(VENV)/installed-compare
	$(BIN)/python -m pytest -m live

parity-table: $(VENV)/installed
	$(BIN)/python tests/parity_table.py

conformance-table: $(VENV)/installed
	$(BIN)/python tests/conformance_table.py

upstream-table: $(VENV)/installed
	$(BIN)/python tests/upstream_table.py

tokenizer-table: $(VENV)/installed-compare
	$(BIN)/python tests/tokenizer_table.py

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks --quick

lint: $(VENV)/installed-dev
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/clang-format --dry-run --Werror src/*

check: $(VENV)/installed
	$(BIN)/modernbert-llama patches check

clean:
	rm -rf build dist third_party $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python $(NATIVE)
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@

# the package is there: only what its extras ask for is added, nothing is built again
$(VENV)/installed-compare: $(VENV)/installed
	$(BIN)/python -m pip install -q '$(TORCH)'
	$(BIN)/python -m pip install -q 'modernbert-llama[compare]' sentence-transformers
	touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install -q '$(TORCH)'
	$(BIN)/python -m pip install -q 'modernbert-llama[bench]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -q 'modernbert-llama[dev]'
	touch $@
