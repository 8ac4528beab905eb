"""An environment to run stages in: a home with its own store that can be reset to after any step, and cheap processes.

Every stage runs in a process of its own, forked from one that has done the imports: the code that ships, from
`tasks.runner.stage_process.run_stage` to the result file, without the ten seconds that importing torch and mlflow
takes. This process must therefore never use torch or MLflow itself: threads do not survive a fork. Code that needs
them runs in a child.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import requests

from tasks.runner import faults

from .forks import in_child, wait
from .steps import MODEL, Step

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # of one stage; the slowest takes ten
# What stages import as they run: imported once here, rather than in every process.
IMPORTS = (
    *("mlflow", "mlflow.pytorch", "mlflow.store.tracking.sqlalchemy_store", "mlflow.utils.search_logged_model_utils"),
    *(
        "mlflow.store.model_registry.sqlalchemy_store",
        "alembic.config",
        "alembic.command",
        "sqlalchemy.dialects.sqlite",
    ),
    *("torch.export", "torch._dynamo", "torch._inductor", "networkx", "git", "filelock", "opentelemetry.sdk.metrics"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "sklearn.datasets", "PIL.JpegImagePlugin"),
    *("mlflow.pyfunc.scoring_server", "mlflow.types.responses", "redis", "PIL.GifImagePlugin", "PIL.BmpImagePlugin"),
    *(f"tasks.stages.{name}" for name in ("prepare", "tune", "train", "compress", "evaluate")),
    *(f"tasks.stages.{name}" for name in ("register", "rollback", "deploy", "clean")),
    *("tasks.serving.load_check", "tasks.serving.model"),
    *("tasks.distributed.stage_workers", "tasks.distributed.training"),
)


@dataclass(frozen=True)
class Ended:
    """How a stage's process ended."""

    code: int  # as `subprocess` has it: a signal is negative
    seconds: float
    result: dict[str, Any] | None
    log: str


