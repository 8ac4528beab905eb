"""Lets each user of Postgres change its own password; says whether Airflow has tables, which hold encrypted values.

Runs in MLflow's container, which reaches Postgres wherever that is. Passwords come through standard input as JSON. A
user whose new password works already was changed by a call that was interrupted.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import psycopg2
from psycopg2 import sql

REFUSED = "password authentication failed"


def connect(host: str, user: str, database: str, *passwords: str) -> Any:
    """Log in with the first of these passwords that Postgres takes."""
    for password in passwords:
        try:
            return psycopg2.connect(host=host, user=user, dbname=database, password=password, connect_timeout=30)
        except psycopg2.OperationalError as error:
            words = str(error).strip().splitlines()[-1]
            if REFUSED not in words:
                sys.exit(words)
    sys.exit(f"Postgres refuses the password of {user} in .env")


def main() -> None:
    """Change the passwords, then print True or False."""
    given = json.load(sys.stdin)
    for user, database, old, new in given["users"]:
        connection = connect(given["host"], user, database, new, old)
        with connection, connection.cursor() as cursor:
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), sql.Literal(new))
            cursor.execute(statement)
        connection.close()
    connection = connect(given["host"], "airflow", "airflow", given["airflow"])
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('public.connection') IS NOT NULL")
        print(cursor.fetchone()[0])
    connection.close()


if __name__ == "__main__":
    main()
