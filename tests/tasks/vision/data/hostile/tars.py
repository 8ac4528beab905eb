"""Tar archives that cost more than they look."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable, Iterable
from random import Random

from tests.tasks.vision.data.hostile.material import COMPRESS, MIB, image, packed, pets, zstd

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
EMOJI = "\N{DOG FACE}"


def entry(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = "", size: int | None = None,
          pax: bool = False) -> bytes:  # fmt: skip
    """Return one member; `size` is what its header says, where that is not its data's."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data) if size is None else size
    head = info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return head + data + bytes(-len(data) % BLOCK)


def files(members: dict[str, bytes]) -> bytes:
    """Return the members of a tar without its end."""
    return b"".join(entry(name, data) for name, data in members.items())


def numbered(count: int, data: bytes, kind: bytes = tarfile.REGTYPE, target: str = "", folder: str = "cat") -> bytes:
    """Return many members `FOLDER/NNNNNNN.png` that are equal but for their names; made quickly."""
    one = entry(f"{folder}/{0:07}.png", data, kind=kind, target=target)
    plain = sum(one[:148]) + sum(one[156:BLOCK]) + 8 * 32
    start = len(folder) + 1
    before, middle, after = one[:start], one[start + 7 : 148], one[156:]
    parts: list[bytes] = []
    for number in range(count):
        digits = b"%07d" % number
        parts += (before, digits, middle, b"%06o\0 " % (plain + sum(digits) - 7 * 48), after)
    return b"".join(parts)


