from __future__ import annotations

import socket
from typing import Any

import pytest

from tasks.errors import UnavailableError
from tasks.serving.client import replicas


def addresses(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_every_address_behind_a_name_is_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses(monkeypatch, "10.0.0.3", "10.0.0.2", "10.0.0.3")
    assert [one.url for one in replicas("http://serving:3000")] == ["http://10.0.0.2:3000", "http://10.0.0.3:3000"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:3000", "http://serving"])
def test_one_address_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    addresses(monkeypatch, "127.0.0.1")
    assert [one.url for one in replicas(url)] == [url]


def test_a_certificate_is_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses(monkeypatch, "10.0.0.2", "10.0.0.3")
    assert [one.url for one in replicas("https://models.example.org")] == ["https://models.example.org"]


def test_a_name_without_an_address_may_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match=r"'no-such-host\.invalid' has no address"):
        replicas("http://no-such-host.invalid:3000")
