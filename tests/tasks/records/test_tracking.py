from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.data.numpy_dataset import from_numpy

from tasks.contract.data import PrepareRequest
from tasks.contract.messages import TaskIdentity
from tasks.errors import DataError, SettingsError, UnavailableError
from tasks.records import tracking
from tasks.settings import Settings


def request(task: TaskIdentity, **fields: object) -> PrepareRequest:
    return PrepareRequest.model_validate({"task": task, **fields})


def all_runs(settings: Settings) -> list[mlflow.entities.Run]:
    experiment_id = tracking.connect(settings)
    return list(MlflowClient().search_runs([experiment_id]))


def test_a_stage_is_a_child_of_its_dag_run(settings: Settings, task: TaskIdentity) -> None:
    other = task.model_copy(update={"task_id": "later"})
    with tracking.stage_run(request(task), "prepare", settings) as first:
        pass
    with tracking.stage_run(request(other), "train", settings) as second:
        mlflow.log_metric("loss", 1.0)
    assert first.parent_run_id == second.parent_run_id
    assert len(all_runs(settings)) == 3
    run = MlflowClient().get_run(second.run_id)
    assert run.data.tags["mlflow.parentRunId"] == first.parent_run_id
    assert run.data.tags["pipeline.key"] == "daily/manual__2026-01-01/later/-1"
    assert run.data.tags["pipeline.stage"] == "train"
    assert run.data.params["dataset"] == "digits"
    assert run.data.metrics == {"loss": 1.0}
    assert run.info.status == MlflowClient().get_run(first.parent_run_id).info.status == "FINISHED"


def test_a_retry_goes_on_in_the_same_run(settings: Settings, task: TaskIdentity) -> None:
    with pytest.raises(RuntimeError), tracking.stage_run(request(task), "prepare", settings) as first:
        raise RuntimeError("killed half way")
    failed = MlflowClient().get_run(first.run_id)
    assert failed.info.status == "FAILED"
    assert failed.data.tags[tracking.ERROR_TAG] == "RuntimeError: killed half way"
    with tracking.stage_run(request(task), "prepare", settings) as second:
        assert MlflowClient().get_run(second.run_id).info.status == "RUNNING"
    assert second.run_id == first.run_id
    finished = MlflowClient().get_run(first.run_id)
    assert finished.info.status == "FINISHED"
    assert tracking.ERROR_TAG not in finished.data.tags
    assert len(all_runs(settings)) == 2


def test_another_request_of_the_same_task_is_another_run(settings: Settings, task: TaskIdentity) -> None:
    with tracking.stage_run(request(task), "prepare", settings) as first:
        pass
    with tracking.stage_run(request(task, data_seed=1), "prepare", settings) as second:
        pass
    assert first.run_id != second.run_id


def test_a_stopped_stage_is_killed_not_failed(settings: Settings, task: TaskIdentity) -> None:
    with pytest.raises(SystemExit), tracking.stage_run(request(task), "prepare", settings) as run:
        raise SystemExit(143)
    client = MlflowClient()
    assert client.get_run(run.run_id).info.status == "KILLED"
    assert client.get_run(run.parent_run_id).info.status == "KILLED"


def test_a_deleted_experiment_is_named_with_the_fix(settings: Settings) -> None:
    experiment_id = tracking.connect(settings)
    MlflowClient().delete_experiment(experiment_id)
    with pytest.raises(SettingsError, match=r"'tests' was deleted.*PIPELINE_EXPERIMENT"):
        tracking.connect(settings)


def test_tags_of_earlier_stages(settings: Settings, task: TaskIdentity) -> None:
    with tracking.stage_run(request(task), "prepare", settings) as run:
        mlflow.set_tag("pipeline.fingerprint", "f")
    assert tracking.tag_of(run.run_id, "pipeline.fingerprint") == "f"
    with pytest.raises(DataError, match=r"no tag 'pipeline\.gold_run_id'"):
        tracking.tag_of(run.run_id, "pipeline.gold_run_id")
    with pytest.raises(DataError, match=f"no run '{'0' * 32}'"):
        tracking.tag_of("0" * 32, "pipeline.fingerprint")


def test_a_run_shows_the_data_it_used(settings: Settings, task: TaskIdentity) -> None:
    with tracking.stage_run(request(task), "prepare", settings) as prepare:
        for context in ("training", "testing"):
            data = from_numpy(np.zeros((2, 1, 8, 8)), name=context, digest="d" * 8)
            mlflow.log_input(data, context=context)
    with tracking.stage_run(request(task, data_seed=1), "train", settings) as train:
        for _ in range(2):  # a retry adds nothing
            tracking.use_datasets(train, prepare.run_id, "training", "validation")
    used = MlflowClient().get_run(train.run_id).inputs.dataset_inputs
    assert [data.dataset.name for data in used] == ["training"]


class _Forbidding(http.server.BaseHTTPRequestHandler):
    """A real server that answers as MLflow does to a Host header it does not know."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def forbidding() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Forbidding)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_refused_address_is_a_setting(settings: Settings, forbidding: str) -> None:
    with pytest.raises(SettingsError, match="MLFLOW_SERVER_ALLOWED_HOSTS"):
        tracking.connect(settings.model_copy(update={"mlflow_tracking_uri": forbidding}))


def test_an_absent_server_is_told_within_seconds(settings: Settings) -> None:
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"no MLflow server answers at http://127\.0\.0\.1:9"):
        tracking.connect(settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"}))
    assert time.monotonic() - started < 60
