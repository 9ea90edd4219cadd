# Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# pip-audit and what it needs, apart: they are not audited as if the project needed them.
AUDIT := .venv-audit
AUDIT_READY := $(AUDIT)/.ready
# Peers of the loader, over $(VENV): what is there already (torch) is not installed again.
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready
# The oldest torch that pyproject.toml allows, under the Python of machines that have it (6 GB): alone with
# numba, and with everything else over it.
MINIMUM := .venv-minimum
OLDEST := torch==2.11.* torchvision==0.26.*
PYTHON312 ?= python3.12

.DEFAULT_GOAL := help
.PHONY: help demo test check tables wheel format bench bench-loader bench-guidance bench-peers bench-reproduction bench-scaling bench-growth bench-verify bench-augmentation proof torture fuzz audit gpu-check gpu-wheels test-minimum clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[prep,train,export,dev]'
	touch $@

demo: $(READY) ## Draw real-format raws, turn them into a verified store, look at it
	./demo.sh $(BIN)

# Tests at a time. With several, torch's threads would only wait for each other.
JOBS ?= 1
PARALLEL := $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist worksteal)

test: check ## Everything CI runs: check, then the tests (JOBS=2: two at a time)
	$(if $(PARALLEL),OMP_NUM_THREADS=1) $(BIN)/python -m pytest $(PARALLEL)

check: $(READY) ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tables: $(READY) ## Write the parts of the documents that are generated: help, exit codes, findings, JSON
	$(BIN)/python -m scripts.write_tables

wheel: $(READY) ## Build the wheel, install it outside the tree, ingest and verify there
	.ci/wheel $(BIN)/python

format: $(READY) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## CPU seconds an image of ingest beside LibRaw's decoding alone
	$(BIN)/python -m benchmarks.ingest

bench-loader: $(READY) ## Images/s of the streaming loader beside DataLoader over a memmap
	$(BIN)/python -m benchmarks.loader

bench-guidance: $(READY) ## Memory and CPU time of a guidance step and a validation beside torchvision's path
	$(BIN)/python -m benchmarks.guidance

bench-peers: $(PEERS_READY) ## Images/s of the streaming loader beside LitData, MDS, WebDataset, zarr, ...
	$(PEERS)/bin/python -m benchmarks.peers

$(PEERS_READY): $(READY) pyproject.toml benchmarks/peers/no-deps.txt benchmarks/peers/zarr2.txt
	rm -rf $(PEERS)
	$(BIN)/python -m venv $(PEERS)
	$(BIN)/python -c 'import sysconfig as s; open(s.get_path("purelib", vars={"base": "$(PEERS)"}) + "/project.pth", "w").write(s.get_path("purelib"))'
	$(PEERS)/bin/python -m pip install --quiet --editable '.[peers]'
	$(PEERS)/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peers/no-deps.txt
	$(PEERS)/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peers/zarr2.txt --target $(PEERS)/zarr2
	touch $@

bench-scaling: $(READY) ## How an ingest grows with workers, images, megapixels
	$(BIN)/python -m benchmarks.scaling

bench-growth: $(READY) ## How everything grows from 1,000 to 20,000 samples
	$(BIN)/python -m benchmarks.growth

bench-verify: $(READY) ## prep verify beside a bare loop of checksum and decompression
	$(BIN)/python -m benchmarks.verify

bench-augmentation: $(READY) ## Images/s of the streaming loader with augmentation beside without
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.augmentation

bench-reproduction: $(READY) ## CPU seconds an image of ingest beside the reproduction report's way
	$(BIN)/python -m benchmarks.reproduction

proof: $(READY) ## Does GenISP learn? Three seeds, held-out scenes, about half an hour on two cores
	$(BIN)/python -m scripts.learning.proof --out proof-run

torture: $(READY) ## The fault campaign: kills, damage, hostile files, full disks, 20,000 samples (minutes)
	$(BIN)/python -m tests.torture --json torture.json

gpu-check: $(READY) ## What only a GPU can tell: same numbers, frozen detector, step times, memory
	$(BIN)/python -m scripts.gpu_check --out gpu-check.json

# The oldest platform names first found win; pip matches each of them exactly.
GPU_PLATFORMS := $(foreach glibc,_2_34 _2_28 _2_27 _2_24 _2_17 2014 1,--platform manylinux$(glibc)_x86_64)
GPU_PIP := -m pip download --quiet --only-binary=:all: --python-version 3.12 --implementation cp $(GPU_PLATFORMS) --dest .whl

gpu-wheels: $(READY) ## What gpu-check needs on a machine without a network: wheels in .whl (Python 3.12)
	rm -rf .whl build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir .whl .
	$(BIN)/python $(GPU_PIP) "$$(grep '^pydantic' scripts/gpu_check/wheels.txt)"
	$(BIN)/python $(GPU_PIP) --no-deps --requirement scripts/gpu_check/wheels.txt
	rm -rf build
	$(BIN)/python -m scripts.gpu_check.wheels .whl
	@du -sh .whl

test-minimum: $(MINIMUM)/all/.ready gpu-wheels ## GPU check on the CPU and trainer's tests, oldest torch, Python 3.12 (6 GB)
	.ci/minimum $(MINIMUM)

$(MINIMUM)/gpu/.ready:
	rm -rf $(MINIMUM)/gpu
	$(PYTHON312) -m venv $(MINIMUM)/gpu
	$(MINIMUM)/gpu/bin/python -m pip install --quiet $(foreach one,$(OLDEST),'$(one)') numba
	touch $@

$(MINIMUM)/all/.ready: $(MINIMUM)/gpu/.ready pyproject.toml
	rm -rf $(MINIMUM)/all
	$(MINIMUM)/gpu/bin/python -m venv $(MINIMUM)/all
	$(MINIMUM)/gpu/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(echo $(MINIMUM)/all/lib/python3.*/site-packages)/gpu.pth"
	$(MINIMUM)/all/bin/python -m pip install --quiet --editable '.[prep,train,export,dev]' $(foreach one,$(OLDEST),'$(one)')
	touch $@

fuzz: $(READY) ## Coverage-guided fuzzing of our own parsers, a minute each (installs atheris)
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	$(BIN)/python -m tests.torture.hostile_raws.fuzz_parsers --seconds 60

audit: $(AUDIT_READY) ## Known vulnerabilities of what is installed in .venv (asks pypi.org)
	@# Local versions (2.11.0+cpu) are unknown there.
	$(BIN)/python -m pip list --exclude-editable --format=freeze | sed 's/+.*//' > $(AUDIT)/installed.txt && test -s $(AUDIT)/installed.txt
	@# Strict: a package that the service does not know, or does not answer for, fails too.
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement $(AUDIT)/installed.txt || { \
		echo "make audit: NOT passed. Either vulnerabilities are listed above, or the service could not be asked and nothing is known." >&2; exit 1; }

$(AUDIT_READY): $(READY) pyproject.toml
	rm -rf $(AUDIT)
	$(BIN)/python -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet "$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["audit"])')"
	touch $@

clean: ## Remove the environment, caches and the demo
	rm -rf $(VENV) $(PEERS) $(AUDIT) $(MINIMUM) demo-run proof-run .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
