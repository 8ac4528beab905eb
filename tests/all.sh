#!/usr/bin/env bash
# `make test`: every test but the long ones, side by side. Without a Docker engine the tests that need one are skipped
# and named. With one there are two lanes: what waits for containers on a stack without Airflow, and beside it first what
# computes and then Airflow's stack. More lanes at once took less time, but containers that share two cores with too many
# others started too late (decision 14).
#   REQUIRE_DOCKER=1   fail without an engine
#   COVERAGE=1         measure coverage of what computes, and fail when it is too low
#   TEST_WORKERS=4     processes for what computes (default: one more than cores, for a third of the time they wait)
set -euo pipefail
cd "$(dirname "$0")/.."
workers=$(python -c 'import os; print(min(5, 1 + (os.cpu_count() or 1)))')
# In the order of their names: what takes longest, tests/dags, comes early, and nothing long is left for the end.
computing=(-n "${TEST_WORKERS:-$workers}" --dist loadscope --no-loadscope-reorder)
# None of these tests takes five minutes; one that hangs must leave time for the others.
computing+=(-o faulthandler_timeout=900)
compute() {
  local code=0
  if [ -z "${COVERAGE:-}" ]; then
    pytest "${computing[@]}" "$@" || code=$?
  else
    rm -f .coverage.json
    SLIPCOVER_ENABLED=1 SLIPCOVER_SOURCE=tasks,plugins,dags pytest "${computing[@]}" "$@" || code=$?
    python -m slipcover --merge .coverage.json --out .coverage.json || code=1  # tests/conftest.py writes it
  fi
  return "$code"
}
finish() { printf '=== make test: %d s\n' "$SECONDS"; }
trap finish EXIT

if ! why=$(docker info 2>&1 >/dev/null); then
  [ "${REQUIRE_DOCKER:-}" != 1 ] || { printf 'REQUIRE_DOCKER=1, but no Docker engine answers: %s\n' "$why" >&2; exit 1; }
  compute "$@"
  exit
fi

logs=$(mktemp -d) failed=0
trap 'rm -rf "$logs"; finish' EXIT
on_stack() {  # NAME PORT PATHS...: a session with a stack of its own
  local name=$1 port=$2
  shift 2
  TEST_STACK=vm-test-$name TEST_STACK_PORT=$port pytest --durations=15 "$@" >"$logs/$name" 2>&1
}
on_stack engine 21410 tests/stack --ignore=tests/stack/airflow_stack --ignore=tests/stack/kubernetes "$@" &
engine=$!
compute --ignore=tests/stack --durations=15 "$@" 2>&1 | tee "$logs/computing" || failed=1
printf '=== what computes took %d s; now Airflow, beside what runs on the engine\n' "$SECONDS"
on_stack airflow 21440 tests/stack/airflow_stack "$@" || failed=1
wait "$engine" || failed=1
cat "$logs/engine" "$logs/airflow"
grep -hE '^(FAILED|ERROR) ' "$logs"/* || true  # the failures of all lanes once more, where a reader looks first
exit $failed
