"""A tune stage that is killed in the middle, as processes: the next try resumes where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.cluster import supervisor
from tasks.contract.recipe import Recipe
from tasks.records import queries, tracking
from tasks.runner import faults
from tasks.search import table
from tasks.search.earlier_trial import State
from tasks.search.table import TrialRow
from tasks.settings import Settings
from tasks.vision.data.gold import Gold
from tasks.vision.devices import prepare_cpu
from tasks.vision.training.loop import Training
from tests.stage_process import read_to

TRIALS, EPOCHS = 5, 25
ROOT = Path(__file__).parents[3]


def start(
    prepare_run_id: str, home: Path, dag_run_id: str, fault: dict[str, str] | None = None, **changes: object
) -> subprocess.Popen[str]:
    request = {
        "task": {"dag_id": "weekly", "dag_run_id": dag_run_id, "task_id": "tune"},
        "prepare_run_id": prepare_run_id,
        **{"trials": TRIALS, "epochs": EPOCHS, "searcher": "random", "scheduler": "none", "log_every": 3},
        "search_space": {"batch_size": None, "schedule": None, "model": None},
        "batch_size": 20,
        "device": "cpu",
        "concurrent_trials": 1,
        **changes,
    }
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tasks",
            "tune",
            "--request",
            json.dumps(request),
            "--result",
            str(home / "answer.json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | ({faults.VARIABLE: json.dumps(fault)} if fault else {}),
    )


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the temporary files of this test's stages, with a path short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def rows_of(dag_run_id: str, settings: Settings) -> tuple[str, list[TrialRow]]:
    experiment_id = tracking.connect(settings)
    (run,) = queries.find_runs(experiment_id, {"pipeline.dag_run_id": dag_run_id, "pipeline.stage": "tune"})
    return str(run.info.run_id), table.read(run.info.run_id)


def left_behind(temporary: Path) -> list[Path]:
    """List what is left of Rays after some seconds: folders and the processes that use them."""
    deadline = time.monotonic() + 600
    while list(temporary.glob("ray-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [*temporary.glob("ray-*"), *(Path("/proc") / str(process) for process in supervisor.users(temporary))]


def undisturbed(row: TrialRow, gold: Gold) -> tuple[float, ...]:
    """Train what was chosen for a trial without a search."""
    options = {"epochs": EPOCHS, "batch_size": 20, "device": "cpu", "log_every": 3}
    training = Training(Recipe.model_validate(options | row.values), gold)
    list(training.run())
    return tuple(end.validation_accuracy for end in training.history)


def in_the_middle(dag_run_id: str, settings: Settings, status: str = "RUNNING") -> bool:
    """Tell whether a trial has ended, as MLflow has it, and one whose run has the status has a checkpoint."""
    tune = settings.pipeline_home / "tune"
    # Trials run one after the other. MLflow, where this costs more, is asked only when a later one has a checkpoint.
    if not list(tune.glob("*/try-*/trial-0000[1-9]/checkpoint_*/*.json")):
        return False
    tune_run_id, rows = rows_of(dag_run_id, settings)
    statuses = {row.number: MlflowClient().get_run(row.run_id).info.status for row in rows}
    saved = [n for n in statuses if list(tune.glob(f"{tune_run_id}/try-*/trial-{n:05d}/checkpoint_*/*.json"))]
    return "FINISHED" in statuses.values() and any(statuses[number] == status for number in saved)


def ended_in_the_middle(
    number: signal.Signals, code: int, status: str, prepare_run_id: str, settings: Settings, temporary: Path
) -> str:
    """End a search by a signal in the middle of a trial; its DAG run. It may be over before: then another.

    Args:
        number: the signal.
        code: the exit code that it should lead to.
        status: status of the unfinished trial's run afterwards.
        prepare_run_id: run of the data.
        settings: of the stage.
        temporary: folder of its temporary files.
    """
    for dag_run_id in ("first", "second", "third", "fourth"):
        stage = start(prepare_run_id, settings.pipeline_home, dag_run_id)
        read_to(f"1 of {TRIALS} done", stage)
        while stage.poll() is None and not in_the_middle(dag_run_id, settings):
            time.sleep(0.1)
        stage.send_signal(number)
        if stage.wait(timeout=600) == 0:
            continue  # it was over before
        assert stage.returncode == code
        assert left_behind(temporary) == []
        if in_the_middle(dag_run_id, settings, status):
            return dag_run_id
    raise AssertionError("no search was in the middle of a trial when it was ended")


@pytest.mark.long  # CI kills a search in its sample of chaos, too
def test_a_killed_search_goes_on_with_the_same_runs_and_ends_with_the_same_numbers(
    settings: Settings, prepare_run_id: str, digits_gold: Gold, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.vision.devices.available_cpus", lambda: 1)
    prepare_cpu(1)
    dag_run_id = ended_in_the_middle(signal.SIGKILL, -9, "RUNNING", prepare_run_id, settings, temporary)
    tune_run_id, half = rows_of(dag_run_id, settings)
    ended = {row.run_id: row for row in half if row.state != State.RUNNING}
    assert ended
    assert len(ended) < TRIALS
    runs = [MlflowClient().get_run(run_id).info for run_id in ended]
    touched = {info.run_id: info.end_time for info in runs if info.end_time}  # one may lack its end alone

    second = start(prepare_run_id, settings.pipeline_home, dag_run_id)
    output, _ = second.communicate(timeout=600)
    assert second.returncode == 0, output
    assert f"resuming an earlier try: {len(ended)} trials are done" in output
    again, rows = rows_of(dag_run_id, settings)
    assert again == tune_run_id
    assert [row.number for row in rows] == list(range(TRIALS))
    assert {row.run_id for row in half} <= {row.run_id for row in rows}
    for run_id, end_time in touched.items():
        assert MlflowClient().get_run(run_id).info.end_time == end_time
        assert f"trial {ended[run_id].number} finished in an earlier try" in output
    for row in rows:
        assert row.state == State.FINISHED
        assert row.history == undisturbed(row, digits_gold)
        steps = [point.step for point in MlflowClient().get_metric_history(row.run_id, "train_loss")]
        assert steps == list(range(1, EPOCHS + 1))
    resumed = [line for line in output.splitlines() if " resumes after epoch " in line]
    assert resumed, output
    assert left_behind(temporary) == []


def test_a_stopped_stage_ends_and_leaves_no_process(settings: Settings, prepare_run_id: str, temporary: Path) -> None:
    dag_run_id = ended_in_the_middle(signal.SIGTERM, 143, "KILLED", prepare_run_id, settings, temporary)
    tune_run_id, rows = rows_of(dag_run_id, settings)
    assert MlflowClient().get_run(tune_run_id).info.status == "KILLED"
    trials = {row.state: MlflowClient().get_run(row.run_id).info.status for row in rows}
    assert trials == {State.FINISHED: "FINISHED", State.RUNNING: "KILLED"}  # the second is resumed in a later try


def test_a_stage_stopped_when_its_search_is_over_marks_its_run(
    settings: Settings, prepare_run_id: str, temporary: Path
) -> None:
    """Ray, when it shuts down, leaves no handler of SIGTERM in place."""
    fault = {"point": "tune/log_artifact#1", "action": "SIGTERM", "marker": str(temporary / "marker")}  # the table
    stage = start(prepare_run_id, settings.pipeline_home, "late", fault, trials=1, epochs=2)
    output, _ = stage.communicate(timeout=600)
    assert stage.returncode == 143, output
    tune_run_id, rows = rows_of("late", settings)
    assert [row.state for row in rows] == [State.FINISHED]
    assert MlflowClient().get_run(tune_run_id).info.status == "KILLED"
