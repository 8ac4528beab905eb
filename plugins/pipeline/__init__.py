"""How a stage becomes an Airflow task, on any runtime.

runtimes    `stage_task`, the one function a DAG file calls; it picks the runtime's operator
operator/   builds the job of a stage, checks its result, decides about retries; the form, limits and links
local/      a stage as a process on this machine
docker/     a stage as a container
kubernetes/ a stage as a pod
socket_proxy/  a service of the stack: the only way to the Docker engine
dag_parts/  what several DAGs share: promotion, compression, approval, pool, notifications
command/    one DAG run from a shell: `make run`

A runtime's folder imports `operator/` and never another runtime. Nothing here imports torch or mlflow.
"""
