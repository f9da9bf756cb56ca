# Every target makes the virtual environment it needs: `make demo` works on a machine with Python 3.11+
# and nothing else. Another interpreter: make demo PYTHON=python3.12. pip's own
# settings hold, such as another index for a build of torch without CUDA.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
PACKAGES = ninerec ninerec_data downloader loaders baselines

.PHONY: help demo test lint check wheel bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-6s %s\n", $$1, $$2}'

demo: $(READY) ## the whole way on a small made-up dataset, in demo-home/
	$(BIN)/ninerec demo --home demo-home

test: $(READY) ## run the tests, two files at a time (ARGS="-k name" runs some)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(READY) ## format, lint and types; silent when all is well
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

check: lint test wheel ## lint, test and wheel: all that must hold before a release

wheel: $(READY) ## build the distribution and look into it
	@rm -rf dist
	$(BIN)/python -m build --outdir dist
	@$(BIN)/python -m zipfile --list dist/*.whl | cut -d' ' -f1 > dist/names
	@for name in $(PACKAGES:%=%/__init__.py) $(PACKAGES:%=%/py.typed) \
	    ninerec_data/datasets/*.toml baselines/presets.toml; do \
	  grep -qxF "$$name" dist/names || { echo "the wheel lacks $$name" >&2; exit 1; }; done
	@! grep -E '(^|/)(tests|benchmarks)/' dist/names || { echo "these do not belong in the wheel" >&2; exit 1; }
	@rm dist/names

bench: $(READY) ## run the benchmarks one after the other
	@set -e; for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

clean: ## remove what the targets made, but not the virtual environment
	rm -rf demo-home dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamp is written last, and removed first: an install that failed is never taken for a good one.
$(READY): pyproject.toml
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "ninerec needs Python 3.11 or newer, this is %d.%d; name one: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@
