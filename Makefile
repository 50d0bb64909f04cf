# The commands of the project; CI runs the same ones. Recipes are short: local/ does the work.
.DEFAULT_GOAL := help
.PHONY: help run link test test-page test-page-scale test-agents test-clients test-runtimes test-sdks lint lint-page attack attack-host audit fuzz bench bench-authentication bench-chunkings bench-files bench-ledger \
	bench-limits bench-routing bench-telemetry package-size infra install install-dev azurite page vendor screenshots requirements clean

PYTHON_IN := .venv/bin/python
WORKERS := 3
unexport PYTHONDONTWRITEBYTECODE # the processes that run tests import the same files: one compiles them for all
CODE := shared simulator local tests bench examples infra function_app.py
COMPILE := CUSTOM_COMPILE_COMMAND='make requirements' $(PYTHON_IN) -m piptools compile --quiet --strip-extras --allow-unsafe \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --generate-hashes $(if $(UPGRADE),--upgrade)

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

run: azurite install ## start the gateway (PORT=7071) with simulated regions, or your gateway.yaml; HOST=func: under Core Tools; SIMULATE=1: with its backends simulated
	@$(PYTHON_IN) -m local.run $(if $(filter command,$(origin HOST))$(filter func,$(HOST)),--host $(HOST)) $(if $(filter-out 0,$(SIMULATE)),--simulate)

link: install ## print a new link that signs in to the page of the local run
	@$(PYTHON_IN) -m local.sign_in_code

test: azurite install-dev ## run the tests, three files at a time (WORKERS=2 on a busy machine; ARGS=... goes to pytest)
	@$(PYTHON_IN) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore tests/page $(ARGS)

test-page: azurite install-dev page ## run the tests of the page in a real browser (installs Debian's Chromium; ARGS=... goes to pytest)
	@sh local/install.sh chromium
	@$(PYTHON_IN) -m pytest tests/page --ignore tests/page/test_scale.py --numprocesses 2 --dist load $(ARGS)

test-page-scale: azurite install-dev page ## run the test of the page in front of 10,000 consumers and a year of hours (a minute)
	@sh local/install.sh chromium
	@$(PYTHON_IN) -m pytest tests/page/test_scale.py $(ARGS)

test-agents: azurite install-dev ## run real coding agents against the gateway (downloads 2 GB; ARGS=... goes to pytest)
	@sh local/install.sh agents
	@$(PYTHON_IN) -m pytest tests/agents $(ARGS)

test-clients: install-dev ## run libraries of other makers against the gateway, WebSockets included (downloads 500 MB; ARGS=... goes to pytest)
	@sh local/install.sh libraries
	@$(PYTHON_IN) -m pytest tests/libraries $(ARGS)

test-runtimes: azurite install-dev ## run the function app under earlier versions of Microsoft's worker library (ARGS=... goes to pytest)
	@sh local/install.sh runtimes
	@$(PYTHON_IN) -m pytest tests/runtimes $(ARGS)

test-sdks: azurite install-dev ## run programs on earlier and current versions of OpenAI's clients (ARGS=... goes to pytest)
	@sh local/install.sh sdks
	@$(PYTHON_IN) -m pytest tests/sdks $(ARGS)

lint: install-dev lint-page ## ruff and mypy, and for the page's modules eslint and tsc, as CI does
	@$(PYTHON_IN) -m ruff check .
	@$(PYTHON_IN) -m ruff format --check .
	@$(PYTHON_IN) -m mypy $(CODE)
	@$(PYTHON_IN) -m local.vendor --check

lint-page: page
	@local/page/node_modules/.bin/eslint --config local/page/eslint.config.js shared/management/page
	@local/page/node_modules/.bin/tsc --project local/page

page:
	@sh local/install.sh page

screenshots: azurite install-dev ## renew the pictures of the page in docs/pictures/
	@sh local/install.sh chromium
	@$(PYTHON_IN) -m tests.page.screenshots

vendor: install page ## copy the page's libraries from npm's packages again (their versions: local/page/package.json)
	@$(PYTHON_IN) -m local.vendor

bench: azurite install-dev ## measure the gateway, compared with a bare forwarder
	@$(PYTHON_IN) -m bench

bench-limits: azurite install-dev ## measure the limits: simulated fleets, then processes on Azurite (10 minutes)
	@$(PYTHON_IN) -m bench.limits_simulation
	@$(PYTHON_IN) -m bench.limits_simulation --outage --limits 20000,100000,1000000 --instances 1,10,100
	@$(PYTHON_IN) -m bench.limits_cost
	@$(PYTHON_IN) -m bench.limits_processes

bench-routing: azurite install-dev ## measure the routing against scripted faults, and a fleet in simulated time (12 minutes)
	@$(PYTHON_IN) -m bench.routing_fleet
	@$(PYTHON_IN) -m bench.routing_scenarios

package-size: install-dev ## print the size of the function app's package, by part
	@$(PYTHON_IN) -m tests.infra.layout

infra: install-dev ## format the Bicep files and renew their snapshots (the compiler: BICEP=path, or on the path)
	@$(PYTHON_IN) -m tests.infra.renew

bench-authentication: install-dev ## measure the cost of keys and tokens
	@$(PYTHON_IN) -m bench.authentication_cost

bench-telemetry: install-dev ## measure the cost of telemetry
	@$(PYTHON_IN) -m bench.telemetry_cost

attack: azurite install-dev ## try hostile callers on both edges: bodies, heads, unread answers, trailers, deadlines, slow connections (10 minutes)
	@$(PYTHON_IN) -m bench.attack

audit: ## look for known vulnerabilities in the packages, and write the list of them to .local/sbom.json
	@sh local/install.sh audit

attack-host: azurite install-dev ## attack the Functions edge: bad calls, hang-ups, idle connections (6 minutes)
	@$(PYTHON_IN) -m bench.attack_host

fuzz: azurite install-dev ## send malformed requests, for a minute on each edge
	@$(PYTHON_IN) -m bench.fuzz

bench-files: azurite install-dev ## measure time and memory of the upload and download of a 400 MB file
	@$(PYTHON_IN) -m bench.large_files

bench-chunkings: azurite install-dev ## compare ten thousand event streams in random pieces, byte for byte (5 minutes)
	@$(PYTHON_IN) -m bench.chunkings

bench-ledger: azurite install-dev ## measure the ledger: cost, kill -9, exactness, roll-up on a failing table, mutants (20 minutes)
	@$(PYTHON_IN) -m bench.ledger_cost
	@$(PYTHON_IN) -m bench.ledger_latency
	@$(PYTHON_IN) -m bench.ledger_kills
	@$(PYTHON_IN) -m bench.ledger_kills 20 120 recorded
	@$(PYTHON_IN) -m bench.ledger_exact
	@$(PYTHON_IN) -m bench.ledger_rollup
	@$(PYTHON_IN) -m bench.ledger_mutants

install: ## create .venv with the packages and the command .venv/bin/tollgate
	@sh local/install.sh runtime

install-dev: install
	@sh local/install.sh dev

azurite:
	@sh local/install.sh azurite

requirements: install-dev ## pin the lists again from the .in files (UPGRADE=1: with the newest versions)
	@$(COMPILE) --output-file requirements.txt requirements.in
	@$(COMPILE) --output-file requirements-container.txt requirements-container.in
	@$(COMPILE) --output-file requirements-dev.txt requirements-dev.in
	@$(COMPILE) --output-file requirements-audit.txt requirements-audit.in

clean: ## remove everything that these commands created, including the local run's data
	rm -rf .venv .local local/node_modules local/page/node_modules tests/agents/node_modules tests/libraries/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
