"""One stage, two container runtimes: the container's request and the pod's are compared field by field.

`DIFFERENT` is the written list: what differs is there with its reason, and nothing else may.
"""

from __future__ import annotations

import functools
import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import docker
import pytest
from airflow.sdk import DAG
from kubernetes.client import ApiClient

from pipeline.docker.operator import WRITABLE, DockerStageOperator
from pipeline.kubernetes.pod import RESULT_PATH, stage_pod
from pipeline.operator.job import StageJob
from pipeline.operator.params import stage_params
from pipeline.runtimes import stage_task
from tasks.contract.stages import STAGES
from tasks.settings import load_settings
from tests.deploy.kubernetes.pods import Pod
from tests.deploy.kubernetes.restricted import problems

RUN_ID = "12345678901234567890123456789012"
DIGEST = "sha256:" + "ab" * 32
# Field: why the two runtimes differ in it. The last ones are the cluster's own, and mean nothing to an engine.
DIFFERENT = {
    "environment.PIPELINE_RUNTIME": "it is the name of the runtime",
    "secrets": "Docker gets their values in the container's private variables, a pod the name of a Secret",
    "user": "the engine takes the image's user (10001), a pod says the number, which its admission asks for",
    "temporary.size": "an engine's volume has no limit, a pod's folder has that of ephemeral_storage",
    "cpu.request": "an engine keeps no cores free; a pod without a limit asks for a tenth of one",
    "gpu.kind": "an engine has one kind of GPU, a cluster several",
    "node": "an engine is one machine: node_selector and tolerations have nothing to choose from",
    "account": "only a cluster has accounts; the stage's may do nothing",
}
PARAMS: list[dict[str, Any]] = [
    {},
    {"epochs": 3, "model": "resnet18", "dataset": "cifar10", "batch_size": 256},
    {"resources": {stage: {"cpus": 1.5, "memory": "3g", "shm_size": "256m", "gpus": 2} for stage in STAGES}},
    {"resources": {stage: {"memory": "512m", "ephemeral_storage": "20g"} for stage in STAGES}},
]


class RecordingEngine(docker.APIClient):
    """An engine's client that keeps what a container would be made of."""

    def __init__(self) -> None:
        super().__init__(version="1.41")
        self.made: dict[str, Any] = {}

    def create_container(self, **given: Any) -> dict[str, str]:  # type: ignore[override]
        self.made = given
        return {"Id": "c"}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "v3ry-l0ng",
        "SERVING_API_KEY": "another-secret",
        "AWS_SECRET_ACCESS_KEY": "a-third",
        "AWS_ACCESS_KEY_ID": "someone",
        "S3_ACCESS_KEY": "store",
        "S3_SECRET_KEY": "a-fourth",
        "PIPELINE_IMAGE_DIGESTS": json.dumps({"train": DIGEST}),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@functools.cache
def dag_of(runtime: str) -> tuple[DAG, dict[str, Any]]:
    """A DAG of every stage under the runtime that the environment names, and what its form says by default."""
    with DAG("d", params=stage_params(*STAGES)) as dag:
        for stage, declared in STAGES.items():
            upstream = {name: value for name, value in declared.upstream_examples.items() if name != "task"}
            stage_task(stage, execution_timeout=timedelta(hours=1), **upstream)
    assert {task.__class__.__name__ for task in dag.tasks} == {f"{runtime.capitalize()}StageOperator"}
    return dag, dag.params.dump()


