"""Error answers of the service: one JSON line with the right status code, before any work is done."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.settings import load_settings

HEALTH = "/health"
BY_LOAD_BALANCERS = frozenset({"GET", "HEAD"})


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


class KnownPaths:
    """ASGI application: answers 404 or 405 where the service has no route, and passes everything else on.

    In front of BentoML, which would count each unknown path as a metric of its own, without limit.
    """

    def __init__(self, app: Starlette) -> None:
        """Wrap the service's application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            if scope["path"] == HEALTH and scope["method"] in BY_LOAD_BALANCERS:
                scope = {**scope, "method": "POST"}  # BentoML has POST only; uvicorn leaves out the body of HEAD
            if any(name == b"content-type" and not value.isascii() for name, value in scope["headers"]):
                scope = {**scope, "headers": [(name, _ascii(value)) for name, value in scope["headers"]]}
            # A route only: the files that BentoML mounts belong to a page of its own, which is not served.
            routes = [route for route in self.app.routes if isinstance(route, Route)]
            matches = [(route.matches(scope)[0], route) for route in routes]
            # A route also matches its path with a line break at the end.
            if all(match is Match.NONE for match, _ in matches) or scope["path"].endswith("\n"):
                response = JSONResponse({"error": "unknown path; GET /docs.json lists the known ones"}, 404)
                await response(scope, receive, send)
                return
            if all(match is not Match.FULL for match, _ in matches):
                found = [route for match, route in matches if match is Match.PARTIAL]
                names = {name for route in found for name in route.methods or ()}
                allowed = ", ".join(sorted(names | (BY_LOAD_BALANCERS if scope["path"] == HEALTH else set())))
                text = f"{scope['method']} {scope['path']} is not supported; send {allowed}"
                await JSONResponse({"error": text}, 405, {"Allow": allowed})(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _ascii(value: bytes) -> bytes:
    """A header's value with ? for each byte that BentoML's access log could not decode, in the middle of the answer."""
    return value if value.isascii() else value.decode("latin-1").encode("ascii", "replace")
