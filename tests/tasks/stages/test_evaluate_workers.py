"""The stage evaluate with workers: on a cluster, where all of them are lost once; without one; refused."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from tasks.cluster import supervisor
from tasks.cluster.workers import Workers
from tasks.contract.messages import TaskIdentity
from tasks.errors import RequestError
from tasks.serving.opened_model import OpenedModel, opened
from tasks.stages import evaluate
from tasks.vision.evaluation import scoring
from tests.tasks.cluster.local_cluster import LocalCluster, local_cluster
from tests.tasks.stages.conftest import Evaluate, TrainRun, crown

PERFECT, THREE_OF_FOUR = [0, 1, 2, 3], [0, 1, 2, 2]
LOST_AT = 30  # calls: the candidate's second form is asked, and the champion comes after it
OF_THIS_RUN = {"run_id", "seconds", "tags"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Path]:
    """The folder of the cluster's nodes, which needs a short path."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def cluster(nodes: Path) -> Iterator[LocalCluster]:
    """Two nodes of one core."""
    with local_cluster(nodes) as started:
        yield started


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[OpenedModel]:
    """All models that the stage measured."""
    found: list[OpenedModel] = []

    def recorded(*arguments: Any, **options: Any) -> OpenedModel:
        found.append(opened(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(evaluate, "opened", recorded)
    return found


def end_workers(folder: Path) -> None:
    """Kill all processes that answer for models."""
    for process in supervisor.users(folder):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if b"ModelWorker" in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGKILL)


def test_answers_and_verdict_are_those_of_the_stage_alone_though_all_workers_are_lost(
    nodes: Path,
    cluster: LocalCluster,
    train_run: TrainRun,
    run_evaluate: Evaluate,
    identity: Callable[[str], TaskIdentity],
    measured: list[OpenedModel],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    crown(train_run(THREE_OF_FOUR, onnx=False))
    trained = train_run(PERFECT)
    alone = run_evaluate(trained)
    monkeypatch.setattr(scoring, "BATCH", 2)
    for name, value in cluster.variables.items():
        monkeypatch.setenv(name, value)
    calls: list[str] = []
    ask = Workers.ask

    def counted(workers: Workers, *arguments: Any, what: str) -> Any:
        calls.append(what)
        if len(calls) == LOST_AT:
            end_workers(nodes)
        return ask(workers, *arguments, what=what)

    monkeypatch.setattr(Workers, "ask", counted)
    result = run_evaluate(trained, task=identity("evaluate-on-workers"), workers=2)
    assert calls == ["2 images"] * 60  # 40 images, the candidate in both its forms, the champion in its only one
    assert "a worker was lost (" in caplog.text
    assert result.promote
    assert result.model_dump(exclude=OF_THIS_RUN) == alone.model_dump(exclude=OF_THIS_RUN)
    assert len(measured) == 4
    for model, expected in zip(measured[2:], measured[:2], strict=True):
        np.testing.assert_allclose(model.probabilities, expected.probabilities, rtol=0, atol=1e-6)
        assert (model.loading, model.summary) == (expected.loading, expected.summary)
    assert MlflowClient().get_run(result.run_id).data.tags["pipeline.workers"] == "2"

    with pytest.raises(RequestError, match=r"workers=3 with 1 CPUs and 0 GPUs each are more than the cluster at "):
        run_evaluate(trained, task=identity("evaluate-refused"), workers=3)


def test_on_one_machine_the_stage_answers_itself(
    train_run: TrainRun, run_evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    result = run_evaluate(train_run(THREE_OF_FOUR), workers=2)
    assert result.accuracy == 0.75
    assert "workers=2: there is no cluster (RAY_ADDRESS)" in caplog.text
    assert "pipeline.workers" not in MlflowClient().get_run(result.run_id).data.tags
