"""What a backup needs from a running stack, and the stack on Docker; the one on Kubernetes: kubernetes/backup.py.

Standard library only.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from deploy import engine
from deploy.env_file import ROOT
from deploy.errors import DeployError

SUPERUSER = "postgres"
BUCKET_CLIENT = Path(__file__).resolve().with_name("bucket.py")


class BackupError(DeployError):
    """Why a backup or a restore failed."""


class Stack(ABC):
    """A running stack."""

    save_target: str
    restore_target: str  # Make targets, for messages

    @abstractmethod
    def require_running(self) -> None:
        """Require that Postgres, the S3 store and MLflow run.

        Raises:
            BackupError: names what does not run, and how to start it.
        """

    @abstractmethod
    def postgres(
        self, command: str, *, user: str = SUPERUSER, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        """Run a shell command beside Postgres, whose programs log in as this user.

        Raises:
            BackupError: it failed; the text is the last line it wrote.
        """

    @abstractmethod
    def bucket(self, action: str) -> list[str]:
        """Return the command that runs `deploy/bucket.py` in MLflow's image, with the store's address and keys."""

    @abstractmethod
    def stopped(self) -> AbstractContextManager[None]:
        """Stop MLflow and its clients while the block runs, and start them again afterwards."""

    def sql(self, statement: str, database: str = "postgres", **variables: str) -> str:
        """Run SQL as the superuser and return the plain rows; `variables` are psql's."""
        given = " ".join(f"-v {shlex.quote(f'{name}={value}')}" for name, value in variables.items())
        with tempfile.TemporaryFile() as text:
            text.write(statement.encode())
            text.seek(0)
            return self.postgres(f"psql -qAtX -v ON_ERROR_STOP=1 {given} -d {database} -f -", stdin=text).strip()


class ComposeStack(Stack):
    """The stack of one `.env` on Docker."""

    save_target, restore_target = "make backup", "make restore"

    def __init__(self, env_file: Path, folder: Path = ROOT) -> None:
        """Name the stack.

        Args:
            env_file: its `.env`.
            folder: where its compose files are.
        """
        self.env_file, self.folder = env_file, folder

    def require_running(self) -> None:
        """See Stack."""
        services = set(self._run("config", "--services").split())  # without s3 where the store is outside
        missing = ({"postgres", "s3", "mlflow"} & services) - self.running()
        if missing:
            raise BackupError(f"{', '.join(sorted(missing))} not running; start the stack with make up")

    def postgres(
        self, command: str, *, user: str = SUPERUSER, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        """See Stack."""
        there = ("exec", "--no-TTY", "postgres", "sh", "-c")
        return self._run(*there, logged_in(command, user), stdin=stdin, stdout=stdout)

    def bucket(self, action: str) -> list[str]:
        """See Stack; with the environment of the service `bucket`."""
        return self.program(BUCKET_CLIENT, action)

    def program(self, path: Path, *arguments: str, variables: Iterable[str] = ()) -> list[str]:
        """Return the command that runs a Python program in MLflow's image, in the network of the stack.

        Args:
            path: the program, one file.
            arguments: its arguments.
            variables: names that it gets from the environment of the command; no value is in a list of processes.
        """
        options = ["--rm", "--no-deps", "--no-TTY", "--entrypoint", "python"]
        options += [word for name in variables for word in ("--env", name)]
        return self._compose("run", *options, "bucket", "-c", path.read_text(encoding="utf-8"), *arguments)

    def once(self, service: str, script: str, *, stdin: IO[bytes]) -> None:
        """Run a shell script in a new container of a service, with its volumes, and wait for its end.

        Raises:
            BackupError: it failed.
        """
        options = ("--rm", "--no-deps", "--no-TTY", "--entrypoint", "sh")
        self._run("run", *options, service, "-c", script, stdin=stdin)

    def fatal_error(self, service: str) -> str:
        """Return the last error for which Postgres' server ended; empty if there is none."""
        command = self._compose("logs", "--no-color", "--no-log-prefix", service)
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
        fatal = [line for line in said.stdout.splitlines() if re.search("(FATAL|PANIC): ", line)]
        # Clients that come while it starts are refused with such a line, too.
        return ([line for line in fatal if "the database system is" not in line] or [""])[-1]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """See Stack."""
        workers = sorted(self.running(work=True))
        if workers:
            self._run("stop", *workers, work=True)
        self._run("stop", "mlflow")
        try:
            yield
        finally:
            self.start(workers)

    def start(self, workers: Sequence[str]) -> None:
        """Start the shared state, and these of the services that use it."""
        self._run("up", "--detach", "--wait", "--no-recreate")
        if workers:
            self._run("up", "--detach", "--no-recreate", *workers, work=True)

    def running(self, *, work: bool = False) -> set[str]:
        """Return the names of the services that run."""
        return set(self._run("ps", "--services", "--status", "running", work=work).split())

    def _compose(self, *arguments: str, work: bool = False) -> list[str]:
        file = self.folder / (engine.WORK if work else engine.STATE)
        return engine.compose(str(file), *arguments, env_file=self.env_file)

    def _run(
        self, *arguments: str, work: bool = False, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        """Run a Compose command and return what it printed."""
        command = self._compose(*arguments, work=work)
        done = subprocess.run(  # noqa: S603  # compose, with arguments of ours
            command, stdin=stdin or subprocess.DEVNULL, stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE
        )
        if done.returncode != 0:
            raise BackupError(last_line(done.stderr) or f"`{' '.join(command[-3:])}` failed")
        return "" if stdout else done.stdout.decode()


def logged_in(command: str, user: str) -> str:
    """Return a shell command for the Postgres container, whose environment has the passwords of these users."""
    password = "POSTGRES_PASSWORD" if user == SUPERUSER else f"POSTGRES_{user.upper()}_PASSWORD"
    return f"export PGPASSWORD=${password} PGUSER={user}; {command}"


def last_line(text: bytes) -> str:
    """Return the last line a program wrote; skip kubectl's note on the exit code, which follows it and says less."""
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("command terminated with exit code")]
    return (said or lines or [""])[-1]
