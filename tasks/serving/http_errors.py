"""Error answers of the service: one JSON line with the right status code, before any work is done."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.settings import load_settings


class HttpError(BaseException):
    """An error answer and its HTTP status.

    Not an `Exception`: BentoML turns every exception of an API method into status 500 and hides its text.
    """

    def __init__(self, status: int, message: str, *, retry_seconds: int | None = None) -> None:
        """Take the HTTP status, one line that names the problem and the fix, and when to retry, if that helps."""
        super().__init__(message)
        self.headers = {} if retry_seconds is None else {"Retry-After": str(retry_seconds)}
        self.status = status
        self.message = " ".join(message.split())


class HttpErrorMiddleware:
    """ASGI middleware: sends error answers, and refuses uploads over the limit after at most that many bytes.

    The limit applies to the declared length and to the bytes received, so also to chunked uploads.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`; the limit is SERVING_MAX_UPLOAD_MB."""
        self.app = app
        self.limit_mb = load_settings().serving_max_upload_mb

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received = 0
        started = False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit_mb * 2**20:
                raise self._too_large()
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check_declared_length(scope)
            await self.app(scope, counted, noted)
        except HttpError as error:
            if started:
                return
            # The connection stays open: the server discards what still arrives, so a client that is still sending reads
            # this answer instead of getting a connection reset.
            response = JSONResponse({"error": error.message}, error.status, error.headers)
            await response(scope, receive, send)

    def _check_declared_length(self, scope: Scope) -> None:
        for name, value in scope["headers"]:
            if name != b"content-length":
                continue
            if not value.isdigit():
                raise HttpError(400, f"Content-Length={value.decode('latin-1')!r} is not a number of bytes; send one")
            if len(value) > 18 or int(value) > self.limit_mb * 2**20:  # Python refuses to convert thousands of digits
                raise self._too_large()

    def _too_large(self) -> HttpError:
        return HttpError(
            413, f"the upload is larger than {self.limit_mb} MiB; send smaller images, or raise SERVING_MAX_UPLOAD_MB"
        )
