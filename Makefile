# vision-mlops. `make help` lists the targets; README.md shows where to begin.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
RUNTIME ?= local
SOURCE ?= ../shared/data/cifar10.tar.gz
# The shell reads these from the environment, so that their values may hold any quotes and blanks.
export CHART CONF DAG DAYS FILE GIT_REF GIT_REPOSITORY KEEP KUBECONFIG LAYOUT LICENCE MODEL NAME NAMESPACE OUT OVERLAY REASON ROLE RUNS SOURCE TIME TRIALS VERSION
ENV = . deploy/env.sh $(RUNTIME)
LOCAL = . deploy/env.sh local
option = $(if $($2),--$1 "$$$2")
flag = $(if $(filter 1,$($2)),--$1)
FORWARD = $(if $(filter kubernetes,$(RUNTIME)),python -m deploy forward --namespace "$$NAMESPACE" $1--)
RUN = $(FORWARD) python -m pipeline run $(call flag,anew,ANEW)
IN = $(call option,namespace,NAMESPACE)
PLACE = $(call option,overlay,OVERLAY) $(IN)
FILE_OPTIONS = $(call option,file,FILE) $(call flag,force,FORCE) $(call flag,plain,PLAIN)
GC = $(call option,days,DAYS) $(call flag,apply,APPLY)
GC_local = $(if $(filter 1,$(APPLY)),python -m pipeline clean-database && )
GC_docker = python -m deploy leftover-containers $(GC) && S3_ENDPOINT_URL="$${S3_ENDPOINT_URL:-http://127.0.0.1:$${S3_PORT:-9000}}"
GC_kubernetes = python -m deploy leftover-pods $(GC) && $(call FORWARD,--store )
.PHONY: $(shell awk -F: '/^[a-z-]+:/{print $$1}' Makefile)
help: ## list the targets
	@awk -F ':.*## ' '/^## /{printf "\n%s\n", substr($$0, 4)} /^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' Makefile

## Pipeline. RUNTIME=local, docker or kubernetes says where the stages run (default: local)
demo: ready ## train, evaluate, register and serve a model of the digits data set
	@$(ENV) && $(RUN) daily_training && $(FORWARD) python -m deploy curl-line daily_training
run: ready ## run a DAG: DAG=daily_training CONF='{"dataset": "digits", "epochs": 5}'; ANEW=1 ignores an unfinished run
	@$(ENV) && $(RUN) "$${DAG:-daily_training}" "$$CONF"
tune: ready; @$(ENV) && $(RUN) weekly_tuning "$$CONF" $(if $(TRIALS),--param "trials=$$TRIALS") ## search hyperparameters, then train with the best: TRIALS=20 CONF='{"dataset": "digits"}'
predict: ready; @$(ENV) && $(RUN) batch_predict "$$CONF" --param "images=$$SOURCE" $(if $(OUT),--param "out=$$OUT") $(if $(VERSION),--param "model_version=$$VERSION") ## classify the images in SOURCE=folder, archive or s3://B/P/ with the champion, into OUT=folder or s3://B/P/ (VERSION=3)
tune-results: ready; @$(ENV) && $(FORWARD) python -m tasks $@ $(ARGS) ## show the trials of the newest search, best first (ARGS="--run-id ID --limit 10 --json")
history: ready; @$(ENV) && $(FORWARD) python -m tasks $@ $(ARGS) ## show who or what promoted, refused or rolled back which model version, and why
inspect: install; @$(LOCAL) && python -m tasks inspect --source "$$SOURCE" $(call option,layout,LAYOUT) $(call option,out,OUT) $(ARGS) ## show what prepare would make of SOURCE=folder or archive, and leave out (LAYOUT=, OUT=folder for list and sample grid)
weights: ready; @$(ENV) && $(FORWARD) python -m tasks weights --model "$$MODEL" $(call option,file,FILE) $(call option,licence,LICENCE) ## store pretrained weights in MLflow, for machines without internet: MODEL=resnet50.a1_in1k (FILE= instead of the hub, LICENCE=)
rollback: ready; @$(ENV) && $(FORWARD) python -m tasks rollback-champion --reason "$$REASON" --version "$$VERSION" ## make the previous champion the champion again: REASON="..." (VERSION=3 for another version)
export-onnx: ready; @$(ENV) && $(FORWARD) python -m tasks export-onnx $(call option,version,VERSION) ## let the service run a version that an earlier release registered: what SERVING_MODEL names, or VERSION=3
gc: ready ## list what failed and abandoned runs left behind; APPLY=1 removes it (DAYS=7: only what has been idle for so long)
	@$(ENV) && $(GC_$(RUNTIME)) python -m tasks gc $(GC)
ui: ready; @$(ENV) && python -m deploy ui ## start Airflow and MLflow in the browser; prints their addresses and the login
stop: ## stop what ui, demo and up started; data are kept
	@if [ -e .venv/.installed ]; then $(LOCAL); python -m deploy stop-ui; python -m tasks serve --stop; fi
	@if [ -f .env ] && docker info >/dev/null 2>&1; then $(MAKE) down; fi
