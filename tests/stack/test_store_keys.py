"""The keys per purpose on a real store: what `make up` makes, what each key may do where, and what `make rotate` ends.

The store of the test machine is Ceph's. MinIO takes the other way through `deploy/store_users.sh`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from mlflow import MlflowClient

from deploy.env_file import parse
from deploy.setup_env import complete
from deploy.store_policies import PURPOSES, VARIABLES
from tasks.search import storage
from tasks.settings import Settings

from .conftest import FIRST_PORT, PROJECT, ROOT, TAG, Stack, _bare_environment, build_images

pytestmark = pytest.mark.docker
NAME, BUCKET = f"{PROJECT}-keys", "mlflow"
MLFLOW_PORT, S3_PORT = FIRST_PORT + 70, FIRST_PORT + 71
PLACES = {"artifacts": "1/", "logs": "airflow-logs/", "tune": "tune/"}


def deploy(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", *arguments, "--env-file", str(stack.env_file)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_bare_environment(), timeout=900)


@cache  # a client takes half a second to make
def connect(access_key: str, secret_key: str) -> Any:
    session = boto3.Session(access_key, secret_key, region_name="us-east-1")
    return session.client(
        "s3", endpoint_url=f"http://127.0.0.1:{S3_PORT}", config=Config(retries={"total_max_attempts": 1})
    )


def of_root(variables: dict[str, str]) -> Any:
    return connect(variables["S3_ACCESS_KEY"], variables["S3_SECRET_KEY"])


def clients(variables: dict[str, str]) -> dict[str, Any]:
    return {one.name: connect(variables[one.access_key], variables[one.secret_key]) for one in PURPOSES}


def allowed(action: Callable[..., Any], **arguments: Any) -> bool:
    try:
        answer = action(**arguments)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
            raise
        return False
    return not answer.get("Errors")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack as an earlier release left it: one key, objects of each purpose. Then `make up`, twice."""
    build_images("mlflow", "airflow")
    text, _ = complete("", (ROOT / ".env.example").read_text())
    variables = parse(text) | {
        "STACK_NAME": NAME,
        "PIPELINE_DOCKER_NETWORK": NAME,
        "PIPELINE_IMAGE_TAG": TAG,
        "MLFLOW_WORKERS": "1",
        "MLFLOW_PORT": str(MLFLOW_PORT),
        "S3_PORT": str(S3_PORT),
        "SERVING_PORT": str(FIRST_PORT + 72),
        "AIRFLOW_PORT": str(FIRST_PORT + 73),
    }
    env_file = tmp_path_factory.mktemp("keys") / ".env"
    before = {name: value for name, value in variables.items() if name not in VARIABLES}
    env_file.write_text("".join(f"{name}={value}\n" for name, value in before.items()))
    stack = Stack(env_file, variables)
    stack.remove()
    try:
        stack.compose("up", "--detach", "--wait", "s3")
        root = of_root(variables)
        root.create_bucket(Bucket=BUCKET)
        for place in PLACES.values():
            root.put_object(Bucket=BUCKET, Key=f"{place}of-before", Body=b"kept")
        done = deploy(stack, "up", "docker-socket-proxy")
        assert done.returncode == 0, done.stderr
        made = replace(stack, variables=parse(env_file.read_text()))
        assert all(made.variables.get(name) for name in VARIABLES), done.stderr
        done = deploy(stack, "up", "docker-socket-proxy")
        assert done.returncode == 0, done.stderr
        assert parse(env_file.read_text()) == made.variables  # keys that work stay
        yield made
    finally:
        stack.remove()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("purpose", PLACES)
def test_each_key_does_all_in_its_own_place_and_nothing_in_another(up: Stack, purpose: str, place: str) -> None:
    root, client = of_root(up.variables), clients(up.variables)[purpose]
    theirs = {"Bucket": BUCKET, "Key": f"{PLACES[place]}theirs"}
    copied = {"Bucket": BUCKET, "Key": f"{PLACES[purpose]}copied", "CopySource": theirs}
    uploaded = {"Bucket": BUCKET, "Key": f"{PLACES[place]}in-parts"}
    actions: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "read an object of before": (client.get_object, {"Bucket": BUCKET, "Key": f"{PLACES[place]}of-before"}),
        "read": (client.get_object, theirs),
        "write": (client.put_object, {**theirs, "Body": b"changed"}),
        "copy from there": (client.copy_object, copied),
        "begin an upload in parts": (client.create_multipart_upload, uploaded),
        "delete many": (client.delete_objects, {"Bucket": BUCKET, "Delete": {"Objects": [{"Key": theirs["Key"]}]}}),
        "delete": (client.delete_object, theirs),
    }
    for name, (action, arguments) in actions.items():
        root.put_object(**theirs, Body=b"theirs")
        assert allowed(action, **arguments) is (purpose == place), name
        if purpose != place:
            assert root.get_object(**theirs)["Body"].read() == b"theirs", name
    root.put_object(**theirs, Body=b"theirs")
    assert allowed(client.put_object_acl, **{**theirs, "ACL": "public-read"}) is False


