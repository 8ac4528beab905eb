"""The OpenAPI description of the service, at `/docs.json`: for Swagger's page and for generators of clients.

Version 3.1, because its schemas are JSON Schema as pydantic writes it: the models of the answers go in as they are. It
describes the program, not the model in service: it names no class, so that it can be read without the key.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from tasks.serving.answers import BatchPrediction, Health, ModelInfo, Prediction
from tasks.serving.request_bodies import MAX_IMAGES
from tasks.vision.data.formats.table import NAMES

Json = dict[str, Any]

DESCRIPTION = """\
Classifies images with the model in service. Every error is one line of JSON, `{"error": "..."}`, that names what is
wrong and the fix. With `SERVING_API_KEY` set, the key is sent as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

# Status: name among the components, and when it is the answer.
ERRORS = {
    400: ("BadRequest", "No image, several images, an image that cannot be read, or a malformed request."),
    401: ("KeyRequired", "The service requires a key, and the request has none or a wrong one."),
    404: ("UnknownPath", "No such path."),
    405: ("WrongMethod", "Wrong method for this path; `Allow` names the right ones."),
    408: ("TooSlow", "The request took too long to arrive."),
    413: ("TooLarge", "The body is larger than `SERVING_MAX_UPLOAD_MB`, or its images have too many pixels."),
    414: ("AddressTooLong", "The URL is too long."),
    415: ("UnknownContentType", "The body has a content type that is not listed here."),
    429: ("TooManyWaiting", "100 requests on this connection wait for their answers."),
    431: ("HeadersTooLarge", "The headers are too large."),
    500: ("Failed", "The model failed on these images; the service's log has the reason."),
    503: ("NotNow", "No model is loaded yet, or too much is in progress (with `Retry-After`)."),
    504: ("NotInTime", "The answer took longer than the time limit."),
}  # fmt: skip
HEADERS = {
    401: {"WWW-Authenticate": {"description": "The scheme of the key.", "schema": {"type": "string"}}},
    405: {"Allow": {"description": "The methods of this path.", "schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "Seconds until a retry makes sense.", "schema": {"type": "integer"}}},
}
ANY_REQUEST = (404, 405, 408, 413, 414, 429, 431, 504)
"""What any request may be answered, those with a wrong path or method included."""

TAGS = {"predict_image": "predictions", "predict_batch": "predictions", "get_model_info": "model", "refresh": "model"}
OPEN: list[Json] = []
KEY: list[Json] = [{}, {"bearer": []}, {"apiKey": []}]  # {}: a service without SERVING_API_KEY requires none

# The header of the scheme apiKey once more, as a parameter. openapi-python-client 0.29 writes a function with several
# bodies and no optional parameter so that its import fails (its issue 1451); with one the generated client works.
KEY_HEADER = {"name": "X-API-Key", "in": "header", "description": "The key, if required.", "schema": {"type": "string"}}

FILE = {"type": "string", "format": "binary"}
BASE64 = {"type": "string", "contentEncoding": "base64", "description": f"A {NAMES} file in base64; no URL."}


def document() -> Json:
    """Return the description."""
    _, models = models_json_schema(
        [(model, "serialization") for model in (Prediction, BatchPrediction, ModelInfo, Health)],
        by_alias=True,
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Prediction service of vision-mlops", "version": "1", "description": DESCRIPTION},
        # Relative to this document: right behind a proxy that adds a prefix, too.
        "servers": [{"url": "./"}],
        "paths": _paths(),
        "components": {
            "schemas": {**models["$defs"], **_bodies(), "ServiceError": _object({"error": {"type": "string"}})},
            "responses": {name: _error(status, text) for status, (name, text) in ERRORS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _paths() -> Json:
    file = {kind: {"schema": FILE} for kind in ("image/*", "application/octet-stream")}
    return {
        "/predict_image": {
            "post": _operation(
                "predict_image", "Classify one image.", _json("Prediction"), (400, 415, 500, 503), KEY,
                body={**_forms("ImageForm", "ImageJson"), **file},
            )
        },
        "/predict_batch": {
            "post": _operation(
                "predict_batch", "Classify several images, all by the same model.",
                _json("BatchPrediction"), (400, 415, 500, 503), KEY, body=_forms("BatchForm", "BatchJson"),
            )
        },
        "/get_model_info": {
            "post": _operation("get_model_info", "Tell which model is in service.", _json("ModelInfo"), (), KEY)
        },
        "/refresh": {
            "post": _operation(
                "refresh", "Check now which model should be in service; answers before that is done.",
                _json("ModelInfo"), (), KEY,
            )
        },
        "/health": {
            **_probe("health", "Answer 200 when predictions are possible.", (503,), _json("Health")),
            "post": _operation(
                "health_post", "Answer 200 when predictions are possible.", _json("Health"), (503,), OPEN
            ),
        },
        "/livez": _probe("livez", "Answer 200 while the process runs."),
        "/healthz": _probe("healthz", "Answer 200 while the process runs."),
        "/readyz": _readiness(),
        "/metrics": _probe("metrics", "The metrics, as Prometheus reads them."),
    }  # fmt: skip


def _operation(
    name: str, summary: str, content: Json, errors: tuple[int, ...], security: list[Json], body: Json | None = None
) -> Json:
    statuses = sorted({*errors, *ANY_REQUEST, *((401,) if security else ())})
    operation: Json = {
        "operationId": name,
        "tags": [TAGS.get(name, "operation")],
        "summary": summary,
        "security": security,
        "responses": {
            "200": {"description": "The answer.", **content},
            **{str(status): {"$ref": f"#/components/responses/{ERRORS[status][0]}"} for status in statuses},
        },
    }
    if body is not None:
        operation |= {"parameters": [KEY_HEADER], "requestBody": {"required": True, "content": body}}
    return operation


def _probe(name: str, summary: str, errors: tuple[int, ...] = (), content: Json | None = None) -> Json:
    """GET and HEAD of a path that machines watch; no answer of a HEAD request has a body."""
    get = _operation(name, summary, content or _text(), errors, OPEN)
    head = {**get, "operationId": f"{name}_head"}
    head["responses"] = {
        status: {"description": "The answer, without a body." if status == "200" else ERRORS[int(status)][1]}
        for status in get["responses"]
    }
    return {"get": get, "head": head}


def _readiness() -> Json:
    probe = _probe("readyz", "Answer 200 when a model is loaded.")
    for operation in probe.values():  # BentoML's answer, which is no JSON
        operation["responses"]["503"] = {"description": "No model is loaded yet."}
    return probe


def _bodies() -> Json:
    many = {"minItems": 1, "maxItems": MAX_IMAGES}
    return {
        "ImageForm": _object({"image": {**FILE, "description": f"A {NAMES} file."}}),
        "ImageJson": _object({"image": BASE64}),
        "BatchForm": _object({"images": {"type": "array", "items": FILE, **many}}),
        "BatchJson": _object({"images": {"type": "array", "items": BASE64, **many}}),
    }


def _forms(form: str, text: str) -> Json:
    # JSON first: clients of OpenAPI Generator get the parameters of the first form, and send whichever form is JSON.
    return {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{text}"}},
        "multipart/form-data": {"schema": {"$ref": f"#/components/schemas/{form}"}},
    }


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(model: str) -> Json:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}}}


def _text() -> Json:
    return {"content": {"text/plain": {"schema": {"type": "string"}}}}


def _error(status: int, text: str) -> Json:
    headers = {"headers": HEADERS[status]} if status in HEADERS else {}
    return {"description": text, **headers, **_json("ServiceError")}
