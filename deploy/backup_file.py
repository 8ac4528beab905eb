"""The backup file: an encrypted tar (backup_encryption.py) whose last members are a manifest and its SHA-256.

    databases/NAME.dump      pg_dump, custom format
    bucket/KEY               the objects of the artifact bucket
    manifest.json            {"format", "created", "members": {name: {"bytes", "sha256"}}}
    manifest.json.sha256

The tags of the encryption say who wrote the file, and that it is whole; the manifest says what is in it. Earlier
releases wrote the same tar without encryption. Such a file is opened only where the caller asks for it, since anybody
can have written it. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from deploy import backup_encryption
from deploy.backup_encryption import DamagedBackupError
from tasks.files import replacing

FORMAT = 1
MANIFEST = "manifest.json"
CHUNK = 1 << 20


class _FoundError(Exception):
    """The rest of the file need not be read."""


class _Digesting:
    """A reader that counts and hashes what is read from it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.sha256.update(data)
        self.bytes += len(data)
        return data


class BackupWriter:
    """Adds members to the file and remembers their checksums."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self.members: dict[str, dict[str, int | str]] = {}

    def add(self, name: str, source: IO[bytes], size: int) -> None:
        """Copy `size` bytes of `source` into the file as member `name`."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime = size, int(datetime.now(UTC).timestamp())
        digesting = _Digesting(source)
        self._archive.addfile(info, digesting)  # reads only
        self.members[name] = {"bytes": digesting.bytes, "sha256": digesting.sha256.hexdigest()}

    def add_tar(self, prefix: str, stream: IO[bytes]) -> None:
        """Copy every member of a tar stream, `prefix` put before its name."""
        with tarfile.open(fileobj=stream, mode="r|") as incoming:
            for info in incoming:
                content = incoming.extractfile(info)
                if content is not None:
                    self.add(prefix + info.name, content, info.size)

    def finish(self) -> None:
        """Write the manifest and its checksum."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = json.dumps({"format": FORMAT, "created": created, "members": self.members}, indent=1).encode()
        digest = f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()
        for name, text in {MANIFEST: manifest, f"{MANIFEST}.sha256": digest}.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            self._archive.addfile(info, io.BytesIO(text))


@contextmanager
def create(path: Path, key: str) -> Iterator[BackupWriter]:
    """Write an encrypted backup file that only its owner can read; when the block raises, no file is left.

    Raises:
        FileExistsError: `path` exists already; a backup is never overwritten.
    """
    if path.exists():
        raise FileExistsError(path)
    with (
        replacing(path) as file,
        backup_encryption.encrypting(file, key) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        writer = BackupWriter(archive)
        yield writer
        writer.finish()


class SavedBackup:
    """A backup file that was authenticated, or that the caller trusts."""

    def __init__(self, path: Path, keys: Sequence[str], *, plain: bool = False) -> None:
        """Authenticate the whole file.

        Args:
            path: the file.
            keys: those that may have made it.
            plain: open a file without encryption, too, as earlier releases wrote it.

        Raises:
            DamagedBackupError: it was changed or truncated, no key made it, or it is not encrypted.
        """
        self._path = path
        self._key: str | None = None
        if backup_encryption.is_encrypted(path):
            self._key = backup_encryption.authenticate(path, keys)
        elif not plain:
            raise DamagedBackupError(
                "it is not encrypted, so anybody can have written it; if it is a backup of an earlier release and was "
                "kept in a safe place, PLAIN=1 restores it"
            )

    @contextmanager
    def content(self) -> Iterator[IO[bytes]]:
        """Yield the tar as a stream.

        Raises:
            DamagedBackupError: the file was changed since it was authenticated.
        """
        opened = backup_encryption.decrypting(self._path, self._key) if self._key else self._path.open("rb")
        with opened as stream:
            yield stream

    def verify(self) -> dict[str, dict[str, int | str]]:
        """Compare every member with the manifest; returns the manifest's members.

        Raises:
            DamagedBackupError: it is not a backup, was truncated, or a byte of it changed.
        """
        found: dict[str, dict[str, int | str]] = {}
        ending: dict[str, bytes] = {}
        with self.members() as members:
            for info, content in members:
                if info.name in {MANIFEST, f"{MANIFEST}.sha256"}:
                    ending[info.name] = content.read()
                    continue
                digesting = _Digesting(content)
                while digesting.read(CHUNK):
                    pass
                found[info.name] = {"bytes": digesting.bytes, "sha256": digesting.sha256.hexdigest()}
        return _compared(found, ending)

    def extract(self, name: str, target: IO[bytes]) -> None:
        """Copy one member; what follows it is not read.

        Raises:
            DamagedBackupError: there is none, or the file was changed since it was authenticated.
        """
        with contextlib.suppress(_FoundError):
            with self.members(name) as members:
                for _, content in members:
                    shutil.copyfileobj(content, target, CHUNK)
                    raise _FoundError
            raise DamagedBackupError(f"it has no {name}")

    @contextmanager
    def members(self, prefix: str = "") -> Iterator[Iterator[tuple[tarfile.TarInfo, IO[bytes]]]]:
        """Yield an iterator over the members under `prefix` and their contents, names without the prefix.

        Raises:
            DamagedBackupError: the file cannot be read to its end, or was changed since it was authenticated.
        """
        with self.content() as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r|") as archive:
                    yield _under(prefix, archive)
            except (tarfile.TarError, EOFError, UnicodeDecodeError, ValueError) as error:
                raise DamagedBackupError(f"it cannot be read to its end ({error})") from None


def _under(prefix: str, archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    for info in archive:
        content = archive.extractfile(info)
        if content is None:
            raise DamagedBackupError(f"member {info.name!r} is not a file")
        if info.name.startswith(prefix):
            plain = tarfile.TarInfo(info.name.removeprefix(prefix))
            plain.size = info.size
            yield plain, content


def _compared(found: dict[str, dict[str, int | str]], ending: dict[str, bytes]) -> dict[str, dict[str, int | str]]:
    if len(ending) != 2:
        raise DamagedBackupError("it has no manifest: truncated, damaged, or not a backup of this project")
    manifest = ending[MANIFEST]
    if ending[f"{MANIFEST}.sha256"].split()[:1] != [hashlib.sha256(manifest).hexdigest().encode()]:
        raise DamagedBackupError("its manifest changed since it was written")
    told = json.loads(manifest)
    if told["format"] != FORMAT:
        raise DamagedBackupError(f"it has format {told['format']}, this version reads {FORMAT}")
    members: dict[str, dict[str, int | str]] = told["members"]
    for name in members.keys() | found.keys():
        if members.get(name) != found.get(name):
            raise DamagedBackupError(f"{name} is not what was written (its SHA-256 differs from the manifest's)")
    return members
