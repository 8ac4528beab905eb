"""Reads the images out of the body of a prediction request: a form, JSON with base64, or the file itself.

Nothing here opens an image or waits for the network: a body comes whole, as bytes. A URL in place of an image is never
fetched.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from tasks.serving.http_errors import HttpError

MAX_IMAGES = 128
MAX_VALUES = 10_000  # of a JSON body, with some for fields that are not read
MAX_OTHER = 2**16  # bytes of a JSON body that are not ASCII, and so not base64
FORM, JSON = "multipart/form-data", "application/json"
EXAMPLES = {
    "image": 'curl -F image=@picture.png, the file itself as image/*, or JSON {"image": "BASE64"}',
    "images": 'curl -F images=@a.png -F images=@b.png, or JSON {"images": ["BASE64", ...]}',
}
_ASCII, _OTHERS = bytes(range(128)), re.compile(rb"[\x80-\xff]+")
Files = list[tuple[str, bytes]]
"""What to call each image in an error, and its bytes."""


def check(content_type: bytes, field: str) -> None:
    """Refuse a content type before the body is received.

    Args:
        content_type: the header, as it came.
        field: `image`, or `images` for several.

    Raises:
        HttpError: 415, it is none that can be read; 400, it names no boundary.
    """
    kind = _kind(content_type)
    if kind == FORM and not _boundary(content_type):
        raise HttpError(
            400,
            "Content-Type: multipart/form-data has no boundary; let the HTTP client set this header by itself: "
            f"send {EXAMPLES[field]}",
        )
    if kind in {FORM, JSON} or (field == "image" and _is_file(kind)):
        return
    raise HttpError(415, f"content type {kind!a} cannot be read; send multipart/form-data: {EXAMPLES[field]}")


def read(content_type: bytes, body: bytes, field: str) -> Files:
    """Return the images of a body whose content type passed `check`.

    Args:
        content_type: the header, as it came.
        body: all of it.
        field: `image`, of which there must be one, or `images`, up to 128.

    Raises:
        HttpError: 400, the body is malformed, or the field is missing, empty, text or repeated.
    """
    kind = _kind(content_type)
    if kind == FORM:
        files = _form(_boundary(content_type), body, field)
    elif kind == JSON:
        files = _json(body, field)
    else:
        files = [("the body", body)]
    if field == "image" and len(files) != 1:
        raise HttpError(400, f"field 'image' has {len(files)} files; send one, or all as 'images' to /predict_batch")
    return files


def _kind(content_type: bytes) -> str:
    return content_type.decode("latin-1").partition(";")[0].strip().lower()


def _is_file(kind: str) -> bool:
    return kind.startswith("image/") or kind == "application/octet-stream"


def _boundary(content_type: bytes) -> bytes:
    return parse_options_header(content_type)[1].get(b"boundary", b"")


def _json(body: bytes, field: str) -> Files:
    # Each value takes 24 times its 3 bytes in memory, and all other requests wait until the last one is read.
    if sum(map(body.count, (b"[", b"{", b",", b":"))) > MAX_VALUES:
        raise HttpError(400, f"the JSON has over {MAX_VALUES} values; send {EXAMPLES[field]}")
    try:
        value = json.loads(body if body.isascii() else _escaped(body))
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError too
        raise HttpError(400, f"the body is no JSON ({_short(error)}); send {EXAMPLES[field]}") from error
    if not isinstance(value, dict) or field not in value:
        sent = ", ".join(sorted(map(str, value)))[:200] if isinstance(value, dict) else type(value).__name__
        raise HttpError(400, f"field {field!r} is missing (sent: {sent or 'none'}); send {EXAMPLES[field]}")
    given = value[field] if field == "images" else [value[field]]
    if not isinstance(given, list) or not given:
        raise HttpError(400, f"field {field!r} is no list of images; send {EXAMPLES[field]}")
    if len(given) > MAX_IMAGES:
        raise HttpError(400, f"{len(given)} images are too many; send up to {MAX_IMAGES}")
    return [(f"{field}[{index}]", _decoded(f"{field}[{index}]", text, field)) for index, text in enumerate(given)]


def _escaped(body: bytes) -> bytes:
    """Return JSON in UTF-8 with escapes for what is not ASCII.

    One character of them would make the whole text take up to four times as much memory.

    Raises:
        ValueError: it is no UTF-8, or there are over `MAX_OTHER` such bytes.
    """
    if len(body.translate(None, _ASCII)) > MAX_OTHER:
        raise ValueError(f"over {MAX_OTHER} bytes are not ASCII")
    body = body.removeprefix(BOM_UTF8)
    return _OTHERS.sub(lambda found: json.dumps(found[0].decode())[1:-1].encode(), body)


def _decoded(name: str, text: Any, field: str) -> bytes:
    if not isinstance(text, str):
        raise HttpError(400, f"{name} is {type(text).__name__}, not base64; send {EXAMPLES[field]}")
    if text.startswith(("http:", "https:", "file:", "s3:")):
        raise HttpError(400, f"{name} is a URL, and none is fetched; send the file's bytes as base64")
    if text.startswith("data:"):  # as browsers write it: data:image/png;base64,....
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HttpError(400, f"{name} is no base64 ({_short(error)}); send {EXAMPLES[field]}") from error


def _form(boundary: bytes, body: bytes, field: str) -> Files:
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks)  # type: ignore[arg-type]  # its type says more than is needed
        parser.write(body)
        parser.finalize()
    except MultipartParseError as error:
        raise HttpError(
            400, f"the form cannot be read ({_short(error)}); send up to {MAX_IMAGES} files: {EXAMPLES[field]}"
        ) from error
    if not form.complete:
        raise HttpError(400, f"the form ends before its closing boundary; send it whole: {EXAMPLES[field]}")
    found = [part for part in form.parts if part.name == field]
    if not found:
        names = ", ".join(sorted({part.name for part in form.parts}))[:200] or "none"
        raise HttpError(400, f"field {field!r} is missing (fields sent: {names}); send a file: {EXAMPLES[field]}")
    if any(part.filename is None for part in found):
        raise HttpError(400, f"field {field!r} is text, not a file; send a file: {EXAMPLES[field]}")
    return [(f"{field}[{index}] {part.filename!r}", bytes(part.data)) for index, part in enumerate(found)]


class _Part:
    """One field of a form."""

    def __init__(self) -> None:
        self.name = ""
        self.filename: str | None = None
        self.data = bytearray()


class _Form:
    """Collects the fields of a form while python-multipart reads it."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.complete = False
        self._header, self._value = b"", b""
        self.callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": self._name,
            "on_header_value": self._content,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == MAX_IMAGES:
            raise MultipartParseError(f"it has more than {MAX_IMAGES} fields")
        self.parts.append(_Part())

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _content(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            options = parse_options_header(self._value)[1]
            part = self.parts[-1]
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            filename = options.get(b"filename")
            part.filename = None if filename is None else filename.decode("utf-8", "replace")
        self._header, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += data[start:end]

    def _end(self) -> None:
        self.complete = True


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100]
