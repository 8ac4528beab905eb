from __future__ import annotations

import mlflow
import pytest

from tasks.cli import sample
from tasks.contract.data import PrepareRequest
from tasks.contract.messages import TaskIdentity
from tasks.errors import DataError
from tasks.records import tracking
from tasks.settings import Settings


def test_the_newest_evaluation_gives_the_picture(settings: Settings, task: TaskIdentity) -> None:
    with tracking.stage_run(PrepareRequest(task=task), "evaluate", settings):  # type: ignore[call-arg]
        prediction = {"name": "a", "png": "cGljdHVyZQ==", "probabilities": [0.5, 0.5], "class": "x"}
        mlflow.log_dict({"tolerance": 0.001, "probes": [prediction]}, "probes.json")
    assert sample.sample("daily", settings) == b"picture"


def test_without_an_evaluation_there_is_none(settings: Settings) -> None:
    with pytest.raises(DataError, match=r"'daily' has no finished evaluation.*make run"):
        sample.sample("daily", settings)