clean: stop ## stop, and delete .local; with RUNTIME=docker also the stack's data
	@if [ "$(RUNTIME)" = docker ] && [ -f .env ]; then $(PYTHON) -m deploy down --volumes; fi
	rm -rf .local .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage*

## Stack on Docker
setup: ## write .env with fresh random secrets; values that are already there stay
images: ## build the images (S="train deploy": only these)
	@$(PYTHON) -m images build $(S)
image-digests: ; @$(PYTHON) -m images digests ## print PIPELINE_IMAGE_DIGESTS for .env, once the stage images are pushed
image-table: ; @$(PYTHON) -m images table ## print the images as a Markdown table: size, start, user, contents (docs/how-to/images.md)
up: setup ## start the stack and wait until it is healthy (S=serving: only this service)
	@$(PYTHON) -m deploy up $(S) && { [ -n "$(S)" ] || $(MAKE) status; }
down: setup ## stop the stack; data are kept in its volumes
status: ## show the services, their health and their addresses
logs: WITH = $(S) ## follow the logs of a service: S=airflow-scheduler (without S: of all); Ctrl-C ends it
user: WITH = "$$NAME" "$$ROLE" ## create a user in Airflow and MLflow: NAME=ann ROLE=viewer, editor or admin
upgrade: WITH = $(call flag,force,FORCE) ## replace the release that runs by the one in this folder; goes back to it if that fails (FORCE=1: during DAG runs)
rotate: WITH = $(call option,keep,KEEP) ## replace every secret in .env and in the running stack by a new one (KEEP="SERVING_API_KEY": not these)
doctor: ## find what keeps the stack from working: Docker, ports, disk, memory, .env, images, clock, servers
backup: WITH = $(FILE_OPTIONS) ## save databases and bucket to one encrypted file while the stack runs (FILE=; default: backups/NAME.backup)
nightly-backup: ## what a timer calls: save to the other store or folder in .env, delete old backups there, tell Prometheus
fetch-backup: WITH = $(if $(FILE),"$$FILE") ## copy a nightly backup to this machine and print its path: FILE=NAME, else the newest
ship-wal: ## what another timer calls: ship Postgres' write-ahead log there, and a base backup a day, where BACKUP_WAL=1
restore-to: WITH = $(call option,time,TIME) $(call flag,force,FORCE) ## bring the databases back to TIME=2026-03-01T14:05:00Z, or latest (FORCE=1: although the present state is lost)
restore-drill: WITH = $(call option,file,FILE) $(call option,time,TIME) ## restore the newest nightly backup, FILE= or TIME=latest into an empty second stack and compare its champion's answers
restore: WITH = $(FILE_OPTIONS) ## restore the running stack from FILE= (FORCE=1: even if it holds work; PLAIN=1: from a file without encryption)

## Stack on Kubernetes, in the current kubectl context (NAMESPACE=vision-mlops)
kubernetes-up: private WITH = $(PLACE) ## apply an overlay and wait until it is healthy: OVERLAY=local, local-ray, eks or eks-gpu
kubernetes-airflow: private WITH = $(PLACE) $(call option,repository,GIT_REPOSITORY) $(call option,ref,GIT_REF) $(call option,chart,CHART) ## install Airflow by its Helm chart: OVERLAY= GIT_REPOSITORY=https://... GIT_REF=v0.1.0 (CHART=)
kubernetes-rotate: private WITH = $(PLACE) $(call option,keep,KEEP) ## replace every secret in .env and in the cluster by a new one (KEEP=)
kubernetes-verify: private WITH = $(IN) ## check the workloads, MLflow's login and the model of every serving pod; changes nothing
kubernetes-backup: WITH = $(IN) $(FILE_OPTIONS) ## save databases and bucket of OVERLAY=local to one file while everything runs (FILE=)
kubernetes-restore: WITH = $(IN) $(FILE_OPTIONS) ## restore the cluster from FILE= (FORCE=1: even if it holds work)
kubernetes-up kubernetes-airflow kubernetes-rotate kubernetes-verify: setup
setup down status logs user upgrade rotate doctor backup nightly-backup fetch-backup ship-wal restore restore-to restore-drill kubernetes-up kubernetes-airflow kubernetes-rotate kubernetes-verify kubernetes-backup kubernetes-restore:
	@$(PYTHON) -m deploy $@ $(WITH)

## Development. ARGS=... is passed on to the program
test: install ## run all tests; those that need Docker only where an engine answers (REQUIRE_DOCKER=1: fail without one)
	@$(LOCAL) && $(if $(ARGS),pytest $(ARGS),tests/all.sh)
test-long: install; @$(LOCAL) && tests/long.sh ## run what `test` leaves out and runs every night: browser, monitoring, workers, restarts, all of chaos; needs Docker
test-kubernetes: install ## test the Kubernetes runtime and manifests on a real cluster: KUBECONFIG=file
	@[ -f "$$KUBECONFIG" ] || { echo "KUBECONFIG='$$KUBECONFIG' is not a file; give the kubeconfig of a cluster for tests" >&2; exit 64; }
	@$(LOCAL) && TEST_KUBECONFIG="$$KUBECONFIG" $(if $(ARGS),pytest -m kubernetes $(ARGS),tests/kubernetes.sh)
