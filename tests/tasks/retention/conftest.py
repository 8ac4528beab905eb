"""An installation of months: trained models, their versions, and what the ledger says about them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion

from tasks.records import artifact_digest, artifact_names, ledger, queries, registry, tracking
from tasks.records.ledger import Entry, Kind
from tasks.retention import leftovers
from tasks.retention.leftovers import Store
from tasks.serving import client as service
from tasks.settings import Settings

NAME = "cats"
Make = Callable[..., str]
Judge = Callable[..., ModelVersion]


def ago(days: float) -> int:
    """Milliseconds since 1970, so many days ago."""
    return int((datetime.now(UTC) - timedelta(days=days)).timestamp() * 1000)


@pytest.fixture
def experiment_id(settings: Settings) -> str:
    return tracking.connect(settings)


@pytest.fixture
def make(experiment_id: str, tmp_path: Path) -> Make:
    """Make a run of a DAG run that was active so many days ago; with `sha256`, its model too. Returns its ID."""

    def run(stage: str, days: float = 200, dag_run_id: str | None = None, sha256: str = "", **more: Any) -> str:
        client = MlflowClient()
        tags = {"pipeline.dag_id": "daily", "pipeline.dag_run_id": dag_run_id or f"{days} days ago"}
        tags |= {"pipeline.stage": stage, **more.get("tags", {})}
        run_id = str(client.create_run(experiment_id, start_time=ago(days), tags=tags).info.run_id)
        for name, value in more.get("params", {}).items():
            client.log_param(run_id, name, value)
        if sha256:
            model = client.create_logged_model(experiment_id, "model", run_id, {registry.SHA256: sha256})
            folder = tmp_path / run_id
            (folder / "data").mkdir(parents=True)
            (folder / "MLmodel").write_text("flavors: {}\n")
            for file in ("model.onnx", "model.pt2"):
                (folder / "data" / file).write_bytes(b"x" * 500)
            client.log_model_artifacts(model.model_id, str(folder))
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
            client.set_tag(run_id, registry.SHA256, sha256)
            client.set_tag(run_id, artifact_names.MODEL_URI, f"models:/{model.model_id}")
            client.set_tag(run_id, artifact_digest.TAG, "of its files")
        if more.get("ended", True):
            client.set_terminated(run_id, "FINISHED", end_time=ago(days))
        return run_id

    return run


@pytest.fixture
def judge(make: Make, settings: Settings) -> Callable[..., ModelVersion]:
    """Register the model of a train run, with a record of the ledger of so many days ago."""

    def register(run_id: str, kind: Kind, days: float = 200, *, name: str = NAME, before: int | None = None) -> Any:
        sha256 = MlflowClient().get_run(run_id).data.tags[registry.SHA256]
        evaluate = make("evaluate", days, params={"train_run_id": run_id})
        tags = {registry.SHA256: sha256, "pipeline.train_run_id": run_id, "pipeline.evaluate_run_id": evaluate}
        source = MlflowClient().get_run(run_id).data.tags[artifact_names.MODEL_URI]
        version = registry.create_version(name, source, run_id, tags, "its model card")
        number = int(version.version)
        record(kind, number, sha256, days, name=name, before=before, evidence=evaluate)
        return version

    return register


def record(
    kind: Kind,
    number: int,
    sha256: str,
    days: float,
    *,
    name: str = NAME,
    before: int | None = None,
    evidence: str | None = None,
    finished: bool = True,
) -> str:
    """Write a record as the ledger does, as of so many days ago; its ID."""
    after = before if kind is Kind.REFUSAL else number
    entry = Entry(f"daily/{number}/register", kind, name, before, after, number, sha256, "a test", "why", evidence)
    records = tracking.experiment(ledger.EXPERIMENT)
    newest = queries.newest_run(records, {"ledger.registered_model": name})
    chain = {ledger.PREVIOUS: ledger.link(newest) if newest else ledger.FIRST}
    client = MlflowClient()
    run_id = str(client.create_run(records, start_time=ago(days), tags=entry.tags | chain).info.run_id)
    if finished:
        client.set_terminated(run_id, "FINISHED", end_time=ago(days))
    return run_id


LIMIT = datetime.now(UTC) - timedelta(days=7)


@pytest.fixture(autouse=True)
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "replicas", lambda *_: [])


def found(settings: Settings) -> set[str]:
    items = leftovers.find(settings, LIMIT)
    return {item.run_id for item in items if item.kind is leftovers.Kind.WEIGHTS}


def clean(settings: Settings) -> None:
    store = Store.read(settings, LIMIT)
    for item in leftovers.find(settings, LIMIT, store):
        if not leftovers.used_again(item, store, LIMIT):
            leftovers.remove(item)


def files(run_id: str) -> list[str]:
    """Files of the run's model, below its folder of weights too."""
    client = MlflowClient()
    uri = client.get_run(run_id).data.tags[artifact_names.MODEL_URI].removeprefix("models:/")
    there = [file.path for file in client.list_logged_model_artifacts(uri)]
    return [*there, *(file.path for file in client.list_logged_model_artifacts(uri, "data"))]


WHOLE, EMPTY = ["MLmodel", "data", "data/model.onnx", "data/model.pt2"], ["MLmodel"]


@pytest.fixture
def champion(make: Make, judge: Judge) -> str:
    """The run of the champion, of long ago."""
    run_id = make("train", 210, sha256="of-champion")
    version = judge(run_id, Kind.PROMOTION, 210)
    registry.set_alias(NAME, registry.CHAMPION, int(version.version))
    return run_id


def refused(make: Make, judge: Judge, days: float = 200, sha256: str = "", **more: Any) -> str:
    run_id = make("train", days, sha256=sha256 or f"of-{days}", **more)
    judge(run_id, Kind.REFUSAL, days, before=1)
    return run_id
