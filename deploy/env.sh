# Sets the environment for commands on this machine, in a shell or in the Makefile:  . deploy/env.sh [RUNTIME]
# Afterwards `airflow`, `mlflow`, `python -m tasks` and `python -m pipeline` use the state that `make` uses. RUNTIME is
# local (default: state under .local/), docker (addresses and secrets of .env) or kubernetes (those of .env, and the
# settings that the cluster's own Airflow gets from its ConfigMap).
root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)
export PATH="$root/.venv/bin:$PATH" PYTHONPATH="$root:$root/plugins" PYTHONUNBUFFERED=1
export PIPELINE_RUNTIME="${1:-local}" PIPELINE_HOME="${PIPELINE_HOME:-$root/.local}"
unset PYTHONDONTWRITEBYTECODE  # every stage is a process of its own, and compiling torch and mlflow takes 10 s each time

if [ "$PIPELINE_RUNTIME" = kubernetes ]; then
  # The platform's. Where earlier releases had stages in it, PIPELINE_KUBERNETES_NAMESPACE could name it as well.
  stages="${PIPELINE_KUBERNETES_NAMESPACE:-vision-mlops}"
  export NAMESPACE="${NAMESPACE:-${stages%-stages}}"
  unset PIPELINE_KUBERNETES_NAMESPACE  # the settings have that of the stages
  while IFS= read -r line; do
    case $line in
      MLFLOW_TRACKING_URI=* | MLFLOW_PUBLIC_URL=*) ;;  # on this machine: the forwarded port, see below
      PIPELINE_*=?* | S3_*=?* | TUNE_*=?* | RAY_*=?* | SERVING_*=?*) [[ -v ${line%%=*} ]] || export "${line?}" ;;
    esac
  done < <(kubectl --namespace "$NAMESPACE" get configmap settings \
    --output 'go-template={{range $name, $value := .data}}{{$name}}={{$value}}{{"\n"}}{{end}}')
  [[ -v PIPELINE_STAGE_SERVING_URL ]] || { echo "env.sh: namespace $NAMESPACE has no settings; run make kubernetes-up" >&2; return 78; }
  export PIPELINE_KUBERNETES_NAMESPACE="${PIPELINE_KUBERNETES_NAMESPACE:-$NAMESPACE}"  # not applied again since an upgrade
fi

if [ "$PIPELINE_RUNTIME" = docker ] || [ "$PIPELINE_RUNTIME" = kubernetes ]; then
  [ -f "$root/.env" ] || { echo "env.sh: there is no .env; run make setup" >&2; return 78; }
  while IFS= read -r line; do  # an empty value means the default, so it is not set at all
    [[ $line = [A-Z]*=?* ]] || continue
    case $line in MLFLOW_TRACKING_USERNAME=* | MLFLOW_TRACKING_PASSWORD=*) continue ;; esac  # the administrator's
    case $PIPELINE_RUNTIME$line in kubernetesS3_*_*_KEY=*) continue ;; esac  # of the store on Docker
    [[ -v ${line%%=*} ]] || export "${line?}"  # the environment overrides .env, as with Compose
  done <"$root/.env"
  export MLFLOW_TRACKING_URI="http://127.0.0.1:${MLFLOW_PORT:-5000}" MLFLOW_PUBLIC_URL="http://127.0.0.1:${MLFLOW_PORT:-5000}"
  export SERVING_URL="http://127.0.0.1:${SERVING_PORT:-3000}"
  # Commands such as `make rollback` are the user of the same stages in containers, unless the environment names another.
  [[ -v MLFLOW_TRACKING_USERNAME || -z ${MLFLOW_REGISTRY_PASSWORD-} ]] || export MLFLOW_TRACKING_USERNAME=pipeline-registry MLFLOW_TRACKING_PASSWORD="$MLFLOW_REGISTRY_PASSWORD"
else  # the stages' own default; MLflow's command line would make a database in the current folder
  export MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-sqlite:///$PIPELINE_HOME/mlflow.db}"
fi

[[ ${PIPELINE_POLICIES:-/} = [/{]* ]] || export PIPELINE_POLICIES="$root/$PIPELINE_POLICIES"  # as Compose reads it
PIPELINE_GIT_COMMIT=${PIPELINE_GIT_COMMIT:-$(git -C "$root" rev-parse HEAD 2>/dev/null || true)}
export PIPELINE_GIT_COMMIT MLFLOW_DISABLE_TELEMETRY=true ORT_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1

export AIRFLOW_HOME="${AIRFLOW_HOME:-$PIPELINE_HOME/airflow}"
export AIRFLOW__CORE__DAGS_FOLDER="$root/dags" AIRFLOW__CORE__PLUGINS_FOLDER="$root/plugins"
export AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG=4
export AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG=1  # stages have no limits here, and share one service
# A run's output is the stages' own log lines; of Airflow's only what is wrong.
export AIRFLOW__LOGGING__NAMESPACE_LEVELS="airflow.api_fastapi=WARNING airflow.sdk.definitions.dag=ERROR airflow.models.dagrun=WARNING task=WARNING httpx=WARNING alembic=WARNING"
