#!/usr/bin/env bash
# Airflow (standalone) and MLflow's pages for work on this machine:  deploy/ui.sh start|stop
# Expects the environment of deploy/env.sh. Each program has a process group of its own, its ID in .local/run/NAME.pid.
set -euo pipefail
run=$PIPELINE_HOME/run logs=$PIPELINE_HOME/logs
airflow_port=${AIRFLOW_PORT:-8080} mlflow_port=${MLFLOW_PORT:-5000}
mkdir -p "$run" "$logs"

# The group of NAME, if it is still the program we started: a reused ID has another start time.
group() {
  [ -s "$run/$1.pid" ] || return 1
  read -r pid born <"$run/$1.pid"
  [ "$(awk '{print $22}' "/proc/$pid/stat" 2>/dev/null)" = "$born" ] && echo "$pid"
}

start() {  # NAME PORT COMMAND...
  local name=$1 port=$2; shift 2
  group "$name" >/dev/null && return
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "port $port is taken by another program; stop it, or set ${name^^}_PORT to a free one" >&2; exit 69
  fi
  setsid "$@" >"$logs/$name.log" 2>&1 </dev/null &
  local pid=$!
  echo "$pid $(awk '{print $22}' "/proc/$pid/stat")" >"$run/$name.pid"
}

wait_for() {  # NAME URL
  for _ in $(seq 180); do
    curl --silent --fail --output /dev/null --max-time 2 "$2" && return
    group "$1" >/dev/null || break
    sleep 1
  done
  echo "$1 did not start; the end of $logs/$1.log:" >&2; tail -15 "$logs/$1.log" >&2; exit 69
}

stop() {
  local pid; pid=$(group "$1") || { rm -f "$run/$1.pid"; return 0; }
  kill -TERM -- "-$pid" 2>/dev/null || true
  for _ in $(seq 100); do group "$1" >/dev/null || break; sleep 0.1; done
  kill -KILL -- "-$pid" 2>/dev/null || true
  rm -f "$run/$1.pid"; echo "$1 stopped"
}

case $1 in
  start)
    if [ "$PIPELINE_RUNTIME" = local ]; then
      start mlflow "$mlflow_port" mlflow server --host 127.0.0.1 --port "$mlflow_port" --workers 1 \
        --backend-store-uri "sqlite:///$PIPELINE_HOME/mlflow.db" --default-artifact-root "file://$PIPELINE_HOME/artifacts" --no-serve-artifacts
      wait_for mlflow "http://127.0.0.1:$mlflow_port/health"
    fi
    # A task's token must outlive the longest execution_timeout, or a long training is ended as if it were lost.
    export AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME=86400
    export AIRFLOW__API__HOST=127.0.0.1 AIRFLOW__API__PORT=$airflow_port AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS=admin:admin
    export AIRFLOW__CORE__EXECUTION_API_SERVER_URL="http://127.0.0.1:$airflow_port/execution/" AIRFLOW__API__BASE_URL="http://127.0.0.1:$airflow_port"
    group airflow >/dev/null || python -m pipeline pool
    start airflow "$airflow_port" airflow standalone
    wait_for airflow "http://127.0.0.1:$airflow_port/api/v2/version"
    password=$(python -c 'import json,sys; print(json.load(open(sys.argv[1]))["admin"])' "$AIRFLOW_HOME/simple_auth_manager_passwords.json.generated")
    printf 'Airflow  http://127.0.0.1:%s   user admin, password %s\nMLflow   http://127.0.0.1:%s\nEnd them with make stop; their logs are in %s\n' \
      "$airflow_port" "$password" "$mlflow_port" "$logs" ;;
  stop) stop airflow; stop mlflow ;;
  *) echo "ui.sh: '$1' is unknown; say start or stop" >&2; exit 64 ;;
esac
