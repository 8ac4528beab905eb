"""Reads the files of a tar, tar.gz or zip, one after the other, without unpacking anything to disk.

An archive may come from anyone: nothing in it is trusted before it is checked here.
"""

from __future__ import annotations

import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path

from tasks.errors import DataError
from tasks.vision.data.layout import safe_name

MIB = 2**20
CHUNK = MIB
Read = Callable[[], bytes]
# What tarfile, zipfile and gzip raise on damaged archives, as found by a fuzzer and in their sources.
# RuntimeError: a zip version or a compression that this Python does not know.
DAMAGE = (
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to before it counts as a bomb."""

    entries: int = 2_000_000
    entry_bytes: int = 64 * MIB
    total_bytes: int = 256 * 1024 * MIB
    # Photographs hardly compress; thousands of tiny files in a tar do, because of the padding, by less than 10.
    ratio: int = 100
    ratio_from_bytes: int = 100 * MIB


@dataclass
class Zip:
    """A zip archive."""

    path: Path
    where: str
    limits: Limits
    links: list[str] = field(default_factory=list)
    is_archive: bool = True

    def files(self) -> Iterator[tuple[str, Read]]:
        """Yield the files in the order of the archive's directory."""
        with _damage_named(self.where), zipfile.ZipFile(self.path) as archive:
            budget = _Budget(self.where, self.path.stat().st_size, self.limits)
            for info in archive.infolist():
                name = safe_name(info.filename, self.where)
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _special(self.where, name)
                if info.flag_bits & 0x1:
                    raise DataError(f"{self.where} is encrypted ({name!r}); pack it again without a password")
                budget.admit(name, info.file_size)
                if not info.is_dir():
                    yield name, self._reader(archive, info)

    @staticmethod
    def _reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Read:
        def read() -> bytes:
            try:
                return archive.read(info)
            except DAMAGE as error:
                raise DataError(f"damaged in the archive ({type(error).__name__}: {error}); pack it again") from error

        return read


@dataclass
class Tar:
    """A tar archive, plain or compressed with gzip."""

    path: Path
    where: str
    limits: Limits
    compressed: bool
    links: list[str] = field(default_factory=list)
    is_archive: bool = True

    def files(self) -> Iterator[tuple[str, Read]]:
        """Yield the files in the archive's order; the whole stream is checked to its end."""
        with (
            _damage_named(self.where),
            gzip.open(self.path, "rb") if self.compressed else self.path.open("rb") as stream,
        ):
            meter = _Meter(stream, self.where, self.limits.entry_bytes + MIB)
            budget = _Budget(self.where, self.path.stat().st_size, self.limits)
            with tarfile.TarFile(fileobj=meter, mode="r") as archive:  # type: ignore[arg-type]  # reads only
                while (member := archive.next()) is not None:
                    # tarfile keeps every member for random access, which is not needed here.
                    archive.members.clear()  # type: ignore[attr-defined]  # public, but not in typeshed
                    name = safe_name(member.name, self.where)
                    if not (member.isreg() or member.isdir()):
                        raise _special(self.where, name)
                    budget.admit(name, member.size)
                    meter.renew()
                    if member.isreg():
                        yield name, self._reader(archive, member)
            # tarfile takes a damaged or missing header for the end; the true end is a block of zeros.
            if meter.last != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{self.where} is damaged or cut short after {budget.entries} entries; copy it again")
            while self.compressed and meter.read(CHUNK):
                pass  # gzip's checksum is at the very end

    def _reader(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Read:
        def read() -> bytes:
            with _damage_named(self.where):
                file = archive.extractfile(member)
                return file.read() if file else b""

        return read


@dataclass
class _Budget:
    """Adds up the sizes that an archive declares, and refuses too much before anything is unpacked."""

    where: str
    packed: int
    limits: Limits
    entries: int = 0
    total: int = 0

    def admit(self, name: str, size: int) -> None:
        limits = self.limits
        self.entries += 1
        self.total += size
        if self.entries > limits.entries:
            raise DataError(f"{self.where} has over {limits.entries} entries; split the data set")
        if size > limits.entry_bytes:
            raise DataError(
                f"{self.where} holds {name!r} of {size} bytes, "
                f"over the limit of {limits.entry_bytes} for one image; remove it"
            )
        if self.total > limits.total_bytes:
            raise DataError(f"{self.where} unpacks to over {limits.total_bytes} bytes; split the data set")
        if self.total > max(limits.ratio_from_bytes, limits.ratio * self.packed):
            raise DataError(
                f"{self.where} unpacks to over {limits.ratio} times its size, as zip bombs do and images do not; "
                "pack the images again"
            )


class _Meter:
    """The read side of a file, limited to `allowance` bytes between two entries.

    Headers count too: a few kilobytes of gzip can hold a tar header of gigabytes, which tarfile reads at once.
    """

    def __init__(self, stream: BufferedIOBase, where: str, allowance: int) -> None:
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


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise DataError(
            f"{where} is damaged, cut short or not an archive ({type(error).__name__}: {error}); copy it again"
        ) from error


def _special(where: str, name: str) -> DataError:
    return DataError(f"{where} holds {name!r}, a link or device; pack it again with plain files only (tar -h)")
