"""The real stack, once per test session: own project, network, ports, secrets; leftovers removed before and after."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from deploy import store_policies, up
from deploy.env_file import parse
from deploy.setup_env import complete

STAGES = ["prepare", "train", "evaluate", "register", "deploy"]
ROOT = Path(__file__).resolve().parents[2]
# Two sessions on one engine: each with a name, ports and images of its own.
PROJECT = os.environ.get("TEST_STACK", "vm-test-stack")
FIRST_PORT = int(os.environ.get("TEST_STACK_PORT", "21410"))
SECONDS_TO_HEALTHY: dict[str, float] = {}  # of the session's stack, by compose file
TAG = os.environ.get("TEST_IMAGE_TAG", "dev")
OWN = {
    "STACK_NAME": PROJECT,
    "PIPELINE_DOCKER_NETWORK": PROJECT,
    "PIPELINE_IMAGE_TAG": TAG,
    "MLFLOW_PORT": str(FIRST_PORT),
    "S3_PORT": str(FIRST_PORT + 1),
    "SERVING_PORT": str(FIRST_PORT + 2),
    "AIRFLOW_PORT": str(FIRST_PORT + 3),
    "PROMETHEUS_PORT": str(FIRST_PORT + 4),
    "GRAFANA_PORT": str(FIRST_PORT + 5),
    "ALERTMANAGER_PORT": str(FIRST_PORT + 6),
    "MLFLOW_WORKERS": "1",  # each takes 7 s of CPU time to start, at every start
}


def _without_engine() -> str | None:
    """Why Docker tests cannot run here; None when they can."""
    if shutil.which("docker") is None:
        return "no docker command"
    answer = subprocess.run(["docker", "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True)
    return None if answer.returncode == 0 else f"no Docker engine: {answer.stderr.strip().splitlines()[-1]}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without an engine: skip the Docker tests, or stop when REQUIRE_DOCKER=1 says that none may be skipped."""
    docker_tests = [item for item in items if item.get_closest_marker("docker")]
    reason = _without_engine() if docker_tests else None
    if reason is None:
        return
    if os.environ.get("REQUIRE_DOCKER") == "1":
        raise pytest.UsageError(f"REQUIRE_DOCKER=1, but {reason}")
    for item in docker_tests:
        item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Stack:
    """A running stack and how to reach it."""

    env_file: Path
    variables: dict[str, str]

    mlflow_url = f"http://127.0.0.1:{OWN['MLFLOW_PORT']}"
    s3_url = f"http://127.0.0.1:{OWN['S3_PORT']}"
    serving_url = f"http://127.0.0.1:{OWN['SERVING_PORT']}"
    airflow_url = f"http://127.0.0.1:{OWN['AIRFLOW_PORT']}"
    network = PROJECT

    @property
    def login(self) -> tuple[str, str]:
        """MLflow's administrator and password."""
        return self.variables["MLFLOW_TRACKING_USERNAME"], self.variables["MLFLOW_TRACKING_PASSWORD"]

    @property
    def stage_passwords(self) -> dict[str, str]:
        """Those with which Airflow gives each stage the user of MLflow that is for it."""
        return {name: self.variables[name] for name in ("MLFLOW_STAGES_PASSWORD", "MLFLOW_REGISTRY_PASSWORD")}

    @property
    def store(self) -> Any:
        """A client of the S3 store with the key of its root."""
        keys = (self.variables["S3_ACCESS_KEY"], self.variables["S3_SECRET_KEY"])
        return boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=self.s3_url)

    def compose(self, *arguments: str, file: str = "docker-compose.yml", override: Path | None = None) -> str:
        """Run `docker compose` on the stack and return what it printed."""
        files = ["--file", str(ROOT / file), *(["--file", str(override)] if override else [])]
        command = ["docker", "compose", *files, "--env-file", str(self.env_file), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=_bare_environment())
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, file: str = "docker-compose.yml", override: Path | None = None) -> None:
        """Start a file's services, wait until all are healthy, and note how long that took."""
        began = time.monotonic()
        self.compose("up", "--detach", "--wait", "--wait-timeout", "1800", file=file, override=override)
        SECONDS_TO_HEALTHY[file] = time.monotonic() - began

    def states(self, file: str = "docker-compose.yml") -> dict[str, str]:
        """Health of each service, or its state if it has no health check."""
        lines = self.compose("ps", "--all", "--format", "json", file=file).splitlines()
        return {s["Service"]: s["Health"] or s["State"] for s in map(json.loads, lines)}

    def psql(self, user: str, database: str, query: str) -> subprocess.CompletedProcess[str]:
        """Run a query over TCP, as a program on the network would, with the user's own password."""
        password = self.variables[f"POSTGRES_{user.upper()}_PASSWORD"]
        container = f"{self.variables['STACK_NAME']}-postgres-1"
        command = ["docker", "exec", "--env", f"PGPASSWORD={password}", container]
        command += ["psql", "-h", "127.0.0.1", "-U", user, "-d", database, "-Atc", query]
        return subprocess.run(command, capture_output=True, text=True)

    def remove(self) -> None:
        """Remove containers, network and volumes, those of an earlier session too."""
        for file in ("docker-compose-mlops.yml", "docker-compose.yml"):
            self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5", file=file)


