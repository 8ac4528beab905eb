"""A restore and Postgres' users: a dump runs as the owner of its database, not as superuser; rights come back."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import backup_encryption, backup_file
from deploy.backup import DATABASES, WATCHER_EXISTS
from deploy.backup_stack import ComposeStack

from .conftest import ROOT, Stack, _bare_environment

pytestmark = pytest.mark.docker
# Loading the row of the table calls the function, by the table's CHECK. Where the session began as superuser and then
# became another user (pg_restore --role), the function becomes superuser again.
TAMPERED = """
CREATE FUNCTION climb(word text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
CREATE TABLE runs (word text CHECK (public.climb(word)));
INSERT INTO runs VALUES ('a row');
CREATE OR REPLACE FUNCTION climb(word text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('role', 'none', false);
    ALTER ROLE mlflow SUPERUSER;
    RETURN true;
END $$;
"""
WATCHED = """
SET ROLE airflow;
CREATE TABLE watched (seen integer, secret text);
GRANT SELECT (seen) ON watched TO monitoring;
"""
COUNT = "SELECT count(*) FROM experiments"


@pytest.fixture
def databases(stack: Stack) -> Iterator[ComposeStack]:
    """The stack's Postgres with a database whose dump is a trap."""
    found = ComposeStack(stack.env_file)
    found.sql("DROP DATABASE IF EXISTS tampered")
    found.sql("CREATE DATABASE tampered TEMPLATE template0")
    found.sql(TAMPERED, "tampered")
    yield found
    found.sql("DROP DATABASE tampered")
    found.sql("ALTER ROLE mlflow NOSUPERUSER")


@pytest.fixture
def trap(stack: Stack, databases: ComposeStack, tmp_path: Path) -> Path:
    """A backup made with the right key, whose dump of MLflow's database is that of the other one."""
    path = tmp_path / "trap.backup"
    with backup_file.create(path, backup_encryption.keys(stack.variables)[0]) as writer:
        for name in DATABASES:
            with tempfile.TemporaryFile() as dump:
                source = "tampered" if name == "mlflow" else name
                databases.postgres(f"pg_dump --format custom --dbname {source}", stdout=dump)
                size = dump.tell()
                dump.seek(0)
                writer.add(f"databases/{name}.dump", dump, size)
    return path


def deploy(stack: Stack, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", *map(str, arguments), "--env-file", str(stack.env_file)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_bare_environment(), timeout=600)


def test_a_dump_that_makes_itself_superuser_fails_and_nothing_is_changed(
    stack: Stack, databases: ComposeStack, trap: Path
) -> None:
    experiments = databases.sql(COUNT, "mlflow")
    done = deploy(stack, "restore", "--force", "--file", trap)
    assert databases.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'mlflow'") == "f"
    assert (done.returncode, done.stdout) == (69, ""), done.stdout + done.stderr
    assert databases.sql(COUNT, "mlflow") == experiments
    assert databases.sql("SELECT datname FROM pg_database WHERE datname LIKE '%restored'") == ""
    assert stack.states()["mlflow"] == "healthy"


def test_what_monitoring_may_read_comes_back_also_where_its_user_never_was(stack: Stack, tmp_path: Path) -> None:
    postgres, file = ComposeStack(stack.env_file), tmp_path / "watched.backup"
    postgres.sql(WATCHER_EXISTS)
    postgres.sql(WATCHED, "airflow")
    saved = deploy(stack, "backup", "--file", file)
    assert saved.returncode == 0, saved.stderr
    postgres.sql("DROP OWNED BY monitoring; DROP ROLE monitoring", "airflow")
    try:
        done = deploy(stack, "restore", "--force", "--file", file)
        assert done.returncode == 0, done.stderr
        assert postgres.sql("SELECT has_database_privilege('monitoring', 'airflow', 'CONNECT')") == "t"
        assert postgres.sql("SELECT has_column_privilege('monitoring', 'watched', 'seen', 'SELECT')", "airflow") == "t"
        assert (
            postgres.sql("SELECT has_column_privilege('monitoring', 'watched', 'secret', 'SELECT')", "airflow") == "f"
        )
        assert postgres.sql("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'monitoring'") == "f"
    finally:
        postgres.sql("DROP TABLE watched; DROP OWNED BY monitoring; DROP ROLE monitoring", "airflow")
