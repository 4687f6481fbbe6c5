# make detect   run the embedded model on the example pictures
# make test     run the tests
# make try      the embedded model in a web page that runs it in the browser, on http://127.0.0.1:8001/
# make browser  install Chromium where it is missing, with apt, and what `make try` needs: some tests look at pages
# make check    format, lint, types
# make docs     the documentation as a site in out/site; nothing is fetched after the development install
# make dist     wheel and sdist in dist/, each tried in a fresh environment of every interpreter in PYTHONS
# make licences the licences of all that is depended on, as docs/licences.md, and an SBOM in out/
# Everything lives in .venv; set PYTHON to choose the interpreter.

PYTHON ?= python3
BIN := .venv/bin
CONSTRAINTS := constraints.txt
# Constraints hold for what builds the package, too.
PIP := PIP_CONSTRAINT=$(CURDIR)/$(CONSTRAINTS) $(BIN)/python -m pip --disable-pip-version-check

APT := $(if $(filter 0,$(shell id -u)),,sudo -n )apt-get -o Acquire::Retries=2 -o Acquire::http::Timeout=30

PORT ?= 8001

.PHONY: detect test try browser check format docs dist licences clean

detect: .venv/.base
	$(BIN)/ssd34 detect examples --save out/examples

test: .venv/.dev
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

try: .venv/.base .venv/npm/.done
	$(BIN)/python docs/try/build.py out/try --serve $(PORT)

.venv/npm/.done: docs/try/package.json docs/try/package-lock.json
	@command -v npm >/dev/null || { echo "error: npm is not installed; it comes with Node.js" >&2; exit 1; }
	mkdir -p $(@D) && cp $^ $(@D)
	npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# Never an error: without a browser its tests are skipped and say so.
browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif ! command -v apt-get >/dev/null; then \
	  echo "no apt-get here: install Chromium yourself for the tests that need it"; \
	else \
	  $(APT) update -qq && $(APT) install -y -qq --no-install-recommends chromium >/dev/null \
	  || echo "Chromium could not be installed: the tests that need it will be skipped"; \
	fi
	@$(MAKE) --no-print-directory .venv/npm/.done || echo "the tests of docs/try will be skipped"

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.dev
	$(BIN)/python docs/build_site.py

# What a user gets: the newest of what is depended on, not the pinned; tried from another folder.
PYTHONS ?= $(PYTHON)
dist:
	$(PYTHON) -m venv .venv/tools
	PIP_CONSTRAINT=$(CURDIR)/$(CONSTRAINTS) .venv/tools/bin/pip install --quiet build
	rm -rf dist && .venv/tools/bin/python -m build . --outdir dist
	for python in $(PYTHONS); do for file in dist/*.whl dist/*.tar.gz; do \
	  rm -rf out/tried && $$python -m venv out/tried && \
	  out/tried/bin/pip install --quiet --disable-pip-version-check $$file && ( \
	    tried=$$PWD/out/tried; picture=$$PWD/examples/chelsea.jpg; size=$$(du -sm $$tried | cut -f1); \
	    cd "$$(mktemp -d)" && $$tried/bin/ssd34 detect $$picture --json | grep -q '"cat"' && \
	    echo "$$($$tried/bin/python --version): $$file finds the cat; the environment has $$size MB" \
	  ) || exit 1; \
	done; done
	ls -l dist

# Its tools need an environment of their own, so that they do not list themselves.
licences: .venv/.dev
	$(PYTHON) -m venv .venv/tools
	PIP_CONSTRAINT=$(CURDIR)/$(CONSTRAINTS) .venv/tools/bin/pip install --quiet pip-licenses cyclonedx-bom
	{ echo "# Licences"; echo; \
	  echo "Of all that the extras and the development install bring, read from the packages by \`make licences\`."; \
	  echo "The package itself is Apache-2.0, code and weights."; echo; \
	  .venv/tools/bin/pip-licenses --python $(BIN)/python --format=markdown --with-urls --ignore-packages ssd34; \
	} > docs/licences.md
	mkdir -p out && .venv/tools/bin/cyclonedx-py environment $(BIN)/python --output-file out/sbom.json

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older or missing; run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.base: .venv/bin/python pyproject.toml $(CONSTRAINTS)
	$(PIP) install --quiet --editable .
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml $(CONSTRAINTS)
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@ .venv/.base

clean:
	rm -rf .venv out build src/*.egg-info
