"""Reads a file compressed with gzip, bzip2, xz or Zstandard as a stream, with bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from tasks.vision.data.limits import MIB

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK = 256 * 1024
# `xz -9` needs 65 MiB and `zstd -19` 8 MiB; a header may ask for 4 GiB.
XZ_MEMORY = 256 * MIB
ZSTD_WINDOW_LOG = 27  # 128 MiB, the default limit of the command `zstd`
_SKIPPABLE = tuple(bytes([kind]) + b"\x2a\x4d\x18" for kind in range(0x50, 0x60))


class Decompressor(Protocol):
    """What bz2, lzma and zstd have in common."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes of what was given."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What came after the end of the stream."""
        ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return at most `max_length` bytes more."""
        ...


def zstd_decompressor() -> Decompressor:
    """Return one whose window has a limit."""
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})


def unpacked(decompressor: Decompressor, data: bytes, most: int) -> bytes:
    """Return the next bytes, `most` at most; ValueError where they are no Zstandard."""
    try:
        return decompressor.decompress(data, most)
    except zstd.ZstdError as error:  # a plain Exception
        raise ValueError(str(error)) from error


_MAKERS: dict[str, Callable[[], Decompressor]] = {
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY),
    "zst": zstd_decompressor,
}


def kind_of(head: bytes) -> str:
    """Return `gz`, `bz2`, `xz` or `zst` by the first bytes of a file; "" for others."""
    if head.startswith(b"\x1f\x8b"):
        return "gz"
    if head.startswith(b"BZh"):
        return "bz2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    return "zst" if head.startswith((b"\x28\xb5\x2f\xfd", *_SKIPPABLE)) else ""


def open_stream(path: Path, kind: str) -> BinaryIO | io.BufferedIOBase:
    """Open a file to read what it unpacks to; `kind` as `kind_of` gives it.

    The stream can be sought forwards. It raises one of `limits.DAMAGE` on damage, and when unpacking would need too
    much memory.
    """
    if not kind:
        return path.open("rb")
    if kind == "gz":
        return gzip.open(path, "rb")
    return io.BufferedReader(_Stream(path, _MAKERS[kind]), CHUNK)


class _Stream(io.RawIOBase):
    """One or more compressed streams, one behind the other, as `pbzip2` and `xz -T0` write them.

    The library's own file classes have no limit for the memory that a header asks for.
    """

    def __init__(self, path: Path, make: Callable[[], Decompressor]) -> None:
        self._file = path.open("rb")
        self._make = make
        self._decompressor = make()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Go forwards by reading."""
        if whence == io.SEEK_CUR:
            position += self._position
        elif whence != io.SEEK_SET or position < self._position:
            raise io.UnsupportedOperation("a compressed archive is read forwards only")
        while self._position < position and self.read(min(CHUNK, position - self._position)):
            pass
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as RawIOBase.read calls it
        data = self._some(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _some(self, most: int) -> bytes:
        """Return 1 to `most` bytes; none at the end."""
        while True:
            if self._decompressor.eof:
                rest = (self._decompressor.unused_data or self._file.read(CHUNK)).lstrip(b"\0")  # xz pads with zeros
                while not rest:
                    more = self._file.read(CHUNK)
                    if not more:
                        return b""
                    rest = more.lstrip(b"\0")
                self._decompressor = self._make()
            elif self._decompressor.needs_input:
                rest = self._file.read(CHUNK)
                if not rest:
                    raise EOFError("the compressed data end too early")
            else:
                rest = b""
            data = unpacked(self._decompressor, rest, most)
            if data:
                return data
