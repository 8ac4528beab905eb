"""What a cluster does to a pod, or refuses to do, told in one line with the cluster's reason."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.kubernetes.operator import KubernetesStageOperator
from tasks.errors import PermanentError, PipelineError, SettingsError, UnavailableError
from tests.stack.stub_stage import context
from tests.waiting import until

from .conftest import KUBECONFIG, Make, Namespace, become, kubeconfig_of
from .state import minor_version

pytestmark = pytest.mark.kubernetes


def failure_of(task: KubernetesStageOperator, then: Callable[[], None] | None = None) -> PipelineError:
    """What a task fails with; `then` is done beside it."""
    beside = threading.Thread(target=then) if then else None
    if beside:
        beside.start()
    with pytest.raises(PipelineError) as failure:
        task.run_stage(context())
    if beside:
        beside.join()
    assert "\n" not in str(failure.value)
    return failure.value


def failure_to_start(make: Make, monkeypatch: pytest.MonkeyPatch, says: str, **kwargs: Any) -> PipelineError:
    """What a task fails with whose pod cannot start; a busy cluster may take minutes until it `says` why."""
    for seconds in (5, 20, 80, 320):
        monkeypatch.setenv("PIPELINE_KUBERNETES_START_SECONDS", str(seconds))
        failure = failure_of(make("answer()", **kwargs))
        if says in str(failure):
            break
    return failure


def running(left: Any, task: KubernetesStageOperator) -> str:
    """Name of a task's pod, once it runs."""
    (pod,) = until(lambda: [one for one in left(task) if one["status"]["phase"] == "Running"])
    return str(pod["metadata"]["name"])


def test_a_deleted_pod_may_be_tried_again(make: Make, left: Any, namespace: Namespace) -> None:
    task = make("time.sleep(300)")
    failure = failure_of(task, lambda: namespace.kubectl("delete", "pod", running(left, task), "--wait=false"))
    assert isinstance(failure, UnavailableError)
    assert str(failure) == "the pod of register was deleted while it ran; try again"
    assert left(task) == []


def test_a_pod_that_is_drained_from_its_node_may_be_tried_again(make: Make, left: Any, namespace: Namespace) -> None:
    task = make("time.sleep(300)")

    def drain() -> None:
        name = running(left, task)
        version = "policy/v1" if minor_version() > 21 else "policy/v1beta1"
        eviction = {"apiVersion": version, "kind": "Eviction", "metadata": {"name": name}}
        path = f"/api/v1/namespaces/{namespace.name}/pods/{name}/eviction"
        namespace.kubectl("create", "--raw", path, "--filename", "-", text=json.dumps(eviction))

    failure = failure_of(task, drain)
    assert isinstance(failure, UnavailableError)
    assert "was deleted while it ran; try again" in str(failure)
    assert left(task) == []


def test_an_image_that_does_not_exist_is_named(
    make: Make, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_IMAGE_TAG", "none")
    # A cluster that reaches its registry hears that there is no such image; one that does not cannot tell.
    failure = failure_to_start(make, monkeypatch, "register:none")
    assert "register:none" in str(failure)
    assert "ErrImagePull" in str(failure) or "ImagePullBackOff" in str(failure)
    assert namespace.pods() == []


def test_a_name_that_can_be_no_image_fails_for_good(make: Make, left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_IMAGE_TAG", "a tag")
    task = make("answer()")
    failure = failure_of(task)
    assert isinstance(failure, SettingsError)
    assert "InvalidImageName" in str(failure)
    assert "PIPELINE_IMAGE_TAG" in str(failure)
    assert left(task) == []


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        ({"memory": "9000g"}, "Insufficient memory"),
        ({"gpus": 1}, "Insufficient nvidia.com/gpu"),
        ({"node_selector": {"disk": "of-gold"}}, "match"),
    ],
)
def test_a_pod_that_no_node_takes_says_what_is_missing(
    make: Make, namespace: Namespace, monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], reason: str
) -> None:
    failure = failure_to_start(make, monkeypatch, "Unschedulable", resources=resources)
    assert isinstance(failure, UnavailableError)  # a node may come
    assert re.search("did not start within [0-9]+ s: Unschedulable: 0/", str(failure))
    assert reason in str(failure)
    assert "PIPELINE_RESOURCES" in str(failure)
    assert namespace.pods() == []


