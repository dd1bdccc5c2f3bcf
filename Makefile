PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-fast test-slow coverage test-lowest test-newest lint types types-of-tests docs bench paper paper-docs clean

## Train on real data and compare the runs: no account, no network after installation.
demo: $(READY)
	WANDB_MODE=offline $(BIN)/python examples/digits.py

## Everything CI checks.
test: lint
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

## What needs no process of its own, no server, no browser and no GPU: while you work.
test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not (integration or browser or gpu or slow)"

## What takes minutes: kills, faults, the demo behind the README's caption, tutorials that train.
test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist load -m slow

## What the tests run of the package, with ten times as many examples of properties; less than the floor in pyproject.toml
## fails. Several times as slow as `make test`.
coverage: $(READY)
	$(BIN)/python -m pip install --quiet pytest-cov
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

## The tests that concern other packages' versions, on the lowest and on the newest that pyproject.toml admits. TORCH= names
## a wheel for the CPU: any other would bring gigabytes of CUDA.
TORCH := 2.13.0
RANGE := tests/pricing tests/storage tests/sources tests/analysis tests/cli tests/probes/energy tests/integrations/lightning \
  $(patsubst %,tests/report/test_%.py,charts files wandb)
TOOLS := lightning alembic 'jsonargparse[signatures]' hypothesis jsonschema markdown-it-py mlflow-skinny playwright pytest \
  pytest-xdist pytorch_optimizer scikit-learn sqlalchemy tensorboard

test-lowest: ; $(call try,lowest,-c constraints-lowest.txt)
test-newest: ; $(call try,newest,--upgrade --upgrade-strategy eager)

# In a virtual environment of its own. Old packages may warn.
define try
$(PYTHON) -m venv .venv-$(1)
.venv-$(1)/bin/python -m pip install --quiet --upgrade pip
.venv-$(1)/bin/python -m pip install --quiet $(2) torch==$(TORCH) -e '.[report,wandb]' $(TOOLS)
.venv-$(1)/bin/python -m pip check
.venv-$(1)/bin/python -m pytest -n 2 --dist loadfile -W default $(RANGE)
endef

## The paper's claims by real training (docs/paper/): one study, all of them, the pages from the runs that are kept.
PAPER := fig1 fig2 fig4 table1 sec21 sec22 sec32 sec32b pipeline zero

$(PAPER:%=paper-%): paper-%: $(READY)
	$(BIN)/python -m examples.paper run $*

paper: $(PAPER:%=paper-%)

paper-docs: $(READY)
	$(BIN)/python -m examples.paper draw

lint: types types-of-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tools/prose.py

types: $(READY)
	$(BIN)/mypy

types-of-tests: $(READY)
	$(BIN)/mypy --config-file tests/mypy.ini --cache-dir .mypy_cache/tests  # one for both would be made anew by each

## The documentation as a site, in site/: any warning fails the build.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(READY)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/census.py
	$(BIN)/python benchmarks/paper_tables.py
	$(BIN)/python benchmarks/compare_scale.py --runs 250 500 1000

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	-$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib  # pip compiles on one core; templates are no Python
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis demo paper site
