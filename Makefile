# vision-mlops. `make help` lists what there is; README.md says where to begin.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3
RUNTIME ?= local
DAG ?= daily_training
CONF ?=
TRIALS ?=
ANEW ?=
S ?=
NAME ?=
ROLE ?=
REASON ?=
VERSION ?=
DAYS ?=
APPLY ?=
SOURCE ?= ../shared/data/cifar10.tar.gz

export CONF DAG TRIALS NAME ROLE REASON VERSION SOURCE KUBECONFIG  # reach the shell as they are, whatever quotes they hold

INSTALLED := .venv/.installed
ENV = . deploy/env.sh $(RUNTIME)
# MLflow and the service of a cluster, as if they were here.
FORWARD = $(if $(filter kubernetes,$(RUNTIME)),python -m deploy.kubernetes.forward --namespace "$$PIPELINE_KUBERNETES_NAMESPACE" --)
GC = $(if $(DAYS),--days $(DAYS)) $(if $(filter 1,$(APPLY)),--apply)
RUN_DAG = $(FORWARD) python -m pipeline.command.run $(if $(filter 1,$(ANEW)),--anew)
WORK := docker compose -f docker-compose-mlops.yml
STATE := docker compose -f docker-compose.yml

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^## /{printf "\n%s\n", substr($$0, 4)} /^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' Makefile

## The pipeline

.PHONY: demo
demo: ready ## train, evaluate, register and serve digits, start to end (RUNTIME=local, docker or kubernetes)
	@$(ENV) && $(RUN_DAG) daily_training && $(FORWARD) deploy/curl_line.sh daily_training

.PHONY: run
run: ready ## one DAG run: DAG=daily_training CONF='{"dataset":"digits","epochs":5}' RUNTIME=local|docker|kubernetes; ANEW=1
	@$(ENV) && $(RUN_DAG) "$$DAG" "$$CONF"

.PHONY: tune
tune: ready ## search hyperparameters, train with the best: TRIALS=20 CONF='{"dataset":"digits"}' RUNTIME=local|docker|kubernetes
	@$(ENV) && $(RUN_DAG) weekly_tuning "$$CONF" $(if $(TRIALS),--param "trials=$$TRIALS")

.PHONY: tune-results
tune-results: ready ## the newest search's trials, best first (ARGS="--run-id ... --limit 10 --json"), also while it runs
	@$(ENV) && $(FORWARD) python -m tasks.cli.tune_results $(ARGS)

.PHONY: history
history: ready ## the ledger: who or what promoted, refused or rolled back which version, and why
	@$(ENV) && $(FORWARD) python -m tasks history

.PHONY: rollback
rollback: ready ## the champion before is champion again: REASON="..." (VERSION=3 for another)
	@$(ENV) && $(FORWARD) python -m tasks.cli.rollback --reason "$$REASON" --version "$$VERSION"

.PHONY: gc
gc: ready ## list what lost and given-up runs left behind; APPLY=1 removes it (DAYS=7 without a sign of life; RUNTIME=)
	@$(ENV) && $(if $(filter docker,$(RUNTIME)),python -m deploy.leftover_containers $(GC) && S3_ENDPOINT_URL="$${S3_ENDPOINT_URL:-http://127.0.0.1:$${S3_PORT:-9000}}" )$(if $(filter kubernetes,$(RUNTIME)),python -m deploy.kubernetes.leftover_pods $(GC) && $(FORWARD:--=--store --) )python -m tasks.cli.leftovers $(GC)

.PHONY: ui
ui: ready ## Airflow and MLflow in the browser: prints addresses and login
	@$(ENV) && deploy/ui.sh start

.PHONY: stop
stop: ## end what ui, demo and up started; data stay
	@if [ -e $(INSTALLED) ]; then . deploy/env.sh local; deploy/ui.sh stop; python -m tasks.serving --stop; fi
	@if [ -f .env ] && docker info >/dev/null 2>&1; then $(MAKE) down; fi

.PHONY: clean
clean: stop ## stop, and remove .local (with RUNTIME=docker the stack's volumes too)
	@if [ "$(RUNTIME)" = docker ] && [ -f .env ]; then $(WORK) --profile '*' down --volumes; $(STATE) down --volumes; fi
	rm -rf .local .mypy_cache .ruff_cache .pytest_cache .coverage*

## The stack on Docker

.PHONY: setup
setup: ## write .env with fresh random secrets; an existing one keeps its values
	@$(PYTHON) deploy/setup_env.py

.PHONY: images
images: ## build the images (S="train deploy" for some)
	@images/build.sh $(S)

