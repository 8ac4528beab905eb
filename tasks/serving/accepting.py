"""Several processes take connections from one listening socket, and each gets about as many as the others."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
import struct
import threading
from pathlib import Path

from starlette.types import ASGIApp

from tasks.serving.connections import Connection, refuse
from tasks.serving.draining import DrainingServer

# How long a process with more connections than another leaves a new one to that other. Then it takes it all the same,
# because the other may be busy or stopped.
YIELD_SECONDS = 0.003
NO_FILES_SECONDS = 1.0  # until the next try when no connection can be taken, mostly for want of file descriptors
SLOT = struct.Struct("=i")

log = logging.getLogger(__name__)


class ConnectionCounts:
    """The number of open connections of each process, in memory that all of them see.

    Each writes its own number only, and a number is written at once, so that no lock is needed.
    """

    def __init__(self, file: Path, index: int, processes: int) -> None:
        """Map a file of that many numbers; `index` is this process's."""
        self._index, self._processes = index, processes
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), processes * SLOT.size)
        self.add(-self.own())  # an earlier process of this index may have been killed

    @staticmethod
    def create(file: Path, processes: int) -> None:
        """Create the file, all numbers zero."""
        file.write_bytes(bytes(processes * SLOT.size))

    def add(self, change: int) -> None:
        """Change this process's number."""
        SLOT.pack_into(self._memory, self._index * SLOT.size, self.own() + change)

    def own(self) -> int:
        """This process's number."""
        return self._read(self._index)

    def others_have_fewer(self) -> bool:
        """Whether another process has fewer connections than this one."""
        own = self.own()
        return any(self._read(other) < own for other in range(self._processes))

    def _read(self, index: int) -> int:
        return int(SLOT.unpack_from(self._memory, index * SLOT.size)[0])


class SharingServer(DrainingServer):
    """A draining server that takes its connections from a socket that other processes listen to as well."""

    def __init__(
        self,
        app: ASGIApp,
        seconds: float,
        listener: socket.socket,
        counts: ConnectionCounts,
        most: int = 1000,
        **options: object,
    ) -> None:
        """Serve an application.

        Args:
            app: the application.
            seconds: how long it still answers after SIGTERM; see `DrainingServer`.
            listener: listens, does not block; no connection is taken from it before `accept`.
            counts: where all processes write how many connections they have.
            most: how many connections this process may have. For one more it ends the one that has been idle for
                longest; if none is idle, it refuses the new one.
            options: of `uvicorn.Config`.
        """
        super().__init__(app, seconds, **options)
        self._listener = listener
        self._counts = counts
        self._most = most
        self._loop: asyncio.AbstractEventLoop
        self._may_accept = threading.Event()
        self._accepting = False
        self._yielded = False
        self._pause: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[object]] = set()

    def accept(self) -> None:
        """Take connections from now on. May be called from any thread, and before the server runs."""
        self._may_accept.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start without a socket of its own."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=[])

    async def on_tick(self, counter: int) -> bool:
        """Check ten times a second whether to begin, or to end."""
        if self._may_accept.is_set() and not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._listener, self._take)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and end those there are."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        self._listener.close()
        await super().shutdown(sockets=None)

    def _take(self) -> None:
        """Take one connection, and then see to other work: the next one may be for another process."""
        if not self._yielded and self._counts.others_have_fewer():
            self._rest(YIELD_SECONDS)
            self._yielded = True
            return
        self._yielded = False
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client has gone
        except OSError as error:
            log.error("no connection can be taken for %g s: %s", NO_FILES_SECONDS, error)
            self._rest(NO_FILES_SECONDS)
            return
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._counts.own() >= self._most and not self._end_idle():
            log.warning("all %d connections are busy; one more was refused", self._most)
            refuse(connection)
            return
        self._counts.add(1)
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # the client has gone
            self._counts.add(-1)
            connection.close()

    def _protocol(self) -> Connection:
        protocol = Connection(self.config, self.server_state, self.lifespan.state)
        protocol.on_lost = lambda: self._counts.add(-1)
        return protocol

    def _end_idle(self) -> bool:
        """End the connection that has been idle for longest; whether there was one."""
        idle = [one for one in self.server_state.connections if isinstance(one, Connection) and one.became_idle]
        if idle:
            min(idle, key=lambda one: one.became_idle).end_idle()
        return bool(idle)

    def _rest(self, seconds: float) -> None:
        loop, listener = self._loop, self._listener
        loop.remove_reader(listener)
        self._pause = loop.call_later(seconds, loop.add_reader, listener, self._take)


def listening(host: str, port: int, ipv6: bool) -> socket.socket:
    """Return a socket that listens on an address, for this process's children to take connections from.

    Raises:
        OSError: the port is in use, or the address is not this machine's.
    """
    listener = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        listener.setblocking(False)
        os.set_inheritable(listener.fileno(), True)
    except OSError:
        listener.close()
        raise
    return listener
