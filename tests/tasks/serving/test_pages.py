from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from images.copy_code import copy_code
from tasks.serving import pages
from tasks.serving.access import ApiKeyMiddleware
from tasks.serving.browser.assets import OWN, SWAGGER
from tests.tasks.serving.samples import Service
from tests.tasks.serving.test_metrics import scraped

ROOT = Path(__file__).parents[3]
PATHS = [*OWN, *(f"/browser/{name}" for name in SWAGGER), "/docs.json"]


@pytest.fixture(scope="module")
def client() -> TestClient:
    inner = Starlette(routes=[Route("/livez", lambda request: PlainTextResponse("inner"), methods=["GET", "POST"])])
    return TestClient(pages.Pages(inner))


@pytest.mark.parametrize("path", PATHS)
def test_each_file_is_served_with_its_type_and_a_policy(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    kind = {".css": "text/css", ".js": "text/javascript", ".json": "application/json"}.get(
        Path(path).suffix, "text/html"
    )
    assert answer.headers["Content-Type"].startswith(kind)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' blob: data:;")
    assert not re.search("unsafe|script-src|style-src|connect-src", policy)  # default-src holds for these


@pytest.mark.parametrize("path", PATHS)
def test_head_tells_the_length_and_an_unchanged_file_is_not_sent_again(client: TestClient, path: str) -> None:
    whole = client.get(path)
    head = client.head(path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(whole.content)))
    again = client.get(path, headers={"If-None-Match": whole.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


def test_other_methods_are_refused_and_other_paths_passed_on(client: TestClient) -> None:
    answer = client.post("/")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert answer.json() == {"error": "POST / is not supported; send GET, HEAD"}
    assert client.get("/livez").text == client.post("/livez").text == "inner"
    for path in ("/docs/", "/browser", "/browser/", "/browser/assets.py", "/browser/../page.html", "/page.html"):
        assert client.get(path).status_code == 404, path


def test_the_pages_are_open_and_what_they_show_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_API_KEY", "s3cret")
    info = Route("/get_model_info", lambda request: PlainTextResponse("inner"), methods=["POST"])
    client = TestClient(pages.Pages(ApiKeyMiddleware(Starlette(routes=[info]))))
    assert {client.get(path).status_code for path in PATHS} == {200}
    assert client.post("/get_model_info").status_code == 401


def test_the_pages_name_no_other_host_and_hold_no_script(client: TestClient) -> None:
    for path, name in OWN.items():
        text = client.get(path).text
        assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text), name
        if name.endswith(".html"):
            assert not re.search(r"<style|<script(?! src=\"browser/)| on\w+=| style=", text), name


def test_the_image_of_the_service_holds_the_files(tmp_path: Path) -> None:
    copy_code(ROOT / "tasks", tmp_path, ["tasks.serving.__main__"])
    assert {path.name for path in (tmp_path / "tasks/serving/browser").iterdir()} >= set(OWN.values())


@pytest.mark.parametrize("path", PATHS)
def test_the_real_service_serves_them(service: Service, path: str) -> None:
    answer = requests.get(service.url + path, timeout=120)
    assert answer.status_code == 200
    assert "Content-Security-Policy" in answer.headers
    assert "googletagmanager" not in answer.text
    assert requests.head(service.url + path, timeout=120).headers["Content-Length"] == str(len(answer.content))


def test_what_bentoml_would_serve_is_gone_and_leaves_no_series(service: Service) -> None:
    for path in ("static_content/index.css", "static_content", *(f"static_content/{number}" for number in range(20))):
        assert requests.get(f"{service.url}/{path}", timeout=120).json()["error"].startswith("unknown path"), path
    assert not [labels for _, labels in scraped(service) if "static_content" in str(labels)]
