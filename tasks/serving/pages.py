"""What the service answers to a browser: a page to try it at `/`, Swagger at `/docs`, OpenAPI at `/docs.json`."""

from __future__ import annotations

import json

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.serving.browser.assets import Asset, assets
from tasks.serving.openapi import document

# The pages load from the service only, and run no script that is written into them: a class or file name that looks
# like HTML stays text, even if a page forgot to treat it so.
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
METHODS = ("GET", "HEAD")


class Pages:
    """ASGI application: answers GET and HEAD of the pages and their files, and passes other paths on.

    Outside of access control: the pages know nothing about the model and the images. What they show, they ask for.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`, and read all files."""
        self.app = app
        self.assets = assets()
        self.assets["/docs.json"] = Asset(json.dumps(document()).encode(), "application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        asset = self.assets.get(scope["path"]) if scope["type"] == "http" else None
        answer = self.app if asset is None else _answer(asset, scope)
        await answer(scope, receive, send)


def _answer(asset: Asset, scope: Scope) -> Response:
    if scope["method"] not in METHODS:
        allowed = ", ".join(METHODS)
        text = f"{scope['method']} {scope['path']} is not supported; send {allowed}"
        return JSONResponse({"error": text}, 405, {"Allow": allowed})
    headers = {
        "Cache-Control": "no-cache",  # kept by the browser, but asked for: a new release shows at once
        "Content-Security-Policy": POLICY,
        "ETag": asset.etag,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    if asset.etag in Headers(scope=scope).get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