.PHONY: image-digests
image-digests: ## PIPELINE_IMAGE_DIGESTS for .env, once the stage images are pushed
	@images/digests.sh

.PHONY: image-table
image-table: ## the images as a Markdown table: size, start, user, what is in them (docs/how-to/images.md)
	@$(PYTHON) -m images.table

.PHONY: up
up: setup ## start everything and wait until it is healthy (S=serving: the service, without Airflow)
	@$(PYTHON) -m deploy.up $(S)
	@[ -n "$(S)" ] || $(PYTHON) deploy/status.py

.PHONY: status
status: ## a table of the services, their health and their addresses
	@$(PYTHON) deploy/status.py

.PHONY: logs
logs: ## what a service says, as it says it: S=airflow-scheduler (without S all of them; Ctrl-C ends it)
	@deploy/logs.sh $(S)

.PHONY: user
user: ## make a user of Airflow and MLflow: NAME=ann ROLE=viewer|editor|admin
	@$(PYTHON) deploy/user.py "$$NAME" "$$ROLE"

.PHONY: down
down: setup ## stop them; data stay in their volumes
	@$(WORK) --profile '*' down
	@$(STATE) down

FILE ?=
FORCE ?=
export FILE

.PHONY: doctor
doctor: ## look for what keeps the stack from working: Docker, ports, disk, memory, .env, images, clock, servers
	@$(PYTHON) -m deploy.doctor

.PHONY: backup
backup: ## save databases and bucket to one file, while everything runs (FILE=, default backups/NAME.tar)
	@$(PYTHON) -m deploy.backup save $(if $(FILE),--file "$$FILE")

.PHONY: restore
restore: ## put the state of FILE= into the running stack (FORCE=1: also over one that holds work)
	@$(PYTHON) -m deploy.backup restore $(if $(FILE),--file "$$FILE") $(if $(filter 1,$(FORCE)),--force)

## Kubernetes

OVERLAY ?= local
NAMESPACE ?= vision-mlops
GIT_REPOSITORY ?=
GIT_REF ?=
CHART ?= apache-airflow/airflow
export GIT_REPOSITORY GIT_REF CHART

.PHONY: kubernetes-up
kubernetes-up: setup ## put an overlay into the current kubectl context and wait: OVERLAY=local|local-ray|eks|eks-gpu
	@$(PYTHON) -m deploy.kubernetes.up --overlay $(OVERLAY) --namespace $(NAMESPACE)

.PHONY: kubernetes-airflow
kubernetes-airflow: setup ## Airflow by its Helm chart: OVERLAY= GIT_REPOSITORY=https://... GIT_REF=v0.1.0 (CHART=)
	@$(PYTHON) -m deploy.kubernetes.airflow --overlay $(OVERLAY) --namespace $(NAMESPACE) --repository "$$GIT_REPOSITORY" --ref "$$GIT_REF" --chart "$$CHART"

.PHONY: kubernetes-verify
kubernetes-verify: setup ## workloads, MLflow's login, the model of every serving pod; changes nothing
	@$(PYTHON) -m deploy.kubernetes.verify --namespace $(NAMESPACE)

.PHONY: kubernetes-backup
kubernetes-backup: ## save databases and bucket of OVERLAY=local to one file, while everything runs (FILE=)
	@$(PYTHON) -m deploy.kubernetes.backup save --namespace $(NAMESPACE) $(if $(FILE),--file "$$FILE")

.PHONY: kubernetes-restore
kubernetes-restore: ## put the state of FILE= into the cluster (FORCE=1: also over one that holds work)
	@$(PYTHON) -m deploy.kubernetes.backup restore --namespace $(NAMESPACE) $(if $(FILE),--file "$$FILE") $(if $(filter 1,$(FORCE)),--force)

## Development

$(INSTALLED): requirements/dev.txt requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	.venv/bin/uv pip sync --quiet --python .venv --require-hashes requirements/dev.txt
	touch $@

.PHONY: install
install: $(INSTALLED) ## make .venv from the pinned, hashed requirements

.PHONY: test
test: install ## all tests; those that need Docker where an engine answers (REQUIRE_DOCKER=1: fail without)
	@. deploy/env.sh local && $(if $(ARGS),pytest --cov $(ARGS),tests/all.sh)

.PHONY: test-kubernetes
test-kubernetes: install ## the tests of the kubernetes runtime and manifests on a real cluster: KUBECONFIG=file (ARGS=)
	@[ -f "$$KUBECONFIG" ] || { echo "KUBECONFIG='$$KUBECONFIG' is no file; name the kubeconfig of a cluster that may be tested on" >&2; exit 64; }
	@. deploy/env.sh local && TEST_KUBECONFIG="$$KUBECONFIG" $(if $(ARGS),pytest -m kubernetes $(ARGS),tests/kubernetes.sh)

