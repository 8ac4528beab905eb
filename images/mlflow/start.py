"""Starts the MLflow server: checks environment and passwords, makes tables and users, writes a config, runs the server.

MLflow reads the address of its user database only from a file, so this program writes the file from the environment.
Everything else `mlflow server` reads from its own variables.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

REQUIRED = (
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_AUTH_DATABASE_URI",
    "MLFLOW_AUTH_ADMIN_USERNAME",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_STAGES_PASSWORD",
    "MLFLOW_REGISTRY_PASSWORD",
    "MLFLOW_SERVING_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_ARTIFACTS_DESTINATION",
    "MLFLOW_SERVER_ALLOWED_HOSTS",
)
PASSWORDS = {
    "MLFLOW_BACKEND_STORE_URI": "POSTGRES_MLFLOW_PASSWORD",
    "MLFLOW_AUTH_DATABASE_URI": "POSTGRES_MLFLOW_AUTH_PASSWORD",
}
# Of a model version: the logged model that it is. Any other address would be read with the server's key to the store.
LOGGED_MODEL = r"^(models:/m-[0-9a-f]{32}|mlflow-artifacts:/[0-9]+/models/m-[0-9a-f]{32}/artifacts)/?$"
# Connections of each worker for tracking, the registry (both: mlflow) and users (mlflow_auth), each. With 5 and 10,
# which SQLAlchemy has, a few workers take all that Postgres allows, and requests fail (docs/stack.md).
POOL = {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "3", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "2"}
LOCK = 7_310_571  # any number that nothing else in the database locks
PATIENCE = 120.0  # seconds for a database that is starting
UNAVAILABLE, WRONG_SETTINGS = 69, 78  # as in tasks/errors.py


def missing(environment: Mapping[str, str]) -> list[str]:
    """Names of the required variables that are unset or empty."""
    return [name for name in REQUIRED if not environment.get(name)]


def refusal(uri: str) -> str | None:
    """Log in to a database once, waiting while it starts; return None, or the last line of its error."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            _connect(uri).close()
            return None
        except psycopg2.OperationalError as error:
            words = str(error).strip().splitlines()[-1]
            if "password authentication failed" in words or time.monotonic() > deadline:
                return words
        time.sleep(1)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let only one of several servers that start do this; the others wait.

    Left alone, each server creates MLflow's tables and each of its workers those of the users, all at the same time,
    and all but one fail.
    """
    with closing(_connect(os.environ["MLFLOW_BACKEND_STORE_URI"])) as waiting, waiting.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))  # until the connection is closed
        yield


def migrate(uri: str) -> None:
    """Create MLflow's tables in a new database, or bring those of an earlier release to this one's schema.

    Those of its users, MLflow migrates by itself.
    """
    from alembic.util import CommandError
    from mlflow.db import upgrade
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(uri)
    found, latest = utils._get_schema_version(engine), utils._get_latest_schema_revision()
    engine.dispose()
    if found == latest:
        return
    if found is not None:
        print(f"mlflow: migrating the database from schema {found} to {latest}", flush=True)
    try:
        upgrade.main([uri], standalone_mode=False)
    except CommandError as error:  # it does not know the schema
        print(
            f"mlflow: a newer MLflow wrote the database ({error}); start the release that did, or restore a backup",
            flush=True,
        )
        sys.exit(UNAVAILABLE)


def _connect(uri: str) -> psycopg2.extensions.connection:
    return psycopg2.connect(uri.replace("+psycopg2", "", 1), connect_timeout=30)


def write_auth_config(path: Path, database_uri: str) -> None:
    """Write MLflow's `basic_auth.ini`; the admin's name and password stay in the environment.

    Users see only what is shared with them: `default_permission` is NO_PERMISSIONS, not MLflow's READ.
    """
    config = configparser.ConfigParser(interpolation=None)
    config["mlflow"] = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": database_uri.replace("%", "%%"),  # MLflow reads it with interpolation on
        # Hashing a password takes most of a request's time; a changed one takes effect within this many seconds.
        "auth_cache_ttl_seconds": "30",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    with path.open("w", encoding="utf-8") as file:
        config.write(file)
    path.chmod(0o600)


def main() -> None:
    """Prepare, then run the server in this process, which has imported most of it by then."""
    absent = missing(os.environ)
    if absent:
        print(f"mlflow: {', '.join(absent)} not set; run `make setup` and start it with docker-compose.yml", flush=True)
        sys.exit(WRONG_SETTINGS)
    for name, password in PASSWORDS.items():
        words = refusal(os.environ[name])
        if words is not None:
            wrong = "password" in words
            hint = f"{password} must be the one that Postgres was first started with" if wrong else "start Postgres"
            print(f"mlflow: {words}; {hint}", flush=True)
            sys.exit(WRONG_SETTINGS if wrong else UNAVAILABLE)
    config = Path(tempfile.mkdtemp(prefix="mlflow-")) / "basic_auth.ini"
    write_auth_config(config, os.environ["MLFLOW_AUTH_DATABASE_URI"])
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(config)
    os.environ["MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX"] = LOGGED_MODEL
    os.environ["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] = "true"  # what no rule of MLflow's allows is refused
    for name, number in POOL.items():
        os.environ.setdefault(name, number)
    with one_at_a_time():
        migrate(os.environ["MLFLOW_BACKEND_STORE_URI"])
        import programs  # it reads the configuration

        programs.ensure()
    if os.environ.get("MLFLOW_EXPOSE_PROMETHEUS"):
        subprocess.Popen([sys.executable, str(Path(__file__).with_name("metrics.py"))])  # noqa: S603  # our own file
    from mlflow.cli import cli

    command = ["server", "--app-name", "vision-mlops", "--host", "0.0.0.0", "--port", "5000"]  # noqa: S104
    # uvicorn kills a worker that is silent for so many seconds, by default 5: on a busy machine, one that works.
    command += ["--uvicorn-opts", "--timeout-worker-healthcheck 120"]
    cli.main([*command, "--serve-artifacts"], prog_name="mlflow")


if __name__ == "__main__":
    main()
