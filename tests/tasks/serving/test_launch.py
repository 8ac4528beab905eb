"""The deploy stage with a real service that it starts itself."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow import MlflowClient

from tasks import registry
from tasks.contract import DeployRequest, DeployResult
from tasks.errors import ModelError
from tasks.messages import TaskIdentity
from tasks.serving import process
from tasks.serving.model import load
from tasks.serving.reference import parse
from tasks.serving.resolution import resolve
from tasks.settings import Settings
from tasks.stages import deploy
from tasks.tracking import stage_run
from tasks.vision.images import decode
from tests.tasks.serving.samples import MODEL, Store, picture

URL = "http://127.0.0.1:21320"


def log_probes(version: int) -> None:
    """What evaluate and register leave behind for deploy."""
    model = load(resolve(parse(str(version), MODEL)))
    probes = []
    for value in (0, 128, 255):
        row = model.predict(decode(picture(value), 1, 8)[None])[0]
        png = base64.b64encode(picture(value)).decode()
        label = model.classes[int(row.argmax())]
        probes.append({"name": f"grey {value}", "png": png, "probabilities": row.tolist(), "class": label})
    with mlflow.start_run() as run:
        mlflow.log_dict({"tolerance": 1e-3, "probes": probes}, "probes.json")
    MlflowClient().set_model_version_tag(MODEL, str(version), "pipeline.evaluate_run_id", run.info.run_id)


@pytest.fixture
def local(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("SERVING_POLL_SECONDS", "0.2")
    yield store.settings.model_copy(update={"pipeline_home": tmp_path, "serving_url": URL})
    process.stop(tmp_path)


def deployed(settings: Settings, model: str, version: int, run: str) -> DeployResult:
    task = TaskIdentity(dag_id="daily", dag_run_id=run, task_id="deploy")
    request = DeployRequest(task=task, registered_model=model, version=version, deploy_timeout=120)
    with stage_run(request, "deploy", settings) as stage:
        return deploy.run(request, stage, settings)


def test_starts_follows_and_replaces_the_local_service(store: Store, local: Settings) -> None:
    log_probes(1)
    log_probes(2)

    first = deployed(local, MODEL, 1, "first")
    assert (first.started, first.answers_checked, first.url) == (True, 3, URL)
    pid = process.find(local.pipeline_home)
    assert pid is not None
    assert os.getsid(pid) == os.getpgid(pid) == pid  # out of reach of signals to the stage's process group
    assert Path(f"/proc/{pid}/fd/1").readlink() == process.log_file(local.pipeline_home)
    answers = mlflow.artifacts.load_dict(f"runs:/{first.run_id}/answers.json")
    assert [answer["class"] for answer in answers["answers"]] == ["dark", "grey", "bright"]

    began = time.monotonic()
    again = deployed(local, MODEL, 1, "again")
    assert not again.started
    assert time.monotonic() - began < 5

    store.promote(2)
    second = deployed(local, MODEL, 2, "second")
    assert (second.started, process.find(local.pipeline_home)) == (False, pid)

    with pytest.raises(ModelError, match="names version 2, not version 1"):
        deployed(local, MODEL, 1, "late")

    tags = dict(registry.by_number(MODEL, 1).tags)
    registry.create_version("cats", str(registry.by_number(MODEL, 1).source), store.run_ids[0], tags, "")
    registry.set_alias("cats", registry.CHAMPION, 1)
    other = deployed(local, "cats", 1, "other")
    assert other.started
    assert process.find(local.pipeline_home) not in {None, pid}

    assert process.stop(local.pipeline_home) is not None
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{URL}/livez", timeout=5)
    assert not process.pid_file(local.pipeline_home).exists()
