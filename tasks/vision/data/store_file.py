"""One file of a folder or archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Read = Callable[[], bytes]


class File(NamedTuple):
    """A file as a store gives it.

    Attributes:
        name: plain path relative to the source.
        size: in bytes, as the folder or archive declares it.
        read: returns the content; works until the next file is asked for, in this thread, and raises DataError when
            this one file is damaged or too large.
        path: where the file lies on disk, for what must not be read whole; None inside an archive.
    """

    name: str
    size: int
    read: Read
    path: Path | None = None
