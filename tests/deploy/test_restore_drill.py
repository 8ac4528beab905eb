"""The restore drill keeps away from the stack that it is a drill for; the drill itself is in tests/stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import backup_file, restore_drill, second_stack
from deploy.backup_stack import BackupError
from deploy.env_file import parse
from deploy.setup_env import complete

EXAMPLE = (Path(__file__).resolve().parents[2] / ".env.example").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["", "mine"])
def test_nothing_of_the_second_stack_is_that_of_the_first(name: str) -> None:
    values = {"STACK_NAME": name, "PIPELINE_DOCKER_NETWORK": "shared", "S3_ENDPOINT_URL": "https://s3.example.org"}
    values |= {"MLFLOW_PORT": "5000", "COMPOSE_PROFILES": "celery"}
    own = second_stack.different(values, "drill")
    assert own["STACK_NAME"] == own["PIPELINE_DOCKER_NETWORK"] == f"{name or 'vision-mlops'}-drill"
    assert (own["S3_ENDPOINT_URL"], own["COMPOSE_PROFILES"], own["MLFLOW_PORT"]) == ("", "", "0")
    assert set(values) <= set(own)


@pytest.mark.parametrize("name", ["STACK_NAME", "COMPOSE_PROJECT_NAME", "S3_ENDPOINT_URL"])
def test_a_name_in_the_environment_would_hit_the_first_stack(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(complete("", EXAMPLE)[0])
    for one in parse(EXAMPLE):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, "the-first")
    saved = tmp_path / "saved.backup"
    with backup_file.create(saved, parse(env_file.read_text())["BACKUP_KEY"]):
        pass
    monkeypatch.setattr("subprocess.run", None)
    with pytest.raises(BackupError, match=f"the environment sets {name}, which overrides .env; unset it"):
        restore_drill.run(env_file, saved, tmp_path / "drill.prom")


def test_a_file_that_is_no_backup_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file, file = tmp_path / ".env", tmp_path / "saved.tar"
    env_file.write_text(complete("", EXAMPLE)[0])
    file.write_bytes(b"no backup")
    monkeypatch.setattr("subprocess.run", None)
    with pytest.raises(BackupError, match="it is not encrypted"):
        restore_drill.run(env_file, file, tmp_path / "drill.prom")
