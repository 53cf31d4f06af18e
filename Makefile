# Each command makes the virtual environment on its first run.
#   make demo        a small network learns to answer within half of its cost, in about a minute
#   make test        style, types, layers and tests
#   make test-core   the tests that need NumPy, SciPy and PyArrow alone, where nothing else is installed
#   make test-lowest the same with the lowest versions that pyproject.toml names; with EXTRA=dev those of every extra
#   make mutants     changes the code that the guarantees rest on, one place at a time: the tests must notice
#   make docs        the documentation, into docs/_build/html, and every snippet of it
#   make dist        the package, into dist/, checked, installed in an empty environment, and tried there with the demo
PYTHON ?= python3
VENV   := .venv
CORE   := .venv-core
LOWEST := .venv-lowest
EXTRA  := test
DIST   := .venv-dist
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# The demo takes the environment of developers if there is one, else a smaller one.
DEMO   := $(if $(wildcard $(READY)),$(VENV),.venv-demo)
# A quarter more processes than cores (tests/conftest.py); a file's tests stay together, since they share what they
# trained. In the order of the files:
# sorted by their number of tests, the few of Ray, which wait most, would come last.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
# Idle threads that spin would fight over the cores; nothing here needs a model hub.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_OFFLINE := 1
# Tests start hundreds of processes: compile the code once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-core test-lowest mutants lint docs dist dist-demo clean

$(READY): pyproject.toml
	@echo "installing into $(VENV): some minutes, the first time only"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# The whole job on digits among clutter: train a network with four exits, keep half of its cost, look.
define run_demo
	$(1)/exeunt train --model exeunt.zoo:digits --data sklearn:cluttered-digits --exits 3 --mode joint --epochs 8 --batch-size 64 --augment none --out $(2)/run
	$(1)/exeunt calibrate $(2)/run --budget 50% --delta 0.05
	$(1)/exeunt evaluate $(2)/run
	$(1)/exeunt predict $(2)/run --data sklearn:cluttered-digits --out $(2)/predictions.parquet
endef

.venv-demo/.ready: pyproject.toml
	@echo "installing into .venv-demo: a minute or two, the first time only"
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --editable ".[demo]"
	touch $@

demo: $(DEMO)/.ready
	rm -rf demo-out
	mkdir demo-out
	$(call run_demo,$(DEMO)/bin,demo-out)

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

# The lowest versions that have a wheel for this Python.
$(LOWEST)/.ready: pyproject.toml
	@echo "installing into $(LOWEST): some minutes, the first time only"
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip compile --quiet --python $(LOWEST) --resolution lowest-direct --only-binary :all: --extra $(EXTRA) --output-file $(LOWEST)/lowest.txt pyproject.toml
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --requirement $(LOWEST)/lowest.txt --editable .
	touch $@

# Old packages of the extras warn of what new ones deprecate.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest $(if $(filter dev,$(EXTRA)),-W default) $(PARALLEL)

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

# In an environment with nothing but the wheel, and from a folder where the repository is not.
dist: $(READY)
	rm -rf dist $(DIST)
	$(BIN)/python -m build --quiet
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip install --quiet "$$(echo dist/*.whl)[demo]"
	mkdir $(DIST)/demo
	cd $(DIST)/demo && $(MAKE) --file ../../Makefile --silent dist-demo

dist-demo:
	$(call run_demo,../bin,.)

clean:
	rm -rf $(VENV) .venv-demo $(CORE) $(LOWEST) $(DIST) dist demo-out docs/_build mutants
