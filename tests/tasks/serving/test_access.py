from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tasks.serving.access import ApiKeyMiddleware, open_to_pages

PATHS = ["/predict_image", "/get_model_info", "/refresh", "/livez", "/readyz", "/metrics"]


@pytest.fixture
def ask() -> TestClient:
    routes = [Route(path, lambda request: PlainTextResponse("here"), methods=["GET", "POST"]) for path in PATHS]
    app = Starlette(routes=routes)
    app.add_middleware(ApiKeyMiddleware)
    return TestClient(app)


def test_without_a_key_everyone_may_ask(ask: TestClient) -> None:
    assert {ask.post(path).status_code for path in PATHS} == {200}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic s3cret"},
        {"Authorization": "s3cret"},
        {"X-API-Key": ""},
        {"X-API-Key": "s3cre"},
        {"Authorization": "Bearer \u00e9".encode("latin-1")},
    ],
)
def test_with_a_key_only_who_has_it(monkeypatch: pytest.MonkeyPatch, ask: TestClient, headers: dict[str, str]) -> None:
    monkeypatch.setenv("SERVING_API_KEY", "s3cret")
    for path in PATHS[:3]:
        answer = ask.post(path, headers=headers)
        assert answer.status_code == 401
        assert "SERVING_API_KEY" in answer.json()["error"]
        assert "s3cret" not in answer.text
    assert {ask.get(path, headers=headers).status_code for path in PATHS[3:]} == {200}


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-api-key"}


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (["https://shop.example"], "https://shop.example", "https://shop.example"),
        (["https://shop.example"], "https://evil.example", None),
        (["*"], "https://any.example", "*"),
        ([], "https://shop.example", None),
    ],
)
def test_pages_of_the_allowed_origins_may_ask(
    monkeypatch: pytest.MonkeyPatch, origins: list[str], origin: str, allowed: str | None
) -> None:
    monkeypatch.setenv("SERVING_API_KEY", "s3cret")
    app = Starlette(routes=[Route("/predict_image", lambda request: PlainTextResponse("here"), methods=["POST"])])
    ask = TestClient(open_to_pages(ApiKeyMiddleware(app), origins))
    preflight = ask.options("/predict_image", headers={"Origin": origin, **PREFLIGHT})
    assert preflight.is_success is bool(allowed), "it carries no key"
    refused = ask.post("/predict_image", headers={"Origin": origin})
    answered = ask.post("/predict_image", headers={"Origin": origin, "X-API-Key": "s3cret"})
    assert (refused.status_code, answered.status_code) == (401, 200)
    for answer in (preflight, refused, answered):
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer s3cret"}, {"X-API-Key": "s3cret"}])
def test_either_header_opens(monkeypatch: pytest.MonkeyPatch, ask: TestClient, headers: dict[str, str]) -> None:
    monkeypatch.setenv("SERVING_API_KEY", "s3cret")
    assert {ask.post(path, headers=headers).status_code for path in PATHS} == {200}
