"""Zip archives that cost more than they look."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from tests.tasks.vision.data.hostile.material import MIB, pets, zstd

STORED, DEFLATED, DEFLATE64, BZIP2, LZMA, ZSTD = 0, 8, 9, 12, 14, 93
LINK = 0o120777 << 16


@dataclass
class Member:
    """One member as an archive declares it; what is None is true."""

    name: str
    packed: bytes
    method: int = STORED
    size: int | None = None
    crc: int | None = None
    flags: int = 0x800
    attributes: int = 0
    extra: bytes = b""
    offset: int | None = None  # of its header, where that of another member is used
    packed_size: int | None = None


def archive(members: Iterable[Member], *, entries: int | None = None, shift: int = 0, comment: bytes = b"") -> bytes:
    """Return a zip, with what is wrong in its members as it is."""
    body, directory, count = bytearray(), bytearray(), 0
    for one in members:
        name, size = one.name.encode("utf-8", "surrogateescape"), len(one.packed) if one.size is None else one.size
        crc = zlib.crc32(one.packed) if one.crc is None else one.crc
        length = len(one.packed) if one.packed_size is None else one.packed_size
        known = struct.pack("<HHHHHLLLHH", 45, one.flags, one.method, 0, 33, crc, length, size, len(name), 0)
        offset = len(body) if one.offset is None else one.offset
        if one.offset is None:
            body += b"PK\3\4" + known + name + one.packed
        known = known[:-2] + struct.pack("<HHHHLL", len(one.extra), 0, 0, 0, one.attributes, offset)
        directory += b"PK\1\2\x2d\3" + known + name + one.extra
        count += 1
    said = min(count if entries is None else entries, 0xFFFF)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, said, said, len(directory), len(body) + shift, len(comment))
    return bytes(body) + bytes(directory) + end + comment


def good() -> list[Member]:
    """Return the members of a data set that a run takes."""
    return [Member(name, data) for name, data in pets().items()]


def pack(data: bytes, method: int) -> bytes:
    """Compress as zip does."""
    if method == DEFLATED:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflate.compress(data) + deflate.flush()
    if method == BZIP2:
        return bz2.compress(data)
    if method == ZSTD:
        return zstd.compress(data)
    if method == LZMA:
        return _lzma(data, 2**20)
    return data


def _lzma(data: bytes, dictionary: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 0, "dict_size": 2**20}]
    raw = lzma.compress(data, lzma.FORMAT_RAW, filters=filters)
    return struct.pack("<BBHBL", 9, 4, 5, 3 + 9 * (0 + 5 * 2), dictionary) + raw


def bombs(random: Random) -> bytes:
    """Members of zeros by every method, whose size is told truly or too small."""
    method = random.choice([DEFLATED, BZIP2, LZMA, ZSTD])
    data = bytes(random.choice([1, 20, 60, 80]) * MIB)
    packed, crc = pack(data, method), zlib.crc32(data)
    size = random.choice([len(data), 1, 1000, 63 * MIB])
    extra = [Member(f"cat/b{n}.png", packed, method, size, crc) for n in range(random.choice([1, 3]))]
    return archive(good() + extra)


def methods(random: Random) -> bytes:
    """Methods that are not known, and data that are not of their method."""
    method = random.choice([1, 6, DEFLATED, DEFLATE64, 10, BZIP2, LZMA, ZSTD, 95, 98, 99])
    return archive([*good(), Member("cat/m.png", random.randbytes(2000), method, 5000)])


def overlapping(random: Random) -> bytes:
    """Thousands of entries that are all the same member."""
    count = random.choice([50, 2_000, 15_000])
    data = bytes(random.choice([10_000, 8 * MIB, 60 * MIB]))
    packed, crc = pack(data, DEFLATED), zlib.crc32(data)
    first = archive(good())
    before = first.index(b"PK\1\2")
    members = [*good(), Member("cat/0.jpg", packed, DEFLATED, len(data), crc)]
    for n in range(count):
        members.append(Member(f"cat/{n}.jpg", packed, DEFLATED, len(data), crc, offset=before))
    return archive(members)


def many_entries(random: Random) -> bytes:
    """A directory of tens of thousands of entries, with the number that is true and others."""
    count = random.choice([5_000, 20_000])
    members = [Member(random.choice(["", f"d{n}/", f"cat/{n}.png"]), b"", offset=0) for n in range(count)]
    return archive([*good(), *members], entries=random.choice([None, 0, 7, 65535]))


def directory_of_millions(random: Random) -> bytes:
    """An archive of which nearly all is directory: 46 bytes an entry take many times that in memory."""
    count = random.choice([100_000, 400_000])
    plain = archive([*good(), Member("", b"", offset=0)])
    one = plain[plain.rindex(b"PK\1\2") : plain.rindex(b"PK\5\6")]
    start, end = plain.index(b"PK\1\2"), plain.rindex(b"PK\5\6")
    directory = plain[start:end] + one * count
    return plain[:start] + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, len(directory), start, 0)


def sizes(random: Random) -> bytes:
    """Sizes and places of gigabytes, in 32 and in 64 bits."""
    large = random.choice([2**31, 2**32 - 2, 65 * MIB])
    extra = struct.pack("<HHQQQ", 1, 24, random.choice([2**40, 2**63, 10]), 10, random.choice([0, 2**62]))
    one = random.choice(
        [
            Member("cat/a.png", b"x" * 10, size=large),
            Member("cat/a.png", b"x" * 10, size=10, packed_size=large),
            Member("cat/a.png", b"x" * 10, size=2**32 - 1, packed_size=2**32 - 1, extra=extra, offset=2**32 - 1),
            Member("cat/a.png", b"x" * 10, extra=extra[:9]),
        ]
    )
    return archive([*good(), one], shift=random.choice([0, 0, 0, 1000, 2**31]))


def names(random: Random) -> bytes:
    """Names that are deep, long, lead out or are in no encoding; comments and extra fields of 64 kB."""
    name = random.choice(
        ["a/" * 30_000 + "x.png", "n" * 60_000, "../../etc/x", "/abs", "C:\\x\\y", "cat/\N{DOG FACE}" * 300, "a\0b"]
    )
    members = good() + [Member(f"{n}{name}", b"", extra=b"\0" * random.choice([0, 40_000])) for n in range(10)]
    return archive(members, comment=b"c" * random.choice([0, 65_535]))


def descriptors(random: Random) -> bytes:
    """Members whose sizes come after their data, or claim to, and members that are encrypted."""
    flags = random.choice([0x808, 0x8, 0x801, 0x820, 0x840, 0x2800])
    members = [Member(name, data, flags=flags) for name, data in pets().items()]
    return archive(members)


def links(random: Random) -> bytes:
    """Symbolic links: long ones, bombs, circles and chains."""
    target = random.choice([b"../cat/1.png", b"a/" * 2_000, bytes(10 * MIB), b"l0", b"../" * 1_000])
    packed, count = pack(target, DEFLATED), random.choice([1, 500])
    size = random.choice([len(target), 4_000])
    crc = zlib.crc32(target)
    return archive(good() + [Member(f"dog/l{n}", packed, DEFLATED, size, crc, attributes=LINK) for n in range(count)])


def dictionaries(random: Random) -> bytes:
    """LZMA and Zstandard that ask for gigabytes."""
    data = bytes(MIB)
    if random.random() < 0.5:
        packed, method = _lzma(data, random.choice([2**20, 2**26, 2**28, 2**32 - 1])), LZMA
    else:
        packed = b"\x28\xb5\x2f\xfd" + bytes([0, (random.choice([10, 27, 30, 41]) - 10) << 3]) + b"\x01\x00\x00"
        method = ZSTD
    return archive([*good(), Member("cat/d.png", packed, method, len(data), zlib.crc32(data))])


KINDS: Iterable[Callable[[Random], bytes]] = (
    bombs, methods, overlapping, many_entries, directory_of_millions, sizes, names, descriptors, links, dictionaries,
)  # fmt: skip
