"""The first directory (IFD) of a TIFF file or an EXIF block, which has the same form: where its entries lie.

Pillow's reader decodes every entry and refuses the whole image when one is damaged; this one touches none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SHORT, LONG, SIGNED_SHORT, SIGNED_LONG = 3, 4, 8, 9
_WHOLE_NUMBERS = {SHORT: "H", LONG: "I", SIGNED_SHORT: "h", SIGNED_LONG: "i"}


@dataclass(frozen=True)
class Entry:
    """One entry: `raw` is the 12 bytes of it (20 in BigTIFF)."""

    tag: int
    kind: int
    raw: bytes


@dataclass(frozen=True)
class Directory:
    """Entries of one directory, which begins at byte `start`; `order` is `<` or `>`, `big` says BigTIFF."""

    order: str
    big: bool
    start: int
    entries: tuple[Entry, ...]

    def number(self, tag: int) -> int | None:
        """Return the one whole number of the last entry with this tag; None where there is none."""
        for entry in reversed(self.entries):
            if entry.tag == tag and entry.kind in _WHOLE_NUMBERS:
                count = int(struct.unpack_from(self.order + ("Q" if self.big else "I"), entry.raw, 4)[0])
                value = struct.unpack_from(self.order + _WHOLE_NUMBERS[entry.kind], entry.raw, 12 if self.big else 8)
                return int(value[0]) if count == 1 else None
        return None

    def only(self, tags: frozenset[int]) -> bytes:
        """Return the directory with the entries of these tags alone, and no directory after it."""
        kept = [entry.raw for entry in self.entries if entry.tag in tags]
        count = struct.pack(self.order + ("Q" if self.big else "H"), len(kept))
        return count + b"".join(kept) + bytes(8 if self.big else 4)


def first_directory(block: bytes) -> Directory | None:
    """Find the first directory, as far as the bytes reach; None where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return None
    big = 43 in block[2:4]
    try:
        start = int(struct.unpack_from(order + ("Q" if big else "I"), block, 8 if big else 4)[0])
        count = int(struct.unpack_from(order + ("Q" if big else "H"), block, start)[0])
    except (struct.error, OverflowError):
        return None
    count = min(count, 0xFFFF)  # as many as TIFF can have; BigTIFF could claim all memory
    size, first = (20, start + 8) if big else (12, start + 2)
    entries = []
    for at in range(first, min(first + count * size, len(block) - size + 1), size):
        tag, kind = struct.unpack_from(order + "HH", block, at)
        entries.append(Entry(tag, kind, block[at : at + size]))
    return Directory(order, big, start, tuple(entries))
