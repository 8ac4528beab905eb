"""A worker of the service: answers predictions with the model that the control process tells it to open.

Started by `tasks.serving.workers`; has neither MLflow nor BentoML in memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import socket
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import TypeAdapter

from tasks.errors import PipelineError
from tasks.serving.accepting import ConnectionCounts, SharingServer
from tasks.serving.application import worker_application
from tasks.serving.model import PreparedModel, ServedModel
from tasks.serving.predictor import Predictor
from tasks.serving.reference_check import open_verified
from tasks.settings import load_settings

GRACE_SECONDS = 10
OTHER_FILES = 64  # that a worker may have open besides its connections

log = logging.getLogger("tasks.serving")


def main() -> None:
    """Serve until a signal ends the process, or the control process has gone."""
    parser = argparse.ArgumentParser(prog="python -m tasks.serving.worker")
    for name in ("--listener", "--channel", "--index", "--workers"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--counts", "--control"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
    settings = load_settings()
    predictor = Predictor(settings, given.index, given.workers)
    server = SharingServer(
        worker_application(settings, predictor, given.control),
        settings.serving_drain_seconds,
        socket.socket(fileno=given.listener),
        ConnectionCounts(Path(given.counts), given.index, given.workers),
        min(settings.serving_max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES),
        ws="none", log_config=None, access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=GRACE_SECONDS, timeout_keep_alive=settings.serving_keep_alive_seconds,
    )  # fmt: skip
    Orders(Connection(given.channel), predictor, server, given.workers).start()
    server.run()
    predictor.stop()


class Orders:
    """Does what the control process says, in a thread; each order is one line of JSON, and so is its answer.

    prepare MODEL   open a model and compare its answers with the reference predictions; the one in service stays
    serve           put that model into service
    forget          close that model: another worker could not open it
    accept          begin to take connections
    """

    def __init__(self, channel: Connection, predictor: Predictor, server: SharingServer, workers: int) -> None:
        """Take the channel to the control process, and what the orders are about."""
        self._channel = channel
        self._predictor = predictor
        self._server = server
        self._workers = workers
        self._opened: list[ServedModel] = []  # the model that waits for `serve`

    def start(self) -> None:
        """Start to listen to orders."""
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                order = json.loads(self._channel.recv_bytes())
            except (EOFError, OSError):
                log.error("the control process has gone; this worker ends")
                os._exit(1)  # without it nobody would tell this process what to serve, or to end
            try:
                answer = self._do(order)
            except Exception as error:  # whatever the runtime throws; the old model stays
                text = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
                answer = {"error": text}
            self._channel.send_bytes(json.dumps(answer).encode())

    def _do(self, order: dict[str, object]) -> dict[str, str]:
        match order["do"]:
            case "prepare":
                prepared = TypeAdapter(PreparedModel).validate_python(order["model"])
                self._opened = [open_verified(prepared, self._workers)]
            case "serve":
                self._predictor.use(self._opened.pop())
            case "forget":
                self._opened.clear()
            case "accept":
                self._server.accept()
        return {}


if __name__ == "__main__":
    main()
