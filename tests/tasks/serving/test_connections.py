"""Raw connections to a real server of a small application, which answers with what it understood."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from tasks.serving.connections import HEAD_LIMIT, PIPELINE_LIMIT, Connection
from tasks.serving.draining import DrainingServer
from tests.waiting import until

H2C = (Path(__file__).parent / "cases" / "h2c_upgrade_request.bin").read_bytes()
H2C_HEAD, _, H2C_BODY = H2C.partition(b"\r\n\r\n")


class Client:
    """A connection to the server."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> tuple[int, dict[str, object], str | None]:
        """The next answer: status, content, and what it says of the connection."""
        status = int(self.received.readline().split()[1])
        headers = http.client.parse_headers(self.received)
        return status, json.loads(self.received.read(int(headers["content-length"]))), headers["connection"]

    def ended(self) -> bool:
        """Whether the server has ended the connection in order; waits for that or for data."""
        return self.received.read(1) == b""


Open = Callable[[], Client]


class Heard:
    """The application: tells what it got; `/early` does not wait for the body, `/held` for `go` besides."""

    def __init__(self) -> None:
        self.go = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        body = b"" if request.url.path == "/early" else await request.body()
        if request.url.path == "/held":
            await asyncio.to_thread(self.go.wait, 60)
        answer = {"method": request.method, "path": request.url.path, "body": len(body), "sum": sum(body)}
        await JSONResponse(answer | {"headers": sorted(request.headers)})(scope, receive, send)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def server(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> Iterator[DrainingServer]:
    """The server, up, in a thread: there no signal reaches it."""
    monkeypatch.setattr(Connection, "linger_seconds", 600.0)  # on a busy machine 100 MB take more than the usual five
    server = DrainingServer(heard, 0, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server
    finally:
        heard.go.set()
        server.should_exit = True
        thread.join(600)


@pytest.fixture
def connect(server: DrainingServer) -> Iterator[Open]:
    [listening] = server.servers[0].sockets
    address = listening.getsockname()
    with ExitStack() as stack:

        def connection() -> Client:
            client = Client(address)
            stack.callback(client.socket.close)
            return client

        yield connection


def get(path: str = "/", headers: bytes = b"") -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (path.encode(), headers)


def post(body: bytes, path: str = "/") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


# Size
@pytest.mark.parametrize(
    ("head", "status", "text"),
    [
        (b"GET /" + b"a" * HEAD_LIMIT, 414, "the address is over 64 KiB"),
        (b"GET /" + b"a" * (HEAD_LIMIT - 10) + b" HTTP/1.1\r\n\r\n", 414, "the address is over 64 KiB"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * HEAD_LIMIT, 431, "the headers are over 64 KiB"),
        (b"GET / HTTP/1.1\r\n" + b"a" * HEAD_LIMIT, 431, "the headers are over 64 KiB"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (HEAD_LIMIT // 6), 431, "the headers are over 64 KiB"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 10**8, 431, "the headers are over 64 KiB"),
    ],
    ids=["address", "just too long an address", "header", "header name", "many headers", "100 MB"],
)
def test_a_long_head_is_refused(connect: Open, head: bytes, status: int, text: str) -> None:
    connection, other = connect(), connect()
    sending = threading.Thread(target=connection.send, args=(head,))
    sending.start()
    began = time.monotonic()
    other.send(get())
    assert other.read()[0] == 200
    assert time.monotonic() - began < 5, "nobody waits for the parser"
    answer, content, how = connection.read()
    assert (answer, set(content), how) == (status, {"error"}, "close")
    assert text in str(content["error"])
    assert "\n" not in str(content["error"])
    sending.join(600)
    assert connection.ended()


@pytest.mark.parametrize("before", [b"", get(), post(b"x" * 3 * HEAD_LIMIT)], ids=["first", "after GET", "after POST"])
def test_a_head_of_the_limit_is_answered_and_one_byte_more_refused(connect: Open, before: bytes) -> None:
    largest = get(headers=b"X: %s\r\n" % (b"a" * (HEAD_LIMIT - len(get()) - 5)))
    assert len(largest) == HEAD_LIMIT
    for head, status in ((largest, 200), (largest.replace(b"X: ", b"X: a"), 431)):
        connection = connect()
        connection.send(before + head)
        answers = [connection.read()[0] for _ in range(2 if before else 1)]
        assert answers == ([200, status] if before else [status])


def test_many_requests_in_one_piece_are_not_one_long_head(connect: Open) -> None:
    connection, request = connect(), get(headers=b"X: %s\r\n" % (b"a" * 2000))
    connection.send(request * PIPELINE_LIMIT)
    assert [connection.read()[0] for _ in range(PIPELINE_LIMIT)] == [200] * PIPELINE_LIMIT
    connection.send(get("/next"))
    assert connection.read()[1]["path"] == "/next"


@pytest.mark.parametrize("request_", [get(), get(headers=b"Connection: Upgrade\r\nUpgrade: h2c\r\n")])
def test_a_flood_of_requests_is_refused_after_the_first_are_answered(connect: Open, request_: bytes) -> None:
    connection = connect()
    flood = threading.Thread(target=connection.send, args=(request_ * (10**6 // len(request_)),))
    flood.start()
    answers = [connection.read() for _ in range(PIPELINE_LIMIT + 2)]
    assert [status for status, *_ in answers] == [200] * (PIPELINE_LIMIT + 1) + [429]
    assert "100 requests on this connection wait" in str(answers[-1][1]["error"])
    flood.join(600)
    assert connection.ended()


def chunked(extra: bytes = b"", trailers: bytes = b"") -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"3%s\r\nabc\r\n2\r\nde\r\n0\r\n%s\r\n" % (extra, trailers)


def test_trailers_do_not_become_headers(connect: Open) -> None:
    connection = connect()
    connection.send(chunked(b";name=value", b"Authorization: Bearer x\r\n") + get("/next"))
    _, content, _ = connection.read()
    assert (content["body"], content["sum"]) == (5, sum(b"abcde"))
    assert content["headers"] == ["host", "transfer-encoding"]
    assert connection.read()[1]["path"] == "/next"


@pytest.mark.parametrize(
    "request_",
    [chunked(trailers=b"X: %s\r\n" % (b"a" * 10**7)), chunked(b";x=" + b"a" * 10**7)],
    ids=["trailers", "chunk extension"],
)
def test_what_comes_with_a_body_is_limited_too(connect: Open, request_: bytes) -> None:
    connection = connect()
    sending = threading.Thread(target=connection.send, args=(request_,))
    sending.start()
    status, content, how = connection.read()
    assert (status, how) == (431, "close")
    assert "chunk extensions or trailers are over 64 KiB" in str(content["error"])
    sending.join(600)


def test_a_refusal_waits_for_the_answers_before_it(connect: Open, heard: Heard) -> None:
    connection = connect()
    connection.send(get("/held") + b"GET / HTTP/1.1\r\nX: " + b"a" * HEAD_LIMIT)
    heard.go.set()
    assert connection.read()[1]["path"] == "/held"
    assert connection.read()[0] == 431
    assert connection.ended()


# Time
@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.5)


@pytest.mark.usefixtures("hasty")
def test_a_connection_that_says_nothing_is_ended(connect: Open) -> None:
    assert connect().ended()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("before", [b"", get(), post(b"abc")], ids=["first", "kept alive", "after a body"])
@pytest.mark.parametrize("together", [False, True])
def test_half_a_head_is_ended(connect: Open, before: bytes, together: bool) -> None:
    connections = []
    for _ in range(50):
        connections.append(connection := connect())
        if together:
            connection.send(before + b"GET / HTTP/1.1\r\nHos")
        if before:
            if not together:
                connection.send(before)
            assert connection.read()[0] == 200
        if not together:
            connection.send(b"GET / HTTP/1.1\r\nHos")
    for connection in connections:
        status, content, how = connection.read()
        assert (status, how) == (408, "close")
        assert "not complete after 0.5 s" in str(content["error"])
        assert connection.ended()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("before", [b"", get()], ids=["first", "kept alive"])
def test_a_head_that_drips_is_ended(connect: Open, before: bytes) -> None:
    connection = connect()
    if before:
        connection.send(before)
        connection.read()
    began = time.monotonic()
    connection.socket.settimeout(0.05)
    answer = b""
    for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
        connection.send(bytes([byte]))
        try:
            answer = connection.socket.recv(4096)
            break
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 0.4 < time.monotonic() - began < 30


@pytest.mark.usefixtures("hasty")
def test_blank_lines_do_not_keep_a_connection(connect: Open, server: DrainingServer) -> None:
    server.config.timeout_keep_alive = 1
    connection = connect()
    connection.send(get())
    connection.read()
    connection.socket.settimeout(0.1)

    def over() -> bool:
        try:
            connection.send(b"\r\n")
            return connection.socket.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    until(over)


@pytest.mark.usefixtures("hasty")
def test_a_slow_body_and_a_slow_answer_have_more_time(
    monkeypatch: pytest.MonkeyPatch, connect: Open, heard: Heard
) -> None:
    connection = connect()
    request = post(b"abcdef", "/held")
    connection.send(request[:-3])
    connection.socket.settimeout(1.0)
    with pytest.raises(TimeoutError):
        connection.socket.recv(1)
    connection.socket.settimeout(30)
    connection.send(request[-3:] + b"GET /next HTTP/1.1\r\n")
    connection.socket.settimeout(1.0)
    with pytest.raises(TimeoutError):
        connection.socket.recv(1)
    connection.socket.settimeout(30)
    monkeypatch.setattr(Connection, "head_seconds", 30)
    heard.go.set()
    assert connection.read()[1]["body"] == 6
    connection.send(b"Host: x\r\n\r\n")
    assert connection.read()[1]["path"] == "/next", "its time began with the end of the answer before"


def test_the_rest_of_a_body_after_its_answer_has_a_time(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "leftover_seconds", 1.0)
    connection = connect()
    connection.send(post(b"a" * 10**6, "/early")[:-2])
    assert connection.read()[0] == 200
    connection.send(b"a")
    assert connection.ended()
    connection = connect()
    for _ in range(2):
        connection.send(post(b"a" * 10**6, "/early"))
        assert connection.read()[0] == 200, "who sends all of it can go on"


def test_an_idle_connection_is_kept_for_the_time_set(connect: Open, server: DrainingServer) -> None:
    server.config.timeout_keep_alive = 1
    connection = connect()
    for _ in range(2):
        began = time.monotonic()
        connection.send(get())
        assert connection.read()[2] is None
    assert connection.ended()
    assert 0.9 < time.monotonic() - began < 30


# Upgrade
def understood(connection: Client, body: bytes) -> None:
    status, content, how = connection.read()
    assert (status, how) == (200, None)
    assert (content["method"], content["body"], content["sum"]) == ("POST", len(body), sum(body))


def test_a_request_to_upgrade_is_answered_as_it_is(connect: Open) -> None:
    connection = connect()
    for _ in range(2):
        connection.send(H2C)
        understood(connection, H2C_BODY)
    connection.send(get("/next", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"))
    _, content, _ = connection.read()
    assert (content["path"], content["headers"]) == ("/next", ["connection", "host"])


@pytest.mark.parametrize("body", [H2C_BODY, b"9\r\nin chunks\r\n0\r\n\r\n"])
def test_in_whatever_pieces_it_comes(body: bytes) -> None:
    head = H2C_HEAD if body is H2C_BODY else H2C_HEAD.replace(b"Content-Length: 1398", b"Transfer-Encoding: chunked")
    request = head + b"\r\n\r\n" + body
    cuts = [(end,) for end in range(1, len(head) + 40)] + [tuple(range(1, len(request)))]
    wanted = {"body": len(body) if body is H2C_BODY else len("in chunks"), "method": "POST"}
    for answers in asyncio.run(answers_to_pieces([(request * 2, cut) for cut in cuts])):
        contents = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in answers.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        assert [wanted.items() <= content.items() for content in contents] == [True, True]


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def answers_to_pieces(cases: list[tuple[bytes, tuple[int, ...]]]) -> list[bytes]:
    """What is answered when data arrive cut at the given places: over a socket the kernel would join some."""
    config, answers = Config(Heard(), log_config=None, access_log=False, lifespan="off"), []
    for data, ends in cases:
        connection, transport = Connection(config, ServerState(), {}), Transport()
        connection.connection_made(transport)
        for start, end in pairwise((0, *ends, len(data))):
            connection.data_received(data[start:end])
        async with asyncio.timeout(600):
            while not connection.cycle.response_complete:
                await asyncio.sleep(0)
        connection.connection_lost(ConnectionResetError())
        answers.append(transport.written)
    return answers


def test_upgrades_among_other_requests_in_one_piece(connect: Open) -> None:
    connection = connect()
    connection.send(H2C + chunked() + H2C + get() + H2C)
    for body in (H2C_BODY, b"abcde", H2C_BODY):
        understood(connection, body)
    assert connection.read()[1]["method"] == "GET"
    understood(connection, H2C_BODY)


def test_an_upgrade_with_a_chunked_body(connect: Open) -> None:
    connection = connect()
    data = chunked().replace(b"Host: x", b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c")
    connection.send(data.replace(b"abc", b"xyz") + H2C)
    understood(connection, b"xyzde")
    understood(connection, H2C_BODY)


def test_an_upgrade_with_a_long_head_and_body(connect: Open) -> None:
    body = b"x" * 10**6
    head = H2C_HEAD.replace(b"1398", b"%d\r\nX: %s" % (len(body), b"a" * 60_000))
    connection = connect()
    connection.send(head + b"\r\n\r\n" + body)
    understood(connection, body)


# Other nonsense
@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000),
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"\0" * 100,
        H2C_HEAD.replace(b"Content-Length: 1398", b"Content-Length: 5\r\nTransfer-Encoding: chunked") + b"\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_in_one_line(connect: Open, data: bytes) -> None:
    connection = connect()
    connection.send(data)
    status, content, how = connection.read()
    assert (status, set(content), how) == (400, {"error"}, "close")
    assert connection.ended()
    connection = connect()
    connection.send(get() + data)
    assert [connection.read()[0] for _ in range(2)] == [200, 400]
