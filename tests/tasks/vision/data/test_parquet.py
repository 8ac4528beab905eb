"""Parquet files with images, as Hugging Face writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.errors import DataError
from tasks.vision.data import bronze, parquet, silver
from tasks.vision.data.contents import LayoutOptions
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.limits import Limits
from tasks.vision.data.records import Listing, Reason, Removal
from tasks.vision.data.sources import open_source
from tasks.vision.data.store_file import File

SHAPING = Shaping("image_folder", 3, 32, 0.15, 0.2, 0)
NAMES = ["cat", "dog"]


def png(value: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, labels: list[Any], names: list[str] | None = None, first: int = 0, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(first + index), "path": f"{index}.png"} for index in range(len(labels))]
    table = pa.table({"image": images, "label": labels} | columns)
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=7)
    return path


def read(source: Path, tmp_path: Path, **options: str) -> tuple[Listing, dict[str, str], list[Removal]]:
    given = LayoutOptions(**options)  # type: ignore[arg-type]
    with open_source("image_folder", str(source), tmp_path, None, given) as opened:
        kept, removals = silver.clean(bronze.read(opened, SHAPING, workers=1))
        found = {record.entry.name: f"{record.entry.split} {record.entry.label}" for record in kept}
        for record in kept:  # each row is read with its own label
            assert record.pixels is not None
        return opened.listing, found, removals


def test_the_layout_of_hugging_face_is_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data / "data/train-00000-of-00002.parquet", [0, 1] * 10, NAMES)
    write(data / "data/train-00001-of-00002.parquet", [1, 0] * 10, NAMES, first=50)
    write(data / "data/validation-00000-of-00001.parquet", [1, 0], NAMES, first=100)
    write(data / "data/test-00000-of-00001.parquet", [-1, -1], NAMES, first=120)
    (data / "README.md").write_text("---")
    listing, found, removals = read(data, tmp_path)
    assert listing.classes == ("cat", "dog")
    assert len(found) == 42
    assert found["data/train-00001-of-00002.parquet/0000000"] == "train dog"
    assert found["data/validation-00000-of-00001.parquet/0000001"] == "validation cat"
    assert {r.name: r.reason for r in [*listing.removals, *removals]} == {
        "README.md": Reason.OUTSIDE,
        "data/test-00000-of-00001.parquet": Reason.UNLABELLED,
    }
    assert "has no labels and is not used (2 rows)" in listing.notes[0]
    assert listing.files == 44  # a Parquet file counts by its rows, README.md and the one without labels as files


def test_pixels_go_with_their_labels(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", ["cat" if value < 20 else "dog" for value in range(40)])
    with open_source("image_folder", str(tmp_path / "x.parquet"), tmp_path) as source:
        for record in bronze.read(source, SHAPING, workers=2):
            assert record.pixels is not None
            assert record.entry.label == ("cat" if record.pixels.read().max() < 20 else "dog")


def test_one_file_and_an_archive_of_files_are_read_too(tmp_path: Path) -> None:
    one = write(tmp_path / "x.parquet", ["cat", "dog"] * 5)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(one, arcname="data/train.parquet")
    assert len(read(one, tmp_path)[1]) == len(read(tmp_path / "x.tar.gz", tmp_path)[1]) == 10


def test_columns_of_other_names_are_given_or_found(tmp_path: Path) -> None:
    table = pa.table({"jpg": [png(index) for index in range(4)], "kind": [0, 1, 0, 1], "note": ["x"] * 4})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet", tmp_path, label_column="kind")[0].classes == ("0", "1")
    with pytest.raises(DataError, match=r"has no label column among 'jpg', 'kind', 'note'; set label_column"):
        read(tmp_path / "x.parquet", tmp_path)
    with pytest.raises(DataError, match=r"column 'note' is string, not bytes .*; set file_column"):
        read(tmp_path / "x.parquet", tmp_path, label_column="kind", file_column="note")


def test_a_damaged_image_spoils_only_itself(tmp_path: Path) -> None:
    images = [{"bytes": png(i), "path": None} for i in range(6)] + [
        {"bytes": None, "path": "a.png"},
        {"bytes": b"x", "path": ""},
    ]
    pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 4}), tmp_path / "x.parquet")
    _, found, removals = read(tmp_path / "x.parquet", tmp_path)
    assert len(found) == 6
    assert [removal.reason for removal in removals] == [Reason.UNREADABLE] * 2
    assert "only a path" in removals[0].detail


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        (["cat", None, "dog", ""], None, "x.parquet, row 1: no label, as in 2 of 4 rows; fill them in"),
        ([0, 1, -1, 1], NAMES, "x.parquet, row 2: no label"),
        ([0, 1, 7, 1], NAMES, "holds 7, but there are names for 0 to 1"),
        ([0.5, 1.5, 1.0, 2.0], None, "holds 0.5, not a text or a whole number; set label_column"),
        ([[0], [1], [0], [1]], None, "holds [0], not a text or a whole number"),
        (["cat"] * 4, None, "only the class 'cat'"),
    ],
)
def test_labels_that_cannot_be_used_are_named(
    labels: list[Any], names: list[str] | None, says: str, tmp_path: Path
) -> None:
    write(tmp_path / "x.parquet", labels, names)
    with pytest.raises(DataError) as error:
        read(tmp_path / "x.parquet", tmp_path)
    assert says in str(error.value)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_file_cut_short_is_named(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", ["cat", "dog"] * 50)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"x.parquet is damaged or not Parquet .*; copy it again"):
        read(path, tmp_path)


def test_damaged_bytes_are_damage_wherever_they_are(tmp_path: Path) -> None:
    """Arrow's own checks have gaps: in some places damage ends the process, unless one does not look there."""
    path = write(tmp_path / "x.parquet", ["cat", "dog"] * 20)
    data, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        harmed = bytearray(data)
        for position in generator.integers(4, len(data), 3):
            harmed[position] ^= int(generator.integers(1, 256))
        path.write_bytes(harmed)
        with suppress(DataError):  # anything else is a mistake
            read(path, tmp_path)


