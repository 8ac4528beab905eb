"""How a stage becomes an Airflow task, whatever runs it.

runtimes   `stage_task`, the one function a DAG file calls, and the table of runtimes
params     the DAG's form, made from the request models
base       the operator that builds one job and judges its outcome
job        the job: all that a runtime is told
outcome    what came of it, and whether to try again
local      a process on this machine (leash: ends it when its task is gone)
docker     a container (engine: the few things asked of the Docker engine)
notifications  tells Slack and mail of failures and promotions
links      from a task to its MLflow run
promotion  what follows a training in every DAG: evaluate, approve, register
pool       the pool of the tasks that move `champion`
conf       checks a configuration before a DAG run starts
run        one DAG run on this machine (unfinished: goes on with one that was killed)
"""
