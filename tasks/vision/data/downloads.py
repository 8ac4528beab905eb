"""Data sets that torchvision knows: CIFAR-10, CIFAR-100, Fashion-MNIST, with its checksums.

The one place of the data layers that imports torchvision; a download that is there already needs no network.
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

CLASSES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}
SOCKET_TIMEOUT = 30.0


@dataclass(frozen=True)
class Labelled:
    """Images as they are published: uint8 [N, H, W] or [N, H, W, 3], labels int64 [N] into `classes`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def load(dataset: str, folder: Path) -> dict[str, Labelled]:
    """Return the `train` and `test` images of a torchvision data set, downloaded into `folder` when missing.

    Raises:
        UnavailableError: the download fails.
        DataError: the files in `folder` are damaged.
    """
    # Costs over a second, and is needed by these three data sets only.
    from torchvision import datasets

    maker = getattr(datasets, CLASSES[dataset])
    folder.mkdir(parents=True, exist_ok=True)
    with _failures_named(dataset, folder), _socket_timeout(SOCKET_TIMEOUT):
        return {split: _labelled(maker(folder, train=split == "train", download=True)) for split in ("train", "test")}


def _labelled(data: Any) -> Labelled:
    return Labelled(
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
        # torchvision's own word for a checksum that differs, and for a mirror that does not answer.
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
