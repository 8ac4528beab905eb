"""docker-compose.yml on a real engine: Postgres, S3 and MLflow together."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from mlflow import MlflowClient

from deploy import doctor

from .conftest import ROOT, Stack

pytestmark = pytest.mark.docker
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.fixture
def client(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    user, password = stack.login
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    # By default the client asks for an address of the S3 store, which this machine has under another name.
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    return MlflowClient(stack.mlflow_url)


def keys(stack: Stack) -> set[str]:
    """Every object in the artifact bucket."""
    s3 = boto3.client(
        "s3",
        endpoint_url=stack.s3_url,
        region_name="us-east-1",
        aws_access_key_id=stack.variables["S3_ACCESS_KEY"],
        aws_secret_access_key=stack.variables["S3_SECRET_KEY"],
    )
    return {item["Key"] for item in s3.list_objects_v2(Bucket="mlflow").get("Contents", [])}


def test_every_service_is_healthy_and_the_bucket_job_is_done(stack: Stack) -> None:
    assert stack.states() == {"postgres": "healthy", "s3": "healthy", "mlflow": "healthy", "bucket": "exited"}


SCRATCH = """
import os, start
from mlflow.store.db import utils
uri = os.environ["MLFLOW_BACKEND_STORE_URI"].rpartition("/")[0] + "/scratch"
"""
MIGRATE = """
with start.one_at_a_time():
    start.migrate(uri)
engine = utils.create_sqlalchemy_engine_with_retry(uri)
print("schema", utils._get_schema_version(engine) == utils._get_latest_schema_revision())
"""
# The schema of ten revisions ago, with an experiment.
EARLIER = """
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking.dbmodels.initial_models import Base as Initial
from sqlalchemy import text
engine = utils.create_sqlalchemy_engine_with_retry(uri)
config = utils._get_alembic_config(uri)
revision = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()][10]
Initial.metadata.create_all(engine)
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    values = "(7, 'kept', 'active')"
    connection.execute(text(f"INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES {values}"))
"""
LATER = """
from sqlalchemy import text
engine = utils.create_sqlalchemy_engine_with_retry(uri)
with engine.begin() as connection:
    connection.execute(text("UPDATE alembic_version SET version_num = 'of-the-future'"))
