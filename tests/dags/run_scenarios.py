"""Runs DAGs for real with a stub for the stages; prints one JSON line. `main` runs in a `forked.Forked`.

Its argument is JSON: a list of {"dag": ..., "conf": ..., "stub": {variables of the stub}, "variables": environment
variables from then on, "answers": [[user, option], ...] to the task approve}. It has a process of its own, because
Airflow reads its configuration once and sets the signal handlers of the process it runs in.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow import settings
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.utils.session import create_session
from jsonschema import Draft202012Validator

from pipeline.local.operator import LocalStageOperator

STUB = """
import json, os, sys, time
stage, _, _, _, result = sys.argv[1:]
request = json.load(sys.stdin)
told = json.loads(os.environ["STUB"])
task = request["task"]["task_id"]
if stage == "clean":
    request["keep_weights_days"] = os.environ["PIPELINE_KEEP_WEIGHTS_DAYS"]
with open(os.environ["STUB_CALLS"], "a") as calls:
    calls.write(json.dumps([task, request]) + "\\n")
if told.get("sleep") == task:
    time.sleep(600)
if told.get("fail") == task and not (told.get("once") and os.path.exists(os.environ["STUB_CALLS"] + task)):
    open(os.environ["STUB_CALLS"] + task, "w").close()
    print("2026-01-31 06:00:00,000 ERROR tasks: DataError: the source is empty")
    sys.exit(told["code"])
more = {
    "prepare": {"fingerprint": "a" * 64, "reused": False, "classes": 10, "train_images": 1, "validation_images": 1,
                "test_images": 1, "removed_images": 0},
    "tune": {"model": "resnet18", "hyperparameters": {"momentum": 0.95}, "metric": "validation_accuracy",
             "best_value": 0.5, "best_trial": 1, "finished": 1, "stopped": 1, "failed": 0, "epochs": 3},
    "train": {"epochs": 1, "best_epoch": 1, "validation_accuracy": 0.5, "images_per_second": 1.0,
              "model_sha256": "b" * 64, "tuned_by": request.get("tuned_by")},
    "compress": {"method": "int8", "train_run_id": "2" * 32, "parent_version": 3, "validation_accuracy": 0.5,
                 "parent_validation_accuracy": 0.5, "same_answers": 1.0, "megabytes": 1.0, "parent_megabytes": 4.0,
                 "model_sha256": "c" * 64},
    "evaluate": {"accuracy": 0.5, "macro_f1": 0.5, "promote": True, "reason": "first", "champion_version": None,
                 "champion_accuracy": None, "table": "| check |"},
    "register": {"registered_model": "m", "version": 12, "created": True, "promoted": told.get("refused") != task,
                 "previous_champion": None, "reason": "first"},
    "deploy": {"registered_model": "m", "version": 12, "url": "http://x", "started": False, "answers_checked": 1,
               "replicas": 1, "skipped": told.get("skipped")},
    "predict": {"registered_model": "m", "version": 12, "out": "s3://b/p/", "images": 5, "failed": 0, "parts": 1,
                "images_per_second": 9.5},
    "clean": {"removed": {"weights": 2}, "megabytes": 3.5, "kept": 0},
}[stage]
run_id = {"prepare": "1" * 32, "tune": "7" * 32, "train": "12e45" + "0" * 27, "compress": "8" * 32}.get(stage, "f" * 32)
with open(result, "w") as file:
    json.dump({"run_id": run_id, "experiment_id": "1", "seconds": 0.1} | more, file)
