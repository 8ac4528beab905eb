"""Rendering: images and namespace as `.env` and the caller say, nothing else changed."""

from __future__ import annotations

import json

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


def test_the_namespace_is_the_one_that_is_asked_for() -> None:
    found = list(yaml.safe_load_all(render("local", {}, "elsewhere")))
    assert {m["metadata"].get("namespace", "elsewhere") for m in found} == {"elsewhere"}
    assert [m["metadata"]["name"] for m in found if m["kind"] == "Namespace"] == ["elsewhere"]


@pytest.mark.parametrize("namespace", ["vision-mlops", "elsewhere"])
def test_an_account_of_a_role_binding_is_in_the_namespace_too(namespace: str) -> None:
    bindings = [m for m in yaml.safe_load_all(render("local", {}, namespace)) if m["kind"] == "RoleBinding"]
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