def record(key: str, value: bytes) -> bytes:
    """Return one record of a pax header."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    size = len(rest) + 1
    while size != len(rest) + len(str(size)):
        size = len(rest) + len(str(size))
    return str(size).encode() + rest


def pax(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """Return a pax header."""
    return entry("pax", content, kind=kind)


def many_empty(random: Random) -> bytes:
    """Hundreds of thousands of files without content: 512 bytes each that pack to nothing."""
    return packed(files(pets()) + numbered(random.choice([30_000, 150_000, 400_000]), b"") + END, random)


def many_copies(random: Random) -> bytes:
    """One image thousands of times: its pixels would be kept as often."""
    side = random.choice([16, 96, 224])
    plain = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (side, side), (random.randrange(256), 40, 40)).save(plain, "PNG")
    return packed(files(pets()) + numbered(random.choice([2_000, 20_000]), plain.getvalue()) + END, random)


def many_links(random: Random) -> bytes:
    """One image and thousands of links to it."""
    kind = random.choice([tarfile.LNKTYPE, tarfile.SYMTYPE])
    target = "cat/1.png" if kind == tarfile.LNKTYPE else "1.png"
    return packed(files(pets()) + numbered(random.choice([3_000, 30_000]), b"", kind, target) + END, random)


def link_chain(random: Random) -> bytes:
    """Links to links, in a line or in a circle."""
    length = random.choice([39, 41, 5_000])
    kind = random.choice([tarfile.LNKTYPE, tarfile.SYMTYPE])
    last = random.choice(["cat/1.png", "l0"])
    chain = [entry(f"l{n}", kind=kind, target=f"l{n + 1}" if n + 1 < length else last) for n in range(length)]
    return packed(files(pets()) + b"".join(chain) + END, random)


def link_folders(random: Random) -> bytes:
    """Folders of links to folders, which multiply."""
    depth, width = random.choice([(8, 8), (10, 10), (40, 3)])
    members = [
        entry(f"f{level}/l{n}", kind=tarfile.SYMTYPE, target=f"../f{level + 1}")
        for level in range(depth)
        for n in range(width)
    ]
    return packed(files(pets()) + b"".join(members) + entry(f"f{depth}/a.png", image(3)) + END, random)


def link_targets(random: Random) -> bytes:
    """Links whose targets are long and go through other links."""
    parts = random.choice([200, 900, 100_000])
    member = [entry("a/a", kind=tarfile.SYMTYPE, target="../a")]
    step = random.choice(["a/", "./", "x/../", f"{EMOJI}/"])
    count = 2_000 if parts < 1000 else 20
    member += [entry(f"a/l{n}", kind=tarfile.SYMTYPE, target=step * parts + "none") for n in range(count)]
    return packed(files(pets()) + b"".join(member) + END, random)


def deep_paths(random: Random) -> bytes:
    """Paths of thousands of folders inside each other, and one link, for which folders are looked up."""
    levels = random.choice([100, 2_000, 50_000])
    count = 2_000 if levels <= 2_000 else 3
    members = [entry(f"{n}/" + "d/" * levels + "x.png", b"", pax=random.random() < 0.5) for n in range(count)]
    link = entry("link", kind=tarfile.SYMTYPE, target="cat")
    return packed(files(pets()) + b"".join(members) + link + END, random)


def long_names(random: Random) -> bytes:
    """Names of kilobytes to a hundred megabytes, in the ways of GNU and pax, some with characters of four bytes."""
    size = random.choice([4_000, 4_000, 100_000, 70 * MIB, 100 * MIB])
    text = EMOJI + "n" * (size - 10) if random.random() < 0.5 else "n" * size
    as_pax = random.random() < 0.5
    count = 8_000 if size == 4_000 else 1
    members = [entry(f"{n:05}{text}", pax=as_pax) for n in range(count)]
    return packed(files(pets()) + b"".join(members) + END, random)


def pax_records(random: Random) -> bytes:
    """A header of millions of records."""
    count = random.choice([1_000, 200_000, 5_000_000])
    content = b"".join(b"11 %x=\n" % (0x100000 + n) for n in range(count))
    return packed(files(pets()) + pax(content) + entry("cat/last.png", image(9)) + END, random)


def pax_global(random: Random) -> bytes:
    """Headers for all that follows, each with other keys, so that they add up."""
    headers, records = random.choice([(200, 5_000), (5_000, 1), (50, 50_000)])
    members = [
        pax(b"".join(b"13 %08x=\n" % (n * records + r) for r in range(records)), tarfile.XGLTYPE)
        + entry(f"cat/g{n}", b"", pax=True)
        for n in range(headers)
    ]
    return packed(files(pets()) + b"".join(members) + END, random)


def sparse(random: Random) -> bytes:
    """Files with holes: maps of millions of pieces, and sizes of terabytes."""
    count = random.choice([10, 300_000, 8_000_000])
    size = random.choice([b"100", b"60000000", b"99999999999999", b"-1"])
    way = random.choice(["0.0", "0.1", "1.0", "old"])
    if way == "0.1":
        content = record("GNU.sparse.size", size) + record("GNU.sparse.map", b"0,0," * count + b"0,0")
        member = pax(content) + entry("cat/s.png", b"x")
    elif way == "0.0":
        content = record("GNU.sparse.size", size) + b"23 GNU.sparse.offset=0\n24 GNU.sparse.numbytes=0\n" * (count // 4)
        member = pax(content) + entry("cat/s.png", b"x")
    elif way == "1.0":
        content = record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0")
        content += record("GNU.sparse.realsize", size)
        member = pax(content) + entry("cat/s.png", b"%d\n" % count + b"0\n0\n" * count)
    else:
        head = bytearray(entry("cat/s.png", kind=tarfile.GNUTYPE_SPARSE))
        head[482], head[483:495] = 1, b"00000000777\0"
        head[148:156] = b"%06o\0 " % (sum(head[:148]) + sum(head[156:512]) + 256)
        more = (b"00000000000\0" * 42).ljust(504, b"\0") + b"\1" + bytes(7)
        member = bytes(head) + more * (count // 42) + bytes(BLOCK)
    return packed(files(pets()) + member + END, random)


def sizes(random: Random) -> bytes:
    """Sizes that are negative, huge or not there, in both places that say one."""
    size = random.choice([-1, -512, -1024, 2**40, 2**62, 65 * MIB])
    if random.random() < 0.5:
        member = pax(record("size", str(size).encode())) + entry("cat/z.png", image(1))
    else:
        member = entry("cat/z.png", image(1), size=size) if size >= 0 else _base256(size)
    return packed(files(pets()) + member + entry("cat/after.png", image(2)) + END, random, "gz bz2 xz zst")


def _base256(size: int) -> bytes:
    head = bytearray(entry("cat/z.png"))
    head[124:136] = b"\xff" + (size % 256**11).to_bytes(11, "big")
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + sum(head[156:512]) + 256)
    return bytes(head)


def bombs(random: Random) -> bytes:
    """Members of zeros, and zeros where nothing is read."""
    size = random.choice([5, 30, 63, 70]) * MIB
    inside = [entry(f"cat/b{n}.png", bytes(size)) for n in range(random.choice([1, 2, 4]))]
    where = random.choice(["members", "end", "headers"])
    data = files(pets()) + (b"".join(inside) + END if where == "members" else END + bytes(2 * size))
    if where == "headers":
        data = files(pets()) + entry("x", bytes(size), kind=random.choice([b"x", b"L", b"K", b"g"])) + END
    return packed(data, random)


def devices(random: Random) -> bytes:
    """Members that are no files, and names that lead out."""
    kind = random.choice([tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE, b"Z", tarfile.REGTYPE])
    name = random.choice(["/etc/passwd", "../../x", "a\\b", "C:/x", "cat/ok.png", "a\udcff", ""])
    return packed(files(pets()) + entry(name, b"", kind=kind) + END, random)


def memory_for_unpacking(random: Random) -> bytes:
    """Compressed streams that ask for dictionaries and windows of up to 4 GiB."""
    data = files(pets()) + END
    if random.random() < 0.5:
        whole = bytearray(COMPRESS["xz"](data))
        at = whole.index(b"\x21\x01", 12) + 2  # LZMA2, with one byte of properties: the size of the dictionary
        whole[at] = random.choice([30, 33, 35, 37, 40])
        start, size = 12, 4 * (whole[12] + 1)
        import zlib

        whole[start + size - 4 : start + size] = struct.pack("<L", zlib.crc32(whole[start : start + size - 4]))
        return bytes(whole)
    parameter = zstd.CompressionParameter
    log = random.choice([24, 27, 28, 31])
    stream = zstd.ZstdCompressor(options={parameter.window_log: log, parameter.compression_level: 1})
    first = stream.compress(data)  # of unknown size, so that the header has the window
    return first + stream.flush(zstd.ZstdCompressor.FLUSH_FRAME)


def many_streams(random: Random) -> bytes:
    """Thousands of streams without content, before the archive or after it."""
    kind = random.choice(["gz", "bz2", "xz", "zst"])
    empty = COMPRESS[kind](b"") * random.choice([100, 10_000])
    whole = COMPRESS[kind](files(pets()) + END)
    return whole + empty if random.random() < 0.5 else empty + whole


KINDS: Iterable[Callable[[Random], bytes]] = (
    many_empty, many_copies, many_links, link_chain, link_folders, link_targets, deep_paths, long_names, pax_records,
    pax_global, sparse, sizes, bombs, devices, memory_for_unpacking, many_streams,
)  # fmt: skip
