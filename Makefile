# wsolkit: every command installs what it needs when it is missing.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 0
EXECUTE ?= off
SMALL ?= yes
CHAPTERS := build/nbval/notebooks
STAMP := $(VENV)/.installed
NBVAL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --nbval-current-env
# as many files at a time as there are cores (four at most), each on one thread
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# dozens of processes start here, and each would compile the package and the tests again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install reports check test test-notebooks test-modules bench lint types lab measure numbers screenshots docs clean

help: ## show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PYTHON=$(PYTHON) VENV=$(VENV) JOBS=$(JOBS) (runs at a time, 0 is one per core)"

install: $(STAMP) ## make .venv with the tested versions and the package

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; run make PYTHON=python3.12 (or another)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

reports: $(STAMP) ## train on synthetic birds, localise with six methods, write reports/index.html
	$(BIN)/wsolkit sweep --dataset synthetic --backbones vgg16,resnet18 --limit score_cam=32 --jobs $(JOBS) --out reports

check: lint types ## for every save: style, layers, types and the fast tests
	$(PARALLEL) -m "not slow" tests

test: $(STAMP) ## run every test: modules, notebooks, one sweep opened in a browser
	$(MAKE) --no-print-directory --output-sync --jobs 2 test-notebooks test-modules

# Each cell of every chapter runs, with small parameters (SMALL= takes the notebooks as they are, some 50 minutes on two
# cores); 00_tour is compared with its stored outputs, as it is.
test-notebooks: export WSOLKIT_OUT = $(CURDIR)/build/nbval
test-notebooks: $(STAMP)
	$(NBVAL) --nbval notebooks/00_tour.ipynb
	$(if $(SMALL),$(BIN)/python tools/small_notebooks.py $(CHAPTERS))
	$(NBVAL) --nbval-lax --nbval-cell-timeout=3000 $(or $(SMALL:%=$(CHAPTERS)),$(filter-out %/00_tour.ipynb,$(sort $(wildcard notebooks/*.ipynb))))

test-modules: $(STAMP)
	$(PARALLEL) --durations=10 tests

bench: $(STAMP) ## time evaluator, localisation and training against OpenCV, grad-cam and a DataLoader, side by side
	$(BIN)/python benchmarks/evaluator.py
	$(BIN)/python benchmarks/localisation.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/annotate.py

measure: $(STAMP) ## run what README's numbers come from again, three seeds (needs ../shared)
	$(BIN)/python tools/measured.py --measure

numbers: $(STAMP) ## write README's tables from tools/measured.csv
	$(BIN)/python tools/measured.py

docs: export WSOLKIT_OUT = $(CURDIR)/build/nbval
docs: $(STAMP) ## build the site into build/site, without a network; EXECUTE=cache runs the notebooks first
	$(BIN)/python -m sphinx -q -W --keep-going -a -D nb_execution_mode=$(EXECUTE) -d build/doctrees -c docs . build/site
	@echo build/site/index.html

screenshots: $(STAMP) ## take README's screenshots from the pages of make reports
	$(BIN)/python tools/screenshots.py

lint: $(STAMP) ## check style, notebooks included, and that imports follow the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP) ## check the types of the package
	$(BIN)/mypy

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

clean: ## remove .venv; reports stay
	rm -rf $(VENV)
