"""Decodes the names in a zip file, which does not always say their encoding.

A flag marks names in UTF-8. Without the flag the standard says cp437, but programs write the code page of their
machine, and often UTF-8.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable

from tasks.errors import DataError

UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075  # Info-ZIP's extra field with the name in UTF-8
# Shown as examples in the error. Guessing from a few letters would be wrong too often, and give classes wrong names.
EXAMPLES = ("cp437", "cp1252", "gb18030", "cp932", "cp949", "big5", "cp1251", "cp866")


def decoded(infos: Iterable[zipfile.ZipInfo], where: str, encoding: str | None) -> list[str]:
    """Return the name of every entry, with `/` between folders, in the order of `infos`.

    Names that are marked as UTF-8 are read as such. The others are read in `encoding` if it is given, in UTF-8 if all
    of them are valid UTF-8, and otherwise in cp437, but only where no folder is concerned: folders name classes.

    Raises:
        DataError: the names do not fit `encoding`, or it is needed and not given.
    """
    infos = list(infos)
    unsure = [info for info in infos if not _marked_utf8(info) and not info.orig_filename.isascii()]
    chosen = encoding or ("utf-8" if unsure and all(map(_is_utf8, unsure)) else None)
    if chosen is None:
        for info in unsure:
            folder, _, _ = _slashes(info.orig_filename).rpartition("/")
            if not folder.isascii():
                raise DataError(
                    f"{where} does not say in which encoding its names are; set name_encoding: "
                    f"{folder.encode('cp437')!r} is {_readings(folder.encode('cp437'))}"
                )
    return [_name(info, chosen, where) for info in infos]


def _name(info: zipfile.ZipInfo, encoding: str | None, where: str) -> str:
    marked = _marked_utf8(info)
    name = marked or info.orig_filename
    if marked is None and encoding and not name.isascii():
        raw = name.encode("cp437")
        try:
            name = raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where} holds the name {raw!r}, which is not {encoding}; correct name_encoding"
            ) from error
    # Windows programs write backslashes against the standard; no system that packs zips has them in names otherwise.
    return _slashes(name)


def _marked_utf8(info: zipfile.ZipInfo) -> str | None:
    """Return the name if the entry says that it is UTF-8, in its flags or in its extra field."""
    if info.flag_bits & UTF8_FLAG:
        return info.orig_filename
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        data, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and len(data) > 5 and data[0] == 1 and _is_of(data[1:5], info.orig_filename):
            try:
                return data[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


def _is_of(checksum: bytes, name: str) -> bool:
    """Tell whether the extra field belongs to this name, which a program that ignores the field may have changed."""
    return bool(struct.unpack("<L", checksum)[0] == zlib.crc32(name.encode("cp437")))


def _is_utf8(info: zipfile.ZipInfo) -> bool:
    try:
        info.orig_filename.encode("cp437").decode()
    except UnicodeDecodeError:
        return False
    return True


def _readings(raw: bytes) -> str:
    """List how a name reads in the encodings that it could be in."""
    texts: dict[str, str] = {}
    for encoding in EXAMPLES:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if text.isprintable():
            texts.setdefault(text, encoding)
    return ", ".join(f"{text!r} in {encoding}" for text, encoding in texts.items())


def _slashes(name: str) -> str:
    return name.replace("\\", "/")
