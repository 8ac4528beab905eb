"""How large images and a source may be, how much it may unpack to, and what damage reading an archive may meet.

An archive may come from anyone: a few kilobytes may declare, or unpack to, any size.
"""

from __future__ import annotations

import lzma
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.errors import DataError

MIB = 2**20
MIN_SIDE = 8  # of an image, in pixels
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
    # What is remembered of all entries: their names, and `ENTRY_BYTES` each. The smallest images that exist, of 70
    # bytes, stay under this ratio; hundreds of thousands of empty files with long names do not.
    listing_ratio: int = 10
    listing_from_bytes: int = 64 * MIB


ENTRY_BYTES = 500  # of memory for one entry besides its name, in the lists that a source makes of it


@dataclass
class Budget:
    """Adds up what an archive declares and what was read of it, and refuses too much before more is unpacked."""

    where: str
    packed: int
    limits: Limits
    entries: int = 0
    total: int = 0
    listed: int = 0

    @property
    def room(self) -> int:
        """How many more entries with short names there may be."""
        most = max(self.limits.listing_from_bytes, self.limits.listing_ratio * self.packed)
        return min(self.limits.entries - self.entries, (most - self.listed) // ENTRY_BYTES)

    def admit(self, name: str, size: int, taken: int = 0, target: str = "") -> None:
        """Count one entry.

        Args:
            name: its name, which takes memory too.
            size: its bytes, as declared.
            taken: the bytes of the unpacked archive that it takes with its headers, where that is known.
            target: where it leads, for a link.

        Raises:
            DataError: it is too large, or there are too many, or they unpack to too much.
        """
        limits = self.limits
        self.entries += 1
        self.total += max(size, taken) + len(name)
        self.listed += ENTRY_BYTES + sys.getsizeof(name) + (sys.getsizeof(target) if target else 0)
        if min(size, taken) < 0:
            raise DataError(f"{self.where} holds {name!r} of {min(size, taken)} bytes, which cannot be; pack it again")
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
        if self.listed > max(limits.listing_from_bytes, limits.listing_ratio * self.packed):
            raise DataError(
                f"{self.where} has entries, {self.entries} so far, whose names alone take over "
                f"{limits.listing_ratio} times its size in memory; remove those that are no images"
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
