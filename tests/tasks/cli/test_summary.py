from __future__ import annotations

import io

import pytest
from mlflow import MlflowClient

from tasks.__main__ import main
from tasks.cli import summary
from tasks.contract.data import PrepareRequest, PrepareResult
from tasks.contract.messages import TaskIdentity
from tasks.errors import DataError
from tasks.records import tracking
from tasks.settings import Settings
from tasks.text_table import table


def prepare(task: TaskIdentity, settings: Settings, *, reused: bool) -> str:
    with tracking.stage_run(PrepareRequest(task=task), "prepare", settings) as run:  # type: ignore[call-arg]
        result = PrepareResult(
            **run.result_fields,
            fingerprint="f" * 64,
            reused=reused,
            classes=10,
            train_images=1000,
            validation_images=200,
            test_images=300,
            removed_images=0,
        )
        tracking.record_result(run, result)
    return run.run_id


def test_the_newest_run_is_shown(settings: Settings, task: TaskIdentity) -> None:
    prepare(task, settings, reused=False)
    newest = prepare(task.model_copy(update={"dag_run_id": "manual__2026-01-02"}), settings, reused=True)
    lines = summary.rows("daily", settings)
    assert [line[:2] for line in lines] == [("prepare", newest)]
    assert lines[0][3] == "1,500 images, 10 classes, 0 left out, gold reused"
    printed = table(summary.HEADER, lines).splitlines()
    assert printed[0].split() == ["stage", "run", "ID", "seconds", "main", "figure"]
    assert newest in printed[2]


@pytest.mark.parametrize("known", [True, False])
def test_the_run_may_be_named_later_on_standard_input(
    settings: Settings,
    task: TaskIdentity,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = prepare(task, settings, reused=False)
    prepare(task.model_copy(update={"dag_run_id": "manual__2026-01-02"}), settings, reused=True)
    monkeypatch.setattr("sys.stdin", io.StringIO(task.dag_run_id if known else ""))
    monkeypatch.setattr("tasks.cli.summary.load_settings", lambda: settings)
    assert main(["summary", "daily", "--dag-run-id", "-"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(first) == known, printed
    assert bool(printed) is known


def test_a_reused_stage_names_the_run_that_did_the_work(settings: Settings, task: TaskIdentity) -> None:
    own = prepare(task, settings, reused=False)
    MlflowClient().set_tag(own, tracking.REUSED_FROM, "9" * 32)
    assert summary.rows("daily", settings)[0][3] == f"1,500 images, 10 classes, 0 left out, reused from {'9' * 32}"


def test_a_failed_stage_says_why(settings: Settings, task: TaskIdentity) -> None:
    with (
        pytest.raises(RuntimeError),
        tracking.stage_run(PrepareRequest(task=task), "prepare", settings),  # type: ignore[call-arg]
    ):
        raise RuntimeError("no images")
    assert summary.rows("daily", settings)[0][3] == "FAILED RuntimeError: no images"


def test_a_dag_that_never_ran_is_named_with_the_fix(settings: Settings) -> None:
    with pytest.raises(DataError, match=r"'weekly' has no run.*make run DAG=weekly"):
        summary.rows("weekly", settings)
