"""Stages in a namespace of their own: who may do what in it and in the platform's, tried on a real cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.stack.conftest import TAG
from tests.waiting import until

from .conftest import Namespace, kubeconfig_of
from .state import State

pytestmark = pytest.mark.kubernetes
Rules = set[tuple[str, str, str]]
IMAGE = f"vision-mlops/register:{TAG}"  # on the nodes
ATTEMPTS = {
    "a command in Postgres": ("exec", "postgres-0", "--", "id"),
    "a command in MLflow": ("exec", "{mlflow}", "--", "id"),
    "a connection to Postgres": ("port-forward", "postgres-0", ":5432"),
    "a Secret of the platform": ("get", "secret", "postgres"),
    "its Secrets": ("get", "secrets"),
    "its pods": ("get", "pods"),
    "a log": ("logs", "postgres-0"),
    "a pod there": ("create", "--filename", "-"),
    "the end of a pod": ("delete", "pod", "postgres-0"),
    "an account's token": ("create", "token", "airflow-scheduler"),
}


def pod(name: str, **fields: Any) -> str:
    """A pod that "restricted" admits, as JSON."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["sleep", "60"],
        "securityContext": context | {"runAsUser": 1},
    }
    spec = {"containers": [container | fields], "automountServiceAccountToken": False}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def tried(kubeconfig: Path, namespace: str, *arguments: str, text: str | None = None) -> tuple[int, str]:
    """Run kubectl as an account; return its exit code and what it wrote."""
    command = ["kubectl", "--kubeconfig", str(kubeconfig), "--namespace", namespace, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def accounts(pipeline_state: State, pipeline_worker: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A kubeconfig of each account that code of DAGs or stages could get hold of."""
    folder = tmp_path_factory.mktemp("accounts")
    stage = kubeconfig_of("stage", Namespace(pipeline_state.stages), folder / "stage")
    return {"airflow-worker": pipeline_worker, "stage": stage}


@pytest.mark.parametrize("account", ["airflow-worker", "stage"])
@pytest.mark.parametrize("what", ATTEMPTS)
def test_nothing_of_the_platform_is_within_reach(
    pipeline_state: State, accounts: dict[str, Path], account: str, what: str
) -> None:
    [mlflow, *_] = pipeline_state.objects("pods", "--selector", "app.kubernetes.io/name=mlflow")
    arguments = [word.format(mlflow=mlflow["metadata"]["name"]) for word in ATTEMPTS[what]]
    code, said = tried(accounts[account], pipeline_state.name, *arguments, text=pod("intruder"))
    assert code != 0
    assert "is forbidden" in said or "Forbidden" in said, said


def test_a_pod_among_the_stages_finds_no_secret_of_the_platform(
    pipeline_state: State, accounts: dict[str, Path]
) -> None:
    theirs = pipeline_state.objects("secrets", "--selector", "app.kubernetes.io/part-of=vision-mlops")
    assert {one["metadata"]["name"] for one in theirs} >= {"postgres", "mlflow", "airflow", "s3"}
    stages = pipeline_state.objects(
        "secrets", "--selector", "app.kubernetes.io/part-of=vision-mlops", namespace=pipeline_state.stages
    )
    assert [one["metadata"]["name"] for one in stages] == ["stages"]
    assert not {"POSTGRES_PASSWORD", "MLFLOW_TRACKING_PASSWORD"} & set(stages[0]["data"])

    worker = accounts["airflow-worker"]
    text = pod("thief", envFrom=[{"secretRef": {"name": "postgres"}}])
    code, said = tried(worker, pipeline_state.stages, "create", "--filename", "-", text=text)
    assert code == 0, said

    def waiting() -> str:
        found = json.loads(pipeline_state.kubectl("get", "pod", "thief", "-o", "json", namespace=pipeline_state.stages))
        statuses = found["status"].get("containerStatuses", [])
        return " ".join(str(one["state"].get("waiting", {}).get("message", "")) for one in statuses)

    try:
        until(lambda: 'secret "postgres" not found' in waiting())
    finally:
        assert tried(worker, pipeline_state.stages, "delete", "pod", "thief", "--wait=false")[0] == 0


@pytest.mark.parametrize("account", ["airflow-worker", "stage"])
def test_no_secret_of_the_stages_can_be_asked_for_either(
    pipeline_state: State, accounts: dict[str, Path], account: str
) -> None:
    code, said = tried(accounts[account], pipeline_state.stages, "get", "secret", "stages")
    assert code != 0
    assert "forbidden" in said


def rules(state: State, account: str, of: str, where: str) -> Rules:
    """Everything that the API server lets an account do in a namespace: group, resource, verb."""
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    review = kind | {"spec": {"namespace": where}}
    who = f"--as=system:serviceaccount:{of}:{account}"
    told = json.loads(state.kubectl("create", who, "--filename", "-", "--output", "json", text=json.dumps(review)))
    assert not told["status"]["incomplete"]
    return {
        (group, resource, verb)
        for rule in told["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_each_account_may_do_what_its_role_lists_in_one_namespace_and_no_more(pipeline_state: State) -> None:
    platform, stages = pipeline_state.name, pipeline_state.stages
    anyone = rules(pipeline_state, "nobody-made-this-one", platform, platform)  # may ask what it may do
    assert {group for group, _, _ in anyone} == {"authorization.k8s.io"}
    for where in (platform, stages):
        assert rules(pipeline_state, "stage", stages, where) == anyone
    assert rules(pipeline_state, "airflow-worker", platform, platform) == anyone
    assert rules(pipeline_state, "airflow-worker", platform, stages) - anyone == {
        *(("", "pods", verb) for verb in ("create", "get", "list", "delete")),
        ("", "pods/log", "get"),
        *(("", "pods/exec", verb) for verb in ("get", "create")),
        ("", "events", "list"),
    }
    assert rules(pipeline_state, "airflow-scheduler", platform, stages) == anyone
    assert rules(pipeline_state, "airflow-scheduler", platform, platform) - anyone == {
        ("", "pods", verb) for verb in ("create", "get", "list", "watch", "patch", "delete")
    }


EARLIER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: stage-launcher}
rules: [{apiGroups: [""], resources: [pods/exec], verbs: [get, create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: stage-launcher}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: stage-launcher}
subjects: [{kind: ServiceAccount, name: airflow-worker}]
---
apiVersion: v1
kind: Secret
metadata: {name: stages}
---
apiVersion: v1
kind: Secret
metadata: {name: registry}
type: kubernetes.io/dockerconfigjson
stringData: {.dockerconfigjson: '{"auths": {}}'}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stage}
imagePullSecrets: [{name: registry}]
"""


def test_an_installation_whose_stages_run_in_the_platforms_namespace_is_moved(pipeline_state: State) -> None:
    state = pipeline_state
    state.kubectl("apply", "--filename", "-", text=EARLIER)
    running = json.loads(pod("train-of-earlier", resources={"requests": {"memory": "16Mi"}}))
    running["metadata"]["labels"] = {"app.kubernetes.io/name": "stage"}
    state.kubectl("apply", "--filename", "-", text=json.dumps(running))
    assert "FAIL  serviceaccount/airflow-worker" in state.verify().stdout
    done = state.up()
    assert (done.returncode, done.stderr.count("\n")) == (69, 1), done.stdout + done.stderr
    assert f"stages run in namespace {state.name}, such as train-of-earlier, and" in done.stderr
    listed = state.deploy("leftover-pods", "--days", "0").stdout
    assert "train-of-earlier" in listed, "gc finds what is left in the namespace of earlier releases"

    assert "1 removed" in state.deploy("leftover-pods", "--days", "0", "--apply").stdout
    gone = ("wait", "--for=delete", "pod/train-of-earlier", "--timeout=120s")
    subprocess.run(["kubectl", "--namespace", state.name, *gone], env=state.environment(), capture_output=True)
    done = state.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"stages run in namespace {state.stages} from now on" in done.stdout
    old = "roles/stage-launcher rolebindings/stage-launcher secrets/stages serviceaccounts/stage"
    assert "ok    serviceaccount/airflow-worker" in state.verify().stdout
    left = state.kubectl("get", *old.split(), "--ignore-not-found", "--output", "name")
    assert left == ""
    account = json.loads(state.kubectl("get", "serviceaccount", "stage", "-o", "json", namespace=state.stages))
    assert account["imagePullSecrets"] == [{"name": "registry"}]
    kept = json.loads(state.kubectl("get", "secret", "registry", "-o", "json", namespace=state.stages))
    assert kept["type"] == "kubernetes.io/dockerconfigjson"

    done = state.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from now on" not in done.stdout
