"""Reads the files of a tar, plain or compressed, one after the other, without unpacking anything to disk."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from tasks.errors import DataError
from tasks.vision.data.compression import CHUNK, open_stream
from tasks.vision.data.limits import MIB, Budget, Limits, damage_named
from tasks.vision.data.links import follow
from tasks.vision.data.names import safe_name
from tasks.vision.data.store_file import File, Read


@dataclass
class Tar:
    """A tar archive; `compression` is gz, bz2, xz, zst or "".

    A hard or symbolic link to a file of the archive is that file once more. Which files have links is known after the
    first read of the stream, so the first pass reads it again for them; later ones give each file with its links.
    """

    path: Path
    where: str
    limits: Limits
    compression: str = ""
    name_encoding: str | None = None
    links: dict[str, str] = field(default_factory=dict)
    is_archive: bool = True
    _aliases: dict[str, list[str]] | None = None

    def files(self) -> Iterator[File]:
        """Yield the files in the archive's order; the whole stream is checked to its end."""
        known = self._aliases
        sizes: dict[str, int] = {}
        links: dict[str, str] = {}
        budget = Budget(self.where, self.path.stat().st_size, self.limits)
        for file in self._members(budget, links):
            sizes[file.name] = file.size
            others = known.get(file.name, []) if known else []
            if not others:
                yield file
                continue
            once = _Once(file.read)
            for name in (file.name, *others):
                yield File(name, file.size, once)
        if known is None:
            found, self.links = follow(links, sizes, self.where, self.limits.entries)
            self._aliases = {}
            for name, real in found.items():
                budget.admit(name, sizes[real])
                self._aliases.setdefault(real, []).append(name)
            if found:
                yield from self._linked()

    def _members(self, budget: Budget, links: dict[str, str]) -> Iterator[File]:
        """Yield the regular files, and note the target of every link, relative to its folder."""
        encoding = self.name_encoding or "utf-8"
        with damage_named(self.where), open_stream(self.path, self.compression) as stream:
            meter = _Meter(stream, self.where, self.limits.entry_bytes + MIB)
            with tarfile.TarFile(fileobj=meter, mode="r", encoding=encoding) as archive:  # type: ignore[arg-type]
                while (member := archive.next()) is not None:
                    # tarfile keeps every member for random access, which is not needed here.
                    archive.members.clear()  # type: ignore[attr-defined]  # public, but not in typeshed
                    name = safe_name(member.name, self.where)
                    if member.issym() or member.islnk():
                        # A hard link names a path from the top of the archive.
                        up = "" if member.issym() or member.linkname.startswith("/") else "../" * name.count("/")
                        links[name] = up + member.linkname
                    elif not (member.isreg() or member.isdir()):
                        raise DataError(f"{self.where} holds {name!r}, a device; pack it again with plain files only")
                    budget.admit(name, member.size)
                    meter.renew()
                    if member.isreg():
                        yield File(name, member.size, self._reader(archive, member))
            # tarfile takes a damaged or missing header for the end; the true end is a block of zeros.
            if meter.last != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{self.where} is damaged or cut short after {budget.entries} entries; copy it again")
            while self.compression and meter.read(CHUNK):
                pass  # the checksum is at the very end

    def _reader(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Read:
        def read() -> bytes:
            with damage_named(self.where):
                file = archive.extractfile(member)
                return file.read() if file else b""

        return read

    def _linked(self) -> Iterator[File]:
        """Yield the links alone, by going through the archive once more; only in the first pass."""
        aliases = self._aliases or {}
        for file in self._members(Budget(self.where, self.path.stat().st_size, self.limits), {}):
            once = _Once(file.read)
            for name in aliases.get(file.name, []):
                yield File(name, file.size, once)


class _Once:
    """A reader that keeps what it read: a stream cannot go back to give the same file again."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._data: bytes | None = None

    def __call__(self) -> bytes:
        if self._data is None:
            self._data = self._read()
        return self._data


class _Meter:
    """The read side of a file, limited to `allowance` bytes between two entries.

    Headers count too: a few kilobytes of gzip can hold a tar header of gigabytes, which tarfile reads at once.
    """

    def __init__(self, stream: BinaryIO | BufferedIOBase, where: str, allowance: int) -> None:
        self.stream, self.where, self.allowance = stream, where, allowance
        self.left = allowance
        self.last = b""

    def renew(self) -> None:
        self.left = self.allowance

    def read(self, size: int) -> bytes:
        self._spend(size)
        self.last = self.stream.read(size)
        self.left += size - len(self.last)
        return self.last

    def seek(self, position: int) -> int:
        self._spend(max(0, position - self.stream.tell()))
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise DataError(f"{self.where} has over {self.allowance} bytes between two entries; pack it again")
