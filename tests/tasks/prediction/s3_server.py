"""A server that speaks the calls of S3 that batch prediction makes: list, get, put."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 5  # keys; at Amazon 1,000


class S3Server:
    """The bucket `data`; `written` lists the keys in the order of the puts, `got` those of the gets."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.written: list[str] = []
        self.got: list[str] = []
        self.url = ""


@contextmanager
def serving() -> Iterator[S3Server]:
    store = S3Server()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"store": store}))
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    store: S3Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        bucket, key, query = self._asked()
        if bucket != "data":
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif "list-type" in query:
            self._answer(200, self._page({name: values[0] for name, values in query.items()}))
        elif key in self.store.objects:
            self.store.got.append(key)
            self._answer(200, self.store.objects[key])
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_HEAD(self) -> None:
        _, key, _ = self._asked()
        self._answer(200 if key in self.store.objects else 404, self.store.objects.get(key, b""))

    def do_PUT(self) -> None:
        bucket, key, _ = self._asked()
        data = self._body()
        if bucket != "data":
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            return
        self.store.objects[key] = data
        self.store.written.append(key)
        self._answer(200, b"")

    def _asked(self) -> tuple[str, str, dict[str, list[str]]]:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        return bucket, key, parse_qs(url.query)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Content-Encoding", "") + self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers["Content-Length"]))
        if "Content-Length" in self.headers:  # aws-chunked: sizes in hexadecimal, a signature behind `;`, trailers
            return _unchunked(self.rfile.read(int(self.headers["Content-Length"])))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return _unchunked(whole) if "aws-chunked" in self.headers.get("Content-Encoding", "") else whole

    def _page(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        keys = [key for key in sorted(self.store.objects) if key.startswith(prefix)]
        if delimiter:
            keys = [key for key in keys if delimiter not in key.removeprefix(prefix)]
        begin = int(query.get("continuation-token", "0"))
        more = begin + PAGE < len(keys)
        shown = "".join(self._entry(key) for key in keys[begin : begin + PAGE])
        token = f"<NextContinuationToken>{begin + PAGE}</NextContinuationToken>" if more else ""
        state = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        return f"<ListBucketResult>{state}{token}{shown}</ListBucketResult>".encode()

    def _entry(self, key: str) -> str:
        data = self.store.objects[key]
        tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>{tag}</ETag></Contents>"

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"etag"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""


def _unchunked(data: bytes) -> bytes:
    whole = b""
    while True:
        head, _, data = data.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if not size:
            return whole
        whole, data = whole + data[:size], data[size + 2 :]
