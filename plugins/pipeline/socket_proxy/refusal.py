"""What a refused client is told."""

from __future__ import annotations

import json


class Refused(Exception):  # noqa: N818  # not an error of this program
    """A request that is not passed on; the text names what and why."""


def shown(value: object) -> str:
    """Return a client's value as one short line of ASCII, for messages and logs."""
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def answer(status: str, message: str) -> bytes:
    """Return a response whose body is one line of JSON, as the engine writes its errors."""
    body = json.dumps({"message": message}).encode() + b"\n"
    headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body
