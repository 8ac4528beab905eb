"""What a cluster's answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.kubernetes.cluster import BEFORE, Cluster, ClusterError
from deploy.kubernetes.verify import Line, _works_still, champion, replica, tasks_rights, workload


def deployment(replicas: int, **status: int) -> dict[str, Any]:
    return {"kind": "Deployment", "metadata": {"name": "mlflow"}, "spec": {"replicas": replicas}, "status": status}


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (deployment(2, readyReplicas=2, updatedReplicas=2), Line("deployment/mlflow", "2 of 2 ready", True)),
        (deployment(2, readyReplicas=1, updatedReplicas=2), Line("deployment/mlflow", "1 of 2 ready", False)),
        (deployment(2), Line("deployment/mlflow", "0 of 2 ready, 2 of them not updated yet", False)),
        (
            deployment(2, readyReplicas=2, updatedReplicas=1),
            Line("deployment/mlflow", "2 of 2 ready, 1 of them not updated yet", False),
        ),
        (deployment(0), Line("deployment/mlflow", "0 of 0 ready", True)),
    ],
)
def test_a_workload_is_well_when_all_of_it_is_ready_and_new(found: dict[str, Any], line: Line) -> None:
    assert workload(found) == line


def test_what_a_restore_stopped_and_did_not_start_is_not_well() -> None:
    found = deployment(0) | {"metadata": {"name": "mlflow", "annotations": {BEFORE: "2"}}}
    line = workload(found)
    assert not line.well
    assert line.state == "had 2 pods, stopped by a restore that did not finish; run make kubernetes-restore again"


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ({"succeeded": 1}, Line("job/bucket", "done", True)),
        ({"failed": 3}, Line("job/bucket", "not done, 3 tries failed", False)),
        ({}, Line("job/bucket", "not done, 0 tries failed", False)),
    ],
)
def test_a_job_is_well_when_it_is_done(status: dict[str, int], line: Line) -> None:
    assert workload({"kind": "Job", "metadata": {"name": "bucket"}, "spec": {}, "status": status}) == line


@pytest.mark.parametrize(("status", "well"), [({}, True), ({"active": 1}, True), ({"failed": 1, "active": 1}, False)])
@pytest.mark.parametrize("name", ["export-onnx", "bucket"])
def test_an_export_that_still_works_is_no_fault(name: str, status: dict[str, int], well: bool) -> None:
    job = {"kind": "Job", "metadata": {"name": name}, "spec": {}, "status": status}
    assert _works_still(job) is (well and name == "export-onnx")


@pytest.mark.parametrize(
    ("answer", "well", "version"),
    [
        ({"champion": "3"}, True, "3"),
        ({"status": 404}, True, None),
        ({"status": 401}, False, None),
        ({"status": 500}, False, None),
    ],
)
def test_mlflow_is_well_when_it_takes_the_login(answer: dict[str, Any], well: bool, version: str | None) -> None:
    line, found = champion(answer)
    assert (line.well, found) == (well, version)


@pytest.mark.parametrize(
    ("info", "wanted", "well"),
    [
        ({"model_version": 3, "problem": None}, "3", True),
        ({"model_version": 2, "problem": None}, "3", False),
        ({"model_version": 2, "problem": "digest differs"}, "3", False),
        ({"model_version": None, "problem": None}, "3", False),
        ({"model_version": None, "problem": None}, None, True),
        ({"model_version": 3, "problem": None}, None, False),
    ],
)
def test_a_pod_is_well_when_it_serves_the_champion(info: dict[str, Any], wanted: str | None, well: bool) -> None:
    line = replica("serving-1", info, wanted)
    assert line.well is well
    assert str(info["problem"] or "") in line.state


class Answering(Cluster):
    """A cluster whose API server allows some of what it is asked."""

    def __init__(self, *allowed: str) -> None:
        super().__init__("n")
        self.allowed = allowed

    def run(self, *_: str, text: str | None = None, **__: Any) -> str:
        spec = json.loads(text or "")["spec"]
        assert spec["user"] == "system:serviceaccount:n:airflow-worker"
        wanted = spec["resourceAttributes"]
        asked = f"{wanted['verb']} {wanted['resource']} {wanted['subresource']}".strip()
        return json.dumps({"status": {"allowed": wanted["namespace"] == "n" and asked in self.allowed}})


class Silent(Cluster):
    """A cluster that answers no such question."""

    def run(self, *_: str, **__: Any) -> str:
        raise ClusterError("subjectaccessreviews is forbidden")


def test_tasks_that_can_open_the_platform_are_a_fault() -> None:
    assert tasks_rights(Answering()).well
    line = tasks_rights(Answering("create pods exec", "create pods"))
    assert not line.well
    assert line.state.startswith("may create pods, create pods/exec in namespace n; run make kubernetes-up and")
    assert tasks_rights(Silent()) == Line(
        "serviceaccount/airflow-worker", "not checked (subjectaccessreviews is forbidden)", True
    )
