"""The images to classify, one after the other in an order that does not change, without a list of all of them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tasks.errors import DataError, RequestError
from tasks.files import sha256
from tasks.vision.data import parquet
from tasks.vision.data.limits import Limits
from tasks.vision.data.names import is_hidden, is_junk, may_be_image, safe_name, suffix
from tasks.vision.data.store_file import File
from tasks.vision.data.stores import Store, open_store

S3 = "s3://"


class Item(NamedTuple):
    """One file that may be an image, or one row of a Parquet file.

    Attributes:
        name: its path inside the source.
        mark: changes when the file does: its size and time of change, or what the store says of its content.
        read: returns the file; raises DataError when this one is damaged or too large.
        later: whether `read` works in any thread and at any time, not only until the next item is asked for.
    """

    name: str
    mark: str
    read: Callable[[], bytes]
    later: bool = False


@dataclass
class Images:
    """A source, which can be gone through again and again.

    Attributes:
        where: what the user called it.
        identity: SHA-256 of an archive; "" for folders, whose files have marks.
        ignored: the number of files that are no images by their name, as far as `items` has come.
    """

    where: str
    identity: str
    found: Callable[[], Iterator[Item | None]]
    ignored: int = 0

    def items(self) -> Iterator[Item]:
        """Yield the items from the start."""
        self.ignored = 0
        for item in self.found():
            if item is None:
                self.ignored += 1
            else:
                yield item


@dataclass
class _Options:
    file_column: str | None
    limits: Limits = field(default_factory=Limits)


@contextmanager
def open_images(
    where: str,
    downloads: Path,
    endpoint: str | None = None,
    file_column: str | None = None,
    name_encoding: str | None = None,
) -> Iterator[Images]:
    """Open a source. A folder in S3 is read object by object; an archive there is downloaded first.

    Args:
        where: a local folder or archive, s3://BUCKET/KEY of an archive, or s3://BUCKET/PREFIX/ of a folder.
        downloads: where a folder for downloads is made, which is deleted at the end.
        endpoint: address of the S3 store; by default boto3's own AWS_ENDPOINT_URL, or Amazon.
        file_column: the column of Parquet files with the images; None finds it.
        name_encoding: of the file names in an archive that does not say it.

    Raises:
        DataError: the source is missing, damaged or unsafe.
        RequestError: it is another kind of address.
        SettingsError: the S3 store refuses the credentials.
        UnavailableError: the S3 store does not answer.
    """
    options = _Options(file_column)
    if not where.startswith(S3):
        if "://" in where:
            raise RequestError(f"images={where!r} cannot be opened; give a local path or s3://BUCKET/KEY")
        yield _of_store(open_store(Path(where).expanduser(), where, name_encoding=name_encoding), where, options)
        return
    from tasks.vision.data import s3

    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix="s3-") as name:
        folder, (_, key) = Path(name), s3.location(where)
        if not key or key.endswith("/"):
            with s3.failures_named(where, "images"):
                client = s3.connected(endpoint)
            images = Images(where, "", partial(_objects, client, where, folder, options))
        else:
            path = s3.download(where, folder, endpoint)
            images = _of_store(open_store(path, where, name_encoding=name_encoding), where, options)
        yield images


def _of_store(store: Store, where: str, options: _Options) -> Images:
    identity = sha256(store.path) if store.is_archive else ""
    return Images(where, identity, partial(_files, store, where, options))


def _files(store: Store, where: str, options: _Options) -> Iterator[Item | None]:
    for file in store.files():
        mark = str(file.size) if file.path is None else _mark(file.path)
        yield from _items(where, file, mark, options, later=not store.is_archive)
    for link, why in store.links.items():
        yield Item(link, "link", partial(_refuse, DataError(f"link that leads to no file of the source: {why}")))


def _objects(client: Any, where: str, folder: Path, options: _Options) -> Iterator[Item | None]:
    """Yield the objects below a prefix in the order of their keys, a page of their names in memory at a time."""
    from tasks.vision.data import s3

    bucket, prefix = s3.location(where)
    with s3.failures_named(where, "images"):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", []):
                key, size = found["Key"], found["Size"]
                if key.endswith("/") or not size:
                    continue  # a folder, as some tools mark them
                file = File(
                    safe_name(key.removeprefix(prefix), where), size, partial(_fetch, client, bucket, key, where)
                )
                if suffix(file.name) == ".parquet":  # too large to be read whole
                    path = folder / "table.parquet"
                    client.download_file(bucket, key, str(path))
                    file = file._replace(path=path)
                yield from _items(where, file, str(found.get("ETag", size)), options, later=True)


def _fetch(client: Any, bucket: str, key: str, where: str) -> bytes:
    from tasks.vision.data import s3

    limit = Limits().entry_bytes
    with s3.failures_named(where, "images"):
        answer = client.get_object(Bucket=bucket, Key=key)
        if answer["ContentLength"] > limit:
            raise DataError(f"{answer['ContentLength']} bytes, over {limit}; shrink the image")
        return io.BytesIO(answer["Body"].read()).getvalue()


def _items(where: str, file: File, mark: str, options: _Options, *, later: bool) -> Iterator[Item | None]:
    if is_junk(file.name) or is_hidden(file.name):
        return
    if suffix(file.name) == ".parquet":
        yield from _rows(f"{where}: {file.name}", file, mark, options)
    elif may_be_image(file.name):
        yield Item(file.name, mark, file.read, later)
    else:
        yield None


def _rows(where: str, file: File, mark: str, options: _Options) -> Iterator[Item]:
    """Yield the rows of a Parquet file; one that is damaged from some row on ends with an item that says so."""
    try:
        column = parquet.image_column(file, where, options.file_column, options.limits)
        for row, data in enumerate(parquet.images(file, where, column, options.limits)):
            read = partial(_refuse, data) if isinstance(data, DataError) else partial(bytes, data)
            yield Item(f"{file.name}/{row:07}", mark, read)
    except DataError as error:
        yield Item(file.name, mark, partial(_refuse, error))


def _mark(path: Path) -> str:
    try:
        known = path.stat()
    except OSError:
        return "missing"  # its reader says what is wrong
    return f"{known.st_size} {known.st_mtime_ns}"


def _refuse(error: DataError) -> bytes:
    raise error
