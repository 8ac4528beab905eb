"""Access control: who may ask (SERVING_API_KEY), and from which pages (SERVING_ALLOWED_ORIGINS)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.settings import load_settings

# Asked by orchestrators and Prometheus; they reveal nothing about images.
OPEN = frozenset({"/livez", "/readyz", "/healthz", "/health", "/metrics"})


class ApiKeyMiddleware:
    """ASGI middleware: answers 401 to requests without the key, in `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`; without SERVING_API_KEY every request is answered."""
        self.app = app
        key = load_settings().serving_api_key
        self.key = key.get_secret_value().encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if self.key is None or scope["type"] != "http" or scope["path"] in OPEN or self._knows(scope):
            await self.app(scope, receive, send)
            return
        text = "the key is missing or wrong; send Authorization: Bearer KEY (SERVING_API_KEY of the service)"
        response = JSONResponse({"error": text}, 401, {"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given.strip(), self.key or b"")


def open_to_pages(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return `app` with answers that browsers show to pages of these origins; without origins `app` itself.

    To wrap around everything that refuses: a page sees no error without these headers, and browsers ask for permission
    (OPTIONS) without the API key. The key is the page's to send; cookies are not allowed for.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        expose_headers=["Allow", "Retry-After"],
    )
