"""Every week: search the hyperparameters, train with the best, and let that model compete for the service."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from pipeline.dag_parts.promotion import evaluate_and_register, promoted
from pipeline.operator.params import stage_params
from pipeline.runtimes import STAGE_DEFAULTS, stage_task

with DAG(
    dag_id="weekly_tuning",
    description="Makes the daily run better: searches hyperparameters, trains with the best, promotes what is proven.",
    doc_md=__doc__
    + """

`prepare -> tune -> train -> evaluate -> approve -> register -> [promoted?] -> deploy`

`tune` tries `trials` trainings with values from `search_space`, several at a time, and stops those that do not keep up;
each has a run in MLflow below its own. `train` works with the best values found, for all epochs. When its model becomes
champion, `daily_training` uses them too from then on. What the form gives by hand is fixed and not searched. Start it
by hand with other values of the form, or with

    make tune TRIALS=20 CONF='{"dataset": "cifar10", "model": "resnet18", "registered_model": "cifar"}'

A search that was killed goes on when the task is tried again: finished trials are not run a second time.
""",
    tags=["vision", "tuning"],
    schedule="@weekly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    dagrun_timeout=timedelta(days=6),  # of which an approval may take three; the next week's run never meets it
    default_args=STAGE_DEFAULTS,
    params=stage_params(
        "prepare", "train", "tune", "evaluate", "register", "deploy", without=("hyperparameters", "tuned_by")
    ),
):
    prepare = stage_task("prepare", execution_timeout=timedelta(hours=2))
    tune = stage_task("tune", prepare_run_id=prepare.output["run_id"], execution_timeout=timedelta(hours=12))
    train = stage_task(
        "train",
        prepare_run_id=prepare.output["run_id"],
        tuned_by=tune.output["run_id"],
        model=tune.output["model"],
        execution_timeout=timedelta(hours=8),
    )
    register = evaluate_and_register(train)
    deploy = stage_task("deploy", version=register.output["version"], execution_timeout=timedelta(minutes=75))
    promoted(register.output["promoted"]) >> deploy
