"""One request: read, checked, passed on, and its answer streamed back for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from pipeline.socket_proxy import wire
from pipeline.socket_proxy.calls import Allowed, Match, match
from pipeline.socket_proxy.creation import checked
from pipeline.socket_proxy.engine import CHUNK, Away, Engine
from pipeline.socket_proxy.refusal import Refused, answer, shown

log = logging.getLogger(__name__)

CONNECTIONS = 512  # at once; each running stage has one, for its log
BODIES = 4  # read at once
LINGER_SECONDS, LINGER_BYTES = 2.0, 64 << 20


class Gone(Exception):  # noqa: N818  # not an error of this program
    """The engine has no such container or image."""


class SocketProxy:
    """Passes the operator's calls on to the engine.

    Args:
        engine: the engine.
        allowed: what this installation's operator works with.
    """

    def __init__(self, engine: Engine, allowed: Allowed) -> None:
        self._engine = engine
        self._allowed = allowed
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._bodies = asyncio.Semaphore(BODIES)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection, then close it."""
        async with self._connections:
            try:
                with suppress(OSError):  # the client or the engine left
                    await self._answer(reader, writer)
            finally:
                writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = "?"
        try:
            head = await wire.read_head(reader)
            if head is None:
                return
            request = wire.parse(head)
            asked = f"{request.method} {shown(request.target)}"
            found = match(request.method, request.target, self._allowed)
            await self._pass_on(found, request, reader, writer)
        except Refused as refused:
            log.warning("refused: %s: %s", asked, refused)
            writer.write(answer("403 Forbidden", f"the socket proxy refused this call: {refused}"))
            await _linger(reader, writer)
        except Gone as gone:
            writer.write(answer("404 Not Found", str(gone)))
            await _linger(reader, writer)
        except Away as away:
            writer.write(answer("503 Service Unavailable", str(away)))
            await _linger(reader, writer)

    async def _pass_on(
        self, found: Match, request: wire.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        body = b""
        if found.call.creates:
            body = await self._creation(found, request.length, reader)
        elif request.length:
            raise Refused("this call has no body")
        if found.container is not None:
            await self._require_ours(found.container)
        if request.method != "GET":
            log.info("%s %s", request.method, found.target)
        from_engine, to_engine = await self._engine.connect()
        try:
            to_engine.write(wire.written(request.method, found.target, body))
            await to_engine.drain()
            await _relay(reader, writer, from_engine, to_engine)
        finally:
            to_engine.close()

    async def _creation(self, found: Match, length: int, reader: asyncio.StreamReader) -> bytes:
        async with self._bodies:
            creation = checked(await wire.read_body(reader, length), found.parameters["name"], self._allowed)
        if creation.image != creation.reference:
            known = await self._engine.inspect("images", creation.reference)
            if known is None:
                raise Gone(f"the Docker engine has no image {creation.reference}")
            if known.get("Id") != creation.image:
                raise Refused(f"Image={creation.image} is not that of {creation.reference}")
        return creation.body

    async def _require_ours(self, container: str) -> None:
        """Refuse a container that is no stage of this installation; another one's have the label, not the network."""
        known = await self._engine.inspect("containers", container)
        if known is None:
            raise Gone(f"No such container: {container}")
        labels = (known.get("Config") or {}).get("Labels") or {}
        network = (known.get("HostConfig") or {}).get("NetworkMode")
        if not labels.get("pipeline.key") or network != self._allowed.network:
            raise Refused(f"container {container[:12]} is not that of a stage on the network {self._allowed.network}")


async def _relay(
    from_client: asyncio.StreamReader,
    to_client: asyncio.StreamWriter,
    from_engine: asyncio.StreamReader,
    to_engine: asyncio.StreamWriter,
) -> None:
    """Copy the engine's answer until it ends, for hours if need be.

    That the client has closed its side is passed on; nothing else that it sends is, since its request has been.
    """

    async def watch() -> None:
        with suppress(OSError):
            while await from_client.read(CHUNK):
                pass
        with suppress(OSError):
            to_engine.write_eof()  # the engine ends a log that nobody reads

    watching = asyncio.create_task(watch())
    try:
        while part := await from_engine.read(CHUNK):
            to_client.write(part)
            await to_client.drain()
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send an answer to a client that may still be sending: closed at once, its connection would lose the answer."""
    await writer.drain()
    writer.write_eof()
    left = LINGER_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0 and (part := await reader.read(CHUNK)):
                left -= len(part)
