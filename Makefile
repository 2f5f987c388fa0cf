# Everything that a developer runs. `make` alone lists the targets.

# The interpreter that makes .venv: Python 3.10 to 3.13.
PYTHON ?= python3
# The folder for the table, pictures and models of `make demo`.
OUT ?= out/criteo
# More arguments for pytest, such as PYTEST_ARGS="-k schedule -x".
PYTEST_ARGS ?=
# Number of test files that run at a time. Each needs about 3 GB of memory.
TEST_WORKERS ?= 2

# TensorFlow's own log from C++: 1 shows warnings and errors, 2 shows errors only.
export TF_CPP_MIN_LOG_LEVEL ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed.stamp
# DeepSparse needs older packages than ours.
DEEPSPARSE := out/deepsparse
# What `make bench-inference` runs, which `make bench` begins with.
TIMED_ALREADY := $(addprefix benchmarks/,inference.py inference_models.py peers.py \
  xla_profile.py beside_deepsparse.py deepsparse_worker.py)
EXTRAS := recommenders,keras-rs,digits,plots,bench,colabs,hub,tests
BUILD_FILES = find . -path ./$(VENV) -prune -o -type f \
  \( -name BUILD -o -name WORKSPACE -o -name '*.bzl' \) -print
BUILDIFIER := $(VENV)/node/node_modules/.bin/buildifier
BUILDIFIER_VERSION := 8.2.1

.DEFAULT_GOAL := help
.PHONY: help setup demo digits test test-all chaos bench bench-criteo bench-inference \
  architectures wheel notebooks docs lint readme build-files clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED)  ## Make .venv and install the project with everything it needs.

$(INSTALLED): setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $@

demo: setup  ## Prune a click-through model and print the table (OUT=folder).
	$(BIN)/python -m tf_seqattn.criteo --output $(OUT)

digits: setup  ## Prune a digit classifier and run it as TFLite.
	$(BIN)/python -m tf_seqattn.digits --output out/digits

test: setup lint  ## Lint, then run the fast tests (including BUILD files).
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

test-all: setup lint  ## Lint, then run every test, including slow ones, and some chaos.
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m "" $(PYTEST_ARGS)
	$(BIN)/python -m tools.chaos --kills 3 --damages 4

chaos: setup  ## Kill and starve commands at random; nothing may be lost (an hour).
	$(BIN)/python -m tools.chaos --results benchmarks/results/chaos.md

bench: setup bench-inference  ## Run every benchmark, one after another; name those that fail.
	@failed=; for file in $(filter-out $(TIMED_ALREADY),$(wildcard benchmarks/*.py)); do \
	  echo "== $$file"; $(BIN)/python -m benchmarks.$$(basename $$file .py) \
	    || failed="$$failed $$file"; done; \
	if [ "$$failed" ]; then echo "Failed:$$failed. Their docstrings name the extras."; false; fi

bench-criteo: setup  ## Train the grid of the paper's table 2 (hours; can be resumed).
	$(BIN)/python -m tf_seqattn.criteo.grid --output out/grid --results benchmarks/results

bench-inference: setup  ## Time packed and dense models, by layer and whole.
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS),peers]"
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.inference_models
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.xla_profile
	@if $(PYTHON) -m venv $(DEEPSPARSE) \
	  && $(DEEPSPARSE)/bin/pip install --quiet deepsparse==1.8.0; then \
	  $(BIN)/python -m benchmarks.beside_deepsparse --python $(DEEPSPARSE)/bin/python; \
	else echo "DeepSparse is not compared: it needs Python 3.8 to 3.11."; fi

wheel: setup  ## Build the wheel, to upload to Colab, in out/wheel.
	$(BIN)/python -m build --outdir out/wheel

notebooks: setup  ## Run each notebook in a new environment, from the wheel (half an hour).
	$(BIN)/python -m tools.run_notebooks

docs: setup  ## Build the guides and the reference as a site in out/docs.
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m sphinx --quiet --fail-on-warning -b html docs out/docs
	@echo "Open out/docs/index.html."

architectures: setup  ## Take a network of every family through everything (docs/architectures.md).
	$(BIN)/python -m tests.architectures.sweep --output docs/architectures.md

lint: setup  ## Check style, types of the package and BUILD files.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if $(MAKE) --silent $(BUILDIFIER); then \
	  $(BUILD_FILES) | xargs $(BUILDIFIER) -mode=check -lint=warn; \
	else \
	  echo "buildifier could not be installed: the style of BUILD files is unchecked." \
	    "Install npm (https://nodejs.org) to check it."; \
	fi

$(BUILDIFIER):
	@command -v npm > /dev/null || { echo "npm was not found."; exit 1; }
	npm install --silent --no-fund --no-audit --prefix $(VENV)/node \
	  @bazel/buildifier@$(BUILDIFIER_VERSION)

readme: setup  ## Write measured results into README.md and docs/results.md.
	$(BIN)/python tools/make_readme.py

build-files: setup  ## Write the BUILD files from the imports.
	$(BIN)/python tools/make_build.py

clean:  ## Remove what the targets above made.
	rm -rf $(VENV) out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
