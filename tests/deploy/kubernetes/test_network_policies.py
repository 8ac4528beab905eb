"""Nothing passes but what must, at both of its ends."""

from __future__ import annotations

import pytest

from .conftest import Manifest, manifests
from .pods import pods
from .traffic import NAMESPACE, STAGES, End, allowed, selects

NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
MLFLOW, SERVING, BUCKET = End({NAME: "mlflow"}), End({NAME: "serving"}), End({NAME: "bucket"})
EXPORT = End({NAME: "export-onnx"})
POSTGRES, S3 = End({NAME: "postgres"}), End({NAME: "s3"})
TRAIN = End({NAME: "stage", COMPONENT: "train"}, namespace=STAGES)
TUNE = End({NAME: "stage", COMPONENT: "tune"}, namespace=STAGES)
PREPARE = End({NAME: "stage", COMPONENT: "prepare"}, namespace=STAGES)
PREDICT = End({NAME: "stage", COMPONENT: "predict"}, namespace=STAGES)
COMPRESS = End({NAME: "stage", COMPONENT: "compress"}, namespace=STAGES)
EVALUATE = End({NAME: "stage", COMPONENT: "evaluate"}, namespace=STAGES)
AMONG_STAGES = End({NAME: "something"}, namespace=STAGES)
RAY_HEAD, RAY_WORKER = End({NAME: "ray", COMPONENT: "head"}), End({NAME: "ray", COMPONENT: "worker"})
SCHEDULER = End({"tier": "airflow", "component": "scheduler", "release": "airflow"})
TASK = End({"tier": "airflow", "component": "worker", "release": "airflow"})
API = End({"tier": "airflow", "component": "api-server", "release": "airflow"})
STRANGER, ELSEWHERE = End({NAME: "something"}), End({NAME: "stage"}, namespace="default")
IN_THE_PLATFORMS = End({NAME: "stage", COMPONENT: "tune"})  # where earlier releases ran stages
DNS, PROMETHEUS = End({"k8s-app": "kube-dns"}, namespace="kube-system"), End({}, namespace="monitoring")
INTERNET, VPC, METADATA = End(address="93.184.216.34"), End(address="10.1.2.3"), End(address="169.254.169.254")

EVERYWHERE = [
    (TRAIN, MLFLOW, 5000),
    (SERVING, MLFLOW, 5000),
    (EXPORT, MLFLOW, 5000),
    (TASK, MLFLOW, 5000),
    (TRAIN, SERVING, 3000),
    (TASK, SERVING, 3000),
    (TRAIN, INTERNET, 443),  # data sets
    (SCHEDULER, API, 8080),
    (TASK, API, 8080),
    (SCHEDULER, VPC, 443),  # the Kubernetes API
    (SCHEDULER, INTERNET, 443),  # Git, Slack
    (PROMETHEUS, MLFLOW, 9101),
    (PROMETHEUS, SERVING, 3000),
]
LOCAL = [
    (MLFLOW, POSTGRES, 5432),
    (SCHEDULER, POSTGRES, 5432),
    *((end, S3, 9000) for end in (BUCKET, MLFLOW, SERVING, EXPORT, TRAIN, TUNE, TASK)),
]
EKS = [
    (MLFLOW, VPC, 5432),
    (SCHEDULER, VPC, 5432),
    *((end, INTERNET, 443) for end in (BUCKET, MLFLOW, SERVING, EXPORT, TRAIN, RAY_WORKER)),
    (VPC, MLFLOW, 5000),
    (VPC, SERVING, 3000),
    (VPC, API, 8080),
]
RAY = [
    *(
        (one, other, port)
        for one in (RAY_HEAD, RAY_WORKER, TUNE, PREPARE, TRAIN, EVALUATE, PREDICT)
        for other in (RAY_HEAD, RAY_WORKER)
        for port in (6379, 31234)
    ),
    *((node, stage, 40123) for node in (RAY_HEAD, RAY_WORKER) for stage in (TUNE, PREPARE, TRAIN, EVALUATE, PREDICT)),
    (RAY_HEAD, VPC, 443),  # the autoscaler asks the Kubernetes API
]
NEVER = [
    (STRANGER, MLFLOW, 5000),
    (STRANGER, SERVING, 3000),
    (STRANGER, POSTGRES, 5432),
    (STRANGER, INTERNET, 443),
    *((end, MLFLOW, 5000) for end in (ELSEWHERE, AMONG_STAGES, IN_THE_PLATFORMS)),
    *((end, SERVING, 3000) for end in (ELSEWHERE, AMONG_STAGES, IN_THE_PLATFORMS)),
    *((end, S3, 9000) for end in (ELSEWHERE, AMONG_STAGES, IN_THE_PLATFORMS)),
    (IN_THE_PLATFORMS, RAY_HEAD, 6379),
    (AMONG_STAGES, INTERNET, 443),
    (TRAIN, AMONG_STAGES, 8080),
    (TUNE, TRAIN, 8080),
    (SCHEDULER, TRAIN, 8080),
    (PROMETHEUS, TRAIN, 8080),
    (TRAIN, SCHEDULER, 8793),
    (SERVING, POSTGRES, 5432),
    (TRAIN, POSTGRES, 5432),
    (TUNE, POSTGRES, 5432),
    (BUCKET, POSTGRES, 5432),
    (BUCKET, MLFLOW, 5000),
    (EXPORT, POSTGRES, 5432),
    (EXPORT, SERVING, 3000),
    (EXPORT, METADATA, 80),
    (SERVING, EXPORT, 3000),
    (MLFLOW, SERVING, 3000),
    (SERVING, TRAIN, 3000),
    (MLFLOW, TRAIN, 8080),
    (TRAIN, API, 8080),  # a stage knows nothing of Airflow
    (TRAIN, VPC, 443),
    (TRAIN, METADATA, 80),  # the node's own rights
    (SERVING, API, 8080),
    (INTERNET, MLFLOW, 5000),
    (INTERNET, SERVING, 3000),
    (COMPRESS, RAY_HEAD, 6379),
    (MLFLOW, RAY_HEAD, 6379),
    (PROMETHEUS, MLFLOW, 5000),
    (RAY_WORKER, MLFLOW, 5000),  # MLflow's password is the stage's alone
    (RAY_WORKER, POSTGRES, 5432),
]


