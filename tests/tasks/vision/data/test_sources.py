from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.contract.datasets import DATASETS, DataSet, Files, Torchvision
from tasks.errors import DataError, RequestError
from tasks.vision.data.sources import open_source


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for index, name in enumerate(["train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "notes.txt"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (index, 0, 0)).save(path, "PNG")
    return folder


def test_digits_are_whole_and_stretched_to_bytes(tmp_path: Path) -> None:
    with open_source("digits", None, tmp_path) as source:
        assert (source.channels, source.side) == (1, 8)
        assert source.listing.classes == tuple("0123456789")
        assert not source.listing.has_test
        pixels = np.stack([np.frombuffer(bytes(memoryview(read())), np.uint8) for _, read in source.read()])  # type: ignore[arg-type]
    assert pixels.shape == (1797, 64)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) == 17


def test_a_folder_is_read_as_rgb_files(pets: Path, tmp_path: Path) -> None:
    with open_source("image_folder", str(pets), tmp_path) as source:
        assert (source.dataset, source.channels, source.side) == ("image_folder", 3, 16)
        assert source.listing.files == 4
        read = {entry.name: reader() for entry, reader in source.read()}
    assert set(read) == {"train/cat/1.png", "train/cat/2.png", "train/dog/1.png"}
    assert all(isinstance(data, bytes) and Image.open(BytesIO(data)).size == (16, 16) for data in read.values())


@pytest.mark.parametrize(
    ("dataset", "source", "error", "says"),
    [
        ("mnist", None, RequestError, "dataset='mnist' is unknown; choose one of digits, cifar10"),
        ("image_folder", None, RequestError, "needs source"),
        (
            "image_folder",
            "https://example.org/x.zip",
            RequestError,
            "https://example.org/x.zip' cannot be opened; give",
        ),
        ("image_folder", "/nowhere/pets", DataError, "/nowhere/pets' does not exist; give"),
    ],
)
def test_a_source_that_cannot_be_opened_is_named(
    tmp_path: Path, dataset: str, source: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as raised, open_source(dataset, source, tmp_path):
        pass
    assert says in str(raised.value)


def test_an_entry_is_all_that_another_image_folder_needs(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "pets", DataSet("pets", Files(largest_side=12)))
    with open_source("pets", str(pets), tmp_path) as source:
        assert (source.dataset, source.side, source.listing.classes) == ("pets", 12, ("cat", "dog"))
    with (
        pytest.raises(RequestError, match="dataset='pets' needs source: a folder or archive"),
        open_source("pets", None, tmp_path),
    ):
        pass


def test_an_entry_is_all_that_another_torchvision_set_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        data = np.zeros((2, 12, 12), np.uint8)
        targets = (0, 1)
        classes = ("a", "b")

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            assert download

    monkeypatch.setattr("torchvision.datasets.KMNIST", Small)
    monkeypatch.setitem(DATASETS, "kuzushiji", DataSet("cursive Japanese", Torchvision("KMNIST"), "CC BY-SA 4.0"))
    with open_source("kuzushiji", None, tmp_path) as source:
        assert (source.dataset, source.channels, source.side) == ("kuzushiji", 1, 12)
        assert [entry.split for entry, _ in source.read()] == ["train", "train", "test", "test"]
