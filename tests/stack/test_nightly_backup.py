"""`make nightly-backup` with a real store for the backups, and with the exporter that reads its age."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import backup_encryption, nightly_backup
from deploy.backup_file import SavedBackup

from .conftest import ROOT, Stack, _bare_environment

pytestmark = pytest.mark.docker
BUCKET = "kept-backups"
OLD, OTHER = "vision-mlops-20200101T020000Z.backup", "2020/vision-mlops-20200101T020000Z.backup"
WORK = "docker-compose-mlops.yml"


@pytest.fixture(scope="module")
def store(stack: Stack) -> Any:
    """The bucket of the backups, with an old one and a file of somebody else."""
    client = stack.store
    client.create_bucket(Bucket=BUCKET)
    for name in (OLD, OTHER):
        client.put_object(Bucket=BUCKET, Key=name, Body=b"old")
    return client


@pytest.fixture
def with_store(stack: Stack, tmp_path: Path) -> Stack:
    variables = stack.variables | {
        "BACKUP_BUCKET": BUCKET,
        "BACKUP_S3_ENDPOINT_URL": "http://s3:9000",
        "BACKUP_S3_ACCESS_KEY": stack.variables["S3_ACCESS_KEY"],
        "BACKUP_S3_SECRET_KEY": stack.variables["S3_SECRET_KEY"],
        "BACKUP_FOLDER": str(tmp_path / "backups"),
    }
    return stack_of(variables, tmp_path)


def stack_of(variables: dict[str, str], folder: Path) -> Stack:
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return Stack(env_file, variables)


def deploy(stack: Stack, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", *map(str, arguments), "--env-file", str(stack.env_file)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_bare_environment(), timeout=600)


def names(store: Any) -> set[str]:
    return {one["Key"] for one in store.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def test_a_store_that_refuses_is_one_line_and_nothing_is_deleted_there(
    store: Any, with_store: Stack, tmp_path: Path
) -> None:
    wrong = stack_of(with_store.variables | {"BACKUP_S3_SECRET_KEY": "of-somebody-else"}, tmp_path)
    before = names(store)
    done = deploy(wrong, "nightly-backup", "--metrics", tmp_path / "backup.prom")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (69, "", 1), done.stdout + done.stderr
    assert f"bucket '{BUCKET}' at http://s3:9000: " in done.stderr
    assert "of-somebody-else" not in done.stderr
    assert names(store) == before
    assert not (tmp_path / "backup.prom").exists()


def test_a_backup_arrives_whole_an_old_one_goes_and_it_can_be_fetched(
    store: Any, with_store: Stack, tmp_path: Path
) -> None:
    before = names(store)
    done = deploy(with_store, "nightly-backup", "--metrics", tmp_path / "backup.prom")
    assert done.returncode == 0, done.stdout + done.stderr
    [new] = names(store) - before
    assert before - names(store) == {OLD}
    assert f"kept at s3://{BUCKET}/{new}" in done.stdout
    folder = Path(with_store.variables["BACKUP_FOLDER"])
    assert list(folder.iterdir()) == [], "nothing of it stays on this machine"

    fetched = deploy(with_store, "fetch-backup")
    assert fetched.stdout.strip() == str(folder / new), fetched.stderr
    saved = SavedBackup(folder / new, backup_encryption.keys(with_store.variables))
    assert {f"databases/{name}.dump" for name in ("airflow", "mlflow", "mlflow_auth")} <= set(saved.verify())


def test_the_exporter_says_when_the_last_backup_began(stack: Stack, tmp_path: Path) -> None:
    subprocess.run([ROOT / "tests/stack/stand_ins.sh", "node-exporter"], check=True)
    folder = tmp_path / "textfile"
    folder.mkdir()
    folder.chmod(0o755)
    written = {"backup_last_success_timestamp_seconds": 1772330400.0, "backup_last_size_bytes": 5_000_000.0}
    nightly_backup.write_metrics(folder / "backup.prom", written)
    override = tmp_path / "override.yml"
    services = {"node-exporter": {"volumes": [f"{folder}:/textfile:ro"]}}
    override.write_text(json.dumps({"services": services}))
    up = ("--profile", "monitoring", "up", "--detach", "--wait", "--no-deps", "node-exporter")
    try:
        stack.compose(*up, file=WORK, override=override)
        ask = ("exec", "--no-TTY", "node-exporter", "wget", "-q", "-O", "-", "http://127.0.0.1:9100/metrics")
        text = stack.compose("--profile", "monitoring", *ask, file=WORK)
    finally:
        stack.compose("--profile", "monitoring", "rm", "--stop", "--force", "node-exporter", file=WORK)
    found = {name: float(value) for name, value in re.findall(r"^(backup_\w+) (\S+)$", text, re.M)}
    assert found == written
