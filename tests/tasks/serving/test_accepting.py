from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.serving.accepting import ConnectionCounts, listening
from tests.waiting import until

# A server that answers with its number; it takes no connection before it is told to by a line.
PROGRAM = """
import socket, sys, threading
from pathlib import Path
from starlette.responses import PlainTextResponse
from tasks.serving.accepting import ConnectionCounts, SharingServer

fd, index, processes = map(int, sys.argv[2:])
counts = ConnectionCounts(Path(sys.argv[1]), index, processes)
app = PlainTextResponse(str(index))
options = {"lifespan": "off", "log_level": "critical", "timeout_keep_alive": 600}  # by default 5: too few when busy
server = SharingServer(app, 0, socket.socket(fileno=fd), counts, 40, **options)
def told():
    sys.stdin.readline()
    server.accept()
threading.Thread(target=told, daemon=True).start()
server.run()
"""


class Server:
    """One process of several that share a socket."""

    def __init__(self, counts: Path, listener: socket.socket, index: int, processes: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(counts), str(listener.fileno()), str(index), str(processes)],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )

    def accept(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening("127.0.0.1", 0, ipv6=False) as found:
        yield found


@pytest.fixture
def servers(listener: socket.socket, tmp_path: Path) -> Iterator[list[Server]]:
    ConnectionCounts.create(tmp_path / "counts", 3)
    found = [Server(tmp_path / "counts", listener, index, 3) for index in range(3)]
    yield found
    for server in found:
        server.process.kill()
        server.process.wait()


def answer(connection: socket.socket) -> str:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    read = b""
    while not (body := read.partition(b"\r\n\r\n")[2]):
        received = connection.recv(4096)
        assert received, f"the server closed the connection after {read!r}"
        read += received
    return body.decode()


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=120)


def test_no_connection_is_taken_before_it_may_be(listener: socket.socket, servers: list[Server]) -> None:
    servers[1].accept()
    connections = [connect(listener) for _ in range(9)]
    assert {answer(connection) for connection in connections} == {"1"}, "and the others are not waited for"
    servers[0].accept()
    servers[2].accept()
    until(lambda: {answer(connect(listener)) for _ in range(9)} >= {"0", "2"})


def test_each_has_as_many_as_the_others_also_after_some_have_ended(
    listener: socket.socket, servers: list[Server]
) -> None:
    for server in servers:
        server.accept()

    def all_answer() -> bool:
        connections = [connect(listener) for _ in range(6)]
        return {answer(connection) for connection in connections} == {"0", "1", "2"}

    until(all_answer)
    kept = [connect(listener) for _ in range(30)]
    whose = [answer(connection) for connection in kept]
    assert max(Counter(whose).values()) <= 14
    for connection, index in zip(kept, whose, strict=True):
        if index == "0":
            connection.close()
    until(lambda: answer(connect(listener)) == "0")

    def gets_most() -> bool:
        connections = [connect(listener) for _ in range(9)]
        answers = Counter(answer(connection) for connection in connections)
        for connection in connections:
            connection.close()
        return answers["0"] >= 8

    # On a busy machine it may be too slow to take them. By chance it would get so many in one of 1,000 tries.
    assert any(gets_most() for _ in range(20))


def test_a_stopped_process_does_not_hold_up_the_others(listener: socket.socket, servers: list[Server]) -> None:
    servers[0].accept()
    servers[1].accept()
    kept = [connect(listener) for _ in range(4)]
    until(lambda: {answer(connection) for connection in kept} <= {"0", "1"})
    servers[0].process.send_signal(signal.SIGSTOP)
    more = [connect(listener) for _ in range(20)]
    assert {answer(connection) for connection in more} == {"1"}


def test_a_connection_too_many_takes_the_place_of_the_one_idle_for_longest(
    listener: socket.socket, servers: list[Server]
) -> None:
    servers[0].accept()
    kept = [connect(listener) for _ in range(40)]
    assert {answer(connection) for connection in kept} == {"0"}
    kept.reverse()
    # Now that all are open, twenty are answered in a millisecond, which is the unit of the event loop's clock.
    assert {answer(connection) for connection in kept} == {"0"}
    for _ in range(20):
        kept.append(connect(listener))
        assert answer(kept[-1]) == "0"
        ended, _, _ = select.select(kept, [], [], 120)
        assert [kept.index(one) for one in ended] == [0]
        assert kept.pop(0).recv(1) == b""
    assert {answer(connection) for connection in kept} == {"0"}


def test_a_connection_is_refused_when_all_others_are_busy(listener: socket.socket, servers: list[Server]) -> None:
    servers[0].accept()
    kept = []

    def refused() -> bytes:
        """Open a connection and begin a request, so that it is not idle; what is answered at once."""
        kept.append(connect(listener))
        kept[-1].settimeout(0.05)
        with suppress(OSError):
            kept[-1].sendall(b"POST / HTTP/1.1\r\nHost: x\r\n")
            return kept[-1].recv(4096)
        return b""  # it waits for the rest of the head, or the refusal was lost

    answered = until(refused, pause=0)
    assert answered.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in answered
    assert b"too many connections are open" in answered
    assert len(kept) > 40
    for connection in kept:
        connection.close()
    until(lambda: answer(connect(listener)) == "0")


def test_counts_belong_to_one_process_each(tmp_path: Path) -> None:
    ConnectionCounts.create(tmp_path / "counts", 2)
    one, other = (ConnectionCounts(tmp_path / "counts", index, 2) for index in range(2))
    assert not one.others_have_fewer()
    one.add(2)
    assert (one.others_have_fewer(), other.others_have_fewer()) == (True, False)
    other.add(3)
    assert (one.others_have_fewer(), other.others_have_fewer()) == (False, True)
    again = ConnectionCounts(tmp_path / "counts", 1, 2)  # after the process was killed
    assert (one.others_have_fewer(), again.others_have_fewer()) == (True, False)


def test_a_port_in_use_is_refused(listener: socket.socket) -> None:
    with pytest.raises(OSError, match="in use"):
        listening("127.0.0.1", listener.getsockname()[1], ipv6=False)
