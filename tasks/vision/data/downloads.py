"""torchvision's data sets, downloaded and checked by torchvision.

Only this module of the data layers imports torchvision. Once downloaded, a data set needs no network.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import Any
from urllib.error import HTTPError

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, UnavailableError
from tasks.vision.data.array_source import ArraySource

SOCKET_TIMEOUT = 30.0


@dataclass(frozen=True)
class _Labelled:
    """Images as published: uint8 [N, H, W] or [N, H, W, 3], labels int64 [N] into `classes`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def open_torchvision(dataset: str, constructor: str, folder: Path) -> ArraySource:
    """Return a torchvision data set, with its own test set, downloaded into `folder` when missing.

    Args:
        dataset: the data set's name in this project.
        constructor: name of the class in `torchvision.datasets`.
        folder: where torchvision keeps its files.

    Raises:
        UnavailableError: the download fails.
        DataError: the files in `folder` are damaged.
    """
    # Costs over a second, and only these data sets need it.
    from torchvision import datasets

    make = getattr(datasets, constructor)
    folder.mkdir(parents=True, exist_ok=True)
    with _failures_named(dataset, folder), _socket_timeout(SOCKET_TIMEOUT):
        parts = {split: _labelled(make(folder, train=split == "train", download=True)) for split in ("train", "test")}
    return ArraySource(
        dataset,
        np.concatenate([part.images for part in parts.values()]),
        np.concatenate([part.labels for part in parts.values()]),
        [split for split, part in parts.items() for _ in part.labels],
        parts["train"].classes,
    )


def _labelled(data: Any) -> _Labelled:
    return _Labelled(
        images=np.asarray(data.data, dtype=np.uint8),
        labels=np.asarray(data.targets, dtype=np.int64),
        # Fashion-MNIST has a class "T-shirt/top": a slash would make a folder of it in names.
        classes=tuple(name.replace("/", "-") for name in data.classes),
    )


@contextmanager
def _failures_named(dataset: str, folder: Path) -> Iterator[None]:
    fix = f"allow this machine to reach it, or put torchvision's files into {folder}"
    try:
        yield
    except (HTTPError, TimeoutError, ConnectionError, HTTPException) as error:
        raise UnavailableError(f"{dataset} cannot be downloaded ({type(error).__name__}: {error}); {fix}") from error
    except RuntimeError as error:
        # torchvision raises it for a wrong checksum, and for a mirror that does not answer.
        if "Error downloading" in str(error):
            raise UnavailableError(f"{dataset} cannot be downloaded ({error}); {fix}") from error
        raise DataError(f"{dataset} in {folder} is damaged ({error}); delete that folder and try again") from error
    except (EOFError, ValueError, KeyError, AssertionError, TarError, zlib.error) as error:
        raise DataError(
            f"{dataset} in {folder} is damaged ({type(error).__name__}: {error}); delete that folder and try again"
        ) from error
    except OSError as error:  # URLError is one: no network, no name
        raise UnavailableError(f"{dataset} cannot be downloaded ({type(error).__name__}: {error}); {fix}") from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Bound torchvision's downloads, which set no timeout of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
