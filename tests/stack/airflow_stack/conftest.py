"""Airflow as a team runs it: the second compose file beside the session's stack, up once for this package."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.stack.conftest import PROJECT, ROOT, Stack, build_images

FILE = "docker-compose-mlops.yml"
STAGES = ["prepare", "train", "evaluate", "register", "deploy"]
MODEL = "airflow-stack"  # an experiment and a model of this package's own: other modules count theirs
DAG = "/api/v2/dags/daily_training"
ROLLBACK_DAG = "/api/v2/dags/rollback_champion"
# These tests are about the way to a promotion, not about its evidence.
PROMOTE = {"proof": "not_worse", "non_inferiority_margin": 0.9, "max_slowdown": 100, "max_memory_growth": 100}
# The schedule would start a run of its own as soon as the DAG is unpaused. No DAG file changes: reading them is rare.
UNSCHEDULED = {
    "services": {
        "airflow-scheduler": {"environment": {"AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False"}},
        "airflow-dag-processor": {"environment": {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120"}},
    }
}


@dataclass(frozen=True)
class User:
    """Someone logged in to Airflow."""

    name: str
    password: str
    token: str

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.request(method, Stack.airflow_url + path, headers=headers, json=body, timeout=120)


def log_in(name: str, password: str) -> requests.Response:
    login = {"username": name, "password": password}
    return requests.post(f"{Stack.airflow_url}/auth/token", json=login, timeout=120)


def make_user(airflow: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", "user", *arguments, "--env-file", str(airflow.env_file)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def in_service(service: str, code: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "exec", f"{PROJECT}-work-{service}-1", "python", "-c", code]
    return subprocess.run(command, capture_output=True, text=True)


@contextlib.contextmanager
def working(stack: Stack, folder: Path, model: str = MODEL) -> Iterator[Stack]:
    """The second compose file beside a stack that runs, all of it healthy; removed again, with its volumes."""
    build_images("airflow", *STAGES, "rollback", "serving")
    override = folder / "override.yml"
    override.write_text(json.dumps(UNSCHEDULED))
    variables = stack.variables | {"PIPELINE_EXPERIMENT": model, "SERVING_REGISTERED_MODEL": model}
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    found = Stack(env_file, variables)
    try:
        found.start(FILE, override)
        yield found
    finally:
        found.compose("down", "--volumes", "--timeout", "5", file=FILE)


@pytest.fixture(scope="package")
def airflow(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """This package's own; afterwards only the first file's services run."""
    with working(stack, tmp_path_factory.mktemp("airflow-stack")) as found:
        yield found


def administrator(airflow: Stack) -> User:
    """The one that `make up` creates, logged in."""
    password = airflow.variables["AIRFLOW_ADMIN_PASSWORD"]
    return User("admin", password, log_in("admin", password).json()["access_token"])


@pytest.fixture(scope="package")
def admin(airflow: Stack) -> User:
    return administrator(airflow)


def user(airflow: Stack, role: str) -> User:
    """Make the user of a role, or give it a new password: who had the fixture of it then cannot log in any more."""
    made = make_user(airflow, f"the-{role}", role)
    assert made.returncode == 0, made.stderr
    password = made.stdout.split()[-1]
    return User(f"the-{role}", password, log_in(f"the-{role}", password).json()["access_token"])


@pytest.fixture(scope="package")
def viewer(airflow: Stack) -> User:
    return user(airflow, "viewer")


@pytest.fixture(scope="package")
def editor(airflow: Stack) -> User:
    return user(airflow, "editor")


def trigger(admin: User, run_id: str, *, dag: str = DAG, **conf: Any) -> None:
    """Start a run of a DAG, which must not be paused; of the daily one with the model of this package."""
    asked = {"registered_model": MODEL} | (PROMOTE if dag == DAG else {}) | conf
    body = {"dag_run_id": run_id, "logical_date": None, "conf": asked}
    started = admin.ask("POST", f"{dag}/dagRuns", body)
    assert started.status_code == 200, started.text


def served(airflow: Stack) -> int:
    """Version of the model that the service answers with."""
    info = requests.post(f"{airflow.serving_url}/get_model_info", timeout=120).json()
    return int(info["model_version"])


def ended(admin: User, run_id: str, seconds: float = 600, *, dag: str = DAG) -> tuple[str, dict[str, dict[str, Any]]]:
    """Wait until a run ends; return its state, and its tasks by name."""
    run, deadline = f"{dag}/dagRuns/{run_id}", time.monotonic() + seconds
    while (state := admin.ask("GET", run).json()["state"]) in ("queued", "running"):
        assert time.monotonic() < deadline, admin.ask("GET", f"{run}/taskInstances").text
        time.sleep(1)
    tasks = admin.ask("GET", f"{run}/taskInstances").json()["task_instances"]
    return state, {task["task_id"]: task for task in tasks}


@dataclass(frozen=True)
class DailyRun:
    """A DAG run that the scheduler took to its end: its tasks by name, and the version in service after it."""

    tasks: dict[str, dict[str, Any]]
    served: int


@pytest.fixture(scope="package")
def by_hand(airflow: Stack, admin: User) -> DailyRun:
    """The first promotion of this package's model, by the run `by-hand`."""
    trigger(admin, "by-hand", epochs=2, seed=1)
    assert admin.ask("PATCH", DAG, {"is_paused": False}).status_code == 200
    state, tasks = ended(admin, "by-hand")
    assert state == "success", {name: task["state"] for name, task in tasks.items()}
    return DailyRun(tasks, served(airflow))