def test_a_secret_that_is_not_there_fails_for_good(make: Make, left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_KUBERNETES_SECRET", "none")
    task = make("answer()")
    failure = failure_of(task)
    assert isinstance(failure, SettingsError)
    assert 'secret "none" not found' in str(failure)
    assert "make kubernetes-up" in str(failure)
    assert left(task) == []


def test_a_stage_that_takes_longer_than_its_task_is_ended_by_the_cluster(
    make: Make, left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow does it first, unless it is not there any more."""
    monkeypatch.setattr("pipeline.kubernetes.pod._deadline", lambda timeout, settings: 5)
    task = make("time.sleep(300)")
    failure = failure_of(task)
    assert not isinstance(failure, PermanentError)
    assert "DeadlineExceeded" in str(failure)
    assert left(task) == []


RIGHTS: list[tuple[list[dict[str, Any]], str]] = [
    ([], "not allowed to list pods"),
    ([{"resources": ["pods"], "verbs": ["get", "list"]}], "not allowed to create a pod"),
    ([{"resources": ["pods"], "verbs": ["create", "get", "list", "delete"]}], "not allowed to read a pod's log"),
    (
        [
            {"resources": ["pods"], "verbs": ["create", "get", "list", "delete"]},
            {"resources": ["pods/log"], "verbs": ["get"]},
        ],
        "not allowed to run a command in a pod",
    ),
]


@pytest.mark.parametrize(("rules", "text"), RIGHTS, ids=["none", "look", "pods", "logs"])
def test_an_account_with_too_few_rights_is_told_which(
    make: Make,
    left: Any,
    namespace: Namespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rules: list[dict[str, Any]],
    text: str,
) -> None:
    name = f"few-{len(rules)}-{sum(len(rule['verbs']) for rule in rules)}"
    role = {"kind": "Role", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
    given = {"rules": [{"apiGroups": [""], **rule} for rule in rules]}
    namespace.kubectl("create", "serviceaccount", name)
    namespace.kubectl("apply", "--filename", "-", text=json.dumps(role | given))
    namespace.kubectl("create", "rolebinding", name, f"--role={name}", f"--serviceaccount={namespace.name}:{name}")
    become(kubeconfig_of(name, namespace, tmp_path / "config"), monkeypatch)
    task = make("answer()")
    failure = failure_of(task)
    assert isinstance(failure, SettingsError)
    assert text in str(failure)
    assert "stage-launcher" in str(failure)
    assert left(task) == []


def test_a_namespace_that_is_not_there_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    become(Path(KUBECONFIG), monkeypatch)
    monkeypatch.setenv("PIPELINE_KUBERNETES_NAMESPACE", "vm-test-none")
    failure = failure_of(make("answer()"))
    assert isinstance(failure, SettingsError)
    assert 'namespaces "vm-test-none" not found' in str(failure)


def test_a_cluster_that_is_away_may_be_back_later(
    make: Make, worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads(worker.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "config").write_text(json.dumps(config))
    become(tmp_path / "config", monkeypatch)
    monkeypatch.setattr("pipeline.kubernetes.cluster.PATIENCE", 1.0)
    failure = failure_of(make("answer()"))
    assert isinstance(failure, UnavailableError)
    assert "no Kubernetes API answers at https://127.0.0.1:9" in str(failure)


def test_a_machine_without_a_cluster_is_told_how_to_name_one(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become(tmp_path / "none", monkeypatch)
    failure = failure_of(make("answer()"))
    assert isinstance(failure, SettingsError)
    assert "KUBECONFIG" in str(failure)
