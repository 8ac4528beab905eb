"""The daily DAG twice in a row, for real: the second run trains nothing and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

# `make test` has each stage twice in test_earlier_results, and a whole DAG run in the Airflow stack's test_promotion.
pytestmark = pytest.mark.long
CONF = {"epochs": 1, "min_accuracy": 0, "min_macro_f1": 0, "max_calibration_error": 1}
# deploy is left out: it is the same with and without reuse, and would start a service.
RUN = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
from run_scenarios import quicker
quicker()
dag = DagBag().dags["daily_training"]
for conf in json.loads(sys.argv[1]):
    began = time.monotonic()
    run = dag.test(run_conf=conf, mark_success_pattern="deploy")
    print(run.run_id, run.state, f"{time.monotonic() - began:.0f} s")
    if run.state != "success":
        sys.exit(1)
"""


@pytest.fixture(scope="module")
def client(airflow: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """The MLflow in which the DAG ran twice."""
    home = tmp_path_factory.mktemp("twice")
    path = f"{Path(__file__).parent}{os.pathsep}{airflow['PYTHONPATH']}"
    variables = {**airflow, "PIPELINE_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([CONF, CONF])], env=variables, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Downloading artifacts" not in said  # every step of MLflow's bars would be a line
    store = f"sqlite:///{home / 'mlflow.db'}"
    return MlflowClient(store, registry_uri=store)


@pytest.fixture(scope="module")
def runs(client: MlflowClient) -> dict[str, list[Run]]:
    """The two runs of each stage, the first one first."""
    experiment = client.get_experiment_by_name(os.environ.get("PIPELINE_EXPERIMENT", "vision-mlops"))
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    stages = ("prepare", "train", "evaluate", "register")
    return {stage: [run for run in found if run.data.tags["pipeline.stage"] == stage] for stage in stages}


def result(run: Run) -> dict[str, Any]:
    return dict(json.loads(run.data.tags["pipeline.result"]))


def test_every_stage_ended_well_both_times(runs: dict[str, list[Run]]) -> None:
    assert {stage: [run.info.status for run in both] for stage, both in runs.items()} == {
        stage: ["FINISHED", "FINISHED"] for stage in runs
    }


def test_only_the_first_run_trained(runs: dict[str, list[Run]]) -> None:
    first, second = runs["train"]
    assert "train_loss" in first.data.metrics
    assert second.data.metrics == {}
    assert second.data.tags["pipeline.reused_from"] == first.info.run_id
    assert result(second) == result(first) | {
        "reused_from": first.info.run_id, "seconds": result(second)["seconds"]
    }  # fmt: skip


def test_the_champion_was_judged_again_and_not_measured(runs: dict[str, list[Run]]) -> None:
    first, second = runs["evaluate"]
    assert second.data.tags["pipeline.reused_from"] == first.info.run_id
    assert (result(first)["promote"], result(second)["promote"]) == (True, False)
    assert result(second)["reason"] == "unchanged: these weights are the champion already, version 1"


def test_there_is_one_version_one_champion_and_one_promotion(client: MlflowClient, runs: dict[str, list[Run]]) -> None:
    assert [int(version.version) for version in client.search_model_versions("name = 'vision-classifier'")] == [1]
    assert int(client.get_model_version_by_alias("vision-classifier", "champion").version) == 1
    ledger = client.get_experiment_by_name("promotions")
    assert ledger is not None
    assert len(client.search_runs([ledger.experiment_id])) == 1
    assert [result(run)["created"] for run in runs["register"]] == [True, False]
