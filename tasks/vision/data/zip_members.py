"""Unpacks members of a zip with memory bounded by what they are found to be, not by what the archive says of them.

zipfile gives bzip2, LZMA and Zstandard all that it has read and takes whatever comes: 590 bytes of bzip2 have become
1.2 GB. Zstandard is read here on every Python, though zipfile knows it from 3.14 on.
"""

from __future__ import annotations

import bz2
import copy
import lzma
import zipfile
import zlib
from typing import IO

from tasks.errors import DataError
from tasks.vision.data.compression import Decompressor, unpacked, zstd_decompressor

STEP = 2**20
ZSTD = 93
_LZMA_FILTER_BYTES = 5
# More than LZMA's presets use; the memory is taken as it is filled.
_MAX_DICTIONARY = 64 * 2**20


def read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return what a member unpacks to.

    Raises:
        DataError: that is more than the archive declares.
        Exception: one of `limits.DAMAGE`.
    """
    if info.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, ZSTD):
        with archive.open(info) as file:  # stored and deflated members come in steps, and end at their size
            return b"".join(iter(lambda: file.read(STEP), b""))
    packed = copy.copy(info)
    # As a stored member without a checksum, zipfile gives the bytes as they are.
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
    packed.CRC = None  # type: ignore[assignment]
    with archive.open(packed) as file:
        if info.compress_type == zipfile.ZIP_BZIP2:
            decompressor: Decompressor = bz2.BZ2Decompressor()
        elif info.compress_type == ZSTD:
            decompressor = zstd_decompressor()
        else:
            decompressor = _lzma(file)
        parts, left = [], info.file_size
        while not decompressor.eof:
            data = file.read(STEP) if decompressor.needs_input else b""
            if not data and decompressor.needs_input:
                break  # LZMA in a zip may end without a mark
            part = unpacked(decompressor, data, left + 1)
            left -= len(part)
            if left < 0:
                raise DataError(f"it unpacks to more than the {info.file_size} bytes that it declares; pack it again")
            parts.append(part)
    whole = b"".join(parts)
    if zlib.crc32(whole) != info.CRC:
        raise zipfile.BadZipFile(f"bad checksum of {info.filename!r}")
    return whole


def _lzma(file: IO[bytes]) -> lzma.LZMADecompressor:
    """Read the header of a member: version, size of the properties, and these."""
    head = file.read(4)
    properties = file.read(int.from_bytes(head[2:], "little"))
    if len(head) < 4 or len(properties) < _LZMA_FILTER_BYTES:
        raise EOFError("the properties of LZMA are missing")
    first, dictionary = properties[0], int.from_bytes(properties[1:5], "little")
    if first >= 9 * 5 * 5 or dictionary > _MAX_DICTIONARY:
        raise ValueError(f"a dictionary of {dictionary} bytes for LZMA; pack it with a smaller one")
    options = {"dict_size": dictionary, "lc": first % 9, "lp": first // 9 % 5, "pb": first // 45}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, **options}])
