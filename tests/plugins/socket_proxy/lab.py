"""The socket proxy in front of a stand-in engine, both on unix sockets; requests to them are bytes."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.socket_proxy.calls import Allowed
from pipeline.socket_proxy.engine import Engine
from pipeline.socket_proxy.server import SocketProxy
from pipeline.socket_proxy.wire import LARGEST_HEAD

OURS, THEIRS, OTHER_NETWORK, MISSING = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)
IMAGE_ID, OTHER_ID = "sha256:" + "a" * 64, "sha256:" + "b" * 64
ALLOWED = Allowed(
    {"train": "vision-mlops/train:dev", "prepare": "vision-mlops/prepare@sha256:" + "c" * 64},
    "vision-mlops",
    ("/data/images", "/mnt/photos"),
)
NAME = "stage-train-0123456789ab"
CREATE = f"/v1.41/containers/create?name={NAME}"
LABELS = {
    "pipeline.key": "d/r/train/-1",
    "pipeline.stage": "train",
    "pipeline.dag_id": "d",
    "pipeline.dag_run_id": "r",
    "pipeline.task_id": "train",
}


def inspected(network: str, **labels: str) -> dict[str, Any]:
    return {"Config": {"Labels": labels}, "HostConfig": {"NetworkMode": network}}


KNOWN = {
    f"/containers/{OURS}/json": inspected("vision-mlops", **{"pipeline.key": "d/r/t/-1"}),
    f"/containers/{THEIRS}/json": inspected("vision-mlops"),
    f"/containers/{OTHER_NETWORK}/json": inspected("elsewhere", **{"pipeline.key": "d/r/t/-1"}),
    "/images/vision-mlops/train:dev/json": {"Id": IMAGE_ID},
    "/images/vision-mlops/prepare%40sha256:" + "c" * 64 + "/json": {"Id": OTHER_ID},
}


def body() -> dict[str, Any]:
    """What the operator creates a container with."""
    return {
        **{"Tty": False, "OpenStdin": False, "StdinOnce": False, "AttachStdin": False, "AttachStdout": True},
        **{"AttachStderr": True, "NetworkDisabled": False},
        "Env": ["A=1"],
        "Cmd": ["train", "--request", "{}"],
        "Image": IMAGE_ID,
        "Labels": dict(LABELS),
        "HostConfig": {
            **{"Memory": 4294967296, "MemorySwap": 4294967296, "ShmSize": 67108864, "NanoCpus": 2000000000},
            **{"ReadonlyRootfs": True, "NetworkMode": "vision-mlops", "CapDrop": ["ALL"], "Init": True},
            "SecurityOpt": ["no-new-privileges:true"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "2"}},
            "Mounts": [
                {"Target": "/airflow/xcom", "Source": None, "Type": "volume", "ReadOnly": False},
                {"Target": "/sources/data/images", "Source": "/data/images", "Type": "bind", "ReadOnly": True},
            ],
            "DeviceRequests": [
                {"Driver": "", "Count": 1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}},
            ],
        },
    }


def posted(target: str, content: bytes | dict[str, Any] = b"", *headers: str) -> bytes:
    """Write a POST as Docker's client does."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = [f"POST {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def asked(method: str, target: str) -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Lab:
    """Both programs, in a thread of their own."""

    folder: Path
    seen: list[bytes] = field(default_factory=list)  # every request that reached the engine, but its own look-ups
    answers: dict[str, Answer] = field(default_factory=dict)  # of the engine, by the target's end
    given_up: threading.Event = field(default_factory=threading.Event)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        proxy = SocketProxy(Engine(str(self.folder / "engine"), self.given_up.set), ALLOWED)
        self.call(asyncio.start_unix_server(proxy.serve, self.folder / "proxy", limit=LARGEST_HEAD))
        self.start_engine()

    def start_engine(self) -> None:
        (self.folder / "engine").unlink(missing_ok=True)
        self.engine = self.call(asyncio.start_unix_server(self._engine, self.folder / "engine"))

    def stop_engine(self) -> None:
        self.loop.call_soon_threadsafe(self.engine.close)
        (self.folder / "engine").unlink()

    def call(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(60)

    def close(self) -> None:
        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.call(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(60)
        self.loop.close()

    def connected(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(self.folder / "proxy"))
        return client

    def send(self, raw: bytes) -> bytes:
        """Send bytes to the proxy; return all that comes back."""
        with self.connected() as client:
            client.sendall(raw)
            return b"".join(iter(lambda: client.recv(1 << 16), b""))

    def refusal(self, raw: bytes) -> str:
        """Send bytes that the proxy refuses; return its reason, and see that nothing reached the engine."""
        came = self.send(raw)
        assert came.startswith(b"HTTP/1.1 403 Forbidden\r\n"), came[:200]
        head, _, line = came.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(line)}".encode() in head
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert self.seen == []
        return str(json.loads(line)["message"])

    def passed(self, raw: bytes) -> tuple[str, bytes]:
        """Send bytes that the proxy passes on; return the request line and the body that the engine gets."""
        came = self.send(raw)
        assert came.startswith(b"HTTP/1.1 200 OK\r\n"), came[:400]
        (request,) = self.seen
        self.seen.clear()
        head, _, content = request.partition(b"\r\n\r\n")
        return head.split(b"\r\n")[0].decode(), content

    async def _engine(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        _, target, version = head.split(b"\r\n")[0].decode().split(" ")
        if version == "HTTP/1.0":  # a look-up of the proxy's own
            known = KNOWN.get(target)
            text = json.dumps(known or {"message": "none"}).encode()
            writer.write(f"HTTP/1.0 {200 if known else 404} .\r\n\r\n".encode() + text)
        else:
            length = re.search(rb"Content-Length: ([0-9]+)", head)
            self.seen.append(head + await reader.readexactly(int(length[1]) if length else 0))
            for end, answer in self.answers.items():
                if target.partition("?")[0].endswith(end):
                    await answer(reader, writer)
                    break
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()
