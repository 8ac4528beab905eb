#!/usr/bin/env bash
# Every test, in two lanes side by side that take about as long: what needs the Airflow stack mostly waits, the others
# mostly compute. Each lane has a stack of its own. Without a Docker engine there is one, which says what it skips.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -f .coverage .coverage.*
if ! docker info >/dev/null 2>&1; then
  exec pytest --cov "$@"
fi
beside=(tests/stack/test_tuning.py tests/stack/test_up.py)  # as many as make the lanes equal
log=$(mktemp) && trap 'rm -f "$log"' EXIT

session() {  # NAME PYTEST_ARGUMENTS...
  COVERAGE_FILE=.coverage.$1 pytest --cov --cov-report= --cov-fail-under=0 --durations=10 "${@:2}"
}
waiting_lane() {
  export TEST_STACK=vm-test-airflow TEST_STACK_PORT=21440
  local failed=0
  session airflow tests/stack/airflow_stack "$@" || failed=1
  session beside "${beside[@]}" "$@" || failed=1
  return $failed
}
waiting_lane "$@" >"$log" 2>&1 &
waiting=$!
failed=0
session others --ignore=tests/stack/airflow_stack "${beside[@]/#/--ignore=}" "$@" || failed=1
echo "--- tests/stack/airflow_stack, ${beside[*]}, which ran beside these; waiting for their end"
wait "$waiting" || failed=1
cat "$log"
[ $failed = 0 ] || exit 1
coverage combine --quiet && coverage report
