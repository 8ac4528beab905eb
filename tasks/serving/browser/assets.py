"""The files that a browser loads, read into memory once.

Each file beside this module is named here in full: the image of the service gets the files that its code names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from bentoml._internal import server

OWN = {
    "/": "page.html",
    "/docs": "docs.html",
    "/browser/page.css": "page.css",
    "/browser/page.js": "page.js",
    "/browser/docs.js": "docs.js",
}
# Not the machine's own table, which may call JavaScript text/plain: with nosniff a browser would refuse it.
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js")  # brought by BentoML's package


@dataclass(frozen=True)
class Asset:
    """A file as it is sent; `etag` changes with its content."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """The quoted digest that a browser sends back in If-None-Match."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def assets() -> dict[str, Asset]:
    """Read all files; by the path at which each is served."""
    swagger = Path(server.__file__).parent / "static_content"
    files = {path: Path(__file__).with_name(name) for path, name in OWN.items()}
    files |= {f"/browser/{name}": swagger / name for name in SWAGGER}
    return {path: Asset(file.read_bytes(), MEDIA_TYPES[file.suffix]) for path, file in files.items()}
