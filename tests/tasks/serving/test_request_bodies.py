from __future__ import annotations

import base64
import json
import tracemalloc
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from tasks.serving import request_bodies
from tasks.serving.http_errors import HttpError

FORM = b"multipart/form-data; boundary=x"


def part(name: str, data: bytes, filename: str | None = "a.png") -> bytes:
    given = "" if filename is None else f'; filename="{filename}"'
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{given}\r\nContent-Type: image/png\r\n\r\n'
    return head.encode() + data + b"\r\n"


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


URL = "data:image/png;base64,"
DATA = bytes(range(256)) + b"\r\n--y\r\n--\r\n"


@pytest.mark.parametrize(
    ("content_type", "body", "name"),
    [
        (FORM, part("image", DATA) + b"--x--\r\n", "image[0] 'a.png'"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="x"', part("image", DATA) + b"--x--", "image[0] 'a.png'"),
        (FORM, part("note", b"text", None) + part("image", DATA) + b"--x--", "image[0] 'a.png'"),
        (b"application/json", encoded({"image": base64_of(DATA)}), "image[0]"),
        (
            b"application/json; charset=utf-8",
            encoded({"image": "data:image/png;base64," + base64_of(DATA)}),
            "image[0]",
        ),
        (b"image/png", DATA, "the body"),
        (b"application/octet-stream", DATA, "the body"),
    ],
)
def test_one_image_in_each_form(content_type: bytes, body: bytes, name: str) -> None:
    request_bodies.check(content_type, "image")
    assert request_bodies.read(content_type, body, "image") == [(name, DATA)]


def test_several_images_keep_their_order() -> None:
    body = part("images", b"first", "é.png") + part("images", b"", "b.png") + b"--x--\r\n"
    assert request_bodies.read(FORM, body, "images") == [("images[0] 'é.png'", b"first"), ("images[1] 'b.png'", b"")]
    body = encoded({"images": [base64_of(b"first"), base64_of(b"second")]})
    assert request_bodies.read(b"application/json", body, "images") == [
        ("images[0]", b"first"),
        ("images[1]", b"second"),
    ]


@pytest.mark.parametrize(
    ("content_type", "status", "text"),
    [
        (b"", 415, "content type '' cannot be read; send multipart/form-data: curl -F images=@a.png"),
        (b"text/plain", 415, "'text/plain'"),
        (b"image/\xff\xfe", 415, r"'image/\xff\xfe'"),
        (b"image/png", 415, "'image/png'"),  # several images are no file
        (b"multipart/form-data", 400, "has no boundary; let the HTTP client set this header by itself"),
        (b"multipart/form-data; boundary=", 400, "has no boundary"),
    ],
)
def test_a_content_type_is_refused_before_the_body(content_type: bytes, status: int, text: str) -> None:
    with pytest.raises(HttpError) as refused:
        request_bodies.check(content_type, "images")
    assert refused.value.status == status
    assert text in refused.value.message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the body is no JSON"),
        (b"\xff\xfe\x00", "the body is no JSON"),
        (b"[" * 9_000, "the body is no JSON"),
        (b"1" * 10_000, "the body is no JSON"),
        (b"[]", "field 'image' is missing (sent: list)"),
        (b"{}", "field 'image' is missing (sent: none)"),
        (encoded({"images": []}), "field 'image' is missing (sent: images)"),
        (encoded({"image": None}), "image[0] is NoneType, not base64"),
        (encoded({"image": {"url": "x"}}), "image[0] is dict, not base64"),
        (encoded({"image": "http://127.0.0.1/a.png"}), "image[0] is a URL, and none is fetched"),
        (encoded({"image": "file:///etc/passwd"}), "image[0] is a URL, and none is fetched"),
        (encoded({"image": "%%%"}), "image[0] is no base64"),
        (encoded({"image": "abc"}), "image[0] is no base64"),
        (encoded({"image": "\u00e9"}), "image[0] is no base64"),
    ],
)
def test_refuses_wrong_json(body: bytes, text: str) -> None:
    with pytest.raises(HttpError) as refused:
        request_bodies.read(b"application/json", body, "image")
    assert refused.value.status == 400
    assert text in refused.value.message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"images": []}, "field 'images' is no list of images"),
        ({"images": "abcd"}, "field 'images' is no list of images"),
        ({"images": ["abcd", 7]}, "images[1] is int, not base64"),
        ({"images": ["abcd"] * 129}, "129 images are too many; send up to 128"),
    ],
)
def test_refuses_wrong_lists(value: Any, text: str) -> None:
    with pytest.raises(HttpError) as refused:
        request_bodies.read(b"application/json", encoded(value), "images")
    assert text in refused.value.message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (part("image", b"x"), "the form ends before its closing boundary"),
        (part("image", b"x", None) + b"--x--", "field 'image' is text, not a file"),
        (part("other", b"x") + b"--x--", "field 'image' is missing (fields sent: other)"),
        (part("image", b"x") * 2 + b"--x--", "field 'image' has 2 files; send one, or all as 'images'"),
        (part("a", b"x") * 129 + b"--x--", "the form cannot be read (it has more than 128 fields)"),
        (b"--x\r\n" + b"A: b\r\n" * 1000 + b"\r\n\r\n--x--", "the form cannot be read"),
        (b"--x\r\nA: " + b"b" * 100_000 + b"\r\n\r\n\r\n--x--", "the form cannot be read"),
        (b"", "the form ends before its closing boundary"),
    ],
)
def test_refuses_wrong_forms(body: bytes, text: str) -> None:
    with pytest.raises(HttpError) as refused:
        request_bodies.read(FORM, body, "image")
    assert refused.value.status == 400
    assert text in refused.value.message


