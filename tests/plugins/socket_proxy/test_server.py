"""Answers are streamed for as long as they take; an engine that restarts is found again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.socket_proxy import engine
from pipeline.socket_proxy.__main__ import run
from tests.waiting import until

from .lab import ALLOWED, OURS, Lab, asked

LOGS = asked("GET", f"/v1.41/containers/{OURS}/logs?stdout=1&follow=1")
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_each_part_of_a_log_comes_when_it_is_there(lab: Lab) -> None:
    more = threading.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"5\r\nfirst\r\n")
        while not more.is_set():
            await asyncio.sleep(0.01)
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")

    lab.answers["/logs"] = answer
    with lab.connected() as client:
        client.sendall(LOGS)
        came = b""
        while b"first" not in came:
            came += client.recv(100)
        assert b"second" not in came
        more.set()
        while part := client.recv(100):
            came += part
    assert came == HEAD + b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n"


@pytest.mark.parametrize("how", ["closes its side", "leaves"])
def test_the_engine_hears_that_nobody_reads_a_log(lab: Lab, how: str) -> None:
    heard = threading.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await writer.drain()
        assert await reader.read(1) == b""
        heard.set()
        writer.write(b"0\r\n\r\n")

    lab.answers["/logs"] = answer
    with lab.connected() as client:
        client.sendall(LOGS)
        assert client.recv(100)
        if how == "closes its side":
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b"0\r\n\r\n"  # and still gets what comes
    assert heard.wait(60)


def test_an_answer_is_not_kept_in_memory_for_a_slow_reader(lab: Lab) -> None:
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(1000):
            writer.write(b"x" * (1 << 16))
            await writer.drain()
            sent += 1 << 16

    lab.answers["/logs"] = answer
    with lab.connected() as client:
        client.sendall(LOGS)
        assert client.recv(1) == b"x"
        before = -1

        def stopped() -> bool:
            nonlocal before
            last, before = before, sent
            return last == sent

        until(stopped, 60, pause=0.5)
        assert sent < 8 << 20
        received = 1
        while part := client.recv(1 << 20):
            received += len(part)
    assert received == 1000 << 16


def test_an_engine_that_is_away_is_named_and_found_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.stop_engine()
    came = lab.send(asked("GET", "/_ping"))
    assert came.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert "no Docker engine answers at" in json.loads(came.partition(b"\r\n\r\n")[2])["message"]
    assert not lab.given_up.is_set()
    lab.start_engine()
    assert lab.send(asked("GET", "/_ping")).startswith(b"HTTP/1.1 200 OK")
    monkeypatch.setattr(engine, "GIVE_UP_SECONDS", 0.0)
    lab.stop_engine()
    lab.send(asked("GET", "/_ping"))
    assert not lab.given_up.is_set()  # it had been back
    lab.send(asked("GET", "/_ping"))
    assert lab.given_up.is_set()


def test_without_an_engine_the_proxy_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Docker then starts it again, with the socket that is there by then."""
    monkeypatch.setattr(engine, "GIVE_UP_SECONDS", 0.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def checked_like_a_service() -> None:
        ending = asyncio.create_task(run("127.0.0.1", port, str(tmp_path / "none"), ALLOWED))
        while not ending.done():
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(asked("GET", "/_ping"))
                await reader.read()
                writer.close()
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(checked_like_a_service(), 60))


def test_a_stream_that_an_engine_cuts_is_cut(lab: Lab) -> None:
    """No end is made up: Docker's client then knows that there may be more."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"5\r\nfir")
        await writer.drain()
        writer.transport.abort()

    lab.answers["/logs"] = answer
    assert not lab.send(LOGS).endswith(b"0\r\n\r\n")


def test_many_logs_at_once(lab: Lab) -> None:
    """None waits for another one."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await reader.read(1)

    lab.answers["/logs"] = answer
    clients = []
    for _ in range(200):
        clients.append(client := lab.connected())
        client.sendall(LOGS)
        assert client.recv(100) == HEAD
    assert lab.send(asked("GET", "/_ping")).startswith(b"HTTP/1.1 200 OK")
    for client in clients:
        client.close()


def test_a_setting_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.socket_proxy"],
        env={"PYTHONPATH": f"{root}:{root}/plugins", "PIPELINE_SOURCE_ROOTS": "/"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("socket proxy: PIPELINE_SOURCE_ROOTS='/': '/' is not a folder's absolute path")
    assert done.stderr.count("\n") == 1