def job_of(runtime: str, stage: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> StageJob:
    """The job that a DAG's task builds under a runtime."""
    monkeypatch.setenv("PIPELINE_RUNTIME", runtime)
    dag, defaults = dag_of(runtime)
    given = {**defaults, "reason": "worse in the field", "images": "s3://data/photos/", **params}
    context = {"ti": SimpleNamespace(run_id="r", map_index=-1), "dag_run": SimpleNamespace(conf=None), "params": given}
    return dag.get_task(stage).job(context)


def of_container(job: StageJob) -> dict[str, Any]:
    """What Docker is asked for, in words that both runtimes have."""
    engine = RecordingEngine()
    DockerStageOperator._create(SimpleNamespace(name_prefix="stage"), engine, job, job.image, job.image, "network")
    made, host = engine.made, engine.made["host_config"]
    secret = set(job.private_environment)
    return {
        "image": made["image"],
        "command": made["command"],
        **{f"environment.{name}": value for name, value in made["environment"].items() if name not in secret},
        "secret names": sorted(secret),
        "secrets": "values",
        "result": RESULT_PATH,
        "writable": sorted(mount["Target"] for mount in host["Mounts"]),
        "shared memory": host["ShmSize"],
        "memory": host["Memory"],
        "cpu.limit": None if host.get("NanoCpus") is None else host["NanoCpus"] / 1e9,
        "cpu.request": 0,
        "gpus": host["DeviceRequests"][0]["Count"] if host.get("DeviceRequests") else 0,
        "gpu.kind": None,
        "root is read-only": host["ReadonlyRootfs"],
        "dropped": host["CapDrop"],
        "may gain privileges": "no-new-privileges:true" not in host["SecurityOpt"],
        "labels": {**made["labels"]},
        "user": "the image's",
        "temporary.size": None,
        "init": host["Init"],
        "node": None,
        "account": None,
    }


def of_pod(job: StageJob) -> dict[str, Any]:
    """What a cluster is asked for, in the same words."""
    pod = ApiClient().sanitize_for_serialization(stage_pod(job, load_settings()))
    spec, notes = pod["spec"], {**pod["metadata"]["annotations"], **pod["metadata"]["labels"]}
    stage, limits = spec["containers"][0], spec["containers"][0]["resources"]["limits"]
    volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
    walls = stage["securityContext"]
    gpus = {name: int(count) for name, count in limits.items() if "/" in name}
    return {
        "image": stage["image"],
        "command": stage["args"],
        **{f"environment.{one['name']}": one["value"] for one in stage["env"] if "value" in one},
        "secret names": sorted(one["name"] for one in stage["env"] if "valueFrom" in one),
        "secrets": {one["valueFrom"]["secretKeyRef"]["name"] for one in stage["env"] if "valueFrom" in one},
        "result": f"{stage['volumeMounts'][0]['mountPath']}/return.json",
        "writable": sorted(one["mountPath"] for one in stage["volumeMounts"] if one["name"] != "shm"),
        "shared memory": in_bytes(volumes["shm"]["sizeLimit"]),
        "memory": in_bytes(limits["memory"]),
        "cpu.limit": float(limits["cpu"]) if "cpu" in limits else None,
        "cpu.request": stage["resources"]["requests"]["cpu"],
        "gpus": sum(gpus.values()),
        "gpu.kind": next(iter(gpus), None),
        "root is read-only": walls["readOnlyRootFilesystem"],
        "dropped": walls["capabilities"]["drop"],
        "may gain privileges": walls["allowPrivilegeEscalation"],
        "labels": {name: notes[name] for name in job.labels if name != "pipeline.key"}
        | {"pipeline.key": pod["metadata"]["annotations"]["pipeline.key"]},
        "user": spec["securityContext"]["runAsUser"],
        "temporary.size": volumes["tmp"].get("sizeLimit"),
        "init": spec["shareProcessNamespace"],
        "node": (spec.get("nodeSelector"), spec.get("tolerations")),
        "account": spec["serviceAccountName"],
    }


def in_bytes(size: str) -> int:
    return int(size[:-2]) * 1024 ** ("KMG".index(size[-2]) + 1)


def differences(container: dict[str, Any], pod: dict[str, Any]) -> set[str]:
    return {name for name in container.keys() | pod.keys() if container.get(name) != pod.get(name)}


def both(stage: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    container = of_container(job_of("docker", stage, params, monkeypatch))
    return container, of_pod(job_of("kubernetes", stage, params, monkeypatch))


@pytest.mark.parametrize("params", PARAMS, ids=["defaults", "parameters", "limits", "disk"])
@pytest.mark.parametrize("stage", STAGES)
def test_only_what_is_on_the_list_differs(stage: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    container, pod = both(stage, params, monkeypatch)
    assert differences(container, pod) <= set(DIFFERENT)
    assert container["secret names"]  # there was something to hide
    assert pod["writable"] == sorted(WRITABLE)


def test_everything_on_the_list_differs_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reason that is none any more leaves the list."""
    found = set[str]()
    for params in PARAMS:
        for stage in STAGES:
            found |= differences(*both(stage, params, monkeypatch))
    assert found == set(DIFFERENT)


def test_a_digest_is_what_both_run(monkeypatch: pytest.MonkeyPatch) -> None:
    container, pod = both("train", {}, monkeypatch)
    assert container["image"] == pod["image"] == f"vision-mlops/train@{DIGEST}"
    assert pod["environment.PIPELINE_IMAGE"] == f"vision-mlops/train@{DIGEST}"


def test_the_comparison_sees_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    container = of_container(job_of("docker", "train", {}, monkeypatch))
    pod = of_pod(job_of("kubernetes", "train", {"epochs": 3, "resources": {"train": {"memory": "1g"}}}, monkeypatch))
    assert {"command", "memory"} <= differences(container, pod) - set(DIFFERENT)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_pod_is_restricted(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of("kubernetes", stage, {"resources": {stage: {"ephemeral_storage": "5g"}}}, monkeypatch)
    pod = ApiClient().sanitize_for_serialization(stage_pod(job, load_settings()))
    assert problems(Pod(stage, pod["metadata"]["labels"], pod["spec"])) == []
