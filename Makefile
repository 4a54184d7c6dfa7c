# Two commands are all a newcomer needs:   make run   and   make test
PYTHON ?= python3
PORT   ?= 8080
# How many test files run at once, each in a process with a Spark of its own: 2 to 3 GiB.
WORKERS ?= 2
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# What each JVM of the tests would load anew; made once, it halves their start.
ARCHIVE := build/spark.jsa
# The tests of a file stay together, since they share what it makes.
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: run airflow test test-unit test-warehouse test-spark test-airflow test-browser test-slow
.PHONY: test-services check bench browser services setup format lock clean

run: setup            ## set up, then run the demo: a simulated lender, trained and scored
	$(BIN)/funnel demo

airflow: setup        ## a real Airflow over the demo's company, which is made if it is not there; PORT=8080
	@test -f demo/funnel.toml || $(BIN)/funnel demo
	$(BIN)/python dags/standalone.py demo/funnel.toml --port $(PORT)

test: check browser $(ARCHIVE)  ## set up, check, then every test on one machine, the fast ones first
	$(PYTEST) -m "not (spark or airflow or browser or slow or services)"
	$(PYTEST) -m "(spark or airflow or browser or slow) and not services" --ignore tests/benchmarks

# Each test is in one of these layers, see CONTRIBUTING.md.
test-unit: setup      ## tests without a warehouse, Spark, Airflow or a browser, and examples in docstrings
	$(PYTEST) -m unit

test-warehouse: setup ## tests on small companies with warehouses of their own
	$(PYTEST) -m "warehouse and not (spark or airflow or browser or slow or services)"

test-spark: $(ARCHIVE)  ## tests that start Spark
	$(PYTEST) -m "spark and not (airflow or browser or slow or services)"

test-airflow: setup   ## tests of the DAGs, in the test's own process
	$(PYTEST) -m "airflow and not (browser or slow or services)"

test-browser: browser $(ARCHIVE)  ## an operator's day in a real browser on a real Airflow; screenshots in build/airflow
	$(PYTEST) -m "browser and not services"

test-slow: $(ARCHIVE) ## whole nights, trainings, kills and long random runs
	$(PYTEST) -m "slow and not (browser or services)" --ignore tests/benchmarks

test-services: services $(ARCHIVE)  ## the same on servers, which the tests start: Postgres, an object store, a Spark cluster
	$(PYTEST) -m services --ignore tests/benchmarks

$(ARCHIVE): $(STAMP)
	@$(BIN)/python -m tests.spark_archive $@

check: setup          ## linter, formatter check, type checker, layers of imports, linter of SQL, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar sql/spark
	$(BIN)/sqlfluff lint --disable-progress-bar --dialect duckdb sql/views
	$(BIN)/codespell

bench: setup          ## the benchmarks' own tests, then those of speed beside their peers, into tests/benchmarks/results; long
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/pytest -m slow tests/benchmarks
	$(BIN)/python -m tests.benchmarks

format: setup         ## let ruff rewrite the files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

browser:              ## Chromium, which apt installs where it is missing and may be installed; else its tests are skipped
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
	  echo "no Chromium, and it cannot be installed: the tests in a browser are skipped"

services:             ## Postgres, its JDBC driver and Redis, which apt installs where they may be; else their tests are skipped
	@{ { ls /usr/lib/postgresql/*/bin/initdb || command -v initdb; } && command -v redis-server && \
	  ls /usr/share/java/postgresql.jar; } >/dev/null 2>&1 || \
	  { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql libpostgresql-jdbc-java redis-server >/dev/null; } || \
	  echo "Postgres, its JDBC driver or Redis is missing, and cannot be installed: the tests on it are skipped"

setup: $(STAMP)       ## the virtual environment with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "funnelcast needs Python 3.11 or newer as '$(PYTHON)'; install it, or run: make PYTHON=/path/to/python3.11"; exit 1; }
	@java -version 2>&1 | grep -qE 'version "(1[7-9]|[2-9][0-9])' || \
	  { echo "funnelcast needs Java 17 or newer on the PATH for Spark; install a JRE, e.g. openjdk-17-jre-headless"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot create a virtual environment; install its venv module, e.g. python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[airflow,dev]'
	@touch $@

lock: setup           ## write what is installed to constraints.txt
	( echo "# The versions everything is tested with. Written by: make lock"; \
	  $(BIN)/pip list --format=freeze --exclude-editable --exclude pip | sed 's/+cpu$$//' | grep -vE '^(nvidia-|triton)' ) > $(VENV)/lock
	mv $(VENV)/lock constraints.txt

clean:                ## remove the environment and what the demo made
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis spark-warehouse
