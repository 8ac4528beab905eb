"""What a backup makes of a namespace: what it refuses, what it stops, and that it starts it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import backup
from deploy.backup_stack import BackupError
from deploy.kubernetes.backup import ClusterStack
from deploy.kubernetes.cluster import BEFORE, Cluster
from deploy.kubernetes.up import AIRFLOW, OURS


class Pretended(Cluster):
    """A namespace with some workloads; patches change them, other commands are remembered."""

    def __init__(self, **replicas: int) -> None:
        super().__init__("here")
        self.ran: list[str] = []
        self.workloads: dict[str, dict[str, Any]] = {
            name: {
                "kind": "StatefulSet" if name in ("postgres", "s3") else "Deployment",
                "metadata": {"name": name, "annotations": {}},
                "spec": {"replicas": count, "selector": {"matchLabels": {"app": name}}},
                "status": {"readyReplicas": count},
            }
            for name, count in replicas.items()
        }

    def objects(self, kinds: str, selector: str = "") -> list[dict[str, Any]]:
        wanted = [one for one in self.workloads.values() if f"{one['kind'].lower()}s" in kinds]
        airflow = [one for one in wanted if one["metadata"]["name"].startswith("airflow")]
        assert selector in (OURS, AIRFLOW)
        return json.loads(json.dumps(airflow if selector == AIRFLOW else [one for one in wanted if one not in airflow]))

    def run(self, *arguments: str, **_: Any) -> str:
        if arguments[0] != "patch":
            self.ran.append(" ".join(arguments[:5]))
            return ""
        workload, patch = self.workloads[arguments[1].split("/")[1]], json.loads(arguments[-1])
        workload["spec"] |= patch["spec"]
        workload["status"]["readyReplicas"] = patch["spec"]["replicas"]
        before = patch["metadata"]["annotations"][BEFORE]
        workload["metadata"]["annotations"] = {} if before is None else {BEFORE: before}
        self.ran.append(f"{workload['metadata']['name']}={patch['spec']['replicas']}")
        return ""

    def replicas(self) -> dict[str, int]:
        return {name: one["spec"]["replicas"] for name, one in self.workloads.items()}


WHOLE = {"postgres": 1, "s3": 1, "mlflow": 3, "serving": 2, "airflow-scheduler": 1, "airflow-triggerer": 0}


@pytest.fixture
def cluster() -> Iterator[Pretended]:
    """A whole one, which is as it was at the end."""
    found = Pretended(**WHOLE)
    yield found
    assert found.replicas() == WHOLE
    assert not any(one["metadata"]["annotations"] for one in found.workloads.values())


def test_mlflow_and_airflow_are_stopped_and_started_as_they_were(cluster: Pretended) -> None:
    with ClusterStack(cluster).stopped():
        assert cluster.replicas() == WHOLE | {"mlflow": 0, "airflow-scheduler": 0}
        assert cluster.ran[:2] == ["mlflow=0", "wait --for=delete pods --selector app=mlflow"]
    assert cluster.ran[-1] == "rollout restart deployment/serving", "a version of that number may be another model now"


def test_they_are_started_when_the_restore_fails_too(cluster: Pretended) -> None:
    with pytest.raises(RuntimeError), ClusterStack(cluster).stopped():
        raise RuntimeError("no database")


def test_what_a_killed_restore_stopped_is_started_by_the_next(cluster: Pretended) -> None:
    killed = ClusterStack(cluster).stopped()
    killed.__enter__()
    assert cluster.replicas()["mlflow"] == 0
    ClusterStack(cluster).require_running()
    assert cluster.replicas() == WHOLE


def test_a_store_outside_is_not_asked_for() -> None:
    ClusterStack(Pretended(postgres=1, mlflow=1, serving=1)).require_running()


@pytest.mark.parametrize(
    ("replicas", "code", "says"),
    [
        ({}, 69, "namespace here holds nothing of ours; run make kubernetes-up"),
        ({"mlflow": 2, "serving": 2}, 73, "RDS' snapshots and S3's versions are the backup there"),
        ({"postgres": 0, "s3": 1, "mlflow": 0}, 69, "mlflow, postgres not ready in namespace here"),
    ],
)
def test_a_namespace_that_will_not_do_is_one_line_and_nothing_is_changed(
    replicas: dict[str, int], code: int, says: str, tmp_path: Path
) -> None:
    cluster = Pretended(**replicas)
    with pytest.raises(BackupError) as error:
        backup.save_to(ClusterStack(cluster), tmp_path / "saved.backup", ["k" * 32])
    assert error.value.code == code
    assert "\n" not in str(error.value)
    assert says in str(error.value)
    assert cluster.ran == []


def test_programs_run_in_pods_and_get_no_password_from_here() -> None:
    stack = ClusterStack(Cluster("here"))
    command = stack.bucket("save")
    assert command[:5] == ["kubectl", "--namespace", "here", "exec", "--stdin"]
    assert command[-1] == "save"
    assert not [word for word in command if "SECRET_ACCESS_KEY=" in word or "PASSWORD=" in word]


def test_a_cluster_that_does_not_answer_is_the_backups_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/dev/null")
    with pytest.raises(BackupError):
        ClusterStack(Cluster("here")).require_running()
