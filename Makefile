# Every target sets up what it needs in .venv, and works on a fresh clone. `train` and `test` are those of the README.
PYTHON ?= python3
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check
QUICKSTART_SEEDS ?= 0 1

.PHONY: train test quick lint slow mutants results docs clean

## train: block-local, backprop and the frozen control on the embedded digits, into runs/quickstart
train: .venv/.package
	.venv/bin/blocklocal compare --recipe quickstart --seeds $(QUICKSTART_SEEDS) --output runs/quickstart --replace

## test: lint, types, tests and the documentation's examples
test: .venv/.tools lint
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadgroup

## quick: one case of every test that starts no process, under a minute
quick: .venv/.tools
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --quick

lint: .venv/.tools
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyrefly check

## slow: the tests that take minutes
slow: .venv/.tools
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadgroup -m slow

## mutants: small mistakes in the heart of the library, each of which a test must notice; hours
mutants: .venv/.tools
	OMP_NUM_THREADS=1 .venv/bin/python tests/mutants/run.py $(FILES)

## results: docs/results.md, its tables and figures, from the rows in docs/results
results: .venv/.package
	PYTHONPATH=. .venv/bin/python docs/make_results.py docs/results

## docs: the documentation site, into docs/_build; warnings are errors
docs: .venv/.docs
	.venv/bin/python -m sphinx -W --keep-going --quiet docs docs/_build

.venv/.docs: .venv/.package pyproject.toml
	$(PIP) --editable '.[docs]'
	touch $@

.venv/.package: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[all]'
	touch $@

.venv/.tools: .venv/.package pyproject.toml
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
