"""An HTTP client that costs little CPU time: its own process, keep-alive connections, requests built in advance."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import requests

CONNECTIONS = 8  # over which requests at a fixed rate are spread


@dataclass
class Report:
    """The result of one measurement."""

    images: int
    elapsed: float
    seconds: list[float]  # of each request
    client_cpu: float
    server_cpu: float = field(default=0.0)

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return self.images / self.elapsed

    def percentile(self, percent: float) -> float:
        """Latency in milliseconds that this percentage of the requests does not exceed."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def __str__(self) -> str:
        """Name the figures for the log."""
        return (
            f"{self.images_per_second:.0f} images/s, p50 {self.percentile(50):.1f} ms, "
            f"p99 {self.percentile(99):.1f} ms, "
            f"server CPU {self.server_cpu / self.elapsed:.0%}, client CPU {self.client_cpu / self.elapsed:.0%}"
        )


def http_request(prepared: requests.PreparedRequest) -> bytes:
    """Return the bytes of a request as they are sent."""
    body = prepared.body or b""
    content = body.encode() if isinstance(body, str) else bytes(body)
    host = urlsplit(str(prepared.url)).netloc
    headers = {"Host": host} | {name: str(value) for name, value in prepared.headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{prepared.method} {prepared.path_url} HTTP/1.1\r\n{head}\r\n".encode() + content


class Load:
    """The client process."""

    def __init__(self) -> None:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()

    def flood(self, url: str, requests: list[bytes], clients: int, seconds: float, images: int) -> Report:
        """Send requests of `images` images each for `seconds`, one after the other on each of `clients` connections."""
        return self._ask("flood", url, requests, clients, seconds, images)

    def pace(self, url: str, requests: list[bytes], rate: float, seconds: float) -> Report:
        """Send `rate` requests a second, of one image each; latency counts from when each was due."""
        return self._ask("pace", url, requests, rate, seconds, 1)

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()

    def _ask(self, *order: object) -> Report:
        self._pipe.send(order)
        result = self._pipe.recv()
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, Report)  # noqa: S101  # for mypy
        return result


class _Client:
    """One connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> None:
        """Send a request and read its answer, which must be a 200."""
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server answered {answer[:500]!r}")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        received = len(body)
        while received < length:
            received += len(self._more())

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> bytes:
        more = self._socket.recv(65536)
        if not more:
            raise RuntimeError("the server closed the connection")
        return more


def _serve(pipe: Connection) -> None:
    while (order := pipe.recv()) is not None:
        try:
            pipe.send(_run(*order))
        except Exception as error:
            pipe.send(error)


def _run(kind: str, url: str, requests: list[bytes], number: float, seconds: float, images: int) -> Report:
    clients = [_Client(url) for _ in range(CONNECTIONS if kind == "pace" else int(number))]
    taken: list[float] = []
    errors: list[Exception] = []
    began, cpu = time.perf_counter(), time.process_time()

    def flood(k: int) -> None:
        i = k
        while (start := time.perf_counter()) - began < seconds:
            clients[k].ask(requests[i % len(requests)])
            taken.append(time.perf_counter() - start)
            i += len(clients)

    def pace(k: int) -> None:
        for i in range(k, int(number * seconds), len(clients)):
            due = began + i / number
            time.sleep(max(0.0, due - time.perf_counter()))
            clients[k].ask(requests[i % len(requests)])
            taken.append(time.perf_counter() - due)

    def guarded(k: int) -> None:
        try:
            (pace if kind == "pace" else flood)(k)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    for client in clients:
        client.close()
    if errors:
        raise errors[0]
    return Report(len(taken) * images, elapsed, taken, time.process_time() - cpu)
