"""`make up` on a real engine: a store outside in the place of the stack's own, and one clear line for each fault."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient

from deploy import engine
from deploy.env_file import parse
from deploy.setup_env import complete

from .conftest import FIRST_PORT, PROJECT, ROOT, TAG, Stack, _bare_environment, build_images, gateway_of

pytestmark = pytest.mark.docker
NAME = f"{PROJECT}-second"
MLFLOW_PORT, STORE_PORT = FIRST_PORT + 10, FIRST_PORT + 11
S3_IMAGE = "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"


def up(stack: Stack, *services: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", "up", "--env-file", str(stack.env_file), *services]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_bare_environment(), timeout=900)


def given(stack: Stack, folder: Path, **changes: str) -> Stack:
    """The same stack with other values in its `.env`."""
    variables = stack.variables | changes
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return replace(stack, env_file=env_file, variables=variables)


def refusal(stack: Stack, *services: str) -> str:
    """Its last line, from a start that fails."""
    done = up(stack, *services)
    assert done.returncode != 0, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("up: "), done.stderr
    return line


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is not started, with a store of another project in the place of its own."""
    build_images("mlflow", "airflow")
    gateway = gateway_of("bridge")
    text, _ = complete("", (ROOT / ".env.example").read_text())
    variables = parse(text) | {
        "STACK_NAME": NAME,
        "PIPELINE_DOCKER_NETWORK": NAME,
        "PIPELINE_IMAGE_TAG": TAG,
        "MLFLOW_PORT": str(MLFLOW_PORT),
        "S3_PORT": str(FIRST_PORT + 12),
        "SERVING_PORT": str(FIRST_PORT + 13),
        "AIRFLOW_PORT": str(FIRST_PORT + 14),
        "S3_ENDPOINT_URL": f"http://{gateway}:{STORE_PORT}",
        "S3_BUCKET": "elsewhere",
    }
    stack = given(Stack(Path(), variables), tmp_path_factory.mktemp("second"))
    store = f"{NAME}-store"
    subprocess.run(["docker", "rm", "--force", "--volumes", store], capture_output=True)
    stack.remove()
    keys = {"MINIO_ROOT_USER": variables["S3_ACCESS_KEY"], "MINIO_ROOT_PASSWORD": variables["S3_SECRET_KEY"]}
    options = [part for item in keys.items() for part in ("--env", "=".join(item))]
    options += ["--volume", "/data", "--publish", f"{gateway}:{STORE_PORT}:9000"]
    image = parse((ROOT / ".env.example").read_text())["S3_IMAGE"] or S3_IMAGE
    command = ["docker", "run", "--detach", "--name", store, *options, image, "server", "/data"]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield stack
    finally:
        stack.remove()
        subprocess.run(["docker", "rm", "--force", "--volumes", store], capture_output=True)


@pytest.fixture(scope="module")
def started(fresh: Stack) -> Stack:
    """The stack, up, with state of its own; of the second file only what starts in a second."""
    done = up(fresh, "docker-socket-proxy")
    assert done.returncode == 0, done.stderr
    return fresh


def test_a_missing_env_is_named(tmp_path: Path) -> None:
    stack = Stack(tmp_path / ".env", {})
    assert refusal(stack) == f"up: {tmp_path}/.env is missing; run make setup"


def test_a_taken_port_is_named_before_anything_starts(fresh: Stack) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", MLFLOW_PORT))
        other.listen()
        line = refusal(fresh)
    assert f"up: port {MLFLOW_PORT} (MLFLOW_PORT) is taken by another program" in line
    assert "set MLFLOW_PORT in .env" in line
    assert fresh.states() == {}


def test_an_address_of_no_store_is_named(fresh: Stack, tmp_path: Path) -> None:
    line = refusal(given(fresh, tmp_path, S3_ENDPOINT_URL="no-such-store.invalid:9000"))  # without http://
    assert line.startswith("up: bucket: no S3 server answers at no-such-store.invalid:9000 ("), line
    assert "correct S3_ENDPOINT_URL" in line


def test_a_store_outside_takes_the_place_of_the_stacks_own(
    started: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started.states() == {"postgres": "healthy", "mlflow": "healthy", "bucket": "exited"}
    for name, value in zip(("USERNAME", "PASSWORD"), started.login, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    client = MlflowClient(f"http://127.0.0.1:{MLFLOW_PORT}")
    run = client.create_run(client.create_experiment("outside"))
    (tmp_path / "note.txt").write_text("kept")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    login = [started.variables[name] for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY")]
    s3 = boto3.Session(*login, region_name="us-east-1").client("s3", endpoint_url=started.variables["S3_ENDPOINT_URL"])
    found = s3.list_objects_v2(Bucket="elsewhere")["Contents"]
    assert [item["Key"].rpartition("/")[2] for item in found] == ["note.txt"]


@pytest.mark.parametrize(
    ("variable", "services", "said"),
    [
        ("S3_SECRET_KEY", [], "up: bucket: "),
        ("POSTGRES_MLFLOW_PASSWORD", [], 'up: mlflow: mlflow: connection to server at "postgres"'),
        ("POSTGRES_MLFLOW_AUTH_PASSWORD", [], 'up: mlflow: mlflow: connection to server at "postgres"'),
        ("POSTGRES_AIRFLOW_PASSWORD", ["airflow-api-server"], "up: airflow-init: airflow db migrate failed"),
    ],
)
def test_a_secret_that_is_not_the_first_one_is_named(
    started: Stack, tmp_path: Path, variable: str, services: list[str], said: str
) -> None:
    line = refusal(given(started, tmp_path, **{variable: "0" * 40}), *services)
    assert line.startswith(said), line
    assert variable in line


def test_the_port_of_a_service_that_fails_again_and_again_is_the_stacks_own() -> None:
    """Also between two tries, when it publishes nothing: a moment later the port is taken once more."""
    name, port = f"{PROJECT}-failing", FIRST_PORT + 15
    options = ["--restart", "always", "--label", f"com.docker.compose.project={name}", "--publish", f"{port}:80"]
    image = f"vision-mlops/mlflow:{TAG}"
    build_images("mlflow")
    command = ["docker", "run", "--detach", "--name", name, *options, "--entrypoint", "false", image]
    state = ["docker", "inspect", "--format", "{{.State.Status}}", name]
    try:
        subprocess.run(command, check=True, capture_output=True)
        seen, deadline = "", time.monotonic() + 300
        while seen != "restarting":
            assert time.monotonic() < deadline, seen
            seen = subprocess.run(state, check=True, capture_output=True, text=True).stdout.strip()
        assert engine.ports_of_the_stack({"STACK_NAME": name}) == {port}
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True)