class Lab:
    """One home, its snapshots, and the service that belongs to it."""

    def __init__(self, root: Path) -> None:
        """Import everything, once; make the folders under `root`; choose ports."""
        self.root = root
        self.home = root / "home"
        self.snapshots = root / "snapshots"
        self.marker = root / "marker"
        self._result = root / "xcom" / "return.json"
        self._log = root / "stage.log"
        for folder in (self.home, self.snapshots, self._result.parent):
            folder.mkdir(parents=True)
        port, other = _free_ports(2)
        self.serving_url = f"http://127.0.0.1:{port}"
        self.other_url = f"http://127.0.0.1:{other}"
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PIPELINE_", "SERVING_", "AWS_"))]:
            del os.environ[name]
        os.environ |= {
            "PIPELINE_HOME": str(self.home),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.home}/mlflow.db",
            "SERVING_URL": self.serving_url,
            "SERVING_POLL_SECONDS": "3600",  # it changes its version when deploy asks for it, not by chance before
            "SERVING_REGISTERED_MODEL": MODEL,
            "MPLBACKEND": "Agg",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "PYTHONPATH": str(ROOT),
        }
        for name in IMPORTS:
            importlib.import_module(name)
        importlib.import_module("sqlalchemy.orm").configure_mappers()
        gc.freeze()  # or a collection in a child would copy every page

    def copy(self, root: Path) -> Lab:
        """Make another lab with the same snapshots, to be used in a process of its own."""
        other = Lab(root)
        for folder in self.snapshots.iterdir():
            shutil.copytree(folder, other.snapshots / folder.name)
            _move_paths(other.snapshots / folder.name / "mlflow.db", str(self.home), str(other.home))
        return other

    def anywhere(self, text: str) -> str:
        """Replace the lab's paths in a text, so that texts of different labs can be compared."""
        return re.sub(rf"{re.escape(str(self.root.parent))}/\d+", "LAB", text)

    def close(self) -> None:
        """End the service."""
        self.stop_service()

    def run(self, step: Step, results: Mapping[str, Any], fault: Mapping[str, Any] | None = None) -> Ended:
        """Run a step in a process of its own; what it leaves running is killed, as the local supervisor does."""
        started = time.monotonic()
        with self._stranger() if step.elsewhere else contextlib.nullcontext():
            pid = os.fork()
            if pid == 0:
                self._be_stage(step, step.request(results), fault)
            code = wait(pid, started + SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        result = json.loads(self._result.read_text()) if self._result.exists() else None
        return Ended(code, time.monotonic() - started, result, self._log.read_text(errors="replace"))

    def _be_stage(self, step: Step, request: str, fault: Mapping[str, Any] | None) -> None:
        code = 1
        try:
            os.setsid()
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            logging.basicConfig(
                stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
            )
            if step.elsewhere:
                os.environ["SERVING_URL"] = self.other_url
            if fault is not None:
                os.environ[faults.VARIABLE] = json.dumps(fault)
            _fork_trials()
            _save_every_epoch()
            _decode_in_small_parts()
            if step.days_later:
                _set_clock(step.days_later)
            from tasks.runner.stage_process import run_stage

            code = run_stage(step.stage, request, self._result)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    @contextlib.contextmanager
    def _stranger(self) -> Iterator[None]:
        """Another program at the service's address: a web server that answers any request of a stage with an error."""
        port = self.other_url.rpartition(":")[2]
        command = [
            sys.executable,
            "-m",
            "http.server",
            port,
            "--bind",
            "127.0.0.1",
            "--directory",
            str(self.root / "xcom"),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                while not _listens(int(port)):
                    assert server.poll() is None, f"the server at port {port} ended with {server.returncode}"
                    time.sleep(0.02)
                yield
            finally:
                server.kill()

    def save(self, name: str) -> None:
        """Save the home as it is now under the name of the step that just ended."""
        folder = self.snapshots / name
        folder.mkdir()
        _copy_database(self.home / "mlflow.db", folder / "mlflow.db")
        shutil.copytree(self.home / "artifacts", folder / "artifacts")

    def restore(self, name: str | None) -> None:
        """Reset the home to how the named step left it; None: empty except for a migrated database."""
        self.clear()
        for left in ("artifacts", "tune"):  # the second is what a killed search leaves for its next try
            shutil.rmtree(self.home / left, ignore_errors=True)
        folder = self.snapshots / (name or "empty")
        # Into the existing file, because the service has it open.
        _copy_database(folder / "mlflow.db", self.home / "mlflow.db")
        shutil.copytree(folder / "artifacts", self.home / "artifacts")

    def unend(self, run_id: str) -> None:
        """Let a run be one that never ended, as a lost machine leaves it."""
        with contextlib.closing(sqlite3.connect(self.home / "mlflow.db")) as connection:
            connection.execute("UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid = ?", [run_id])
            connection.commit()

    def clear(self) -> None:
        """Remove the marker of a fault and the result of the previous step."""
        self.marker.unlink(missing_ok=True)
        self._result.unlink(missing_ok=True)

    def service(self) -> dict[str, Any] | None:
        """What the service reports about itself; None when it does not answer."""
        try:
            answer = requests.post(f"{self.serving_url}/get_model_info", timeout=120).json()
        except requests.ConnectionError:
            return None
        return dict(answer)

    def stop_service(self) -> None:
        """End the service, if one runs."""
        from tasks.serving import process

        # It may have been started a moment ago and not have written its pid file yet.
        process.stop(self.home)
        for pid in _serving(self.serving_url):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.pid_file(self.home).unlink(missing_ok=True)

    def serve(self, version: int | None) -> None:
        """Have the service serve a version, which `champion` must name now; None: stop the service."""
        if version is None:
            self.stop_service()
            return
        from tasks.serving import process

        if self.service() is None:
            port = int(self.serving_url.rpartition(":")[2])
            process.start(self.home, "127.0.0.1", port, {})
        deadline = time.monotonic() + 1800
        while time.monotonic() < deadline:
            info = self.service()
            if info is not None and info.get("model_version") == version:  # an error while it starts has none
                return
            with contextlib.suppress(requests.RequestException):
                requests.post(f"{self.serving_url}/refresh", timeout=120)
            time.sleep(0.1)
        raise TimeoutError(f"the service does not load version {version}: {self.service()}")


def _fork_trials() -> None:
    """Check a model in a forked process rather than in a new one: the same code, without five seconds of imports."""
    import torch

    from tasks.serving import opened_model
    from tasks.serving.load_check import LoadCheck, load_and_answer

    def work(folder: Path) -> dict[str, Any]:
        torch.set_num_threads(1)  # as a new process would; this one's threads do not survive a fork
        return asdict(load_and_answer(folder))

    @contextlib.contextmanager
    def load_check(folder: Path) -> Iterator[Callable[[], LoadCheck]]:
        yield lambda: LoadCheck(**in_child(lambda: work(folder)))

    setattr(opened_model, "load_check", load_check)  # noqa: B010  # to mypy an import is not an attribute


def _save_every_epoch() -> None:
    """Make the fault points of a training the same in every try: by default time decides when checkpoints are saved."""
    from tasks.vision.training import cadence

    cadence.TIME_SHARE = 1e9


def _decode_in_small_parts() -> None:
    """Let prepare store what it decoded of the digits in two parts: by default, so small a data set has none."""
    from tasks.vision.data import decoded_parts

    decoded_parts.PART_BYTES = 800 * 8 * 8


def _set_clock(days: int) -> None:
    """Let MLflow and the cleaning see a time that is days ahead; what earlier steps wrote is then old."""
    from tasks.retention import known_runs, leftovers
    from tasks.stages import clean

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(days)

    seconds = time.time
    setattr(time, "time", lambda: seconds() + days * 24 * 3600)  # noqa: B010  # MLflow's: of runs and metrics
    for module in (known_runs, leftovers, clean):
        setattr(module, "datetime", Later)  # noqa: B010


def _copy_database(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _move_paths(database: Path, old: str, new: str) -> None:
    """Replace a folder in every text of a database: where runs and models record the place of their artifacts."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                    connection.execute(f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?)', (old, new))  # noqa: S608
        connection.commit()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _serving(url: str) -> list[int]:
    """Processes of services on this port, whether or not they wrote a pid file."""
    from tasks.serving.process import MODULE, command_line

    port = url.rpartition(":")[2]
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if f"-m {MODULE} --host 127.0.0.1 --port {port} " in f"{command_line(pid)} "]
