"""The description is valid, and the running service answers as it says."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
import requests
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tasks.serving.openapi import ERRORS, document
from tests.tasks.serving.samples import Service, Store, picture

DOCUMENT = document()
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]
FORM = {"image": ("x.png", picture(0), "image/png")}


def check(response: requests.Response, path: str, method: str) -> None:
    """The answer is one that the description has for this operation."""
    described = DOCUMENT["paths"][path][method]["responses"][str(response.status_code)]
    if "$ref" in described:
        described = DOCUMENT["components"]["responses"][described["$ref"].rpartition("/")[2]]
    if method == "head":
        assert "content" not in described
        assert not response.content
        return
    [(kind, content)] = described["content"].items()
    assert response.headers["Content-Type"].split(";")[0] == kind
    value = response.json() if kind == "application/json" else response.text
    Draft202012Validator({**content["schema"], "components": DOCUMENT["components"]}).validate(value)


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere() -> None:
    for kind, name in re.findall(r'"#/components/(\w+)/(\w+)"', json.dumps(DOCUMENT)):
        assert name in DOCUMENT["components"][kind]


def test_every_operation_has_a_name_of_its_own_and_the_errors_that_can_come() -> None:
    operations = [DOCUMENT["paths"][path][method] for path, method in OPERATIONS]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    predict = DOCUMENT["paths"]["/predict_image"]["post"]
    assert set(predict["responses"]) == {"200", *map(str, ERRORS)}
    assert set(predict["requestBody"]["content"]) == {
        "multipart/form-data", "image/*", "application/octet-stream", "application/json"
    }  # fmt: skip
    keyed = {path for path, method in OPERATIONS if DOCUMENT["paths"][path][method]["security"]}
    assert keyed == {"/predict_image", "/predict_batch", "/get_model_info", "/refresh"}


@pytest.mark.parametrize("path", ["/predict_image", "/predict_batch"])
def test_generators_find_what_they_need(path: str) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    assert next(iter(operation["requestBody"]["content"])) == "application/json"  # for OpenAPI Generator
    assert [one for one in operation["parameters"] if not one.get("required")]  # for openapi-python-client


def test_answers_have_the_names_that_are_sent() -> None:
    prediction = DOCUMENT["components"]["schemas"]["Prediction"]
    assert set(prediction["required"]) == {"class", "probabilities", "model_version", "run_id"}
    assert "service" in DOCUMENT["components"]["schemas"]["ModelInfo"]["required"]


def test_the_service_sends_it_to_anyone(service: Service) -> None:
    answer = requests.get(f"{service.url}/docs.json", timeout=120)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == DOCUMENT


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_exists_and_answers_as_described(service: Service, path: str, method: str) -> None:
    files: dict[str, Any] = {"/predict_image": FORM, "/predict_batch": {"images": FORM["image"]}}
    response = requests.request(method, service.url + path, files=files.get(path), timeout=120)
    assert response.status_code == 200, response.text
    check(response, path, method)


BASE64 = base64.b64encode(picture(0)).decode()


@pytest.mark.parametrize(("path", "kind"), [
    (path, kind) for path in ("/predict_image", "/predict_batch")
    for kind in DOCUMENT["paths"][path]["post"]["requestBody"]["content"] if kind != "multipart/form-data"
])  # fmt: skip
def test_every_body_that_is_described_is_taken(service: Service, path: str, kind: str) -> None:
    value = {"image": BASE64} if path == "/predict_image" else {"images": [BASE64, BASE64]}
    data = json.dumps(value).encode() if kind == "application/json" else picture(0)
    response = requests.post(service.url + path, data=data, headers={"Content-Type": kind}, timeout=120)
    assert response.status_code == 200, response.text
    check(response, path, "post")


def test_other_methods_of_these_paths_are_refused(service: Service) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"):
        for path in DOCUMENT["paths"]:
            status = requests.request(method, service.url + path, timeout=120).status_code
            assert (status != 405) == ((path, method.lower()) in OPERATIONS), (method, path)


@pytest.mark.parametrize(
    ("path", "arguments", "status"),
    [
        ("/predict_image", {"files": {"image": ("x.png", b"no image", "image/png")}}, 400),
        ("/predict_image", {"files": {"image": ("x.png", b"0" * 3 * 2**20, "image/png")}}, 413),
        ("/predict_image", {"data": b"x", "headers": {"Content-Type": "text/csv"}}, 415),
        ("/predict_batch", {"files": {"other": ("x.png", b"no image", "image/png")}}, 400),
        ("/predict_batch", {"data": b"x", "headers": {"Content-Type": "text/csv"}}, 415),
    ],
)
def test_errors_are_as_described(service: Service, path: str, arguments: dict[str, Any], status: int) -> None:
    response = requests.post(service.url + path, timeout=120, **arguments)
    assert response.status_code == status
    check(response, path, "post")


def test_it_names_no_class_and_no_model(service: Service, store: Store) -> None:
    text = requests.get(f"{service.url}/docs.json", timeout=120).text
    info = service.info()
    for secret in (*info["classes"], info["registered_model"], info["run_id"]):
        assert f'"{secret}"' not in text
