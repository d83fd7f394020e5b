# make         set up .venv, then run the demonstration (report in out/demo/report.html)
# make test    every test        make lint   ruff, pyright, import-linter
# make bench   every benchmark   make docs   the documentation, pages executed as they build
#
# Another interpreter: make PYTHON=/path/to/python3.11

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
WORKERS ?= 2

.PHONY: demo test lint bench docs clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/abduce demo -o out/demo

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/run_all.py

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) out docs/_build docs/results docs/jupyter_execute .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: what a person runs needs only the first; each set of tools is installed when first asked for.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make $(VENV): on Debian, apt-get install python3.11-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "installing abduce into $(VENV) (torch is large: this can take a few minutes)" >&2
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(PIP) -e '.[$*]'
	@touch $@

.SECONDARY: $(VENV)/.installed
