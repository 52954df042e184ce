# Everything that a person does here, and how. `make` alone says what there is.
#
#   make run                     the samples, from folder to report, through Airflow
#   make run INBOX=../folder     another folder
#   make test ARGS="-k vault"    a part of the tests

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
INBOX  ?=
ARGS   ?=

# Without .pyc files `import airflow` takes twice as long, in every process that is started.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run up down test check bench bench-retention bench-ledger bench-storage clean lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv, by the hashes of requirements.lock

# uv installs in seconds what takes pip minutes; where it cannot be had, pip does it.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found. Install Python 3.11, or name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	awk '/^[^ #]/ { wanted = /^uv==/ } wanted' requirements.lock > $(VENV)/uv.requirements
	if $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.requirements; then \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup ## samples (or INBOX=folder) from folder to report through Airflow; stops what it started
	@$(BIN)/python -m retention.embedded.showcase run $(if $(INBOX),"$(INBOX)")

up: setup ## start PostgreSQL, S3 and Airflow, and leave them running
	@$(BIN)/python -m retention.embedded.showcase up

down: setup ## stop them; nothing is lost
	@$(BIN)/muniment down

test: setup ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: setup ## style, types, import contracts, and whether the lock is what pyproject.toml asks for
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cp requirements.lock $(VENV)/asked.lock
	$(COMPILE) --output-file $(VENV)/asked.lock
	@cmp -s requirements.lock $(VENV)/asked.lock || { diff -u requirements.lock $(VENV)/asked.lock; echo "make: requirements.lock is not what pyproject.toml asks for. Run make lock, and look at what changed." >&2; exit 1; }

bench: setup ## measure the numbers that the documentation states, and print them as a table
	$(BIN)/python -m tests.bench $(ARGS)

bench-retention: setup ## what retention takes at size: make bench-retention RECORDS=10000000 DUE=100000
	RECORDS=$(or $(RECORDS),1000000) $(BIN)/python -m tests.bench.eligibility
	RECORDS=$(or $(RECORDS),1000000) $(BIN)/python -m tests.bench.whatif
	DUE=$(or $(DUE),20000) $(BIN)/python -m tests.bench.disposition

bench-ledger: setup ## append, verify and prove at size: make bench-ledger ENTRIES=1000000
	ENTRIES=$(or $(ENTRIES),1000000) $(BIN)/python -m tests.bench.ledger

bench-storage: setup ## puts beside boto3, backup and restore beside restic and borg, memory: make bench-storage OBJECTS=20000 BYTES=100000
	PUTS=$(or $(PUTS),2000) $(BIN)/python -m tests.bench.puts
	OBJECTS=$(or $(OBJECTS),20000) BYTES=$(or $(BYTES),100000) $(BIN)/python -m tests.bench.storage
	MANY=$(or $(MANY),100000) $(BIN)/python -m tests.bench.memory

clean: ## stop the services, delete the workspace ./var, caches and .venv
	test ! -x $(BIN)/muniment || $(BIN)/muniment down
	rm -rf var $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find dags docs ingest plugins retention tests -name __pycache__ -type d -prune -exec rm -rf {} +

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --all-extras --custom-compile-command 'make lock' pyproject.toml

lock: setup ## resolve the dependencies of pyproject.toml anew, with hashes and without addresses
	$(COMPILE) --upgrade --output-file requirements.lock
