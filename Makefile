# Every target sets up .venv first, if the lock or the project changed since the last time. `make help` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

LOCK := requirements.lock
VENV := .venv
# Of clusters and images: all as in the other, but the newest Ray.
CLUSTER_LOCK := requirements-cluster.lock
CLUSTER_VENV := .venv-cluster
PYTHON := $(VENV)/bin/python
UV := $(VENV)/bin/uv
EPOCH14 := $(PYTHON) -m pipelines
PRESET ?= first_light
ARGS ?=

# Without bytecode on disk each process compiles torch, ray and mlflow anew: 10 s of the 17 s that their import takes.
unexport PYTHONDONTWRITEBYTECODE

# Its functions go to Ray by value, and SlipCover's probes can't be pickled.
BY_VALUE := infra/ray_trial.py

.PHONY: help setup sweep ui test test-newest-ray test-cluster test-slow check format lock manifests reference bench-healthy bench-stories bench-train bench-gpu bench-norms bench-resume bench-fuzz bench-input bench-launches bench-curves bench-diagnosis

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.installed ## create .venv from the lock, by hash

sweep: setup ## the main job: sweep real images, stop what spikes, say why (PRESET=, ARGS="--set key=value")
	$(EPOCH14) sweep $(PRESET) $(ARGS)

ui: setup ## open the MLflow UI on what was recorded
	$(EPOCH14) ui $(ARGS)

# Threads that wait for each other by spinning take the cores from the other processes'; of these there is one more than
# cores, since much of the tests' time is waiting for servers, nodes and limits.
test: export OMP_WAIT_POLICY := passive
test: setup ## the test suite, with coverage (ARGS="-k word")
	$(PYTHON) -m slipcover --branch --skip-covered --source trainables,infra,pipelines --omit $(BY_VALUE) \
		-m pytest -n 3 --dist loadgroup -m "not cluster and not slow" $(ARGS)

test-newest-ray: setup ## the tests that use Ray, on the newest: .venv-cluster, by requirements-cluster.lock (ARGS="-k word")
	$(MAKE) --no-print-directory setup LOCK=$(CLUSTER_LOCK) VENV=$(CLUSTER_VENV)
	OMP_WAIT_POLICY=passive $(CLUSTER_VENV)/bin/python -m pytest -n 3 --dist loadgroup \
		-m "ray and not cluster and not slow" $(ARGS)

test-cluster: setup ## a real `ray up` in network namespaces: submit, scale, lose nodes and the head, down (root, minutes)
	$(PYTHON) -m pytest -m cluster --log-cli-level=INFO --log-cli-format='%(asctime)s %(message)s' $(ARGS)

test-slow: setup ## tests that take minutes: of the benchmarks themselves, of a sweep that is killed
	$(PYTHON) -m pytest -m slow $(ARGS)

check: setup ## lint, format, types, import contracts
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports --no-logo

format: setup ## put the code into shape
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

COMPILE := $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --quiet

lock: $(UV) ## write the locks anew: versions and hashes, no address (ARGS=--upgrade for newer versions)
	$(COMPILE) pyproject.toml --extra dev --extra fast --extra local-mode --output-file $(LOCK) $(ARGS)
	@# uv keeps what an output file pins, if it can: all of the first lock, and the Ray that the second has had.
	awk '/^[^ #]/ { ray = /^ray==/ } (FNR == NR) != ray' $(LOCK) $(CLUSTER_LOCK) > $(VENV)/cluster.lock
	$(COMPILE) pyproject.toml --extra dev --extra fast --output-file $(VENV)/cluster.lock \
		$(if $(findstring --upgrade,$(ARGS)),--upgrade-package ray)
	mv $(VENV)/cluster.lock $(CLUSTER_LOCK)
	$(COMPILE) infra/docker/mlflow.in --constraint $(LOCK) --output-file infra/docker/mlflow.lock

manifests: setup ## every Kubernetes manifest and the schema that it was checked against
	$(PYTHON) -m tests.infra.manifests $(ARGS)

reference: setup ## pipelines/docs/reference.md from the config's docstrings and the commands' help
	$(PYTHON) -m pipelines.reference

bench-healthy: setup ## long healthy runs: the detector must stay silent
	$(PYTHON) tests/benchmarks/healthy.py $(ARGS)

bench-curves: setup ## the detector and five published rules on real training logs (ARGS=--margins)
	$(PYTHON) tests/benchmarks/curves.py $(ARGS)

bench-stories: setup ## the stories and counter-stories over ten seeds
	$(PYTHON) tests/benchmarks/stories.py $(ARGS)

bench-train: setup ## what signals, snapshots and the detector cost a step
	$(PYTHON) tests/benchmarks/train.py $(ARGS)

bench-gpu: setup ## images/s against torchvision's and timm's loops, and of each normalisation
	$(PYTHON) tests/benchmarks/gpu.py $(ARGS)

bench-input: setup ## CPU-seconds of a training image against ImageFolder and other loaders
	$(PYTHON) tests/benchmarks/input.py $(ARGS)

bench-norms: setup ## each normalisation variant trains the digits to 95 % top-1
	$(PYTHON) tests/benchmarks/norms.py $(ARGS)

bench-resume: setup ## weights after SIGKILL and resume against those of an undisturbed run
	$(PYTHON) tests/benchmarks/resume.py $(ARGS)

bench-launches: setup ## what decoding costs the thread that launches kernels: threads against a process
	$(PYTHON) tests/benchmarks/launches.py $(ARGS)

bench-diagnosis: setup ## faults on healthy runs: what is detected, and what it is taken for (ARGS="--limit 100")
	$(PYTHON) -m tests.benchmarks.diagnosis $(ARGS)

bench-fuzz: setup ## mutated JPEGs and shards: pixels or one line, no crash, bounded time and memory
	$(PYTHON) tests/benchmarks/fuzz.py $(ARGS)

# uv comes by pip, by its hash in the lock; all else comes by uv, since a machine's pip may be configured to other versions.
$(UV):
	@python= ; for name in python3.11 python3 python; do \
		if "$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
		then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
		echo "epoch14: error: no Python 3.11 with its venv module on PATH; remedy: apt-get install python3.11-venv" >&2; \
		exit 2; fi; \
	"$$python" -m venv --clear $(VENV)
	@echo "set-up: uv, then everything in $(LOCK)"
	@awk '/^[^ #]/ { wanted = /^uv==/ } wanted' $(LOCK) > $(VENV)/uv.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $(VENV)/uv.lock

$(VENV)/.synced: $(LOCK) | $(UV)
	@$(UV) pip sync --python $(PYTHON) --require-hashes --no-progress --quiet $(LOCK)
	@touch $@

$(VENV)/.installed: $(VENV)/.synced pyproject.toml
	@$(UV) pip install --python $(PYTHON) --no-deps --no-build-isolation --quiet --editable .
	@touch $@
