"""The administrators' rules reach register's container: it refuses what falls short of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import RestException

from .conftest import ROOT, Stack, airflow_beside, airflow_command

pytestmark = pytest.mark.docker
RULES = {"models": {"ruled-*": {"gate": {"min_accuracy": 1.0}}}}


def test_a_model_under_a_floor_becomes_no_champion(
    stack: Stack, daily_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of the daily run once more, which was promoted there."""
    dag = (ROOT / "dags" / "daily_training.py").read_text()
    environment = airflow_beside(stack, tmp_path, "daily_training.py", dag)
    environment |= {"PIPELINE_POLICIES": json.dumps(RULES), "SERVING_URL": stack.serving_url}
    conf = {"epochs": 3, "registered_model": "ruled-digits"}
    command = [airflow_command(), "dags", "test", "daily_training", "2026-02-04", "--conf", json.dumps(conf)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    for name, value in zip(("USERNAME", "PASSWORD"), stack.login, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    client = MlflowClient(stack.mlflow_url)
    experiment = client.get_experiment_by_name("vision-mlops")
    assert experiment
    [register] = client.search_runs([experiment.experiment_id], "tags.`pipeline.stage` = 'register'", max_results=1)
    result = json.loads(register.data.tags["pipeline.result"])
    assert (result["registered_model"], result["promoted"]) == ("ruled-digits", False)
    assert "PIPELINE_POLICIES (ruled-*): min_accuracy 1.0" in result["reason"]
    with pytest.raises(RestException, match="champion"):
        client.get_model_version_by_alias("ruled-digits", "champion")
