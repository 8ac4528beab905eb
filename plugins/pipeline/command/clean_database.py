"""Removes old rows from Airflow's database, with Airflow's own command, and records when: for `dag_parts.cleaning`."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta

from pipeline.dag_parts.cleaning import CLEANED_AT
from tasks.errors import SettingsError, UnavailableError

LEAST_DAYS = 14  # a DAG run may take a week, approvals included
# All that `airflow db clean` knows but `dag`: after a long pause it would take every DAG for one that is gone. The last
# scheduled run of each DAG stays in any case.
TABLES = (
    *("dag_run", "task_instance", "task_instance_history", "task_reschedule", "xcom", "log", "job", "trigger"),
    *("dag_version", "import_error", "callback", "deadline", "asset_event", "session", "revoked_token"),
)
ROWS = 10_000  # in one transaction


def clean(days: int) -> None:
    """Remove what began longer ago than `days`; 0: nothing.

    Killed at any time, the next cleaning does the rest.

    Raises:
        SettingsError: `days` is so small that DAG runs could be removed while they run.
        UnavailableError: Airflow's command failed; its output says why.
    """
    if days == 0:
        print("AIRFLOW_KEEP_DAYS=0: nothing is removed from Airflow's database", flush=True)
        return
    if days < LEAST_DAYS:
        raise SettingsError(f"AIRFLOW_KEEP_DAYS={days} is less than a DAG run may take; set {LEAST_DAYS} or more, or 0")
    now = datetime.now(UTC)
    before = (now - timedelta(days=days)).isoformat(timespec="seconds")
    options = ["--yes", "--skip-archive", "--error-on-cleanup-failure", "--batch-size", str(ROWS)]
    said = _airflow("db", "clean", *options, "--tables", ",".join(TABLES), "--clean-before-timestamp", before)
    _airflow("variables", "set", CLEANED_AT, now.isoformat(timespec="seconds"))
    # Airflow says the number of each table, or of each batch of it, before it removes them.
    rows = sum(map(int, re.findall(r"Found (\d+) rows meeting deletion criteria", said)))
    print(f"Airflow's database: {rows} rows from before {before} removed", flush=True)


def _airflow(*arguments: str) -> str:
    done = subprocess.run(["airflow", *arguments], capture_output=True, text=True)  # noqa: S603, S607  # ours
    if done.returncode != 0:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise UnavailableError(f"airflow {' '.join(arguments[:2])} failed:\n{end}")
    return done.stdout
