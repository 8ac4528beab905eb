"""`make tune-results`, on searches written to a real MLflow store."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from tasks.__main__ import main
from tasks.contract.messages import TaskIdentity
from tasks.contract.training import TuneRequest
from tasks.records import tracking
from tasks.search import table
from tasks.settings import Settings

TRIALS: list[tuple[str, list[float], dict[str, object]]] = [
    ("stopped", [0.5], {"learning_rate": 0.0123456, "schedule": "cosine"}),
    ("failed", [0.99], {"learning_rate": 9.0, "schedule": "cosine"}),
    ("finished", [0.7, 0.9, 0.8], {"learning_rate": 0.1, "schedule": "one_cycle"}),
    ("running", [], {"learning_rate": 0.2, "schedule": "cosine"}),
]


def search(task: TaskIdentity, settings: Settings, metric: str = "validation_accuracy") -> str:
    """A tune run with `TRIALS`, as the stage leaves them in the middle of its work."""
    with tracking.stage_run(TuneRequest(task=task, prepare_run_id="0" * 32), "tune", settings) as run:  # type: ignore[call-arg]
        client = MlflowClient()
        client.set_tag(run.run_id, table.METRIC, metric)
        for number, (state, values, chosen) in enumerate(TRIALS):
            tags = {
                "mlflow.parentRunId": run.run_id,
                table.TRIAL: str(number),
                table.STATE: state,
                table.VALUES: json.dumps(chosen),
            }
            trial = client.create_run(run.experiment_id, tags=tags).info.run_id
            for epoch, value in enumerate(values, start=1):
                client.log_metric(trial, metric, value, step=epoch)
            client.log_metric(trial, table.SECONDS, 1.25)
    return run.run_id


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    assert main(["tune-results", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_newest_search_is_shown_best_first_and_failed_last(
    settings: Settings, task: TaskIdentity, capsys: pytest.CaptureFixture[str]
) -> None:
    search(task, settings)
    newest = search(task.model_copy(update={"dag_run_id": "manual__2026-01-02"}), settings)
    head, _, header, _, *rows = printed(capsys)
    assert head == (
        f"search {newest} of daily manual__2026-01-02, finished: 1 running, 1 finished, 1 stopped, 1 failed"
    )
    assert header.split()[:7] == [
        "trial",
        "state",
        "rung",
        "epochs",
        "validation_accuracy",
        "learning_rate",
        "schedule",
    ]
    assert [row.split()[:7] for row in rows] == [
        ["2", "finished", "0", "3", "0.9000", "0.1", "one_cycle"],
        ["0", "stopped", "0", "1", "0.5000", "0.0123", "cosine"],
        ["3", "running", "0", "0", "-", "0.2", "cosine"],
        ["1", "failed", "0", "1", "0.9900", "9", "cosine"],
    ]
    assert rows[0].split()[7] == "1.2"


def test_a_smaller_loss_is_better(settings: Settings, task: TaskIdentity, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = search(task, settings, metric="validation_loss")
    rows = [json.loads(line) for line in printed(capsys, "--run-id", run_id, "--json")]
    assert [(row["number"], row["best_value"]) for row in rows] == [(0, 0.5), (2, 0.7), (3, None), (1, 0.99)]


def test_a_limit_keeps_the_best(settings: Settings, task: TaskIdentity, capsys: pytest.CaptureFixture[str]) -> None:
    search(task, settings)
    assert [json.loads(line)["number"] for line in printed(capsys, "--limit", "1", "--json")] == [2]


def test_before_the_first_search_it_says_how_to_start_one(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune-results"]) == 65
    assert capsys.readouterr().err == "DataError: no search has run yet; start one with `make tune TRIALS=20`\n"


def test_an_unknown_run_is_named(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune-results", "--run-id", "a" * 32]) == 65
    assert f"MLflow has no run '{'a' * 32}'" in capsys.readouterr().err


def test_nobody_waits_for_torch_to_see_a_table() -> None:
    program = "import sys; sys.modules['torch'] = None; import tasks.cli.tune_results, tasks.cli.history"
    subprocess.run([sys.executable, "-c", program], check=True)
