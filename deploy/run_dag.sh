#!/usr/bin/env bash
# One DAG run on this machine, then what it did:  deploy/run_dag.sh DAG_ID [CONF as JSON]
# Expects the environment of deploy/env.sh.
set -euo pipefail
dag=$1 conf=${2:-}
# In one line what Airflow would take silently or answer with a page of traceback; the demo's own run needs no check.
[ "$dag" = daily_training ] && [ -z "$conf" ] || python -m pipeline.conf "$dag" "$conf"
started=$SECONDS
code=0
airflow dags test "$dag" ${conf:+--conf "$conf"} || code=$?
printf '\n%s %s after %d s\n\n' "$dag" "$([ $code = 0 ] && echo finished || echo failed)" $((SECONDS - started))
python -m tasks.summary "$dag"
exit $code
