"""Save the stack's state to one file, and put it back.

    python -m deploy.backup save [--file FILE]
    python -m deploy.backup restore --file FILE [--force]

Saved are the databases and the artifact bucket, while everything runs. It is consistent because what refers is saved
before what it refers to: Airflow's database (which names MLflow runs), then MLflow's users, then MLflow's database,
each in one snapshot, then the objects. MLflow finishes a run or makes a version only after its objects are written,
and no program rewrites them, so whatever the databases call finished is in the file.

A restore checks the whole file before it touches anything, loads it beside the present state, and then puts it in
place in one transaction; when a step before that fails, the present databases were not changed.

Standard library only; pg_dump runs in the service `postgres`, the S3 client in the image of MLflow.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from deploy import backup_file

ROOT = Path(__file__).resolve().parent.parent
DATABASES = ("airflow", "mlflow_auth", "mlflow")  # what refers comes first
BUCKET_CLIENT = ROOT / "deploy" / "bucket.py"
# Rows that exist only after somebody worked; a database without the table has none.
WORK_DONE = {"mlflow": ("runs", "registered_models"), "airflow": ("dag_run",)}
DAMAGED, UNAVAILABLE, REFUSED = 65, 69, 73  # sysexits.h


class BackupError(Exception):
    """One line that says what is wrong and what to do, and an exit code."""

    def __init__(self, text: str, code: int = UNAVAILABLE) -> None:
        super().__init__(text)
        self.code = code


class Stack:
    """The running stack of one `.env`."""

    def __init__(self, env_file: Path) -> None:
        self._env_file = env_file

    def _compose(self, *arguments: str, work: bool = False) -> list[str]:
        file = ROOT / ("docker-compose-mlops.yml" if work else "docker-compose.yml")
        return ["docker", "compose", "--file", str(file), "--env-file", str(self._env_file), *arguments]

    def run(
        self, *arguments: str, work: bool = False, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        """Run a compose command to its end and return what it printed.

        Raises:
            BackupError: it failed; carries the last line it wrote.
        """
        command = self._compose(*arguments, work=work)
        done = subprocess.run(  # noqa: S603  # compose, with arguments of ours
            command, stdin=stdin or subprocess.DEVNULL, stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE
        )
        if done.returncode != 0:
            raise BackupError(_last_line(done.stderr) or f"`{' '.join(command[-3:])}` failed")
        return "" if stdout else done.stdout.decode()

    def running(self, *, work: bool = False) -> set[str]:
        """Names of the services that run."""
        return set(self.run("ps", "--services", "--status", "running", work=work).split())

    def postgres(self, command: str, *, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> str:
        """Run a shell command in the Postgres container, its password at hand."""
        script = f"export PGPASSWORD=$POSTGRES_PASSWORD PGUSER=postgres; {command}"
        return self.run("exec", "--no-TTY", "postgres", "sh", "-c", script, stdin=stdin, stdout=stdout)

    def sql(self, statement: str, database: str = "postgres", **variables: str) -> str:
        """Run SQL as the superuser and return the rows, without decoration; `variables` are psql's."""
        given = " ".join(f"-v {shlex.quote(f'{name}={value}')}" for name, value in variables.items())
        with tempfile.TemporaryFile() as text:
            text.write(statement.encode())
            text.seek(0)
            return self.postgres(f"psql -qAtX -v ON_ERROR_STOP=1 {given} -d {database} -f -", stdin=text).strip()

    def bucket(self, action: str) -> list[str]:
        """Command that runs `deploy/bucket.py` in the image of MLflow, with the environment of the service `bucket`."""
        program = BUCKET_CLIENT.read_text(encoding="utf-8")
        options = ("--rm", "--no-deps", "--no-TTY", "--entrypoint", "python")
        return self._compose("run", *options, "bucket", "-c", program, action)


def save(stack: Stack, path: Path) -> str:
    """Write the backup file and return a line about it.

    Raises:
        BackupError: the stack is not up, or a program failed; no file is left.
    """
    _require_running(stack)
    try:
        with backup_file.create(path) as writer:
            for database in DATABASES:
                with tempfile.TemporaryFile(dir=path.parent) as dump:
                    stack.postgres(f"pg_dump --format custom --dbname {database}", stdout=dump)
                    size = dump.tell()
                    dump.seek(0)
                    writer.add(f"databases/{database}.dump", dump, size)
            _save_bucket(stack, writer)
    except FileExistsError:
        raise BackupError(f"{path} is there already; name another FILE", REFUSED) from None
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror or error}; free some space or name another FILE", REFUSED) from None
    objects = len(writer.members) - len(DATABASES)
    return f"{path}: {len(DATABASES)} databases, {objects} objects, {path.stat().st_size / 1e6:.1f} MB"


