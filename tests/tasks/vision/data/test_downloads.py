"""The torchvision data sets, read from small files in their published formats; only the network is missing."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets

from tasks.contract.datasets import DATASETS, Torchvision
from tasks.errors import DataError, UnavailableError
from tasks.vision.data import downloads
from tasks.vision.data.array_source import ArraySource

CONSTRUCTORS = {
    name: entry.opener.constructor for name, entry in DATASETS.items() if isinstance(entry.opener, Torchvision)
}


def opened(dataset: str, folder: Path) -> ArraySource:
    return downloads.open_torchvision(dataset, CONSTRUCTORS[dataset], folder)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_cifar(root: Path, kind: type[Any], key: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write two train images (0, 1) and one test image (2) as CIFAR's pickled batches, and know their checksums."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    images = np.stack([np.full(3072, value, np.uint8) for value in (0, 1, 2)])

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5(folder / name)]

    monkeypatch.setattr(kind, "train_list", [write("train", {"data": images[:2], key: [1, 0]})])
    monkeypatch.setattr(kind, "test_list", [write("test", {"data": images[2:], key: [1]})])
    meta = write("meta", {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "meta", {"filename": "meta", "key": kind.meta["key"], "md5": meta[1]})
    return folder


def write_idx(path: Path, values: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes())


@pytest.mark.parametrize(
    ("dataset", "kind", "key"),
    [("cifar10", datasets.CIFAR10, "labels"), ("cifar100", datasets.CIFAR100, "fine_labels")],
)
def test_cifar_files_are_read(
    dataset: str, kind: type[Any], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, kind, key, ["frog", "apple"], monkeypatch)
    source = opened(dataset, tmp_path)
    assert (source.channels, source.side, source.dataset) == (3, 32, dataset)
    assert source.listing.classes == ("apple", "frog")
    assert [(entry.split, entry.label) for entry, _ in source.read()] == [
        ("train", "apple"),
        ("train", "frog"),
        ("test", "apple"),
    ]
    assert [int(np.max(read())) for _, read in source.read()] == [0, 1, 2]  # type: ignore[arg-type]


def test_fashion_mnist_files_are_read(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    for prefix, count in (("train", 3), ("t10k", 2)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", np.full((count, 28, 28), count, np.uint8))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    source = opened("fashion_mnist", tmp_path)
    assert (source.channels, source.side) == (1, 28)
    assert len(source.listing.classes) == 10
    assert [entry.name for entry, _ in source.read()][:2] == ["train/T-shirt-top/00000", "train/Trouser/00001"]
    assert [int(np.max(read())) for _, read in source.read()] == [3, 3, 3, 2, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize("dataset", sorted(CONSTRUCTORS))
def test_no_network_ends_in_one_line_with_the_fix(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr("urllib.request.urlopen", away)
    with pytest.raises(UnavailableError) as error:
        opened(dataset, tmp_path / "data")
    text = str(error.value)
    assert text.startswith(f"{dataset} cannot be downloaded")
    assert "name resolution" in text
    assert f"put torchvision's files into {tmp_path / 'data'}" in text
    assert "\n" not in text


def test_a_silent_server_does_not_hold_the_stage_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and never answers; torchvision itself would wait without end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/cifar.tar.gz"
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        monkeypatch.setattr(downloads, "SOCKET_TIMEOUT", 0.2)
        with pytest.raises(UnavailableError, match="cifar10 cannot be downloaded"):
            opened("cifar10", tmp_path)
    assert socket.getdefaulttimeout() is None


def test_a_download_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.tar.gz").write_bytes(gzip.compress(b"other"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/other.tar.gz")
        with pytest.raises(DataError, match=r"cifar10 in .* is damaged .*delete that folder"):
            opened("cifar10", tmp_path / "data")
        server.shutdown()
        thread.join()


def test_damaged_metadata_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_cifar(tmp_path, datasets.CIFAR10, "labels", ["a", "b"], monkeypatch)
    (folder / "meta").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cifar10 in"):
        opened("cifar10", tmp_path)


def test_a_file_of_fashion_mnist_cut_short_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    for prefix in ("train", "t10k"):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", np.zeros((2, 28, 28), np.uint8))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.zeros(2, np.uint8))
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"fashion_mnist in .* is damaged"):
        opened("fashion_mnist", tmp_path)
