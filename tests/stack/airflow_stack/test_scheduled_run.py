"""docker-compose-mlops.yml on a real engine: Airflow's parts, its users, and a DAG run by the scheduler itself."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import boto3
import pytest
import requests

from deploy.setup_env import SECRETS, STORE_KEYS
from tests.stack.airflow_stack.conftest import (
    DAG,
    FILE,
    STAGES,
    DailyRun,
    User,
    in_service,
    log_in,
    make_user,
    user,
)
from tests.stack.conftest import PROJECT, SECONDS_TO_HEALTHY, TAG, Stack
from tests.waiting import until

pytestmark = pytest.mark.docker
RUN = f"{DAG}/dagRuns/by-hand"


@pytest.fixture(scope="module")
def finished(by_hand: DailyRun) -> dict[str, dict[str, Any]]:
    """The tasks of one DAG run that the scheduler took to its end, by name."""
    return by_hand.tasks


def log(admin: User, task: str) -> str:
    return admin.ask("GET", f"{RUN}/taskInstances/{task}/logs/1?full_content=true").text


def test_everything_is_healthy_and_the_first_task_is_done(airflow: Stack) -> None:
    assert airflow.states(FILE) == {
        "airflow-init": "exited",
        "airflow-api-server": "healthy",
        "airflow-cleanup": "healthy",
        "airflow-dag-processor": "healthy",
        "airflow-scheduler": "healthy",
        "airflow-triggerer": "healthy",
        "docker-socket-proxy": "healthy",
        "serving": "healthy",
    }


@pytest.mark.long  # beside the other lanes of `make test` it would measure them
def test_an_empty_machine_with_the_images_is_healthy_within_four_minutes(airflow: Stack) -> None:
    assert set(SECONDS_TO_HEALTHY) == {"docker-compose.yml", FILE}
    assert sum(SECONDS_TO_HEALTHY.values()) < 240, SECONDS_TO_HEALTHY


@pytest.mark.parametrize("service", ["api-server", "dag-processor", "scheduler", "triggerer"])
def test_airflow_runs_as_nobody_special_on_a_disk_it_cannot_write(airflow: Stack, service: str) -> None:
    tried = in_service(f"airflow-{service}", "import os; print(os.getuid()); open('/app/mine', 'w')")
    assert tried.stdout == "50000\n"
    assert "Read-only file system" in tried.stderr


def test_the_right_password_opens_and_no_other_does(airflow: Stack) -> None:
    assert log_in("admin", airflow.variables["AIRFLOW_ADMIN_PASSWORD"]).status_code == 201
    for name, password in (("admin", "admin"), ("admin", "wrong"), ("nobody", "wrong")):
        assert log_in(name, password).status_code == 401


def test_without_a_login_nothing_is_told(airflow: Stack) -> None:
    for path in ("/api/v2/dags", "/api/v2/connections", "/api/v2/config", "/auth/fab/v1/users"):
        assert requests.get(airflow.airflow_url + path, timeout=120).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"{DAG}/dagRuns", {"logical_date": None}),
        ("PATCH", DAG, {"is_paused": True}),
        ("POST", f"{DAG}/clearTaskInstances", {"dry_run": False}),
        ("DELETE", f"{DAG}/dagRuns/no-such-run", None),
        ("DELETE", DAG, None),
        ("GET", "/api/v2/connections", None),
        ("GET", "/auth/fab/v1/users", None),
    ],
)
def test_a_viewer_sees_runs_and_changes_nothing(
    viewer: User, method: str, path: str, body: dict[str, Any] | None
) -> None:
    assert viewer.ask(method, path, body).status_code == 403
    assert viewer.ask("GET", f"{DAG}/dagRuns").status_code == 200


def test_an_editor_may_work_with_runs_and_see_no_connection(editor: User) -> None:
    assert editor.ask("DELETE", f"{DAG}/dagRuns/no-such-run").status_code == 404
    assert editor.ask("GET", "/api/v2/connections").status_code == 403
    assert editor.ask("GET", "/auth/fab/v1/users").status_code == 403


def test_roles_hold_in_mlflow_too(airflow: Stack, viewer: User, editor: User) -> None:
    api = f"{airflow.mlflow_url}/api/2.0/mlflow"
    made = requests.post(f"{api}/experiments/create", json={"name": "roles"}, auth=airflow.login, timeout=120).json()
    body = {"experiment_id": made["experiment_id"]}
    for someone in (viewer, editor):
        login = (someone.name, someone.password)
        assert requests.get(f"{api}/experiments/get", params=body, auth=login, timeout=120).status_code == 200
        assert requests.post(f"{api}/runs/create", json=body, auth=login, timeout=120).status_code == 403
        assert requests.post(f"{api}/experiments/delete", json=body, auth=login, timeout=120).status_code == 403
        own = requests.post(f"{api}/experiments/create", json={"name": someone.name}, auth=login, timeout=120).json()
        assert requests.post(f"{api}/runs/create", json=own, auth=login, timeout=120).status_code == 200


def test_an_editor_moves_no_alias_and_changes_no_version(airflow: Stack, editor: User) -> None:
    api, version = f"{airflow.mlflow_url}/api/2.0/mlflow", {"name": "roles-of-models", "version": "1"}
    alias = {"name": version["name"], "alias": "champion"}

    def ask(method: str, path: str, body: dict[str, str], someone: User | None) -> int:
        login = (someone.name, someone.password) if someone else airflow.login
        where = {"params": body} if method == "GET" else {"json": body}
        return requests.request(method, f"{api}/{path}", auth=login, timeout=120, **where).status_code

    made = requests.post(f"{api}/experiments/create", json={"name": "models"}, auth=airflow.login, timeout=120).json()
    model = requests.post(
        f"{api}/logged-models", json={**made, "name": "model"}, auth=airflow.login, timeout=120
    ).json()["model"]["info"]["model_id"]
    source = {"source": f"models:/{model}", "model_id": model}
    assert ask("POST", "registered-models/create", {"name": version["name"]}, None) == 200
    assert ask("POST", "model-versions/create", {"name": version["name"], **source}, None) == 200
    writes = [
        ("POST", "registered-models/alias", alias | {"version": "1"}),
        ("POST", "model-versions/create", {"name": version["name"], **source}),
        ("POST", "model-versions/set-tag", version | {"key": "pipeline.model_sha256", "value": "another"}),
        ("PATCH", "model-versions/update", version | {"description": "another"}),
        ("DELETE", "model-versions/delete", version),
    ]
    for method, path, body in writes:
        assert ask(method, path, body, editor) == 403, path
    assert ask("GET", "model-versions/get", version, editor) == 200
    assert ask("POST", "registered-models/alias", alias | {"version": "1"}, None) == 200
    assert ask("DELETE", "registered-models/alias", alias, editor) == 403
    assert ask("GET", "registered-models/alias", alias, editor) == 200


def test_made_again_a_user_has_the_new_role_and_password_only(airflow: Stack) -> None:
    first = user(airflow, "admin")
    second = make_user(airflow, first.name, "viewer").stdout.split()[-1]
    assert log_in(first.name, first.password).status_code == 401
    again = User(first.name, second, log_in(first.name, second).json()["access_token"])
    # Airflow remembers somebody's rights for 30 seconds.
    until(lambda: again.ask("GET", "/auth/fab/v1/users").status_code == 403, seconds=600)


def test_the_scheduler_runs_every_stage_as_a_container(
    finished: dict[str, Any], by_hand: DailyRun, admin: User
) -> None:
    assert {finished[stage]["state"] for stage in STAGES} == {"success"}
    assert {finished[stage]["hostname"] for stage in STAGES} == {"airflow-scheduler"}
    for stage in STAGES:
        assert f"of vision-mlops/{stage}:{TAG}" in log(admin, stage)
    xcom = admin.ask("GET", f"{RUN}/taskInstances/register/xcomEntries/return_value?deserialize=true").json()
    assert by_hand.served == xcom["value"]["version"]


def test_a_task_links_to_its_run_in_mlflow(finished: dict[str, Any], admin: User, airflow: Stack) -> None:
    links = admin.ask("GET", f"{RUN}/taskInstances/train/links").json()["extra_links"]
    assert links["MLflow run"].startswith(f"{airflow.mlflow_url}/#/experiments/")


def test_task_logs_are_in_the_bucket(finished: dict[str, Any], airflow: Stack) -> None:
    keys = [airflow.variables[name] for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY")]
    s3 = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=airflow.s3_url)
    found = s3.list_objects_v2(Bucket="mlflow", Prefix="airflow-logs/dag_id=daily_training/run_id=by-hand/")
    assert sum(item["Key"].endswith("attempt=1.log") for item in found["Contents"]) >= len(STAGES)


def test_no_secret_is_shown(finished: dict[str, Any], admin: User, airflow: Stack) -> None:
    shown = json.dumps(finished) + "".join(log(admin, task) for task in finished)
    shown += admin.ask("GET", f"{RUN}").text + admin.ask("GET", "/api/v2/plugins").text
    shown += "".join(admin.ask("GET", f"{RUN}/taskInstances/{task}/xcomEntries").text for task in finished)
    assert "prepare: request" in shown  # the logs are there
    for name in (*SECRETS, *STORE_KEYS):
        assert airflow.variables[name] not in shown, name
    assert admin.ask("GET", "/api/v2/config").status_code == 403


def test_the_program_behind_the_pages_does_not_hold_the_stages_secrets(airflow: Stack) -> None:
    inspected = subprocess.run(
        ["docker", "inspect", "--format", "{{json .Config.Env}}", f"{PROJECT}-work-airflow-api-server-1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    administrators = ("MLFLOW_TRACKING_PASSWORD", "POSTGRES_PASSWORD", "AIRFLOW_ADMIN_PASSWORD")
    for name in (*administrators, *airflow.stage_passwords):
        assert airflow.variables[name] not in inspected, name


@pytest.mark.parametrize("path", ["/info", "/secrets", "/volumes", "/networks", "/images/json", "/containers/json"])
def test_the_proxy_passes_on_what_the_operator_calls_only(airflow: Stack, path: str) -> None:
    code = f"import requests; print(requests.get('http://docker-socket-proxy:2375{path}', timeout=120).status_code)"
    assert in_service("airflow-scheduler", code).stdout == "403\n"


def test_a_task_cannot_get_the_machine_from_the_proxy(airflow: Stack) -> None:
    code = """
import docker
client = docker.from_env(version="auto")
more = {"privileged": True, "volumes": ["/:/host"], "name": "attack-prepare-0123456789ab"}
try:
    client.containers.create("python:3.11-slim-bookworm", **more)
except docker.errors.APIError as error:
    print(error.status_code, error.explanation)
"""
    said = in_service("airflow-scheduler", code).stdout
    assert said.startswith("403 the socket proxy refused this call: ")
    command = ["docker", "ps", "--all", "--quiet", "--filter", "name=attack-prepare"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.parametrize("service", ["airflow-api-server", "airflow-dag-processor", "airflow-triggerer", "serving"])
def test_only_the_scheduler_reaches_the_engine(airflow: Stack, service: str) -> None:
    tried = in_service(service, "import socket; socket.create_connection(('docker-socket-proxy', 2375), 3)")
    assert "gaierror" in tried.stderr
