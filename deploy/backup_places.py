"""Where backups are kept: a folder of this machine, or a bucket of another S3 store. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from deploy.backup_stack import BackupError, ComposeStack, last_line
from deploy.env_file import ROOT
from deploy.errors import CONFIG
from tasks.files import replacing

CLIENT = Path(__file__).resolve().with_name("backup_store_client.py")
STAMP = "%Y%m%dT%H%M%SZ"
NAME = re.compile(r"vision-mlops-(\d{8}T\d{6}Z)\.backup")
FOLDER = ROOT / "backups"
REQUIRED = ("BACKUP_BUCKET", "BACKUP_S3_ENDPOINT_URL", "BACKUP_S3_ACCESS_KEY", "BACKUP_S3_SECRET_KEY")
REGION = "BACKUP_S3_REGION"
SETTINGS = (*REQUIRED, REGION, "BACKUP_FOLDER", "BACKUP_KEEP_DAYS")


def new_name() -> str:
    """Return the name of a backup that begins now."""
    return f"vision-mlops-{datetime.now(UTC).strftime(STAMP)}.backup"


def time_of(name: str) -> datetime:
    """Return when the backup of this name began."""
    [stamp] = NAME.fullmatch(name).groups()  # type: ignore[union-attr]  # a name of `Place.backups`
    return datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)


class Place(ABC):
    """Where backups are kept."""

    @abstractmethod
    def put(self, file: Path) -> str:
        """Keep a backup that lies in the folder for new ones; return its address.

        Raises:
            BackupError: it could not be written there, or not whole.
        """

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Return the names of all files, those of others as well."""

    @abstractmethod
    def fetch(self, name: str) -> Path:
        """Return the path of a backup on this machine, copied there if need be."""

    @abstractmethod
    def fetch_all(self, names: Sequence[str], folder: Path) -> list[Path]:
        """Return the paths of files on this machine; those of a bucket are copied to the folder, once."""

    @abstractmethod
    def delete(self, names: list[str]) -> None:
        """Delete backups."""

    def backups(self) -> list[str]:
        """Return the names of the backups, the newest first; files with other names are not ours."""
        return sorted((name for name in self.names() if NAME.fullmatch(name)), reverse=True)


class Folder(Place):
    """A folder of this machine, best one on another disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, file: Path) -> str:
        """See Place; new backups are written here."""
        return str(file)

    def names(self) -> Iterable[str]:
        """See Place."""
        return [path.name for path in self.folder.iterdir()]

    def fetch(self, name: str) -> Path:
        """See Place."""
        return self.folder / name

    def fetch_all(self, names: Sequence[str], folder: Path) -> list[Path]:
        """See Place; they are on this machine."""
        return [self.folder / name for name in names]

    def delete(self, names: list[str]) -> None:
        """See Place."""
        for name in names:
            (self.folder / name).unlink()


class Bucket(Place):
    """A bucket of another S3 store; what is read and written passes through a folder of this machine."""

    def __init__(self, folder: Path, stack: ComposeStack, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._stack, self._environment = stack, environment
        self._address = f"s3://{environment['BACKUP_BUCKET']}"

    def put(self, file: Path) -> str:
        """See Place; the file does not stay on this machine."""
        with file.open("rb") as content:
            self._run("put", file.name, str(file.stat().st_size), stdin=content)
        file.unlink()
        return f"{self._address}/{file.name}"

    def names(self) -> Iterable[str]:
        """See Place."""
        return self._run("names").decode().splitlines()

    def fetch(self, name: str) -> Path:
        """See Place."""
        with replacing(self.folder / name) as file:
            self._run("get", name, stdout=file)
        return self.folder / name

    def fetch_all(self, names: Sequence[str], folder: Path) -> list[Path]:
        """See Place."""
        missing = [name for name in names if not (folder / name).exists()]
        with tempfile.TemporaryFile() as wanted, tempfile.TemporaryFile(dir=folder) as tar:
            wanted.write("\n".join(missing).encode())
            wanted.seek(0)
            self._run("get-all", stdin=wanted, stdout=tar)
            tar.seek(0)
            with tarfile.open(fileobj=tar) as archive:
                for name in missing:
                    content = archive.extractfile(name)
                    assert content is not None  # noqa: S101  # the client adds files only
                    with replacing(folder / name) as file:
                        shutil.copyfileobj(content, file)
        return [folder / name for name in names]

    def delete(self, names: list[str]) -> None:
        """See Place."""
        self._run("delete", *names)

    def _run(self, *arguments: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> bytes:
        done = subprocess.run(  # noqa: S603  # compose, arguments of ours
            self._stack.program(CLIENT, *arguments, variables=self._environment),
            env={**os.environ, **self._environment},
            stdin=stdin or subprocess.DEVNULL, stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        if done.returncode != 0:
            raise BackupError(last_line(done.stderr) or "the store of the backups gave no answer")
        return done.stdout or b""


def place_of(values: Mapping[str, str], stack: ComposeStack) -> Folder | Bucket:
    """Return where `.env` says that backups are kept, and make the folder.

    Raises:
        BackupError: what it says about the bucket is incomplete, or names the bucket that is to be saved.
    """
    folder = Path(values.get("BACKUP_FOLDER") or FOLDER)
    if not folder.is_absolute():
        raise BackupError(f"BACKUP_FOLDER={folder} is not an absolute path", CONFIG)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackupError(f"BACKUP_FOLDER={folder}: {error.strerror}; name a folder that can be made", CONFIG) from None
    if not values.get("BACKUP_BUCKET"):
        return Folder(folder)
    if missing := [name for name in REQUIRED if not values.get(name)]:
        raise BackupError(f"BACKUP_BUCKET is set in .env, and {', '.join(missing)} not; set all or none", CONFIG)
    own = (values.get("S3_ENDPOINT_URL") or "http://s3:9000", values.get("S3_BUCKET") or "mlflow")
    if (values["BACKUP_S3_ENDPOINT_URL"], values["BACKUP_BUCKET"]) == own:
        raise BackupError("BACKUP_BUCKET is the bucket that is to be saved; name one of another store", CONFIG)
    passed = {name: values[name] for name in REQUIRED} | {REGION: values.get(REGION) or "us-east-1"}
    return Bucket(folder, stack, passed)
