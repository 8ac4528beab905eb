"""The deploy stage with a real service that it starts itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from pydantic import SecretStr

from tasks.contract.deployment import DeployRequest, DeployResult
from tasks.contract.messages import TaskIdentity
from tasks.errors import ModelError, SettingsError
from tasks.records import artifact_digest, ledger, model_store, registry
from tasks.records.tracking import stage_run
from tasks.serving import process
from tasks.serving.launch import Launcher
from tasks.settings import Settings
from tasks.stages import deploy
from tests.tasks.serving.samples import (
    MODEL,
    Brightness,
    Store,
    damage,
    free_port,
    log_model,
    log_reference_predictions,
    move,
    picture,
    promote,
)
from tests.waiting import until

URL = f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def local(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("SERVING_POLL_SECONDS", "0.2")
    monkeypatch.setenv("SERVING_WORKERS", "2")
    yield store.settings.model_copy(update={"pipeline_home": tmp_path, "serving_url": URL})
    process.stop(tmp_path)


def deployed(settings: Settings, model: str, version: int, run: str, seconds: int = 300) -> DeployResult:
    task = TaskIdentity(dag_id="daily", dag_run_id=run, task_id="deploy")
    request = DeployRequest(task=task, registered_model=model, version=version, deploy_timeout=seconds)
    with stage_run(request, "deploy", settings) as stage:
        return deploy.run(request, stage, settings)


def test_starts_follows_and_replaces_the_local_service(store: Store, local: Settings) -> None:
    log_reference_predictions(1)
    log_reference_predictions(2)

    first = deployed(local, MODEL, 1, "first")
    assert (first.started, first.answers_checked, first.url) == (True, 2 * 3, URL)  # of each worker
    pid = process.find(local.pipeline_home)
    assert pid is not None
    assert os.getsid(pid) == os.getpgid(pid) == pid  # out of reach of signals to the stage's process group
    assert Path(f"/proc/{pid}/fd/1").readlink() == process.log_file(local.pipeline_home)
    answers = mlflow.artifacts.load_dict(f"runs:/{first.run_id}/answers.json")
    assert [answer["class"] for answer in answers["answers"]] == ["dark", "grey", "bright"] * 2

    began = time.monotonic()
    again = deployed(local, MODEL, 1, "again")
    assert not again.started
    assert time.monotonic() - began < 60

    store.promote(2)
    second = deployed(local, MODEL, 2, "second")
    assert (second.started, process.find(local.pipeline_home)) == (False, pid)

    with pytest.raises(ModelError, match=r"cannot deploy version 1: champion of .* is version 2"):
        deployed(local, MODEL, 1, "late")

    tags = dict(registry.by_number(MODEL, 1).tags)
    registry.create_version("cats", str(registry.by_number(MODEL, 1).source), store.run_ids[0], tags, "")
    move(ledger.Kind.PROMOTION, None, 1, "cats")
    other = deployed(local, "cats", 1, "other")
    assert other.started
    assert process.find(local.pipeline_home) not in {None, pid}

    assert process.stop(local.pipeline_home) is not None
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{URL}/livez", timeout=5)
    assert not process.pid_file(local.pipeline_home).exists()


@pytest.mark.long  # CI's sample of chaos has a step with a broken model
def test_a_model_broken_in_the_store_is_undone_and_the_old_one_answers_all_the_time(
    store: Store, local: Settings
) -> None:
    log_reference_predictions(1)
    move(ledger.Kind.PROMOTION, None, 1)
    deployed(local, MODEL, 1, "good")
    run_id, uri = log_model(Brightness([1, 2, 0]))
    tags = {artifact_digest.TAG: model_store.artifact_sha256(uri), registry.SHA256: "broken"}
    broken = int(registry.create_version(MODEL, uri, run_id, tags, "").version)
    log_reference_predictions(broken)
    damage(uri)
    move(ledger.Kind.PROMOTION, 1, broken)

    answers: list[tuple[int, object]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.05):
            answer = requests.post(f"{URL}/predict_image", files={"image": picture(0)}, timeout=120)
            answers.append((answer.status_code, answer.json()["model_version"]))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(ModelError, match="are not those that were registered") as failure:
            deployed(local, MODEL, broken, "broken", seconds=20)
    finally:
        stop.set()
        asking.join()
    assert f"champion of {MODEL} is version 1 again" in str(failure.value)
    assert set(answers) == {(200, 1)}
    champion = registry.by_alias(MODEL)
    assert champion is not None
    assert int(champion.version) == 1
    told = next(ledger.history(MODEL))
    assert (told.entry.kind, told.entry.from_version, told.entry.to_version) == ("failed_deploy", broken, 1)
    assert told.finished
    assert "are not those that were registered" in told.entry.reason
    assert not deployed(local, MODEL, 1, "back").started  # and the service has nothing left to complain of
    until(lambda: requests.post(f"{URL}/get_model_info", timeout=120).json().get("problem", "starting") is None)


def test_a_service_with_a_key(store: Store, local: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    log_reference_predictions(1)
    monkeypatch.setenv("SERVING_API_KEY", "s3cret")
    keyed = local.model_copy(update={"serving_api_key": SecretStr("s3cret")})
    assert deployed(keyed, MODEL, 1, "keyed").answers_checked == 2 * 3

    ask = lambda **headers: requests.post(  # noqa: E731
        f"{URL}/predict_image", files={"image": picture(255)}, headers=headers, timeout=120
    )
    assert ask(Authorization="Bearer s3cret").json()["class"] == "bright"
    assert ask(**{"X-API-Key": "s3cret"}).json()["class"] == "bright"
    for headers in ({}, {"Authorization": "Bearer other"}):
        answer = ask(**headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert set(answer.json()) == {"error"}
    assert {requests.get(f"{URL}/{path}", timeout=120).status_code for path in ("livez", "readyz", "metrics")} == {200}

    for run, key in (("without", None), ("other", SecretStr("other"))):
        with pytest.raises(ModelError, match="refuses the key; give both the same SERVING_API_KEY"):
            deployed(local.model_copy(update={"serving_api_key": key}), MODEL, 1, run)
        promote(1)


def test_a_service_that_a_killed_stage_had_just_started_is_waited_for(
    local: Settings, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Both start at the same time: ours finds the other one, which nobody could see before, and ends."""
    port = URL.rpartition(":")[2]
    home = local.pipeline_home

    def start(*_: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "input()", "-m", "tasks.serving", "--port", port, "--host"]
        other = subprocess.Popen(command, stdin=subprocess.PIPE)
        request.addfinalizer(other.kill)
        process.pid_file(home).write_text(f"{other.pid}\n")
        until(lambda: process.find(home) == other.pid)
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(78)"])

    monkeypatch.setattr(process, "start", start)
    launcher = Launcher(local, MODEL)
    launcher.ensure()
    began = launcher.started
    assert launcher._child is not None
    assert launcher._child.wait(600) == 78
    launcher.ensure()
    launcher.ensure()
    assert (began, launcher.started) == (True, False)
    process.stop(home)
    monkeypatch.setattr(process, "start", lambda *_: subprocess.Popen([sys.executable, "-c", "raise SystemExit(78)"]))
    launcher.ensure()
    assert launcher._child.wait(600) == 78
    with pytest.raises(SettingsError, match="the service ended at once"):
        launcher.ensure()
