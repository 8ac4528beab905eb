from __future__ import annotations

import io
from typing import Any

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


def prepare(task: TaskIdentity, settings: Settings, *, reused: bool, **fields: Any) -> str:
    request = PrepareRequest.model_validate({"task": task, **fields})
    with tracking.stage_run(request, "prepare", settings) as run:
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
    assert [line[:2] for line in lines] == [("stage", newest)]  # the task's ID
    assert lines[0][3] == "1,500 images, 10 classes, 0 left out, gold reused"
    printed = table(summary.HEADER, lines).splitlines()
    assert printed[0].split() == ["task", "run", "ID", "seconds", "main", "figure"]
    assert newest in printed[2]


def test_a_stage_that_ran_twice_is_two_rows_in_the_order_of_their_beginning(
    settings: Settings, task: TaskIdentity
) -> None:
    first = prepare(task.model_copy(update={"task_id": "prepare"}), settings, reused=False)
    second = prepare(task.model_copy(update={"task_id": "again.prepare"}), settings, reused=True)
    prepare(task.model_copy(update={"task_id": "prepare"}), settings, reused=False)  # tried again, in the same run
    rows = summary.rows("daily", settings)
    assert [row[:2] for row in rows] == [("prepare", first), ("again.prepare", second)]
    assert [row[3].endswith("gold reused") for row in rows] == [False, True]
    names = [MlflowClient().get_run(run_id).info.run_name for run_id in (first, second)]
    assert names == ["prepare", "again.prepare"]


def test_a_task_that_was_cleared_and_asked_for_something_else_shows_its_newest_run(
    settings: Settings, task: TaskIdentity
) -> None:
    prepare(task, settings, reused=False)
    newest = prepare(task, settings, reused=False, dataset="cifar10")
    assert [row[1] for row in summary.rows("daily", settings)] == [newest]


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
