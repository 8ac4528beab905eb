"""Searches in containers: killed and tried again, and on the cluster of the profile `ray`, of which a worker dies."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from deploy.store_policies import VARIABLES
from tasks.search.journal import MACHINE
from tasks.search.table import TRIAL
from tests.waiting import until

from .conftest import PROJECT, Stack, airflow_beside, airflow_command, build_images
from .ray_cluster import containers, ray_cluster, ray_workers

# What each part does is tested without an engine, in tests/tasks/search.
pytestmark = [pytest.mark.docker, pytest.mark.long]
DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from pipeline.operator.params import stage_params
from pipeline.runtimes import stage_task

with DAG(
    dag_id="searching",
    default_args={"retries": 1, "retry_delay": timedelta(seconds=1)},
    params=stage_params("prepare", "tune"),
):
    prepare = stage_task("prepare")
    stage_task("tune", prepare_run_id=prepare.output["run_id"])
"""
TRIALS = 10
# Long enough to be killed in the middle of, on any machine; every trial trains to its end.
CONF = {"trials": TRIALS, "epochs": 6, "searcher": "random", "scheduler": "none", "search_space": {"model": None}}


@pytest.fixture(scope="module")
def airflow(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of an Airflow here whose stages run on the engine, as `make run RUNTIME=docker` has it."""
    build_images("prepare", "tune")
    return airflow_beside(stack, tmp_path_factory.mktemp("searching"), "searching.py", DAG)


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[MlflowClient]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("USERNAME", "PASSWORD"), stack.login, strict=True):
            patch.setenv(f"MLFLOW_TRACKING_{name}", value)
        yield MlflowClient(stack.mlflow_url)


def kill(container: str) -> None:
    subprocess.run(["docker", "kill", "--signal", "KILL", container], check=True, capture_output=True)


def runs(client: MlflowClient, stage: str, experiment: str) -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    return list(client.search_runs([found.experiment_id], f"tags.`pipeline.stage` = '{stage}'", max_results=200))


def done(client: MlflowClient, experiment: str) -> list[Run]:
    return [run for run in runs(client, "trial", experiment) if run.info.status == "FINISHED"]


def search(environment: Mapping[str, str], experiment: str, in_the_middle: Callable[[], None]) -> str:
    """Run the DAG, do something while it searches, and return what it said."""
    command = [airflow_command(), "dags", "test", "searching", "--conf", json.dumps(CONF)]
    variables = {**environment, "PIPELINE_EXPERIMENT": experiment}
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            in_the_middle()
            said, _ = process.communicate(timeout=900)
        finally:
            process.terminate()
    assert process.returncode == 0, said[-8000:]
    return said


@pytest.fixture(scope="module")
def killed(airflow: dict[str, str], client: MlflowClient) -> str:
    """Output of a DAG run whose search was killed when a few of its trials had ended."""

    def kill_the_search() -> None:
        until(lambda: len(done(client, "killed-search")) >= 3, pause=0.3)
        [container] = containers("pipeline.stage=tune")
        kill(container)

    return search(airflow, "killed-search", kill_the_search)


def test_a_killed_search_goes_on_and_every_trial_has_one_run(killed: str, client: MlflowClient) -> None:
    assert "resuming an earlier try" in killed
    [tune] = runs(client, "tune", "killed-search")
    assert tune.info.status == "FINISHED"
    trials = runs(client, "trial", "killed-search")
    assert sorted(int(run.data.tags[TRIAL]) for run in trials) == list(range(TRIALS))
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {tune.info.run_id}


def test_trials_that_had_ended_were_not_trained_again(killed: str, client: MlflowClient) -> None:
    """Their machine is the container that was killed."""
    machines = Counter(run.data.tags[MACHINE] for run in runs(client, "trial", "killed-search"))
    assert len(machines) == 2
    assert min(machines.values()) >= 3


def test_a_search_that_has_ended_leaves_nothing_in_the_bucket_and_on_the_engine(killed: str, stack: Stack) -> None:
    keys = [stack.variables[name] for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY")]
    s3 = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=stack.s3_url)
    left = [item["Key"] for item in s3.list_objects_v2(Bucket="mlflow", Prefix="tune/").get("Contents", [])]
    assert [key for key in left if not key.endswith("/")] == []
    assert containers("pipeline.key") == []


def test_no_key_of_the_store_is_in_what_airflow_says(killed: str, stack: Stack) -> None:
    for name in ("S3_SECRET_KEY", "S3_ACCESS_KEY", *VARIABLES, "RAY_AUTH_TOKEN", *stack.stage_passwords):
        assert stack.variables[name] not in killed


@pytest.fixture(scope="module")
def cluster(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with ray_cluster(stack, tmp_path_factory.mktemp("cluster")) as working:
        yield working


@pytest.fixture(scope="module")
def workers(cluster: Stack) -> list[str]:
    found = ray_workers()
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def survived(cluster: Stack, workers: list[str], airflow: dict[str, str], client: MlflowClient) -> str:
    """Output of a DAG run that lost a worker when both had trained; the worker does not come back."""

    def kill_a_worker() -> None:
        until(lambda: {run.data.tags[MACHINE] for run in done(client, "search-on-cluster")} == set(workers), pause=0.3)
        kill(workers[0])

    return search(airflow | {"COMPOSE_PROFILES": "ray"}, "search-on-cluster", kill_a_worker)


def test_trials_ran_on_both_workers_and_nowhere_else(survived: str, workers: list[str], client: MlflowClient) -> None:
    trials = runs(client, "trial", "search-on-cluster")
    assert {run.data.tags[MACHINE] for run in trials} == set(workers)


def test_the_killed_workers_trial_ended_on_the_other(survived: str, client: MlflowClient) -> None:
    trials = runs(client, "trial", "search-on-cluster")
    assert sorted(int(run.data.tags[TRIAL]) for run in trials) == list(range(TRIALS))
    assert {run.info.status for run in trials} == {"FINISHED"}
    for run in trials:
        epochs = client.get_metric_history(run.info.run_id, "validation_accuracy")
        assert sorted(point.step for point in epochs) == list(range(1, CONF["epochs"] + 1))


def test_results_are_those_of_one_try(survived: str, client: MlflowClient) -> None:
    assert "resuming an earlier try" not in survived
    [tune] = runs(client, "tune", "search-on-cluster")
    assert tune.info.status == "FINISHED"
    assert tune.data.metrics["best_validation_accuracy"] > 0.5


def test_the_search_has_left_the_cluster(survived: str, cluster: Stack) -> None:
    code = (
        "import ray; ray.init('ray-head:6379', log_to_driver=False); print(len([n for n in ray.nodes() if n['Alive']]))"
    )
    head = ["docker", "exec", f"{PROJECT}-work-ray-head-1", "python", "-c", code]

    def nodes() -> str:
        return subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()

    until(lambda: nodes() == "2", pause=0.3)  # the head and the worker that is left


def test_who_has_no_token_is_not_let_in(cluster: Stack) -> None:
    name = f"{PROJECT}-work-ray-head-1"
    code = "import ray; ray.init('ray-head:6379')"
    for token in ("RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef", "RAY_AUTH_MODE=disabled"):
        tried = ["docker", "exec", "--env", token, name, "timeout", "10", "python", "-c", code]
        refused = subprocess.run(tried, capture_output=True, text=True)
        assert refused.returncode != 0
        assert "InvalidAuthToken" in refused.stderr
    ports = subprocess.run(["docker", "port", name], capture_output=True, text=True, check=True)
    assert ports.stdout == ""


def test_a_worker_is_nobody_special_and_knows_no_password_of_mlflow(workers: list[str], stack: Stack) -> None:
    code = "import os; print(os.getuid(), *os.environ.values()); open('/app/mine', 'w')"
    tried = subprocess.run(["docker", "exec", workers[1], "python", "-c", code], capture_output=True, text=True)
    assert tried.stdout.startswith("10001 ")
    assert "Read-only file system" in tried.stderr
    passwords = {"MLFLOW_TRACKING_PASSWORD": stack.variables["MLFLOW_TRACKING_PASSWORD"]} | stack.stage_passwords
    assert [name for name, password in passwords.items() if password in tried.stdout] == []
