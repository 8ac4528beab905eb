#!/usr/bin/env bash
# All tests on the cluster of TEST_KUBECONFIG: first the pipeline, with MLflow and the service in the cluster, then the
# rest. One after the other: beside each other, pods started too late (decision 14), and so they do where one session
# keeps its MLflow and service up while another starts its own.
set -euo pipefail
cd "$(dirname "$0")/.."
pipeline=(tests/stack/kubernetes/test_{daily_training,faults,stage_namespace}.py)

session() { pytest -m kubernetes --durations=10 "$@"; }
failed=0
session "${pipeline[@]}" "$@" || failed=1
session tests/stack/kubernetes "${pipeline[@]/#/--ignore=}" "$@" || failed=1
exit $failed
