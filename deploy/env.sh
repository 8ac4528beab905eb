# Environment of commands on this machine, sourced by the Makefile:  . deploy/env.sh RUNTIME
# Airflow keeps its state under .local/; with RUNTIME=docker and kubernetes the secrets and ports come from .env, and with
# kubernetes what the cluster's own Airflow is told comes from its ConfigMap.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="$root/.venv/bin:$PATH" PYTHONPATH="$root:$root/plugins" PYTHONUNBUFFERED=1
unset PYTHONDONTWRITEBYTECODE  # every stage is a process of its own, and compiling torch and mlflow takes 10 s each time

if [ "$1" = kubernetes ]; then
  export PIPELINE_KUBERNETES_NAMESPACE="${PIPELINE_KUBERNETES_NAMESPACE:-${NAMESPACE:-vision-mlops}}"
  while IFS= read -r line; do
    case $line in
      MLFLOW_TRACKING_URI=* | MLFLOW_PUBLIC_URL=*) ;;  # here they are those of forward.py
      PIPELINE_*=?* | S3_*=?* | TUNE_*=?* | RAY_*=?* | SERVING_*=?*) [[ -v ${line%%=*} ]] || export "${line?}" ;;
    esac
  done < <(kubectl --namespace "$PIPELINE_KUBERNETES_NAMESPACE" get configmap settings \
    --output 'go-template={{range $name, $value := .data}}{{$name}}={{$value}}{{"\n"}}{{end}}')
  [[ -v PIPELINE_STAGE_SERVING_URL ]] || { echo "env.sh: namespace $PIPELINE_KUBERNETES_NAMESPACE has no settings; run make kubernetes-up" >&2; exit 78; }
fi

if [ "$1" = docker ] || [ "$1" = kubernetes ]; then
  [ -f "$root/.env" ] || { echo "env.sh: there is no .env; run make setup" >&2; exit 78; }
  while IFS= read -r line; do  # an empty value means the default, so it is not set at all
    [[ $line = [A-Z]*=?* ]] || continue
    [[ -v ${line%%=*} ]] || export "${line?}"  # as compose has it, the environment goes before .env
  done <"$root/.env"
  export MLFLOW_TRACKING_URI="http://127.0.0.1:${MLFLOW_PORT:-5000}" MLFLOW_PUBLIC_URL="http://127.0.0.1:${MLFLOW_PORT:-5000}"
  export SERVING_URL="http://127.0.0.1:${SERVING_PORT:-3000}"
fi

export PIPELINE_RUNTIME="$1" PIPELINE_HOME="${PIPELINE_HOME:-$root/.local}"
PIPELINE_GIT_COMMIT=${PIPELINE_GIT_COMMIT:-$(git -C "$root" rev-parse HEAD 2>/dev/null || true)}
export PIPELINE_GIT_COMMIT MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1

export AIRFLOW_HOME="${AIRFLOW_HOME:-$PIPELINE_HOME/airflow}"
export AIRFLOW__CORE__DAGS_FOLDER="$root/dags" AIRFLOW__CORE__PLUGINS_FOLDER="$root/plugins"
export AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG=4
export AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG=1  # stages have no limits here, and share one service
# What a run says is the stages' own lines; Airflow's bookkeeping only where something is wrong.
export AIRFLOW__LOGGING__NAMESPACE_LEVELS="airflow.api_fastapi=WARNING airflow.sdk.definitions.dag=ERROR airflow.models.dagrun=WARNING task=WARNING httpx=WARNING alembic=WARNING"
