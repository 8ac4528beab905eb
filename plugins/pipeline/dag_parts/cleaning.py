"""The tasks that keep an installation from growing without end: clean, and the watch over Airflow's own database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import Variable, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from pipeline.dag_parts.pool import CHAMPION
from pipeline.operator.stage_operator import StageOperator
from pipeline.runtimes import stage_task
from tasks.settings import Runtime, load_settings

CLEANED_AT = "pipeline_database_cleaned_at"  # Airflow's variable with the time of the last cleaning
LONGEST = timedelta(days=3)  # without a cleaning; there is one every day


def clean_leftovers() -> StageOperator:
    """Add the stage clean. While it works nobody moves the alias champion, so that no weights go that come into use."""
    days = str(load_settings().pipeline_keep_weights_days)
    return stage_task(
        "clean",
        pool=CHAMPION,
        execution_timeout=timedelta(hours=2),
        environment={"PIPELINE_KEEP_WEIGHTS_DAYS": days},
    )


@task
def database_is_cleaned() -> str:
    """Fail if nobody has cleaned Airflow's database lately. A task cannot do it itself: it has no access to it.

    Raises:
        AirflowSkipException: it is not to be cleaned, or this machine has no service that does it.
        AirflowFailException: it was not cleaned.
    """
    settings = load_settings()
    if settings.airflow_keep_days == 0:
        raise AirflowSkipException("AIRFLOW_KEEP_DAYS=0: Airflow's database is not cleaned")
    at: str | None = Variable.get(CLEANED_AT, default=None)
    if settings.pipeline_runtime is Runtime.LOCAL:
        raise AirflowSkipException(f"last cleaned: {at or 'never'}; on this machine make gc APPLY=1 does it")
    if at is None or datetime.now(UTC) - datetime.fromisoformat(at) > LONGEST:
        raise AirflowFailException(
            f"Airflow's database was last cleaned: {at or 'never'}. See make logs S=airflow-cleanup, or on a cluster "
            "kubectl logs of the CronJob airflow-database-cleanup"
        )
    return at
