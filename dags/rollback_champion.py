"""By hand: make an earlier version champion again, and check that the service follows."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from pipeline.dag_parts.notifications import failure
from pipeline.dag_parts.pool import CHAMPION
from pipeline.operator.params import stage_params
from pipeline.runtimes import stage_task

with DAG(
    dag_id="rollback_champion",
    description="Undoes a promotion: moves the alias champion back and waits for the service.",
    doc_md=__doc__
    + """

`rollback -> deploy`

Give a reason; the ledger (`python -m tasks history`) records it with your name. Without a version, it restores the
previous champion. The daily run does not promote the rolled-back weights again until someone names their version here.
The same from a shell:

    make rollback REASON="sees cats everywhere"
""",
    tags=["vision", "promotion"],
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "execution_timeout": timedelta(minutes=15),
        "on_failure_callback": failure,
    },
    params=stage_params("rollback", "deploy"),
):
    rollback = stage_task("rollback", pool=CHAMPION)
    stage_task("deploy", version=rollback.output["version"], execution_timeout=timedelta(minutes=75))
