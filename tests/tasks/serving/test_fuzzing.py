"""What strangers may send: the service refuses it, and goes on answering."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from tests.tasks.serving.samples import Service, picture

MEBIBYTE = 2**20
THREADS = 4
PATIENCE = 1.0  # seconds for a request of which the service may wait for the rest
OTHER_PATHS = ("get_model_info", "health", "metrics", "readyz", "", "docs.json", "nothing")
KINDS = (
    "multipart/form-data; boundary=x", "multipart/form-data", "image/png", "application/octet-stream",
    "application/json", "text/plain", "\xff\xfe", "application/x-www-form-urlencoded",
)  # fmt: skip


def request(random: Random) -> bytes:
    """A request, of which most have something wrong."""
    field = random.choice(["image", "images"])
    image = picture(random.randrange(256), random.choice([1, 8, 64]), random.choice(["PNG", "JPEG", "GIF", "BMP"]))
    encoded = base64.b64encode(image).decode()
    part = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="a"\r\n\r\n'.encode()
    kind, content = random.choice(
        [
            (KINDS[0], part + image + b"\r\n--x--"),
            ("image/png", image),
            ("application/json", json.dumps({field: [encoded] if field == "images" else encoded}).encode()),
            ("application/json", random.randbytes(900)),
        ]
    )
    content = damaged(random, content) if random.random() < 0.5 else content
    path = (
        f"predict_{'batch' if field == 'images' else 'image'}" if random.random() < 0.8 else random.choice(OTHER_PATHS)
    )
    method = "POST" if random.random() < 0.9 else random.choice(["GET", "HEAD", "PUT", "OPTIONS"])
    kind = kind if random.random() < 0.8 else random.choice(KINDS)
    length = len(content) + (random.choice([-5, 5]) if random.random() < 0.05 else 0)
    head = (
        f"{method} /{path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {max(0, length)}\r\nConnection: close\r\n\r\n"
    ).encode("latin-1")
    return (damaged(random, head) if random.random() < 0.1 else head) + content


def damaged(random: Random, data: bytes) -> bytes:
    """Change some bytes."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 3, 20])):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def status(service: Service, data: bytes) -> int:
    """Send bytes as they are and return the status of the answer; 0: the service waits for more, or closed."""
    host, port = service.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        try:
            connection.sendall(data)
            while chunk := connection.recv(65536):
                answer += chunk
        except OSError:
            pass
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_nothing_that_is_sent_is_a_fault_of_the_service(service: Service, count: int) -> None:
    def send(seed: int, many: int) -> Counter[int]:
        random = Random(seed)  # noqa: S311  # the same requests every time
        return Counter(status(service, request(random)) for _ in range(many))

    send(-1, 200)  # what is allocated once
    before, over, good = service.memory(), threading.Event(), Counter[int]()

    def ask() -> None:
        while not over.is_set():
            good[service.post("predict_image", files={"image": picture(0)}).status_code] += 1

    with ThreadPoolExecutor(THREADS + 1) as pool:
        asking = pool.submit(ask)
        sent = [pool.submit(send, seed, count // THREADS) for seed in range(THREADS)]
        found = sum((one.result() for one in sent), Counter[int]())
        over.set()
        asking.result()
    assert {code for code in found if code >= 500} == set(), found
    assert found[200] > count / 10, found
    assert found[400] + found[415] > count / 10, found
    assert set(good) == {200}
    assert service.memory() - before < 32 * MEBIBYTE
