"""Rendering: images and namespace as `.env` and the caller say, nothing else changed."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from deploy.kubernetes.cluster import ClusterError
from deploy.kubernetes.render import IMAGES, render

from .conftest import ROOT, Manifest
from .pods import pods


def test_our_images_follow_env_and_others_stay() -> None:
    text = render("local-ray", {"PIPELINE_IMAGE_PREFIX": "registry.example.org/vm", "PIPELINE_IMAGE_TAG": "0.1.0"})
    images = {c["image"] for pod in pods(list(yaml.safe_load_all(text))) for c in pod.containers()}
    ours = {f"registry.example.org/vm/{name}:0.1.0" for name in IMAGES}
    compose = (ROOT / "docker-compose.yml").read_text()
    others = images - ours
    assert ours < images
    assert {name.split(":")[0] for name in others} == {"postgres", "quay.io/minio/minio"}
    assert all(f":-{name}}}" in compose for name in others), "the images that Compose runs"


def test_images_with_a_digest_go_by_it_and_airflow_is_told() -> None:
    digests = {"serving": f"sha256:{'1' * 64}", "train": f"sha256:{'2' * 64}", "prepare": f"sha256:{'3' * 64}"}
    values = {"PIPELINE_IMAGE_PREFIX": "r/vm", "PIPELINE_IMAGE_TAG": "7", "PIPELINE_IMAGE_DIGESTS": json.dumps(digests)}
    found = list(yaml.safe_load_all(render("eks", values)))
    images = {c["image"] for pod in pods(found) for c in pod.containers()}
    by_digest = {f"r/vm/{name}@{digests[name]}" for name in ("serving", "train")}
    assert images == by_digest | {"r/vm/mlflow:7", "r/vm/tune:7"}
    [settings] = [m["data"] for m in found if m["kind"] == "ConfigMap" and m["metadata"]["name"] == "settings"]
    assert json.loads(settings["PIPELINE_IMAGE_DIGESTS"]) == digests


@pytest.mark.parametrize("text", ["{", "[1]", "sha256:00"])
def test_digests_that_are_no_json_object_are_named(text: str) -> None:
    with pytest.raises(ClusterError, match=r"^PIPELINE_IMAGE_DIGESTS=.* is not a JSON object; make image-digests"):
        render("local", {"PIPELINE_IMAGE_DIGESTS": text})


def test_airflow_is_told_which_images_stages_have() -> None:
    found = yaml.safe_load_all(render("eks", {"PIPELINE_IMAGE_PREFIX": "x/y", "PIPELINE_IMAGE_TAG": "7"}))
    [settings] = [m["data"] for m in found if m["kind"] == "ConfigMap" and m["metadata"]["name"] == "settings"]
    assert settings["PIPELINE_IMAGE_PREFIX"] == "x/y"
    assert settings["PIPELINE_IMAGE_TAG"] == "7"


OF_STAGES = {
    ("LimitRange", "stages"),
    ("NetworkPolicy", "stage"),
    ("NetworkPolicy", "stages-default-deny"),
    ("NetworkPolicy", "stages-names"),
    ("ResourceQuota", "stages"),
    ("Role", "stage-launcher"),
    ("RoleBinding", "stage-launcher"),
    ("ServiceAccount", "stage"),
}


@pytest.mark.parametrize(
    ("overlay", "more"),
    [
        ("local-ray", {("NetworkPolicy", "stage-to-s3"), ("NetworkPolicy", "tune-joins-ray")}),
        ("eks", {("NetworkPolicy", "stage-to-aws"), ("NetworkPolicy", "tune-joins-ray")}),
    ],
)
def test_stages_have_a_namespace_of_their_own(overlay: str, more: set[tuple[str, str]]) -> None:
    found = list(yaml.safe_load_all(render(overlay, {}, "elsewhere")))
    namespaces = {m["metadata"].get("namespace", "none") for m in found if m["kind"] != "Namespace"}
    assert namespaces == {"elsewhere", "elsewhere-stages"}
    assert [m["metadata"]["name"] for m in found if m["kind"] == "Namespace"] == ["elsewhere-stages", "elsewhere"]
    theirs = {(m["kind"], m["metadata"]["name"]) for m in found if m["metadata"].get("namespace") == "elsewhere-stages"}
    assert theirs == OF_STAGES | more


def test_policies_name_the_namespaces_that_are_asked_for() -> None:
    text = render("local-ray", {}, "elsewhere")
    named = set(re.findall(r"kubernetes\.io/metadata\.name: (.+)", text))
    assert named == {"kube-system", "monitoring", "elsewhere", "elsewhere-stages"}


def test_addresses_lead_from_the_stages_to_the_platform(overlay: str) -> None:
    found = yaml.safe_load_all(render(overlay, {}, "elsewhere"))
    [settings] = [m["data"] for m in found if m["kind"] == "ConfigMap" and m["metadata"]["name"] == "settings"]
    assert settings["PIPELINE_KUBERNETES_NAMESPACE"] == "elsewhere-stages"
    assert settings["PIPELINE_STAGE_MLFLOW_TRACKING_URI"] == "http://mlflow.elsewhere:5000"
    assert settings["PIPELINE_STAGE_SERVING_URL"] == "http://serving-pods.elsewhere:3000"
    assert {"mlflow:5000", "mlflow.elsewhere:5000"} <= set(settings["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    store = "http://s3.elsewhere:9000" if overlay.startswith("local") else "https://s3.eu-central-1.amazonaws.com"
    assert settings["S3_ENDPOINT_URL"] == store, "MLflow signs addresses of it for stages"
    assert settings["MLFLOW_TRACKING_URI"] == "http://mlflow:5000", "of Airflow, in the same namespace"
    ray = settings.get("RAY_ADDRESS")
    assert ray == (None if overlay == "local" else "ray-head-svc.elsewhere:6379")


@pytest.mark.parametrize("namespace", ["vision-mlops", "elsewhere"])
def test_an_account_of_a_role_binding_is_in_the_platforms_namespace(namespace: str) -> None:
    bindings = [m for m in yaml.safe_load_all(render("local", {}, namespace)) if m["kind"] == "RoleBinding"]
    assert {m["metadata"]["name"] for m in bindings} == {"stage-launcher", "task-launcher"}
    for binding in bindings:
        assert {subject["namespace"] for subject in binding["subjects"]} == {namespace}


def test_every_object_says_whose_it_is(objects: list[Manifest]) -> None:
    for manifest in objects:
        labels = manifest["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/part-of") == "vision-mlops", manifest["metadata"]["name"]


def test_an_overlay_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ClusterError) as error:
        render("gke", {})
    assert "\n" not in str(error.value)


def test_no_role_of_the_platform_lets_anybody_into_a_pod_or_a_secret(objects: list[Manifest]) -> None:
    rules = [
        rule
        for m in objects
        if m["kind"] == "Role" and m["metadata"]["namespace"] == "vision-mlops"
        for rule in m["rules"]
    ]
    assert {resource for rule in rules for resource in rule["resources"]} == {"pods"}
    subjects = [
        (m["metadata"]["namespace"], one["name"])
        for m in objects
        if m["kind"] == "RoleBinding"
        for one in m["subjects"]
    ]
    assert sorted(subjects) == [("vision-mlops", "airflow-scheduler"), ("vision-mlops-stages", "airflow-worker")]
    assert not [m for m in objects if m["kind"].startswith("ClusterRole")]
