# Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench bench-loader proof torture clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[prep,train,export,dev]'
	touch $@

demo: $(READY) ## Draw real-format raws, turn them into a verified store, look at it
	./demo.sh $(BIN)

test: check ## Everything CI runs: check, then the tests
	$(BIN)/python -m pytest

check: $(READY) ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## CPU seconds an image of ingest beside LibRaw's decoding alone
	$(BIN)/python -m benchmarks.ingest

bench-loader: $(READY) ## Images/s of the streaming loader beside DataLoader over a memmap
	$(BIN)/python -m benchmarks.loader

proof: $(READY) ## Does GenISP learn? Three seeds, held-out scenes, about half an hour on two cores
	$(BIN)/python -m scripts.learning_proof --out proof-run

torture: $(READY) ## The fault campaign: kills, damage, hostile files, full disks, 20,000 samples (minutes)
	$(BIN)/python -m tests.torture --json torture.json

clean: ## Remove the environment, caches and the demo
	rm -rf $(VENV) demo-run proof-run .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
