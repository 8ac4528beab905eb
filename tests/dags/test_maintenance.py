"""The weekly DAG that keeps an installation from growing, and the cleaning of Airflow's own database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.dags.conftest import ROOT
from tests.dags.forked import Forks

Run = dict[str, Any]
DAGS = len([*(ROOT / "dags").glob("*.py")])
# In Airflow's database: DAG runs that ended 200, 100 and 3 days ago, each with a task, and one that never ended.
OLD_RUNS = """
from datetime import timedelta
from airflow.models import DagModel
from airflow.models.serialized_dag import SerializedDagModel
from airflow.sdk import timezone
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType, DagRunType
now = timezone.utcnow()
with create_session() as session:
    dag = SerializedDagModel.get_dag("daily_training", session=session)
    for days in (200, 150, 100, 3):
        at = now - timedelta(days=days)
        run = dag.create_dagrun(run_id=f"r{days}", logical_date=at, data_interval=(at, at), run_after=at,
            run_type=DagRunType.SCHEDULED, triggered_by=DagRunTriggeredByType.TEST, state="success", session=session)
        run.start_date = run.end_date = at
        for task in run.get_task_instances(session=session):
            task.start_date = at
    session.query(DagModel).update({"last_parsed_time": now - timedelta(days=200)})
"""
LEFT = """
from airflow.models import DagModel, DagRun, TaskInstance
from airflow.utils.session import create_session
with create_session() as session:
    runs = sorted(run for (run,) in session.query(DagRun.run_id).filter(DagRun.run_id.like("r%")))
    tasks = sorted({run for (run,) in session.query(TaskInstance.run_id).filter(TaskInstance.run_id.like("r%"))})
    print(runs, tasks, session.query(DagModel).count())
"""
AIRFLOW = "import sys; from airflow.__main__ import main; sys.argv[1:] = {}; main()"
CLEAN = """
import runpy, sys
sys.argv = ["pipeline", "clean-database"]
runpy.run_module("pipeline", run_name="__main__")
"""


@pytest.fixture(scope="module")
def runs(run_scenarios: Callable[..., dict[str, Run]]) -> dict[str, Run]:
    weekly: dict[str, Any] = {"dag": "weekly_maintenance", "stub": {}}
    return run_scenarios(
        {
            "weekly": weekly | {"conf": {"idle_days": 30}},
            "fails": weekly | {"stub": {"fail": "clean", "code": 65}},
            "kept longer": weekly | {"variables": {"PIPELINE_KEEP_WEIGHTS_DAYS": "365"}},
        }
    )


def test_it_cleans_with_what_the_form_and_the_settings_say(runs: dict[str, Run]) -> None:
    ((task, request),) = runs["weekly"]["calls"]
    assert (task, request["idle_days"], request["dry_run"]) == ("clean", 30, False)
    assert request["keep_weights_days"] == "90"
    assert runs["kept longer"]["calls"][0][1]["keep_weights_days"] == "365"
    assert runs["weekly"]["results"]["clean"]


def test_a_cleaning_that_fails_fails_the_run_and_is_not_repeated(runs: dict[str, Run]) -> None:
    assert runs["fails"]["tasks"]["clean"] == ["failed", 1]
    assert runs["fails"]["state"] == "failed"


def test_on_a_laptop_nobody_is_missed_who_would_clean_the_database(runs: dict[str, Run]) -> None:
    assert runs["weekly"]["tasks"]["database_is_cleaned"][0] == "skipped"
    assert runs["weekly"]["state"] == "success"


def checked(forks: Forks, cleaned: str, **variables: str) -> str:
    """The outcome of the task in the stack, after a cleaning at a time; an expression, or None."""
    code = f"""
from datetime import UTC, datetime, timedelta
from pipeline.dag_parts import cleaning
from airflow.sdk import DAG
with DAG("d"):
    cleaning.database_is_cleaned()
cleaning.Variable.get = lambda name, default: {cleaned}
try:
    print("well", cleaning.database_is_cleaned.function())
except Exception as error:
    print(type(error).__name__, error)
"""
    server = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "MLFLOW_TRACKING_USERNAME": "admin"}
    server |= {"MLFLOW_TRACKING_PASSWORD": "v3ry-l0ng", "PIPELINE_RUNTIME": "docker"}
    done = forks.run(code, variables=forks.variables | server | variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout.splitlines()[-1])


def test_in_the_stack_a_cleaning_that_is_missing_is_a_failure(forks: Forks) -> None:
    assert checked(forks, "(datetime.now(UTC) - timedelta(days=2)).isoformat()").startswith("well 20")
    late = checked(forks, "(datetime.now(UTC) - timedelta(days=4)).isoformat()")
    assert late.startswith("AirflowFailException Airflow's database was last cleaned: 20")
    assert "last cleaned: never. See make logs S=airflow-cleanup" in checked(forks, "None")
    assert "AirflowSkipException AIRFLOW_KEEP_DAYS=0" in checked(forks, "None", AIRFLOW_KEEP_DAYS="0")


@pytest.fixture
def database(forks: Forks, tmp_path: Any) -> dict[str, str]:
    """The environment of an Airflow whose database holds old DAG runs."""
    own = forks.variables | {"AIRFLOW_HOME": str(tmp_path)}
    own["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{tmp_path}/airflow.db"
    for code in (AIRFLOW.format(["db", "migrate"]), AIRFLOW.format(["dags", "reserialize"]), OLD_RUNS):
        done = forks.run(code, variables=own)
        assert done.returncode == 0, done.stdout + done.stderr
    return own


def test_old_runs_leave_airflows_database_and_a_second_time_there_are_none(
    forks: Forks, database: dict[str, str]
) -> None:
    """Every DAG was read long ago, as after a pause of the whole stack, and stays."""

    def ask(code: str, **variables: str) -> str:
        done = forks.run(code, variables=database | variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout.splitlines()[-1])

    assert ask(LEFT) == f"['r100', 'r150', 'r200', 'r3'] ['r100', 'r150', 'r200', 'r3'] {DAGS}"
    assert "nothing is removed" in ask(CLEAN, AIRFLOW_KEEP_DAYS="0")
    assert ask(LEFT) == f"['r100', 'r150', 'r200', 'r3'] ['r100', 'r150', 'r200', 'r3'] {DAGS}"
    assert "rows from before" in ask(CLEAN, AIRFLOW_KEEP_DAYS="120")
    assert ask(LEFT) == f"['r100', 'r3'] ['r100', 'r3'] {DAGS}"
    assert "0 rows from before" in ask(CLEAN, AIRFLOW_KEEP_DAYS="120")
    assert ask(CLEAN) != ""
    assert ask(LEFT) == f"['r3'] ['r3'] {DAGS}"


def test_days_that_are_less_than_a_dag_run_may_take_are_refused(forks: Forks) -> None:
    done = forks.run(CLEAN, variables=forks.variables | {"AIRFLOW_KEEP_DAYS": "6"})
    assert done.returncode == 78
    assert "AIRFLOW_KEEP_DAYS=6 is less than a DAG run may take; set 14 or more, or 0" in done.stdout + done.stderr
