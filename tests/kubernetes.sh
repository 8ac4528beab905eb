#!/usr/bin/env bash
# All tests on the cluster of TEST_KUBECONFIG: first what needs MLflow and the service in the cluster, then what a small
# stand-in of a stage shows. One after the other: beside each other, pods started too late (decision 14).
set -euo pipefail
cd "$(dirname "$0")/.."
stand_in=(tests/stack/kubernetes/test_{airflow_process,failures,rollout,runtime,taking_over}.py)

session() { pytest -m kubernetes --durations=10 "$@"; }
failed=0
session tests/stack/kubernetes "${stand_in[@]/#/--ignore=}" "$@" || failed=1
session "${stand_in[@]}" "$@" || failed=1
exit $failed
