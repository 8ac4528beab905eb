"""The values of Airflow's chart: what its schema says of the keys that are used here, and what the project asks.

The chart's schema is not kept here: helm finds it in the chart and checks the values before it changes anything.
What follows are its statements about the keys in use, and stricter ones of ours: the chart takes unknown keys at its
top level and in a few objects, and ignores them; here a misspelt key is an error everywhere, and an option is a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.kubernetes import airflow
from deploy.kubernetes.cluster import Cluster, ClusterError
from deploy.kubernetes.secret_manifests import settings_of

from .conftest import ROOT, manifests
from .schemas import pod_of

FILE = ROOT / "deploy/kubernetes/airflow-values.yaml"


@pytest.fixture
def values() -> dict[str, Any]:
    """The file, to be spoiled."""
    return dict(yaml.safe_load(FILE.read_text()))


def _closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


TEXT, FLAG, NUMBER, OBJECT = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}, {"type": "object"}
WORDS = {"type": "array", "items": TEXT}
OFF = _closed(enabled={"const": False})
IMAGE = _closed(repository=TEXT, tag=TEXT, pullPolicy={"enum": ["Always", "Never", "IfNotPresent"]})
PROBE = _closed(command=WORDS, timeoutSeconds=NUMBER)
PART = {"resources": OBJECT, "livenessProbe": PROBE, "logGroomerSidecar": OFF}
SCHEMA = _closed(
    airflowVersion=TEXT,
    executor={"type": "string", "pattern": "^[A-Z][a-zA-Z0-9]+Executor$"},
    allowPodLaunching=FLAG,
    airflowLocalSettings=TEXT,
    images=_closed(airflow=IMAGE, pod_template=IMAGE),
    uid=NUMBER,
    gid=NUMBER,
    securityContexts=_closed(pod=OBJECT, containers=OBJECT),
    postgresql=OFF,
    redis=OFF,
    statsd=OFF,
    data=_closed(metadataSecretName=TEXT),
    fernetKeySecretName=TEXT,
    jwtSecretName=TEXT,
    apiSecretKeySecretName=TEXT,
    extraEnvFrom=TEXT,
    env={"type": "array", "items": _closed(name=TEXT, value=TEXT) | {"required": ["name", "value"]}},
    # Every option a text: the chart writes airflow.cfg, where YAML's truth values would be others.
    config={"type": "object", "additionalProperties": {"type": "object", "additionalProperties": TEXT}},
    dags=_closed(
        persistence=OFF,
        gitSync=_closed(
            enabled=FLAG,
            repo=TEXT,
            ref=TEXT,
            subPath=TEXT,
            depth=NUMBER,
            period=TEXT,
            maxFailures=NUMBER,
            securityContexts=_closed(container=OBJECT),
            resources=OBJECT,
        ),
    ),
    logs=_closed(persistence=OFF),
    migrateDatabaseJob=_closed(args=WORDS, env={"type": "array"}, resources=OBJECT),
    createUserJob=_closed(defaultUser=OFF),
    apiServer=_closed(resources=OBJECT, startupProbe=_closed(failureThreshold=NUMBER, periodSeconds=NUMBER)),
    scheduler=_closed(**PART),
    dagProcessor=_closed(enabled=FLAG, **PART),
    triggerer=_closed(persistence=OFF, **PART),
    databaseCleanup=_closed(enabled=FLAG, schedule=TEXT, args=WORDS, resources=OBJECT),
    workers=_closed(resources=OBJECT),
)


def check(values: dict[str, Any]) -> None:
    """The values, and the pods that the chart makes of them."""
    jsonschema.Draft202012Validator(SCHEMA).validate(values)
    contexts = values["securityContexts"]
    for part in (
        "apiServer",
        "scheduler",
        "dagProcessor",
        "triggerer",
        "workers",
        "migrateDatabaseJob",
        "databaseCleanup",
    ):
        container = {
            "name": "airflow",
            "image": "{repository}:{tag}".format(**values["images"]["airflow"]),
            "env": [*values["env"], *values[part].get("env", [])],
            "envFrom": yaml.safe_load(values["extraEnvFrom"]),
            "resources": values[part]["resources"],
            "securityContext": contexts["containers"],
        }
        pod_of({"containers": [container], "securityContext": contexts["pod"]})


def test_the_values_are_what_the_chart_takes(values: dict[str, Any]) -> None:
    check(values)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v.update(excutor="KubernetesExecutor"),
        lambda v: v.update(executor="kubernetes"),
        lambda v: v.update(env=[{"name": "X", "valueFrom": {}}]),
        lambda v: v["config"]["core"].update(load_examples=False),
        lambda v: v["dags"]["gitSync"].update(branch=1),
        lambda v: v["securityContexts"]["pod"].update(runAsUsr=1),
        lambda v: v["workers"]["resources"].update(limit={}),
        lambda v: v["migrateDatabaseJob"]["env"].append({"nam": "X"}),
        lambda v: v["redis"].update(enabled=True),
        lambda v: v.update(extraEnvFrom="- secretRef:\n    nam: x\n"),
    ],
)
def test_spoiled_values_are_refused(values: dict[str, Any], spoil: Callable[[dict[str, Any]], Any]) -> None:
    spoil(values)
    with pytest.raises(jsonschema.ValidationError):
        check(values)


def test_the_executor_and_the_runtime_are_those_of_kubernetes(values: dict[str, Any]) -> None:
    environment = {one["name"]: one["value"] for one in values["env"]}
    assert values["executor"] == "KubernetesExecutor"
    assert environment["PIPELINE_RUNTIME"] == "kubernetes"


def test_the_chart_gives_no_account_the_pods_of_the_platform(values: dict[str, Any]) -> None:
    assert values["allowPodLaunching"] is False
    accounts = {subject["name"] for m in manifests("local") for subject in m.get("subjects", [])}
    assert accounts == {f"{airflow.RELEASE}-scheduler", f"{airflow.RELEASE}-worker"}


def test_airflow_is_not_installed_before_the_roles_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "run", lambda _, *words: "role/task-launcher" if "task-launcher" in words else "")
    with pytest.raises(
        ClusterError, match="namespace n-stages has no Role stage-launcher; run make kubernetes-up first"
    ):
        airflow.require_roles(Cluster("n"))


def test_its_pods_are_restricted(values: dict[str, Any]) -> None:
    pod, container = values["securityContexts"]["pod"], values["securityContexts"]["containers"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == 50000
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    for context in (container, values["dags"]["gitSync"]["securityContexts"]["container"]):
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_its_version_is_the_one_that_is_pinned(values: dict[str, Any]) -> None:
    pinned = re.search(r"^apache-airflow==(\S+)", (ROOT / "requirements/airflow.txt").read_text(), re.M)
    assert pinned
    assert values["airflowVersion"] == pinned[1]


def test_the_options_are_those_that_compose_sets(values: dict[str, Any]) -> None:
    # What is a decision there is one here: a token's life, patience with the api-server, the auth manager.
    compose = (ROOT / "docker-compose-mlops.yml").read_text()
    for section, option in [
        ("core", "auth_manager"),
        ("execution_api", "jwt_expiration_time"),
        ("workers", "execution_api_retries"),
        ("workers", "execution_api_retry_wait_max"),
        ("workers", "execution_api_timeout"),
        ("scheduler", "orphaned_tasks_check_interval"),
        ("logging", "remote_log_conn_id"),
        ("logging", "delete_local_logs"),
    ]:
        found = re.search(rf'AIRFLOW__{section.upper()}__{option.upper()}: "?([^"\n]+)"?\n', compose)
        assert found, option
        assert values["config"][section][option] == found[1], option


def test_nothing_of_the_official_image_is_called_that_ours_has_not() -> None:
    assert not re.search(r"^[^#]*/(entrypoint|clean-logs)", FILE.read_text(), re.M)


def helm(overlay: str = "local", values: dict[str, str] | None = None, **changed: str) -> list[str]:
    given = {"namespace": "n", "repository": "", "ref": "", "chart": "apache-airflow/airflow"} | changed
    return airflow.helm(values or {}, settings_of(overlay), **given)


def sets(command: list[str]) -> dict[str, str]:
    pairs = [command[index + 1] for index, word in enumerate(command) if word == "--set-string"]
    return dict(pair.split("=", 1) for pair in pairs)


def test_helm_gets_the_images_that_the_rest_runs() -> None:
    given = sets(helm(values={"PIPELINE_IMAGE_PREFIX": "registry.example.org/vm", "PIPELINE_IMAGE_TAG": "0.1.0"}))
    assert given == {
        "images.airflow.repository": "registry.example.org/vm/airflow",
        "images.airflow.tag": "0.1.0",
        "images.pod_template.repository": "registry.example.org/vm/airflow",
        "images.pod_template.tag": "0.1.0",
    }


def test_helm_gets_the_repository_where_one_is_named() -> None:
    given = sets(helm(repository="https://git.example.org/mine.git", ref="main"))
    assert given["dags.gitSync.repo"] == "https://git.example.org/mine.git"
    assert given["dags.gitSync.ref"] == "main"


def test_on_aws_the_accounts_that_touch_logs_have_the_role() -> None:
    role = settings_of("eks")["AIRFLOW_ROLE_ARN"]
    given = {name: value for name, value in sets(helm("eks")).items() if "serviceAccount" in name}
    parts = ("apiServer", "scheduler", "triggerer", "workers")
    assert given == {rf"{part}.serviceAccount.annotations.eks\.amazonaws\.com/role-arn": role for part in parts}


def test_helm_takes_the_release_and_the_version_that_the_rest_knows() -> None:
    command = helm()
    assert command[:6] == ["helm", "upgrade", "--install", "airflow", "apache-airflow/airflow", "--version"]
    [ingress] = [m for m in manifests("eks") if m["kind"] == "Ingress"]
    backends = [rule["http"]["paths"][0]["backend"]["service"]["name"] for rule in ingress["spec"]["rules"]]
    assert f"{airflow.RELEASE}-api-server" in backends