"""


def run(dag: Any, scenario: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the DAG once and tell each task's state, tries and link, and every call of a stage by its task."""
    from airflow.models.xcom import XComModel

    calls = Path(tempfile.mkstemp(dir=folder)[1])
    os.environ["STUB"], os.environ["STUB_CALLS"] = json.dumps(scenario["stub"]), str(calls)
    if scenario.get("answers"):
        threading.Thread(target=give_answers, args=(dag.dag_id, scenario["answers"]), daemon=True).start()
    result = dag.test(run_conf=scenario.get("conf"))
    with create_session() as session:
        tasks = {ti.task_id: [ti.state, ti.try_number] for ti in result.get_task_instances(session=session)}
        pushed = session.query(XComModel.task_id, XComModel.value).filter_by(run_id=result.run_id)
        links = dict(pushed.filter_by(key="_link_MlflowRunLink").all())
        tuned = dict(pushed.filter_by(key="_link_TunedByLink").all())
        results = dict(pushed.filter_by(key="return_value").all())
    return {
        "state": result.state,
        "tasks": tasks,
        "links": links,
        "tuned": tuned,
        "results": results,
        "calls": [json.loads(line) for line in calls.read_text().splitlines()],
    }


def give_answers(dag_id: str, answers: list[list[str]]) -> None:
    """Answer the task `approve` of the newest run, each time that it waits, by the function of Airflow's API."""
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
    from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
    from airflow.models.taskinstance import TaskInstance

    for name, option in answers:
        deadline = time.monotonic() + 300
        while True:
            with create_session() as session:
                waits = {"dag_id": dag_id, "task_id": "approve", "state": "awaiting_input"}
                if (waiting := session.query(TaskInstance).filter_by(**waits).first()) is not None:
                    payload = UpdateHITLDetailPayload(chosen_options=[option], params_input={"comment": "seen"})
                    user = SimpleAuthManagerUser(username=name, role="admin")
                    update_hitl_detail(dag_id, waiting.run_id, "approve", payload, user, session)
                    break
            assert time.monotonic() < deadline, f"{name} was not asked"
            time.sleep(0.2)


def quicker() -> None:
    """Spare Airflow half of the work of a DAG test, and the seconds in which it does nothing."""
    check_schemas_once()
    look_again_at_once()


def look_again_at_once() -> None:
    """Where nothing can be run yet, `DAG.test` sleeps for a second before it looks again: twice in most runs."""
    pause = time.sleep

    def shorter(seconds: float) -> None:
        pause(0.02 if sys._getframe(1).f_code is DAG.test.__code__ else seconds)

    time.sleep = shorter


def check_schemas_once() -> None:
    """Airflow checks the schema of a Param every time it reads its value."""
    check = Draft202012Validator.check_schema.__func__  # type: ignore[attr-defined]
    known: set[str] = set()

    def once(cls: type, schema: Any, *rest: Any, **options: Any) -> None:
        if (key := json.dumps(schema, sort_keys=True)) not in known:
            check(cls, schema, *rest, **options)
            known.add(key)

    Draft202012Validator.check_schema = classmethod(once)  # type: ignore[method-assign,assignment]


def main() -> None:
    """Run every scenario and print what came of it."""
    quicker()
    folder = Path(tempfile.mkdtemp())
    (folder / "stub.py").write_text(STUB)
    LocalStageOperator.command = (sys.executable, str(folder / "stub.py"))
    dags = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    done = []
    for scenario in json.loads(sys.argv[1]):
        os.environ.update(scenario.get("variables", {}))
        # Each test of a DAG reads the whole folder of DAGs twice, so there is only its file.
        file = dags / f"{scenario.get('dag', 'daily_training')}.py"
        alone = folder / "dags" / file.name
        for other in alone.parent.glob("*.py"):
            other.unlink()
        alone.parent.mkdir(exist_ok=True)
        alone.write_bytes(file.read_bytes())
        os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(alone.parent)
        settings.configure_vars()  # a test of a DAG reads the folder that it found there
        # Read anew each time: a DAG's Params keep the values of the run before, in a process that runs it twice.
        (dag,) = DagBag(alone.parent).dags.values()
        for task in dag.tasks:
            task.retry_delay, task.max_retry_delay = timedelta(0), timedelta(seconds=1)
        done.append(run(dag, scenario, folder))
    print("\n" + json.dumps(done))