def restore(stack: Stack, path: Path, *, force: bool) -> str:
    """Put the state in the file into the running stack and return a line about it.

    Raises:
        BackupError: the file is damaged, the stack is not up or holds work, or a program failed.
    """
    try:
        members = backup_file.verify(path)
    except backup_file.DamagedBackupError as error:
        raise BackupError(f"{path}: {error}; nothing was changed", DAMAGED) from None
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}; give FILE=, a file that `make backup` wrote", 66) from None
    _require_running(stack)
    work = _work_done(stack)
    if work and not force:
        raise BackupError(f"the stack holds {work}; FORCE=1 replaces it with the file's state", REFUSED)

    try:
        for database in DATABASES:
            stack.sql(f"DROP DATABASE IF EXISTS {database}_restored")
            stack.sql(f"CREATE DATABASE {database}_restored OWNER {database} TEMPLATE template0")
            stack.sql(f"REVOKE ALL ON DATABASE {database}_restored FROM PUBLIC")
            _load_database(stack, path, database)
        _load_bucket(stack, path)
    except BaseException:
        for database in DATABASES:
            stack.sql(f"DROP DATABASE IF EXISTS {database}_restored")
        raise

    workers = stack.running(work=True)
    if workers:
        stack.run("stop", *sorted(workers), work=True)
    stack.run("stop", "mlflow")
    try:
        _put_in_place(stack)
    finally:
        stack.run("up", "--detach", "--wait", "--no-recreate")
        if workers:
            stack.run("up", "--detach", "--no-recreate", *sorted(workers), work=True)
    objects = len(members) - len(DATABASES)
    return f"{path}: {len(DATABASES)} databases and {objects} objects restored; log in with the passwords of its time"


def _require_running(stack: Stack) -> None:
    services = set(stack.run("config", "--services").split())  # without s3 where the store is outside
    missing = ({"postgres", "s3", "mlflow"} & services) - stack.running()
    if missing:
        raise BackupError(f"{', '.join(sorted(missing))} not running; start the stack with make up")


def _work_done(stack: Stack) -> str:
    """What a restore would replace: the first kind of work found, or nothing."""
    for database, tables in WORK_DONE.items():
        for table in tables:
            if stack.sql("SELECT to_regclass(:'name') IS NOT NULL", database, name=table) == "t":
                rows = int(stack.sql('SELECT count(*) FROM :"name"', database, name=table))
                if rows:
                    return f"{rows} rows in table {table} of database {database}"
    command = stack.bucket("count")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)  # noqa: S603  # ours
    if done.returncode != 0:
        raise BackupError(_last_line(done.stderr))
    objects = int(done.stdout)
    return f"{objects} objects in the bucket" if objects else ""


def _save_bucket(stack: Stack, writer: backup_file.BackupWriter) -> None:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603  # compose, with arguments of ours
            stack.bucket("save"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
        )
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        try:
            writer.add_tar("bucket/", process.stdout)
            process.stdout.read()  # the blocks of zeros that fill a tar up
            broken = None
        except tarfile.TarError as error:
            broken = error
        finally:
            process.stdout.close()
            process.wait()
        said.seek(0)
        if process.returncode != 0 or broken is not None:
            raise BackupError(_last_line(said.read()) or f"the bucket could not be read ({broken})")


def _load_database(stack: Stack, path: Path, database: str) -> None:
    options = f"--no-owner --role={database} --single-transaction --exit-on-error --dbname {database}_restored"
    for _, content in backup_file.members(path, f"databases/{database}.dump"):
        with tempfile.TemporaryFile() as dump:
            while chunk := content.read(backup_file.CHUNK):
                dump.write(chunk)
            dump.seek(0)
            stack.postgres(f"pg_restore {options}", stdin=dump)


def _load_bucket(stack: Stack, path: Path) -> None:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603  # compose, with arguments of ours
            stack.bucket("load"), stdin=subprocess.PIPE, stdout=said, stderr=said
        )
        assert process.stdin is not None  # noqa: S101  # a pipe was asked for
        try:
            with tarfile.open(fileobj=process.stdin, mode="w|") as outgoing:
                for info, content in backup_file.members(path, "bucket/"):
                    outgoing.addfile(info, content)
            process.stdin.close()
        except BrokenPipeError:
            pass  # the client ended first; what it said is read below
        process.wait()
        said.seek(0)
        if process.returncode != 0:
            raise BackupError(_last_line(said.read()) or "the bucket could not be written")


def _put_in_place(stack: Stack) -> None:
    """Rename all databases in one transaction, then drop those that were replaced."""
    connected = "FROM pg_stat_activity WHERE datname = ANY(string_to_array(:'names', ','))"
    stack.sql("SELECT pg_terminate_backend(pid) " + connected, names=",".join(DATABASES))
    for database in DATABASES:
        stack.sql(f"DROP DATABASE IF EXISTS {database}_replaced")
    renames = [
        f"ALTER DATABASE {database} RENAME TO {database}_replaced;\n"
        f"ALTER DATABASE {database}_restored RENAME TO {database};"
        for database in DATABASES
    ]
    stack.sql("\n".join(["BEGIN;", *renames, "COMMIT;"]))
    for database in DATABASES:
        stack.sql(f"DROP DATABASE {database}_replaced")


def _last_line(text: bytes) -> str:
    return next((line.strip() for line in reversed(text.decode(errors="replace").splitlines()) if line.strip()), "")


def main(arguments: Sequence[str]) -> int:
    """Save or restore, as the arguments say; one line either way."""
    parser = argparse.ArgumentParser(prog="deploy.backup", description="Save or restore the stack's state.")
    parser.add_argument("action", choices=["save", "restore"])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--env-file", type=Path, default=ROOT / ".env")
    parser.add_argument("--force", action="store_true", help="replace the state of a stack that holds work")
    given = parser.parse_args(arguments)
    stack = Stack(given.env_file)
    try:
        if given.action == "save":
            path = given.file or ROOT / "backups" / f"{datetime.now(UTC):vision-mlops-%Y%m%dT%H%M%SZ}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            print(save(stack, path))
        elif given.file is None:
            raise BackupError("name the file: make restore FILE=backups/NAME.tar", 64)
        else:
            print(restore(stack, given.file, force=given.force))
    except BackupError as error:
        print(f"backup: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
