"""`make backup` and `make restore` on a real engine: from the session's stack into a new, empty one."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import RestException
from PIL import Image
from sklearn.datasets import load_digits

from deploy import backup_encryption, backup_file, up
from tasks.serving.client import ServiceClient

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
WORK = "docker-compose-mlops.yml"
DAG_RUN = """INSERT INTO dag_run (dag_id, run_id, run_type, run_after, state, clear_number, span_status)
    VALUES ('daily_training', '%s', 'manual', now(), 'success', 0, 'not_started')"""


@dataclass(frozen=True)
class Answers:
    """What a service answered to the same digits."""

    version: str
    run_id: str
    classes: list[str]
    probabilities: np.ndarray


def ask(url: str) -> Answers:
    """Wait for the champion to be in service, and ask it about some digits."""
    service, deadline = ServiceClient(url), time.monotonic() + 1800
    while (service.info() or {}).get("model_version") is None:
        assert time.monotonic() < deadline, service.info()
        time.sleep(0.5)
    answers: list[dict[str, Any]] = []
    for index, image in enumerate(load_digits().images[::90]):
        file = io.BytesIO()
        Image.fromarray((image * 15).astype(np.uint8)).save(file, "png")
        answers.append(service.predict(str(index), file.getvalue()))
    classes = [str(answer["class"]) for answer in answers]
    assert len(set(classes)) > 5, "a model that has learned something"
    probabilities = np.array([list(answer["probabilities"].values()) for answer in answers])
    [(version, run_id)] = {(str(answer["model_version"]), str(answer["run_id"])) for answer in answers}
    return Answers(version, run_id, classes, probabilities)


def same(left: Answers, right: Answers) -> None:
    assert (left.version, left.run_id, left.classes) == (right.version, right.run_id, right.classes)
    np.testing.assert_allclose(left.probabilities, right.probabilities, atol=1e-6)


def dag_runs(stack: Stack) -> list[str]:
    return stack.psql("airflow", "airflow", "SELECT run_id FROM dag_run ORDER BY 1").stdout.split()


class Restored(Stack):
    """The stack beside the session's."""

    mlflow_url = f"http://127.0.0.1:{NEW['MLFLOW_PORT']}"
    serving_url = f"http://127.0.0.1:{NEW['SERVING_PORT']}"
    network = NEW["STACK_NAME"]


def backup(*arguments: str | Path, stack: Stack, to: IO[bytes] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", *map(str, arguments), "--env-file", str(stack.env_file)]
    output = to or subprocess.PIPE
    return subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=_bare_environment())


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
    model = client.create_logged_model(run.info.experiment_id, "model", run.info.run_id)
    source = f"models:/{model.model_id}"
    version = client.create_model_version(MODEL, source, run.info.run_id, model_id=model.model_id)
    client.set_registered_model_alias(MODEL, "champion", version.version)
    return str(run.info.run_id)


@pytest.fixture(scope="module")
def answers(stack: Stack, daily_run: str) -> Answers:
    """What the champion of a real DAG run answers before the backup."""
    return ask(stack.serving_url)


@pytest.fixture(scope="module")
def dag_run(stack: Stack) -> str:
    """A row of Airflow's own database; its tables are made by the service that makes them."""
    stack.compose("run", "--rm", "--no-TTY", "airflow-init", file=WORK)
    inserted = stack.psql("airflow", "airflow", DAG_RUN % "before-the-backup")
    assert inserted.returncode == 0, inserted.stderr
    return "before-the-backup"


