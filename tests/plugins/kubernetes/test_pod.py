from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from kubernetes.client import ApiClient

from pipeline.kubernetes.pod import key_label, stage_pod
from pipeline.operator.job import StageJob
from tasks.contract.prediction import PredictRequest
from tasks.contract.resources import StageResources
from tasks.contract.stages import parse_request
from tasks.errors import PermanentError, RequestError, SettingsError
from tasks.settings import load_settings

Make = Callable[..., StageJob]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("PIPELINE_RUNTIME", "kubernetes")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "v3ry-l0ng")

    def made(run: str = "r", timeout: timedelta | None = timedelta(hours=1), **resources: Any) -> StageJob:
        task = {"dag_id": "d", "dag_run_id": run, "task_id": "t"}
        request = parse_request("prepare", {"task": task})
        return StageJob(
            stage="prepare",
            request=request,
            image="x/prepare:dev",
            environment={"A": "1"},
            private_environment={"B": "hidden", "C": "hidden too"},
            secret_keys={"C": "OF_ANOTHER_NAME"},
            resources=StageResources.model_validate(resources),
            timeout=timeout,
        )

    return made


def built(job: StageJob) -> dict[str, Any]:
    found: dict[str, Any] = ApiClient().sanitize_for_serialization(stage_pod(job, load_settings()))
    return found


def test_no_secret_is_in_the_pod(make: Make) -> None:
    text = json.dumps(built(make()))
    assert "hidden" not in text
    assert '"secretKeyRef": {"key": "B", "name": "stages"}' in text
    assert '{"name": "C", "valueFrom": {"secretKeyRef": {"key": "OF_ANOTHER_NAME", "name": "stages"}}}' in text


def test_the_key_is_a_label_whatever_it_is_made_of(make: Make) -> None:
    run = "manual__2026-01-01T00:00:00+00:00_" + "x" * 200
    metadata = built(make(run))["metadata"]
    assert metadata["annotations"]["pipeline.key"] == f"d/{run}/t/-1"
    assert metadata["labels"]["pipeline.key"] == key_label(f"d/{run}/t/-1")
    assert len(metadata["labels"]["pipeline.key"]) <= 63
    assert metadata["name"].startswith("prepare-")


def test_two_tries_have_one_digest_and_two_names_and_another_request_has_another(make: Make) -> None:
    one, two, other = built(make())["metadata"], built(make())["metadata"], built(make("r2"))["metadata"]
    assert one["name"] != two["name"]
    assert one["annotations"]["pipeline.digest"] == two["annotations"]["pipeline.digest"]
    assert one["annotations"]["pipeline.digest"] != other["annotations"]["pipeline.digest"]


def test_a_gpu_pod_goes_where_it_is_told(make: Make) -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 60}
    spec = built(make(gpus=2, gpu_kind="nvidia.com/mig-1g.5gb", node_selector={"pool": "gpu"}, tolerations=[taint]))[
        "spec"
    ]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.5gb"] == "2"
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["tolerations"] == [taint]


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"gpus": -1}, "resources of prepare: gpus=-1 means all GPUs, which works on Docker only; give a number"),
        ({"tolerations": [{"kee": "x"}]}, "tolerations: 'kee' is unknown; choose from effect, key"),
    ],
)
def test_what_a_cluster_does_not_know_is_named(make: Make, resources: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        stage_pod(make(**resources), load_settings())


def test_a_pod_ends_by_itself_some_time_after_its_task_should_have(make: Make) -> None:
    assert built(make(timeout=timedelta(minutes=10)))["spec"]["activeDeadlineSeconds"] == 600 + 300 + 600
    assert "activeDeadlineSeconds" not in built(make(timeout=None))["spec"]


def test_sizes_mean_the_same_on_both(make: Make) -> None:
    limits = built(make(memory="8g", ephemeral_storage="512m", cpus=0.5))["spec"]["containers"][0]["resources"]
    assert limits["limits"] == {"memory": "8Gi", "ephemeral-storage": "512Mi", "cpu": "0.5"}


def test_cores_may_be_shared_and_memory_not(make: Make) -> None:
    limits = built(make(memory="8g", cpus=2, cpu_request=0.25))["spec"]["containers"][0]["resources"]
    assert limits == {"limits": {"memory": "8Gi", "cpu": "2"}, "requests": {"memory": "8Gi", "cpu": "0.25"}}


@pytest.mark.parametrize("field", ["source", "corrections"])
def test_a_path_of_this_machine_is_nothing_for_a_pod(make: Make, field: str) -> None:
    job = make()
    object.__setattr__(job, "request", job.request.model_copy(update={field: "/data"}))
    with pytest.raises(PermanentError, match=f"{field}='/data' is a path"):
        stage_pod(job, load_settings())


def test_predictions_are_not_written_into_a_pod(make: Make) -> None:
    job, task = make(), make().request.task
    for out, refused in (("/data/found", True), ("s3://data/found/", False), (None, False)):
        request = PredictRequest(task=task, images="s3://data/photos/", out=out)
        object.__setattr__(job, "request", request)
        with pytest.raises(RequestError, match="out='/data/found' is a folder of") if refused else nullcontext():
            stage_pod(job, load_settings())


@pytest.mark.parametrize("address", ["s3://data/fixed.csv", f"runs:/{'a' * 32}/suspected_labels.csv"])
def test_corrections_at_an_address_reach_a_pod(make: Make, address: str) -> None:
    job = make()
    object.__setattr__(job, "request", job.request.model_copy(update={"corrections": address}))
    assert address in json.dumps(built(job))