chaos: WITH = chaos --jobs 2 ## kill every stage at every external write; its retry must give the same result (ARGS="--stage train --sample 20")
outages: WITH = chaos.outages ## stop MLflow, Postgres or S3 for 20 s at random times; needs Docker (ARGS="--times 3 --service s3")
upgrade-check: WITH = upgrade ## compare results with another release, and use the state it left (ARGS="same-results --base v0.1.0", "state ...")
soak: WITH = soak $(call option,runs,RUNS) ## run RUNS=100 daily runs in a row, kill a stage in one of ten, and look for growth; needs Docker (ARGS="--seed 1")
chaos outages upgrade-check soak: install; @$(LOCAL) && python -m tests.$(WITH) $(ARGS)
pictures: install; @$(LOCAL) && TEST_LONG=1 PICTURES=docs/images REQUIRE_DOCKER=1 pytest tests/stack/airflow_stack/test_browser.py ## take the screenshots in docs/images again; needs Docker and Chromium
check: install; @$(LOCAL) && ruff check . && ruff format --check . && lint-imports && mypy && bandit -q -c pyproject.toml -r tasks plugins dags deploy ## lint, check format, import directions, types and security
format: install; @$(LOCAL) && ruff check --fix . ; ruff format . ## format the sources
audit: install; @$(LOCAL) && for f in requirements/*.txt; do pip-audit --strict --disable-pip --require-hashes -r $$f; done ## look up every pinned package in the advisory database
lock: install ## pin the extras of pyproject.toml in requirements/
lock-check: install ## fail if requirements/ does not match pyproject.toml
lock lock-check: ; @$(LOCAL) && requirements/lock.sh $(if $(filter lock-check,$@),--check)
bench: WITH = training_throughput --source "$$SOURCE" ## compare images per second in training with a plain PyTorch loop (SOURCE=folder or archive of CIFAR-10)
bench-serving: WITH = serving ## compare latency and throughput of the service with `mlflow models serve`
bench-inference: WITH = inference ## compare torch, ONNX Runtime and OpenVINO on the same weights (OpenVINO: see benchmarks/inference.py)
bench-tuning: WITH = tuning --source "$$SOURCE" ## measure the cost of a trial, ASHA against random search, tuned against default (SOURCE=archive)
bench-transfer: WITH = transfer --source "$$SOURCE" ## compare transfer learning on photos with what users would write (SOURCE=archive of CIFAR-10, ARGS="--part large")
bench-history: WITH = history ## compare an installation of three years with a fresh one, on SQLite and on Postgres in a container
bench-data: WITH = data --source "$$SOURCE" ## compare reading gold from shards with memory, torchvision and LitData (SOURCE=archive of CIFAR-10)
bench-scale: WITH = scale --source "$$SOURCE" ## compare training on two workers with one, and with a script for Ray Train (SOURCE=archive of CIFAR-10)
bench-gate: WITH = false_promotions ## simulate how often the gate promotes a model that is no better
bench bench-serving bench-inference bench-tuning bench-transfer bench-gate bench-history bench-data bench-scale: install; @$(LOCAL) && python -m benchmarks.$(WITH) $(ARGS)
bench-runtimes: ready-database; @$(LOCAL) && env -u PIPELINE_RUNTIME python -m benchmarks.runtimes $(if $(RUNTIMES),--runtimes $(RUNTIMES)) $(ARGS) ## measure the seconds per stage in each runtime that is up: RUNTIMES="local docker kubernetes" (NAMESPACE=)

## Preparation, which the targets above do by themselves
install: .venv/.installed ## make .venv from the pinned, hashed requirements
.venv/.installed: requirements/dev.txt requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	.venv/bin/uv pip sync --quiet --python .venv --require-hashes requirements/dev.txt && touch $@
ready: install ready-$(RUNTIME) ready-database ## install, and prepare Airflow's database; with RUNTIME=docker also the images and the stack
ready-database: install
	@$(ENV) && mkdir -p "$$PIPELINE_HOME" && { [ -e "$$AIRFLOW_HOME/.migrated" ] || { echo "Preparing Airflow's database ..."; { airflow db migrate && airflow dags reserialize; } >"$$PIPELINE_HOME/airflow-migrate.log" 2>&1 && touch "$$AIRFLOW_HOME/.migrated"; } || { tail -5 "$$PIPELINE_HOME/airflow-migrate.log" >&2; exit 1; }; }
ready-local:
ready-kubernetes: setup
ready-docker: setup images
	@$(LOCAL) && python -m tasks serve --stop && $(PYTHON) -m deploy up --for-stages
ready-%:
	@echo "RUNTIME='$*' is unknown; choose local, docker or kubernetes" >&2; exit 64