@pytest.mark.parametrize(
    ("overlay", "connections"),
    [
        ("local", [*EVERYWHERE, *LOCAL]),
        ("local-ray", [*EVERYWHERE, *LOCAL, *RAY, (RAY_WORKER, S3, 9000)]),
        ("eks", [*EVERYWHERE, *EKS, *RAY]),
        ("eks-gpu", [*EVERYWHERE, *EKS, *RAY]),
    ],
)
def test_what_must_pass_passes(overlay: str, connections: list[tuple[End, End, int]]) -> None:
    found = manifests(overlay)
    assert [(s, r, port) for s, r, port in connections if not allowed(found, s, r, port)] == []


def test_everything_else_is_shut(overlay: str, objects: list[Manifest]) -> None:
    # On AWS, S3 and the token service may answer from inside the VPC.
    shut = [c for c in NEVER if not (overlay.startswith("eks") and c == (TRAIN, VPC, 443))]
    assert [connection for connection in shut if allowed(objects, *connection)] == []


def test_every_pod_finds_names(objects: list[Manifest]) -> None:
    for pod in pods(objects):
        for protocol in ("UDP", "TCP"):
            assert allowed(objects, End(pod.labels), DNS, 53, protocol), pod.where
            assert not allowed(objects, End(pod.labels), DNS, 8080, protocol) or pod.labels[NAME] == "ray", pod.where


def test_everything_is_denied_first_in_each_namespace(objects: list[Manifest]) -> None:
    deny = {m["metadata"]["namespace"]: m["spec"] for m in objects if m["metadata"]["name"].endswith("default-deny")}
    assert set(deny) == {NAMESPACE, STAGES}
    for spec in deny.values():
        assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_a_stage_finds_names(objects: list[Manifest]) -> None:
    assert all(allowed(objects, end, DNS, 53, protocol) for end in (TRAIN, TUNE) for protocol in ("UDP", "TCP"))


def test_every_port_of_a_service_is_opened_to_somebody(objects: list[Manifest]) -> None:
    rules = [m["spec"] for m in objects if m["kind"] == "NetworkPolicy" and m["spec"].get("ingress")]
    for pod in pods(objects):
        for container in pod.containers():
            for port in container.get("ports", []):
                opened = [
                    rule
                    for spec in rules
                    if selects(spec["podSelector"], pod.labels)
                    for rule in spec["ingress"]
                    if "ports" not in rule or port["containerPort"] in [p["port"] for p in rule["ports"]]
                ]
                assert opened, f"{pod.where}: nobody reaches port {port['containerPort']}"


@pytest.mark.parametrize(
    "policy",
    [
        *("mlflow", "serving", "export-onnx", "stage", "postgres", "to-postgres"),
        *("s3", "to-s3", "stage-to-s3", "airflow"),
    ],
)
def test_without_a_policy_something_that_must_pass_does_not(policy: str) -> None:
    found = [m for m in manifests("local") if (m["kind"], m["metadata"]["name"]) != ("NetworkPolicy", policy)]
    assert [c for c in [*EVERYWHERE, *LOCAL] if not allowed(found, *c)]


def test_without_the_default_a_stranger_gets_out() -> None:
    found = [m for m in manifests("local") if not m["metadata"]["name"].endswith(("default-deny", "names"))]
    assert allowed(found, STRANGER, INTERNET, 443)
    assert allowed(found, AMONG_STAGES, INTERNET, 443)
