"""HTTP/1.1 as far as it is needed: one request a connection, its body with a length, read whole and with a bound."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.socket_proxy.refusal import Refused, shown

LARGEST_HEAD = 16 << 10  # bytes
LARGEST_BODY = 1 << 20  # bytes; a container's configuration, with the request of its stage, has a few thousand
SECONDS = 30.0  # for a client to send its request
REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.1")
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\t]*)")


@dataclass(frozen=True)
class Request:
    """What a client asks for; no header but the length matters."""

    method: str
    target: str
    length: int


def parse(head: bytes) -> Request:
    """Read the request line and the headers, up to and with the empty line.

    Raises:
        Refused: it is not plain HTTP/1.1, or two readers could disagree about where its body ends.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    line = REQUEST_LINE.fullmatch(first)
    if line is None:
        raise Refused(f"request line {shown(first)} is not METHOD /PATH HTTP/1.1")
    headers: dict[str, str] = {}
    for text in lines:
        found = HEADER.fullmatch(text)
        if found is None:
            raise Refused("a header is not NAME: VALUE in ASCII")
        name = found[1].lower()
        if name in headers and name in {"content-length", "host"}:
            raise Refused(f"header {name} is there twice")
        headers[name] = found[2].strip()
    return Request(line[1], line[2], _length(headers))


def _length(headers: Mapping[str, str]) -> int:
    for name in ("transfer-encoding", "expect", "upgrade"):
        if name in headers:
            raise Refused(f"header {name} is not accepted; send the body with a Content-Length")
    length = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,12}", length) or int(length) > LARGEST_BODY:
        raise Refused(f"Content-Length {shown(length)} is not a number of at most {LARGEST_BODY} bytes")
    return int(length)


async def read_head(reader: asyncio.StreamReader) -> bytes | None:
    """Read a request's head; None if the client left without one.

    Raises:
        Refused: it is too large, or not there in time.
    """
    try:
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Refused("the request ends in its head") from None
        return None
    except asyncio.LimitOverrunError:
        raise Refused(f"the head of the request has over {LARGEST_HEAD} bytes") from None
    except TimeoutError:
        raise Refused(f"no whole request within {SECONDS:g} s") from None


async def read_body(reader: asyncio.StreamReader, length: int) -> bytes:
    """Read a body.

    Raises:
        Refused: it is shorter than announced, or not there in time.
    """
    try:
        return await asyncio.wait_for(reader.readexactly(length), SECONDS)
    except asyncio.IncompleteReadError:
        raise Refused(f"the body has fewer than the {length} bytes announced") from None
    except TimeoutError:
        raise Refused(f"no whole body within {SECONDS:g} s") from None


def written(method: str, target: str, body: bytes = b"") -> bytes:
    """Write a request for the engine, which answers and then closes."""
    headers = f"Host: docker\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    if body:
        headers += "Content-Type: application/json\r\n"
    return f"{method} {target} HTTP/1.1\r\n{headers}\r\n".encode() + body