@pytest.mark.parametrize("rows", [3, 5])
def test_another_number_of_images_than_labels_is_damage(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.parquet", ["cat", "dog"] * 2)
    monkeypatch.setattr(parquet, "images", lambda *_: iter([png(0)] * rows))
    with pytest.raises(DataError, match=r"x.parquet has other numbers of images and labels; it is damaged"):
        read(path, tmp_path)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"image": [bytes(100_000)] * 50, "label": ["a", "b"] * 25}),
        path,
        compression="zstd",
        use_dictionary=False,
    )
    limits = Limits(ratio_from_bytes=1000)
    file = File("x.parquet", path.stat().st_size, path.read_bytes, path)
    with pytest.raises(DataError, match="more than images do"):
        parquet.scan(file, "x", None, None, limits)
    small = Limits(entry_bytes=1000)
    assert all(isinstance(data, DataError) for data in parquet.images(file, "x", "image", small))
    with pytest.raises(DataError, match="over 10 rows"):
        parquet.scan(file, "x", None, None, Limits(entries=10))


def test_parquet_beside_class_folders_is_refused_unless_one_is_chosen(tmp_path: Path) -> None:
    write(tmp_path / "data/x.parquet", ["ant", "bee"] * 3)
    for index, name in enumerate(["cat/1.png", "dog/1.png"]):
        (tmp_path / "data" / name).parent.mkdir()
        (tmp_path / "data" / name).write_bytes(png(index))
    with pytest.raises(DataError, match="both Parquet files and class folders; set layout to 'parquet' or 'classes'"):
        read(tmp_path / "data", tmp_path)
    assert read(tmp_path / "data", tmp_path, layout="parquet")[0].classes == ("ant", "bee")
    assert read(tmp_path / "data", tmp_path, layout="classes")[0].classes == ("cat", "dog")


def test_a_parquet_file_of_something_else_does_not_matter(tmp_path: Path) -> None:
    for index, name in enumerate(["cat/1.png", "dog/1.png"]):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(png(index))
    pq.write_table(pa.table({"people": [1]}), tmp_path / "data/people.parquet")
    (tmp_path / "data/broken.parquet").write_bytes(b"PAR1")
    assert read(tmp_path / "data", tmp_path)[0].classes == ("cat", "dog")


def test_the_digest_is_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", ["cat", "dog"])

    def digest() -> str:
        with open_source("image_folder", str(path), tmp_path) as source:
            return source.digest()

    before = digest()
    assert digest() == before
    write(path, ["dog", "cat"])
    assert digest() != before


