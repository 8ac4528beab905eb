"""Connections to the engine's socket: one for each request, so that an engine that restarts is found again."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import quote

log = logging.getLogger(__name__)

CHUNK = 64 << 10  # bytes
LARGEST_ANSWER = 4 << 20  # bytes, of an inspected container or image
SECONDS = 300.0  # for the engine to answer a question of ours; a busy one takes a while
# An engine that keeps containers while it restarts makes a new socket, which a container that has the old one mounted
# cannot see. After this time the proxy ends, and Docker starts it again with the socket that is there then.
GIVE_UP_SECONDS = 120.0


class Away(Exception):  # noqa: N818  # not an error of this program
    """No engine answers; the text says why."""


class Engine:
    """The engine behind a socket.

    Args:
        path: the socket.
        give_up: called when no connection was possible for `GIVE_UP_SECONDS`.
    """

    def __init__(self, path: str, give_up: Callable[[], None]) -> None:
        self._path = path
        self._give_up = give_up
        self._away_since: float | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection.

        Raises:
            Away: nothing listens there.
        """
        try:
            opened = await asyncio.open_unix_connection(self._path, limit=CHUNK)
        except OSError as error:
            now = time.monotonic()
            if self._away_since is None:
                self._away_since = now
                log.error("no Docker engine answers at %s: %s", self._path, error)
            elif now - self._away_since > GIVE_UP_SECONDS:
                log.error("no Docker engine answered for %.0f s", now - self._away_since)
                self._give_up()
            raise Away(f"no Docker engine answers at {self._path}: {error}") from error
        self._away_since = None
        return opened

    async def inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return what the engine knows of a container or an image; None if it has none of that name.

        Args:
            kind: `containers` or `images`.
            name: its ID or reference.

        Raises:
            Away: no engine answers, or not with an object.
        """
        try:
            status, body = await asyncio.wait_for(self._ask(f"/{kind}/{quote(name, safe='/:')}/json"), SECONDS)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise Away(f"the Docker engine did not answer: {error or type(error).__name__}") from error
        if status == 404:
            return None
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if status != 200 or not isinstance(found, dict):
            raise Away(f"the Docker engine answers {status} when asked for {kind}/{name}")
        return found

    async def _ask(self, target: str) -> tuple[int, bytes]:
        reader, writer = await self.connect()
        with closing(writer):
            # HTTP/1.0: the answer ends with the connection, and is not in chunks.
            writer.write(f"GET {target} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            await writer.drain()
            answer = bytearray()
            while part := await reader.read(CHUNK):
                answer += part
                if len(answer) > LARGEST_ANSWER:
                    raise Away(f"the Docker engine's answer to {target} has over {LARGEST_ANSWER} bytes")
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        words = head.split(maxsplit=2)
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0, body
