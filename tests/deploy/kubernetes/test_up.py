"""What `make kubernetes-up` applies when: the Jobs after what they need."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import yaml

from deploy.kubernetes import up
from deploy.kubernetes.cluster import Cluster, ClusterError
from deploy.kubernetes.render import render


class Recorded(Cluster):
    """A cluster that holds nothing and writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[list[str]] = []

    def run(self, *arguments: str, **_: object) -> str:
        self.told.append(list(arguments))
        return ""

    def apply(self, manifests: str) -> None:
        found = [one for one in yaml.safe_load_all(manifests) if one]
        found = found[0]["items"] if found[0]["kind"] == "List" else found
        self.told.append(["apply", *(f"{one['kind']}/{one['metadata']['name']}" for one in found)])

    def objects(self, kinds: str, selector: str = "") -> list[dict[str, object]]:
        return []


def at(told: Sequence[Sequence[str]], *words: str) -> int:
    [place] = [number for number, one in enumerate(told) if list(one)[: len(words)] == list(words)]
    return place


def test_jobs_are_made_anew_after_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Recorded()
    monkeypatch.setattr(up, "await_ready", lambda cluster, workload: cluster.told.append(["await", workload]))
    monkeypatch.setattr(up, "secrets_of", lambda values, settings: {"serving": {"KEY": "value"}})
    up.up(cluster, "local", {})
    told = cluster.told
    assert told[:2] == [["apply", "Namespace/vision-mlops"], ["apply", "Namespace/vision-mlops-stages"]]
    places = [
        at(told, "delete", "job", "bucket", "export-onnx"),
        next(number for number, one in enumerate(told) if "Deployment/serving" in one),
        at(told, "apply", "Job/bucket"),
        at(told, "await", "job/bucket"),
        at(told, "await", "deployment/mlflow"),
        at(told, "apply", "Job/export-onnx"),
    ]
    assert places == sorted(places)
    assert "Job/export-onnx" not in told[places[1]]
    assert at(told, "delete", "rolebinding/stage-launcher") > places[1], "what earlier releases needed goes last"
    assert "await" not in {one[0] for one in told[places[-1] + 1 :]}, "nothing waits for the export"


def test_it_exports_the_model_that_the_service_follows() -> None:
    values = {"PIPELINE_IMAGE_PREFIX": "registry.example.org/vm", "PIPELINE_IMAGE_TAG": "0.1.0"}
    rendered = render("eks", values)
    job = yaml.safe_load(up._one(rendered, "Job", "export-onnx"))["spec"]["template"]["spec"]["containers"][0]
    assert job["image"] == "registry.example.org/vm/train:0.1.0"
    assert job["args"] == ["export-onnx"]
    serving = yaml.safe_load(up._one(rendered, "Deployment", "serving"))["spec"]["template"]["spec"]["containers"][0]
    own = [one for one in job["env"] if one not in serving["env"]]
    assert {one["name"] for one in own} == {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}, "it writes"
    assert {one["name"] for one in serving["env"]} & {"SERVING_MODEL"} == set(), "or the Job needs it too"


class WithStages(Recorded):
    """A cluster where a stage runs in the platform's namespace, as in earlier releases."""

    def objects(self, kinds: str, selector: str = "") -> list[dict[str, object]]:
        pod: dict[str, object] = {"metadata": {"name": "train-1"}, "status": {"phase": "Running"}}
        return [pod] if (kinds, selector) == ("pods", "app.kubernetes.io/name=stage") else []


def test_while_a_stage_of_an_earlier_release_runs_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = WithStages()
    monkeypatch.setattr(up, "secrets_of", lambda values, settings: {"serving": {"KEY": "value"}})
    with pytest.raises(ClusterError) as error:
        up.up(cluster, "local", {})
    assert cluster.told == []
    assert str(error.value).startswith("stages run in namespace vision-mlops, such as train-1, and this release runs")
    assert str(error.value).endswith("kubectl -n vision-mlops delete pods -l app.kubernetes.io/name=stage")