.PHONY: chaos
chaos: install ## kill every stage at every external write; the retry must end the same (ARGS="--stage train --sample 20")
	@. deploy/env.sh local && python -m tests.chaos --jobs 2 $(ARGS)

.PHONY: outages
outages: install ## the rest of chaos: MLflow, Postgres or S3 away for 20 s at random times (ARGS="--times 3 --service s3"); Docker
	@. deploy/env.sh local && python -m tests.chaos.outages $(ARGS)

RUNS ?= 100
.PHONY: soak
soak: install ## daily runs in a row, one in ten with a stage killed: does anything grow? RUNS=100 (ARGS="--seed 1"); Docker
	@. deploy/env.sh local && python -m tests.soak --runs $(RUNS) $(ARGS)

.PHONY: pictures
pictures: install ## make the pictures in docs/images anew, with the stack's browser test (Docker and Chromium)
	@. deploy/env.sh local && PICTURES=docs/images REQUIRE_DOCKER=1 pytest tests/stack/airflow_stack/test_browser.py

.PHONY: check
check: install ## lint, format, types, security
	@. deploy/env.sh local && ruff check . && ruff format --check . && mypy && bandit -q -c pyproject.toml -r tasks plugins dags deploy

.PHONY: format
format: install ## rewrite the sources in the project's format
	@. deploy/env.sh local && ruff check --fix . ; ruff format .

.PHONY: audit
audit: install ## look every pinned package up in the advisory database
	@. deploy/env.sh local && for f in requirements/*.txt; do pip-audit --strict --disable-pip --require-hashes -r $$f; done

.PHONY: lock
lock: install ## resolve pyproject.toml's extras into requirements/
	@. deploy/env.sh local && requirements/lock.sh

.PHONY: lock-check
lock-check: install ## fail when a lock no longer follows from pyproject.toml
	@. deploy/env.sh local && requirements/lock.sh --check

.PHONY: bench
bench: install ## images per second beside a plain PyTorch loop (SOURCE=folder or archive of CIFAR-10)
	@. deploy/env.sh local && python -m benchmarks.training_throughput --source "$$SOURCE" $(ARGS)

.PHONY: bench-serving
bench-serving: install ## latency and throughput of the service beside `mlflow models serve`
	@. deploy/env.sh local && python -m benchmarks.serving $(ARGS)

.PHONY: bench-tuning
bench-tuning: install ## cost of a trial, ASHA beside random search, tuned beside default (SOURCE=archive of CIFAR-10)
	@. deploy/env.sh local && python -m benchmarks.tuning $${SOURCE:+--source "$$SOURCE"} $(ARGS)

RUNTIMES ?= local docker kubernetes
.PHONY: bench-runtimes
bench-runtimes: install ## seconds per stage under each runtime that is up: RUNTIMES="local docker kubernetes" (NAMESPACE=)
	@. deploy/env.sh local && mkdir -p "$$AIRFLOW_HOME" && airflow db migrate >/dev/null 2>&1
	@. deploy/env.sh local && env -u PIPELINE_RUNTIME python -m benchmarks.runtimes --runtimes $(RUNTIMES) $(ARGS)

.PHONY: bench-gate
bench-gate: install ## how often the gate promotes a model that is no better: simulated
	@. deploy/env.sh local && python -m benchmarks.false_promotions $(ARGS)

# What a run needs first: the packages, Airflow's database, and for Docker the images and the stack.
.PHONY: ready ready-local ready-docker ready-kubernetes
ready: install ready-$(RUNTIME)
	@$(ENV) && mkdir -p "$$PIPELINE_HOME" && [ -e "$$AIRFLOW_HOME/.migrated" ] || { echo "Preparing Airflow's database ..."; airflow db migrate >"$$PIPELINE_HOME/airflow-migrate.log" 2>&1 && touch "$$AIRFLOW_HOME/.migrated"; }

ready-local:
	@mkdir -p .local

ready-docker: setup
	@mkdir -p .local && . deploy/env.sh docker && python -m tasks.serving --stop
	@$(MAKE) images
	@$(MAKE) up S="serving $$(grep -Eq '^COMPOSE_PROFILES=(.*,)? *(ray|\*) *(,.*)?$$' .env && echo ray-worker)"

ready-kubernetes: setup
	@mkdir -p .local

ready-%:
	@echo "RUNTIME='$*' is unknown; choose local, docker or kubernetes" >&2; exit 64
