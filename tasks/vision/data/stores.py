"""Folders and archives of files, told apart by their content."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tasks.errors import DataError
from tasks.vision.data.archives import Limits, Read, Tar, Zip
from tasks.vision.data.layout import safe_name


class Store(Protocol):
    """A folder or an archive.

    Attributes:
        links: the symbolic links found by `files`, which are not followed.
        is_archive: whether the store is one file, whose bytes identify its content.
    """

    path: Path
    links: list[str]
    is_archive: bool

    def files(self) -> Iterator[tuple[str, Read]]:
        """Yield plain relative path and reader of every file; a reader works until the next step, in this thread.

        Raises:
            DataError: the archive is damaged or unsafe. A reader raises it when its one file is damaged.
        """
        ...


def open_store(path: Path, where: str = "", limits: Limits | None = None) -> Store:
    """Choose the reader of a path by its content, not by its name; `where` is the user's name for it.

    Raises:
        DataError: the path does not exist, cannot be read, or is neither a folder nor a known kind of archive.
    """
    limits = limits or Limits()
    where = where or str(path)
    if path.is_dir():
        return Folder(path, where, limits)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise DataError(f"source {where!r} does not exist; give a folder, .tar, .tar.gz or .zip") from error
    except OSError as error:
        raise DataError(f"source {where!r} cannot be read ({error.strerror}); check its permissions") from error
    if not head:
        raise DataError(f"source {where!r} is an empty file; give a folder, .tar, .tar.gz or .zip")
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return Zip(path, where, limits)
    if head[:2] == b"\x1f\x8b":
        return Tar(path, where, limits, compressed=True)
    try:
        if any(head):  # zeros are an empty tar
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # checks the header's checksum
    except tarfile.HeaderError as error:
        raise DataError(f"source {where!r} is not an archive; give a folder, .tar, .tar.gz or .zip") from error
    return Tar(path, where, limits, compressed=False)


@dataclass
class Folder:
    """A folder on a local disk; links in it are listed, not followed."""

    path: Path
    where: str
    limits: Limits
    links: list[str] = field(default_factory=list)
    is_archive: bool = False

    def files(self) -> Iterator[tuple[str, Read]]:
        """Yield the regular files, sorted by path."""
        self.links.clear()
        for folder, folders, names in os.walk(self.path, onerror=self._unreadable):
            folders.sort()
            here = Path(folder)
            for name in sorted([*names, *folders]):
                path = here / name
                inner = path.relative_to(self.path).as_posix()
                if path.is_symlink():
                    self.links.append(safe_name(inner, self.where))
                elif path.is_file():
                    yield safe_name(inner, self.where), self._reader(path)

    def _unreadable(self, error: OSError) -> None:
        raise DataError(
            f"{self.where} holds {error.filename!r}, which cannot be read; check its permissions"
        ) from error

    def _reader(self, path: Path) -> Read:
        def read() -> bytes:
            try:
                size = path.stat().st_size
                if size > self.limits.entry_bytes:
                    raise DataError(f"{size} bytes, over {self.limits.entry_bytes}; shrink the image")
                return path.read_bytes()
            except OSError as error:
                raise DataError(f"cannot be read ({error.strerror}); check its permissions") from error

        return read
