"""The profile celery: tasks run in workers, and one that is killed in the middle of training costs a retry, no more.

After the package's other modules: it leaves Airflow without the workers that its tasks would be sent to.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import requests

from tests.stack.airflow_stack.conftest import DAG, FILE, MODEL, STAGES, UNSCHEDULED, User, ended, in_service, trigger
from tests.stack.conftest import PROJECT, ROOT, Stack

pytestmark = [pytest.mark.docker, pytest.mark.long]
RUN = "by-workers"
# The scheduler misses a task after five minutes without a heartbeat; a test cannot wait. Tasks beat every five seconds.
HEARTBEAT = {"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20"}


@pytest.fixture(scope="module")
def workers(airflow: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The package's stack with one word more in `.env`, and two workers."""
    subprocess.run([ROOT / "tests/stack/stand_ins.sh", "redis"], check=True)
    folder = tmp_path_factory.mktemp("workers")
    override = folder / "override.yml"
    unscheduled = UNSCHEDULED["services"]["airflow-scheduler"]["environment"]
    environments = {"airflow-scheduler": unscheduled | HEARTBEAT, "airflow-worker": HEARTBEAT}
    override.write_text(json.dumps({"services": {name: {"environment": e} for name, e in environments.items()}}))
    variables = airflow.variables | {"COMPOSE_PROFILES": "celery", "AIRFLOW_WORKERS": "2"}
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    working = Stack(env_file, variables)
    try:
        working.compose("up", "--detach", "--wait", "--wait-timeout", "1800", file=FILE, override=override)
        yield working
    finally:
        working.compose("rm", "--stop", "--force", "airflow-worker", "redis", file=FILE)


def containers(*filters: str) -> list[str]:
    """Short IDs, which are the containers' host names too; those that have ended as well."""
    options = [f"--filter={one}" for one in filters]
    command = ["docker", "ps", "--all", "--quiet", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def task(admin: User, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = admin.ask("GET", f"{DAG}/dagRuns/{RUN}/taskInstances/{name}").json()
    return answer


def log(admin: User, name: str, attempt: int) -> str:
    return admin.ask("GET", f"{DAG}/dagRuns/{RUN}/taskInstances/{name}/logs/{attempt}?full_content=true").text


@pytest.fixture(scope="module")
def both(workers: Stack) -> list[str]:
    """Host names of the two workers."""
    project, service = f"{PROJECT}-work", "airflow-worker"
    return containers(f"label=com.docker.compose.project={project}", f"label=com.docker.compose.service={service}")


@pytest.fixture(scope="module")
def live_log(both: list[str], admin: User) -> str:
    """The log of train, read while it trained on a worker that is then killed."""
    trigger(admin, RUN, registered_model="of-workers", epochs=40)
    assert admin.ask("PATCH", DAG, {"is_paused": False}).status_code == 200
    deadline = time.monotonic() + 1800
    while "epoch 2/" not in (text := log(admin, "train", 1)):
        assert time.monotonic() < deadline, text
        time.sleep(0.5)
    trains = task(admin, "train")
    assert trains["state"] == "running", trains
    subprocess.run(["docker", "kill", "--signal", "KILL", trains["hostname"]], check=True)
    return text


@pytest.fixture(scope="module")
def finished(live_log: str, admin: User) -> dict[str, dict[str, Any]]:
    """The tasks of the run that lost a worker, by name."""
    state, tasks = ended(admin, RUN, 300)
    assert state == "success", {name: one["state"] for name, one in tasks.items()}
    return tasks


def test_one_word_starts_workers_and_gives_them_the_tasks(both: list[str], workers: Stack) -> None:
    assert len(both) == 2
    states = workers.states(FILE)
    assert states.pop("airflow-init") == "exited"
    assert {"airflow-worker", "redis"} <= states.keys()
    assert set(states.values()) == {"healthy"}


def test_a_worker_is_nobody_special_and_has_no_way_to_airflows_database(workers: Stack) -> None:
    tried = in_service("airflow-worker", "import os; print(os.getuid(), *sorted(os.environ)); open('/app/mine', 'w')")
    assert tried.stdout.startswith("50000 ")
    assert "Read-only file system" in tried.stderr
    for name in ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET"):
        assert name not in tried.stdout


def test_the_queue_asks_for_its_password_and_is_closed_to_this_machine(workers: Stack) -> None:
    for password in ("'wrong'", "None"):
        code = f"import redis; redis.Redis('redis', password={password}).ping()"
        assert "redis.exceptions.AuthenticationError" in in_service("airflow-worker", code).stderr
    command = ["docker", "port", f"{PROJECT}-work-redis-1"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_a_log_is_read_from_the_worker_while_the_task_runs(live_log: str, both: list[str]) -> None:
    assert any(f"http://{host}:8793/log/" in live_log for host in both)


def test_the_killed_workers_task_ran_again_on_the_other(
    finished: dict[str, dict[str, Any]], both: list[str], admin: User
) -> None:
    # The service follows the model of the other modules: deploy asks it, and skips.
    assert {name: finished[name]["state"] for name in STAGES} == dict.fromkeys(STAGES, "success") | {
        "deploy": "skipped"
    }
    assert {finished[name]["hostname"] for name in STAGES} <= set(both)
    tries = admin.ask("GET", f"{DAG}/dagRuns/{RUN}/taskInstances/train/tries").json()["task_instances"]
    assert [one["state"] for one in tries] == ["failed", "success"]
    assert {one["hostname"] for one in tries} == set(both)


def test_the_retry_went_on_in_the_same_mlflow_run(finished: dict[str, Any], workers: Stack) -> None:
    api, login = f"{workers.mlflow_url}/api/2.0/mlflow", workers.login
    name = {"experiment_name": MODEL}
    found = requests.get(f"{api}/experiments/get-by-name", params=name, auth=login, timeout=120).json()
    query = {
        "experiment_ids": [found["experiment"]["experiment_id"]],
        "filter": f"tags.`pipeline.dag_run_id` = '{RUN}' and tags.`pipeline.stage` = 'train'",
    }
    runs = requests.post(f"{api}/runs/search", json=query, auth=login, timeout=120).json()["runs"]
    assert [run["info"]["status"] for run in runs] == ["FINISHED"]


def test_nothing_of_the_killed_worker_is_left(finished: dict[str, Any], admin: User) -> None:
    assert "left by an earlier try" in log(admin, "train", 2)
    assert containers(f"label=pipeline.dag_run_id={RUN}", f"network={PROJECT}") == []


def test_logs_of_workers_are_in_the_bucket(finished: dict[str, Any], workers: Stack) -> None:
    keys = [workers.variables[name] for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY")]
    s3 = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=workers.s3_url)
    found = s3.list_objects_v2(Bucket="mlflow", Prefix=f"airflow-logs/dag_id=daily_training/run_id={RUN}/")
    names = {item["Key"].split("task_id=")[1] for item in found["Contents"]}
    assert {f"{stage}/attempt={2 if stage == 'train' else 1}.log" for stage in STAGES} <= names
