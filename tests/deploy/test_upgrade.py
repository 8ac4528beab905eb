"""When an upgrade is refused, before anything is changed; the upgrade itself: tests/stack/test_upgrade.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import contents, engine, release, upgrade
from deploy.errors import DeployError
from deploy.release import Release

OLD, NEW = "a" * 40, "b" * 40
IMAGE, OF_A_STAGE = "vision-mlops/mlflow:dev", "vision-mlops/train:dev"


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a stack that runs release OLD; building images would fail the test."""
    (tmp_path / ".env").write_text("STACK_NAME=small\n")
    runs = Release(OLD, {IMAGE: "sha256:1", OF_A_STAGE: "sha256:2"}, ["airflow-scheduler"])
    monkeypatch.setattr(release, "commit_here", lambda: NEW)
    monkeypatch.setattr(release, "running", lambda values: runs)
    monkeypatch.setattr(release, "commit_of", lambda image: OLD)
    monkeypatch.setattr(contents, "runs_in_progress", lambda stack: [])
    monkeypatch.setattr(upgrade, "_build", lambda env_file: pytest.fail("it was not refused"))
    return tmp_path / ".env"


def refused(env_file: Path) -> str:
    with pytest.raises(DeployError) as error:
        upgrade.upgrade(env_file, force=False)
    assert list(env_file.parent.iterdir()) == [env_file]
    return str(error.value)


def test_what_runs_already(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "commit_here", lambda: OLD)
    assert refused(env_file).startswith(f"{OLD[:12]} runs already; what changed in .env takes effect with make up")


def test_runs_in_progress(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "runs_in_progress", lambda stack: ["daily_training manual__1", "weekly_tuning x"])
    assert "DAG runs are in progress (daily_training manual__1, weekly_tuning x); pause the DAGs" in refused(env_file)


def test_images_that_were_built_again_already(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "commit_of", lambda image: NEW if image == "sha256:2" else OLD)
    assert f"{OF_A_STAGE} was built from {NEW[:12]} already" in refused(env_file)


def test_an_engine_that_does_not_answer(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(values: object) -> Release:
        raise OSError("no Docker engine")

    monkeypatch.setattr(release, "running", broken)
    assert refused(env_file) == "no Docker engine; nothing was changed"


def inspected(monkeypatch: pytest.MonkeyPatch, *containers: str, commit: str = OLD) -> None:
    monkeypatch.setattr(engine, "containers", lambda project, template: list(containers))
    monkeypatch.setattr(engine, "services_running", lambda values: {"serving", "export-onnx"})
    monkeypatch.setattr(engine, "output", lambda command: commit if "inspect" in command else "")


def test_the_release_that_runs_is_the_one_of_mlflows_image(monkeypatch: pytest.MonkeyPatch) -> None:
    inspected(monkeypatch, f"{IMAGE} sha256:1 mlflow", "postgres:17 sha256:3 postgres")
    assert release.running({}) == Release(OLD, {IMAGE: "sha256:1"}, ["serving"])


@pytest.mark.parametrize(
    ("containers", "commit", "text"),
    [
        ((), OLD, "MLflow does not run; start the stack"),
        (
            ("vision-mlops/mlflow:v1 sha256:1 mlflow",),
            OLD,
            "image vision-mlops/mlflow:v1 and .env names",
        ),
        ((f"{IMAGE} sha256:1 mlflow",), "unknown", f"image {IMAGE} names no commit"),
        ((f"{IMAGE} sha256:1 mlflow",), "<no value>", f"image {IMAGE} names no commit"),
    ],
)
def test_a_release_that_cannot_be_told(
    monkeypatch: pytest.MonkeyPatch, containers: tuple[str, ...], commit: str, text: str
) -> None:
    inspected(monkeypatch, *containers, commit=commit)
    with pytest.raises(DeployError, match=text):
        release.running({})


def test_a_commit_that_this_clone_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=f"does not have commit {NEW}, which runs; get it"):
        release.unpack(NEW, tmp_path / "files")
