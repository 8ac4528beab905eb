"""What a connection may do before and between its requests: limits for heads, no other protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

HEAD_LIMIT = 64 * 1024  # bytes of a request line and its headers; proxies allow 8 to 32 KiB
PIPELINE_LIMIT = 100  # requests that wait for their turn on one connection; each takes some KB, and 18 bytes to send
IDLE_NUMBERS = itertools.count(1)
UPGRADE = frozenset({b"upgrade", b"http2-settings"})


class Place(Enum):
    """Where in its stream of requests a connection is."""

    BETWEEN = 0
    HEAD = 1
    BODY = 2


class Connection(HttpToolsProtocol):
    """One client's connection; pass the class to uvicorn as `http`.

    Beyond uvicorn's own class:

    - A request line and headers of more than HEAD_LIMIT are refused with 414 or 431 as soon as that many bytes have
      come. The parser copies what it has of a header for each piece that follows: 100 MB would hold up everyone for
      seconds.
    - A head that is not complete within `head_seconds` is refused with 408. The time runs from the head's first byte,
      for the first request from the connection on, and further bytes do not extend it.
    - Of requests that are sent without waiting for the answers, PIPELINE_LIMIT may wait; the next is refused with 429.
    - A request to change the protocol (`Upgrade: h2c` of Java and curl) is answered as if it did not ask for that, as
      HTTP allows. The parser would take its body for the other protocol.

    The time of a body is the application's to limit. Only when an answer is complete before its request's body, as with
    413, the rest is read and dropped for at most `leftover_seconds`, so that a client that is still sending sees it.
    """

    head_seconds = 10.0
    leftover_seconds = 60.0
    linger_seconds = 5.0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take what uvicorn passes."""
        super().__init__(config, server_state, app_state, _loop)
        self._place = Place.BETWEEN
        self._moved = False  # whether the last piece of data began or ended something, or was part of a body
        self._spent = 0  # bytes since then: of one head, or of chunk sizes and trailers of a body
        self._refused = False
        self._last_words: bytes | None = None  # a refusal that waits for the answers before it
        self.on_lost: Callable[[], None] = lambda: None
        self.became_idle = 0
        """Grows from one connection that becomes idle to the next; 0 while a request is received or answered.

        No time: uvloop's clock counts milliseconds, and several connections may become idle in one.
        """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first head."""
        super().connection_made(transport)
        self.became_idle = next(IDLE_NUMBERS)
        self._end_after(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline, and tell the server."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Parse data, but no more of a head than it may have."""
        if len(data) <= HEAD_LIMIT - self._spent and not self._refused:
            self._parse(data)
            return
        rest = memoryview(data)
        while rest and not self._refused and not self.transport.is_closing():
            room = HEAD_LIMIT - self._spent
            self._parse(rest[:room])
            rest = rest[room:]

    def end_idle(self) -> None:
        """End the connection, on which nothing is going on, for the sake of another."""
        self.became_idle = 0
        self.transport.close()

    def drain(self, seconds: float) -> None:
        """From now on, end the connection once it has been idle for `seconds`, if not earlier."""
        self.timeout_keep_alive = min(self.timeout_keep_alive, seconds)  # type: ignore[assignment]
        if self._place is Place.BETWEEN and not self._refused and self.timeout_keep_alive_task is not None:
            self._end_after(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Handle the end of whichever time was running."""
        if self._place is Place.HEAD and not self._refused and not self.transport.is_closing():
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"request line and headers were not complete after {self.head_seconds:g} s; send them at once",
            )
        else:
            super().timeout_keep_alive_handler()

    # What the parser reports
    def on_message_begin(self) -> None:
        """Note the first byte of a request."""
        super().on_message_begin()
        self.became_idle = 0
        self._place = Place.HEAD
        self._moved = True

    def on_headers_complete(self) -> None:
        """Hand the request on, unless it has to be parsed again without its Upgrade."""
        if self.parser.should_upgrade():
            return
        if len(self.pipeline) >= PIPELINE_LIMIT:
            raise OverflowError  # the parser stops, and says so in `_parse`
        super().on_headers_complete()
        self._place = Place.BODY
        self._moved = True
        self._unset_keepalive_if_required()
        self.headers = []  # trailers would land in the headers that the application has read

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body on."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request's body, unless it has to be parsed again."""
        if self._place is not Place.BODY:
            return
        super().on_message_complete()
        self._place = Place.BETWEEN
        self._moved = True
        if self.cycle.response_complete:
            self.became_idle = next(IDLE_NUMBERS)
            self._end_after(self.timeout_keep_alive)

    # What the application's answer leads to
    def on_response_complete(self) -> None:
        """Choose the time for what comes next."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is None or self.transport.is_closing():
            return  # the next request is in progress already, or there will be none
        if self._place is Place.BETWEEN and self.cycle.response_complete:
            self.became_idle = next(IDLE_NUMBERS)
        if self._last_words is not None:
            self._end_with(self._last_words)
        elif self._place is Place.HEAD:
            self._end_after(self.head_seconds)
        elif self._place is Place.BODY:
            self._end_after(self.leftover_seconds)

    def _parse(self, piece: bytes | memoryview) -> None:
        self._moved = False
        pieces = [piece]
        while pieces:
            piece = pieces.pop()
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(HTTPStatus.BAD_REQUEST, "CONNECT asks for a proxy and this is none; send GET or POST")
                    return
                pieces += [piece[upgrade.args[0] :], self._head_without_upgrade()]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            except httptools.HttpParserError as error:
                self._refuse_unread(error)
                return
        if not self._moved:
            self._spent = 0 if self._place is Place.BETWEEN else self._spent + len(piece)
        elif self._place is Place.HEAD:
            self._spent = self._part_of_head(bytes(piece))
            if self.cycle is not None and self.cycle.response_complete:
                self._end_after(self.head_seconds)
        else:
            self._spent = 0
        if self._spent >= HEAD_LIMIT:
            self._refuse_size()

    def _part_of_head(self, piece: bytes) -> int:
        """How many of these bytes, which end within a head, belong to it.

        Other requests may precede it in the same piece. Who repeats the request line in a header is allowed one piece
        more than HEAD_LIMIT.
        """
        if not self.url:
            return 1
        return len(piece) - max(piece.rfind(self.parser.get_method() + b" " + self.url), 0)

    def _head_without_upgrade(self) -> bytes:
        """The head just parsed, without what asks for another protocol."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % field for field in self.headers if field[0] not in UPGRADE]
        return b"\r\n".join([*lines, b"", b""])

    def _refuse_unread(self, error: httptools.HttpParserError) -> None:
        if len(self.pipeline) >= PIPELINE_LIMIT:
            text = f"{PIPELINE_LIMIT} requests on this connection wait for their answers; send more after them"
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, text)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, f"this is not valid HTTP/1.1 ({error}); send it to an http:// address")

    def _refuse_size(self) -> None:
        status, limit = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"over {HEAD_LIMIT // 1024} KiB"
        if self._place is Place.BODY:
            text = f"the body's chunk extensions or trailers are {limit}; send it with fewer"
        elif len(self.parser.get_method() + self.url) + len("  HTTP/1.1\r\n") > HEAD_LIMIT:
            status, text = HTTPStatus.REQUEST_URI_TOO_LONG, f"the address is {limit}; send data as the body of a POST"
        else:
            text = f"the headers are {limit}; send fewer or shorter ones"
        self._refuse(status, text)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer what cannot be handed to the application, after the answers before it, and take no further request."""
        self._refused = True
        answer = _refusal(status, text, *self.server_state.default_headers)
        if self._place is Place.BODY:
            if self.pipeline:  # the newest of these is the request in question
                self.pipeline.popleft()
                self._last_words = answer
                return
            if self.cycle.response_started:
                self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif self.cycle is not None and not self.cycle.response_complete:
            self._last_words = answer
            return
        self._end_with(answer)

    def _end_with(self, answer: bytes) -> None:
        """Send the last answer, and close once the client has read it.

        Closed at once, with data unread, the connection would be reset and the answer lost to the client.
        """
        self.transport.write(answer)
        self.transport.write_eof()
        self.flow.resume_reading()
        self._end_after(self.linger_seconds)

    def _end_after(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


def refuse(connection: socket.socket) -> None:
    """Answer a connection that there is no place for, without waiting, and close it."""
    with contextlib.suppress(OSError), connection:
        text = "too many connections are open; try again in a second"
        connection.send(_refusal(HTTPStatus.SERVICE_UNAVAILABLE, text, (b"retry-after", b"1")))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(HEAD_LIMIT)  # unread, it would reset the connection, and the answer could be lost


def _refusal(status: HTTPStatus, text: str, *more: tuple[bytes, bytes]) -> bytes:
    body = json.dumps({"error": text}).encode()
    fields = [
        *more,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    lines = [b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode()), *(b": ".join(field) for field in fields)]
    return b"\r\n".join([*lines, b"", body])
