"""The past that `make bench-history` plants is what stages would have written, under other names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Run

from benchmarks.old_installation import Original, Writer, add_versions, move_back
from tasks.records import queries, registry, tracking
from tasks.settings import Settings

DAY = 24 * 3600 * 1000


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlalchemy.Engine]:
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.connect(Settings())
    found = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/mlflow.db")
    yield found
    found.dispose()


def make(experiment_id: str) -> tuple[str, str]:
    """Two runs as stages leave them, the second with a reference to the first."""
    client = MlflowClient()
    tags = {"pipeline.dag_run_id": "template", "pipeline.model_sha256": "a" * 64}
    first = client.create_run(experiment_id, tags=tags).info.run_id
    with mlflow.start_run(run_id=first):
        mlflow.log_input(from_numpy(np.zeros(3), name="digits"), context="training")
    second = client.create_run(experiment_id, tags={**tags, "pipeline.prepare_run_id": first}).info.run_id
    client.log_param(second, "epochs", "3")
    for step in range(3):
        client.log_metric(second, "train_loss", 1 / (step + 1), step=step)
    model = client.create_logged_model(experiment_id, "model", second, {registry.SHA256: "a" * 64}, {"epochs": "3"})
    client.set_tag(second, "pipeline.logged_model_uri", f"models:/{model.model_id}")
    client.set_terminated(second)
    return first, second


def test_a_copy_is_its_original_under_other_names(engine: sqlalchemy.Engine) -> None:
    experiment_id, client = tracking.experiment("tests"), MlflowClient()
    first, second = make(experiment_id)
    original = Original(engine, [first, second], ["template"])
    with Writer(engine) as writer:
        original.copy(writer, "d1", -DAY)
        original.copy(writer, "d2", -2 * DAY)
    copied = client.get_run(original.renamed(second, "d1"))
    real = client.get_run(second)
    assert copied.data.metrics == real.data.metrics
    assert copied.data.params == real.data.params
    assert copied.data.tags.keys() == real.data.tags.keys()
    assert copied.data.tags["pipeline.prepare_run_id"] == original.renamed(first, "d1")
    assert copied.data.tags["pipeline.dag_run_id"] == "template-d1"
    assert copied.data.tags["pipeline.model_sha256"] != "a" * 64
    assert copied.info.start_time == real.info.start_time - DAY
    history = client.get_metric_history(copied.info.run_id, "train_loss")
    assert [point.step for point in history] == [0, 1, 2]
    [model] = queries.logged_models(experiment_id, copied.info.run_id)
    assert copied.data.tags["pipeline.logged_model_uri"] == f"models:/{model.model_id}"
    assert model.tags[registry.SHA256] == copied.data.tags["pipeline.model_sha256"]
    inputs = client.get_run(original.renamed(first, "d2")).inputs.dataset_inputs
    assert [data.dataset.name for data in inputs] == ["digits"]
    assert _ids(queries.all_runs(experiment_id, {})) == [
        original.renamed(run_id, copy) for copy in ("d2", "d1") for run_id in (first, second)
    ] + [first, second]


def _ids(runs: Iterator[Run]) -> list[str]:
    return [str(run.info.run_id) for run in runs]


def test_versions_are_read_as_others_are(engine: sqlalchemy.Engine) -> None:
    with Writer(engine) as writer:
        add_versions(writer, "pets", {n: ("0" * 32, n, {registry.SHA256: str(n)}) for n in range(1, 4)})
    assert [int(found.version) for found in queries.find_versions("pets")] == [1, 2, 3]
    found = registry.by_digest("pets", "2")
    assert found is not None
    assert int(found.version) == 2
    created = registry.create_version("pets", "runs:/0/model", "1" * 32, {}, "")
    assert int(created.version) == 4


def test_runs_are_moved_back(engine: sqlalchemy.Engine) -> None:
    _, second = make(tracking.experiment("tests"))
    before = MlflowClient().get_run(second).info
    move_back(engine, [second], DAY)
    after = MlflowClient().get_run(second).info
    assert (after.start_time, after.end_time) == (before.start_time - DAY, before.end_time - DAY)
