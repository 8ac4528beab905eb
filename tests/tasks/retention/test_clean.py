"""The stage clean: what it removes, what it says, and that a retry ends the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.contract.cleaning import CleanResult
from tasks.records import removed_weights
from tasks.retention import leftovers
from tasks.runner.stage_process import execute
from tasks.settings import Settings

from .conftest import Make

Clean = Callable[..., CleanResult]


@pytest.fixture
def clean(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Clean:
    monkeypatch.setenv("SERVING_URL", "http://127.0.0.1:9")  # nothing answers there

    def call(dag_run_id: str = "sun", **fields: object) -> CleanResult:
        task = {"dag_id": "weekly_maintenance", "dag_run_id": dag_run_id, "task_id": "clean"}
        result = execute("clean", json.dumps({"task": task, **fields}))
        assert isinstance(result, CleanResult)
        return result

    return call


def lists(run_id: str) -> list[dict[str, object]]:
    paths = sorted(file.path for file in MlflowClient().list_artifacts(run_id))
    return [json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")) for path in paths]


def test_it_removes_and_lists_what_is_old(clean: Clean, make: Make) -> None:
    train, new = make("train", 100, sha256="a"), make("train", 3, sha256="b")
    unfinished = make("pipeline", 50, ended=False)
    assert clean(dry_run=True, dag_run_id="sat").removed == {}
    result = clean()
    assert result.removed == {"weights": 1, "unfinished run": 1}
    assert (result.megabytes, result.kept, result.headline) == (0.001, 0, "2 removed, 0.0 MB")
    tags = [MlflowClient().get_run(run_id).data.tags for run_id in (train, new)]
    assert [removed_weights.TAG in each for each in tags] == [True, False]
    assert MlflowClient().get_run(unfinished).info.status == "KILLED"
    (told,) = lists(result.run_id)
    assert f"weights (never registered) of daily/100 days ago train, run {train}, 0.0 MB" in told["found"]
    assert clean().removed == {}  # the same task again
    assert clean("next").removed == {}


def test_the_time_that_weights_stay_is_a_setting(
    clean: Clean,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make("train", 100, sha256="a")
    monkeypatch.setenv("PIPELINE_KEEP_WEIGHTS_DAYS", "0")
    assert clean().removed == {}
    monkeypatch.setenv("PIPELINE_KEEP_WEIGHTS_DAYS", "101")
    assert clean("tue").removed == {}
    monkeypatch.setenv("PIPELINE_KEEP_WEIGHTS_DAYS", "99")
    assert clean("wed").removed == {"weights": 1}


def test_what_is_used_again_meanwhile_stays_and_is_counted(
    clean: Clean,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = make("train", 100, sha256="a")
    real = leftovers.find

    def find(*given: object) -> list[leftovers.Leftover]:
        found = real(*given)
        make("compress", 0, params={"train_run_id": train}, ended=False)
        return found

    monkeypatch.setattr(leftovers, "find", find)
    result = clean()
    assert (result.removed, result.kept) == ({}, 1)
    assert removed_weights.TAG not in MlflowClient().get_run(train).data.tags
