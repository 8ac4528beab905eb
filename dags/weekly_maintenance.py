"""Every week: remove what nothing needs any longer, and see that Airflow's database is cleaned."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from pipeline.dag_parts.cleaning import clean_leftovers, database_is_cleaned
from pipeline.operator.params import stage_params
from pipeline.runtimes import STAGE_DEFAULTS

with DAG(
    dag_id="weekly_maintenance",
    description="Keeps MLflow and its store from growing without end: removes old weights, checkpoints, gold.",
    doc_md=__doc__
    + """

`clean`, `database_is_cleaned`

`clean` is `make gc APPLY=1`: it ends abandoned MLflow runs, and removes gold and checkpoints that nothing needs, and
the weights of candidates that were refused longer ago than `PIPELINE_KEEP_WEIGHTS_DAYS`. Their runs, verdicts and
model cards stay; a tag of the run says when the weights went, and why. With `dry_run` it only lists.

`database_is_cleaned` fails if nobody has cleaned Airflow's own database for three days. The service `airflow-cleanup`
does that, because Airflow's tasks have no access to it.
""",
    tags=["vision", "maintenance"],
    schedule="0 6 * * 6",  # when no weekly search or compression runs
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(days=1),
    default_args=STAGE_DEFAULTS,
    params=stage_params("clean"),
):
    clean_leftovers()
    database_is_cleaned()