def test_labels_that_are_stored_once_are_kept_once(tmp_path: Path) -> None:
    """Each row with a copy of its own would take 60 MB."""
    path, count = tmp_path / "x.parquet", 60_000
    indices = pa.array([0, 1] * (count // 2), pa.int32())
    labels = pa.DictionaryArray.from_arrays(indices, pa.array(["a" * 1000, "b" * 1000]))
    for stored in (True, False):
        pq.write_table(
            pa.table({"image": [b"x"] * count, "label": labels}),
            path,
            store_schema=stored,
            dictionary_pagesize_limit=2**26,
            compression="zstd",
        )
        file = File("x.parquet", path.stat().st_size, path.read_bytes)
        found = parquet.scan(file, "x", None, None, Limits()).labels
        assert len(found) == count
        assert len({id(label) for label in found}) == 2


def test_large_groups_of_rows_are_read_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", ["cat", "dog"] * 20)
    rows = []
    batches = pq.ParquetFile.iter_batches

    def noted(self: pq.ParquetFile, size: int, **more: Any) -> Any:
        rows.append(size)
        return batches(self, size, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    file = File("x.parquet", path.stat().st_size, path.read_bytes, path)
    whole = pq.ParquetFile(path).metadata
    largest = max(whole.row_group(number).total_byte_size for number in range(whole.num_row_groups))
    for limit in (2 * largest, 1):
        monkeypatch.setattr(parquet, "BATCH_BYTES", limit)
        assert len(list(parquet.images(file, "x", "image", Limits()))) == 40
    assert rows == [2, 1]


def test_one_image_for_many_rows_is_no_data_set(tmp_path: Path) -> None:
    """A file of 3 kB held 60 GB of images, whose reading took no memory, but hours."""
    rows = 40
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [bytes(2**20)])
    path = tmp_path / "x.parquet"
    table = pa.table({"image": shared, "label": ["a", "b"] * (rows // 2)})
    pq.write_table(table, path, store_schema=False, dictionary_pagesize_limit=2**26, compression="zstd")
    file = File("x.parquet", path.stat().st_size, path.read_bytes)
    assert parquet.scan(file, "x", None, None, Limits()).image == "image"
    assert len(list(parquet.images(file, "x", "image", Limits()))) == rows
    with pytest.raises(DataError, match=r"x unpacks to \d+ bytes, more than images do; write it again"):
        list(parquet.images(file, "x", "image", Limits(ratio_from_bytes=20 * 2**20)))


def test_a_label_of_thousands_of_characters_is_no_class(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", ["cat", "d" * 1001])
    file = File("x.parquet", path.stat().st_size, path.read_bytes)
    with pytest.raises(DataError, match="x: column 'label' holds a label of 1001 characters, over 1000"):
        parquet.scan(file, "x", None, None, Limits())


def test_more_rows_than_images_need_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", ["cat", "dog"] * 100)
    file = File("x.parquet", path.stat().st_size, path.read_bytes)
    with pytest.raises(DataError, match=r"x has 200 rows in \d+ bytes, more than different images would need"):
        parquet.scan(file, "x", None, None, Limits(listing_from_bytes=1, listing_ratio=1))


READING_PROGRAM = """
import sys
from pathlib import Path
from tasks.errors import DataError
from tasks.vision.data import parquet
from tasks.vision.data.limits import Limits
from tasks.vision.data.store_file import File
path = Path(sys.argv[1])
parquet.HERE_BYTES = 0
try:
    file = File("x.parquet", path.stat().st_size, path.read_bytes)
    list(parquet.images(file, "x", "image", Limits(ratio_from_bytes=2**40)))
    print("read")
except DataError as error:
    print(error)
"""


def test_a_page_of_any_size_is_refused_for_its_memory(tmp_path: Path) -> None:
    """Whatever the file says of itself: Arrow takes what a page unpacks to.

    In a process of its own: one that trained before keeps what it freed, and Arrow may take that again.
    """
    path = tmp_path / "x.parquet"
    table = pa.table({"image": [bytes(2**26)] * 12, "label": ["a", "b"] * 6})
    pq.write_table(table, path, use_dictionary=False, data_page_size=2**30, compression="zstd")
    said = subprocess.check_output([sys.executable, "-c", READING_PROGRAM, str(path)], text=True)
    assert said.startswith("x takes over 256 MiB of memory to read; write it again with smaller pages")


def test_a_large_file_may_have_all_its_photos_in_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow looks at the size of a page every 1,024 rows only, which may be photos of megabytes."""
    path = tmp_path / "x.parquet"
    photos = [os.urandom(2**24) for _ in range(24)]
    table = pa.table({"image": photos, "label": ["a", "b"] * 12})
    pq.write_table(table, path, use_dictionary=False, data_page_size=2**30, compression="zstd")
    file = File("x.parquet", path.stat().st_size, path.read_bytes, path)
    monkeypatch.setattr(parquet, "HERE_BYTES", 0)
    assert list(parquet.images(file, "x", "image", Limits())) == photos
