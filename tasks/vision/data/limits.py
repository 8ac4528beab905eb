"""How large images and a source may be, how much it may unpack to, and what damage reading an archive may meet.

An archive may come from anyone: a few kilobytes may declare, or unpack to, any size.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.errors import DataError

MIB = 2**20
MIN_SIDE = 8  # of an image, in pixels
MAX_PIXEL_BYTES = 4 * 2**30  # of all images as prepared, which are kept in memory
# What tarfile, zipfile and the decompressors raise on damaged archives, as found by a fuzzer and in their sources.
# RuntimeError: a zip version or a compression that this Python does not know.
DAMAGE = (
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
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
class Budget:
    """Adds up the sizes that an archive declares, and refuses too much before anything is unpacked."""

    where: str
    packed: int
    limits: Limits
    entries: int = 0
    total: int = 0

    def admit(self, name: str, size: int) -> None:
        """Count one entry; its name takes memory too.

        Raises:
            DataError: it is too large, or there are too many, or they unpack to too much.
        """
        limits = self.limits
        self.entries += 1
        self.total += size + len(name)
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


@contextmanager
def damage_named(where: str) -> Iterator[None]:
    """Turn what a damaged archive raises into one line that names it."""
    try:
        yield
    except DAMAGE as error:
        raise DataError(
            f"{where} is damaged, cut short or not an archive ({type(error).__name__}: {error}); copy it again"
        ) from error
