"""Hands the requests that are not about images to the control process, over a socket that only this machine sees."""

from __future__ import annotations

import httpx
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from tasks.serving.http_errors import HttpError

# What the control process answers. Any other path is refused here.
PATHS = frozenset(
    {"/livez", "/readyz", "/healthz", "/health", "/get_model_info", "/refresh", "/metrics", "/schema.json"}
    | {"/predict_image", "/predict_batch"}  # while there is no model
)
HEADERS = (b"content-type", b"content-length", b"allow", b"retry-after")
SECONDS = 60.0


class Forwarding:
    """ASGI application: asks the control process, which takes neither bodies nor headers."""

    def __init__(self, path: str) -> None:
        """Take the path of the control process's socket."""
        # Connections are not kept: one that the other side is just ending would fail a health check.
        transport = httpx.AsyncHTTPTransport(uds=path, limits=httpx.Limits(max_keepalive_connections=0))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://control", timeout=SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        if scope["path"] not in PATHS:
            text = "unknown path; GET /docs.json lists the known ones"
            await JSONResponse({"error": text}, 404)(scope, receive, send)
            return
        try:
            answer = await self._client.request(scope["method"], scope["path"])
        except httpx.TransportError as error:
            text = "the service is starting or ending; try again in a second"
            raise HttpError(503, text, retry_seconds=1) from error
        headers = [(name.lower(), value) for name, value in answer.headers.raw if name.lower() in HEADERS]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": answer.content})
