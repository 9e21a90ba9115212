# Each target does all its own set-up. `make demo` and `make test` are the two to know.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE := 1
AUDIT := .audit
PARALLEL := --numprocesses auto --dist loadfile

.PHONY: setup demo test test-all test-browser check format bench audit sbom clean

setup: .venv/ready  ## make .venv and install hyperfocal with pinned dependencies

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hyperfocal needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup  ## generate data, train, compare with baselines; under two minutes
	$(BIN)/hyperfocal demo

# A process a core, and a thread each.
test test-all check: export OMP_NUM_THREADS := 1

test: setup  ## the default tests, about eight minutes on two cores
	$(BIN)/python -m pytest $(PARALLEL)

test-all: setup  ## all tests, the slow ones too
	$(BIN)/python -m pytest $(PARALLEL) --override-ini addopts='-q --strict-markers --doctest-modules --ignore=src/conftest.py --ignore=tests/conftest.py'

test-browser: setup  ## the pages in a real headless Chromium
	@command -v chromium > /dev/null || { echo "Install the browser first: apt-get install chromium"; exit 2; }
	$(BIN)/python -m pytest tests/browser

check: setup  ## format, lint, types, layer rule, tests, README examples
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PARALLEL)

format: setup  ## rewrite the source in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## the benchmarks that need no data of others; hours: run them with nothing else running
	for name in loss_op train_step online report serve checkpoint_cost million_labels stream_build stream_documents kill_resume ray_grid; do \
		$(BIN)/python benchmarks/$$name.py || exit; done

# Tools of a release, in an environment of their own: nothing here depends on them.
$(AUDIT)/ready:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 cyclonedx-bom==7.5.0
	touch $@

# pip-audit ends well where it could not look a package up: that must not pass for an audit.
audit: $(AUDIT)/ready  ## look the pinned dependencies up among known vulnerabilities; needs a network
	@mkdir -p dist && rm -f dist/audit.json
	@$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off \
		--format json --output dist/audit.json; code=$$?; \
	if [ ! -s dist/audit.json ] || grep -q skip_reason dist/audit.json; then \
		echo "NOT AUDITED: for some packages or all no advisory data could be reached, so nothing is known of them"; \
		echo "(dist/audit.json says which, where it is there). Run it again where pypi.org can be reached."; exit 3; \
	fi; exit $$code

sbom: $(AUDIT)/ready  ## list the pinned dependencies as a CycloneDX bill of materials: dist/sbom.cdx.json
	@mkdir -p dist
	$(AUDIT)/bin/python -W ignore -m cyclonedx_py requirements constraints.txt --pyproject pyproject.toml \
		--mc-type library --output-reproducible --output-format JSON --output-file dist/sbom.cdx.json

clean:  ## remove what the other targets made
	rm -rf .venv $(AUDIT) demo demo_classify dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
