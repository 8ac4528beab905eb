"""`make rotate` on a stack that runs: no old secret opens anything afterwards, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from deploy import rotate
from deploy.env_file import parse
from deploy.setup_env import complete
from tasks.settings import MLFLOW_REGISTRY_USER, MLFLOW_STAGES_USER

from .conftest import FIRST_PORT, PROJECT, ROOT, TAG, Stack, _bare_environment, build_images

pytestmark = pytest.mark.docker
WORK = "docker-compose-mlops.yml"
NAME = f"{PROJECT}-rotated"
MLFLOW, SERVING, AIRFLOW = (f"http://127.0.0.1:{FIRST_PORT + port}" for port in (50, 52, 53))
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
# Fails as an engine does that cannot start another container, where a file `broken` lies beside it.
DOCKER = """#!/bin/sh
case "$*" in *rotate-fernet-key*) [ -e "{folder}/broken" ] && { echo no room >&2; exit 1; };; esac
exec {docker} "$@"
"""


def deploy(stack: Stack, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", *arguments, "--env-file", str(stack.env_file)]
    environment = _bare_environment()
    if path:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1800)


@dataclass(frozen=True)
class Rotation:
    """What was before, what is now, and what the command said."""

    before: Stack
    after: Stack
    failed: subprocess.CompletedProcess[str]
    done: subprocess.CompletedProcess[str]
    run_id: str


def in_airflow(*command: str) -> str:
    done = subprocess.run(
        ["docker", "exec", f"{NAME}-work-airflow-api-server-1", *command], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def client(stack: Stack, patch: pytest.MonkeyPatch) -> MlflowClient:
    patch.setenv("MLFLOW_TRACKING_USERNAME", stack.login[0])
    patch.setenv("MLFLOW_TRACKING_PASSWORD", stack.login[1])
    patch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    return MlflowClient(MLFLOW)


def give_store_its_new_key(old: dict[str, str], new: dict[str, str]) -> None:
    """MinIO takes its root's keys from its environment at every start; Ceph, which may stand in for it, does not."""
    key = f"--access-key={new['S3_ACCESS_KEY']} --secret-key={new['S3_SECRET_KEY']}"
    made = f"radosgw-admin key create --uid={old['S3_ACCESS_KEY']} --key-type=s3 {key}"
    removed = f"radosgw-admin key rm --uid={old['S3_ACCESS_KEY']} --key-type=s3 --access-key={old['S3_ACCESS_KEY']}"
    command = f"if command -v radosgw-admin >/dev/null; then {made} && {removed}; fi"
    subprocess.run(["docker", "exec", f"{NAME}-s3-1", "sh", "-c", command], check=True, capture_output=True)


@pytest.fixture(scope="module")
def rotation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotation]:
    """A stack with Airflow and the service, rotated; the first try ends after Postgres has the new passwords."""
    build_images("mlflow", "airflow", "serving")
    folder = tmp_path_factory.mktemp("rotated")
    text, _ = complete("", (ROOT / ".env.example").read_text())
    own = {"STACK_NAME": NAME, "PIPELINE_DOCKER_NETWORK": NAME, "PIPELINE_IMAGE_TAG": TAG, "MLFLOW_WORKERS": "1"}
    ports = ("MLFLOW_PORT", "S3_PORT", "SERVING_PORT", "AIRFLOW_PORT")
    own |= {name: str(FIRST_PORT + 50 + number) for number, name in enumerate(ports)}
    variables = parse(text) | own | {"SERVING_API_KEY": "given-to-clients"}
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    before = Stack(env_file, variables)
    before.remove()
    try:
        done = deploy(before, "up", "airflow-api-server", "serving")
        assert done.returncode == 0, done.stdout + done.stderr
        before = Stack(env_file, parse(env_file.read_text()))  # with the keys of the store that `up` made
        in_airflow("airflow", "connections", "add", "kept", "--conn-uri", "http://someone:of-the-connection@host")
        with pytest.MonkeyPatch.context() as patch:
            mlflow = client(before, patch)
            run = mlflow.create_run(mlflow.create_experiment("kept"))
            (folder / "note.txt").write_text("kept")
            mlflow.log_artifact(run.info.run_id, str(folder / "note.txt"))
        following = parse(rotate.prepare(env_file).read_text())
        give_store_its_new_key(variables, following)
        docker = subprocess.run(["which", "docker"], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "docker").write_text(DOCKER.replace("{folder}", str(folder)).replace("{docker}", docker))
        (folder / "docker").chmod(0o755)
        (folder / "broken").touch()
        failed = deploy(before, "rotate", path=folder)
        done = deploy(before, "rotate")
        after = Stack(env_file, parse(env_file.read_text()))
        yield Rotation(before, after, failed, done, run.info.run_id)
    finally:
        before.remove()


