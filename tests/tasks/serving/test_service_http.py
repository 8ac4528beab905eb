"""The running service as load balancers, browsers, Java and broken clients ask it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.tasks.serving.samples import CLASSES, Service, picture

H2C = (Path(__file__).parent / "cases" / "h2c_upgrade_request.bin").read_bytes()
GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n%s\r\n"
ORIGIN = {"Origin": "https://shop.example"}


def ask(service: Service, data: bytes, count: int = 1) -> list[tuple[int, dict[str, object]]]:
    """Send bytes and read that many answers."""
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=120) as connection:
        connection.sendall(data)
        file, answers = connection.makefile("rb"), []
        for _ in range(count):
            status, length = int(file.readline().split()[1]), 0
            while (line := file.readline().lower()) != b"\r\n":
                assert line, "cut short"
                length = int(line.split(b":")[1]) if line.startswith(b"content-length:") else length
            answers.append((status, json.loads(file.read(length))))
    return answers


def test_java_is_answered(service: Service) -> None:
    for status, answer in ask(service, H2C * 2, 2):
        assert status == 200
        assert list(answer["probabilities"]) == CLASSES  # type: ignore[call-overload]


@pytest.mark.parametrize("path", ["health", "livez", "readyz", "healthz", "metrics"])
def test_a_load_balancer_may_use_get_and_head(service: Service, path: str) -> None:
    got = requests.get(f"{service.url}/{path}", timeout=120)
    head = requests.head(f"{service.url}/{path}", timeout=120)
    assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


def test_health_is_the_same_for_each_method(service: Service) -> None:
    posted, got = service.post("health"), requests.get(f"{service.url}/health", timeout=120)
    assert (posted.status_code, posted.json()) == (got.status_code, got.json())
    other = requests.put(f"{service.url}/health", timeout=120)
    assert (other.status_code, other.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert "send GET, HEAD, POST" in other.json()["error"]


def test_a_page_of_an_allowed_origin_may_ask_and_reads_errors(service: Service) -> None:
    url = f"{service.url}/predict_image"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    preflight = requests.options(url, headers=ORIGIN | asked, timeout=120)
    answered = requests.post(url, files={"image": picture(0)}, headers=ORIGIN, timeout=120)
    refused = requests.post(url, files={"image": b"none"}, headers=ORIGIN, timeout=120)
    method = requests.get(url, headers=ORIGIN, timeout=120)
    unknown = requests.get(f"{service.url}/unknown", headers=ORIGIN, timeout=120)
    answers = [preflight, answered, refused, method, unknown]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 405, 404]
    assert {answer.headers["Access-Control-Allow-Origin"] for answer in answers} == {ORIGIN["Origin"]}
    stranger = requests.post(url, files={"image": picture(0)}, headers={"Origin": "https://evil.example"}, timeout=120)
    assert "Access-Control-Allow-Origin" not in stranger.headers


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: \xff\xfe\r\n",
        b"Content-Type: multipart/form-data\r\n",
        b"Authorization: Bearer \xff\xe9\r\n",
        b"X-API-Key: \xff\r\n",
        b"Origin: \xff\r\n",
        b"Accept: \xff\r\n",
        b"traceparent: \xff\r\n",
        b"X-Forwarded-For: \xff\r\nX-Forwarded-Proto: \xff\r\n",
        b"\xc3\xa9: x\r\n",
        b"Cookie: \xff=\xff\r\n",
        b"User-Agent: %s\r\n" % (b"a" * 60_000),
        b"Range: bytes=9-\r\nExpect: 100-continue\r\n",
    ],
)
def test_a_strange_header_breaks_nothing(service: Service, header: bytes) -> None:
    data = GET_HEALTH % header
    if header.startswith(b"\xc3"):
        assert ask(service, data)[0][0] == 400
    elif b"Expect" in header:
        assert ask(service, data)[0][0] in (100, 200)
    else:
        assert [status for status, _ in ask(service, data * 2, 2)] == [200, 200]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health HTTP/1.1\r\nX: " + b"a" * 10**8, 431),
        (b"GET /" + b"a" * 10**7, 414),
        (b"GET /%ff%00%0a HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /livez%0a HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n", 400),
        (b"POST /predict_image HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n" % (b"0" * 5000 + b"5"), 413),
        (b"POST /predict_image HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n", 413),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_a_strange_request_is_refused(service: Service, data: bytes, status: int) -> None:
    [(answered, content)] = ask(service, data)
    assert (answered, set(content)) == (status, {"error"})
    assert "\n" not in str(content["error"])
    assert ask(service, GET_HEALTH % b"")[0][0] == 200


@pytest.mark.parametrize("path", ["health", "get_model_info", "refresh", "predict_image", "predict_batch"])
@pytest.mark.parametrize(
    "kind", [b"\xff\xfe", b"multipart/form-data", b"a; charset=\xe9", b"application/json", b"\xc3\x28/x"]
)
def test_a_strange_content_type_is_no_fault_of_the_service(service: Service, path: str, kind: bytes) -> None:
    head = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 2\r\n\r\n{}"
    for status, _ in ask(service, head % (path.encode(), kind) * 2, 2):  # an answer that fails ends the connection
        assert status in ((400, 415) if path.startswith("predict") else (200,))
