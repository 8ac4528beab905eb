"""Every day: prepare the data, train, evaluate, register, and deploy the new champion."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, TaskGroup

from pipeline.dag_parts.compression import compress_and_promote
from pipeline.dag_parts.promotion import promote_and_deploy
from pipeline.operator.params import stage_params
from pipeline.runtimes import STAGE_DEFAULTS, stage_task

with DAG(
    dag_id="daily_training",
    description="Keeps the served image classifier good: prepare, train, evaluate, register, deploy.",
    doc_md=__doc__
    + """

`prepare -> train -> evaluate -> approve -> register -> [promoted?] -> deploy -> compression`

Each task is one stage: a process, a container or a pod, with its own run in MLflow (the button *MLflow run*). A task
passes an MLflow run ID to the next one. `deploy` is skipped when the new model is not proven better than the champion,
or when the service follows another registered model. With `require_approval`, a person must approve the promotion.
With `compress`, the group `compression` makes the new champion smaller once it is deployed, and promotes the result if
it answers as well and pays, as `weekly_compression` does. By default, and without a promotion, the group is skipped.
`train` uses the newest hyperparameters of `weekly_tuning` that made a champion, and links to that search. Values set in
the form override them; `hyperparameters=default` ignores them. To use other values, trigger it with the form, or with

    make run DAG=daily_training CONF='{"dataset": "cifar10", "model": "resnet18", "registered_model": "cifar"}'

A task that failed for a permanent reason (bad data, bad request) is not retried; its last log line says what to do.
""",
    tags=["vision", "training"],
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    dagrun_timeout=timedelta(days=7),  # an approval may take three of them, and that of a compressed model as long
    default_args=STAGE_DEFAULTS,
    params=stage_params(
        *("prepare", "train", "evaluate", "register", "deploy", "compress"),
        optional={"compress": "none"},  # what a scheduled run does
        without=["trained_by"],
    ),
):
    prepare = stage_task("prepare", execution_timeout=timedelta(hours=2))
    train = stage_task(
        "train",
        prepare_run_id=prepare.output["run_id"],
        prepare_tags=prepare.output["tags"],
        execution_timeout=timedelta(hours=8),
    )
    deployed = promote_and_deploy(train, prepared=prepare)
    with TaskGroup(
        "compression", tooltip="With the Param compress, after a promotion: the new champion, made smaller."
    ):
        deployed >> compress_and_promote(
            trained_by=train.output["run_id"], train_tags=train.output["tags"], prepared=prepare
        )
