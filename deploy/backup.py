"""Save the stack's state to one file, and restore it.

The databases and the artifact bucket are saved while everything runs. The result is consistent because references are
saved before what they point to: Airflow's database (which names MLflow runs), then MLflow's users, then MLflow's
database, each in one snapshot, then the objects. MLflow finishes a run or creates a version only after its objects are
written, and no program rewrites them; so whatever the databases call finished is in the file.

A restore checks the whole file before it touches anything, loads it beside the present state, and then switches over
in one transaction. When an earlier step fails, the present databases are unchanged.

The same on Docker and on Kubernetes (deploy/kubernetes/backup.py); the stack knows where the programs run.
Standard library only; pg_dump runs beside Postgres, the S3 client in MLflow's image.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from deploy import backup_file
from deploy.backup_stack import BackupError, Stack, last_line
from deploy.env_file import ROOT
from deploy.errors import CANNOT_CREATE, DAMAGED, NO_INPUT, USAGE

DATABASES = ("airflow", "mlflow_auth", "mlflow")  # in the order of references
# Tables that have rows once the stack was used; a database may lack the table.
WORK_DONE = {"mlflow": ("runs", "registered_models"), "airflow": ("dag_run",)}
END = b"end of the dump"  # written after each dump: a stream that was cut off has none


def save(stack: Stack, path: Path, *, objects: bool = True) -> str:
    """Write the backup file and return a summary line.

    Args:
        stack: the stack.
        path: the new file.
        objects: save the bucket, too; without it the file restores the databases only.

    Raises:
        BackupError: the stack is not up, or a program failed; no file is left.
    """
    stack.require_running()
    try:
        with backup_file.create(path) as writer:
            for database in DATABASES:
                _save_database(stack, database, path.parent, writer)
            if objects:
                _save_bucket(stack, writer)
    except FileExistsError:
        raise BackupError(f"{path} exists already; name another FILE", CANNOT_CREATE) from None
    except OSError as error:
        raise BackupError(
            f"{path}: {error.strerror or error}; free space or name another FILE", CANNOT_CREATE
        ) from None
    count = len(writer.members) - len(DATABASES)
    return f"{path}: {len(DATABASES)} databases, {count} objects, {path.stat().st_size / 1e6:.1f} MB"


def restore(stack: Stack, path: Path, *, force: bool) -> str:
    """Restore the state in the file to the running stack and return a summary line.

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
    if not force and (work := _work_done(stack)):
        raise BackupError(f"the stack holds {work}; FORCE=1 replaces it with the file's state", CANNOT_CREATE)

    try:
        for database in DATABASES:
            stack.sql(f"DROP DATABASE IF EXISTS {database}_restored")
            stack.sql(f"CREATE DATABASE {database}_restored OWNER {database} TEMPLATE template0")
            stack.sql(f"REVOKE ALL ON DATABASE {database}_restored FROM PUBLIC")
            _load_database(stack, path, database)
        if any(name.startswith("bucket/") for name in members):
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
    """Return what a restore would replace, the first thing found; empty when there is nothing."""
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
            raise BackupError(f"the dump of database {database} was cut off; run it again")
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
            process.stdout.read()  # the zeros that pad a tar
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
            pass  # the client ended first; its error is read below
        process.wait()
        said.seek(0)
        words = said.read()
        if process.returncode != 0:
            raise BackupError(last_line(words) or "the bucket could not be written")
        _require_all(words, sent)


def _require_all(words: bytes, count: int) -> None:
    """Compare the number of objects seen here with the number that the bucket's client reports."""
    told = [line for line in words.decode(errors="replace").splitlines() if line.endswith(" objects")]
    if f"{count} objects" not in told:
        raise BackupError(
            f"{count} objects came through, and the bucket's client says {' '.join(told) or 'nothing'}: "
            "the stream was cut off; run it again"
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


def save_to(stack: Stack, path: Path | None) -> None:
    """Write the backup file, by default a new one in `backups/`, and print a summary line.

    Raises:
        BackupError: as `save`.
    """
    path = path or ROOT / "backups" / f"{datetime.now(UTC):vision-mlops-%Y%m%dT%H%M%SZ}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    print(save(stack, path))


def restore_from(stack: Stack, path: Path | None, *, force: bool) -> None:
    """Restore the state in the file and print a summary line.

    Raises:
        BackupError: no file is named, or as `restore`.
    """
    if path is None:
        raise BackupError(f"name the file: {stack.restore_target} FILE=backups/NAME.tar", USAGE)
    print(restore(stack, path, force=force))
