"""Images in files: a folder or an archive, on this machine or in an S3 store."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path

from tasks.errors import DataError, RequestError
from tasks.files import sha256
from tasks.vision.data import images, parquet
from tasks.vision.data.contents import Contents, LayoutOptions
from tasks.vision.data.layout import arrange
from tasks.vision.data.limits import MIB, MIN_SIDE, Limits
from tasks.vision.data.names import TABLES, is_hidden, is_junk, suffix
from tasks.vision.data.parquet_layout import row_key
from tasks.vision.data.records import Content, Entry, Listing
from tasks.vision.data.store_file import File
from tasks.vision.data.stores import Store, open_store

SAMPLE = 100  # images whose size is looked at
STEP = 32  # sides of images that are made smaller
UNASKED_BYTES = 4 * 2**30  # of all images as prepared; a training on more takes hours, for which `image_size` asks
MAX_TABLE_BYTES = 128 * MIB  # of all tables of a source, which are kept in memory


@dataclass
class FileSource:
    """A folder or archive of images, always read as RGB; `where` is the user's name for it."""

    store: Store
    where: str
    dataset: str
    largest_side: int
    options: LayoutOptions = field(default_factory=LayoutOptions)
    channels: int = 3
    limits: Limits = field(default_factory=Limits)

    @cached_property
    def listing(self) -> Listing:
        """What the folder or archive holds; goes through an archive once."""
        sizes: dict[str, int] = {}
        sheets: dict[str, bytes | DataError] = {}
        parquets: dict[str, parquet.Columns | DataError] = {}
        left = MAX_TABLE_BYTES
        for file in self.store.files():
            sizes[file.name] = file.size
            if is_junk(file.name) or is_hidden(file.name):
                continue
            if suffix(file.name) in TABLES:
                sheets[file.name] = _table(file, left)
                left -= file.size
            elif suffix(file.name) == ".parquet":
                parquets[file.name] = self._scan(file)
        return arrange(Contents(self.where, sizes, self.store.links, sheets, parquets), self.options)

    @cached_property
    def side(self) -> int:
        """The images' own size: the median of the shorter sides of the first of them, at most `largest_side`.

        Less where all images of that size would have over `UNASKED_BYTES`.
        """
        sides = sorted(filter(None, (_shorter_side(read) for _, read in islice(self.read(), SAMPLE))))
        own = min(sides[len(sides) // 2], self.largest_side) if sides else self.largest_side
        fitting = math.isqrt(UNASKED_BYTES // (self.channels * max(1, len(self.listing.entries))))
        return max(MIN_SIDE, own if own <= fitting else fitting // STEP * STEP)

    def digest(self) -> str:
        """Return the SHA-256 of the archive, or of the sorted paths and contents of a folder's images."""
        if self.store.is_archive:
            return sha256(self.store.path)
        files = {name: entry.name for name, entry in self.listing.entries.items() if "\0" not in name}
        files |= {name: name for name in self.listing.tables}
        whole = hashlib.sha256()
        for name, shown in sorted(files.items(), key=lambda item: item[1]):
            whole.update(f"{shown}\0{sha256(self.store.path / name)}\n".encode())
        return whole.hexdigest()

    def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
        """Yield the images in the store's order."""
        entries, tables = self.listing.entries, self.listing.tables
        for file in self.store.files():
            if file.name in entries:
                yield entries[file.name], file.read
            elif file.name in tables:
                yield from self._rows(file, tables[file.name], entries)

    def _rows(
        self, file: File, column: str, entries: Mapping[str, Entry]
    ) -> Iterator[tuple[Entry, Callable[[], Content]]]:
        where = f"{self.where}: {file.name}"
        found = parquet.images(file, where, column, self.limits)
        for row, data in enumerate(chain(found, [None])):  # None: the end
            entry = entries.get(row_key(file.name, row))
            if entry is not None and data is not None:
                yield entry, partial(_given, data)
            elif entry is not None or data is not None:
                raise DataError(f"{where} has other numbers of images and labels; it is damaged, copy it again")

    def _scan(self, file: File) -> parquet.Columns | DataError:
        options = self.options
        try:
            where = f"{self.where}: {file.name}"
            return parquet.scan(file, where, options.file_column, options.label_column, self.limits)
        except DataError as error:
            return error  # matters only where the images are in Parquet files


def _table(file: File, left: int) -> bytes | DataError:
    if file.size > left:
        return DataError(f"with it, the tables have over {MAX_TABLE_BYTES} bytes; move those that are not needed away")
    try:
        return file.read()
    except DataError as error:
        return error


def _shorter_side(read: Callable[[], Content]) -> int | None:
    """Return the shorter side of an image; None for one that cannot be read."""
    try:
        content = read()
        width, height = images.open_image(content).size if isinstance(content, bytes) else content.shape[:2]
        return int(min(width, height))
    except DataError:
        return None


def _given(data: bytes | DataError) -> bytes:
    if isinstance(data, DataError):
        raise data
    return data


@contextmanager
def open_files(
    dataset: str,
    source: str,
    largest_side: int,
    downloads_folder: Path,
    s3_endpoint: str | None = None,
    options: LayoutOptions | None = None,
) -> Iterator[FileSource]:
    """Open the images at `source`; what was downloaded from S3 is deleted at the end.

    Args:
        dataset: the data set's name.
        source: a local folder or archive, s3://BUCKET/KEY of an archive, or s3://BUCKET/PREFIX/ of a folder.
        largest_side: largest default side of the square images, in pixels.
        downloads_folder: where a folder for the download is made.
        s3_endpoint: address of the S3 store; by default boto3's own AWS_ENDPOINT_URL, or Amazon.
        options: what the request says about the layout.

    Raises:
        DataError: the source is missing, damaged or unsafe.
        RequestError: the source is another kind of address.
        UnavailableError: the download fails.
    """
    options = options or LayoutOptions()
    if source.startswith("s3://"):
        from tasks.vision.data import s3  # boto3 takes a third of a second to import, for this kind of source only

        downloads_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads_folder, prefix="s3-") as folder:
            path = s3.download(source, Path(folder), s3_endpoint)
            store = open_store(path, source, name_encoding=options.name_encoding)
            yield FileSource(store, source, dataset, largest_side, options)
    elif "://" in source:
        raise RequestError(f"source={source!r} cannot be opened; give a local path or s3://bucket/key")
    else:
        store = open_store(Path(source).expanduser(), source, name_encoding=options.name_encoding)
        yield FileSource(store, source, dataset, largest_side, options)
