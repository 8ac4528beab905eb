"""Create Postgres' user `monitoring`, which reads a few columns of Airflow's tables and the server's statistics.

Runs in MLflow's image, which has a Postgres client, at every `make up` with the profile monitoring. Safe to repeat.
"""

from __future__ import annotations

import os
import sys

import psycopg2
from psycopg2 import sql

USER = "monitoring"
# What airflow_queries.yml reads; not the conf of a run, rendered fields, connections or variables.
COLUMNS = {
    "dag": ("dag_id", "is_paused", "is_stale"),
    "dag_run": ("id", "dag_id", "state", "start_date", "end_date"),
    "task_instance": ("id", "dag_id", "task_id", "state", "start_date", "end_date", "duration", "queued_dttm"),
    "job": ("job_type", "latest_heartbeat"),
    "import_error": ("id",),
}


def statements(exists: bool, password: str) -> list[sql.Composable]:
    """Return what creates the role, or sets the password of an existing one, and grants its rights."""
    user = sql.Identifier(USER)
    verb = sql.SQL("ALTER" if exists else "CREATE")
    made: list[sql.Composable] = [
        sql.SQL("{} ROLE {} LOGIN CONNECTION LIMIT 10 PASSWORD {}").format(verb, user, sql.Literal(password)),
        sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(user),
        sql.SQL("GRANT pg_monitor TO {}").format(user),  # sizes and activity of the server
        sql.SQL("GRANT CONNECT ON DATABASE airflow TO {}").format(user),
    ]
    for table, columns in COLUMNS.items():
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        made.append(sql.SQL("GRANT SELECT ({}) ON {} TO {}").format(names, sql.Identifier(table), user))
    return made


def main() -> None:
    """Create or update the user, and say so in one line."""
    superuser = os.environ["POSTGRES_PASSWORD"]
    try:
        connection = psycopg2.connect(host="postgres", user="postgres", password=superuser, dbname="airflow")
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (USER,))
            for statement in statements(cursor.fetchone() is not None, os.environ["POSTGRES_MONITORING_PASSWORD"]):
                cursor.execute(statement)
        connection.close()
    except psycopg2.Error as error:
        why = str(error).strip().splitlines()[0]
        sys.exit(f"Postgres: {why}; is POSTGRES_PASSWORD the one it was first started with? docs/how-to/containers.md")
    print(f"user {USER!r} of Postgres is ready", flush=True)


if __name__ == "__main__":
    main()
