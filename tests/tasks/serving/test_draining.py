"""Clients that keep their connection, while a server of a small application ends."""

from __future__ import annotations

import contextlib
import http.client
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.tasks.serving.samples import free_port
from tests.waiting import until

# As an answer is made the whole server is held up, as it is where processors are few: requests wait unread meanwhile.
PROGRAM = """
import sys, time
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tasks.serving import draining

async def answer(request):
    time.sleep(0.02)
    return PlainTextResponse("here")

port, seconds, draining.IDLE_SECONDS = map(float, sys.argv[1:])
app = Starlette(routes=[Route("/", answer)])
draining.DrainingServer(app, seconds, host="127.0.0.1", port=int(port), timeout_keep_alive=75).run()
"""
Server = tuple[subprocess.Popen[bytes], int]


def answers(connection: http.client.HTTPConnection) -> str | None:
    """Ask once; what the server says of the connection."""
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.read() == b"here"
    return response.headers["connection"]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with a drain of 3 s."""
    with serving(3) as found:
        yield found


@pytest.fixture
def abrupt() -> Iterator[Server]:
    """One without."""
    with serving(0) as found:
        yield found


@contextlib.contextmanager
def serving(seconds: float, idle: float = 5) -> Iterator[Server]:
    """The server, up; its process and port."""
    port = free_port()
    arguments = [str(number) for number in (port, seconds, idle)]
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.DEVNULL)

    def up() -> bool:
        try:
            return answers(http.client.HTTPConnection("127.0.0.1", port)) is None
        except ConnectionRefusedError:
            return False

    try:
        until(up)
        yield child, port
    finally:
        child.kill()
        child.wait()


def test_from_the_signal_on_each_answer_is_its_connections_last(server: Server) -> None:
    child, port = server
    kept = http.client.HTTPConnection("127.0.0.1", port)
    assert [answers(kept), answers(kept)] == [None, None]
    child.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert answers(kept) == "close"
    assert answers(http.client.HTTPConnection("127.0.0.1", port)) == "close", "who comes anew is answered too"
    assert child.wait(600) == -signal.SIGTERM
    assert time.monotonic() - began > 2.9


def test_from_the_signal_on_connections_may_be_idle_for_less_long() -> None:
    with serving(60, idle=2) as (child, port):
        kept, unused, asking = (http.client.HTTPConnection("127.0.0.1", port) for _ in range(3))
        assert [answers(kept), answers(asking)] == [None, None]
        unused.connect()
        child.send_signal(signal.SIGTERM)
        began = time.monotonic()
        until(lambda: answers(http.client.HTTPConnection("127.0.0.1", port)) == "close")
        assert answers(asking) == "close", "who was idle when the signal came is answered"
        for connection in (kept, unused):
            connection.sock.settimeout(30)
            assert connection.sock.recv(1) == b""
        assert 1.5 < time.monotonic() - began < 30
        assert child.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_another_signal_ends_the_wait(number: signal.Signals) -> None:
    with serving(60) as (child, _):
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert child.poll() is None
        child.send_signal(number)
        assert child.wait(600) in (-number, 0, 1)  # the server may end orderly, or Python with KeyboardInterrupt


def lost(server: Server, clients: int = 8) -> list[str]:
    """End a server while clients ask as fast as they can on connections that they keep; what went wrong.

    A client that is told to go goes: the next connection of its would be another server's.
    """
    child, port = server
    failures: list[str] = []
    busy = threading.Barrier(clients + 1)

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        answers(connection)
        busy.wait()
        try:
            # As clients with a pool of connections do, one that the server has closed is not asked again.
            while answers(connection) != "close" and not select.select([connection.sock], [], [], 0)[0]:
                pass
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    busy.wait()
    time.sleep(0.3)
    child.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    return failures


def test_no_request_is_lost(server: Server) -> None:
    assert lost(server) == []


def test_without_the_wait_requests_are_lost(abrupt: Server) -> None:
    """What the wait is for: were this to pass without it, the test above would show nothing."""
    assert lost(abrupt)
