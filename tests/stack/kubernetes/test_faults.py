"""Points of `make chaos` in pods: killed at an external write, a stage ends the next time as if nothing happened."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from pipeline.kubernetes.operator import KubernetesStageOperator
from pipeline.operator.params import stage_params
from tasks.errors import PermanentError, PipelineError
from tests.conftest import LONG
from tests.stack.conftest import STAGES

from .conftest import become, pipeline_settings
from .state import State

pytestmark = [pytest.mark.kubernetes, *([pytest.mark.long] if LONG else [])]

MODEL = "faults"
# Names as `make chaos ARGS=--list` prints them: one in the middle of a stage's work and one at the very end of another.
# The long test has one for each stage.
FAULTS = {
    "train": [("train/log_batch#2", "before", "SIGKILL")],
    "register": [("register/set_registered_model_alias#1", "after", "SIGKILL")],
}
if LONG:
    FAULTS |= {
        "prepare": [("prepare/log_artifact#1", "after", "SIGKILL")],
        "train": [*FAULTS["train"], ("train/write_result#1", "before", "SIGTERM")],
        "evaluate": [("evaluate/log_artifact#2", "during", "SIGKILL")],
        "deploy": [("deploy/write_result#1", "before", "SIGKILL")],
    }
PARAMS = {
    "epochs": 3,
    "registered_model": MODEL,
    "resources": {stage: {"memory": "2g"} for stage in ("prepare", "train", "evaluate")},
}
LOOK = f"""
import json, os
from mlflow import MlflowClient
client = MlflowClient("http://127.0.0.1:" + os.environ["MLFLOW_PORT"])
runs = client.search_runs([client.get_experiment_by_name("faults").experiment_id])
versions = [str(one.version) for one in client.search_model_versions("name='{MODEL}'")]
champion = client.get_model_version_by_alias("{MODEL}", "champion")
print(json.dumps({{
    "runs": [[run.data.tags["pipeline.stage"], run.info.status] for run in runs],
    "versions": versions, "champion": str(champion.version),
}}))
"""


@pytest.fixture
def settings(daily_run: str, pipeline_state: State, pipeline_worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment of Airflow's tasks, for the cluster's MLflow and service."""
    for name in list(os.environ):
        if name.startswith(("PIPELINE_", "MLFLOW_", "SERVING_", "AWS_")):
            monkeypatch.delenv(name)
    values = {**pipeline_settings(pipeline_state), "PIPELINE_EXPERIMENT": "faults"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    become(pipeline_worker, monkeypatch)


def run(stage: str, fields: dict[str, Any], fault: dict[str, str] | None = None) -> dict[str, Any]:
    """One try of a task of the same DAG run, with a fault or without."""
    environment = {"PIPELINE_FAULT": json.dumps(fault)} if fault else {}
    with DAG("faults", params=stage_params(*STAGES)) as dag:
        task = KubernetesStageOperator(task_id=stage, stage=stage, request_fields=fields, environment=environment)
    given = {**dag.params.dump(), **PARAMS}
    instance = SimpleNamespace(run_id="manual__faults", map_index=-1)
    context: Any = {"ti": instance, "dag_run": SimpleNamespace(conf=None), "params": given}
    return task.run_stage(context)


def test_killed_at_an_external_write_the_next_try_ends_as_if_nothing_happened(
    settings: None, pipeline_state: State
) -> None:
    results: dict[str, dict[str, Any]] = {}
    upstream = {
        "prepare": lambda: {},
        "train": lambda: {"prepare_run_id": results["prepare"]["run_id"]},
        "evaluate": lambda: {"train_run_id": results["train"]["run_id"]},
        "register": lambda: {"evaluate_run_id": results["evaluate"]["run_id"], "approval": {}},
        # The service in the cluster follows another model than this one; its champion is there already.
        "deploy": lambda: {"version": 1, "registered_model": "vision-classifier"},
    }
    for stage in STAGES:
        for point, when, action in FAULTS.get(stage, ()):
            fault = {"point": point, "when": when, "action": action, "marker": "/tmp/fault"}  # noqa: S108
            with pytest.raises(PipelineError) as failure:
                run(stage, upstream[stage](), fault)
            assert not isinstance(failure.value, PermanentError), failure.value
            assert f"exit code {137 if action == 'SIGKILL' else 143}" in str(failure.value), point
        results[stage] = run(stage, upstream[stage]())
    said = json.loads(pipeline_state.forwarded(sys.executable, "-c", LOOK).strip().splitlines()[-1])
    assert sorted(said["runs"]) == sorted([[stage, "FINISHED"] for stage in [*STAGES, "pipeline"]])
    assert (said["versions"], said["champion"]) == (["1"], "1")
    assert results["register"]["promoted"] is True
