"""A real MLflow store of its own for each test: SQLite and a folder."""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import mlflow.store.db.utils
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tasks.contract.messages import TaskIdentity
from tasks.records.tracking import connect
from tasks.settings import Settings
from tests.artifact_server import ArtifactServer

# MLflow reads all of its 68 migrations for each store that is opened, to know which is the last: here once a process.
mlflow.store.db.utils._get_latest_schema_revision = functools.cache(mlflow.store.db.utils._get_latest_schema_revision)


@event.listens_for(Engine, "connect")
def commit_to_memory(connection: object, _: object) -> None:
    """A store of a test need not outlast a power failure, and a test waits for its disk at each commit.

    Other processes read what was committed as ever.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(autouse=True)
def operators_read_once() -> None:
    """See `read_operators_once`."""
    read_operators_once()


def read_operators_once() -> None:
    """Torch's exporter reads its table of operators for each model, which takes seconds: here once a process.

    Nothing is imported for this: the first model imports what it needs.
    """
    exporter = sys.modules.get("torch.onnx._internal.exporter._registration")
    if exporter is not None and not hasattr(exporter.ONNXRegistry.from_torchlib, "cache_info"):
        exporter.ONNXRegistry.from_torchlib = staticmethod(functools.cache(exporter.ONNXRegistry.from_torchlib))


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow database to copy; migrating takes seconds."""
    home = tmp_path_factory.mktemp("mlflow")
    # Said outright: MLflow exports the address it was last given to the environment, which settings read.
    connect(Settings(pipeline_home=home, mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db"))
    return home / "mlflow.db"


@pytest.fixture
def settings(tmp_path: Path, migrated_store: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings on a fresh store under `tmp_path`, also for processes the test starts."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(migrated_store, home / "mlflow.db")
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PIPELINE_", "SERVING_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIPELINE_HOME", str(home))
    monkeypatch.setenv("PIPELINE_EXPERIMENT", "tests")  # the copied default experiment points into another folder
    return Settings()


@pytest.fixture
def store(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArtifactServer]:
    """A store that can go away, for the artifacts of the tests' experiment."""
    server = ArtifactServer(tmp_path / "artifacts")
    server.counts_who_asks(monkeypatch)
    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.create_experiment(settings.pipeline_experiment, server.uri)
    yield server
    server.close()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the temporary files of this test's stages, with a path short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


@pytest.fixture
def task() -> TaskIdentity:
    """The Airflow task instance in whose name tests ask."""
    return TaskIdentity(dag_id="daily", dag_run_id="manual__2026-01-01", task_id="stage")
