"""Reads the files of a folder on a local disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import DataError
from tasks.vision.data.limits import Limits
from tasks.vision.data.links import follow
from tasks.vision.data.names import safe_name
from tasks.vision.data.store_file import File, Read


@dataclass
class Folder:
    """A folder, or one file of it (`only`); a link to a file or folder inside it is that file or folder once more."""

    path: Path
    where: str
    limits: Limits
    only: str | None = None
    links: dict[str, str] = field(default_factory=dict)
    is_archive: bool = False

    def files(self) -> Iterator[File]:
        """Yield the regular files, sorted by path, then the links to them."""
        if self.only:
            yield self._file(self.only, self.path / self.only)
            return
        links: dict[str, str] = {}
        yield from self._walk(links)
        # Read once more for links only: the names of all files would take memory, and most folders have no link.
        sizes = {file.name: file.size for file in self._walk({})} if links else {}
        aliases, self.links = follow(links, sizes, self.where, self.limits.entries)
        for name, real in aliases.items():
            yield self._file(name, self.path / real)

    def _walk(self, links: dict[str, str]) -> Iterator[File]:
        """Yield the regular files, and note the target of every link."""
        for folder, folders, names in os.walk(self.path, onerror=self._unreadable):
            folders.sort()
            here = Path(folder)
            for name in sorted([*names, *folders]):
                path = here / name
                inner = path.relative_to(self.path).as_posix()
                if path.is_symlink():
                    links[safe_name(inner, self.where)] = self._target(path, inner)
                elif path.is_file():
                    yield self._file(safe_name(inner, self.where), path)

    def _target(self, link: Path, inner: str) -> str:
        """Return where a link leads, relative to its folder if that is inside this one."""
        target = link.readlink()
        if target.is_absolute():
            for root in (self.path.absolute(), self.path.resolve()):
                if target.is_relative_to(root):
                    return "../" * inner.count("/") + target.relative_to(root).as_posix()
        return target.as_posix()

    def _unreadable(self, error: OSError) -> None:
        raise DataError(
            f"{self.where} holds {error.filename!r}, which cannot be read; check its permissions"
        ) from error

    def _file(self, name: str, path: Path) -> File:
        try:
            size = path.stat().st_size
        except OSError:
            size = 0  # its reader says what is wrong
        return File(name, size, self._reader(path), path)

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
