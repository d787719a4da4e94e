# Every target sets itself up: a machine needs Python 3.11+ with venv, and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Tests spend most of their time compiling: without optimisation, and in one part. A test process on
# each of up to four cores; one that is done takes over tests of another.
PYTEST := XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true \
  --xla_cpu_parallel_codegen_split_count=1 $$XLA_FLAGS" $(RUN) -m pytest -n auto --maxprocesses=4 --dist=worksteal

.PHONY: help demo examples test test-fast test-exhaustive test-integrations lint tables bench bench-gpu wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /	/'

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(VENV)/.installed  ## attack 64 users of a synthetic data set with 1, 2 and 4 gradients
	$(RUN) scripts/attack.py --config=configs/quickstart.py

# Environments of frameworks, each of its own: their requirements exclude each other's and ours.
$(VENV)-%/.installed: examples/requirements-%.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)-%/.installed: benchmarks/peers/requirements-%.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

examples: $(VENV)/.installed $(VENV)-flower/.installed  ## train NCF in PyTorch and in Flower, and audit both; installs 1.4 GB
	for system in torch_ncf flower_ncf; do mkdir -p runs/$$system && \
	  PYTHONPATH=integrations $(VENV)-flower/bin/python examples/$$system/train.py --clients=10 --rounds=3 \
	    --capture=runs/$$system/capture --truth=runs/$$system/truth.csv && \
	  $(RUN) scripts/audit.py runs/$$system/capture --truth=runs/$$system/truth.csv --rounds=1 \
	    --workdir=runs/$$system || exit 1; \
	done

test: $(VENV)/.installed-dev  ## the tests, without whole runs in many settings
	$(PYTEST) -m 'not (exhaustive and slow)'

test-exhaustive: $(VENV)/.installed-dev  ## whole runs in many settings: smoke configs, several processes, fuzz
	$(PYTEST) -m 'exhaustive and slow'

test-fast: $(VENV)/.installed-dev  ## the tests without those marked slow
	$(PYTEST) -m 'not slow'

test-integrations: $(VENV)/.installed-dev $(VENV)-flower/.installed $(VENV)-nvflare/.installed $(VENV)-pfl/.installed  ## writers of captures in their frameworks; installs 3.6 GB
	FEDINV_VENV_FLOWER=$(CURDIR)/$(VENV)-flower FEDINV_VENV_NVFLARE=$(CURDIR)/$(VENV)-nvflare \
	  FEDINV_VENV_PFL=$(CURDIR)/$(VENV)-pfl $(RUN) -m pytest tests/integrations

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

tables: $(VENV)/.installed  ## write the tables of measured numbers into the pages, from results/
	$(RUN) scripts/tables.py

bench: $(VENV)/.installed  ## speed of MGradInv, exact attacks and training, and the share of the machine's rate
	$(RUN) benchmarks/mgradinv.py
	$(RUN) benchmarks/others.py

# A machine with a GPU has a Python with JAX for its card, and often no network: nothing is installed.
bench-gpu:  ## speed on a GPU with the machine's own PYTHON, at most 8 minutes; writes runs/bench_gpu.json
	mkdir -p runs
	-XLA_PYTHON_CLIENT_PREALLOCATE=false timeout 340 $(PYTHON) benchmarks/gpu.py --repeats=3 --seconds=.5 --json=runs/bench_gpu.json \
	  $$($(PYTHON) -c 'import torch' 2>/dev/null && echo --torch=$(PYTHON))
	XLA_PYTHON_CLIENT_PREALLOCATE=false timeout 130 $(PYTHON) -m pytest -n 4 --maxfail=20 -m 'not slow' tests

wheel: $(VENV)/.installed-dev  ## build the wheel into dist/
	$(RUN) -m pip wheel --no-deps --no-build-isolation -w dist .

clean:  ## remove the environment, caches and what was built, keep runs/
	rm -rf $(VENV) $(VENV)-* .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
