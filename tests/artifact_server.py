"""A store of artifacts that can go away: HTTP as MLflow's server speaks it for artifacts, over a folder."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tasks.records import checkpoint_store
from tasks.records.store_wait import StoreWait
from tests.waiting import until

PREFIX = "/api/2.0/mlflow-artifacts/artifacts"


class ArtifactServer:
    """Serves a folder at one port; while it is away, connections are refused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: list[str] = []  # that were asked for
        self.shards_left: int | None = None  # to be served; further requests for one get no answer
        self.breaks = 0  # the next requests for a shard whose answer breaks off in the middle, while it stays
        self.unanswered = 0  # the next files of checkpoints that are written, and whose sender gets no answer
        self._counting = threading.Lock()
        self._asking = 0
        self._left = threading.Event()  # set when it goes away; a new one each time it comes
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    @property
    def uri(self) -> str:
        """An address for an experiment's artifacts."""
        return f"http://127.0.0.1:{self._port}{PREFIX}/tests"

    def start(self) -> None:
        """Serve, at the same port as before."""
        with self._counting:
            self.shards_left = None
            self._left = threading.Event()
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def leave(self) -> None:
        """Go away: answers that are under way break off."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self._left.set()

    def close(self) -> None:
        """Answer the threads of this process that still ask, then go away for good; see `counts_who_asks`.

        A stage does not wait for such threads. The process of the tests would at its end, for as long as they try.
        """
        self.leave()
        self.start()
        until(lambda: not self._asking)
        self.leave()

    def counts_who_asks(self, patch: pytest.MonkeyPatch) -> None:
        """Count the threads of this process that ask and wait for an answer."""
        ask = StoreWait.__call__

        def counted(wait: StoreWait, read: Callable[[], object], what: str) -> object:
            with self._counting:
                self._asking += 1
            try:
                return ask(wait, read, what)
            finally:
                with self._counting:
                    self._asking -= 1

        patch.setattr(StoreWait, "__call__", counted)

    def serves(self, path: Path) -> bool:
        """Tell whether a file is to be sent whole; a shard beyond those left waits, and is not."""
        if path.suffix != ".npy":
            return True
        with self._counting:
            left = self._left
            self.shards.append(path.name)
            if self.breaks:
                self.breaks -= 1
                return False
            if self.shards_left is None:
                return True
            self.shards_left -= 1
            if self.shards_left >= 0:
                return True
        left.wait()
        return False


class _Handler(BaseHTTPRequestHandler):
    store: ArtifactServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == PREFIX:
            folder = self.store.folder / parse_qs(url.query)["path"][0]
            found = sorted(folder.iterdir()) if folder.is_dir() else []
            files = [{"path": at.name, "is_dir": at.is_dir(), "file_size": at.stat().st_size} for at in found]
            self.answer(200, json.dumps({"files": files}).encode())
            return
        path = self.path_of(url.path)
        if not path.is_file():
            self.answer(404, b"no such file")
        elif self.store.serves(path):
            self.answer(200, path.read_bytes())
        else:  # it went away in the middle of the file
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])

    def do_PUT(self) -> None:
        path = self.path_of(urlsplit(self.path).path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        if self.store.unanswered and path.parent.name == checkpoint_store.ARTIFACT:
            self.store.unanswered -= 1
            self.close_connection = True
            return
        self.answer(200, b"{}")

    def do_DELETE(self) -> None:
        path = self.path_of(urlsplit(self.path).path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.answer(200, b"{}")

    def path_of(self, path: str) -> Path:
        return self.store.folder / unquote(path).removeprefix(PREFIX).lstrip("/")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
