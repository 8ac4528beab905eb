#!/usr/bin/env bash
# All tests on the cluster of TEST_KUBECONFIG, in two lanes beside each other, for both wait most of the time: what needs
# MLflow and the service in the cluster, and what a small stand-in of a stage shows.
set -euo pipefail
cd "$(dirname "$0")/.."
stand_in=(tests/stack/kubernetes/test_{airflow_process,failures,rollout,runtime,taking_over}.py)
log=$(mktemp) && trap 'rm -f "$log"' EXIT

session() { pytest -m kubernetes --durations=10 "$@"; }
session "${stand_in[@]}" "$@" >"$log" 2>&1 &
waiting=$! failed=0
session tests/stack/kubernetes "${stand_in[@]/#/--ignore=}" "$@" || failed=1
echo "--- ${stand_in[*]}, which ran beside these; waiting for their end"
wait "$waiting" || failed=1
cat "$log"
exit $failed