def test_an_interrupted_rotation_says_how_to_go_on_and_the_second_one_ends_it(rotation: Rotation) -> None:
    assert rotation.failed.returncode == 69
    assert rotation.failed.stderr.splitlines()[-1] == (
        "rotate: Airflow: no room; correct this, then run make rotate again, which goes on"
    )
    assert rotation.done.returncode == 0, rotation.done.stdout + rotation.done.stderr
    assert "clients of the service need the new SERVING_API_KEY" in rotation.done.stdout
    assert not rotation.after.env_file.with_name(".env.next").exists()
    assert rotation.after.env_file.stat().st_mode & 0o777 == 0o600


def test_no_old_secret_is_in_a_container_that_runs(rotation: Rotation) -> None:
    changed = {
        name: value for name, value in rotation.before.variables.items() if rotation.after.variables[name] != value
    }
    assert len(changed) >= 18
    listed = ["docker", "ps", "--quiet", "--filter", f"network={NAME}"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    assert len(names) >= 5
    inspected = subprocess.run(["docker", "inspect", *names], capture_output=True, text=True, check=True).stdout
    assert [name for name, value in changed.items() if value in inspected] == []


def test_mlflow_and_airflow_take_the_new_passwords_and_refuse_the_old_ones(rotation: Rotation) -> None:
    for stack, status in ((rotation.before, 401), (rotation.after, 200)):
        users = [
            stack.login,
            (MLFLOW_STAGES_USER, stack.variables["MLFLOW_STAGES_PASSWORD"]),
            (MLFLOW_REGISTRY_USER, stack.variables["MLFLOW_REGISTRY_PASSWORD"]),
            ("pipeline-serving", stack.variables["MLFLOW_SERVING_PASSWORD"]),
        ]
        for user in users:
            assert requests.get(MLFLOW + SEARCH, auth=user, timeout=120).status_code == status, user[0]
        login = {"username": "admin", "password": stack.variables["AIRFLOW_ADMIN_PASSWORD"]}
        answer = requests.post(f"{AIRFLOW}/auth/token", json=login, timeout=120)
        assert answer.ok == (status == 200), answer.text


def test_postgres_takes_the_new_passwords_and_refuses_the_old_ones(rotation: Rotation) -> None:
    for user in ("mlflow", "mlflow_auth", "airflow"):
        assert rotation.after.psql(user, user, "SELECT 1").stdout == "1\n"
        assert "password authentication failed" in rotation.before.psql(user, user, "SELECT 1").stderr


def test_the_service_asks_for_the_new_key(rotation: Rotation) -> None:
    for stack, status in ((rotation.before, 401), (rotation.after, 503)):  # there is no champion yet
        headers = {"Authorization": f"Bearer {stack.variables['SERVING_API_KEY']}"}
        answer = requests.post(f"{SERVING}/predict", headers=headers, files={"images": b""}, timeout=60)
        assert (answer.status_code == 401) == (status == 401), answer.text


def test_what_airflow_encrypted_and_what_is_in_the_store_can_still_be_read(
    rotation: Rotation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rotation.after.variables["AIRFLOW_FERNET_KEY"] != rotation.before.variables["AIRFLOW_FERNET_KEY"]
    shown = json.loads(in_airflow("airflow", "connections", "get", "kept", "--output", "json"))
    assert "of-the-connection" in json.dumps(shown)
    note = client(rotation.after, monkeypatch).download_artifacts(rotation.run_id, "note.txt", str(tmp_path))
    assert Path(note).read_text() == "kept"
