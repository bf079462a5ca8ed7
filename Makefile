# The commands of a contributor; `make` alone lists them. They need Python >= 3.11 with venv, and nothing else.
PYTHON  ?= python3
VENV    ?= .venv
ARGS    ?=
# How many processes run the tests at the same time: three for each core, as most tests wait for something.
# With 0, pytest itself runs them (-s and --pdb work).
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(3 * (os.cpu_count() or 1))')
PIP      = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help run test cover matrix lint types lab bench docs changes generated build wheel-check format clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

# One stamp for each set of packages; pyproject.toml newer than the stamp means installing again.
$(VENV)/.run: pyproject.toml $(VENV)/.made
	$(PIP) install --editable .
	@touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.docs $(VENV)/.bench $(VENV)/.fuzz: $(VENV)/.%: pyproject.toml $(VENV)/.run
	$(PIP) install --group $*
	@touch $@

run: $(VENV)/.run ## set up and serve in the foreground (ARGS="--listen tcp:8088" adds options)
	$(VENV)/bin/twistd --nodaemon --pidfile= greetsvc $(ARGS)

test: $(VENV)/.test ## set up and run every test that needs nothing but Python (ARGS="-k name" selects)
	$(VENV)/bin/python -m pytest --ignore tests/lab --numprocesses $(WORKERS) --dist worksteal $(ARGS)

cover: override ARGS += --cov
cover: export GREETSVC_TESTS_COVERAGE = $(CURDIR)
cover: test ## the same with branch coverage; it may not be lower than pyproject.toml says

matrix: ## make test on every Python from 3.11 to 3.14 that is found (PYTHONS="3.12 /usr/bin/python3.13" names them)
	MAKE='$(MAKE)' sh tests/matrix.sh $(PYTHONS)

lint: $(VENV)/.lint ## ruff, and which module may import which
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

format: $(VENV)/.lint ## let ruff format the code and fix what it can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

types: $(VENV)/.lint ## mypy, strict; the public API from outside the package too
	$(VENV)/bin/mypy -p greetsvc -p bench
	$(VENV)/bin/mypy twisted/plugins tests examples deploy
	cd tests/typing && $(abspath $(VENV))/bin/mypy api.py

lab: $(VENV)/.test $(VENV)/.fuzz ## tests with real programs: needs root and Debian packages, which it installs
	sh tests/lab/install.sh
	$(VENV)/bin/python -m pytest -m lab -rs --numprocesses 3 --dist loadfile \
		--override-ini faulthandler_timeout=900 $(ARGS)

bench: $(VENV)/.bench ## measure side by side with others, into bench/results/
	$(VENV)/bin/python -m bench $(ARGS)

docs: $(VENV)/.docs ## build the site of the documents into build/docs/; a warning is an error
	$(VENV)/bin/python -m sphinx --quiet --fresh-env --fail-on-warning docs build/docs
	@echo 'open build/docs/index.html'

changes: $(VENV)/.docs ## show what the next changelog entry would say
	$(VENV)/bin/towncrier build --draft --version next

generated: $(VENV)/.run ## write the manual pages and completions in deploy/ again, from the options
	$(VENV)/bin/python -m deploy.generate

build: $(VENV)/.test ## build the source archive and the wheel into dist/
	rm -f dist/greetsvc-*
	$(VENV)/bin/python -m hatchling build --directory dist

wheel-check: build ## install the wheel in a clean environment and use it from another folder
	PYTHON=$(PYTHON) sh tests/wheel-check.sh dist

clean: ## remove what the commands above made
	rm -rf $(VENV) $(VENV)-3.* dist build .hypothesis .mypy_cache .ruff_cache .coverage htmlcov
