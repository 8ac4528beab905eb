"""The installations that `benchmarks/history.py` compares: on SQLite, and on Postgres behind MLflow's server."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil
import requests
import sqlalchemy


class Measure(NamedTuple):
    """How long something took, in seconds."""

    cpu: float
    clock: float


Measures = dict[str, list[Measure]]
Prepared = TypeVar("Prepared")
Prepare = Callable[["Installation"], Prepared]
Pair = tuple["Installation", "Installation", Prepared]


@dataclass(frozen=True)
class Installation:
    """An MLflow with what it holds."""

    name: str
    home: Path
    tracking_uri: str
    database: str
    artifacts: Path
    server: psutil.Process | None = None

    def cpu(self) -> float:
        """Count the seconds of CPU so far: of this process, of the commands that ended, of the server."""
        own, ended = os.times(), resource.getrusage(resource.RUSAGE_CHILDREN)
        server = [self.server, *self.server.children(recursive=True)] if self.server else []
        served = sum(sum(process.cpu_times()[:2]) for process in server)
        return own.user + own.system + ended.ru_utime + ended.ru_stime + served

    @contextmanager
    def measured(self, found: Measures, name: str) -> Iterator[None]:
        """Add to `found` how long the block takes."""
        began, cpu = time.perf_counter(), self.cpu()
        yield
        found.setdefault(name, []).append(Measure(self.cpu() - cpu, time.perf_counter() - began))

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which stages and commands find it."""
        return {
            "PIPELINE_HOME": str(self.home),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "PIPELINE_RUNTIME": "local",
        }


@contextmanager
def sqlite(folder: Path, prepare: Prepare[Prepared]) -> Iterator[Pair[Prepared]]:
    """Yield a fresh and an old installation as `make run` has them, with the same artifacts, and what `prepare` made.

    The old one is a copy of the fresh one as `prepare` left it; the caller gives it a past.
    """

    def at(name: str) -> Installation:
        home = folder / name
        file = f"sqlite:///{home}/mlflow.db"
        return Installation(f"SQLite, {name}", home, file, file, folder / "fresh" / "artifacts")

    fresh, old = at("fresh"), at("old")
    past = prepare(fresh)
    old.home.mkdir()
    shutil.copy(fresh.home / "mlflow.db", old.home / "mlflow.db")
    yield fresh, old, past


@contextmanager
def postgres(folder: Path, url: str | None, prepare: Prepare[Prepared]) -> Iterator[Pair[Prepared]]:
    """Yield two as `sqlite` does, each a database behind an MLflow server of its own.

    Args:
        folder: for artifacts and logs.
        url: of a Postgres whose user may create databases; None: one in a container.
        prepare: runs stages in the fresh one.
    """
    artifacts = folder / "artifacts"
    with ExitStack() as stack:
        url = url or stack.enter_context(container())
        _sql(url, "CREATE DATABASE fresh")

        def at(name: str) -> Installation:
            database = f"{url.rpartition('/')[0]}/{name}"
            address, process = stack.enter_context(server(database, artifacts, folder / f"{name}.log"))
            return Installation(f"Postgres, {name}", folder / name, address, database, artifacts, process)

        fresh = at("fresh")
        past = prepare(fresh)
        _sql(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'fresh'")
        _sql(url, "CREATE DATABASE old TEMPLATE fresh")
        yield fresh, at("old"), past


@contextmanager
def container() -> Iterator[str]:
    """Run Postgres in a container; yield its URL."""
    image = os.environ.get("POSTGRES_IMAGE", "postgres:17-trixie")
    password = os.urandom(16).hex()
    command = ["docker", "run", "--detach", "--rm", "--publish", "127.0.0.1::5432", "--env", "POSTGRES_PASSWORD", image]
    name = output(command, os.environ | {"POSTGRES_PASSWORD": password})
    try:
        port = output(["docker", "port", name, "5432"]).rpartition(":")[2]
        url = f"postgresql+psycopg2://postgres:{password}@127.0.0.1:{port}/postgres"
        _until(lambda: _sql(url, "SELECT 1"), sqlalchemy.exc.OperationalError, lambda: "Postgres does not answer")
        yield url
    finally:
        output(["docker", "stop", name])


@contextmanager
def server(database: str, artifacts: Path, log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run MLflow's server; yield its address and process."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(artifacts), "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:  # noqa: S603
        try:
            address = f"http://127.0.0.1:{port}"
            health = f"{address}/health"
            _until(lambda: requests.get(health, timeout=5).raise_for_status(), requests.RequestException, log.read_text)
            yield address, psutil.Process(process.pid)
        finally:
            process.terminate()


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _until(
    call: Callable[[], None], error: type[Exception], problem: Callable[[], str], seconds: float = 180.0
) -> None:
    limit = time.monotonic() + seconds
    while True:
        try:
            call()
        except error:
            if time.monotonic() > limit:
                raise RuntimeError(problem()) from None
            time.sleep(0.5)
        else:
            return


def _sql(url: str, statement: str) -> None:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(statement))
    engine.dispose()


def output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a program; return the first word that it prints."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.split()[0] if done.stdout.strip() else ""
