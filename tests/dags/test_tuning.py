"""`make tune` for real, killed in the middle and started again; then the daily run that uses what the search found."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.contract.recipe import Hyperparameters
from tasks.contract.stages import STAGES
from tests.waiting import until

pytestmark = pytest.mark.long  # what it joins is tested in parts: test_run, test_weekly_tuning, search/test_crash
ROOT = Path(__file__).resolve().parents[2]
TRIALS = 4
# Small trials, more of them than end before the kill; two epochs on digits need not be a good model.
ANY_MODEL = {"min_accuracy": 0, "min_macro_f1": 0, "max_calibration_error": 1}
CONF = ANY_MODEL | {
    "epochs": 2,
    "scheduler": "none",
    "searcher": "random",
    "concurrent_trials": 1,
    "search_space": {"learning_rate": {"low": 0.02, "high": 0.1}, "momentum": [0.85, 0.95]}
    | dict.fromkeys(["weight_decay", "batch_size", "label_smoothing", "augmentation", "schedule"]),
}
AFTER_TRAINING = "evaluate|approve|register|promoted|deploy"


@dataclass(frozen=True)
class Tuned:
    """A search that was killed once, and where it left its runs."""

    variables: dict[str, str]
    killed: str
    said: str

    @property
    def home(self) -> Path:
        return Path(self.variables["PIPELINE_HOME"])

    def runs(self, **tags: str) -> list[Run]:
        """The runs with these `pipeline.` tags, as they are now."""
        client = MlflowClient(f"sqlite:///{self.home}/mlflow.db")
        text = " and ".join(f"tags.`pipeline.{name}` = '{value}'" for name, value in tags.items())
        return list(client.search_runs(["1"], text))

    def one(self, **tags: str) -> Run:
        (found,) = self.runs(**tags)
        return found


@pytest.fixture(scope="module")
def variables(airflow: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of the commands: a home and a port of their own; the service that deploy starts is ended."""
    home = tmp_path_factory.mktemp("tuning")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = airflow | {
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",  # the stages' own lines
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow/airflow.db",
        "PIPELINE_HOME": str(home),
        "SERVING_URL": f"http://127.0.0.1:{port}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    shutil.copytree(airflow["AIRFLOW_HOME"], home / "airflow")
    (home / "airflow" / ".migrated").touch()
    yield own
    subprocess.run([sys.executable, "-m", "tasks.serving", "--stop"], env=own, capture_output=True)


def recorded(home: str, trial: int) -> bool:
    """Whether MLflow has the end of a trial."""
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    return bool(client.search_runs(["1"], f"tags.`tune.trial` = '{trial}' and attributes.status = 'FINISHED'"))


@pytest.fixture(scope="module")
def tuned(variables: dict[str, str]) -> Tuned:
    """What `make tune` left that was killed after its first trial, and started again with the same command."""
    command = ["make", "--old-file=.venv/.installed", "tune", f"TRIALS={TRIALS}", f"CONF={json.dumps(CONF)}"]
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        for line in first.stdout:
            lines.append(line)
            if "tasks.tune: trial 0 finished" in line:
                # A thread writes it down, after the log has told of it.
                until(lambda: recorded(variables["PIPELINE_HOME"], trial=0), pause=0.1)
                os.killpg(first.pid, signal.SIGKILL)
                break
    assert first.returncode == -signal.SIGKILL, "".join(lines)
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return Tuned(variables, "".join(lines), done.stdout)


def test_the_same_command_goes_on_with_the_run_that_was_killed(tuned: Tuned) -> None:
    assert "resuming the run of" in tuned.said
    assert "resuming the run of" not in tuned.killed
    parent = tuned.one(stage="pipeline")
    assert parent.data.tags["pipeline.dag_id"] == "weekly_tuning"
    assert list((tuned.home / "unfinished").iterdir()) == []


def test_every_stage_has_one_run_and_every_trial_too(tuned: Tuned) -> None:
    stages = ["prepare", "tune", "train", "evaluate", "register", "deploy"]
    found = {stage: [run.info.status for run in tuned.runs(dag_id="weekly_tuning", stage=stage)] for stage in stages}
    assert found == {stage: ["FINISHED"] for stage in stages}
    trials = Counter(run.data.tags.get("tune.trial") for run in tuned.runs())
    del trials[None]
    assert trials == dict.fromkeys(map(str, range(TRIALS)), 1)


def test_the_finished_trial_is_not_run_again(tuned: Tuned) -> None:
    assert "tasks.tune: trial 0 finished" in tuned.killed
    assert "tasks.tune: trial 0 finished in an earlier try" in tuned.said
    assert "tasks.tune: trial 0 finished after" not in tuned.said
    assert f"trial {TRIALS - 1} finished" in tuned.said


def test_training_uses_the_best_and_its_model_becomes_champion(tuned: Tuned) -> None:
    tune, train = tuned.one(stage="tune"), tuned.one(stage="train", dag_id="weekly_tuning")
    assert train.data.tags["pipeline.tune_run_id"] == tune.info.run_id
    best = json.loads(tune.data.tags["pipeline.hyperparameters"])
    assert {name: train.data.params[name] for name in best} == {name: str(value) for name, value in best.items()}
    store = f"sqlite:///{tuned.home}/mlflow.db"
    client = MlflowClient(store, registry_uri=store)
    champion = client.get_model_version_by_alias("vision-classifier", "champion")
    assert champion.run_id == train.info.run_id


def test_the_table_at_the_end_tells_of_the_search(tuned: Tuned) -> None:
    rows = {line.split()[0]: line for line in tuned.said.split("main figure")[1].splitlines()[2:] if line}
    assert list(rows) == ["prepare", "tune", "train", "evaluate", "register", "deploy"]
    assert f"{TRIALS} finished, 0 stopped, 0 failed" in rows["tune"]
    assert "learning_rate" in rows["tune"]
    assert f"tuned by {tuned.one(stage='tune').info.run_id}" in rows["train"]


@pytest.fixture(scope="module")
def daily(tuned: Tuned) -> Run:
    """The training of a daily run after the search, with one value set explicitly."""
    conf = json.dumps({"epochs": 1, "momentum": 0.5})
    command = [sys.executable, "-m", "airflow", "dags", "test", "daily_training", "2026-02-03", "--conf", conf]
    command += ["--mark-success-pattern", AFTER_TRAINING]  # the rest of the DAG is not what is asked here
    done = subprocess.run(command, env=tuned.variables, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return tuned.one(dag_id="daily_training", stage="train")


def test_the_daily_run_trains_with_the_tuned_set(tuned: Tuned, daily: Run) -> None:
    tune = tuned.one(stage="tune")
    assert daily.data.tags["pipeline.tune_run_id"] == tune.info.run_id
    assert json.loads(daily.data.tags["pipeline.result"])["tuned_by"] == tune.info.run_id
    best = json.loads(tune.data.tags["pipeline.hyperparameters"])
    assert daily.data.params["learning_rate"] == str(best["learning_rate"])
    assert best["learning_rate"] != Hyperparameters().learning_rate


def test_a_value_given_by_hand_wins(daily: Run) -> None:
    assert daily.data.params["momentum"] == "0.5"


def test_who_asks_for_the_defaults_gets_them(tuned: Tuned, tmp_path: Path) -> None:
    request: dict[str, Any] = {
        "task": {"dag_id": "daily_training", "dag_run_id": "by-default", "task_id": "train"},
        "prepare_run_id": tuned.one(dag_id="weekly_tuning", stage="prepare").info.run_id,
        "hyperparameters": "default",
        "epochs": 1,
    }
    command = [sys.executable, "-m", "tasks", "train", "--request", json.dumps(request), "--result"]
    done = subprocess.run([*command, str(tmp_path / "r.json")], env=tuned.variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = STAGES["train"].parse_result((tmp_path / "r.json").read_text())
    assert result.model_dump()["tuned_by"] is None
    params = tuned.one(dag_run_id="by-default", stage="train").data.params
    for name, value in Hyperparameters().model_dump().items():
        assert params[name] == str(value), name
