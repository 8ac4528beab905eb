"""Where images come from: arrays (digits, torchvision's data sets) and files (a folder or archive, local or on S3)."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, RequestError
from tasks.vision.data import metadata
from tasks.vision.data.layout import arrange
from tasks.vision.data.records import Entry, Listing
from tasks.vision.data.stores import Store, digest_of, open_store

IMAGE_FOLDER_SIZE = 32
Content = bytes | NDArray[np.uint8]


class Source(Protocol):
    """Images with their classes.

    Attributes:
        dataset: the data set's name.
    """

    dataset: str

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        ...

    @property
    def side(self) -> int:
        """Side of the square images where the request names none, in pixels."""
        ...

    @property
    def listing(self) -> Listing:
        """What is there (raw layer). Raises DataError when nothing can be trained on it."""
        ...

    def digest(self) -> str:
        """Return a SHA-256 (hex) of the content, which does not depend on where it lies."""
        ...

    def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
        """Yield every entry with its reader: an encoded file, or uint8 pixels [H, W] or [H, W, 3].

        A reader works until the next step and raises DataError when its one image is damaged.
        """
        ...


@contextmanager
def open_source(
    dataset: str, source: str | None, downloads_folder: Path, s3_endpoint: str | None = None
) -> Iterator[Source]:
    """Open a data set; what was downloaded from S3 is deleted at the end.

    Raises:
        DataError: the source is missing, damaged or unsafe.
        RequestError: `dataset` is unknown, or `source` is of another kind than can be opened.
        UnavailableError: a download fails.
    """
    if dataset == "digits":
        yield digits()
    elif dataset in ("cifar10", "cifar100", "fashion_mnist"):
        yield torchvision_source(dataset, downloads_folder)
    elif dataset != "image_folder":
        raise RequestError(
            f"dataset={dataset!r} is unknown; choose digits, cifar10, cifar100, fashion_mnist or image_folder"
        )
    elif not source:
        raise RequestError("dataset='image_folder' needs source: a folder or archive, local or s3://")
    elif source.startswith("s3://"):
        from tasks.vision.data import s3  # boto3 takes a third of a second to import, for this kind of source only

        downloads_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads_folder, prefix="s3-") as folder:
            path = s3.download(source, Path(folder), s3_endpoint)
            yield FileSource(open_store(path, source), source)
    elif "://" in source:
        raise RequestError(f"source={source!r} cannot be opened; give a local path or s3://bucket/key")
    else:
        yield FileSource(open_store(Path(source).expanduser(), source), source)


@dataclass
class FileSource:
    """A folder or archive of PNG and JPEG files, always read as RGB; `where` is the user's name for it."""

    store: Store
    where: str
    dataset: str = "image_folder"
    channels: int = 3
    side: int = IMAGE_FOLDER_SIZE

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
            return digest_of(self.store.path)
        whole = hashlib.sha256()
        for name, entry in sorted(self.listing.entries.items(), key=lambda item: item[1].name):
            whole.update(f"{entry.name}\0{digest_of(self.store.path / name)}\n".encode())
        return whole.hexdigest()

    def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
        """Yield the images in the store's order."""
        entries = self.listing.entries
        for name, read in self.store.files():
            if name in entries:
                yield entries[name], read


@dataclass
class ArraySource:
    """Images in memory: uint8 [N, H, W] or [N, H, W, 3], with labels into `classes` and the split of each."""

    dataset: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    splits: list[str]
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return 1 if self.images.ndim == 3 else 3

    @property
    def side(self) -> int:
        """Side of the images as they are."""
        return int(self.images.shape[1])

    @cached_property
    def listing(self) -> Listing:
        """One entry per image, named by its place in the source."""
        entries = {}
        for index, (split, label) in enumerate(zip(self.splits, self.labels.tolist(), strict=True)):
            name = self.classes[label]
            entries[str(index)] = Entry(f"{split}/{name}/{index:05d}", split, name)
        return Listing(len(entries), entries, (), tuple(sorted(self.classes)))

    def digest(self) -> str:
        """Return the SHA-256 of shapes, pixels, labels, splits and class names."""
        whole = hashlib.sha256(repr((self.images.shape, self.classes, self.splits)).encode())
        whole.update(np.ascontiguousarray(self.images).data)
        whole.update(np.ascontiguousarray(self.labels).data)
        return whole.hexdigest()

    def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
        """Yield the images in order."""
        for entry, image in zip(self.listing.entries.values(), self.images, strict=True):
            yield entry, partial(_itself, image)


def _itself(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image


def digits() -> ArraySource:
    """Return scikit-learn's bundled handwritten digits: 1797 grey 8 x 8 images, 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits  # half a second, for this data set only

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    return ArraySource("digits", images, labels, ["train"] * len(labels), tuple(str(i) for i in range(10)))


def torchvision_source(dataset: str, folder: Path) -> ArraySource:
    """Return a torchvision data set, with its own test set.

    Raises:
        UnavailableError: the download fails.
        DataError: the downloaded files are damaged.
    """
    from tasks.vision.data import downloads

    parts = downloads.load(dataset, folder)
    return ArraySource(
        dataset,
        np.concatenate([part.images for part in parts.values()]),
        np.concatenate([part.labels for part in parts.values()]),
        [split for split, part in parts.items() for _ in part.labels],
        parts["train"].classes,
    )
