PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-fast test-lowest test-newest lint docs bench paper paper-docs clean

## Train on real data and compare the runs: no account, no network after installation.
demo: $(READY)
	WANDB_MODE=offline $(BIN)/python examples/digits.py

## Everything CI checks.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

## What needs no process of its own, no server, no browser and no GPU: while you work.
test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not (integration or browser or gpu or slow)"

## The paper's claims by real training (docs/paper/): one study, all of them, the pages from the runs that are kept.
PAPER := fig1 fig2 fig4 table1 sec21 sec22 sec32 sec32b pipeline zero

$(PAPER:%=paper-%): paper-%: $(READY)
	$(BIN)/python -m examples.paper run $*

paper: $(PAPER:%=paper-%)

paper-docs: $(READY)
	$(BIN)/python -m examples.paper draw

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/prose.py

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
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis demo paper site