def _bare_environment() -> dict[str, str]:
    """The environment without this project's variables: compose prefers them to those of the env file."""
    return {name: value for name, value in os.environ.items() if name not in parse((ROOT / ".env.example").read_text())}


def build_images(*names: str) -> None:
    """Build images, reusing the layers that exist."""
    environment = _bare_environment() | {"PIPELINE_IMAGE_PREFIX": "vision-mlops", "PIPELINE_IMAGE_TAG": TAG}
    done = subprocess.run(
        [sys.executable, "-m", "images", "build", *names], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr


def gateway_of(network: str) -> str:
    """This machine's address in a Docker network.

    The engine names it, except of its default bridge when that was there before the engine started: then it is the
    subnet's first address.
    """
    command = ["docker", "network", "inspect", network, "--format", "{{json (index .IPAM.Config 0)}}"]
    config = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """Run Postgres, the S3 store with its keys, and MLflow, healthy and empty; write their `.env` to a folder."""
    build_images("mlflow")
    text, _ = complete("", (ROOT / ".env.example").read_text())
    variables = parse(text) | OWN
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    found = Stack(env_file, variables)
    found.remove()
    try:
        began = time.monotonic()
        assert up.make_store_keys(env_file) is None
        seconds = time.monotonic() - began
        found = replace(found, variables=parse(env_file.read_text()))
        assert all(found.variables.get(name) for name in store_policies.VARIABLES)
        found.start()
        SECONDS_TO_HEALTHY["docker-compose.yml"] += seconds
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The session's stack."""
    with running(tmp_path_factory.mktemp("stack")) as found:
        yield found


def airflow_beside(stack: Stack, folder: Path, name: str, dag: str) -> dict[str, str]:
    """Prepare an Airflow here with one DAG, whose stages run on the engine as `make run RUNTIME=docker` has it.

    Args:
        stack: what its stages use.
        folder: an empty one, for its home and the DAG's file.
        name: of that file.
        dag: its text.

    Returns:
        The environment of its commands.
    """
    (folder / "dags").mkdir()
    (folder / "dags" / name).write_text(dag)
    kept = ("PATH", "HOME", "LANG", "DOCKER_HOST", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    administrators = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    environment = own | {name: value for name, value in stack.variables.items() if value and name not in administrators}
    environment |= {
        "PYTHONPATH": f"{ROOT}:{ROOT}/plugins",
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": f"{ROOT}/plugins",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PIPELINE_RUNTIME": "docker",
        "MLFLOW_TRACKING_URI": stack.mlflow_url,
    }
    migrate = [airflow_command(), "db", "migrate"]
    subprocess.run(migrate, env=environment, check=True, capture_output=True, timeout=1800)
    return environment


def airflow_command() -> str:
    """Return the path of Airflow's command beside this Python."""
    return str(Path(sys.executable).with_name("airflow"))


@pytest.fixture(scope="session")
def daily_run(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Output of a `daily_training` that succeeded, with Airflow here, its stages and the service on the engine.

    It leaves the stack's only version of `vision-classifier`, the champion, in service.
    """
    build_images(*STAGES, "serving")
    stack.compose("up", "--detach", "serving", file="docker-compose-mlops.yml")
    kept = ("PATH", "HOME", "LANG", "DOCKER_HOST", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": f"{ROOT}:{ROOT}/plugins",
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": f"{ROOT}/dags",
        "AIRFLOW__CORE__PLUGINS_FOLDER": f"{ROOT}/plugins",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PIPELINE_RUNTIME": "docker",
        "PIPELINE_IMAGE_TAG": TAG,
        "PIPELINE_DOCKER_NETWORK": stack.network,
        "MLFLOW_TRACKING_URI": stack.mlflow_url,
        **stack.stage_passwords,
        "SERVING_URL": stack.serving_url,
    }
    airflow = airflow_command()
    subprocess.run([airflow, "db", "migrate"], env=environment, check=True, capture_output=True, timeout=1800)
    conf = json.dumps({"epochs": 3, "registered_model": "vision-classifier"})
    command = [airflow, "dags", "test", "daily_training", "2026-02-03", "--conf", conf]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr
