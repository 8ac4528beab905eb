"""Opens a data set, of whatever kind its entry in `DATASETS` says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, assert_never

from tasks.contract.datasets import DATASETS, Digits, Files, Torchvision, require_source
from tasks.errors import RequestError
from tasks.vision.data.array_source import digits
from tasks.vision.data.contents import LayoutOptions
from tasks.vision.data.downloads import open_torchvision
from tasks.vision.data.file_source import open_files
from tasks.vision.data.records import Content, Entry, Listing


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
        """The files found (raw layer). Raises DataError when no classifier can be trained on them."""
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
    dataset: str,
    source: str | None,
    downloads_folder: Path,
    s3_endpoint: str | None = None,
    options: LayoutOptions | None = None,
) -> Iterator[Source]:
    """Open a data set; what was downloaded from S3 is deleted at the end.

    Args:
        dataset: a name in the contract's table `DATASETS`.
        source: folder or archive, local or s3://, for a data set that needs one.
        downloads_folder: where downloads are kept.
        s3_endpoint: address of the S3 store; by default boto3's own AWS_ENDPOINT_URL, or Amazon.
        options: what the request says about the layout of `source`.

    Raises:
        DataError: the source is missing, damaged or unsafe.
        RequestError: `dataset` is unknown, or `source` is not one that can be opened for it.
        UnavailableError: a download fails.
    """
    if dataset not in DATASETS:
        raise RequestError(f"dataset={dataset!r} is unknown; choose one of {', '.join(DATASETS)}")
    try:
        require_source(dataset, source)
    except ValueError as error:
        raise RequestError(str(error)) from error
    match DATASETS[dataset].opener:
        case Digits():
            yield digits(dataset)
        case Torchvision(constructor):
            yield open_torchvision(dataset, constructor, downloads_folder)
        case Files(largest_side):
            with open_files(dataset, str(source), largest_side, downloads_folder, s3_endpoint, options) as files:
                yield files
        case _ as unknown:
            assert_never(unknown)
