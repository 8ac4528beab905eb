"""Every week: search hyperparameters, train with the best ones, and promote that model if it is proven better."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from pipeline.dag_parts.promotion import promote_and_deploy
from pipeline.operator.params import stage_params
from pipeline.runtimes import STAGE_DEFAULTS, stage_task

with DAG(
    dag_id="weekly_tuning",
    description="Improves the daily run: searches hyperparameters, trains with the best, promotes what is better.",
    doc_md=__doc__
    + """

`prepare -> tune -> train -> evaluate -> approve -> register -> [promoted?] -> deploy`

`tune` runs `trials` trainings with values from `search_space`, several at a time, and stops those that fall behind.
Each has its own run in MLflow, below the run of `tune`. `train` trains for all epochs with the best values. When its
model becomes champion, `daily_training` uses these values too. Values set in the form are fixed and not searched. To
use other values, trigger it with the form, or with

    make tune TRIALS=20 CONF='{"dataset": "cifar10", "model": "resnet18", "registered_model": "cifar"}'

A search that was killed resumes when the task is retried: finished trials are not run again.
""",
    tags=["vision", "tuning"],
    schedule="@weekly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    dagrun_timeout=timedelta(days=6),  # an approval may take three of them; ends before the next week's run
    default_args=STAGE_DEFAULTS,
    params=stage_params(
        "prepare", "train", "tune", "evaluate", "register", "deploy", without=("hyperparameters", "tuned_by")
    ),
):
    prepare = stage_task("prepare", execution_timeout=timedelta(hours=2))
    tune = stage_task(
        "tune",
        prepare_run_id=prepare.output["run_id"],
        prepare_tags=prepare.output["tags"],
        execution_timeout=timedelta(hours=12),
    )
    train = stage_task(
        "train",
        prepare_run_id=prepare.output["run_id"],
        prepare_tags=prepare.output["tags"],
        tuned_by=tune.output["run_id"],
        tune_tags=tune.output["tags"],
        model=tune.output["model"],
        execution_timeout=timedelta(hours=8),
    )
    promote_and_deploy(train, prepared=prepare)
