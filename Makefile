# Every target sets up all that it needs, and is quick when nothing has changed.
# Another Python: PYTHON=python3.12 make test

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# Test processes; each holds about 2 GB.
JOBS ?= 2
# Further arguments of pytest or of the demo: make test ARGS="-k rotated"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo federated-demo test lint bench zoo doctor clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.detectron2 ## virtual environment, PyTorch, Detectron2 and this package, in .venv

demo: setup ## real photographs of a forest: convert, check, train, evaluate, look
	@$(PY) -m seriatim.demo $(ARGS)

federated-demo: setup ## four parties and a coordinator, processes that speak over TLS (DIGITS=folder of npz files)
	@OMP_NUM_THREADS=1 $(PY) projects/KD3A/federate.py demo $(if $(DIGITS),--digits $(DIGITS)) $(ARGS)

test: setup ## all tests
	@# One thread each: the processes already use the cores.
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: setup ## format and rules, by ruff
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .

bench: setup ## the figures in the documentation, each measured beside a peer
	@# Without the ablation, which trains for hours.
	@for script in $$(ls benchmarks/[!_]*.py | grep -v ablation); do \
		[ -f "$$script" ] || continue; echo "== $$script"; $(PY) "$$script" || exit $$?; \
	done

zoo: setup ## planted silent bugs: which do the gates catch? (resumes; ARGS="--watch")
	@OMP_NUM_THREADS=1 $(PY) -W ignore -m tests.bug_zoo $(ARGS)

doctor: setup ## versions, devices, and what is wrong with them
	@$(PY) -m seriatim.doctor

clean: ## remove what make made (downloads in .cache and results of runs stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps lie in the virtual environment, so that they go when it goes.

$(VENV)/.python:
	@sh tools/check_python.sh $(PYTHON)
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.package: $(VENV)/.python setup.py constraints.txt
	@echo "Installing PyTorch and the other packages (some GB with CUDA's libraries; a few minutes)"
	@# setuptools: without it pip cannot read the metadata of Detectron2's sources.
	@$(PIP) install --constraint constraints.txt setuptools --editable ".[dev]"
	@touch $@

$(VENV)/.detectron2: $(VENV)/.package $(shell find tools/detectron2 -name '*.py' -o -name '*.txt')
	@$(PY) -m tools.detectron2
	@touch $@
