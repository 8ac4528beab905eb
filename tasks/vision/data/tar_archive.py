"""Reads the files of a tar, plain or compressed, one after the other, without unpacking anything to disk."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from tasks.errors import DataError
from tasks.vision.data.compression import CHUNK, open_stream
from tasks.vision.data.limits import MIB, Budget, Limits, damage_named
from tasks.vision.data.links import follow
from tasks.vision.data.names import MAX_PATH, safe_name
from tasks.vision.data.store_file import File, Read

HEADER_BYTES = MIB  # of one entry: its long name and attributes, of which a file system takes 64 kB
MAX_DIGITS = 120  # in a row in a header: tarfile's patterns take the square of that
_DIGITS = b"0" * MAX_DIGITS
_AS_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
MAX_SHARED = 100  # pax headers for all files: `git archive` writes one


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
            found, self.links = follow(links, sizes, self.where, budget.room)
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
            begun = 0
            with tarfile.TarFile(fileobj=meter, mode="r", encoding=encoding) as archive:  # type: ignore[arg-type]
                while (member := archive.next()) is not None:
                    # tarfile keeps every member for random access, which is not needed here.
                    archive.members.clear()  # type: ignore[attr-defined]  # public, but not in typeshed
                    _require_small(archive.pax_headers, self.where)
                    taken, begun = archive.offset - begun, archive.offset
                    name, target = safe_name(member.name, self.where), ""
                    if member.issym() or member.islnk():
                        # A hard link names a path from the top of the archive.
                        up = "" if member.issym() or member.linkname.startswith("/") else "../" * name.count("/")
                        target = up + member.linkname
                        if len(target) > MAX_PATH:
                            raise DataError(f"{self.where} holds {name!r}, a link of over {MAX_PATH} bytes; remove it")
                        links[name] = target
                    elif not (member.isreg() or member.isdir()):
                        raise DataError(f"{self.where} holds {name!r}, a device; pack it again with plain files only")
                    budget.admit(name, member.size, taken, target)
                    meter.renew()
                    if member.isreg():
                        yield File(name, member.size, self._reader(archive, member, meter))
            # tarfile takes a damaged or missing header for the end; the true end is a block of zeros.
            if meter.last != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{self.where} is damaged or cut short after {budget.entries} entries; copy it again")
            if self.compression:
                meter.skip_rest()

    def _reader(self, archive: tarfile.TarFile, member: tarfile.TarInfo, meter: _Meter) -> Read:
        def read() -> bytes:
            with damage_named(self.where):
                meter.expect(member.size)
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


def _require_small(headers: Mapping[str, str], where: str) -> None:
    """Refuse pax headers for all files that follow when there are many: tarfile copies them for every file."""
    if len(headers) > MAX_SHARED or sum(map(len, headers.values())) > HEADER_BYTES:
        raise DataError(
            f"{where} has over {MAX_SHARED} pax headers for all its files, or over {HEADER_BYTES} bytes in them; "
            "pack it again"
        )


class _Meter:
    """The read side of a file, with a limit for the headers of one entry, and one for what is skipped or unpacked.

    tarfile reads a header at once, whatever its size, and makes objects of its records that take many times as much:
    a few kilobytes of gzip can hold a header of gigabytes.
    """

    def __init__(self, stream: BinaryIO | BufferedIOBase, where: str, allowance: int) -> None:
        self.stream, self.where, self.allowance = stream, where, allowance
        self.renew()
        self.last = b""

    def renew(self) -> None:
        """Begin with the next entry."""
        self.left, self.header_left, self.in_headers = self.allowance, HEADER_BYTES, True

    def expect(self, size: int) -> None:
        """Allow the reading of the content of an entry."""
        self.header_left += size + tarfile.BLOCKSIZE
        self.in_headers = False

    def read(self, size: int) -> bytes:
        self.header_left -= size
        if self.header_left < 0:
            raise DataError(f"{self.where} has over {HEADER_BYTES} bytes of headers for one file; pack it again")
        self._spend(size)
        self.last = self.stream.read(size)
        self.left += size - len(self.last)
        self.header_left += size - len(self.last)
        if self.in_headers and _DIGITS in self.last.translate(_AS_ZERO):
            raise DataError(f"{self.where} has a header with {MAX_DIGITS} digits in a row; pack it again")
        return self.last

    def skip_rest(self) -> None:
        """Read to the end of the file: the checksum of a compressed one is there."""
        self._spend(0)
        while data := self.stream.read(CHUNK):
            self._spend(len(data))

    def seek(self, position: int) -> int:
        self._spend(max(0, position - self.stream.tell()))
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise DataError(f"{self.where} has over {self.allowance} bytes between two entries; pack it again")
