from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tasks.serving.forwarding import PATHS, Forwarding
from tasks.serving.http_errors import HttpError
from tasks.serving.service import service
from tests.tasks.serving.samples import Service


def asked(app: Forwarding, path: str, method: str = "GET") -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def never() -> Any:
        raise AssertionError("a body is not read")

    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": []}, never, send))
    return sent


def test_an_unknown_path_is_refused_without_asking(tmp_path: Path) -> None:
    for path in ("/metrics2", "/health\n", "/", "/livez/"):
        assert asked(Forwarding(str(tmp_path / "none")), path)[0]["status"] == 404


def test_without_a_control_process_the_client_may_try_again(tmp_path: Path) -> None:
    with pytest.raises(HttpError, match="is starting or ending; try again") as failure:
        asked(Forwarding(str(tmp_path / "none")), "/livez")
    assert (failure.value.status, failure.value.headers) == (503, {"Retry-After": "1"})


def test_each_path_of_bentoml_is_known_or_meant_to_be_closed() -> None:
    routes = {route.path for route in service.to_asgi(is_main=True).routes if hasattr(route, "methods")}
    closed = {"/", "/docs.json", "/metrics"}  # answered by the workers' pages and by our own metrics
    assert PATHS - routes <= {"/predict_image", "/predict_batch", "/metrics"}
    assert routes - PATHS <= closed


def test_what_the_control_process_answers_comes_through(service: Service) -> None:
    answer = service.post("health", data=b"a body that nobody reads")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["status"] == "serving"
