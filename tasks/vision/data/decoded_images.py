"""Which images were decoded already, and where their pixels lie: on disk, found by what they were decoded from."""

from __future__ import annotations

import threading

from tasks.vision.data.disk_database import DiskDatabase
from tasks.vision.data.pixel_file import FiledImage, PixelFile

CACHE_BYTES = 32 * 2**20  # of the table that stay in memory

Decoded = tuple[FiledImage, bytes]
"""Where the pixels of an image lie, and their SHA-256."""


class DecodedImages:
    """The images of a pixel file by the SHA-256 (hex) of what they were decoded from; may be used from any thread."""

    def __init__(self, file: PixelFile, cache_bytes: int = CACHE_BYTES) -> None:
        """Begin without any.

        Args:
            file: where the pixels are.
            cache_bytes: of the table that stay in memory.
        """
        self._file = file
        self._database = DiskDatabase(cache_bytes)
        self._database.execute(
            "CREATE TABLE decoded (sha256 BLOB PRIMARY KEY, position INTEGER, pixels_sha256 BLOB) WITHOUT ROWID"
        )
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of different images."""
        return self._count

    def get(self, sha256: str) -> Decoded | None:
        """Return the image that was decoded from this, if any."""
        with self._lock:
            row = self._database.execute(
                "SELECT position, pixels_sha256 FROM decoded WHERE sha256 = ?", [bytes.fromhex(sha256)]
            ).fetchone()
        return None if row is None else (FiledImage(self._file, row[0]), row[1])

    def __getitem__(self, sha256: str) -> Decoded:
        """Return the image that was decoded from this.

        Raises:
            KeyError: there is none.
        """
        found = self.get(sha256)
        if found is None:
            raise KeyError(sha256)
        return found

    def setdefault(self, sha256: str, decoded: Decoded) -> Decoded:
        """Note an image, and return it; or the one that another thread has decoded from the same meanwhile.

        Raises:
            UnavailableError: the disk is full.
        """
        image, digest = decoded
        with self._lock:
            done = self._database.execute(
                "INSERT OR IGNORE INTO decoded VALUES (?, ?, ?)", [bytes.fromhex(sha256), image.position, digest]
            )
            self._count += done.rowcount
        return decoded if done.rowcount else self[sha256]
