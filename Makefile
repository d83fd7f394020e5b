# Takes the first Python from 3.11 on that it finds; another one: make PYTHON=/path/to/python3. Times are those of two cores;
# the first time, what a target needs is installed: a few minutes for torch, seconds for the rest.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
WORKERS ?= 2

.PHONY: demo test test-scale test-wheel test-kill fuzz lint hooks bench docs docs-quick clean
.DEFAULT_GOAL := demo

# The demonstration: a report in out/demo/report.html. Three minutes.
demo: $(VENV)/.installed
	$(BIN)/abduce demo -o out/demo

# Every test, doctests included. Half an hour.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

# The tests that need Ray and Dask, which it installs: processes and actors that die, partitions, passes. Three minutes.
test-scale: $(VENV)/.installed-test $(VENV)/.installed-scale
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_engines.py tests/estimators/test_dask.py tests/estimators/test_ray_data.py \
		tests/estimators/test_shared_passes.py -k "ray or cluster or dask"

# A hundred kills of each command that writes, at seeded moments, where `make test` has ten. Ten minutes.
test-kill: $(VENV)/.installed-test
	ABDUCE_KILLS=100 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s tests/cli/test_kills.py

# Ten thousand damaged files for each reader, model folders and what compress wrote; defects in out/fuzz/. An hour or two.
fuzz: $(VENV)/.installed-test $(VENV)/.installed-fuzz
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz_many.py

# The wheel, built, installed into an empty environment and tested from there; of another Python: make test-wheel PYTHON=python3.13.
# Ten minutes, most of them the installation; WHEEL_TESTS=tests is all tests.
WHEEL := out/wheel
WHEEL_TESTS ?= tests/test_package.py tests/test_verbs.py tests/cli/test_cli.py tests/estimators/test_estimator.py tests/golden
test-wheel:
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)/env
	$(WHEEL)/env/bin/python -m pip wheel --quiet --no-deps -w $(WHEEL) .
	$(WHEEL)/env/bin/python -m pip install --quiet -c constraints.txt "$$(ls $(WHEEL)/abduce-*.whl)[test]"
	cp -r tests pyproject.toml constraints.txt Makefile README.md $(WHEEL)/
	cd $(WHEEL) && PYTHONPATH= OMP_NUM_THREADS=1 env/bin/python -m pytest -q -n $(WORKERS) $(WHEEL_TESTS)

# Style, types, and which room may import which. 40 seconds, nearly all of it pyright's.
lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The same checks before each commit, from now on. Seconds.
hooks: $(VENV)/.installed-lint
	$(BIN)/pre-commit install

# Every benchmark, one after the other, into benchmarks/results/. Many hours; `benchmarks/run_all.py --quick NAME` is a look at one.
bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/run_all.py

# The documentation in docs/_build/html, pages executed as they build; it needs no network to read. Six minutes.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# Whether the code on the pages still runs, the slowest left out, without building them. Two minutes.
docs-quick: $(VENV)/.installed-docs
	$(BIN)/python docs/quick.py

# Everything that was built, the environment too. Seconds.
clean:
	rm -rf $(VENV) out docs/_build docs/results docs/jupyter_execute .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: what a person runs needs only the first; each set of tools is installed when first asked for.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "abduce needs Python 3.11 or later: none of python3.11, python3.12, python3.13 and python3 is" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make $(VENV): on Debian, apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "installing abduce into $(VENV) (torch is large: this can take a few minutes)" >&2
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(PIP) -e '.[$*]'
	@touch $@

.SECONDARY: $(VENV)/.installed