"""


@pytest.fixture
def scratch(stack: Stack) -> Iterator[list[str]]:
    """A new database of MLflow's; the command that runs a Python program in MLflow's container."""
    postgres, mlflow = (f"{stack.variables['STACK_NAME']}-{service}-1" for service in ("postgres", "mlflow"))
    admin = ["docker", "exec", postgres, "psql", "--username", "postgres", "--command"]
    subprocess.run([*admin, "CREATE DATABASE scratch OWNER mlflow"], check=True)
    try:
        yield ["docker", "exec", mlflow, "python", "-c"]
    finally:
        subprocess.run([*admin, "DROP DATABASE scratch WITH (FORCE)"], check=True)


def test_servers_that_start_at_once_create_the_tables_of_a_new_database_once(scratch: list[str]) -> None:
    command = [*scratch, SCRATCH + MIGRATE]
    servers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [server.communicate(timeout=1800) for server in servers]
    assert [server.returncode for server in servers] == [0, 0, 0], said
    created = [err.count("Creating initial MLflow database tables") for _, err in said]
    assert sorted(created) == [0, 0, 1]
    assert all(out.endswith("schema True\n") for out, _ in said), said


def test_a_server_migrates_the_tables_of_an_earlier_release_and_refuses_those_of_a_later_one(
    stack: Stack, scratch: list[str]
) -> None:
    subprocess.run([*scratch, SCRATCH + EARLIER], check=True, capture_output=True)
    migrated = subprocess.run([*scratch, SCRATCH + MIGRATE], capture_output=True, text=True)
    assert migrated.returncode == 0, migrated.stderr
    assert migrated.stdout.startswith("mlflow: migrating the database from schema ")
    assert migrated.stdout.endswith("schema True\n")
    kept = stack.psql("mlflow", "scratch", "SELECT name FROM experiments WHERE experiment_id = 7")
    assert kept.stdout == "kept\n"
    again = subprocess.run([*scratch, SCRATCH + MIGRATE], capture_output=True, text=True)
    assert again.stdout == "schema True\n"
    subprocess.run([*scratch, SCRATCH + LATER], check=True, capture_output=True)
    refused = subprocess.run([*scratch, SCRATCH + MIGRATE], capture_output=True, text=True)
    assert refused.returncode == 69
    assert "a newer MLflow wrote the database" in refused.stdout


@pytest.mark.parametrize(
    ("changed", "level"),
    [
        ({}, "ok"),
        ({"S3_SECRET_KEY": "0" * 40}, "fail"),
        ({"S3_ACCESS_KEY": "0" * 20}, "fail"),
        ({"S3_BUCKET": "x-y-z"}, "warn"),
    ],
)
def test_doctor_asks_a_real_store_with_the_keys(stack: Stack, changed: dict[str, str], level: str) -> None:
    s3, clock = doctor.check_s3(stack.s3_url, stack.variables | changed)
    assert (s3.level, clock.level) == (level, "ok"), s3


def test_ports_are_published_on_the_loopback_interface_only(stack: Stack) -> None:
    published = subprocess.run(
        ["docker", "ps", "--filter", f"label=com.docker.compose.project={stack.network}", "--format", "{{.Ports}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    mappings = [p for p in published.replace("\n", ", ").split(", ") if "->" in p]
    assert mappings
    assert all(p.startswith("127.0.0.1:") for p in mappings), published


@pytest.mark.parametrize("login", [None, ("admin", "password1234"), ("admin", "wrong")])
def test_mlflow_refuses_a_missing_or_wrong_password(stack: Stack, login: tuple[str, str] | None) -> None:
    assert requests.get(stack.mlflow_url + SEARCH, auth=login, timeout=120).status_code == 401


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("mlflow:5001", 403), ("mlflow:5000", 200)])
def test_mlflow_answers_to_its_own_names_only(stack: Stack, host: str, status: int) -> None:
    answer = requests.get(stack.mlflow_url + SEARCH, auth=stack.login, headers={"Host": host}, timeout=120)
    assert answer.status_code == status


def test_a_stranger_with_an_account_reads_no_run(stack: Stack, client: MlflowClient) -> None:
    experiment = client.create_experiment("private")
    requests.post(
        f"{stack.mlflow_url}/api/2.0/mlflow/users/create",
        json={"username": "stranger", "password": "a-long-password-1"},
        auth=stack.login,
        timeout=120,
    ).raise_for_status()
    url = f"{stack.mlflow_url}/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
    assert requests.get(url, auth=("stranger", "a-long-password-1"), timeout=120).status_code == 403
    assert requests.get(url, auth=stack.login, timeout=120).status_code == 200


def test_a_stranger_with_an_account_reads_no_byte_of_others(stack: Stack, client: MlflowClient, tmp_path: Path) -> None:
    """Not through a model version or an experiment of theirs, whose files they say are elsewhere in the bucket."""
    run = client.create_run(client.create_experiment("not theirs"))
    (tmp_path / "secret.txt").write_text("secret")
    client.log_artifact(run.info.run_id, str(tmp_path / "secret.txt"))
    place = run.info.artifact_uri.removeprefix("mlflow-artifacts:/")

    def ask(method: str, path: str, login: tuple[str, str], **given: Any) -> requests.Response:
        return requests.request(method, stack.mlflow_url + path, auth=login, timeout=120, **given)

    login = ("reader", "a-long-password-1")
    user = {"username": login[0], "password": login[1]}
    assert ask("POST", "/api/2.0/mlflow/users/create", stack.login, json=user).ok
    assert ask("POST", "/api/2.0/mlflow/registered-models/create", stack.login, json={"name": "theirs"}).ok

    def grant(kind: str, name: str) -> None:
        body = {"username": login[0], "resource_type": kind, "resource_id": name, "permission": "MANAGE"}
        assert ask("POST", "/api/3.0/mlflow/users/permissions/grant", stack.login, json=body).ok

    grant("registered_model", "theirs")  # an administrator trusts them with this much
    bucket = stack.variables.get("S3_BUCKET") or "mlflow"
    for source in (
        f"s3://{bucket}/{place}",
        f"S3://{bucket}/{place}",
        f"s3://{bucket}/airflow-logs",
        f"mlflow-artifacts:/{place}",
        f"runs:/{run.info.run_id}/",
        "dbfs:/etc",
        "file:///proc/self",
    ):
        version = {"name": "theirs", "source": source}
        assert ask("POST", "/api/2.0/mlflow/model-versions/create", login, json=version).status_code == 400, source

    experiment = {"name": "theirs", "artifact_location": f"s3://{bucket}/{place}"}
    assert ask("POST", "/api/2.0/mlflow/experiments/create", login, json=experiment).status_code == 403
    made = ask("POST", "/api/2.0/mlflow/experiments/create", stack.login, json=experiment).json()
    grant("experiment", made["experiment_id"])
    own = ask("POST", "/api/2.0/mlflow/runs/create", login, json=made).json()["run"]["info"]["run_id"]
    assert ask("GET", f"/api/2.0/mlflow/artifacts/list?run_id={own}", login).status_code == 403
    assert ask("GET", f"/get-artifact?run_id={own}&path=secret.txt", login).status_code == 403
    proxied = f"/api/2.0/mlflow-artifacts/artifacts/{place}/secret.txt"
    assert ask("GET", proxied, login).status_code == 403
    assert ask("GET", proxied, stack.login).text == "secret"


@pytest.mark.parametrize("user", ["mlflow", "mlflow_auth", "airflow"])
def test_a_database_user_reaches_its_own_database_only(stack: Stack, user: str) -> None:
    for database in ("mlflow", "mlflow_auth", "airflow", "postgres"):
        answer = stack.psql(user, database, "SELECT 1")
        if database == user:
            assert answer.stdout == "1\n", answer.stderr
        else:
            assert "permission denied for database" in answer.stderr


def test_a_database_user_needs_its_own_password(stack: Stack) -> None:
    wrong = Stack(stack.env_file, stack.variables | {"POSTGRES_MLFLOW_PASSWORD": "wrong"})
    assert "password authentication failed" in wrong.psql("mlflow", "mlflow", "SELECT 1").stderr


def test_artifacts_lie_in_the_bucket_and_everything_survives_restarts(
    stack: Stack, client: MlflowClient, tmp_path: Path
) -> None:
    run = client.create_run(client.create_experiment("survives"))
    client.log_metric(run.info.run_id, "accuracy", 0.98)
    (tmp_path / "note.txt").write_text("kept")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    written = keys(stack)
    assert any(key.endswith(f"{run.info.run_id}/artifacts/note.txt") for key in written)

    for services in (["postgres", "s3"], ["mlflow"]):  # first what is below MLflow, which must find it again
        stack.compose("restart", "--timeout", "20", *services)
        stack.compose("up", "--detach", "--wait", "--wait-timeout", "1800")

    assert client.get_run(run.info.run_id).data.metrics == {"accuracy": 0.98}
    assert keys(stack) == written
    (tmp_path / "back").mkdir()
    back = client.download_artifacts(run.info.run_id, "note.txt", str(tmp_path / "back"))
    assert Path(back).read_text() == "kept"


def test_compose_names_a_missing_secret_in_one_line(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("POSTGRES_PASSWORD=given\n")
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    for file in ("docker-compose.yml", "docker-compose-mlops.yml"):
        command = ["docker", "compose", "--file", str(ROOT / file), "--env-file", str(env_file), "config"]
        answer = subprocess.run(command, capture_output=True, text=True, env=bare)
        assert answer.returncode != 0
        assert answer.stderr.count("\n") == 1
        assert re.search(r"required variable [A-Z0-9_]+ is missing a value: run make setup", answer.stderr)
