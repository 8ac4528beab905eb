"""JPEG files without the segments that say nothing about pixels, so that none of them can stop the decoder."""

from __future__ import annotations

import re

from tasks.vision.data.formats.orientation import orientation
from tasks.vision.data.formats.stripped import Stripped

_APP0, _APP1, _APP2, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset((0xC0, 0xC1))
_AFTER_ENTROPY = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Programs write up to 20. Each takes as long as the picture is large, however few bytes it has: 39 bytes are enough.
MAX_SCANS = 100
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))
_NOT_FILLER = re.compile(rb"[^\xff]")  # any number of 0xFF may stand before a marker
# A file may hold millions of bytes of filler or millions of segments, and Pillow takes a step of Python for each.
_LONG_FILLER = 1000
_MAX_MARKERS = 250_000
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


def strip(data: bytes) -> Stripped:
    """Drop application segments and comments, as far as the first scan.

    Only JFIF (APP0) and Adobe (APP14) stay: the decoder takes the colour model from them. What does not look like
    a segment stays too; the decoder decides about it.

    Raises:
        ValueError: there are more segments or scans than any picture has.
    """
    kept: list[bytes] = []
    exif: list[bytes] = []
    icc: list[bytes] = []
    xmp = None
    multi_picture = ultra_hdr = False
    begin, at = 0, 2
    markers = coefficients = 0
    frame = b"", 0
    while True:
        at = data.find(b"\xff", at)
        marker_at = at
        found = _NOT_FILLER.search(data, at) if at >= 0 else None
        if found is None:
            break
        at = found.start()
        if at - marker_at > _LONG_FILLER:
            kept.append(data[begin:marker_at])
            begin = marker_at = at - 1
        if data[at] in (_SCAN, _END):
            coefficients = _coefficients(data, at, *frame)
            break
        marker, at = data[at], at + 1
        markers += 1
        if markers > _MAX_MARKERS:
            raise ValueError(f"over {_MAX_MARKERS} segments")
        if marker in _WITHOUT_LENGTH:
            continue
        end = at + int.from_bytes(data[at : at + 2], "big")
        if end < at + 2 or end > len(data):
            break
        if marker in _FRAMES:
            frame = data[at + 2 : end], marker
        elif _APP0 <= marker <= _APP15 or marker == _COMMENT:
            content = data[at + 2 : end]
            if marker == _APP1 and content.startswith(_EXIF):
                exif.append(content[len(_EXIF) :])
            elif marker == _APP1 and content.startswith(_XMP):
                xmp = content[len(_XMP) :]
            elif marker == _APP2 and content.startswith(_ICC):
                icc.append(content[len(_ICC) :])
            multi_picture |= marker == _APP2 and content.startswith(b"MPF\0")
            ultra_hdr |= marker == _APP1 and b' hdrgm:Version="' in content
            # Shorter ones are ignored by libjpeg and stop Pillow.
            decides = (marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 14) or (
                marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12
            )
            if not decides:
                kept.append(data[begin:marker_at])
                begin = end
        at = end
    if begin:
        kept.append(data[begin:])
        data = b"".join(kept)
    # Pillow decoded pictures of several frames at full size only; their pixels stay what they were.
    exact = multi_picture and not ultra_hdr
    return Stripped(data, orientation(b"".join(exif), xmp), _joined(icc), exact, kept=coefficients)


def _coefficients(data: bytes, at: int, frame: bytes, kind: int) -> int:
    """Return how many bytes the decoder keeps until the last scan: two for each sample, unless one scan has all.

    Args:
        data: the file.
        at: where the marker of the first scan is, without its 0xFF.
        frame: the content of the last frame header.
        kind: its marker.

    Raises:
        ValueError: there are over `MAX_SCANS` scans.
    """
    components = frame[5] if len(frame) > 5 else 0
    factors = [(factor >> 4, factor & 15) for factor in frame[7 : 6 + 3 * components : 3]]
    if not factors or (kind in _SEQUENTIAL and data[at + 3 : at + 4] == bytes([components])):
        return 0
    _check_scans(data, at)
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    across, down = max(max(x for x, _ in factors), 1), max(max(y for _, y in factors), 1)
    # Whole units of 8 x 8 samples for each factor.
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    return 2 * 64 * units * sum(x * y for x, y in factors)


def _check_scans(data: bytes, at: int) -> None:
    scans = 0
    for _ in range(_MAX_MARKERS):
        marker, at = data[at : at + 1], at + 1
        if marker in (b"", bytes([_END])):
            return
        if marker == bytes([_SCAN]):
            scans += 1
            if scans > MAX_SCANS:
                raise ValueError(f"over {MAX_SCANS} scans")
        if marker[0] not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
        found = _AFTER_ENTROPY.search(data, at)
        if found is None:
            return
        at = found.end() - 1
    raise ValueError(f"over {_MAX_MARKERS} segments")


def _joined(parts: list[bytes]) -> bytes | None:
    """Join the parts of a profile in the order of their numbers; None where a part is missing."""
    parts = sorted(part for part in parts if len(part) >= 2)
    return b"".join(part[2:] for part in parts) if parts and parts[0][1] == len(parts) else None