@pytest.mark.parametrize("purpose", PLACES)
def test_no_key_changes_the_bucket_or_makes_another(up: Stack, purpose: str) -> None:
    client = clients(up.variables)[purpose]
    root = of_root(up.variables)
    for name in ("get_bucket_policy", "delete_bucket_policy", "get_bucket_lifecycle_configuration", "delete_bucket"):
        assert not allowed(getattr(client, name), Bucket=BUCKET), name
    policy = root.get_bucket_policy(Bucket=BUCKET)["Policy"]
    assert not allowed(client.put_bucket_policy, Bucket=BUCKET, Policy=policy)
    assert not allowed(client.put_bucket_acl, Bucket=BUCKET, ACL="public-read-write")
    root.create_bucket(Bucket="others")
    root.put_object(Bucket="others", Key=f"{PLACES[purpose]}x", Body=b"")
    assert not allowed(client.get_object, Bucket="others", Key=f"{PLACES[purpose]}x")
    with pytest.raises(ClientError):
        client.create_bucket(Bucket=f"made-by-{purpose}")


def test_each_service_has_its_own_key_in_its_environment(up: Stack) -> None:
    shown = up.compose("config", file="docker-compose-mlops.yml") + up.compose("config")
    for name in VARIABLES:
        assert up.variables[name] in shown
    mlflow = subprocess.run(
        ["docker", "inspect", "--format", "{{.Config.Env}}", f"{NAME}-mlflow-1"], capture_output=True, text=True
    ).stdout
    assert f"AWS_SECRET_ACCESS_KEY={up.variables['S3_ARTIFACTS_SECRET_KEY']}" in mlflow
    assert up.variables["S3_SECRET_KEY"] not in mlflow


def test_mlflow_keeps_files_with_its_key_and_a_backup_reads_them_with_the_roots(
    up: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("USERNAME", "PASSWORD"), up.login, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    client = MlflowClient(f"http://127.0.0.1:{MLFLOW_PORT}")
    run = client.create_run(client.create_experiment("with keys"))
    (tmp_path / "note.txt").write_text("kept")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    back = client.download_artifacts(run.info.run_id, "note.txt", str(tmp_path))
    assert Path(back).read_text() == "kept"
    root = of_root(up.variables)
    for item in root.list_objects_v2(Bucket=BUCKET)["Contents"]:
        root.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()


def test_a_search_keeps_and_removes_its_state_with_its_key(up: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_TUNE_ACCESS_KEY", "S3_TUNE_SECRET_KEY"):
        monkeypatch.setenv(name, up.variables[name])
    monkeypatch.setenv("S3_ENDPOINT_URL", f"http://127.0.0.1:{S3_PORT}")
    monkeypatch.setenv("PIPELINE_RUNTIME", "docker")
    for name, value in {"URI": "http://not-asked:5000", "USERNAME": "nobody", "PASSWORD": "not-asked"}.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    settings = Settings().with_the_stacks_ray()
    with storage.credentials(settings):
        kept = storage.SearchStorage(settings, "run-1")
        assert kept.next_try() == "try-000"
        file = f"{kept._folder}/try-000/trial-00000/checkpoint_000001/x"
        with kept._system.open_output_stream(file) as stream:
            stream.write(b"state")
        assert list(storage.SearchStorage(settings, "run-1").checkpoints()) == [0]
        assert "run-1" in storage.searches(settings)
        kept.remove()
        assert "run-1" not in storage.searches(settings)


def test_a_rotation_replaces_the_keys_and_the_old_ones_open_nothing(up: Stack) -> None:
    # The stand-in for MinIO keeps the key of its root (tests/stack/test_rotate.py gives it a new one).
    done = deploy(up, "rotate", "--keep", "S3_ACCESS_KEY S3_SECRET_KEY")
    assert done.returncode == 0, done.stderr
    after = parse(up.env_file.read_text())
    for purpose in PURPOSES:
        assert after[purpose.access_key] != up.variables[purpose.access_key]
        key = f"{PLACES[purpose.name]}of-before"
        assert allowed(clients(after)[purpose.name].get_object, Bucket=BUCKET, Key=key)
        assert not allowed(clients(up.variables)[purpose.name].get_object, Bucket=BUCKET, Key=key)
