"""Graceful shutdown: keep answering for a while, and close each connection after its next answer."""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.serving.connections import Connection

IDLE_SECONDS = 5  # of a connection, from SIGTERM on

log = logging.getLogger(__name__)


class LastAnswers:
    """ASGI application: once `begun`, tells each client that its connection closes after the answer."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the service's application."""
        self.app = app
        self.begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def last(message: Message) -> None:
            if self.begun and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self.app(scope, receive, last if scope["type"] == "http" else send)


class DrainingServer(uvicorn.Server):
    """Ends some seconds after SIGTERM, and makes every client reconnect until then.

    A server that ends at once closes the connections that clients keep open, and loses a request that is in transit at
    that moment. This one waits. A client that asks within IDLE_SECONDS on a connection that it kept is answered and
    told that the connection closes. Connections that nobody uses are ended then, however long they may be idle else.
    Where new connections go to other servers by that time (a Kubernetes Service, a load balancer), no request is lost
    if the wait is longer than IDLE_SECONDS. A second signal ends the wait.
    """

    def __init__(self, app: ASGIApp, seconds: float, **options: object) -> None:
        """Serve an application.

        Args:
            app: the application.
            seconds: from SIGTERM to the end of the server; 0 means at once.
            options: of `uvicorn.Config`; not `http`, as the connections are `Connection`.
        """
        self._answers = LastAnswers(app)
        self._seconds = seconds
        self._end = float("inf")
        self._hurried = False
        super().__init__(uvicorn.Config(self._answers, http=Connection, **options))  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if sig != signal.SIGTERM or self._answers.begun or self._seconds == 0:
            self._end = float("inf")
            super().handle_exit(sig, frame)
            return
        log.info("SIGTERM: still answering for %g s, closing each connection after its next answer", self._seconds)
        self._answers.begun = True
        self._end = time.monotonic() + self._seconds

    async def on_tick(self, counter: int) -> bool:
        """Check ten times a second whether to end.

        Also where idle connections get their shorter time: a signal handler must not touch the event loop's timers.
        """
        if self._answers.begun and not self._hurried:
            self._hurried = True
            for connection in self.server_state.connections:
                if isinstance(connection, Connection):
                    connection.drain(IDLE_SECONDS)
        if time.monotonic() >= self._end:
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)
