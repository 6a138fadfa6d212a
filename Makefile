# Every command of a developer. `make help` lists them.
#
#   NAME=dev                        which devcluster
#   CONTEXT=<kube-context>          use this cluster of kubectl's configuration, and start none
#   REGISTRY=<host:port>            with CONTEXT: where images go, reachable from here and from the cluster

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
NAME ?= dev
export NAME CONTEXT REGISTRY
PYTHON := .venv/bin/python
READY := .venv/.ready
DEVCLUSTER = $(PYTHON) -m devcluster
# In the order of their cost, so that a mistake shows early.
TIERS := tests/unit tests/server tests/cluster tests/e2e

.PHONY: help demo test test-long test-trainer bench lint format generate lock up down status env images unit clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): requirements/dev.txt requirements/uv.txt pyproject.toml dev/bootstrap
	@dev/bootstrap

demo: $(READY) ## bring up a cluster where there is none, run the main job on it and show it
	@$(PYTHON) -m dev.demo

test: $(READY) lint ## all that must hold: lint, unit, server, cluster and end-to-end tests
	@$(PYTHON) -m pytest $(TIERS) -m "not long" $(PYTEST)

test-long: $(READY) lint test-trainer ## the same with the tests that take their time
	@$(PYTHON) -m pytest $(TIERS) $(PYTEST)

test-trainer: $(READY) ## the trainer's own tests: torch, in an environment of its own
	@dev/trainer_venv
	@.venv-trainer/bin/python -m pytest tests/trainer $(PYTEST)

unit: $(READY) ## the fast tests alone
	@$(PYTHON) -m pytest tests/unit $(PYTEST)

bench: $(READY) ## figures: what things take, on this machine
	@$(PYTHON) -m pytest tests/bench -s $(PYTEST)

lint: $(READY) ## style, types, direction of imports
	@$(PYTHON) -m ruff check --quiet . && $(PYTHON) -m ruff format --check --quiet .
	@$(PYTHON) -m mypy --no-error-summary
	@.venv/bin/lint-imports > .import-linter.log || { cat .import-linter.log; exit 1; }
	@echo "  ✓ lint: ruff, mypy, import-linter" >&2

format: $(READY) ## put the code in its form
	@$(PYTHON) -m ruff check --fix --quiet . ; $(PYTHON) -m ruff format --quiet .

generate: $(READY) ## write crds/ and docs/reference/ again from the API's models
	@$(PYTHON) -m modelwright.crdgen

lock: $(READY) ## resolve requirements/*.txt again
	@dev/lock

up: $(READY) ## bring up the devcluster, or mend it
	@$(DEVCLUSTER) up --name $(NAME)

down: $(READY) ## take the devcluster down; only its caches stay
	@$(DEVCLUSTER) down --name $(NAME)

status: $(READY) ## the devcluster's components and nodes
	@$(DEVCLUSTER) status --name $(NAME)

env: $(READY) ## shell lines that point kubectl and helm at the devcluster: eval "$$(make env)"
	@$(DEVCLUSTER) env --name $(NAME)

images: $(READY) ## build the images and push them to the cluster's registry
	@$(PYTHON) -m dev.target images

clean: $(READY) ## take every devcluster down and remove the caches
	@$(PYTHON) -m devcluster clean
