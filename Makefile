# The front door: `make` lists what there is. Everything here is a thin name for a command that works without make.

INVENTORY ?= inventories/docker
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# molecule, ansible-lint and pytest call the other tools by name
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHON
playbook = $(BIN)/ansible-playbook -i $(INVENTORY) playbooks/$(1).yml $(ARGS)

##@ Start
.PHONY: help setup venv demo
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables: INVENTORY=%s  ARGS="--check --diff --limit ..."\n' '$(INVENTORY)'

setup: ## Install what is missing: Python packages, the collection by its name, Docker
	@scripts/bootstrap.sh

venv: ## The Python part of setup alone: enough to manage other machines
	@scripts/bootstrap.sh venv

demo: setup ## Bring up the default Docker inventory, run the example, print where to connect
	@$(call playbook,site)
	@$(call playbook,example)
	@$(call playbook,status)
	@$(call playbook,connection_info)

##@ Cluster (INVENTORY=...)
.PHONY: site image sbom example status verify psql dsn logs dump rebalance reinit switchover balance restart pause resume failover rotate
.PHONY: down up destroy
site: venv ## Make the cluster what the inventory says; may be run again at any time
	@$(call playbook,site)

image: venv ## Build or pull the node image on every Docker machine; `make site` does the same
	@$(call playbook,image)

sbom: venv ## Write what is in the node image to sbom.cdx.json (CycloneDX)
	@scripts/sbom.sh $(INVENTORY) > sbom.cdx.json
	@echo "written: sbom.cdx.json"

example: venv ## Distribute the table events, fill it, query it, as the application role
	@$(call playbook,example)

status: venv ## Nodes with role and state, shards per worker, replication and its lag
	@$(call playbook,status)

verify: venv ## Check the health of everything; fails when something is wrong
	@$(call playbook,verify)

psql: ## SQL prompt as the application role, through PgBouncer
	@scripts/psql.sh $(INVENTORY)

dsn: ## Print the URI of the application role, through PgBouncer, and nothing else
	@scripts/dsn.sh $(INVENTORY)

logs: venv ## Last log lines of a node: NODE=worker1-1
	@$(if $(NODE),,$(error which node? make logs NODE=worker1-1))
	@$(call playbook,logs) -e node=$(NODE)

dump: venv ## pg_dump to a file here, of the coordinator or of another group or node: NODE=worker1
	@$(call playbook,dump) $(if $(NODE),-e node=$(NODE))

rebalance: venv ## Spread the shards evenly over the worker groups
	@$(call playbook,rebalance)

reinit: venv ## Build a broken standby anew from its primary: NODE=worker1-2
	@$(if $(NODE),,$(error which standby? make reinit NODE=worker1-2))
	@$(call playbook,reinit) -e node=$(NODE)

switchover: venv ## Let another member lead a group, without an error for clients: GROUP=worker1 [CANDIDATE=worker1-2]
	@$(if $(GROUP),,$(error which group? make switchover GROUP=worker1))
	@$(call playbook,switchover) -e group=$(GROUP) $(if $(CANDIDATE),-e candidate=$(CANDIDATE))

balance: venv ## Let the first member of every group lead again, as before the failovers
	@$(call playbook,balance) $(if $(GROUP),-e group=$(GROUP))

restart: venv ## Restart PostgreSQL in every group, or in GROUP=worker1, without an error for clients
	@$(call playbook,restart) $(if $(GROUP),-e group=$(GROUP))

rotate: venv ## Replace secrets of the running cluster: WHAT=passwords, certificates, authority or all
	@$(if $(WHAT),,$(error what? make rotate WHAT=passwords))
	@$(call playbook,rotate) -e what=$(WHAT)

pause: venv ## Switch automatic failover off for maintenance, everywhere or in GROUP=worker1
	@$(call playbook,pause) $(if $(GROUP),-e group=$(GROUP))

resume: venv ## Switch automatic failover on again
	@$(call playbook,resume) $(if $(GROUP),-e group=$(GROUP))

failover: venv ## Make a standby lead although writes may be lost: NODE=worker1-2; asks, unless CONFIRM=yes
	@$(if $(NODE),,$(error which standby is to lead? make failover NODE=worker1-2))
	@scripts/confirm.sh "$(CONFIRM)" "make $(NODE) the leader of its group, and lose what it has not received"
	@$(call playbook,failover) -e node=$(NODE) -e confirm=yes

down: venv ## Stop the nodes; the data stays
	@$(call playbook,stop)

up: venv ## Start the nodes that `make down` stopped
	@$(call playbook,start)

destroy: venv ## Remove the cluster with its data and secrets; asks, unless CONFIRM=yes
	@scripts/confirm.sh "$(CONFIRM)" "remove the cluster of $(INVENTORY), its data and its secrets"
	@$(call playbook,destroy) -e confirm=yes

##@ Tests
.PHONY: check lint unit sanity integration test test-all chaos chaos-quick molecule
check: venv ## Linters and unit tests, side by side: needs no Docker, takes two minutes
	@$(MAKE) --jobs=2 --output-sync=target --keep-going lint unit

lint: venv ## ruff, mypy, yamllint, ansible-lint (profile production), changelog fragments
	@scripts/lint.sh

unit: venv ## Unit tests
	@$(BIN)/pytest tests/unit

sanity: venv ## ansible-test sanity, antsibull-docs; the first run fetches their linters from the network
	@scripts/sanity.sh

integration: setup ## Modules and roles against real servers in containers
	@$(BIN)/pytest tests/integration

test: setup check ## Linters, then all tests but those marked slow, with a whole cluster on Docker
	@status=0; scripts/test.sh -m "not slow" || status=$$?; scripts/left_out.sh test; exit $$status

chaos: setup ## Break INVENTORY's cluster under load for an hour, and check its promises: ARGS="--seed 1 --faults ..."
	@$(BIN)/python tests/chaos/run.py --inventory $(INVENTORY) $(ARGS)

chaos-quick: setup ## The faults that matter most, each once: some ten minutes
	@$(BIN)/python tests/chaos/run.py --inventory $(INVENTORY) --minutes 20 --faults quick --each 1 $(ARGS)

test-all: setup check ## Everything: the slow tests too, ansible-test sanity, and the molecule scenarios
	@failed=0; for part in scripts/test.sh scripts/sanity.sh "$(MAKE) molecule"; do $$part || failed=1; done; \
	  scripts/left_out.sh test-all; exit $$failed

molecule: setup ## The molecule scenarios, all of them or SCENARIO=default
	@scripts/molecule.sh $(SCENARIO)

##@ Benchmarks
.PHONY: bench-deploy bench-modules
bench-deploy: setup ## How long site.yml takes on an empty host and again, and its module executions per node
	@$(BIN)/python tests/bench/deploy.py

bench-modules: setup ## The modules on 1,000 tables beside the same work by hand
	@export CITUS_HA_TEST_IMAGE=$${CITUS_HA_TEST_IMAGE:-$$(cd tests/e2e && \
	  python -c 'import playbooks as p; print(p.node_image(p.citus_sources()[0]))')}; \
	for name in bench_modules bench_info; do python tests/bench/$$name.py; done
