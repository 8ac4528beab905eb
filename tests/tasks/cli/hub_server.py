"""A small server that answers as a hub does, for the one file that `make weights` asks for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass
class Hub:
    """What the server holds, and how it answers."""

    files: dict[str, bytes] = field(default_factory=dict)  # content of model.safetensors, by repository
    status: int = 200
    error: str = ""  # the hub's own name of an error, beside the status
    digest: str = ""  # stated in place of the right one
    cut: int | None = None  # bytes that are sent of the file
    is_hub: bool = True
    asked: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub on a free port until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            content = hub.files.get(repository)
            if hub.status != 200:
                self.send_response(hub.status)
                self.send_header("X-Error-Code", hub.error)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif content is None or not rest.endswith("/model.safetensors"):
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if content is not None else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.send_file(content)

        def send_file(self, content: bytes) -> None:
            sent = content[: hub.cut] if self.command == "GET" else content
            self.send_response(200)
            self.send_header("Content-Length", str(len(sent)))
            if hub.is_hub:
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("X-Linked-ETag", f'"{hub.digest or hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
