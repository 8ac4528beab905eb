#!/usr/bin/env bash
# Every test, in two sessions side by side: those of the Airflow stack mostly wait, the others mostly compute.
# Each has a stack of its own. Without a Docker engine there is one session, which says what it skips.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -f .coverage .coverage.*
if ! docker info >/dev/null 2>&1; then
  exec pytest --cov "$@"
fi
log=$(mktemp) && trap 'rm -f "$log"' EXIT
TEST_STACK=vm-test-airflow TEST_STACK_PORT=21440 COVERAGE_FILE=.coverage.airflow \
  pytest --cov --cov-report= --cov-fail-under=0 --durations=10 tests/stack/airflow_stack "$@" >"$log" 2>&1 &
airflow=$!
others=0 with_airflow=0
COVERAGE_FILE=.coverage.others \
  pytest --cov --cov-report= --cov-fail-under=0 --durations=10 --ignore=tests/stack/airflow_stack "$@" || others=$?
echo "--- tests/stack/airflow_stack, which ran beside these; waiting for its end"
wait "$airflow" || with_airflow=$?
cat "$log"
[ $others = 0 ] && [ $with_airflow = 0 ] || exit 1
coverage combine --quiet && coverage report
