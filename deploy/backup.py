"""Save the stack's state to one file, and put it back.

    python -m deploy.backup save [--file FILE]
    python -m deploy.backup restore --file FILE [--force]

Saved are the databases and the artifact bucket, while everything runs. It is consistent because what refers is saved
before what it refers to: Airflow's database (which names MLflow runs), then MLflow's users, then MLflow's database,
each in one snapshot, then the objects. MLflow finishes a run or makes a version only after its objects are written,
and no program rewrites them, so whatever the databases call finished is in the file.

A restore checks the whole file before it touches anything, loads it beside the present state, and then puts it in
place in one transaction; when a step before that fails, the present databases were not changed.

The same on Docker and on Kubernetes (deploy/kubernetes/backup.py); where the programs run is the stack's business.
Standard library only; pg_dump runs beside Postgres, the S3 client in the image of MLflow.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from deploy import backup_file
from deploy.backup_stack import ROOT, BackupError, ComposeStack, Stack, last_line

DATABASES = ("airflow", "mlflow_auth", "mlflow")  # what refers comes first
# Rows that exist only after somebody worked; a database without the table has none.
WORK_DONE = {"mlflow": ("runs", "registered_models"), "airflow": ("dag_run",)}
END = b"end of the dump"  # written after each: a stream that broke off on its way has none
USAGE, DAMAGED, NO_INPUT, REFUSED = 64, 65, 66, 73  # sysexits.h


def save(stack: Stack, path: Path) -> str:
    """Write the backup file and return a line about it.

    Raises:
        BackupError: the stack is not up, or a program failed; no file is left.
    """
    stack.require_running()
    try:
        with backup_file.create(path) as writer:
            for database in DATABASES:
                _save_database(stack, database, path.parent, writer)
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
        raise BackupError(
            f"{path}: {error.strerror}; give FILE=, a file that `{stack.save_target}` wrote", NO_INPUT
        ) from None
    stack.require_running()
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

    with stack.stopped():
        _put_in_place(stack)
    objects = len(members) - len(DATABASES)
    return f"{path}: {len(DATABASES)} databases and {objects} objects restored; log in with the passwords of its time"


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
        raise BackupError(last_line(done.stderr))
    objects = int(done.stdout)
    return f"{objects} objects in the bucket" if objects else ""


def _save_database(stack: Stack, database: str, folder: Path, writer: backup_file.BackupWriter) -> None:
    with tempfile.TemporaryFile(dir=folder) as dump:
        stack.postgres(f"pg_dump --format custom --dbname {database} && printf '{END.decode()}'", stdout=dump)
        size = dump.seek(0, io.SEEK_END) - len(END)
        dump.seek(max(size, 0))
        if dump.read() != END:
            raise BackupError(f"the dump of database {database} broke off on its way; run it again")
        dump.seek(0)
        writer.add(f"databases/{database}.dump", dump, size)


def _save_bucket(stack: Stack, writer: backup_file.BackupWriter) -> None:
    before = len(writer.members)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603  # ours
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
        words = said.read()
        if process.returncode != 0 or broken is not None:
            raise BackupError(last_line(words) or f"the bucket could not be read ({broken})")
        _require_all(words, len(writer.members) - before)


def _load_database(stack: Stack, path: Path, database: str) -> None:
    options = f"--no-owner --role={database} --single-transaction --exit-on-error --dbname {database}_restored"
    for _, content in backup_file.members(path, f"databases/{database}.dump"):
        with tempfile.TemporaryFile() as dump:
            while chunk := content.read(backup_file.CHUNK):
                dump.write(chunk)
            dump.seek(0)
            stack.postgres(f"pg_restore {options}", stdin=dump)


def _load_bucket(stack: Stack, path: Path) -> None:
    sent = 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603  # ours
            stack.bucket("load"), stdin=subprocess.PIPE, stdout=said, stderr=said
        )
        assert process.stdin is not None  # noqa: S101  # a pipe was asked for
        try:
            with tarfile.open(fileobj=process.stdin, mode="w|") as outgoing:
                for info, content in backup_file.members(path, "bucket/"):
                    outgoing.addfile(info, content)
                    sent += 1
            process.stdin.close()
        except BrokenPipeError:
            pass  # the client ended first; what it said is read below
        process.wait()
        said.seek(0)
        words = said.read()
        if process.returncode != 0:
            raise BackupError(last_line(words) or "the bucket could not be written")
        _require_all(words, sent)


def _require_all(words: bytes, count: int) -> None:
    """Compare what went through here with what the client of the bucket says at its end."""
    told = [line for line in words.decode(errors="replace").splitlines() if line.endswith(" objects")]
    if f"{count} objects" not in told:
        raise BackupError(
            f"{count} objects came through, and the bucket's client says {' '.join(told) or 'nothing'}: "
            "the stream broke off on its way; run it again"
        )


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


def arguments_of(prog: str, description: str) -> argparse.ArgumentParser:
    """The arguments that every stack's backup takes."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("action", choices=["save", "restore"])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--force", action="store_true", help="replace the state of a stack that holds work")
    return parser


def run(stack: Stack, given: argparse.Namespace) -> int:
    """Save or restore, as the arguments say; one line either way, and an exit code."""
    try:
        if given.action == "save":
            path = given.file or ROOT / "backups" / f"{datetime.now(UTC):vision-mlops-%Y%m%dT%H%M%SZ}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            print(save(stack, path))
        elif given.file is None:
            raise BackupError(f"name the file: {stack.restore_target} FILE=backups/NAME.tar", USAGE)
        else:
            print(restore(stack, given.file, force=given.force))
    except BackupError as error:
        print(f"backup: {error}", file=sys.stderr)
        return error.code
    return 0


def main(arguments: Sequence[str]) -> int:
    """Save or restore the stack on Docker."""
    parser = arguments_of("deploy.backup", "Save or restore the stack's state.")
    parser.add_argument("--env-file", type=Path, default=ROOT / ".env")
    given = parser.parse_args(arguments)
    return run(ComposeStack(given.env_file), given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
