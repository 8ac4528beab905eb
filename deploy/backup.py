"""Save the stack's state to one file, and restore it.

The databases and the artifact bucket are saved while everything runs. The result is consistent because references are
saved before what they point to: Airflow's database (which names MLflow runs), then MLflow's users, then MLflow's
database, each in one snapshot, then the objects. MLflow finishes a run or creates a version only after its objects are
written, and no program rewrites them; so whatever the databases call finished is in the file.

The file is encrypted. A restore authenticates the whole of it before it opens or touches anything, loads each database
beside the present one, as that database's own user, and then switches over in one transaction. When an earlier step
fails, the present databases are unchanged.

The same on Docker and on Kubernetes (deploy/kubernetes/backup.py); the stack knows where the programs run.
Standard library only; pg_dump runs beside Postgres, the S3 client in MLflow's image.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy import backup_file
from deploy.backup_encryption import DamagedBackupError
from deploy.backup_file import SavedBackup
from deploy.backup_places import FOLDER, new_name
from deploy.backup_stack import BackupError, Stack, last_line
from deploy.errors import CANNOT_CREATE, DAMAGED, NO_INPUT, USAGE

DATABASES = ("airflow", "mlflow_auth", "mlflow")  # in the order of references
# Tables that have rows once the stack was used; a database may lack the table.
WORK_DONE = {"mlflow": ("runs", "registered_models"), "airflow": ("dag_run",)}
# The profile monitoring gives this user rights on Airflow's tables, which are in the dump. Where the user is missing,
# it is created without a login; the profile gives it one (deploy/monitoring/postgres_user.py).
WATCHER_EXISTS = """DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'monitoring') THEN CREATE ROLE monitoring NOLOGIN; END IF;
END $$"""
WATCHER_CONNECTS = "GRANT CONNECT ON DATABASE airflow_restored TO monitoring"
END = b"end of the dump"  # written after each dump: a stream that was cut off has none


def save(stack: Stack, path: Path, key: str, *, objects: bool = True) -> str:
    """Write the backup file, encrypted with the key, and return a summary line.

    Args:
        stack: the stack.
        path: the new file.
        key: encrypts it.
        objects: save the bucket, too; without it the file restores the databases only.

    Raises:
        BackupError: the stack is not up, or a program failed; no file is left.
    """
    stack.require_running()
    try:
        with backup_file.create(path, key) as writer:
            for database in DATABASES:
                _save_database(stack, database, writer)
            if objects:
                _save_bucket(stack, writer)
    except FileExistsError:
        raise BackupError(f"{path} exists already; name another FILE", CANNOT_CREATE) from None
    except OSError as error:
        fix = f"free space or name another FILE; the dumps pass through {tempfile.gettempdir()} (TMPDIR)"
        raise BackupError(f"{path}: {error.strerror or error}; {fix}", CANNOT_CREATE) from None
    count = len(writer.members) - len(DATABASES)
    return f"{path}: {len(DATABASES)} databases, {count} objects, {path.stat().st_size / 1e6:.1f} MB"


def restore(stack: Stack, path: Path, keys: Sequence[str], *, force: bool, plain: bool = False) -> str:
    """Restore the state in the file to the running stack and return a summary line.

    Args:
        stack: where to.
        path: the file.
        keys: those that may have made it.
        force: replace the state of a stack that was used.
        plain: take a file that is not encrypted, as earlier releases wrote it.

    Raises:
        BackupError: the file is damaged, the stack is not up or holds work, or a program failed.
    """
    saved = authenticated(path, keys, plain=plain)
    with _as_backup_error(path):
        members = saved.verify()
    stack.require_running()
    if not force and (work := _work_done(stack)):
        raise BackupError(f"the stack holds {work}; FORCE=1 replaces it with the file's state", CANNOT_CREATE)

    try:
        stack.sql(WATCHER_EXISTS)
        for database in DATABASES:
            stack.sql(f"DROP DATABASE IF EXISTS {database}_restored")
            stack.sql(f"CREATE DATABASE {database}_restored OWNER {database} TEMPLATE template0")
            stack.sql(f"REVOKE ALL ON DATABASE {database}_restored FROM PUBLIC")
            with _as_backup_error(path):
                _load_database(stack, saved, database)
        stack.sql(WATCHER_CONNECTS)
        if any(name.startswith("bucket/") for name in members):
            with _as_backup_error(path):
                _load_bucket(stack, saved)
    except BaseException:
        for database in DATABASES:
            stack.sql(f"DROP DATABASE IF EXISTS {database}_restored")
        raise

    with stack.stopped():
        _put_in_place(stack)
    objects = len(members) - len(DATABASES)
    return f"{path}: {len(DATABASES)} databases and {objects} objects restored; log in with the passwords of its time"


def authenticated(path: Path, keys: Sequence[str], *, plain: bool = False) -> SavedBackup:
    """Return a backup file that is whole and was made with one of the keys; `plain` as in `restore`.

    Raises:
        BackupError: it is not, or cannot be read.
    """
    with _as_backup_error(path):
        return SavedBackup(path, keys, plain=plain)


@contextlib.contextmanager
def _as_backup_error(path: Path) -> Iterator[None]:
    """Raise what is wrong with the file as the error of a restore."""
    try:
        yield
    except DamagedBackupError as error:
        raise BackupError(f"{path}: {error}; nothing was changed", DAMAGED) from None
    except OSError as error:
        fix = f"a backup is named by FILE=, and its dumps pass through {tempfile.gettempdir()} (TMPDIR)"
        raise BackupError(f"{path}: {error.strerror or error}; {fix}", NO_INPUT) from None


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


def _save_database(stack: Stack, database: str, writer: backup_file.BackupWriter) -> None:
    with tempfile.TemporaryFile() as dump:  # not beside the backup, which may be on a disk that others read
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


def _load_database(stack: Stack, saved: SavedBackup, database: str) -> None:
    """Load a dump as the user that owns the database: what the dump runs can do what that user can, and no more."""
    options = f"--no-owner --single-transaction --exit-on-error --dbname {database}_restored"
    with tempfile.TemporaryFile() as dump:
        saved.extract(f"databases/{database}.dump", dump)
        dump.seek(0)
        stack.postgres(f"pg_restore {options}", user=database, stdin=dump)


def _load_bucket(stack: Stack, saved: SavedBackup) -> None:
    sent = 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603  # ours
            stack.bucket("load"), stdin=subprocess.PIPE, stdout=said, stderr=said
        )
        assert process.stdin is not None  # noqa: S101  # a pipe was asked for
        try:
            with (
                saved.members("bucket/") as members,
                tarfile.open(fileobj=process.stdin, mode="w|") as outgoing,
            ):
                for info, content in members:
                    outgoing.addfile(info, content)
                    sent += 1
        except BrokenPipeError:
            pass  # the client ended first; its error is read below
        except BaseException:
            process.kill()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
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


def save_to(stack: Stack, path: Path | None, keys: Sequence[str]) -> None:
    """Write the backup file, by default a new one in `backups/`, and print a summary line.

    Raises:
        BackupError: as `save`.
    """
    path = path or FOLDER / new_name()
    path.parent.mkdir(parents=True, exist_ok=True)
    print(save(stack, path, keys[0]))


def restore_from(stack: Stack, path: Path | None, keys: Sequence[str], *, force: bool, plain: bool = False) -> None:
    """Restore the state in the file and print a summary line.

    Raises:
        BackupError: no file is named, or as `restore`.
    """
    if path is None:
        raise BackupError(f"name the file: {stack.restore_target} FILE=backups/NAME.backup", USAGE)
    print(restore(stack, path, keys, force=force, plain=plain))


def decrypt(path: Path, keys: Sequence[str]) -> None:
    """Write the tar in an encrypted backup file to standard output, once the whole file is authenticated.

    Raises:
        BackupError: the file is damaged, or no key made it.
    """
    with _as_backup_error(path), authenticated(path, keys).content() as stream:
        while chunk := stream.read(backup_file.CHUNK):
            sys.stdout.buffer.write(chunk)
