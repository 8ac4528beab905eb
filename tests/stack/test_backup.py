"""`make backup` and `make restore` on a real engine: from the session's stack into a new, empty one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import RestException

from .conftest import FIRST_PORT, PROJECT, ROOT, Stack, _bare_environment

pytestmark = pytest.mark.docker
NEW = {
    "STACK_NAME": f"{PROJECT}-restored",
    "PIPELINE_DOCKER_NETWORK": f"{PROJECT}-restored",
    "MLFLOW_PORT": str(FIRST_PORT + 5),
    "S3_PORT": str(FIRST_PORT + 6),
    "SERVING_PORT": str(FIRST_PORT + 7),
}
ARTIFACT = bytes(range(256)) * 5000
MODEL = "kept-model"


def backup(*arguments: str | Path, stack: Stack) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.backup", *map(str, arguments), "--env-file", str(stack.env_file)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_bare_environment())


@pytest.fixture(scope="module")
def logged_in(stack: Stack) -> Iterator[None]:
    user, password = stack.login
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", user)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        patch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
        patch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        yield


@pytest.fixture(scope="module")
def run_id(stack: Stack, logged_in: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a metric and an artifact, and a version of it that is the champion."""
    client = MlflowClient(stack.mlflow_url)
    run = client.create_run(client.create_experiment("kept"))
    client.log_metric(run.info.run_id, "accuracy", 0.98)
    artifact = tmp_path_factory.mktemp("artifact") / "weights.bin"
    artifact.write_bytes(ARTIFACT)
    client.log_artifact(run.info.run_id, str(artifact))
    client.create_registered_model(MODEL)
    version = client.create_model_version(MODEL, f"{run.info.artifact_uri}/weights.bin", run.info.run_id)
    client.set_registered_model_alias(MODEL, "champion", version.version)
    return str(run.info.run_id)


@pytest.fixture(scope="module")
def saved(stack: Stack, run_id: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backups") / "saved.tar"
    done = backup("save", "--file", path, stack=stack)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 databases" in done.stdout
    assert path.stat().st_mode & 0o777 == 0o600
    return path


@pytest.fixture(scope="module")
def empty(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A new stack of the same `.env`, with a name and ports of its own."""
    variables = stack.variables | NEW
    env_file = tmp_path_factory.mktemp("empty") / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    new = Stack(env_file, variables)
    new.remove()
    try:
        new.compose("up", "--detach", "--wait", "--wait-timeout", "240")
        yield new
    finally:
        new.remove()


def test_a_changed_byte_is_refused_in_one_line_and_nothing_changes(empty: Stack, saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[content.index(ARTIFACT[:512]) + 100] ^= 1
    changed = tmp_path / "changed.tar"
    changed.write_bytes(content)
    done = backup("restore", "--file", changed, "--force", stack=empty)
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr.count("\n") == 1
    assert "weights.bin is not what was written" in done.stderr
    assert MlflowClient(f"http://127.0.0.1:{NEW['MLFLOW_PORT']}").search_registered_models() == []


def test_an_empty_stack_holds_the_same_champion_after_a_restore(
    empty: Stack, saved: Path, run_id: str, tmp_path: Path
) -> None:
    client = MlflowClient(f"http://127.0.0.1:{NEW['MLFLOW_PORT']}")
    with pytest.raises(RestException):
        client.get_run(run_id)

    done = backup("restore", "--file", saved, stack=empty)
    assert done.returncode == 0, done.stdout + done.stderr

    assert client.get_run(run_id).data.metrics == {"accuracy": 0.98}
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert (champion.version, champion.run_id) == ("1", run_id)
    assert Path(client.download_artifacts(run_id, "weights.bin", str(tmp_path))).read_bytes() == ARTIFACT
    assert empty.states()["mlflow"] == "healthy"

    again = backup("restore", "--file", saved, stack=empty)
    assert again.returncode == 73
    assert again.stderr.count("\n") == 1
    assert "FORCE=1" in again.stderr

    client.delete_registered_model_alias(MODEL, "champion")
    forced = backup("restore", "--file", saved, "--force", stack=empty)
    assert forced.returncode == 0, forced.stdout + forced.stderr
    assert client.get_model_version_by_alias(MODEL, "champion").version == "1"


def test_a_stack_that_is_not_up_is_named_with_what_to_do(saved: Path, stack: Stack, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(stack.env_file.read_text() + "STACK_NAME=vm-test-nowhere\n")
    done = backup("restore", "--file", saved, stack=Stack(env_file, stack.variables))
    assert done.returncode == 69
    assert "mlflow, postgres, s3 not running; start the stack with make up" in done.stderr
