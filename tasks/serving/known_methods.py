"""Refuses the methods that BentoML's routes do not have, and adds those that load balancers use."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

HEALTH = "/health"
BY_LOAD_BALANCERS = frozenset({"GET", "HEAD"})


class KnownMethods:
    """ASGI application: answers 405 where the service has no route for a method, and passes everything else on.

    Unknown paths do not come here: the workers refuse them (`tasks.serving.forwarding`).
    """

    def __init__(self, app: Starlette) -> None:
        """Wrap the service's application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            if scope["path"] == HEALTH and scope["method"] in BY_LOAD_BALANCERS:
                scope = {**scope, "method": "POST"}  # BentoML has POST only; uvicorn leaves out the body of HEAD
            # A route only: the files that BentoML mounts belong to a page of its own, which is not served.
            routes = [route for route in self.app.routes if isinstance(route, Route)]
            matches = [(route.matches(scope)[0], route) for route in routes]
            if all(match is not Match.FULL for match, _ in matches):
                found = [route for match, route in matches if match is Match.PARTIAL]
                names = {name for route in found for name in route.methods or ()}
                allowed = ", ".join(sorted(names | (BY_LOAD_BALANCERS if scope["path"] == HEALTH else set())))
                text = f"{scope['method']} {scope['path']} is not supported; send {allowed}"
                await JSONResponse({"error": text}, 405, {"Allow": allowed})(scope, receive, send)
                return
        await self.app(scope, receive, send)
