"""What keeps a workload, told by `make kubernetes-up` while it waits: the cluster's words, or the program's own."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from deploy.kubernetes.cluster import Cluster, ClusterError
from deploy.kubernetes.rollout import await_ready, blocked_by
from tests.waiting import until

from .conftest import KUBECONFIG, Namespace

pytestmark = pytest.mark.kubernetes
LOST = "import sys; sys.exit('no database answers\\nstart it, or correct DATABASE_URL')"


@pytest.fixture
def cluster(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("KUBECONFIG", KUBECONFIG)
    return Cluster(namespace.name)


def pod(prefix: str, code: str, **fields: Any) -> dict[str, Any]:
    """Spec of a pod whose container runs some Python; some fields are the container's own."""
    container = {
        "name": "main",
        "image": f"{prefix}/register:dev",
        "imagePullPolicy": "Never",
        "command": ["python", "-c", code],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    own = {key: fields.pop(key) for key in ("image", "imagePullPolicy", "resources") if key in fields}
    return {"containers": [container | own], "terminationGracePeriodSeconds": 0, **fields}


def apply(cluster: Cluster, name: str, spec: dict[str, Any], ready_seconds: int = 0) -> str:
    """Put a Deployment, or a Job where the pod is not started again, into the cluster; KIND/NAME.

    A pod of a Deployment counts as ready when it has run for `ready_seconds`.
    """
    labels = {"app.kubernetes.io/name": name}
    job = spec.get("restartPolicy") == "Never"
    own = {} if job else {"selector": {"matchLabels": labels}, "minReadySeconds": ready_seconds}
    manifest = {
        "apiVersion": "batch/v1" if job else "apps/v1",
        "kind": "Job" if job else "Deployment",
        "metadata": {"name": name, "namespace": cluster.namespace, "labels": labels},
        "spec": own | {"template": {"metadata": {"labels": labels}, "spec": spec}},
    }
    cluster.apply(json.dumps(manifest))
    return f"{manifest['kind']}/{name}".lower()


@pytest.mark.parametrize(
    ("name", "code", "fields", "words"),
    [
        pytest.param(
            "no-image",
            "",
            {"image": "vm-test/none:0"},
            r"pod no-image-\S+: ErrImageNeverPull: .*vm-test/none:0.*",
            marks=pytest.mark.long,
        ),
        ("no-room", "", {"resources": {"requests": {"cpu": "900"}}}, r"pod no-room-\S+: Unschedulable: 0/\d+ nodes .*"),
        ("lost", LOST, {}, r"pod lost-\S+: (.*, )?ended with code 1 \(start it, or correct DATABASE_URL\)"),
        pytest.param(
            "refused",
            "",
            {"serviceAccountName": "nobody"},
            r"FailedCreate: .*serviceaccount.*nobody.*",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_workload_that_is_not_ready_in_time_is_told_with_what_keeps_it(
    cluster: Cluster,
    image: str,
    name: str,
    code: str,
    fields: dict[str, Any],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A pod that ends at once was ready for a moment, which a busy cluster may take for the rollout's end.
    workload = apply(cluster, name, pod(image, code, **fields), ready_seconds=60)
    until(lambda: re.fullmatch(words, blocked_by(cluster, workload)), pause=1)
    with pytest.raises(ClusterError) as failure:
        await_ready(cluster, workload, timeout=25)
    assert re.fullmatch(f"{workload} is not ready: {words}", str(failure.value))
    assert re.search(words, capsys.readouterr().out), "it is told before the end, too"
    cluster.run("delete", workload)


@pytest.mark.long
def test_what_keeps_a_workload_is_printed_once_while_it_is_waited_for(
    cluster: Cluster, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image that no registry gives is ErrImagePull and ImagePullBackOff by turns."""
    workload = apply(cluster, "waits", pod(image, "", image="vm-test.invalid/none:0", imagePullPolicy="IfNotPresent"))
    until(lambda: "ImagePullBackOff" in blocked_by(cluster, workload), pause=1)
    with pytest.raises(ClusterError):
        await_ready(cluster, workload, timeout=90)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) >= 2, lines
    assert any("ErrImagePull: " in line for line in lines)
    cluster.run("delete", workload)


def test_a_job_that_failed_three_times_is_not_waited_for_any_longer(cluster: Cluster, image: str) -> None:
    workload, began = apply(cluster, "refuses", pod(image, LOST, restartPolicy="Never")), time.monotonic()
    with pytest.raises(ClusterError, match=r"job/refuses is not ready: pod refuses-\S+: ended with code 1 \(start it"):
        await_ready(cluster, workload, timeout=1200)
    assert time.monotonic() - began < 900  # the cluster tries again after 10 s and 20 s
    cluster.run("delete", workload)


@pytest.mark.parametrize(
    ("name", "seconds", "fields"), [("job", 3, {"restartPolicy": "Never"}), ("deployment", 600, {})]
)
def test_what_is_ready_is_waited_for_no_longer(
    cluster: Cluster, image: str, name: str, seconds: int, fields: dict[str, Any]
) -> None:
    workload = apply(cluster, name, pod(image, f"import time; time.sleep({seconds})", **fields))
    await_ready(cluster, workload, timeout=1800)
    cluster.run("delete", workload)