def refusal(content_type: bytes, body: bytes) -> HttpError | None:
    """How a body is refused; None when one image was read out of it."""
    try:
        request_bodies.check(content_type, "image")
        files = request_bodies.read(content_type, body, "image")
    except HttpError as error:
        return error
    assert len(files) == 1
    return None


def damaged(random: Random, data: bytes) -> bytes:
    """Change some bytes, or cut it off."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed[: random.randrange(len(changed))]) if random.random() < 0.2 else bytes(changed)


def test_whatever_is_sent_is_read_or_refused() -> None:
    """10,000 bodies, each a good one that was damaged: nothing but an `HttpError` comes of it."""
    random = Random(16)  # noqa: S311  # the same bodies every time
    good = [
        (FORM, part("note", b"text", None) + part("image", DATA) + b"--x--\r\n"),
        (b"application/json", encoded({"image": base64_of(DATA)})),
    ]
    refused: list[HttpError] = []
    for _ in range(10_000):
        content_type, body = random.choice(good)
        head = damaged(random, content_type) if random.random() < 0.2 else content_type
        error = refusal(head, damaged(random, body))
        refused += [error] if error else []
    assert 1000 < len(refused) < 9999
    assert {error.status for error in refused} == {400, 415}
    assert not any("\n" in error.message for error in refused)


@pytest.mark.parametrize(
    "body",
    [
        b'{"image": [' + b"{}," * 3_000_000 + b"{}]}",
        b'{"image": "' + b"A" * 8_000_000 + '", "😀": 1}'.encode(),
        b'{"image": "' + "é".encode() * 4_000_000 + b'"}',
        b"[" * 8_000_000,
    ],
    ids=["many values", "one character", "no base64", "deep"],
)
def test_json_takes_no_more_memory_than_its_size(body: bytes) -> None:
    tracemalloc.start()
    try:
        with suppress(HttpError):
            request_bodies.read(b"application/json", body, "image")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(body)


def test_other_text_in_json_is_read_as_it_is() -> None:
    body = '\ufeff{"é😀\\n": "漢字", "image": "aGk="}'.encode()
    assert request_bodies.read(b"application/json", body, "image") == [("image[0]", b"hi")]
    with pytest.raises(HttpError, match="sent: é😀"):
        request_bodies.read(b"application/json", '{"é😀": 1}'.encode(), "image")
