from __future__ import annotations

import inspect
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, TaskGroup
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.xcom import XCom

from pipeline.docker.operator import DockerStageOperator
from pipeline.kubernetes.pod import stage_pod
from pipeline.local.operator import LocalStageOperator
from pipeline.operator.links import MlflowRunLink, ReusedFromLink, run_url
from pipeline.operator.params import stage_params
from pipeline.operator.stage_operator import check_stages
from pipeline.runtimes import stage_task
from tasks.contract.training import TrainRequest
from tasks.errors import RequestError, SettingsError
from tasks.settings import load_settings

RUN_ID = "12345678901234567890123456789012"


def context(operator: Any, conf: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "ti": SimpleNamespace(run_id="manual__2026-01-01T00:00:00+00:00", map_index=-1),
        "dag_run": SimpleNamespace(conf=conf),
        "params": {**operator.dag.params.dump(), **(conf or {})},
    }


@pytest.fixture
def dag() -> DAG:
    return DAG("d", params=stage_params("prepare", "train", "register"))


def test_local_is_the_default_runtime(dag: DAG) -> None:
    with dag:
        assert isinstance(stage_task("prepare"), LocalStageOperator)


def test_docker_is_chosen_by_the_environment(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RUNTIME", "docker")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "v3ry-l0ng")
    with dag:
        task = stage_task("prepare")
    assert isinstance(task, DockerStageOperator)
    assert task.image == "vision-mlops/prepare:dev"


@pytest.mark.parametrize(
    ("stage", "fields", "text"),
    [
        ("trian", {}, "stage 'trian' is unknown; choose one of prepare, tune, train"),
        ("train", {}, "write stage_task('train', prepare_run_id=earlier.output[\"run_id\"])"),
        ("deploy", {}, "write stage_task('deploy', version=earlier.output[\"version\"])"),
        ("train", {"prepare_run_id": RUN_ID, "epoch": 3}, "unknown parameter 'epoch'; did you mean 'epochs'?"),
        ("prepare", {"task": {}}, "unknown parameter 'task'"),
    ],
)
def test_a_wrong_dag_file_fails_when_it_is_read(dag: DAG, stage: str, fields: dict[str, Any], text: str) -> None:
    with dag, pytest.raises(RequestError) as failure:
        stage_task(stage, **fields)
    assert text in str(failure.value)


def test_wrong_resources_fail_when_the_dag_file_is_read(dag: DAG) -> None:
    with dag, pytest.raises(SettingsError, match="resources of prepare: memory='4 GB'"):
        stage_task("prepare", resources={"memory": "4 GB"})


def test_an_earlier_tasks_output_makes_the_order(dag: DAG) -> None:
    with dag:
        prepare = stage_task("prepare")
        train = stage_task("train", prepare_run_id=prepare.output["run_id"])
    assert train.upstream_task_ids == {"prepare"}


def test_dag_defaults_reach_the_task_and_its_own_timeout_wins() -> None:
    from datetime import timedelta

    with DAG("d", default_args={"retries": 4, "execution_timeout": timedelta(minutes=1)}):
        one, two = stage_task("prepare", task_id="one"), stage_task("prepare", execution_timeout=timedelta(hours=1))
    assert (one.retries, one.execution_timeout) == (4, timedelta(minutes=1))
    assert two.execution_timeout == timedelta(hours=1)


def test_a_request_is_the_dag_fields_then_the_form_then_the_defaults(dag: DAG) -> None:
    with dag:
        task = stage_task("train", prepare_run_id=RUN_ID, batch_size=256)
    request = task.job(context(task, {"epochs": 3, "batch_size": 32})).request
    assert isinstance(request, TrainRequest)
    assert (request.epochs, request.batch_size, request.prepare_run_id) == (3, 256, RUN_ID)
    assert request.warmup_fraction == 0.2
    assert request.task.key == "d/manual__2026-01-01T00:00:00+00:00/train/-1"


def test_a_mapped_task_keeps_index_zero(dag: DAG) -> None:
    with dag:
        task = stage_task("prepare")
    given = context(task)
    given["ti"].map_index = 0
    assert task.job(given).key.endswith("/prepare/0")


@pytest.mark.parametrize(
    ("conf", "text"),
    [
        ({"epoch": 3}, "unknown parameter 'epoch'; did you mean 'epochs'?"),
        ({"dataset": "image_folder"}, "needs source"),
        ({"dataset": "cifar"}, "dataset='cifar'"),
    ],
)
def test_a_wrong_dag_run_fails_for_good_in_one_line(dag: DAG, conf: dict[str, Any], text: str) -> None:
    with dag:
        task = stage_task("prepare")
    with pytest.raises(AirflowFailException) as failure:
        inspect.unwrap(LocalStageOperator.execute)(task, context(task, conf))
    assert text in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_stage_that_is_left_out_is_skipped_and_its_parameters_are_not_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with DAG("d", params=stage_params("compress", optional={"compress": "none"})) as dag:
        task = stage_task("compress", trained_by=RUN_ID)
    checked: list[str] = []
    monkeypatch.setattr(LocalStageOperator, "check", lambda self, params: checked.append(self.task_id))
    given = context(task)
    check_stages(dag, given["params"])
    with pytest.raises(AirflowSkipException, match="this run does without compress: compress=none"):
        inspect.unwrap(LocalStageOperator.execute)(task, given)
    assert checked == []
    given = context(task, {"compress": "int8"})
    assert task.job(given).request.model_dump(include={"method", "trained_by"}) == {
        "method": "int8",
        "trained_by": RUN_ID,
    }
    assert checked == ["compress"]


def test_a_task_in_a_group_has_a_key_of_its_own_on_every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    with DAG("d", params=stage_params("prepare")) as dag:
        one = stage_task("prepare")
        with TaskGroup("again"):
            two = stage_task("prepare")
    given = context(one)
    jobs = [task.job(given) for task in (one, two)]
    assert dag.task_ids == ["prepare", "again.prepare"]
    assert [job.stage for job in jobs] == ["prepare", "prepare"]
    assert [job.key.split("/")[2] for job in jobs] == [job.labels["pipeline.task_id"] for job in jobs] == dag.task_ids
    monkeypatch.setenv("PIPELINE_KUBERNETES_SECRET", "stages")
    pods = [stage_pod(job, load_settings()).metadata for job in jobs]
    assert all(re.fullmatch(r"prepare-[0-9a-f]{12}", pod.name) for pod in pods)
    assert len({pod.labels["pipeline.key"] for pod in pods}) == 2
    assert [pod.annotations["pipeline.task_id"] for pod in pods] == dag.task_ids


def test_a_lost_engine_is_retried(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RUNTIME", "docker")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "v3ry-l0ng")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with dag:
        task = stage_task("prepare")
    with pytest.raises(AirflowException) as failure:
        inspect.unwrap(LocalStageOperator.execute)(task, context(task))
    assert not isinstance(failure.value, AirflowFailException)
    assert "no Docker engine answers at tcp://127.0.0.1:9" in str(failure.value)


def test_secrets_are_no_template_field_and_addresses_are_the_containers(
    dag: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "v3ry-l0ng")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-s3")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-of-s3")
    with dag:
        task = stage_task("prepare", environment={"OMP_NUM_THREADS": "1"})
    job = task.job(context(task, {"dataset": "image_folder", "source": "s3://team/photos"}))
    assert job.environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert job.environment["OMP_NUM_THREADS"] == "1"
    assert set(job.private_environment) == {"MLFLOW_TRACKING_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    shown = json.dumps({name: getattr(task, name) for name in task.template_fields}) + repr(job)
    assert not [secret for secret in ("v3ry-l0ng", "key-of-s3", "s3cret-of-s3") if secret in shown]


def test_the_link_leads_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PUBLIC_URL", "https://mlflow.example/")
    url = run_url({"experiment_id": "7", "run_id": RUN_ID}, load_settings())
    assert url == f"https://mlflow.example/#/experiments/7/runs/{RUN_ID}"
    assert MlflowRunLink().name == "MLflow run"


@pytest.mark.parametrize(("reused_from", "ends"), [(None, ""), ("9" * 32, f"/runs/{'9' * 32}")])
def test_a_second_link_leads_to_the_run_that_did_the_work(
    monkeypatch: pytest.MonkeyPatch, reused_from: str | None, ends: str
) -> None:
    result = {"experiment_id": "7", "run_id": RUN_ID, "reused_from": reused_from}
    monkeypatch.setattr(XCom, "get_value", lambda **_: result)
    link = ReusedFromLink().get_link(None, ti_key=None)  # type: ignore[arg-type]  # it reads neither
    assert (bool(link), link.endswith(ends)) == (bool(reused_from), True)
    monkeypatch.setattr(XCom, "get_value", lambda **_: None)
    assert ReusedFromLink().get_link(None, ti_key=None) == ""  # type: ignore[arg-type]
