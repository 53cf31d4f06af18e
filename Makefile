# Each command makes the virtual environment on its first run.
#   make demo        a small network learns to answer within half of its cost, in about a minute
#   make test        style, types, layers and tests
#   make test-core   the tests that need NumPy, SciPy and PyArrow alone, where nothing else is installed
#   make mutants     changes the code that the guarantees rest on, one place at a time: the tests must notice
#   make docs        the documentation, into docs/_build/html, and every snippet of it
PYTHON ?= python3
VENV   := .venv
CORE   := .venv-core
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# One process per core; a file's tests stay together, since they share what they trained.
PARALLEL := -n auto --dist loadfile
# Idle threads that spin would fight over the cores; nothing here needs a model hub.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_OFFLINE := 1
# Tests start hundreds of processes: compile the code once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-core mutants lint docs clean

$(READY): pyproject.toml
	@echo "installing into $(VENV): some minutes, the first time only"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# The whole job on scikit-learn's digits: train a network with four exits, keep half of its cost, look.
demo: $(READY)
	rm -rf demo-out
	mkdir demo-out
	$(BIN)/exeunt train --model exeunt.zoo:digits --data sklearn:digits --exits 3 --mode joint --epochs 30 --augment none --out demo-out/run
	$(BIN)/exeunt calibrate demo-out/run --budget 50% --delta 0.05
	$(BIN)/exeunt evaluate demo-out/run
	$(BIN)/exeunt predict demo-out/run --data sklearn:digits --out demo-out/predictions.parquet

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest $(PARALLEL)

$(CORE)/.ready: pyproject.toml
	@echo "installing into $(CORE): some minutes, the first time only"
	$(PYTHON) -m venv $(CORE)
	$(CORE)/bin/python -m pip install --quiet --editable ".[test]"
	touch $@

test-core: $(CORE)/.ready
	$(CORE)/bin/python -m pytest $(PARALLEL)

# Which and with what tests: pyproject.toml. A few mutants would take all memory, hence the limit of 8 GB. Look at the
# survivors with `.venv/bin/mutmut results` and `show NAME`.
mutants: $(READY)
	$(BIN)/python -m pip install --quiet "mutmut>=3.8"
	ulimit -v 8000000 && OPENBLAS_NUM_THREADS=1 $(BIN)/python -m mutmut run --max-children 1

# Warnings are errors. Pages are read anew each time, since docstrings change under them.
docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -E -q -b html docs docs/_build/html
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_docs.py
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) $(CORE) demo-out docs/_build mutants
