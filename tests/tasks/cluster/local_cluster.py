"""A Ray cluster on this machine: a head without cores, and two nodes of one core each, which know nothing of MLflow."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

from tasks.cluster import supervisor
from tasks.serving import process
from tests.tasks.serving.samples import free_port
from tests.waiting import until

KEPT = ("PATH", "HOME", "LANG", "TMPDIR")


class LocalCluster:
    """Two nodes, each with a folder of its own."""

    def __init__(self, folder: Path, address: str) -> None:
        """Start nothing yet."""
        self.address = address
        self._folder = folder
        token = secrets.token_hex(32)
        self._environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        self._environment |= {"PYTHONPATH": str(process.ROOT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        self._environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_failure_threshold": "2"}
        self.variables = {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": token}

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a node, whose files lie in the folder of this name."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments]
        command += ["--num-gpus=0", f"--temp-dir={self._folder / name}", "--object-store-memory=100000000"]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=process.ROOT
        )

    def kill(self, name: str) -> None:
        """Kill all processes of a node at once, as a machine that loses its power."""
        for one in supervisor.users(self._folder / name):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def processes(self, title: str) -> list[int]:
        """IDs of the processes with this in their title, such as the class of an actor."""
        named = ((process, Path(f"/proc/{process}/cmdline")) for process in supervisor.users(self._folder))
        return [process for process, line in named if title.encode() in line.read_bytes()]

    def up(self, name: str) -> bool:
        """Tell whether a node has its sockets."""
        return bool(list((self._folder / name).glob("session_*/sockets/raylet*")))


@contextmanager
def local_cluster(folder: Path) -> Iterator[LocalCluster]:
    """Yield a cluster whose files lie in `folder`, which needs a short path."""
    port = free_port()
    cluster = LocalCluster(folder, f"{ray.util.get_node_ip_address()}:{port}")
    names = {"head": ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")}
    names |= dict.fromkeys(("one", "two"), (f"--address={cluster.address}", "--num-cpus=1"))
    nodes = []
    try:
        for name, arguments in names.items():
            nodes.append(cluster.start(name, *arguments))
            until(lambda name=name: cluster.up(name))
        yield cluster
    finally:
        for node in nodes:
            node.kill()
            node.wait()
        for name in names:
            until(lambda name=name: cluster.kill(name) or not supervisor.users(folder / name))
