"""Reads the files of a zip, without unpacking anything to disk."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, cast

from tasks.errors import DataError
from tasks.vision.data import zip_members, zip_names
from tasks.vision.data.limits import DAMAGE, MIB, Budget, Limits, damage_named
from tasks.vision.data.links import follow
from tasks.vision.data.names import safe_name
from tasks.vision.data.store_file import File, Read

# More is refused where it is over half of the archive: a directory takes many times its bytes in memory, and one of
# tiny images with long names is a third.
DIRECTORY_BYTES = 8 * MIB
MAX_TARGET = 4096  # bytes of a path, as Linux
MAGIC = (b"PK\3\4", b"PK\5\6", b"PK00", b"PK\7\x08")  # a file, an empty zip, and the marks of one made to be split


@dataclass
class Zip:
    """A zip archive; a symbolic link to a file of the archive is that file once more."""

    path: Path
    where: str
    limits: Limits
    name_encoding: str | None = None
    links: dict[str, str] = field(default_factory=dict)
    is_archive: bool = True

    def files(self) -> Iterator[File]:
        """Yield the files in the order of the archive's directory, then the links to them."""
        packed = self.path.stat().st_size
        with damage_named(self.where), self.path.open("rb") as file:
            bounded = cast(IO[bytes], _Bounded(file, max(DIRECTORY_BYTES, packed // 2), self.where))
            archive = zipfile.ZipFile(bounded)
            budget = Budget(self.where, packed, self.limits)
            infos = archive.infolist()
            names = zip_names.decoded(infos, self.where, self.name_encoding)
            files: dict[str, zipfile.ZipInfo] = {}
            links: dict[str, str] = {}
            for raw, info in zip(names, infos, strict=True):
                name = safe_name(raw, self.where)
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                    raise DataError(f"{self.where} holds {name!r}, a device; pack it again with plain files only")
                if info.flag_bits & 0x1:
                    raise DataError(f"{self.where} is encrypted ({name!r}); pack it again without a password")
                budget.admit(name, info.file_size)
                if kind == stat.S_IFLNK:
                    links[name] = self._target(archive, info)
                elif not raw.endswith("/"):
                    files[name] = info
                    yield File(name, info.file_size, self._reader(archive, info))
            aliases, self.links = follow(links, files, self.where, budget.room)
            for name, real in aliases.items():
                budget.admit(name, files[real].file_size)
                yield File(name, files[real].file_size, self._reader(archive, files[real]))

    def _target(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
        if info.file_size > MAX_TARGET:
            raise DataError(f"{self.where} holds a link of {info.file_size} bytes; pack it again with plain files only")
        return self._reader(archive, info)().decode(errors="replace")

    @staticmethod
    def _reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Read:
        def read() -> bytes:
            try:
                return zip_members.read(archive, info)
            except DAMAGE as error:
                raise DataError(f"damaged in the archive ({type(error).__name__}: {error}); pack it again") from error

        return read


class _Bounded:
    """A file of which only so much is read at once: zipfile reads a directory whole, whatever its size."""

    def __init__(self, file: BinaryIO, most: int, where: str) -> None:
        self._file, self._most, self._where = file, most, where
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise DataError(
                f"{self._where} has a directory of {size} bytes, over half of the archive and over {DIRECTORY_BYTES}; "
                "pack the images again"
            )
        return self._file.read(size)
