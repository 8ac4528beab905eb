"""Folders and archives of files, recognised by their content."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tasks.errors import DataError
from tasks.vision.data import compression, zip_archive
from tasks.vision.data.folder import Folder
from tasks.vision.data.limits import Limits
from tasks.vision.data.store_file import File
from tasks.vision.data.tar_archive import Tar
from tasks.vision.data.zip_archive import Zip

PARQUET_MAGIC = b"PAR1"
KINDS = "a folder, .zip, .tar, .tar.gz, .tar.bz2, .tar.xz, .tar.zst or .parquet"


class Store(Protocol):
    """A folder or an archive.

    Attributes:
        links: after `files`, the links that lead to no file of the store, and why.
        is_archive: whether the store is one file, whose bytes identify its content.
    """

    path: Path
    links: dict[str, str]
    is_archive: bool

    def files(self) -> Iterator[File]:
        """Yield every file.

        Raises:
            DataError: the archive is damaged or unsafe.
        """
        ...


def open_store(path: Path, where: str = "", limits: Limits | None = None, name_encoding: str | None = None) -> Store:
    """Choose the reader of a path by its content, not by its name; `where` is the user's name for it.

    Raises:
        DataError: the path does not exist, cannot be read, or is neither a folder nor a known kind of file.
    """
    limits = limits or Limits()
    where = where or str(path)
    if path.is_dir():
        return Folder(path, where, limits)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise DataError(f"source {where!r} does not exist; give {KINDS}") from error
    except OSError as error:
        raise DataError(f"source {where!r} cannot be read ({error.strerror}); check its permissions") from error
    if not head:
        raise DataError(f"source {where!r} is an empty file; give {KINDS}")
    if head.startswith(zip_archive.MAGIC):
        return Zip(path, where, limits, name_encoding)
    if head.startswith(PARQUET_MAGIC):
        return Folder(path.parent, where, limits, only=path.name)
    kind = compression.kind_of(head)
    if not kind:
        try:
            if any(head):  # zeros are an empty tar
                tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # checks the header's checksum
        except tarfile.HeaderError as error:
            raise DataError(f"source {where!r} is not an archive; give {KINDS}") from error
    return Tar(path, where, limits, kind, name_encoding)
