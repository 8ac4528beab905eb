"""A scratch MLflow store with two small exported models, and the real service running on it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tasks.records import artifact_digest, registry
from tasks.records.model_store import artifact_sha256
from tasks.records.tracking import connect
from tasks.serving import process
from tasks.settings import Settings
from tests.tasks.serving.samples import (
    MODEL,
    Brightness,
    Service,
    Store,
    environment,
    free_port,
    log_model,
    picture,
)  # fmt: skip
from tests.waiting import until


@pytest.fixture(scope="session")
def session_store(migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    home = tmp_path_factory.mktemp("service")
    shutil.copy(migrated_store, home / "mlflow.db")
    settings = Settings(
        pipeline_home=home,
        pipeline_experiment="tests",  # the copied default experiment points into another folder
        mlflow_tracking_uri=f"sqlite:///{home / 'mlflow.db'}",
        serving_url=f"http://127.0.0.1:{free_port()}",
    )
    connect(settings)
    run_ids = []
    for order in ([0, 1, 2], [2, 1, 0]):
        run_id, uri = log_model(Brightness(order))
        registry.create_version(
            MODEL, uri, run_id, {registry.SHA256: str(order), artifact_digest.TAG: artifact_sha256(uri)}, ""
        )
        run_ids.append(run_id)
    return Store(settings, run_ids)


@pytest.fixture
def store(session_store: Store) -> Store:
    """The store with MLflow pointed at it and `champion` on version 1."""
    connect(session_store.settings)
    session_store.promote(1)
    return session_store


@pytest.fixture(scope="session")
def session_service(session_store: Store) -> Iterator[Service]:
    """The real service, started once: no champion yet, so it is alive but not ready."""
    settings = session_store.settings
    connect(settings)  # other modules' tests may have run since the store was made
    log = settings.pipeline_home / "service.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "tasks.serving"],
            env=environment(settings), stdout=file, stderr=subprocess.STDOUT, cwd=process.ROOT,
        )  # fmt: skip
    try:
        yield _ready(child, settings, session_store)
    finally:
        child.terminate()
        assert child.wait(600) == 128 + signal.SIGTERM
        assert not process.pid_file(settings.pipeline_home).exists()


def _ready(child: subprocess.Popen[bytes], settings: Settings, store: Store) -> Service:
    began = time.monotonic()

    def answers(path: str) -> int:
        assert child.poll() is None, (settings.pipeline_home / "service.log").read_text()
        try:
            return requests.get(f"{settings.serving_url}/{path}", timeout=120).status_code
        except requests.ConnectionError:
            return 0

    until(lambda: answers("livez") == 200)
    fresh = {
        "readyz": answers("readyz"),
        "info": requests.post(f"{settings.serving_url}/get_model_info", timeout=120).json(),
        "health": requests.post(f"{settings.serving_url}/health", timeout=120).status_code,
        "predict": requests.post(
            f"{settings.serving_url}/predict_image", files={"image": picture(0)}, timeout=120
        ).status_code,
    }
    (settings.pipeline_home / "fresh.json").write_text(json.dumps(fresh))
    store.promote(1)
    until(lambda: answers("readyz") == 200)
    return Service(settings.serving_url, child.pid, time.monotonic() - began)


@pytest.fixture
def service(session_service: Service, store: Store) -> Service:
    """The running service with version 1 in it."""
    until(lambda: session_service.info().get("model_version") == 1)
    return session_service
