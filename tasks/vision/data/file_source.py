"""Images in files: a folder or an archive, on this machine or in an S3 store."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from tasks.errors import DataError, RequestError
from tasks.files import sha256
from tasks.vision.data import metadata
from tasks.vision.data.layout import arrange
from tasks.vision.data.records import Content, Entry, Listing
from tasks.vision.data.stores import Store, open_store


@dataclass
class FileSource:
    """A folder or archive of PNG and JPEG files, always read as RGB; `where` is the user's name for it."""

    store: Store
    where: str
    dataset: str
    side: int
    channels: int = 3

    @cached_property
    def listing(self) -> Listing:
        """What the folder or archive holds; goes through an archive once."""
        names, sheets = [], {}
        for name, read in self.store.files():
            names.append(name)
            if PurePosixPath(name).name == metadata.NAME:
                try:
                    sheets[name] = read()
                except DataError as error:
                    raise DataError(f"{self.where}: {name}: {error}") from error
        return arrange(names, self.where, self.store.links, sheets)

    def digest(self) -> str:
        """Return the SHA-256 of the archive, or of the sorted paths and contents of a folder's images."""
        if self.store.is_archive:
            return sha256(self.store.path)
        whole = hashlib.sha256()
        for name, entry in sorted(self.listing.entries.items(), key=lambda item: item[1].name):
            whole.update(f"{entry.name}\0{sha256(self.store.path / name)}\n".encode())
        return whole.hexdigest()

    def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
        """Yield the images in the store's order."""
        entries = self.listing.entries
        for name, read in self.store.files():
            if name in entries:
                yield entries[name], read


@contextmanager
def open_files(
    dataset: str, source: str, side: int, downloads_folder: Path, s3_endpoint: str | None = None
) -> Iterator[FileSource]:
    """Open the images at `source`; what was downloaded from S3 is deleted at the end.

    Args:
        dataset: the data set's name.
        source: a local folder or archive, s3://BUCKET/KEY of an archive, or s3://BUCKET/PREFIX/ of a folder.
        side: default side of the square images, in pixels.
        downloads_folder: where a folder for the download is made.
        s3_endpoint: address of the S3 store; by default boto3's own AWS_ENDPOINT_URL, or Amazon.

    Raises:
        DataError: the source is missing, damaged or unsafe.
        RequestError: the source is another kind of address.
        UnavailableError: the download fails.
    """
    if source.startswith("s3://"):
        from tasks.vision.data import s3  # boto3 takes a third of a second to import, for this kind of source only

        downloads_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads_folder, prefix="s3-") as folder:
            path = s3.download(source, Path(folder), s3_endpoint)
            yield FileSource(open_store(path, source), source, dataset, side)
    elif "://" in source:
        raise RequestError(f"source={source!r} cannot be opened; give a local path or s3://bucket/key")
    else:
        yield FileSource(open_store(Path(source).expanduser(), source), source, dataset, side)