@pytest.fixture(scope="module")
def saved(stack: Stack, run_id: str, answers: Answers, dag_run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backups") / "saved.backup"
    done = backup("backup", "--file", path, stack=stack)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 databases" in done.stdout
    assert path.stat().st_mode & 0o777 == 0o600
    assert ARTIFACT[:64] not in path.read_bytes(), "encrypted"
    return path


@pytest.fixture(scope="module")
def plain(saved: Path, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as the release before wrote it: without encryption."""
    path = tmp_path_factory.mktemp("plain") / "saved.tar"
    with path.open("wb") as file:
        done = backup("decrypt-backup", "--file", saved, stack=stack, to=file)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def empty(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    """A new stack of the same `.env`, with a name and ports of its own; its store has the keys, as after `make up`."""
    variables = stack.variables | NEW
    env_file = tmp_path_factory.mktemp("empty") / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    new = Restored(env_file, variables)
    new.remove()
    try:
        assert up.make_store_keys(env_file) is None
        new.compose("up", "--detach", "--wait", "--wait-timeout", "1800")
        yield new
    finally:
        new.remove()


def refused(stack: Stack, file: Path, *options: str) -> str:
    """Return the one line with which the restore of a file into the empty stack is refused; it stays empty."""
    done = backup("restore", "--file", file, "--force", *options, stack=stack)
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr.count("\n") == 1
    assert "nothing was changed" in done.stderr
    assert MlflowClient(stack.mlflow_url).search_registered_models() == []
    return done.stderr


def test_a_changed_byte_is_refused_in_one_line_and_nothing_changes(
    empty: Restored, saved: Path, plain: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    assert "of it is not what was written: changed, moved or truncated" in refused(empty, changed)

    content = bytearray(plain.read_bytes())
    content[content.index(ARTIFACT[:512]) + 100] ^= 1
    changed.write_bytes(content)
    assert "weights.bin is not what was written" in refused(empty, changed, "--plain")


def test_a_file_that_another_key_made_or_none_is_refused(empty: Restored, saved: Path, plain: Path) -> None:
    assert "it is not encrypted, so anybody can have written it" in refused(empty, plain)
    text = empty.env_file.read_text()
    key = empty.variables["BACKUP_KEY"]
    try:
        empty.env_file.write_text(text.replace(f"BACKUP_KEY={key}", f"BACKUP_KEY={key[::-1]}"))
        assert "no key in BACKUP_KEY of .env made it" in refused(empty, saved)
    finally:
        empty.env_file.write_text(text)


def test_an_empty_stack_serves_the_same_champion_after_a_restore(
    empty: Restored, saved: Path, run_id: str, answers: Answers, stack: Stack, tmp_path: Path
) -> None:
    client = MlflowClient(empty.mlflow_url)
    with pytest.raises(RestException):
        client.get_run(run_id)

    done = backup("restore", "--file", saved, stack=empty)
    assert done.returncode == 0, done.stdout + done.stderr

    assert client.get_run(run_id).data.metrics == {"accuracy": 0.98}
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert (champion.version, champion.run_id) == ("1", run_id)
    assert Path(client.download_artifacts(run_id, "weights.bin", str(tmp_path))).read_bytes() == ARTIFACT
    assert empty.states()["mlflow"] == "healthy"
    assert dag_runs(empty) == dag_runs(stack)

    empty.compose("up", "--detach", "serving", file=WORK)
    same(ask(empty.serving_url), answers)


def test_a_stack_that_holds_work_keeps_it_unless_forced(
    empty: Restored, saved: Path, plain: Path, answers: Answers, stack: Stack
) -> None:
    """After the test above: what the stack holds is what was restored, and the service runs."""
    client = MlflowClient(empty.mlflow_url)
    kept = backup("restore", "--file", saved, stack=empty)
    assert (kept.returncode, kept.stderr.count("\n")) == (73, 1)
    assert "table runs of database mlflow; FORCE=1 replaces it" in kept.stderr

    # Work of Airflow alone: another DAG run than the one in the file, and nothing in MLflow.
    emptied = empty.psql("mlflow", "mlflow", "TRUNCATE runs, registered_models CASCADE")
    assert emptied.returncode == 0, emptied.stderr
    changed = empty.psql("airflow", "airflow", f"TRUNCATE dag_run CASCADE; {DAG_RUN % 'after-the-backup'}")
    assert changed.returncode == 0, changed.stderr
    kept = backup("restore", "--file", saved, stack=empty)
    assert (kept.returncode, kept.stderr.count("\n")) == (73, 1)
    assert "the stack holds 1 rows in table dag_run of database airflow; FORCE=1 replaces it" in kept.stderr
    assert dag_runs(empty) == ["after-the-backup"]

    forced = backup("restore", "--file", plain, "--plain", "--force", stack=empty)
    assert forced.returncode == 0, forced.stdout + forced.stderr
    assert client.get_model_version_by_alias(MODEL, "champion").version == "1"
    assert dag_runs(empty) == dag_runs(stack)
    same(ask(empty.serving_url), answers)


def test_the_drill_restores_into_a_stack_of_its_own_and_asks_its_service(
    saved: Path, stack: Stack, answers: Answers, tmp_path: Path
) -> None:
    metrics = tmp_path / "drill.prom"
    done = backup("restore-drill", "--file", saved, "--metrics", metrics, stack=stack)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"\d+ answers of vision-classifier version {answers.version} are those of evaluate", done.stdout)
    assert "backup_drill_last_success_timestamp_seconds" in metrics.read_text()
    assert not left_of_the_drill()
    same(ask(stack.serving_url), answers)


@pytest.mark.long
def test_a_backup_without_what_the_champion_needs_fails_the_drill(saved: Path, stack: Stack, tmp_path: Path) -> None:
    keys = backup_encryption.keys(stack.variables)
    broken, metrics = tmp_path / "broken.backup", tmp_path / "drill.prom"
    with backup_file.create(broken, keys[0]) as writer, backup_file.SavedBackup(saved, keys).members() as members:
        for info, content in members:
            if info.name.startswith("databases/"):
                writer.add(info.name, content, info.size)
    done = backup("restore-drill", "--file", broken, "--metrics", metrics, stack=stack)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (69, "", 1), done.stdout + done.stderr
    assert "vision-classifier version" in done.stderr
    assert not metrics.exists()
    assert not left_of_the_drill()


def left_of_the_drill() -> list[str]:
    """Containers, volumes and networks of the second stack."""
    name = f"name={PROJECT}-drill"
    kinds = (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
    asked = [["docker", *kind, "--quiet", "--filter", name] for kind in kinds]
    return [line for one in asked for line in subprocess.run(one, capture_output=True, text=True).stdout.split()]


def test_a_stack_that_is_not_up_is_named_with_what_to_do(saved: Path, stack: Stack, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(stack.env_file.read_text() + "STACK_NAME=vm-test-nowhere\n")
    done = backup("restore", "--file", saved, stack=Stack(env_file, stack.variables))
    assert done.returncode == 69
    assert "mlflow, postgres, s3 not running; start the stack with make up" in done.stderr
