"""One request a connection, and no two readings of it."""

from __future__ import annotations

import time

import pytest

from pipeline.socket_proxy import wire

from .lab import CREATE, OURS, Lab, asked, body, posted

PING = "GET /_ping HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"GET /_ping HTTP/1.0\r\n\r\n", "request line"),
        (b"GET /_ping\r\n\r\n", "request line"),
        (b"GET http://localhost/_ping HTTP/1.1\r\n\r\n", "request line"),
        (b"GET  /_ping HTTP/1.1\r\n\r\n", "request line"),
        (b"GET /_ping\tHTTP/1.1\r\n\r\n", "request line"),
        (b"get /_ping HTTP/1.1\r\n\r\n", "request line"),
        (b"GET /_ping HTTP/1.1\nHost: a\r\n\r\n", "request line"),
        (b"GET /_p\xc3\xaeng HTTP/1.1\r\n\r\n", "request line"),
        (f"{PING}A: 1\nB: 2\r\n\r\n".encode(), "a header is not"),
        (f"{PING}A : 1\r\n\r\n".encode(), "a header is not"),
        (f"{PING} folded\r\n\r\n".encode(), "a header is not"),
        (f"{PING}A: \x00\r\n\r\n".encode(), "a header is not"),
        (f"{PING}Host: other\r\n\r\n".encode(), "header host is there twice"),
        (f"{PING}Content-Length: 0\r\ncontent-length: 5\r\n\r\n".encode(), "header content-length is there twice"),
        (f"{PING}Content-Length: +5\r\n\r\n".encode(), "Content-Length '+5'"),
        (f"{PING}Content-Length: 0x5\r\n\r\n".encode(), "Content-Length '0x5'"),
        (f"{PING}Content-Length: 1048577\r\n\r\n".encode(), "is not a number of at most 1048576 bytes"),
        (f"{PING}Content-Length: -1\r\n\r\n".encode(), "Content-Length '-1'"),
        (f"{PING}Upgrade: tcp\r\nConnection: Upgrade\r\n\r\n".encode(), "header upgrade is not accepted"),
        (f"{PING}Expect: 100-continue\r\n\r\n".encode(), "header expect is not accepted"),
        (f"{PING}Content-Length: 2\r\n\r\n{{}}".encode(), "this call has no body"),
        (f"{PING}A: {'a' * 20_000}\r\n\r\n".encode(), "has over 16384 bytes"),
    ],
)
def test_what_is_not_plain_http_is_refused(lab: Lab, raw: bytes, said: str) -> None:
    assert said in lab.refusal(raw)


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "identity", "gzip, chunked", "\tchunked"])
def test_a_body_in_chunks_is_refused(lab: Lab, coding: str) -> None:
    chunked = posted(CREATE, b"5\r\nhello\r\n0\r\n\r\n", f"Transfer-Encoding: {coding}")
    assert "header transfer-encoding is not accepted" in lab.refusal(chunked)


def test_a_second_request_behind_the_first_is_not_passed_on(lab: Lab) -> None:
    privileged = body()
    privileged["HostConfig"]["Privileged"] = True
    line, _ = lab.passed(asked("GET", f"/v1.41/containers/{OURS}/json") + posted(CREATE, privileged))
    assert line == f"GET /v1.41/containers/{OURS}/json HTTP/1.1"


def test_bytes_behind_a_body_are_not_passed_on(lab: Lab) -> None:
    _, content = lab.passed(posted(CREATE, body()) + asked("DELETE", f"/v1.41/containers/{OURS}?force=1"))
    assert content.endswith(b"}")


def test_no_header_of_a_client_is_passed_on(lab: Lab) -> None:
    lab.send(f"{PING}X-Registry-Auth: secret\r\nConnection: keep-alive\r\n\r\n".encode())
    assert lab.seen == [
        b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ]


def test_a_body_of_gigabytes_is_refused_before_it_is_read(lab: Lab) -> None:
    raw = posted(CREATE).replace(b"Content-Length: 0", b"Content-Length: 8589934592") + b" " * (1 << 22)
    assert "Content-Length '8589934592' is not a number of at most" in lab.refusal(raw)


@pytest.mark.parametrize(("raw", "said"), [(PING.encode(), "no whole request"), (posted(CREATE)[:-30], "no whole")])
def test_who_sends_no_whole_request_is_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, raw: bytes, said: str
) -> None:
    monkeypatch.setattr(wire, "SECONDS", 0.2)
    started = time.monotonic()
    assert said in lab.refusal(raw)
    assert time.monotonic() - started < 30


def test_who_announces_more_than_he_sends_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SECONDS", 0.2)
    raw = posted(CREATE).replace(b"Content-Length: 0", b"Content-Length: 10") + b"{}"
    assert "no whole body within" in lab.refusal(raw)


def test_who_leaves_without_a_word_gets_none(lab: Lab) -> None:
    with lab.connected() as client:
        client.shutdown(1)
        assert client.recv(10) == b""
