"""Every day: make the data, train, evaluate, register, and put the new champion into service."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, task

from pipeline.approval import PromotionApproval
from pipeline.notifications import failure, promotion
from pipeline.params import stage_params
from pipeline.runtimes import stage_task

with DAG(
    dag_id="daily_training",
    description="Keeps the served image classifier good: prepare, train, evaluate, register, deploy.",
    doc_md=__doc__
    + """

`prepare -> train -> evaluate -> approve -> register -> [promoted?] -> deploy`

Each task is one stage: a process or a container, with a run of its own in MLflow (the button *MLflow run*). A task
hands the next an MLflow run ID. `deploy` is skipped when the new model is not proven better than the champion, or when
the service follows another registered model; with `require_approval` a person is asked before a model takes over. Start
it by hand with other values of the form, or with

    make run DAG=daily_training CONF='{"dataset": "cifar10", "model": "resnet18", "registered_model": "cifar"}'

A task that failed for a reason that will repeat (bad data, bad request) is not retried; its last log line says what
to do.
""",
    tags=["vision", "training"],
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    dagrun_timeout=timedelta(days=4),  # an approval may take three of them
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(minutes=15),
        "on_failure_callback": failure,
    },
    params=stage_params("prepare", "train", "evaluate", "register", "deploy"),
):
    prepare = stage_task("prepare", execution_timeout=timedelta(hours=2))
    train = stage_task("train", prepare_run_id=prepare.output["run_id"], execution_timeout=timedelta(hours=8))
    evaluate = stage_task("evaluate", train_run_id=train.output["run_id"], execution_timeout=timedelta(hours=1))
    approve = PromotionApproval(task_id="approve", promote=evaluate.output["promote"], table=evaluate.output["table"])
    register = stage_task("register", evaluate_run_id=evaluate.output["run_id"], approval=approve.output)
    register.on_success_callback = [promotion]
    # Several runs may go on at once (docs/decisions/0006), but only one reads and moves `champion`.
    register.max_active_tis_per_dag = 1
    deploy = stage_task("deploy", version=register.output["version"], execution_timeout=timedelta(minutes=75))

    @task.short_circuit
    def promoted(promoted: bool) -> bool:
        """Skip what follows when `champion` stays where it was."""
        return promoted

    promoted(register.output["promoted"]) >> deploy
