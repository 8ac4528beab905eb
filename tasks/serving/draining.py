"""Graceful shutdown: keep answering for a while, and close each connection after its next answer."""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    that moment. Where new connections go to other servers by then (a Kubernetes Service, a load balancer), no request
    is lost if the wait is longer than the time between two requests on a connection: at most uvicorn's
    `timeout_keep_alive`, 5 seconds. A second signal ends the wait.
    """

    def __init__(self, app: ASGIApp, seconds: float, **options: object) -> None:
        """Serve an application.

        Args:
            app: the application.
            seconds: from SIGTERM to the end of the server; 0 means at once.
            options: of `uvicorn.Config`.
        """
        self._answers = LastAnswers(app)
        self._seconds = seconds
        self._end = float("inf")
        super().__init__(uvicorn.Config(self._answers, **options))  # type: ignore[arg-type]

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
        """Check ten times a second whether to end."""
        if time.monotonic() >= self._end:
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)
