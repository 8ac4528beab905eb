"""The backup file: a tar whose last members are a manifest with every member's SHA-256, and the manifest's own.

    databases/NAME.dump      pg_dump, custom format
    bucket/KEY               the objects of the artifact bucket
    manifest.json            {"format", "created", "members": {name: {"bytes", "sha256"}}}
    manifest.json.sha256

Both come last, so a truncated file has none and is refused. Standard library only.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from tasks.files import replacing

FORMAT = 1
MANIFEST = "manifest.json"
CHUNK = 1 << 20


class DamagedBackupError(Exception):
    """The file is not a backup, or was changed since it was written; the text names what is wrong."""


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
def create(path: Path) -> Iterator[BackupWriter]:
    """Write a backup file that only its owner can read; when the block raises, no file is left.

    Raises:
        FileExistsError: `path` exists already; a backup is never overwritten.
    """
    if path.exists():
        raise FileExistsError(path)
    with replacing(path) as file, tarfile.open(fileobj=file, mode="w") as archive:
        writer = BackupWriter(archive)
        yield writer
        writer.finish()


def verify(path: Path) -> dict[str, dict[str, int | str]]:
    """Read the whole file and compare every member with the manifest; returns the manifest's members.

    Raises:
        DamagedBackupError: it is not a backup, was truncated, or a byte of it changed.
    """
    found: dict[str, dict[str, int | str]] = {}
    ending: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                content = archive.extractfile(info)
                if content is None:
                    raise DamagedBackupError(f"member {info.name!r} is not a file")
                if info.name in {MANIFEST, f"{MANIFEST}.sha256"}:
                    ending[info.name] = content.read()
                    continue
                digesting = _Digesting(content)
                while digesting.read(CHUNK):
                    pass
                found[info.name] = {"bytes": digesting.bytes, "sha256": digesting.sha256.hexdigest()}
    except (tarfile.TarError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise DamagedBackupError(f"it cannot be read to its end ({error})") from None
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


def members(path: Path, prefix: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Yield each member under `prefix` and its content, names without the prefix."""
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            content = archive.extractfile(info)
            if info.name.startswith(prefix) and content is not None:
                plain = tarfile.TarInfo(info.name.removeprefix(prefix))
                plain.size = info.size
                yield plain, content
