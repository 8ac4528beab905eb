"""The session's stack with its WAL shipped to a place of a test's own, and what the tests of that look at."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.wal_chain import Kept
from tests import waiting

from .conftest import ROOT, Stack, _bare_environment

BUCKET = "kept-wal"
LIMIT = 600.0  # seconds


class Shipping(Stack):
    """The session's stack, whose WAL is shipped to a place of a test's own."""

    @property
    def folder(self) -> Path:
        return Path(self.variables["BACKUP_FOLDER"])

    @property
    def metrics(self) -> Path:
        return self.env_file.parent / "wal.prom"

    def command(self, *arguments: str) -> list[str]:
        options = ["--env-file", str(self.env_file), "--metrics", str(self.metrics)]
        return [sys.executable, "-m", "deploy", *arguments, *options]

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, cwd=ROOT, env=_bare_environment(), timeout=LIMIT
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert not code or (done.stdout, done.stderr.count("\n")) == ("", 1), done.stdout + done.stderr
        return done.stdout + done.stderr

    def ship(self) -> str:
        return self.run("ship-wal")

    def sql(self, query: str) -> str:
        done = self.psql("mlflow", "mlflow", query)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def insert(self, number: int) -> None:
        self.sql(f"INSERT INTO moments VALUES ({number})")  # noqa: S608  # ours

    def rows(self) -> list[int]:
        return [int(line) for line in self.sql("SELECT n FROM moments ORDER BY n").split()]

    def now(self) -> str:
        return self.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")

    def as_superuser(self, query: str) -> str:
        command = (
            "exec",
            "--no-TTY",
            "postgres",
            "sh",
            "-c",
            'PGPASSWORD=$POSTGRES_PASSWORD psql -U postgres -Atc "$0"',
        )
        return self.compose(*command, query).strip()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def kept(self) -> Kept:
        return Kept(self.names())

    def values(self) -> dict[str, float]:
        files = [self.metrics, self.metrics.with_name("wal_held.prom")]
        found = [re.findall(r"^(backup_\w+) (\S+)$", file.read_text(), re.M) for file in files if file.exists()]
        return {name: float(value) for one in found for name, value in one}


def shipping(stack: Stack, folder: Path, **more: str) -> Shipping:
    kept = folder / "kept"
    kept.mkdir(exist_ok=True)
    variables = stack.variables | {"BACKUP_FOLDER": str(kept), "BACKUP_WAL": "1", **more}
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return Shipping(env_file, variables)


def with_store(stack: Stack, folder: Path, **more: str) -> Shipping:
    settings = {
        "BACKUP_BUCKET": BUCKET,
        "BACKUP_S3_ENDPOINT_URL": "http://s3:9000",
        "BACKUP_S3_ACCESS_KEY": stack.variables["S3_ACCESS_KEY"],
        "BACKUP_S3_SECRET_KEY": stack.variables["S3_SECRET_KEY"],
    }
    return shipping(stack, folder, **(settings | more))


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for a condition while a process runs."""

    def met() -> bool:
        if condition():
            return True
        assert process.poll() is None, "it ended before"
        return False

    waiting.until(met, seconds=LIMIT)


def containers(project: str) -> list[str]:
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={project}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def volumes(project: str) -> list[str]:
    command = ["docker", "volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={project}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
