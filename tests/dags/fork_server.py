"""A process that has imported Airflow, and of which every `tests.dags.forked.Forked` is a fork.

Airflow's import takes 5 s of CPU time, and making its API of tasks, which every DAG run asks in its own process, takes
15 s more: as long as ten DAG runs of stubs. `python fork_server.py SOCKET` does both once, prints a line, and listens.
Each connection sends one line of JSON: {"code", "arguments", "variables", "output", "errors"}; in a new session, a
fork does what `python -c CODE ARGUMENTS` would do there. It answers with the fork's ID and, at its end, its exit code.
The server ends when its standard input is closed; the forks go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.abc
import json
import os
import select
import socket
import sys
import threading
from typing import Any


class Ban(importlib.abc.MetaPathFinder):
    """Refuses what neither a DAG nor a plugin may import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise ImportError for a banned package."""
        if name.partition(".")[0] in {"torch", "torchvision", "mlflow", "bentoml"}:
            raise ImportError(f"{name} must not be imported by a DAG or a plugin")


sys.meta_path.insert(0, Ban())

import httpx  # noqa: E402
from airflow import (  # noqa: E402
    plugins_manager,  # noqa: F401
    settings,
)
from airflow.dag_processing.dagbag import BundleDagBag  # noqa: E402, F401
from airflow.sdk.execution_time import supervisor, task_runner  # noqa: E402, F401

from tasks import GC_THRESHOLDS  # noqa: E402


async def make_api() -> None:
    """Airflow makes its API at the first request; in a loop of its own, so that no thread is left to be forked."""
    transport = supervisor.in_process_api_server().atransport
    async with httpx.AsyncClient(transport=transport, base_url="http://in-process.invalid") as client:
        await client.get("/there/is/no/such/path")


def accept(listener: socket.socket) -> dict[str, Any]:
    """Fork for every connection; return, in the fork, what it is asked to do."""
    while True:
        readable, _, _ = select.select([sys.stdin, listener], [], [])
        if listener not in readable:  # standard input was closed, and whoever has connected is served
            sys.exit()
        connection, _ = listener.accept()
        if os.fork() == 0:
            sys.stdin.close()
            listener.close()
            request = json.loads(connection.makefile().readline())
            if (child := os.fork()) == 0:
                connection.close()
                return dict(request)
            connection.sendall(f"{child}\n".encode())
            _, status = os.waitpid(child, 0)
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
        connection.close()
        with contextlib.suppress(ChildProcessError):  # there is none left
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def become(request: dict[str, Any]) -> None:
    """Take on the session, the variables and the files of a new process, and Airflow's settings from the variables."""
    os.setsid()
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.argv = ["-c", *request["arguments"]]
    files = [os.open(os.devnull, os.O_RDONLY)]
    files += [os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in ("output", "errors")]
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    settings.configure_vars()
    settings.reconfigure_orm()


if __name__ == "__main__":
    asyncio.run(make_api())
    settings.dispose_orm()
    assert threading.active_count() == 1, threading.enumerate()
    gc.set_threshold(*GC_THRESHOLDS)  # as `python -m pipeline` does
    gc.freeze()  # a collection in a fork would copy all of it
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(sys.argv[1])
        server.listen(100)
        print("ready", flush=True)
        asked = accept(server)
    become(asked)
    exec(compile(asked["code"], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102  # as python -c does
